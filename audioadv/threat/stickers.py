"""Changes in one place only, by any amount.

spec                            bound                              the set
sticker:8x8+10+12               Sticker.parse("8x8+10+12")         8 rows and 8 columns from row 10, column 12
sticker:2x4+0+0,2x4+20+0        two rectangles
sticker:1600+0                  1,600 samples from the start of the sound
patch:8x8                       Patch((8, 8))                      one picture of 8 by 8, the same for all inputs, laid upon them
patch:8x8,20                    Patch((8, 8), 20)                  and turned by up to 20 degrees

A sticker is a mask on plain changes, and joins others: `sticker:8x8+10+12_and_linf:0.3`. A patch has its own pixels for
parameters and lies where its region's placement says: in the middle, until `region.redrawn(generators)` draws another, as `attacks.rp2`
does at each step (Brown et al. 2017, "Adversarial patch"; Eykholt et al. 2018, "Robust physical-world attacks on deep learning visual
classification"). Excess is in full scale.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.errors import MalformedSpec, UnusableBatch
from audioadv.options import is_number, is_whole
from audioadv.threat.algebra import Combines
from audioadv.threat.bounds import Box, as_box, ball, check_inputs, parse_number, plain
from audioadv.threat.decimals import integer
from audioadv.threat.norms import LinfNorm
from audioadv.threat.region import Norm, Region, pull_back
from audioadv.threat.warps import rotate

Rectangle = tuple[tuple[int, ...], tuple[int, ...]]
"""Sizes and first places, along the last axes."""


def is_rectangle(given: Any) -> bool:
    """Whether it is sizes and first places, in whole numbers.

    >>> is_rectangle(((8, 8), (10, 12))), is_rectangle(((8.5, 8), (10, 12))), is_rectangle((0, 8))
    (True, False, False)
    """
    pair = isinstance(given, tuple | list) and len(given) == 2
    return pair and all(isinstance(part, tuple | list) and all(map(is_whole, part)) for part in given)


@final
@dataclass(frozen=True)
class StickerNorm(Norm):
    """The largest change, all of it within rectangles; infinite beyond them."""

    rectangles: tuple[Rectangle, ...]
    placed: ClassVar[bool] = True

    def mask(self, like: Tensor) -> Tensor:
        """True where changes are allowed. Shapes: like [*] -> bool, the last axes."""
        axes = len(self.rectangles[0][0])
        mask = torch.zeros(like.shape[-axes:], dtype=torch.bool, device=like.device)
        for sizes, firsts in self.rectangles:
            mask[tuple(slice(first, first + size) for size, first in zip(sizes, firsts, strict=True))] = True
        return mask

    def gauge(self, delta: Tensor) -> Tensor:
        outside = (delta * ~self.mask(delta)).flatten(1).any(1)
        return torch.where(outside, math.inf, self.extent(delta))

    def extent(self, change: Tensor) -> Tensor:
        """The largest change, wherever it is."""
        return LinfNorm().gauge(change)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return LinfNorm().project(delta, radius, low, high) * self.mask(delta)

    def steepest(self, slope: Tensor) -> Tensor:
        return slope.sign() * self.mask(slope)

    def steady(self, slope: Tensor) -> Tensor:
        return LinfNorm().steady(slope * self.mask(slope))

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return LinfNorm().extreme(slope, radius, low, high) * self.mask(slope)

    def box(self, like: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """The set as limits: none to speak of within, zero beyond."""
        below, above = LinfNorm().box(like, radius)
        return below * self.mask(like), above * self.mask(like)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return LinfNorm().sample(clean, generator) * self.mask(clean)

    def rows(self, index: Tensor) -> Self:
        return self


@final
@dataclass(frozen=True)
class Sticker(Combines):
    """Any change (in the box; by full scale at most where there is none) within rectangles along the last axes.

    Raises MalformedSpec for rectangles that are none; around inputs of fewer axes, UnusableBatch.
    """

    rectangles: tuple[Rectangle, ...]

    def __post_init__(self) -> None:
        given: Any = self.rectangles
        if not isinstance(given, tuple | list) or not all(map(is_rectangle, given)):
            raise MalformedSpec(f"rectangles {given!r}: give pairs of sizes and first places, or a spec: Sticker.parse('8x8+10+12')")
        numbers = [number for sizes, firsts in self.rectangles for number in (*(size - 1 for size in sizes), *firsts)]
        axes = {len(part) for rectangle in self.rectangles for part in rectangle}
        if len(axes) != 1 or min(axes) == 0 or min(numbers) < 0:
            raise MalformedSpec(f"{self}: a rectangle is sizes and first places, for example sticker:8x8+10+12 or sticker:1600+0")

    @staticmethod
    def parse(text: str) -> "Sticker":
        """The sticker of `8x8+10+12` or `2x4+0+0,2x4+20+0`. Raises ValueError or MalformedSpec."""
        rectangles = []
        for part in text.split(","):
            sizes, *firsts = part.split("+")
            rectangles.append((tuple(map(integer, sizes.split("x"))), tuple(map(integer, firsts))))
        return Sticker(tuple(rectangles))

    @staticmethod
    def where(mask: Tensor) -> "Sticker":
        """The sticker of any mask: a rectangle for each run of a row, taller where rows repeat. Shapes: bool [time] or [height, width]."""
        rows = mask.bool().reshape(-1, mask.shape[-1])
        tall: list[tuple[int, int, int, int]] = []  # first row, rows, first column, columns
        for row, line in enumerate(rows):
            edges = F.pad(line.int(), (1, 1)).diff().nonzero()[:, 0].tolist()
            for first, end in zip(edges[::2], edges[1::2], strict=True):
                above = next((t for t in tall if t[2:] == (first, end - first) and t[0] + t[1] == row), None)
                if above is not None:
                    tall[tall.index(above)] = (above[0], above[1] + 1, *above[2:])
                else:
                    tall.append((row, 1, first, end - first))
        if mask.ndim == 1:
            return Sticker(tuple(((size,), (first,)) for _, _, first, size in tall))
        return Sticker(tuple(((height, width), (top, left)) for top, height, left, width in tall))

    def __str__(self) -> str:
        parts = ("+".join(["x".join(map(str, sizes)), *map(str, firsts)]) for sizes, firsts in self.rectangles)
        return f"sticker:{','.join(parts)}"

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        check_inputs(clean)
        if len(self.rectangles[0][0]) > clean.ndim - 1:
            raise UnusableBatch(f"{self}: more axes than inputs of shape {tuple(clean.shape)} have. For sound write sticker:1600+0")
        low, high = (0.0, 1.0) if box is None else as_box(box)
        radius = clean.new_full(clean.shape[:1], high - low)
        return ball(clean, radius, StickerNorm(self.rectangles), lengths, box, grid)

    def senseless(self, clean: Tensor) -> str | None:
        if bool(StickerNorm(self.rectangles).mask(clean).any()):
            return None
        return f"The sticker {self} lies beyond the input: give it another place."


@final
@dataclass(frozen=True, eq=False)
class Laid:
    """A patch laid upon each input. The parameters are its pixels, less the middle of the box; all rows stand for their mean.

    Shapes: parameters [batch, channels, height, width] (or [batch, time] for sound); place [batch, 3]: radians, and how far
    right and down of the middle, in shares of the room that there is; lengths [batch] the clips' own, in samples, None for images.
    """

    size: tuple[int, ...]
    middle: float
    turn: float
    place: Tensor
    lengths: Tensor | None = None

    shared: ClassVar[bool] = True
    """Whether the parameters have to be the same for all inputs: the work of one attack on all of them at once."""

    @property
    def boxed(self) -> bool:
        return False

    def start(self, clean: Tensor) -> Tensor:
        return clean.new_zeros((*clean.shape[: clean.ndim - len(self.size)], *self.size))

    def change(self, clean: Tensor, parameters: Tensor) -> Tensor:
        patch = parameters.mean(0, keepdim=True).expand(len(clean), *parameters.shape[1:]) + self.middle
        content, cover = (
            self.lay(patch, clean),
            self.lay(torch.ones_like(patch[:, :1]) if clean.ndim > 2 else torch.ones_like(patch), clean),
        )
        return content - cover * clean

    def lay(self, patch: Tensor, clean: Tensor) -> Tensor:
        """The patch in its place on nothing. Shapes: [batch, *, *size] -> the inputs' last axes."""
        sizes = clean.shape[clean.ndim - len(self.size) :]
        room = [whole - min(own, whole) for own, whole in zip(self.size, sizes, strict=True)]
        if len(self.size) == 1:
            # Sound: the first sample of the patch, to the nearest. 0 is the middle of the clip.
            free = room[0] if self.lengths is None else (self.lengths - self.size[0]).clamp_min(0)
            first = spot(self.place[:, 1], torch.as_tensor(free, device=clean.device)).long()
            offset = torch.arange(sizes[0], device=clean.device) - first[:, None]
            inside = (offset >= 0) & (offset < self.size[0])
            index = offset.clamp(0, patch.shape[-1] - 1)
            shaped = (len(clean), *[1] * (patch.ndim - 2), sizes[0])
            return patch.gather(-1, index.view(shaped).expand(*patch.shape[:-1], -1)) * inside.view(shaped)
        top, left = room[0] // 2, room[1] // 2
        canvas = F.pad(patch, (left, room[1] - left, top, room[0] - top))
        down = [spot(own, own.new_tensor(free)) - first for own, free, first in zip(self.place.T[1:], room[::-1], (left, top), strict=True)]
        return rotate(canvas, torch.stack([self.place[:, 0], *down], 1))

    def pull(self, clean: Tensor, parameters: Tensor, slope: Tensor) -> Tensor:
        return pull_back(self, clean, parameters, slope)

    def read(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        return torch.full_like(self.start(clean), math.inf)

    def rows(self, index: Tensor, width: int | None) -> "Laid":
        return replace(self, place=self.place[index], lengths=None if self.lengths is None else self.lengths[index])

    def redrawn(self, generators: list[torch.Generator]) -> "Laid":
        """The same patch, each in another place, drawn from that example's own generator."""
        drawn = torch.stack([2 * torch.rand(3, generator=generator) - 1 for generator in generators]).to(self.place)
        return replace(self, place=drawn * drawn.new_tensor([math.radians(self.turn), 1.0, 1.0]))


def spot(place: Tensor, room: Tensor) -> Tensor:
    """One of the whole numbers 0 .. room, any as likely for a place that is uniform in -1 .. 1; 0 is the middle. Shapes: as given.

    >>> spot(torch.tensor([-1.0, -0.3, 0.0, 0.4, 1.0]), torch.tensor(3.0)).tolist()
    [0.0, 1.0, 1.0, 2.0, 3.0]
    """
    return torch.minimum(((place + 1) / 2 * (room + 1)).ceil() - 1, room.to(place)).clamp_min(0)


@final
@dataclass(frozen=True)
class Patch(Combines):
    """One patch of this size, the same for all inputs, laid upon each, turned by up to `turn` degrees.

    `attacks.rp2` makes such a one. Other attacks let inputs go as they fall, each with the patch of that moment, so that of several
    inputs each may have another: one at a time, that is a patch for each.

    Raises MalformedSpec for a size or turn that is none; around inputs that it does not fit, UnusableBatch.
    """

    size: tuple[int, ...]
    turn: float = 0.0

    def __post_init__(self) -> None:
        size: Any = self.size
        sized = isinstance(size, tuple) and len(size) in (1, 2) and all(is_whole(own) and own >= 1 for own in size)
        if not sized or not is_number(self.turn) or self.turn < 0:
            raise MalformedSpec(
                f"size {size!r}, turn {self.turn!r}: a patch is rows x columns, or samples, "
                "for example patch:8x8, patch:8x8,20 or patch:1600"
            )

    @staticmethod
    def parse(text: str) -> "Patch":
        """The patch of `8x8` or `8x8,20`. Raises ValueError or MalformedSpec."""
        size, _, turn = text.partition(",")
        return Patch(tuple(map(integer, size.split("x"))), parse_number(turn or "0"))

    def __str__(self) -> str:
        return f"patch:{'x'.join(map(str, self.size))}" + (f",{plain(self.turn)}" if self.turn else "")

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        check_inputs(clean)
        if (len(self.size) == 2) != (clean.ndim == 4):
            raise UnusableBatch(f"{self}: does not fit inputs of shape {tuple(clean.shape)}: rows x columns for images, samples for sound")
        if any(own > whole for own, whole in zip(self.size, clean.shape[-len(self.size) :], strict=True)):
            raise UnusableBatch(f"{self}: larger than inputs of shape {tuple(clean.shape)}. Make it as small as they are, or smaller")
        low, high = (-1.0, 1.0) if box is None else as_box(box)
        radius = clean.new_full(clean.shape[:1], (high - low) / 2)
        region = ball(clean, radius, LinfNorm(), lengths, box, grid)
        ends = lengths if len(self.size) == 1 else None
        return region.by(Laid(self.size, (high + low) / 2, self.turn, clean.new_zeros(len(clean), 3), ends))

"""Moving the input instead of adding to it: images turned and shifted, sound shifted and sped up.

spec             bound              the set                                                        parameters
spatial:30,3     Spatial(30, 3)     turned by at most 30 degrees, shifted by at most 3 pixels      angle, right, down
timing:160,0.05  Timing(160, 0.05)  late by at most 160 samples, at most 0.05 faster or slower     delay, speed

Parameters are shares of the two radii, so that a region's radius is 1; excess is in radii. `min` searches both at once, in
the proportion of 30 degrees to 3 pixels, of 160 samples to 0.05. What comes in from outside the input is 0. Inputs do not
tell which parameters they were made with: results carry them (`AttackResult.parameters`).
Source: Engstrom et al. 2019, "Exploring the landscape of spatial robustness".
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.errors import MalformedSpec, UnusableBatch
from audioadv.threat.algebra import Combines
from audioadv.threat.bounds import MIN, Box, Radius, ball, check_inputs, check_radius, parse_number, plain
from audioadv.threat.norms import LinfNorm
from audioadv.threat.region import Region, pull_back


def rotate(images: Tensor, moves: Tensor) -> Tensor:
    """Turn images about their centre, counterclockwise, then shift them right and down; bilinear, 0 from outside.

    Shapes: images [batch, channels, height, width]; moves [batch, 3]: radians, pixels, pixels -> as images.
    """
    height, width = images.shape[-2:]
    down = torch.arange(height, device=images.device) - (height - 1) / 2
    right = torch.arange(width, device=images.device) - (width - 1) / 2
    angle, shift_right, shift_down = (moves[:, i, None, None] for i in range(3))
    x, y = right - shift_right, down[:, None] - shift_down  # where each output pixel was before the shift, and then the turn
    source_x, source_y = angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y
    grid = torch.stack([source_x * (2 / width), source_y * (2 / height)], -1)
    return F.grid_sample(images, grid.to(images), padding_mode="zeros", align_corners=False)


def retime(waveforms: Tensor, moves: Tensor) -> Tensor:
    """Delay sound and speed it up, by linear interpolation between samples; 0 from outside.

    Shapes: waveforms [batch, *, time]; moves [batch, 2]: samples, share of the speed -> as waveforms.
    """
    time = waveforms.shape[-1]
    moves = moves.double()  # in single precision, places late in a long clip have few digits left behind the point
    source = (torch.arange(time, device=waveforms.device) - moves[:, :1]) * (1 + moves[:, 1:])
    before = source.detach().floor()
    near = (source - before).to(waveforms)
    padded = F.pad(waveforms.flatten(1, -2) if waveforms.ndim > 2 else waveforms[:, None], (1, 1))

    def at(place: Tensor) -> Tensor:
        index = (place + 1).clamp(0, time + 1).long()[:, None].expand(-1, padded.shape[1], -1)
        return padded.gather(2, index)

    return ((1 - near)[:, None] * at(before) + near[:, None] * at(before + 1)).view_as(waveforms)


@final
@dataclass(frozen=True, eq=False)
class Warp:
    """A map that moves its input. Shapes: reach [batch, 3] (radians, pixels, pixels) or [batch, 2] (samples, share)."""

    reach: Tensor

    @property
    def boxed(self) -> bool:
        return False

    def start(self, clean: Tensor) -> Tensor:
        return torch.zeros_like(self.reach)

    def change(self, clean: Tensor, parameters: Tensor) -> Tensor:
        moves = parameters * self.reach
        return (rotate(clean, moves) if moves.shape[1] == 3 else retime(clean, moves)) - clean

    def pull(self, clean: Tensor, parameters: Tensor, slope: Tensor) -> Tensor:
        return pull_back(self, clean, parameters, slope)

    def read(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        return torch.full_like(self.reach, math.inf)

    def rows(self, index: Tensor, width: int | None) -> Self:
        return type(self)(self.reach[index])


@dataclass(frozen=True)
class Moved(Combines):
    """What the two warps share: two radii, or `min` for both."""

    kind: ClassVar[str]
    usual: ClassVar[tuple[float, float]]

    @property
    def radii(self) -> tuple[Radius, Radius]:
        raise NotImplementedError

    def __post_init__(self) -> None:
        for radius in self.radii:
            check_radius(self.kind, radius, f"{self.kind}:{','.join(map(plain, self.usual))}")
        if (self.radii[0] == MIN) != (self.radii[1] == MIN):
            raise MalformedSpec(f"{self}: either both radii are numbers or both are min ({self.kind}:min)")

    def __str__(self) -> str:
        return f"{self.kind}:min" if self.minimal else f"{self.kind}:{','.join(map(plain, self.radii))}"

    @property
    def minimal(self) -> bool:
        return MIN in self.radii

    def reach(self) -> list[float]:
        """The two radii, in their units."""
        return [usual if isinstance(own, str) else own for own, usual in zip(self.radii, self.usual, strict=True)]

    def moves(self) -> list[float]:
        """How far each parameter reaches."""
        raise NotImplementedError

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        check_inputs(clean)
        if (complaint := self.senseless(clean.new_empty(clean.shape[1:]))) is not None:
            raise UnusableBatch(f"{self}: inputs of shape {tuple(clean.shape)}. {complaint}")
        radius = clean.new_full(clean.shape[:1], math.inf if self.minimal else 1.0)
        region = ball(clean, radius, LinfNorm(), lengths, box, grid)
        return region.by(Warp(clean.new_tensor(self.moves()).expand(len(clean), -1)))

    def senseless(self, clean: Tensor) -> str | None:
        raise NotImplementedError

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        gauges = region.gauge(adversarial).tolist()
        return [f"{self.kind}:" + ",".join(f"{gauge * reach:.6g}" for reach in self.reach()) for gauge in gauges]


@final
@dataclass(frozen=True)
class Spatial(Moved):
    """Images turned by at most `angle` degrees and shifted by at most `shift` pixels each way."""

    angle: Radius = MIN
    shift: Radius = MIN
    kind = "spatial"
    usual = (30.0, 3.0)

    @property
    def radii(self) -> tuple[Radius, Radius]:
        return self.angle, self.shift

    def moves(self) -> list[float]:
        angle, shift = self.reach()
        return [math.radians(angle), shift, shift]

    def senseless(self, clean: Tensor) -> str | None:
        return None if clean.ndim == 3 else "Only images [channels, height, width] can be turned; for sound take timing."


@final
@dataclass(frozen=True)
class Timing(Moved):
    """Sound that comes at most `delay` samples late or early, at most the share `speed` faster or slower. Raises MalformedSpec."""

    delay: Radius = MIN
    speed: Radius = MIN
    kind = "timing"
    usual = (160.0, 0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.speed, str) and self.speed >= 1:
            raise MalformedSpec(f"{self}: the speed may change by a share below 1, for example timing:160,0.05")

    @property
    def radii(self) -> tuple[Radius, Radius]:
        return self.delay, self.speed

    def moves(self) -> list[float]:
        return self.reach()

    def senseless(self, clean: Tensor) -> str | None:
        if clean.ndim >= 3:
            return "Only sound [time] or [channels, time] has a timing; for images take spatial."
        late = not isinstance(self.delay, str) and self.delay >= clean.shape[-1]
        return f"Nothing of {clean.shape[-1]} samples is left by that delay. Give less." if late else None


def parse_moved(kind: type[Spatial] | type[Timing], text: str) -> Spatial | Timing:
    """The bound of this text: two numbers, or min. Raises ValueError or MalformedSpec."""
    if text == MIN:
        return kind()
    first, comma, second = text.partition(",")
    if not comma:
        raise ValueError(text)
    return kind(parse_number(first), parse_number(second))

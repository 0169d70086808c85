"""Several changes, one after another: each part of the parameters has a slot of its own.

    parameters [batch, slots, *]     clean --first map--> . --second map--> . --> inputs

A slot has the inputs' shape, so that attacks cut it as they cut inputs; a part with fewer parameters (an angle and a shift)
keeps them in its slot's first corner, and a part that is itself made of parts, a mix in a union, has as many slots.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor

from audioadv.threat.combined import Several, pick, share
from audioadv.threat.norms import L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import dot, each
from audioadv.threat.region import ADDED, Map, Norm, portion, pull_back

HALVINGS, SWEEPS = 24, 20
LARGEST = 1e6
Box = tuple[Tensor | None, Tensor | None]
DENSE = (LinfNorm, L2Norm, L1Norm)  # which of two takes what all entries have in common


def wide(shape: torch.Size | None, axes: int) -> int:
    """How many slots a part of this shape takes, where the inputs have so many axes.

    >>> wide(None, 1), wide(torch.Size([3]), 3), wide(torch.Size([2, 1, 28, 28]), 3)
    (1, 1, 2)
    """
    return shape[0] if shape is not None and len(shape) > axes else 1


@final
@dataclass(frozen=True, eq=False)
class Chain:
    """Maps, one after another. `norm` measures the slots; shapes has the parts' own, None where it is the inputs'."""

    maps: tuple[Map, ...]
    norm: "SlotNorm"

    @property
    def boxed(self) -> bool:
        return True

    @property
    def shared(self) -> bool:
        """Whether a part's parameters are all examples' together."""
        return any(getattr(own, "shared", False) for own in self.maps)

    def start(self, clean: Tensor) -> Tensor:
        return clean.new_zeros((len(clean), sum(wide(shape, clean.ndim - 1) for shape in self.norm.shapes), *clean.shape[1:]))

    def change(self, clean: Tensor, parameters: Tensor) -> Tensor:
        x = clean
        for own, part in zip(self.maps, self.norm.parts(parameters), strict=True):
            x = x + own.change(x, part)
        return x - clean

    def pull(self, clean: Tensor, parameters: Tensor, slope: Tensor) -> Tensor:
        if all(own is ADDED for own in self.maps):
            return slope[:, None].expand(parameters.shape)
        return pull_back(self, clean, parameters, slope)

    def read(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """The change split among the parts. Infinite where a part is no plain change: the inputs do not tell its parameters."""
        if not all(own is ADDED for own in self.maps):
            return torch.full_like(self.start(clean), torch.inf)
        return self.norm.split(adversarial - clean)

    def rows(self, index: Tensor, width: int | None) -> Self:
        return replace(self, maps=tuple(own.rows(index, width) for own in self.maps), norm=self.norm.rows(index))


@dataclass(frozen=True, eq=False)
class SlotNorm(Several):
    """Norms of slots. Shapes: radii [parts, batch]; `shapes` of the parts' own parameters, None for the inputs' own."""

    shapes: tuple[torch.Size | None, ...]

    def slot(self, slots: Tensor, part: int) -> Tensor:
        """Where a part's parameters are: a view, to be read or written. Shapes: [batch, slots, *] -> [batch, *]."""
        axes, shape = slots.ndim - 2, self.shapes[part]
        first = sum(wide(before, axes) for before in self.shapes[:part])
        if shape is None:
            return slots[:, first]
        if len(shape) > axes:
            return slots[:, first : first + shape[0]]
        index: list[Any] = [slice(None), first, *[0] * (axes - len(shape)), *[slice(size) for size in shape]]
        return slots[tuple(index)]

    def parts(self, slots: Tensor) -> list[Tensor]:
        """What each part's slot holds. Shapes: [batch, slots, *] -> [batch, *] each."""
        return [self.slot(slots, part) for part in range(len(self.shapes))]

    def whole(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """Slots that hold these parts."""
        slots = torch.zeros_like(like)
        for part, own in enumerate(parts):
            self.slot(slots, part).copy_(own)
        return slots

    def shares(self, delta: Tensor) -> Tensor:
        measured = zip(self.norms, self.parts(delta), self.radii, strict=True)
        return torch.stack([share(norm.gauge(own), radius) for norm, own, radius in measured])

    def sets(self, slots: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Iterator[tuple[Norm, Tensor, Tensor, Box]]:
        """Each part's norm, what its slot holds, its radius and its box: that of the inputs, which is nothing to other parameters."""
        axes = slots.ndim - 2
        boxes = [(low, high) if shape is None or len(shape) > axes else (None, None) for shape in self.shapes]
        return zip(self.norms, self.parts(slots), portion(radius, self.radii), boxes, strict=True)

    def nearest(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> list[Tensor]:
        """Each part within its own set."""
        return [norm.project(own, limit, *box) for norm, own, limit, box in self.sets(delta, radius, low, high)]

    def furthest(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> list[Tensor]:
        """Each part as far up the slope as its own set reaches."""
        return [norm.extreme(own, limit, *box) for norm, own, limit, box in self.sets(slope, radius, low, high)]

    def longest(self, slope: Tensor, steady: bool = False) -> list[Tensor]:
        """Each part's steepest (or steady) step, as long as its radius."""
        parts = zip(self.norms, self.parts(slope), self.radii, strict=True)
        return [(norm.steady(own) if steady else norm.steepest(own)) * each(radius, own) for norm, own, radius in parts]

    def drawn(self, like: Tensor, parts: Iterable[int], generator: torch.Generator) -> Tensor:
        """Samples of some parts, as one example's slots; the others are empty. Shapes: like [slots, *] -> [slots, *]."""
        slots = torch.zeros_like(like)[None]
        for part in parts:
            own = self.slot(slots, part)
            own.copy_(self.norms[part].sample(own[0], generator)[None] * self.radii[part])
        return slots[0]

    def split(self, change: Tensor) -> Tensor:
        """The parts that a plain change is the sum of, in their slots: of a mix. Shapes: [batch, *] -> [batch, slots, *]."""
        raise NotImplementedError


@final
@dataclass(frozen=True, eq=False)
class MixNorm(SlotNorm):
    """Every part within its share: the affine mix of Tramer and Boneh 2019, "Adversarial training and robustness for multiple
    perturbations", with the tuple of perturbations for parameters."""

    def gauge(self, delta: Tensor) -> Tensor:
        return self.shares(delta).amax(0)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """The nearest parts one by one, then, where their sum leaves the box, shrunk entry by entry until it does not.

        What sticks out is taken from the parts that stick out on that side, in proportion, so that no entry grows.
        """
        parts = self.nearest(delta, radius, low, high)
        plain = [i for i, shape in enumerate(self.shapes) if shape is None]
        if low is not None and high is not None and len(plain) > 1:
            total = torch.stack([parts[i] for i in plain]).sum(0)
            over = total - torch.minimum(torch.maximum(total, low), high)
            side = over.sign()
            there = torch.stack([(side * parts[i]).clamp_min(0) for i in plain]).sum(0).clamp_min(1e-30)
            for i in plain:
                parts[i] = parts[i] - over * (side * parts[i]).clamp_min(0) / there
        return self.whole(parts, delta)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """Every part's own; where their sum leaves the box, the better of these brought inside, and what is found from afar."""
        own = self.project(self.whole(self.furthest(slope, radius, low, high), slope), radius, low, high)
        return pick([own, super().extreme(slope, radius, low, high)], lambda point: dot(slope, point))

    def steepest(self, slope: Tensor) -> Tensor:
        return self.whole(self.longest(slope), slope)

    def steady(self, slope: Tensor) -> Tensor:
        return self.whole(self.longest(slope, steady=True), slope)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return self.drawn(clean, range(len(self.norms)), generator)

    def split(self, change: Tensor) -> Tensor:
        """The change as a sum of parts with the largest share as small as could be found (by halving, then by turns).

        At one size of all sets, the parts are projected in turn onto what the others leave over; what is left after all
        turns goes to the last. The share may be some per cent above the least; of parts that are all Linf, all L2 or all L1, and of two
        of these, it is the least.
        """
        if len({type(norm) for norm in self.norms}) == 1 and isinstance(self.norms[0], DENSE):
            whole = self.radii.sum(0)
            return torch.stack([each(torch.where(whole > 0, own / whole, 1.0), change) * change for own in self.radii], 1)
        if len({type(norm) for norm in self.norms} & {*DENSE}) == len(self.norms) == 2:
            return self.split_in_two(change)
        parts = [torch.zeros_like(change) for _ in self.norms]
        best, least = torch.stack([*parts[1:], change], 1), share(self.norms[-1].gauge(change), self.radii[-1])
        low, high = torch.zeros_like(least), torch.minimum(least, torch.full_like(least, LARGEST))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            for _ in range(SWEEPS):
                for i, norm in enumerate(self.norms):
                    rest = change - sum(part for j, part in enumerate(parts) if j != i)
                    parts[i] = norm.project(rest, middle * self.radii[i], None, None)
            whole = torch.stack([*parts[:-1], change - sum(parts[:-1])], 1)
            reach = self.shares(whole).amax(0)
            best, least = torch.where(each(reach < least, best), whole, best), torch.minimum(reach, least)
            fits = reach <= middle * (1 + 1e-3)
            low, high = torch.where(fits, low, middle), torch.where(fits, torch.minimum(middle, least), high)
        return best

    def split_in_two(self, change: Tensor) -> Tensor:
        """The same for two norms: the denser has each entry up to a level, the sparser what stands above it, and halving finds the level.

        Of all that the denser may leave over within its set, that is the least in the sparser's norm: |y|_1 or |y|_2 over
        |change - y|_inf <= t, entry by entry; |y|_1 over |change - y|_2, whose stationary points are sign(change) * max(|change| - t, 0).
        """
        dense, sparse = sorted(range(2), key=lambda i: DENSE.index(type(self.norms[i])))

        def at(level: Tensor) -> Tensor:
            below = torch.minimum(torch.maximum(change, -each(level, change)), each(level, change))
            return torch.stack([below if i == dense else change - below for i in range(2)], 1)

        low, high = torch.zeros_like(self.radii[0]), change.flatten(1).abs().amax(1)
        for _ in range(2 * HALVINGS):
            middle = (low + high) / 2
            shares = self.shares(at(middle))
            over = shares[dense] > shares[sparse]
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        ends = at(low), at(high)  # where a set holds next to nothing, the halvings end before the shares are alike: the better end
        below, above = (self.shares(end).amax(0) for end in ends)
        return torch.where(each(below <= above, ends[0]), *ends)


@final
@dataclass(frozen=True, eq=False)
class OneNorm(SlotNorm):
    """One part within its set, and nothing of the others: either, where not all parts are plain changes."""

    def gauge(self, delta: Tensor) -> Tensor:
        shares = self.shares(delta)
        return torch.where((shares > 0).sum(0) > 1, torch.inf, shares.amax(0))

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """The part with the largest share, within its set."""
        return self.only(self.nearest(delta, radius, low, high), self.shares(delta), delta)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """Of the parts' own the furthest up the slope."""
        return self.highest(self.furthest(slope, radius, low, high), slope)

    def steepest(self, slope: Tensor) -> Tensor:
        return self.highest(self.longest(slope), slope)

    def steady(self, slope: Tensor) -> Tensor:
        return self.highest(self.longest(slope, steady=True), slope)

    def highest(self, steps: list[Tensor], slope: Tensor) -> Tensor:
        """Slots of which only the one whose step rises most is filled."""
        return self.only(steps, torch.stack([dot(own, step) for own, step in zip(self.parts(slope), steps, strict=True)]), slope)

    def only(self, parts: list[Tensor], scores: Tensor, like: Tensor) -> Tensor:
        """Slots of which only the one with the highest score [parts, batch] is filled."""
        best = scores.argmax(0)
        return self.whole([torch.where(each(best == i, own), own, 0.0) for i, own in enumerate(parts)], like)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        chosen = int(torch.randint(len(self.norms), (), generator=generator))
        return self.drawn(clean, [chosen], generator)

    def members(self, whole: Map) -> list[tuple[Norm, Tensor, Map]]:
        """Each part's norm, radius and map."""
        assert isinstance(whole, Chain)
        return list(zip(self.norms, self.radii, whole.maps, strict=True))

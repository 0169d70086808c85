"""The algebra of bounds: both, either, and the affine mix.

spec                           bound                              the set of allowed changes
masked:0_and_linf:0.02         Masked(0) & Linf(0.02)             in both sets
linf:0.3_or_l1:10              Linf(0.3) | L1(10)                 in either
linf:0.3@0.5_mix_l1:10@0.5     0.5 * Linf(0.3) + 0.5 * L1(10)     half of a change of one, then half of a change of the other

`_and_` binds first, then `@` and `_mix_`, then `_or_`. What operators nest otherwise is spread out into that order:
`(A | B) & C` becomes `(A & C) | (B & C)`. Half of a set is the set of half the radius. Excess is in radii: 0.1 is a tenth of
the radius too far.

A combination works with any bound, of which it knows `around` (a region: its norm, radius and map) and nothing else.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor

from audioadv.errors import MalformedSpec
from audioadv.threat.combined import BothNorm, EitherNorm
from audioadv.threat.region import Region
from audioadv.threat.slots import Chain, MixNorm, OneNorm, SlotNorm

if TYPE_CHECKING:
    from audioadv.threat.bounds import Bound, Box


class Combines:
    """What makes bounds combine by operators, with others or their specs, and what most of them have in common.

    The operators raise MalformedSpec for what is no bound, and for a term of a sum that has no weight.
    """

    def at_rate(self: "Bound", sample_rate: int) -> "Bound":
        """The bound for clips of this rate, in hertz: the same one, where it knows nothing of time."""
        return self

    @property
    def minimal(self) -> bool:
        return False

    def senseless(self, clean: Tensor) -> str | None:
        return None

    def excess(self, region: Region, adversarial: Tensor) -> Tensor:
        return region.gauge(adversarial) - region.radius

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        return [str(self)] * len(adversarial)

    def __and__(self: "Bound", other: "Bound | str") -> "Bound":
        return both([self, other])

    def __rand__(self: "Bound", other: "Bound | str") -> "Bound":
        return both([other, self])

    def __or__(self: "Bound", other: "Bound | str") -> "Bound":
        return either([self, other])

    def __ror__(self: "Bound", other: "Bound | str") -> "Bound":
        return either([other, self])

    def __add__(self: "Bound", other: "Bound | str") -> "Bound":
        return mix([*shares(self), *shares(other)])

    def __radd__(self: "Bound", other: "Bound | str") -> "Bound":
        return mix([*shares(other), *shares(self)])

    def __mul__(self: "Bound", weight: float) -> "Mix":
        return Mix((weight,), (self,))

    def __rmul__(self: "Bound", weight: float) -> "Mix":
        return Mix((weight,), (self,))


class OfParts(Combines):
    """What the combinations have in common."""

    parts: tuple["Bound", ...]

    def at_rate(self, sample_rate: int) -> "Bound":
        return cast("Bound", replace(cast(Any, self), parts=tuple(part.at_rate(sample_rate) for part in self.parts)))


def both(bounds: Iterable["Bound | str"]) -> "Bound":
    """The bound of what lies in all of these. Raises MalformedSpec for a mix among them."""
    ways = []
    for way in product(*[options(bound) for bound in bounds]):
        parts = [part for bound in way for part in (bound.parts if isinstance(bound, Both) else (bound,))]
        if mixes := [part for part in parts if isinstance(part, Mix)]:
            raise MalformedSpec(f"{mixes[0]}: a mix cannot be cut by another bound. Cut its parts: 0.5 * (A & C) + 0.5 * (B & C)")
        ways.append(Both(tuple(dict.fromkeys(parts))))
    return either([way.parts[0] if len(way.parts) == 1 else way for way in ways])


def either(bounds: Iterable["Bound | str"]) -> "Bound":
    """The bound of what lies in one of these."""
    parts = tuple(dict.fromkeys(option for bound in bounds for option in options(bound)))
    return parts[0] if len(parts) == 1 else Either(parts)


def mix(shares: Sequence[tuple[float, "Bound"]]) -> "Bound":
    """The bound of the sums of a change within each share's part of its set."""
    ways: list[Bound] = []
    for way in product(*[options(bound) for _, bound in shares]):
        weights: list[float] = []
        parts: list[Bound] = []
        for (weight, _), bound in zip(shares, way, strict=True):
            inner = zip(bound.weights, bound.parts, strict=True) if isinstance(bound, Mix) else [(1.0, bound)]
            for own, part in inner:
                weights.append(weight * own)
                parts.append(part)
        ways.append(Mix(tuple(weights), tuple(parts)))
    return either(ways)


def options(bound: "Bound | str") -> tuple["Bound", ...]:
    """What may be chosen from. Raises MalformedSpec for what is no bound."""
    from audioadv.threat.bounds import as_bound  # which builds on this file

    if isinstance(bound, str | type) or not hasattr(bound, "around"):  # one from elsewhere need not be all that a Bound is
        return options(as_bound(bound))
    return bound.parts if isinstance(bound, Either) else (bound,)


def shares(bound: "Bound | str") -> list[tuple[float, "Bound"]]:
    """What a term brings to a sum: weights and bounds. Raises MalformedSpec for one without a weight."""
    ways = options(bound)
    if unweighted := [way for way in ways if not isinstance(way, Mix)]:
        raise MalformedSpec(f"{unweighted[0]} in a sum: it has no weight. Give each bound one, together 1: 0.5 * Linf(0.3) + 0.5 * L1(10)")
    first = ways[0]
    return [*zip(first.weights, first.parts, strict=True)] if len(ways) == 1 and isinstance(first, Mix) else [(1.0, either(ways))]


def check_parts(word: str, parts: Sequence["Bound"], scalable: int) -> None:
    """At most `scalable` parts may ask for the smallest."""
    if sum(part.minimal for part in parts) > scalable:
        cure = "let one part be min and give the others a radius" if scalable else "give every part a radius"
        raise MalformedSpec(f"{word.join(map(str, parts))}: which of them is to be the smallest is not said: {cure}")


def around_each(
    parts: Sequence["Bound"], clean: Tensor, lengths: Tensor | None, box: "Box", grid: float | None
) -> tuple[list[Region], Tensor]:
    """Each part's region, and their radii [parts, batch]."""
    regions = [part.around(clean, lengths, box, grid) for part in parts]
    return regions, torch.stack([region.radius for region in regions])


def first_complaint(complaints: Iterable[str | None]) -> str | None:
    """The first of them, if any."""
    return next((complaint for complaint in complaints if complaint is not None), None)


@final
@dataclass(frozen=True)
class Both(OfParts):
    """Changes that lie in every part. One part may be `min`: the smallest of its kind within the others."""

    parts: tuple["Bound", ...]

    def __post_init__(self) -> None:
        check_parts("_and_", self.parts, scalable=1)

    def __str__(self) -> str:
        return "_and_".join(map(str, self.parts))

    @property
    def free(self) -> int | None:
        """The number of the part that is `min`."""
        return next((i for i, part in enumerate(self.parts) if part.minimal), None)

    @property
    def minimal(self) -> bool:
        return self.free is not None

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: "Box" = (0.0, 1.0), grid: float | None = None) -> Region:
        regions, radii = around_each(self.parts, clean, lengths, box, grid)
        for part, region in zip(self.parts, regions, strict=True):
            if not region.added:
                raise MalformedSpec(f"{self}: {part} moves the input itself, and cannot be cut by another bound. Use | or a mix")
        first, norms = regions[0], tuple(region.norm for region in regions)
        rounding = torch.stack([region.rounding() for region in regions])
        radius = torch.ones_like(first.radius) if self.free is None else radii[self.free]
        return replace(first, radius=radius, norm=BothNorm(norms, radii, rounding, self.free))

    def senseless(self, clean: Tensor) -> str | None:
        return first_complaint(part.senseless(clean) for part in self.parts)

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        if self.free is None:
            return [str(self)] * len(adversarial)
        assert isinstance(region.norm, BothNorm)
        own = self.parts[self.free].found(replace(region, norm=region.norm.norms[self.free]), adversarial)
        return ["_and_".join(spec if i == self.free else str(part) for i, part in enumerate(self.parts)) for spec in own]


@final
@dataclass(frozen=True)
class Either(OfParts):
    """Changes that lie in one part at least.

    `around` gives one region for all parts, in which an attack's step takes the part that promises most (for plain changes,
    Maini et al. 2020's multi steepest descent to first order); its `members()` are the parts' own regions, for an attack on
    each, or on all at once.
    """

    parts: tuple["Bound", ...]

    def __post_init__(self) -> None:
        check_parts("_or_", self.parts, scalable=0)

    def __str__(self) -> str:
        return "_or_".join(map(str, self.parts))

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: "Box" = (0.0, 1.0), grid: float | None = None) -> Region:
        regions, radii = around_each(self.parts, clean, lengths, box, grid)
        if all(region.added for region in regions):
            norm = EitherNorm(tuple(region.norm for region in regions), radii)
            return replace(regions[0], radius=torch.ones_like(radii[0]), norm=norm)
        return in_slots(regions, radii, OneNorm)

    def senseless(self, clean: Tensor) -> str | None:
        complaints = [part.senseless(clean) for part in self.parts]
        return complaints[0] if all(complaints) else None


@final
@dataclass(frozen=True)
class Mix(OfParts):
    """Sums of a change in each part's share of its set: weight times the radius. The weights sum to 1.

    The parameters are the tuple of changes, one a part, made one after another in the order of the parts.
    """

    weights: tuple[float, ...]
    parts: tuple["Bound", ...]

    def __post_init__(self) -> None:
        check_parts("_mix_", self.parts, scalable=0)
        if not all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in self.weights):
            raise MalformedSpec(f"{self}: weights must be numbers from 0 to 1, for example linf:0.3@0.5_mix_l1:10@0.5")

    def __str__(self) -> str:
        return "_mix_".join(f"{part}@{weight}" for weight, part in zip(self.weights, self.parts, strict=True))

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: "Box" = (0.0, 1.0), grid: float | None = None) -> Region:
        if abs(sum(self.weights) - 1) > 1e-6:
            raise MalformedSpec(f"{self}: the weights sum to {sum(self.weights):.4g}, not to 1. Write for example 0.3 * A + 0.7 * B")
        regions, radii = around_each(self.parts, clean, lengths, box, grid)
        return in_slots(regions, radii * radii.new_tensor(self.weights)[:, None], MixNorm)

    def senseless(self, clean: Tensor) -> str | None:
        return first_complaint(part.senseless(clean) for part in self.parts)


def in_slots(regions: list[Region], radii: Tensor, kind: type[SlotNorm]) -> Region:
    """The region of several regions' parameters, each in a slot, with these radii [parts, batch]."""
    shapes = tuple(None if region.added else region.start().shape[1:] for region in regions)
    norm = kind(tuple(region.norm for region in regions), radii, shapes).at(torch.ones_like(radii[0]))
    whole = Chain(tuple(region.map for region in regions), norm)
    return replace(regions[0], radius=torch.ones_like(radii[0]), norm=norm, map=whole)

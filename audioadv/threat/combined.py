"""The geometry of several norms on the same change: within all of them, or within one.

Each part has a radius of its own for each example, and a change's share of it is gauge / radius. The combination's own gauge
is the largest share (both) or the smallest (either), so that its radius is 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, final

import torch
from torch import Tensor

from audioadv.threat.norms import L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import HALVINGS, INWARD, dot, each, project_l1_l2, sum_of
from audioadv.threat.region import Map, Norm, portion

ROUNDS = 40
STILL = 1e-6
LOOSE = 0.5  # of its radius: up to which a part has no say


def share(gauge: Tensor, radius: Tensor) -> Tensor:
    """gauge / radius; of a radius of zero, nothing takes no share and anything else an infinite one."""
    return torch.where(gauge == 0, 0.0, gauge / radius)


def pick(candidates: list[Tensor], score: Callable[[Tensor], Tensor]) -> Tensor:
    """For each example, the candidate with the highest score. Shapes: [batch, *] each; score -> [batch]."""
    best, height = candidates[0], score(candidates[0])
    for candidate in candidates[1:]:
        other = score(candidate)
        best, height = torch.where(each(other > height, best), candidate, best), torch.maximum(height, other)
    return best


def filled(slope: Tensor, total: Tensor, most: Tensor) -> Tensor:
    """The argmax of <slope, step> over |step|_1 <= total, |step|_inf <= most: the steepest entries as far as each may go, the next in
    part. Shapes: slope [batch, *], total and most [batch] -> as slope.

    >>> filled(torch.tensor([[3.0, -5.0, 1.0, 4.0]]), torch.tensor([2.5]), torch.tensor([1.0])).tolist()
    [[0.5, -1.0, 0.0, 1.0]]
    """
    flat = slope.flatten(1)
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    lengths = (total[:, None] - most[:, None] * torch.arange(flat.shape[1], device=flat.device)).clamp_min(0).minimum(most[:, None])
    return (torch.zeros_like(flat).scatter(1, order, lengths) * flat.sign()).view_as(slope)


def furthest_l1_l2(slope: Tensor, first: Tensor, second: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
    """argmax <slope, y> over |y|_1 <= first, |y|_2 <= second, low <= y <= high.

    With a multiplier t for the L1 ball, y is the L2 ball's own for sign(slope) * max(|slope| - t, 0), whose L1 length falls as t grows: t
    is found by halving, and where the length jumps over `first` there, what lies between both sides is as far up.
    """
    first = first * INWARD

    def at(threshold: Tensor) -> Tensor:
        return L2Norm().extreme(slope.sign() * (slope.abs() - each(threshold, slope)).clamp_min(0), second, low, high)

    lower, upper = torch.zeros_like(first), slope.flatten(1).abs().amax(1)
    for _ in range(HALVINGS):
        middle = (lower + upper) / 2
        fits = sum_of(at(middle).abs()) <= first
        lower, upper = torch.where(fits, lower, middle), torch.where(fits, middle, upper)
    long, short = at(lower), at(upper)
    most, least = sum_of(long.abs()), sum_of(short.abs())
    return short + each(((first - least) / (most - least).clamp_min(1e-30)).clamp(0, 1), slope) * (long - short)


@dataclass(frozen=True, eq=False)
class Several(Norm):
    """Norms and their radii. Shapes: radii [parts, batch]."""

    norms: tuple[Norm, ...]
    radii: Tensor

    @property
    def sparse(self) -> bool:
        """Whether a part's steps move few entries."""
        return any(norm.sparse for norm in self.norms)

    @property
    def gradual(self) -> bool:
        """Whether a part's small sets are best entered from larger ones."""
        return any(norm.gradual for norm in self.norms)

    @property
    def placed(self) -> bool:
        """Whether a part allows more in one place than in another."""
        return any(norm.placed for norm in self.norms)

    def widened(self) -> Self:
        """The norms with each part's radius that of the widest example."""
        radii = self.radii.amax(1, keepdim=True).expand_as(self.radii) if self.radii.numel() else self.radii
        return replace(self, norms=tuple(norm.widened() for norm in self.norms), radii=radii)

    def shares(self, delta: Tensor) -> Tensor:
        """Each part's share. Shapes: -> [parts, batch]."""
        return torch.stack([share(norm.gauge(delta), radius) for norm, radius in zip(self.norms, self.radii, strict=True)])

    def rows(self, index: Tensor) -> Self:
        return replace(self, norms=tuple(norm.rows(index) for norm in self.norms), radii=self.radii[:, index])

    def at(self, radius: Tensor) -> Self:
        """The norms for regions of another radius."""
        return replace(self, norms=tuple(norm.at(portion(radius, own)) for norm, own in zip(self.norms, self.radii, strict=True)))


@final
@dataclass(frozen=True, eq=False)
class BothNorm(Several):
    """Within every part at once.

    `free` is the index of the part that is `min`: the radius is then that part's, and the other parts are limits that stay. Outside of
    one of those (by more than `rounding` [parts, batch]) no radius is large enough.
    """

    rounding: Tensor
    free: int | None = None

    def rows(self, index: Tensor) -> Self:
        return replace(super().rows(index), rounding=self.rounding[:, index])

    def at(self, radius: Tensor) -> Self:
        if self.free is None:
            return super().at(radius)
        return replace(self, norms=tuple(norm.at(radius) if i == self.free else norm for i, norm in enumerate(self.norms)))

    @property
    def rounds(self) -> bool:
        """Whether a part does."""
        return any(norm.rounds for norm in self.norms)

    def limits(self, radius: Tensor) -> Tensor:
        """Each part's radius within a region of this radius. Shapes: [batch] -> [parts, batch]."""
        if self.free is None:
            return portion(radius, self.radii)
        freed = torch.arange(len(self.norms), device=radius.device) == self.free
        return torch.where(freed[:, None], radius, self.radii)

    def extent(self, change: Tensor) -> Tensor:
        """The size of a change that need not lie within the parts that stay as they are."""
        if self.free is not None:
            return self.norms[self.free].extent(change)
        sizes = [share(norm.extent(change), radius) for norm, radius in zip(self.norms, self.radii, strict=True)]
        return torch.stack(sizes).amax(0)

    def gauge(self, delta: Tensor) -> Tensor:
        if self.free is None:
            return self.shares(delta).amax(0)
        gauges = torch.stack([norm.gauge(delta) for norm in self.norms])
        out = gauges > self.radii + self.rounding
        out[self.free] = False
        return torch.where(out.any(0), torch.inf, gauges[self.free])

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """The nearest point of all parts: exact where at most one is no box, or L1 and L2 meet; the end is inside for sure.

        A part that is a box of its own (Linf, a sticker) cuts the inputs' box. Of others together, Dykstra's projections in
        turn: each round projects onto one part after another, and gives back what the part took off in the round before. That
        converges to the nearest point of convex sets; an example ends when a round moves neither it nor what was taken off by more
        than `STILL` of it, or after `ROUNDS`. Sources: Boyle and Dykstra 1986; when to stop, Birgin and Raydan 2005.
        """
        limits = self.limits(radius)
        low, high, rest = self.boxed(delta, limits, low, high)
        radii = {type(norm): limit for norm, limit in rest}
        if len(rest) == 2 and {*radii} == {L1Norm, L2Norm}:
            return self.settle(project_l1_l2(delta, radii[L1Norm], radii[L2Norm], low, high), limits, low, high)
        y, taken = delta, [torch.zeros_like(delta) for _ in rest]
        done = torch.zeros_like(radius, dtype=torch.bool)
        for _ in range(ROUNDS if len(rest) > 1 else 1):
            before, moved = y, torch.zeros_like(radius)
            for i, (norm, limit) in enumerate(rest):
                given = y + taken[i]
                y = norm.project(given, limit, low, high)
                moved, taken[i] = torch.maximum(moved, (given - y - taken[i]).flatten(1).abs().amax(1)), given - y
            y = torch.where(each(done, y), before, y)
            moved = torch.maximum(moved, (y - before).flatten(1).abs().amax(1))
            done = done | (moved <= STILL * delta.flatten(1).abs().amax(1))
            if bool(done.all()):
                break
        return self.settle(y, limits, low, high)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """argmax <slope, y> in all parts and the box: the corner of what the boxes among them share, or the one other part's own within
        it; of L1 and L2 together exact too. Of others that are no boxes, the best of each part's own, brought inside, and from afar."""
        limits = self.limits(radius)
        below, above, rest = self.boxed(slope, limits, low, high)
        radii = {type(norm): limit for norm, limit in rest}
        if len(rest) == 2 and {*radii} == {L1Norm, L2Norm}:
            y = furthest_l1_l2(slope, radii[L1Norm], radii[L2Norm], below, above)
        elif len(rest) > 1:
            inside = [self.settle(norm.extreme(slope, limit, below, above), limits, low, high) for norm, limit in rest]
            return pick([super().extreme(slope, radius, low, high), *inside], lambda point: dot(slope, point))
        elif rest:
            y = rest[0][0].extreme(slope, rest[0][1], below, above)
        else:
            assert below is not None
            assert above is not None
            y = torch.where(slope > 0, above, torch.where(slope < 0, below, 0.0))
        return self.settle(y, limits, low, high)

    def boxed(
        self, like: Tensor, limits: Tensor, low: Tensor | None, high: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, list[tuple[Norm, Tensor]]]:
        """The box cut by the parts that are boxes themselves, and the other parts with their radii."""
        rest = []
        for norm, limit in zip(self.norms, limits, strict=True):
            if (box := norm.box(like, limit)) is None:
                rest.append((norm, limit))
                continue
            below, above = box
            low = below if low is None else torch.maximum(low, below)
            high = above if high is None else torch.minimum(high, above)
        return low, high, rest

    def settle(self, y: Tensor, limits: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """A point inside for sure, and this one where it is inside.

        Projecting onto parts that only ever shrink entries keeps the parts before; what still sticks out is scaled down;
        and what cannot be scaled into its sets is left out: the clean input is in all of them. A point that is inside, and
        beyond half of no more than one radius, is not projected once more: not every projection leaves it where it is (the one under the
        masking threshold does not). Where two parts have a say, that helps the search.
        """
        within, given = replace(self, radii=limits), y
        low, high, rest = self.boxed(y, limits, low, high)
        if low is not None and high is not None:
            y = y.clamp(low, high)
        shares = within.shares(y)
        there = (shares.amax(0) <= 1) & ((shares > LOOSE).sum(0) <= 1) & (y == given).flatten(1).all(1)
        if bool(there.all()):
            return given
        for norm, limit in rest:
            y = norm.project(y, limit, low, high)
        if low is not None and high is not None:
            y = y.clamp(low, high)
        out = within.shares(y).amax(0)
        y = torch.where(each(out > 1, y), y * each(INWARD / out.clamp_min(1), y), y)
        inside = within.shares(y).amax(0) <= 1
        return torch.where(each(there, y), given, torch.where(each(inside, y), y, 0.0))

    def quantise(self, change: Tensor, grid: float) -> Tensor:
        """On the grid, by the first of these that stays in all parts: as the part wants that has a rounding of its own; the same, but no
        larger than the change's largest entry; towards zero.

        The part that is `free` forbids nothing here: what is found is measured by it.
        """
        written = super().quantise(change, grid)
        owns = [norm for norm in self.norms if norm.rounds]
        if not owns:
            return written
        nearest = owns[0].quantise(change, grid)
        most = each(written.flatten(1).abs().amax(1), change)
        for better in (torch.minimum(torch.maximum(nearest, -most), most), nearest):
            written = torch.where(each(self.held(better, owns[0]), change), better, written)
        return written

    def held(self, change: Tensor, but: Norm) -> Tensor:
        """Whether all parts hold a change, but one of them and the one whose radius is free. Shapes: -> bool [batch]."""
        asked = [
            (norm, own) for i, (norm, own) in enumerate(zip(self.norms, self.radii, strict=True)) if norm is not but and i != self.free
        ]
        within = change.new_ones(len(change), dtype=torch.bool)
        return torch.stack([within, *(norm.gauge(change) <= own for norm, own in asked)]).all(0)

    def steepest(self, slope: Tensor) -> Tensor:
        """Of each part's steepest step, brought inside the others, the one that rises most; of L1 and Linf, the steepest there is.

        There neither part's own will do: Linf's, projected, moves all entries a little, and is where descent would rest.
        """
        if self.free is not None:
            return self.norms[self.free].steepest(slope)
        radii = {type(norm): radius for norm, radius in zip(self.norms, self.radii, strict=True)}
        if len(self.norms) == 2 and {*radii} == {L1Norm, LinfNorm}:
            return filled(slope, radii[L1Norm], radii[LinfNorm])
        return pick(self.settled([norm.steepest(slope) for norm in self.norms]), lambda step: dot(slope, step))

    def steady(self, slope: Tensor) -> Tensor:
        """Each part's steady step, brought inside the others: their mean, in which each counts by how far it climbs."""
        if self.free is not None:
            return self.norms[self.free].steady(slope)
        return self.blended(slope, [norm.steady(slope) for norm in self.norms])

    def agreed(self, mean: Tensor) -> Tensor:
        if self.free is not None:
            return self.norms[self.free].agreed(mean)
        return self.blended(mean, [norm.agreed(mean) for norm in self.norms])

    def blended(self, slope: Tensor, own: list[Tensor]) -> Tensor:
        """The mean of the parts' own steps, once inside the others, in which each counts by how far it climbs."""
        steps = torch.stack(self.settled(own))
        climbs = torch.stack([dot(slope, step) for step in steps]).clamp_min(0)  # a projection may have turned one downhill
        share = climbs / climbs.sum(0).clamp_min(1e-30)
        return (steps * share.reshape(*share.shape, *[1] * (slope.ndim - 1))).sum(0)

    def settled(self, steps: list[Tensor]) -> list[Tensor]:
        """Steps of gauge 1 in their own parts, as long as the other parts allow."""
        longest = [step * each(radius, step) for step, radius in zip(steps, self.radii, strict=True)]
        others = [self.without(i) for i in range(len(longest))]
        return [other.settle(step, other.radii, None, None) for other, step in zip(others, longest, strict=True)]

    def without(self, part: int) -> "BothNorm":
        """The other parts."""
        rounding = torch.cat([self.rounding[:part], self.rounding[part + 1 :]])
        radii = torch.cat([self.radii[:part], self.radii[part + 1 :]])
        return replace(self, norms=self.norms[:part] + self.norms[part + 1 :], radii=radii, rounding=rounding, free=None)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        if self.free is not None:
            return self.norms[self.free].sample(clean, generator)
        drawn = self.norms[0].sample(clean, generator)[None] * self.radii[0]
        return self.settle(drawn, self.radii, None, None)[0]


@final
@dataclass(frozen=True, eq=False)
class EitherNorm(Several):
    """Within one part at least."""

    def gauge(self, delta: Tensor) -> Tensor:
        return self.shares(delta).amin(0)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """The nearest of the nearest points of the parts."""
        points = [norm.project(delta, portion(radius, own), low, high) for norm, own in zip(self.norms, self.radii, strict=True)]
        return pick(points, lambda point: -dot(point - delta, point - delta))

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """Of the parts' own the furthest up the slope."""
        points = [norm.extreme(slope, portion(radius, own), low, high) for norm, own in zip(self.norms, self.radii, strict=True)]
        return pick(points, lambda point: dot(slope, point))

    def steepest(self, slope: Tensor) -> Tensor:
        """The steepest step of the part whose step rises most: Maini et al. 2020 (multi steepest descent), to first order."""
        steps = [norm.steepest(slope) * each(own, slope) for norm, own in zip(self.norms, self.radii, strict=True)]
        return pick(steps, lambda step: dot(slope, step))

    def steady(self, slope: Tensor) -> Tensor:
        steps = [norm.steady(slope) * each(own, slope) for norm, own in zip(self.norms, self.radii, strict=True)]
        return pick(steps, lambda step: dot(slope, step))

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A sample of one part, any as likely as another."""
        part = int(torch.randint(len(self.norms), (), generator=generator))
        return self.norms[part].sample(clean, generator) * self.radii[part]

    def members(self, whole: Map) -> list[tuple[Norm, Tensor, Map]]:
        """Each part's norm, radius and map."""
        return [(norm, own, whole) for norm, own in zip(self.norms, self.radii, strict=True)]

"""A bound made concrete: the allowed changes around each clean input of a batch.

    bound  --around(clean)-->  region:  clean, box, grid, a norm, a map, and one radius for each example

    parameters  --map-->  change  --box, grid-->  inputs            slope there  --pull-->  slope here

A region has parameters of its own. Mostly they are the change itself (`ADDED`); for a rotation they are an angle and a shift,
and a map says what change they stand for. A norm measures parameters (their *gauge*: the smallest radius that holds them)
and knows their geometry. A region adds what is the same for all: the clean inputs, the padding, the box, the 16-bit grid and
the radii. An attack moves parameters, and asks the objective about inputs.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Protocol, Self, final

import torch
from torch import Tensor

from audioadv.errors import OptionError, UnusableBatch
from audioadv.threat.projections import each


class Norm(ABC):
    """The geometry of a set that grows with its radius. Deltas are [batch, *], radii and gauges [batch].

    The six abstract methods make a norm. The others say what may be known of one besides; each has a default that is right, if slow or
    weak. A norm of one's own derives from this class; one that does not is taken at those six, and refused if it has more to say.
    """

    @abstractmethod
    def gauge(self, delta: Tensor) -> Tensor:
        """The smallest radius whose set holds each delta."""

    @abstractmethod
    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """The nearest point, in the Euclidean sense, of the set within the box low <= delta <= high."""

    @abstractmethod
    def steepest(self, slope: Tensor) -> Tensor:
        """argmax of <slope, step> over steps of gauge 1; zero where the slope is zero."""

    @abstractmethod
    def steady(self, slope: Tensor) -> Tensor:
        """A step of gauge at most 1 that climbs almost as fast and is continuous in the slope.

        Where `steepest` jumps (a sign, at zero), rounding in the slope would make trajectories part that should agree.
        """

    @abstractmethod
    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A random delta of gauge at most 1 for one example. Shapes: clean [*] -> [*]."""

    @abstractmethod
    def rows(self, index: Tensor) -> Self:
        """The norm for some of the examples."""

    @property
    def sparse(self) -> bool:
        """Whether its steps move few entries."""
        return False

    @property
    def gradual(self) -> bool:
        """Whether a small set is best entered from a larger one."""
        return False

    @property
    def placed(self) -> bool:
        """Whether what is allowed depends on the place."""
        return False

    @property
    def rounds(self) -> bool:
        """Whether it has a way of its own to `quantise`."""
        return False

    def at(self, radius: Tensor) -> "Norm":
        """The norm for regions of this radius [batch]: another one only where its steps depend on it."""
        return self

    def widened(self) -> "Norm":
        """The norm with every example's radii, where it has any of its own, as wide as the widest's."""
        return self

    def extent(self, change: Tensor) -> Tensor:
        """The radius of so large a change: its gauge, where that says enough of its size. Shapes: [batch, *] -> [batch]."""
        return self.gauge(change)

    def agreed(self, mean: Tensor) -> Tensor:
        """A step of gauge at most 1 along a mean of steady steps, in which what they disagreed on is small: it stays so."""
        return self.steady(mean)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """argmax <slope, y> in the set and the box. Unless a norm knows better, near it: a point far up the slope, projected, of which
        float32 loses a few per cent. Shapes: as `project`."""
        size = slope.flatten(1).abs().amax(1).clamp_min(1e-30)
        return self.project(slope * each(FAR * (1 + radius) / size, slope), radius, low, high)

    def box(self, like: Tensor, radius: Tensor) -> tuple[Tensor, Tensor] | None:
        """The set as limits on each entry, where it is a box. Shapes: like [batch, *] -> as like."""
        return None

    def members(self, whole: "Map") -> list[tuple["Norm", Tensor, "Map"]]:
        """The norms, radii and maps of what a set with this map is the union of; none where it is no union."""
        return []

    def quantise(self, change: Tensor, grid: float) -> Tensor:
        """A change on the grid, towards zero: where a gauge can grow by that, a norm has a way of its own."""
        return (change / grid).trunc_().mul_(grid)


class Measure(Protocol):
    """What makes a norm: the six methods of `Norm` that have no default."""

    def gauge(self, delta: Tensor) -> Tensor: ...
    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor: ...
    def steepest(self, slope: Tensor) -> Tensor: ...
    def steady(self, slope: Tensor) -> Tensor: ...
    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor: ...
    def rows(self, index: Tensor) -> Self: ...


@final
@dataclass(frozen=True, eq=False)
class Foreign(Norm):
    """A norm from elsewhere, which knows nothing of `Norm`. Raises OptionError for one that has more to say than what makes a norm."""

    own: Measure

    def __post_init__(self) -> None:
        if more := [name for name in vars(Norm) if not name.startswith("_") and name not in vars(Measure) and hasattr(self.own, name)]:
            kind = type(self.own).__name__
            raise OptionError(f"norm {kind}: its {' and '.join(more)} would not be heard. Derive it: class {kind}(Norm), of threat.region")

    def gauge(self, delta: Tensor) -> Tensor:
        return self.own.gauge(delta)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return self.own.project(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        return self.own.steepest(slope)

    def steady(self, slope: Tensor) -> Tensor:
        return self.own.steady(slope)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return self.own.sample(clean, generator)

    def rows(self, index: Tensor) -> "Foreign":
        return Foreign(self.own.rows(index))


def portion(radius: Tensor, own: Tensor) -> Tensor:
    """radius * own: a part's radius within a region. A part that allows nothing allows nothing in a region without end."""
    return torch.where(own == 0, own, radius * own)


class Map(Protocol):
    """What change a region's parameters stand for. Parameters are [batch, *], the same shape for each example."""

    @property
    def boxed(self) -> bool:
        """Whether the norm's projection heeds the inputs' box: parameters of another kind are no inputs."""
        ...

    def start(self, clean: Tensor) -> Tensor:
        """The parameters to start from: zero."""
        ...

    def change(self, clean: Tensor, parameters: Tensor) -> Tensor:
        """What is added to the clean inputs, differentiable in the parameters. Shapes: as clean."""
        ...

    def pull(self, clean: Tensor, parameters: Tensor, slope: Tensor) -> Tensor:
        """The slope with respect to the parameters of a loss that has this slope with respect to the change."""
        ...

    def read(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        """The parameters that these inputs were made with; infinite where inputs do not tell."""
        ...

    def rows(self, index: Tensor, width: int | None) -> Self:
        """The map for some of the examples, cut to `width` along the last axis."""
        ...


@final
@dataclass(frozen=True)
class Added:
    """The parameters are the change. There is one such map (`ADDED`), for copies of a region too."""

    def __reduce__(self) -> str:
        return "ADDED"

    @property
    def boxed(self) -> bool:
        return True

    def start(self, clean: Tensor) -> Tensor:
        return torch.zeros_like(clean)

    def change(self, clean: Tensor, parameters: Tensor) -> Tensor:
        return parameters

    def pull(self, clean: Tensor, parameters: Tensor, slope: Tensor) -> Tensor:
        return slope

    def read(self, clean: Tensor, adversarial: Tensor) -> Tensor:
        return adversarial - clean

    def rows(self, index: Tensor, width: int | None) -> Self:
        return self


def pull_back(whole: Map, clean: Tensor, parameters: Tensor, slope: Tensor) -> Tensor:
    """The slope with respect to a map's parameters, by autograd through its change. Shapes: slope as clean -> as parameters."""
    with torch.enable_grad():
        parameters = parameters.detach().requires_grad_()
        (pulled,) = torch.autograd.grad(whole.change(clean, parameters), parameters, slope)
    return pulled


ADDED: Final = Added()
FAR = 1e4
ROUNDED = 1e-6  # of a box's ends: how far clean + delta may be rounded out of it
HAIR = 2e-6  # of full scale: what a projection may leave between an entry and its box


@final
@dataclass(frozen=True, eq=False)
class Region:
    """The allowed changes around a batch of clean inputs.

    Shapes: clean [batch, *]; radius [batch], in the norm's own unit; inside [batch, *] or None, false in the padding;
    low and high as clean (the box, as limits on the change) or None. `known` are the parameters of the inputs to be measured,
    where a map cannot read them back from the inputs. `grid` is the step of the inputs' quantisation, if any:
    what reaches the model is clean plus the next multiple towards zero, and its slope there counts as the delta's: the gauge of
    a norm does not grow by it (or the norm knows how it wants to be rounded), so that what is inside stays inside.
    """

    clean: Tensor
    radius: Tensor
    norm: Norm
    inside: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    grid: float | None = None
    map: Map = ADDED
    known: Tensor | None = None

    def __post_init__(self) -> None:
        norm: Norm | Measure = self.norm
        if not isinstance(norm, Norm):
            object.__setattr__(self, "norm", Foreign(norm))

    @property
    def added(self) -> bool:
        """Whether the parameters are the change itself."""
        return self.map is ADDED

    def start(self) -> Tensor:
        """The parameters to start from: zero, for each example."""
        return self.map.start(self.clean)

    def inputs(self, delta: Tensor, rounded: Tensor | None = None) -> Tensor:
        """The inputs that these parameters stand for: in the box, on the grid.

        With `rounded` bool [batch], only those examples are put on the grid. Shapes: [batch, *] -> as clean.
        """
        change = self.fitting(delta) if self.added else self.changed(delta)
        if self.grid is None:
            return self.clean + change
        written = self.norm.quantise(change, self.grid)
        return self.clean + (written if rounded is None else torch.where(each(rounded, change), written, change))

    def changed(self, parameters: Tensor) -> Tensor:
        """What a map adds to the clean inputs, within the box and zero in the padding. Shapes: [batch, *] -> as clean."""
        change = self.map.change(self.clean, parameters)
        if self.low is not None and self.high is not None:
            change = change.clamp(self.low, self.high)
        return change if self.inside is None else change * self.inside

    def pull(self, delta: Tensor, slope: Tensor, *, free: bool = False) -> Tensor:
        """The slope with respect to the parameters, from the slope with respect to the inputs that they stand for: zero in the padding.

        With `free`, and always where steps move few entries, only of those entries that the box leaves room to move.
        Shapes: delta [batch, *], slope as clean -> as delta.
        """
        if self.low is not None and (free or self.norm.sparse):
            slope = self.unblocked(delta if self.added else self.changed(delta), slope)
        if self.added:
            return self.unpadded(slope)
        return self.map.pull(self.clean, delta, slope if self.inside is None else slope * self.inside)

    def unblocked(self, change: Tensor, slope: Tensor) -> Tensor:
        """The slope without the entries that the box keeps from going down it: they would take up the step of those that can.

        A hair from the box is at it: rounding, which differs with the batch's shape, would else decide where a step goes.
        """
        assert self.low is not None
        assert self.high is not None
        blocked = ((slope > 0) & (change <= self.low + HAIR)) | ((slope < 0) & (change >= self.high - HAIR))
        return torch.where(blocked, 0.0, slope)

    @cached_property
    def limits(self) -> tuple[Tensor, Tensor] | None:
        """The allowed changes as limits on each entry, where they are a box; made once, since a step needs them again and again."""
        if not self.added or (box := self.norm.box(self.clean, self.radius)) is None:
            return None
        lower, upper = box
        if self.low is None or self.high is None:
            return lower.contiguous(), upper.contiguous()  # a clamp is slower where limits broadcast
        return lower.maximum(self.low), upper.minimum(self.high)

    def descend(self, delta: Tensor, slope: Tensor, size: Tensor) -> Tensor:
        """Parameters a step of `size` [batch] down the steepest way, projected. Where that saves time, they are written over `delta`,
        and what `slope` held is lost."""
        if self.limits is None:
            return self.project(torch.addcmul(delta, each(size, delta), self.steepest(slope), value=-1))
        least = 64 * torch.finfo(slope.dtype).tiny  # a clamp to this is a sign in one pass, and NaN stays NaN: torch's sign of it is 0
        step = self.unpadded(slope).clamp_(-least, least)
        return delta.addcmul_(each(size, delta), step, value=-1 / least).clamp_(*self.limits)

    def project(self, delta: Tensor) -> Tensor:
        """The nearest allowed parameters, of some that are zero in the padding. Raises UnusableBatch for those of another batch."""
        if self.added:
            self.fitting(delta)
        return self.norm.project(delta, self.radius, *self.box)

    @property
    def box(self) -> tuple[Tensor | None, Tensor | None]:
        """The limits that parameters keep to: none, where they are no changes of the inputs."""
        return (self.low, self.high) if self.map.boxed else (None, None)

    def steepest(self, slope: Tensor) -> Tensor:
        """The step of gauge 1 along which a loss with this slope rises fastest; zero in the padding."""
        return self.norm.steepest(self.unpadded(slope))

    def extreme(self, slope: Tensor) -> Tensor:
        """The allowed delta that a linear loss of this slope is greatest at: what a Frank-Wolfe step goes towards (`Norm.extreme`)."""
        return self.norm.extreme(self.unpadded(slope), self.radius, *self.box)

    def steady(self, slope: Tensor) -> Tensor:
        """A step of gauge at most 1 that climbs and is continuous in the slope; zero in the padding."""
        return self.norm.steady(self.unpadded(slope))

    def agreed(self, mean: Tensor) -> Tensor:
        """A step of gauge at most 1 along a mean of steady steps, the smaller in each part the less they agreed; zero in the padding."""
        return self.norm.agreed(self.unpadded(mean))

    def unpadded(self, slope: Tensor) -> Tensor:
        """A slope that is zero in the padding; what a map pulled back is so already. Raises UnusableBatch for another batch's."""
        if self.added:
            self.fitting(slope)
        return torch.where(self.inside, slope, 0.0) if self.added and self.inside is not None else slope

    def sample(self, generators: list[torch.Generator]) -> Tensor:
        """Random allowed parameters for each example, from that example's own generator; the padding has no part in it."""
        like = self.clean if self.added else self.start()
        drawn = torch.zeros_like(like)
        for i, generator in enumerate(generators):
            length = like.shape[-1] if self.inside is None else int(self.inside[i].sum(-1).max())
            own = self.norm.rows(torch.tensor([i], device=drawn.device))
            drawn[i, ..., :length] = own.sample(like[i, ..., :length], generator)
        return self.project(drawn * each(self.radius, drawn))

    def gauge(self, adversarial: Tensor) -> Tensor:
        """The smallest radius that holds each adversarial input. Shapes: [batch, *] -> [batch]."""
        return self.norm.gauge(self.map.read(self.clean, self.fitting(adversarial)) if self.known is None else self.known)

    def fitting(self, inputs: Tensor) -> Tensor:
        """What has the clean inputs' shape. Raises UnusableBatch for what belongs to another batch."""
        if inputs.shape != self.clean.shape:
            raise UnusableBatch(
                f"inputs or changes of shape {list(inputs.shape)} in a region made around inputs of shape {list(self.clean.shape)}: "
                "make one around these, with bound.around(clean, lengths)"
            )
        return inputs

    def entries(self) -> Tensor:
        """How many entries each example has, without the padding. Shapes: -> [batch], of the radius' type."""
        count = math.prod(self.clean.shape[1:])
        if self.inside is None:
            return torch.full_like(self.radius, count)
        return self.inside.expand_as(self.clean).flatten(1).sum(1).to(self.radius)

    def limitless(self) -> bool:
        """Whether any input may become any other, once the radius is large enough: no sticker, no move, no other part that stays."""
        if not self.added:
            return False
        if self.low is None or self.high is None:
            return bool(self.norm.gauge(self.unpadded(torch.ones_like(self.clean))).isfinite().all())
        return bool(self.norm.gauge(torch.maximum(self.high, -self.low)).isfinite().all())

    def extent(self, change: Tensor) -> Tensor:
        """The radius of so large a change of the inputs; 1 where they are changed by a map. Shapes: as clean -> [batch]."""
        return self.norm.extent(change) if self.added else torch.ones_like(self.radius)

    def holds(self, gauge: Tensor) -> Tensor:
        """Whether changes of these gauges are inside; off the grid, up to clean + delta's rounding. Shapes: [batch] -> bool [batch]."""
        return gauge <= self.limit

    @cached_property
    def limit(self) -> Tensor:
        """The largest gauge that `holds`: an infinite one never is, whatever the radius. Shapes: -> [batch]."""
        return (self.radius + self.rounding()).clamp_max(torch.finfo(self.radius.dtype).max)

    def in_box(self, inputs: Tensor) -> Tensor:
        """Which inputs lie in the box, up to what adding may round, a millionth of its ends. Shapes: as clean -> bool [batch]."""
        if self.low is None or self.high is None:
            return torch.ones_like(self.radius, dtype=torch.bool)
        ends = torch.maximum((self.clean + self.low).abs(), (self.clean + self.high).abs()).clamp_min(1)
        out = torch.maximum(inputs - self.clean - self.high, self.low - (inputs - self.clean))
        return (out <= ROUNDED * ends).flatten(1).all(1)

    def measured(self, adversarial: Tensor, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`gauge` and `holds` of some examples' inputs, or of all. Shapes: adversarial [some, *], rows [some] -> [some], bool [some]."""
        if rows is None:
            gauge = self.gauge(adversarial)
            return gauge, self.holds(gauge)
        if not self.added:
            gauge = self.rows(rows).gauge(adversarial)
            return gauge, gauge <= self.limit[rows]
        gauge = self.norm.rows(rows).gauge(adversarial - self.clean.index_select(0, rows))  # cheaper than a region of these rows
        return gauge, gauge <= self.limit.index_select(0, rows)

    def rounding(self) -> Tensor:
        """How much a gauge may grow when clean + delta is rounded to float32: nothing on the grid. Shapes: -> [batch]."""
        if self.grid is not None:
            return torch.zeros_like(self.radius)
        size = self.extent(self.clean)  # infinite where no part of a union reaches the clean input, which says nothing of rounding
        return 2.0**-23 * (torch.where(size.isinf(), 0.0, size) + self.radius)

    def knowing(self, parameters: Tensor | None) -> "Region":
        """The same region, told which parameters the inputs to be measured were made with. None, or the change itself, is nothing new."""
        return self if self.added or parameters is None else replace(self, known=parameters)

    def at(self, radius: Tensor) -> "Region":
        """The same region with other radii. Shapes: radius [batch]. Raises UnusableBatch for another shape, and for no floating point."""
        count = len(self.clean)
        if not isinstance(radius, Tensor) or not radius.is_floating_point() or radius.shape != (count,):
            raise UnusableBatch(f"radii {radius!r:.60} for {count} examples: give one for each, a tensor of floating point, [{count}]")
        return replace(self, radius=radius, norm=self.norm.at(radius))

    def widened(self) -> "Region":
        """The same region with every example's radii as wide as the widest's: of one change for all, what each would allow at most."""
        radius = self.radius.amax().expand_as(self.radius) if len(self.radius) else self.radius
        return replace(self, norm=self.norm.widened()).at(radius)

    def by(self, way: Map) -> "Region":
        """The same region, with another map from its parameters to inputs."""
        return replace(self, map=way)

    def redrawn(self, generators: list[torch.Generator]) -> "Region":
        """The same region where its map is random, as a patch's place is, drawn anew from each example's own generator."""
        redrawn = getattr(self.map, "redrawn", None)
        return self if redrawn is None else self.by(redrawn(generators))

    def members(self) -> tuple["Region", ...]:
        """The regions that this one is the union of: itself, where it is no union."""
        members = self.norm.members(self.map)
        made = (replace(self, norm=norm, radius=portion(self.radius, own), map=part) for norm, own, part in members)
        return tuple(made) if members else (self,)

    def rows(self, index: Tensor, width: int | None = None) -> "Region":
        """The region of some of the examples, cut to `width` along the last axis where they are all shorter."""

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[index] if width is None else x[index][..., :width]

        clean, norm = cut(self.clean), self.norm.rows(index)
        assert clean is not None
        limits = cut(self.inside), cut(self.low), cut(self.high)
        return Region(clean, self.radius[index], norm, *limits, self.grid, self.map.rows(index, width), cut(self.known))

    def crowded(self, herd: int) -> tuple["Region", Tensor]:
        """A region for each of a herd of changes to every example, and whose each is. Shapes: -> [batch * herd], int64 [batch * herd]."""
        spot = torch.arange(len(self.clean), device=self.clean.device).repeat_interleave(herd)
        return self.rows(spot), spot

"""A bound made concrete: the allowed changes around each clean input of a batch.

    bound  --around(clean)-->  region:  clean, box, grid, a norm, and one radius for each example

A norm measures a change (its *gauge*: the smallest radius that holds it) and knows its own geometry. A region adds what is
the same for all: the clean inputs, the padding, the box, the 16-bit grid and the radii.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self, final

import torch
from torch import Tensor

from audioadv.threat.projections import each


class Norm(Protocol):
    """The geometry of a set that grows with its radius. Deltas are [batch, *], radii and gauges [batch]."""

    def gauge(self, delta: Tensor) -> Tensor:
        """The smallest radius whose set holds each delta."""
        ...

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """The nearest point, in the Euclidean sense, of the set within the box low <= delta <= high."""
        ...

    def steepest(self, slope: Tensor) -> Tensor:
        """argmax of <slope, step> over steps of gauge 1; zero where the slope is zero."""
        ...

    def steady(self, slope: Tensor) -> Tensor:
        """A step of gauge at most 1 that climbs almost as fast and is continuous in the slope.

        Where `steepest` jumps (a sign, at zero), rounding in the slope would make trajectories part that should agree.
        """
        ...

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A random delta of gauge at most 1 for one example. Shapes: clean [*] -> [*]."""
        ...

    def rows(self, index: Tensor) -> Self:
        """The norm for some of the examples."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Region:
    """The allowed changes around a batch of clean inputs.

    Shapes: clean [batch, *]; radius [batch], in the norm's own unit; inside [batch, *] or None, false in the padding;
    low and high as clean (the box, as limits on delta) or None. `grid` is the step of the inputs' quantisation, if any:
    what reaches the model is clean plus the next multiple towards zero, and its slope there counts as the delta's: no gauge
    grows by it, so that what is inside stays inside.
    """

    clean: Tensor
    radius: Tensor
    norm: Norm
    inside: Tensor | None = None
    low: Tensor | None = None
    high: Tensor | None = None
    grid: float | None = None

    def inputs(self, delta: Tensor, rounded: Tensor | None = None) -> Tensor:
        """The inputs that this delta stands for: on the grid.

        With `rounded` bool [batch], only those examples are put on the grid. Shapes: [batch, *] -> [batch, *].
        """
        if self.grid is None:
            return self.clean + delta
        truncated = (delta / self.grid).trunc() * self.grid
        return self.clean + (truncated if rounded is None else torch.where(each(rounded, delta), truncated, delta))

    def project(self, delta: Tensor) -> Tensor:
        """The nearest allowed delta; zero in the padding."""
        return self.norm.project(delta, self.radius, self.low, self.high)

    def steepest(self, slope: Tensor) -> Tensor:
        """The step of gauge 1 along which a loss with this slope rises fastest; zero in the padding."""
        return self.norm.steepest(slope if self.inside is None else slope * self.inside)

    def steady(self, slope: Tensor) -> Tensor:
        """A step of gauge at most 1 that climbs and is continuous in the slope; zero in the padding."""
        return self.norm.steady(slope if self.inside is None else slope * self.inside)

    def sample(self, generators: list[torch.Generator]) -> Tensor:
        """A random allowed delta for each example, from that example's own generator; the padding has no part in it."""
        drawn = torch.zeros_like(self.clean)
        for i, generator in enumerate(generators):
            length = self.clean.shape[-1] if self.inside is None else int(self.inside[i].sum(-1).max())
            own = self.norm.rows(torch.tensor([i], device=drawn.device))
            drawn[i, ..., :length] = own.sample(self.clean[i, ..., :length], generator)
        return self.project(drawn * each(self.radius, drawn))

    def gauge(self, adversarial: Tensor) -> Tensor:
        """The smallest radius that holds each adversarial input. Shapes: [batch, *] -> [batch]."""
        return self.norm.gauge(adversarial - self.clean)

    def holds(self, gauge: Tensor) -> Tensor:
        """Whether changes of these gauges are inside; off the grid, up to clean + delta's rounding. Shapes: [batch] -> bool [batch]."""
        rounding = 0.0 if self.grid is not None else 2.0**-23 * (self.norm.gauge(self.clean) + self.radius)
        return gauge <= self.radius + rounding

    def at(self, radius: Tensor) -> "Region":
        """The same region with other radii. Shapes: radius [batch]."""
        return replace(self, radius=radius)

    def rows(self, index: Tensor, width: int | None = None) -> "Region":
        """The region of some of the examples, cut to `width` along the last axis where they are all shorter."""

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[index] if width is None else x[index][..., :width]

        clean, norm = cut(self.clean), self.norm.rows(index)
        assert clean is not None
        return Region(clean, self.radius[index], norm, cut(self.inside), cut(self.low), cut(self.high), self.grid)

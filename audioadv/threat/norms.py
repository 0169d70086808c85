"""The geometry of the norm balls: how to measure, project, climb and draw."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from audioadv.threat.projections import (
    INWARD,
    each,
    greatest,
    length_of,
    places,
    project_l0,
    project_l1,
    project_l2,
    project_linf,
    scale_in_order,
    sum_of,
)
from audioadv.threat.region import Norm


@final
@dataclass(frozen=True)
class LinfNorm(Norm):
    """The largest absolute change."""

    def gauge(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return project_linf(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        return slope.sign()

    def steady(self, slope: Tensor) -> Tensor:
        size = sum_of(slope.square()) / sum_of(slope.abs()).clamp_min(1e-30)  # of the entries that matter
        return (slope * each(3 / size.clamp_min(1e-30), slope)).clamp(-1, 1)  # a sign for all but the smallest

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        drawn = 2 * torch.rand(clean.shape, generator=generator) - 1
        return drawn.to(clean)

    def box(self, like: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """The ball, which is a box, as limits."""
        limit = each(radius, like).expand_as(like)
        return -limit, limit

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """argmax <slope, y> in the ball and the box: its corner."""
        return project_linf(each(radius, slope) * slope.sign(), radius, low, high)

    def rows(self, index: Tensor) -> Self:
        return self


@final
@dataclass(frozen=True)
class L2Norm(Norm):
    """The Euclidean length of the change."""

    def gauge(self, delta: Tensor) -> Tensor:
        return length_of(delta)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return project_l2(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        return slope / each(length_of(slope).clamp_min(1e-30), slope)

    def steady(self, slope: Tensor) -> Tensor:
        return self.steepest(slope)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """argmax <slope, y> in the ball and the box: clip(s * slope, low, high), where one scale s makes it as long as the radius."""
        if low is None or high is None:
            return each(radius * INWARD, slope) * self.steepest(slope)
        size = slope.abs() / each(slope.flatten(1).abs().amax(1).clamp_min(1e-30), slope)
        room = torch.where(slope > 0, high, -low)
        full = torch.where(size > 1e-20, room / size, 0.0).flatten(1).amax(1)  # from this scale on, all entries are
        size = size * each(full, slope)
        scale = scale_in_order(size.flatten(1), room.flatten(1), radius * INWARD)
        return torch.minimum(each(scale, slope) * size, room) * slope.sign()

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        direction = torch.randn(clean.shape, generator=generator)
        distance = torch.rand((), generator=generator) ** (1 / max(clean.numel(), 1))  # uniform in the ball
        drawn: Tensor = direction * distance / direction.norm().clamp_min(1e-30)
        return drawn.to(clean)

    def rows(self, index: Tensor) -> Self:
        return self


SPARSITY = 0.01
"""The share of an example's entries that a step under L1 moves; at least one."""


@final
@dataclass(frozen=True)
class L1Norm(Norm):
    """The sum of absolute changes.

    The steepest step of length 1 moves a single entry, and is no way to get anywhere. Steps move the `SPARSITY` of entries
    with the greatest slopes by the same amount: Tramer and Boneh 2019, "Adversarial training and robustness for multiple
    perturbations" (sparse l1 descent). `extreme` is the exact vertex.
    """

    sparse: ClassVar[bool] = True

    def gauge(self, delta: Tensor) -> Tensor:
        return sum_of(delta.abs())

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return project_l1(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        size = slope.abs()
        step = torch.where((size >= least_mover(slope)) & (size > 0), slope.sign(), 0.0)
        return step / each(self.gauge(step).clamp_min(1.0), step)

    def steady(self, slope: Tensor) -> Tensor:
        step = slope.sign() * (slope.abs() - 0.9 * least_mover(slope)).clamp_min(0)
        return step / each(self.gauge(step).clamp_min(1e-30), step)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """argmax <slope, y> in the ball and the box: the entries of the greatest slope are filled, one after another."""
        room = torch.full_like(slope, torch.inf) if low is None or high is None else torch.where(slope > 0, high, -low)
        order = slope.abs().flatten(1).argsort(dim=1, descending=True, stable=True)
        room = room.flatten(1).gather(1, order)
        before = torch.nn.functional.pad(room.cumsum(1), (1, -1))
        taken = torch.minimum((radius[:, None] * INWARD - before).clamp_min(0), room)
        return torch.zeros_like(taken).scatter_(1, order, taken).view_as(slope) * slope.sign()

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform in the ball: exponential spacings, of which one is left out, with random signs."""
        spacings = torch.empty(clean.numel() + 1).exponential_(generator=generator)
        signs = 2.0 * torch.randint(2, (clean.numel(),), generator=generator) - 1
        drawn: Tensor = (spacings[1:] / spacings.sum() * signs).view(clean.shape)
        return drawn.to(clean)

    def rows(self, index: Tensor) -> Self:
        return self


def least_mover(slope: Tensor) -> Tensor:
    """The least slope size among the `SPARSITY` greatest of each example's entries, zeros not counted. Shapes: -> [batch, 1, ...]."""
    size = slope.abs().flatten(1)
    top = size.topk(max(1, math.ceil(SPARSITY * size.shape[1])), dim=1).values
    count = (SPARSITY * (size > 0).sum(1, keepdim=True)).ceil().long().clamp(1, top.shape[1])  # the padding is not counted
    return each(top.gather(1, count - 1)[:, 0], slope)


@final
@dataclass(frozen=True, eq=False)
class L0Norm(Norm):
    """The number of places changed: samples, moments of all channels, or pixels of all colours.

    A count is no length: a step can be long and of gauge 1. So the norm is told how many places may change (`count`
    [batch], the region's radius), and a step times the radius moves these by one unit of full scale at most.
    """

    count: Tensor
    sparse: ClassVar[bool] = True

    def gauge(self, delta: Tensor) -> Tensor:
        return (places(delta.abs()) > 0).sum(1).to(delta)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return project_l0(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        """argmax of <slope, step> over steps that change `count` places by at most 1 / count."""
        count = self.count.clamp_min(1.0)
        return torch.where(greatest(places(slope.abs()), count, slope), slope.sign(), 0.0) / each(count, slope)

    def steady(self, slope: Tensor) -> Tensor:
        return self.steepest(slope)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """argmax <slope, y> over `radius` places in the box; without one, over changes of at most full scale."""
        far = slope.sign() if low is None or high is None else torch.where(slope > 0, high, torch.where(slope < 0, low, 0.0))
        return torch.where(greatest(places(slope * far), radius, slope), far, 0.0)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Uniform changes of as many random places as may be changed."""
        drawn = 2 * torch.rand(clean.shape, generator=generator) - 1
        like = drawn[None]
        where = greatest(torch.rand(places(like).shape, generator=generator), self.count.cpu(), like)
        return (torch.where(where, like, 0.0)[0] / self.count.clamp_min(1.0).cpu()).to(clean)

    def rows(self, index: Tensor) -> "L0Norm":
        return L0Norm(self.count[index])

    def at(self, radius: Tensor) -> "L0Norm":
        """The norm for regions of another radius."""
        return L0Norm(radius)

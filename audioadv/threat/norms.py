"""The geometry of the norm balls: how to measure, project, climb and draw."""

from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from audioadv.threat.projections import each, project_l2, project_linf


@final
@dataclass(frozen=True)
class LinfNorm:
    """The largest absolute change."""

    def gauge(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return project_linf(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        return slope.sign()

    def steady(self, slope: Tensor) -> Tensor:
        size = slope.flatten(1).square().sum(1) / slope.flatten(1).abs().sum(1).clamp_min(1e-30)  # of the entries that matter
        return (3 * slope / each(size.clamp_min(1e-30), slope)).clamp(-1, 1)  # a sign for all but the smallest

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        drawn = 2 * torch.rand(clean.shape, generator=generator) - 1
        return drawn.to(clean)

    def rows(self, index: Tensor) -> Self:
        return self


@final
@dataclass(frozen=True)
class L2Norm:
    """The Euclidean length of the change."""

    def gauge(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).norm(dim=1)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return project_l2(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        return slope / each(slope.flatten(1).norm(dim=1).clamp_min(1e-30), slope)

    def steady(self, slope: Tensor) -> Tensor:
        return self.steepest(slope)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        direction = torch.randn(clean.shape, generator=generator)
        distance = torch.rand((), generator=generator) ** (1 / max(clean.numel(), 1))  # uniform in the ball
        drawn: Tensor = direction * distance / direction.norm().clamp_min(1e-30)
        return drawn.to(clean)

    def rows(self, index: Tensor) -> Self:
        return self

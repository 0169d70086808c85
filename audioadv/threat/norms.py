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

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return (2 * torch.rand(clean.shape, generator=generator) - 1).to(clean)

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

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        direction = torch.randn(clean.shape, generator=generator)
        distance = torch.rand((), generator=generator) ** (1 / max(clean.numel(), 1))  # uniform in the ball
        return (direction * distance / direction.norm().clamp_min(1e-30)).to(clean)

    def rows(self, index: Tensor) -> Self:
        return self

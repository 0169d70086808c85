"""How thinly a layer's features are surrounded by those of clean examples of the class that the model sees.

Source: Feinman, Curtin, Shintre and Gardner 2017, "Detecting adversarial samples from artifacts" (kernel density).
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from audioadv.defenses.detectors.detected import Sense
from audioadv.defenses.detectors.seen import INPUTS, OUTPUTS, Seen, check_finite, classes, view
from audioadv.errors import OptionError

FARTHEST = -1e4  # an exponent


@final
@dataclass(frozen=True)
class Density:
    """A Gaussian kernel on `place` (a layer, averaged over places, or "outputs", "inputs"); features lie along `axis`.

    Its `bandwidth` is in the features' unit; None takes the median distance to the nearest other of the same class. `keep`
    clean examples are kept, drawn by `fit`, whose features are the density. Needs no adversarial examples. Raises OptionError.
    """

    place: str = OUTPUTS
    axis: int = 1
    bandwidth: float | None = None
    keep: int = 2000

    def __post_init__(self) -> None:
        if (self.bandwidth is not None and not self.bandwidth > 0) or self.keep < 2:
            raise OptionError(f"bandwidth {self.bandwidth}, keep {self.keep}: a width above 0, of 2 examples at least")

    @property
    def layers(self) -> tuple[str, ...]:
        return () if self.place in (INPUTS, OUTPUTS) else (self.place,)

    def __str__(self) -> str:
        return f"kernel density on {self.place if not self.layers else f'layer {self.place}'}"

    def learn(self, clean: list[Seen], adversarial: list[Seen], seed: int) -> Sense:
        check_finite(clean, self.place, self.axis)
        features = torch.cat([view(batch, self.place, self.axis).pooled() for batch in clean])[: self.keep]
        seen = torch.cat([classes(batch) for batch in clean])[: self.keep]
        bandwidth = self.bandwidth
        if bandwidth is None:
            apart = torch.cdist(features, features).fill_diagonal_(math.inf).masked_fill(seen[:, None] != seen, math.inf).amin(1)
            bandwidth = max(float(apart[apart.isfinite()].median()), 1e-6) if apart.isfinite().any() else 1.0
        return DensitySense(self, features, seen, bandwidth)


@final
class DensitySense(Sense):
    """Minus the logarithm of the density, but for a constant; a class that no clean example was of counts as FARTHEST away."""

    def __init__(self, kind: Density, features: Tensor, seen: Tensor, bandwidth: float) -> None:
        super().__init__()
        self.kind, self.layers, self.bandwidth = kind, kind.layers, bandwidth
        self.centre = nn.Buffer(features.mean(0))  # near zero, squares of differences are exact enough as a product
        self.features, self.seen = nn.Buffer(features - self.centre), nn.Buffer(seen)

    def forward(self, seen: Seen) -> Tensor:
        features = view(seen, self.kind.place, self.kind.axis).pooled() - self.centre
        squared = features.square().sum(1, keepdim=True) - 2 * features @ self.features.T + self.features.square().sum(1)
        exponents = -squared / (2 * self.bandwidth**2)
        same = classes(seen)[:, None] == self.seen
        return -(exponents.masked_fill(~same, FARTHEST).logsumexp(1) - same.sum(1).clamp_min(1).log())

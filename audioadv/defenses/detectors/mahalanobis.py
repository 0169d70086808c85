"""How far a layer's features lie from the nearest class, measured by how features of one class spread.

Source: Lee, Lee, Lee and Shin 2018, "A simple unified framework for detecting out-of-distribution samples and adversarial
attacks": class-conditional Gaussians of one covariance, the confidence score, several layers weighted by
logistic regression. Its input pre-processing is left out: it makes the score random to no one's gain.
"""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from audioadv.defenses.detectors.detected import Sense
from audioadv.defenses.detectors.seen import OUTPUTS, Seen, check_finite, classes, view
from audioadv.errors import OptionError

RIDGE = 1e-3  # of the mean variance: features that never vary have some


@final
@dataclass(frozen=True)
class Mahalanobis:
    """On these layers (and "outputs", "inputs"), each averaged over places; features lie along `axis`.

    Classes are those that the model sees. With several layers it needs adversarial examples, to weigh them by: OptionError without.
    """

    places: tuple[str, ...] = (OUTPUTS,)
    axis: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.places, tuple) or not self.places:
            raise OptionError(f"places {self.places!r}: give the layers to look at, for example ('3', 'outputs')")

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(place for place in self.places if place not in ("inputs", OUTPUTS))

    def __str__(self) -> str:
        return f"Mahalanobis on {', '.join(self.places)}"

    def learn(self, clean: list[Seen], adversarial: list[Seen], seed: int) -> Sense:
        if len(self.places) > 1 and not adversarial:
            raise OptionError(f"{self} weighs its layers by adversarial examples. Give some: fit(kind, model, clean, adversarial)")
        for place in self.places:
            check_finite([*clean, *adversarial], place, self.axis)
        seen = torch.cat([classes(batch) for batch in clean])
        gaussians = nn.ModuleList(
            Gaussians(torch.cat([view(batch, place, self.axis).pooled() for batch in clean]), seen) for place in self.places
        )
        sense = MahalanobisSense(self, gaussians)
        distances = torch.cat([sense.distances(batch) for batch in clean])
        sense.weights.div_(distances.mean(0))
        if len(self.places) > 1:
            strange = torch.cat([sense.distances(batch) for batch in adversarial])
            sense.weights.mul_(weighed(distances * sense.weights, strange * sense.weights))
        return sense


def weighed(clean: Tensor, adversarial: Tensor) -> Tensor:
    """The weight of each column by which logistic regression tells the two apart. Shapes: [clean, n], [adversarial, n] -> [n]."""
    from sklearn.linear_model import LogisticRegression

    told = np.repeat([0, 1], [len(clean), len(adversarial)])
    return torch.tensor(LogisticRegression(max_iter=1000).fit(torch.cat([clean, adversarial]).cpu().numpy(), told).coef_[0]).to(clean)


@final
class Gaussians(nn.Module):
    """One Gaussian a class, of one covariance. Shapes: features [examples, n], seen int64 [examples] (their classes)."""

    def __init__(self, features: Tensor, seen: Tensor) -> None:
        super().__init__()
        there, place = torch.unique(seen, return_inverse=True)
        counts = place.bincount().to(features)
        means = features.new_zeros(len(there), features.shape[1]).index_add_(0, place, features) / counts[:, None]
        off = (features - means[place]).double()
        covariance = off.T @ off / len(features)
        ridge = RIDGE * covariance.diagonal().mean().clamp_min(1e-12) * torch.eye(len(covariance)).to(covariance)
        whiten = torch.linalg.inv(torch.linalg.cholesky(covariance + ridge)).T.to(features)
        self.whiten, self.means = nn.Buffer(whiten), nn.Buffer(means @ whiten)

    def forward(self, features: Tensor) -> Tensor:
        """The squared distance to the nearest class. Shapes: [batch, n] -> [batch]."""
        away: Tensor = (features @ self.whiten)[:, None] - self.means
        return away.square().sum(2).amin(1)


@final
class MahalanobisSense(Sense):
    """The layers' squared distances, weighted."""

    def __init__(self, kind: Mahalanobis, gaussians: nn.ModuleList) -> None:
        super().__init__()
        self.kind, self.layers, self.gaussians = kind, kind.layers, gaussians
        first: Any = gaussians[0]
        self.weights = nn.Buffer(torch.ones(len(gaussians)).to(first.means))

    def distances(self, seen: Seen) -> Tensor:
        """Shapes: -> [batch, places]."""
        features = [view(seen, place, self.kind.axis).pooled() for place in self.kind.places]
        return torch.stack([one(own) for one, own in zip(self.gaussians, features, strict=True)], 1)

    def forward(self, seen: Seen) -> Tensor:
        return self.distances(seen) @ self.weights

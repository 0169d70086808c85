"""Abstention by confidence: an input that the model is not sure of is refused.

Source: Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples in neural
networks" (maximum softmax probability).
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.defenses.detectors.detected import Sense
from audioadv.defenses.detectors.seen import OUTPUTS, Seen, View, view


@final
@dataclass(frozen=True)
class Confidence:
    """The largest probability of a classifier; of a recogniser, its mean logarithm over frames. Needs no adversarial examples.

    The rate of clean inputs on which the model abstains is `fit`'s `false_positives`.
    """

    @property
    def layers(self) -> tuple[str, ...]:
        return ()

    def __str__(self) -> str:
        return "confidence"

    def learn(self, clean: list[Seen], adversarial: list[Seen], seed: int) -> Sense:
        return ConfidenceSense()


@final
class ConfidenceSense(Sense):
    """The log odds against the largest probability; of a recogniser, against the geometric mean over frames.

    As the probability itself orders inputs, but its unit, the spread over clean ones, is of the size of what lies between sure and
    unsure. Minus its logarithm hardly varies where a model is sure: half sure was 360 units away, and in a joined goal a wall.
    """

    def forward(self, seen: Seen) -> Tensor:
        scores, own = view(seen, OUTPUTS)
        best, which = scores.max(1, keepdim=True)
        bits = torch.finfo(scores.dtype)
        others = scores.scatter(1, which, bits.min).clamp_min(bits.min).logsumexp(1, keepdim=True)  # finite, and so is the slope
        unlikely = View(F.softplus(others - best), own).pooled()[:, 0]  # minus the log of the largest probability
        return unlikely.expm1().clamp_min(bits.tiny).log()

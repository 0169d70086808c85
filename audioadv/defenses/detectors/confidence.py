"""Abstention by confidence: an input that the model is not sure of is refused.

Source: Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and out-of-distribution examples in neural
networks" (maximum softmax probability).
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor

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
    """Minus the log of the largest probability."""

    def forward(self, seen: Seen) -> Tensor:
        scores, own = view(seen, OUTPUTS)
        return View(-scores.log_softmax(1).amax(1, keepdim=True), own).pooled()[:, 0]

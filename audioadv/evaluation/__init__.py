"""Evaluation: how robust a model is, with figures that carry their count, their interval and their cost."""

from audioadv.evaluation.evaluate import Evaluation, Trial, evaluate
from audioadv.evaluation.rates import Rate

__all__ = ["Evaluation", "Rate", "Trial", "evaluate"]

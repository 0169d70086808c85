"""Evaluation: how robust a model is, with figures that carry their count, their interval and their cost."""

from audioadv.evaluation.classification import Evaluation, Trial
from audioadv.evaluation.evaluate import evaluate
from audioadv.evaluation.rates import Rate
from audioadv.evaluation.sanity.check import check
from audioadv.evaluation.sanity.indicators import Checkup
from audioadv.evaluation.speech import SpeechEvaluation, SpeechTrial
from audioadv.evaluation.words import WordErrors

__all__ = [
    "Checkup",
    "Evaluation",
    "Rate",
    "SpeechEvaluation",
    "SpeechTrial",
    "Trial",
    "WordErrors",
    "check",
    "evaluate",
]

"""Defenses: models made from models, each with a statement of how it can be attacked.

Detected             refuses what a detector finds suspicious, or what the model is not sure of     detectors/
Smoothed             what most noisy versions of an input are, with a certified radius              smoothing.py
SmoothedRecogniser   what the transcripts of noisy versions vote for (rover)                        smoothed_recogniser.py
"""

from audioadv.defenses.detectors import Confidence, Density, Detected, Detector, Mahalanobis, Network, fit
from audioadv.defenses.rover import rover
from audioadv.defenses.smoothed_recogniser import SmoothedRecogniser
from audioadv.defenses.smoothing import Certificates, Smoothed
from audioadv.defenses.statement import Statement, stated

__all__ = [
    "Certificates",
    "Confidence",
    "Density",
    "Detected",
    "Detector",
    "Mahalanobis",
    "Network",
    "Smoothed",
    "SmoothedRecogniser",
    "Statement",
    "fit",
    "rover",
    "stated",
]

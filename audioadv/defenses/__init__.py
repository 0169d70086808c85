"""Defenses: models made from models, each with a statement of how it can be attacked."""

from audioadv.defenses.detectors import Confidence, Density, Detected, Detector, Mahalanobis, Network, fit
from audioadv.defenses.statement import Statement, stated

__all__ = ["Confidence", "Density", "Detected", "Detector", "Mahalanobis", "Network", "Statement", "fit", "stated"]

"""Detectors: Detected(model, fit(kind, model, clean, adversarial, false_positives=0.05)).

Network        a network on inputs, outputs or a layer's activations     Gong et al. 2017; Metzen et al. 2017
Mahalanobis    distance to the nearest class, over layers                Lee et al. 2018
Density        kernel density among clean features of the same class     Feinman et al. 2017
Confidence     abstention: the largest softmax probability               Hendrycks and Gimpel 2017
"""

from audioadv.defenses.detectors.confidence import Confidence
from audioadv.defenses.detectors.density import Density
from audioadv.defenses.detectors.detected import Detected, Detector, fit
from audioadv.defenses.detectors.mahalanobis import Mahalanobis
from audioadv.defenses.detectors.network import Network

__all__ = ["Confidence", "Density", "Detected", "Detector", "Mahalanobis", "Network", "fit"]

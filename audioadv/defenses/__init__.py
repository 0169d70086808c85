"""Defenses: models made from models, each with a statement of how it can be attacked.

defend               the model behind a channel that the defender draws: bits, codecs, JPEG, bands, medians, crops, drops, noise
Thermometer          the first layer of a net that is trained on codes
distill              a net taught by another's softened answers
Purify               a denoiser, as a channel like any other
Detected             refuses what a detector finds suspicious, or what the model is not sure of
Smoothed             what most noisy versions of an input are, with a certified radius
SmoothedRecogniser   what the transcripts of noisy versions vote for (rover)
sampled              answers drawn from the scores
remembering          what was asked before is refused, or answered at random: Exact, Near, Heard say what is the same
"""

from audioadv.defenses.denoiser import Denoiser, Purify, learn_to_denoise
from audioadv.defenses.detectors import Confidence, Density, Detected, Detector, Mahalanobis, Network, fit
from audioadv.defenses.distillation import Tempered, distill
from audioadv.defenses.layers import forgetting, undefended
from audioadv.defenses.likeness import Exact, Heard, Near
from audioadv.defenses.memory import Memory, remembering
from audioadv.defenses.preprocessing import Through, defend
from audioadv.defenses.rover import rover
from audioadv.defenses.sampled import Sampled, sampled
from audioadv.defenses.smoothed_recogniser import SmoothedRecogniser
from audioadv.defenses.smoothing import Certificates, Smoothed
from audioadv.defenses.statement import Statement, stated
from audioadv.defenses.thermometer import Thermometer

__all__ = [
    "Certificates",
    "Confidence",
    "Denoiser",
    "Density",
    "Detected",
    "Detector",
    "Exact",
    "Heard",
    "Mahalanobis",
    "Memory",
    "Near",
    "Network",
    "Purify",
    "Sampled",
    "Smoothed",
    "SmoothedRecogniser",
    "Statement",
    "Tempered",
    "Thermometer",
    "Through",
    "defend",
    "distill",
    "fit",
    "forgetting",
    "learn_to_denoise",
    "remembering",
    "rover",
    "sampled",
    "stated",
    "undefended",
]

"""Defenses: models made from models, each with a statement of how it can be attacked.

defend          the model behind a channel that the defender draws: bits, codecs, JPEG, bands, medians, crops, drops, noise
Thermometer     the first layer of a net that is trained on codes
distill         a net taught by another's softened answers
Purify          a denoiser, as a channel like any other
"""

from audioadv.defenses.denoiser import Denoiser, Purify, learn_to_denoise
from audioadv.defenses.distillation import Tempered, distill
from audioadv.defenses.statement import Statement, stated
from audioadv.defenses.thermometer import Thermometer
from audioadv.defenses.through import Through, defend, undefended

__all__ = [
    "Denoiser",
    "Purify",
    "Statement",
    "Tempered",
    "Thermometer",
    "Through",
    "defend",
    "distill",
    "learn_to_denoise",
    "stated",
    "undefended",
]

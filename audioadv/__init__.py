"""audioadv: adversarial robustness of speech recognisers, and of any audio or image classifier.

>>> import audioadv as aa
>>> str(aa.parse_bound("snr:min"))
'snr:min'
"""

from audioadv import attacks, defenses, errors, training
from audioadv.attacks.craft import Crafted, CraftResult, craft, craft_each
from audioadv.attacks.objective import Objective, objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.audio.files import Clip, read_audio, read_clip, write_wav
from audioadv.defenses import defend
from audioadv.errors import AudioadvError
from audioadv.evaluation import Checkup, Evaluation, Rate, SpeechEvaluation, check, evaluate
from audioadv.models.access import Access
from audioadv.models.bpda import BPDA
from audioadv.models.classifier import Classifier, load_classifier
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.models.sources import load_model
from audioadv.threat.bounds import L0, L1, L2, MIN, SNR, Bound, Linf, parse_bound
from audioadv.threat.channels import Channel, parse_channel
from audioadv.threat.features import Feature
from audioadv.threat.goals import Goal, Mistranscribe, Silence, Transcribe
from audioadv.threat.labels import Classify, Misclassify, cross_entropy, dlr, margin
from audioadv.threat.masked import Masked
from audioadv.threat.measured import Below, Sequence, near
from audioadv.threat.model import ThreatModel
from audioadv.threat.stickers import Patch, Sticker
from audioadv.threat.undetected import Undetected
from audioadv.threat.warps import Spatial, Timing

__version__ = "0.1.0"

__all__ = [
    "BPDA",
    "L0",
    "L1",
    "L2",
    "MIN",
    "SNR",
    "Access",
    "AttackResult",
    "AudioadvError",
    "Below",
    "Bound",
    "Channel",
    "Checkup",
    "Classifier",
    "Classify",
    "Clip",
    "CraftResult",
    "Crafted",
    "Emissions",
    "Evaluation",
    "Feature",
    "Goal",
    "Linf",
    "Masked",
    "Misclassify",
    "Mistranscribe",
    "Objective",
    "Outcome",
    "Patch",
    "Rate",
    "Recogniser",
    "Sequence",
    "Silence",
    "Spatial",
    "SpeechEvaluation",
    "Sticker",
    "ThreatModel",
    "Timing",
    "Transcribe",
    "Undetected",
    "attacks",
    "check",
    "craft",
    "craft_each",
    "cross_entropy",
    "defend",
    "defenses",
    "dlr",
    "errors",
    "evaluate",
    "load_classifier",
    "load_model",
    "margin",
    "near",
    "objective",
    "parse_bound",
    "parse_channel",
    "read_audio",
    "read_clip",
    "training",
    "write_wav",
]

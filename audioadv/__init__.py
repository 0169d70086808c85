"""audioadv: adversarial robustness of speech recognisers, and of any audio or image classifier.

>>> import audioadv as aa
>>> str(aa.parse_bound("snr:min"))
'snr:min'

A name is imported when it is first asked for: `import audioadv` alone loads no torch.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audioadv import attacks, defenses, errors, training
    from audioadv.attacks.craft import craft, craft_each
    from audioadv.attacks.crafted import Crafted, CraftResult
    from audioadv.attacks.objective import Objective, objective
    from audioadv.attacks.result import AttackResult, Outcome
    from audioadv.audio.files import Clip, read_audio, read_clip, write_wav
    from audioadv.defenses import defend
    from audioadv.errors import AudioadvError
    from audioadv.evaluation.classification import Evaluation
    from audioadv.evaluation.evaluate import evaluate
    from audioadv.evaluation.rates import Rate
    from audioadv.evaluation.sanity.check import check
    from audioadv.evaluation.sanity.indicators import Checkup
    from audioadv.evaluation.speech import SpeechEvaluation
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

LAYERS = ("attacks", "audio", "cli", "defenses", "errors", "evaluation", "models", "report", "threat", "training")
HOMES = {
    "attacks.craft": "craft craft_each",
    "attacks.crafted": "CraftResult Crafted",
    "attacks.objective": "Objective objective",
    "attacks.result": "AttackResult Outcome",
    "audio.files": "Clip read_audio read_clip write_wav",
    "defenses": "defend",
    "errors": "AudioadvError",
    "evaluation.classification": "Evaluation",
    "evaluation.evaluate": "evaluate",
    "evaluation.rates": "Rate",
    "evaluation.sanity.check": "check",
    "evaluation.sanity.indicators": "Checkup",
    "evaluation.speech": "SpeechEvaluation",
    "models.access": "Access",
    "models.bpda": "BPDA",
    "models.classifier": "Classifier load_classifier",
    "models.recogniser": "Emissions Recogniser",
    "models.sources": "load_model",
    "threat.bounds": "L0 L1 L2 MIN SNR Bound Linf parse_bound",
    "threat.channels": "Channel parse_channel",
    "threat.features": "Feature",
    "threat.goals": "Goal Mistranscribe Silence Transcribe",
    "threat.labels": "Classify Misclassify cross_entropy dlr margin",
    "threat.masked": "Masked",
    "threat.measured": "Below Sequence near",
    "threat.model": "ThreatModel",
    "threat.stickers": "Patch Sticker",
    "threat.undetected": "Undetected",
    "threat.warps": "Spatial Timing",
}
"""The modules that the public names come from."""

HOME = {name: home for home, names in HOMES.items() for name in names.split()}


if not TYPE_CHECKING:  # which would else believe in any name

    def __getattr__(name: str) -> Any:
        if name in LAYERS:
            return import_module(f"audioadv.{name}")
        if name not in HOME:
            raise AttributeError(f"module 'audioadv' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        globals()[name] = value = getattr(import_module(f"audioadv.{HOME[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({"__doc__", "__file__", "__path__", "__version__", *LAYERS, *HOME})


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

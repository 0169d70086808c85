"""A detector, fitted, and the model that has it.

    inputs --model--> outputs ----------------------------+--> outputs that carry the suspicion
        |      | layers   |                               |
        '------'----------'--> sense --> (x - threshold) / unit: above 0, refused

A *kind* of detector (`Network`, `Mahalanobis`, `Density`, `Confidence`) learns a *sense* from clean and adversarial examples: a
differentiable function of what is seen, larger for stranger inputs. `fit` sets its threshold: on clean examples that the sense
has not learnt from, at most so many of them are refused.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from audioadv.defenses.detectors.seen import Seen, look
from audioadv.defenses.learning import learning
from audioadv.defenses.likeness import as_bytes
from audioadv.defenses.statement import Statement, stated
from audioadv.defenses.wrapped import Wrapped
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.models.suspicion import carrying
from audioadv.options import check_does
from audioadv.threat.undetected import Undetected

BATCH = 256
HELD_OUT = 5  # one example in five sets the threshold, the others teach


class Sense(nn.Module):
    """A differentiable function of what is seen, larger for stranger inputs. Shapes: -> [batch]."""

    layers: tuple[str, ...] = ()

    def forward(self, seen: Seen) -> Tensor:
        raise NotImplementedError


class Kind(Protocol):
    """A way to detect, not fitted yet."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Those of the model that it watches."""
        ...

    def learn(self, clean: list[Seen], adversarial: list[Seen], seed: int) -> Sense:
        """From what was seen of clean and of adversarial examples, in batches, whose order is drawn."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Detector:
    """A sense with its threshold. `false_positives` is the rate of clean inputs that it was set to refuse at most."""

    sense: Sense
    threshold: float
    unit: float
    false_positives: float
    name: str

    def __call__(self, seen: Seen) -> Tensor:
        """How suspicious: above 0, refused; in units of the spread over clean inputs. Shapes: -> [batch]."""
        return (self.sense(seen) - self.threshold) / self.unit

    def __str__(self) -> str:
        return self.name


@final
@dataclass(frozen=True, eq=False)
class Detected(Wrapped):
    """A model with a detector: its outputs carry the suspicion, and everything else is the model's own.

    Detectors add up: Detected(Detected(model, one), another). An attack that does not know of them attacks the model; one
    that does joins its goal with Undetected(detector). Raises OptionError for what is no detector.
    """

    model: Callable[..., Any]
    detector: Detector

    def __post_init__(self) -> None:
        check_does("detector", self.detector, "sense", "Give one that is fitted: fit(Network(), model, clean, adversarial)")

    def __call__(self, inputs: Tensor, lengths: Tensor | None = None) -> Any:
        """Shapes: inputs [batch, *], lengths [batch] in samples -> as the model's."""
        seen = look(self.model, self.detector.sense.layers, inputs, lengths)
        return carrying(seen.outputs, self.detector, self.detector(seen))

    @property
    def statement(self) -> Statement:
        return replace(stated(self.model), detects=True)

    @property
    def net(self) -> nn.Module:
        """All that has parameters."""
        inner = super().net
        return nn.ModuleList([self.detector.sense, *([inner] if isinstance(inner, nn.Module) else [])])

    def setting(self) -> str:
        return f"detector {self.detector}, threshold {self.detector.threshold!r}, unit {self.detector.unit!r}"

    def undetected(self) -> Undetected:
        """The goal of passing every detector of this model."""
        return Undetected()


def fit(
    kind: Kind,
    model: Callable[..., Any],
    clean: Tensor,
    adversarial: Tensor | None = None,
    *,
    lengths: Tensor | None = None,
    false_positives: float = 0.05,
    seed: int = 0,
) -> Detector:
    """A detector for this model, which refuses at most `false_positives` of the clean inputs that it did not learn from.

    `adversarial` are made from the clean ones, row by row; statistics of single layers and Confidence need none. One clean
    example in five sets the threshold, drawn by `seed`: in whatever order they are given, the detector is the same. The model
    is at rest. Shapes: clean and adversarial [examples, *], lengths [examples] in samples.
    Raises OptionError for what is no kind, and for a rate that so few examples cannot show, UnusableBatch for what does not fit
    together, for features that are not finite, and in torch's inference mode.
    """
    check_does("kind", kind, "learn", "Give a kind of detector, for example Network()")
    held = len(clean) // HELD_OUT
    allowed = math.floor(false_positives * held + 1e-9) if 0 < false_positives < 1 else 0
    if not allowed:
        least = f" At least {HELD_OUT * math.ceil(1 / false_positives)} show it" if 0 < false_positives < 1 else ""
        raise OptionError(
            f"false_positives {false_positives:g}: {held} clean examples set the threshold, one in {HELD_OUT}. "
            f"Give a rate between 0 and 1, and more examples.{least}"
        )
    if adversarial is not None and adversarial.shape != clean.shape:
        raise UnusableBatch(
            f"adversarial {tuple(adversarial.shape)}, clean {tuple(clean.shape)}: give one adversarial example for each clean one"
        )

    def watch(inputs: Tensor | None, rows: Tensor) -> list[Seen]:
        if inputs is None:
            return []
        some = torch.split(rows.to(inputs.device), BATCH)
        return [look(model, kind.layers, inputs[r], None if lengths is None else lengths[r]) for r in some]

    order = shuffled(clean, seed)
    with learning(), torch.no_grad(), at_rest(model):
        seen, strange, fresh = watch(clean, order[held:]), watch(adversarial, order[held:]), watch(clean, order[:held])
    sense = kind.learn(seen, strange, seed).requires_grad_(False).eval()
    with torch.no_grad():
        found = torch.cat([sense(batch) for batch in fresh])
    if not found.isfinite().all():
        raise UnusableBatch(f"{kind}: its score is not finite on clean examples. Look at another layer, or give more examples")
    threshold = found.sort(descending=True).values[allowed]
    spread = found.std() if len(found) > 1 else found.abs()
    return Detector(sense, float(threshold), max(float(spread), 1e-12), false_positives, str(kind))


def shuffled(examples: Tensor, seed: int) -> Tensor:
    """An order that is drawn by the seed and by what each example is: the same, however they come. Shapes: [count, *] -> int64 [count].

    >>> a = torch.rand(9, 2)
    >>> torch.equal(a[shuffled(a, 1)], a.flip(0)[shuffled(a.flip(0), 1)])
    True
    """
    key = str(int(seed)).encode()
    drawn = [hashlib.blake2b(as_bytes(example), digest_size=16, key=key).digest() for example in examples.cpu()]
    return torch.tensor(sorted(range(len(drawn)), key=drawn.__getitem__), dtype=torch.int64)

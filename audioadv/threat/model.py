"""The threat model: the claim that a figure is a figure of.

>>> print(ThreatModel(goal="misclassify", bound="linf:0.3_or_l1:10", access="gradients"))
The attacker wants the model to misclassify. It may change each input within linf:0.3_or_l1:10. It sees the model's gradients
and knows the defense. It may ask any number of times. Inputs are drawn once, and each is attacked where it stands
(expectimax).
"""

import importlib
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, final

import torch
from torch import Tensor

from audioadv.errors import AudioadvError, MalformedSpec, UnusableBatch, UnusableResponse
from audioadv.models.access import Access, as_access, includes
from audioadv.options import is_whole
from audioadv.threat.bounds import Box, as_bound, parse_bound
from audioadv.threat.channels.channel import NOTHING
from audioadv.threat.channels.specs import as_channel, parse_channel
from audioadv.threat.goals import Mistranscribe
from audioadv.threat.joined import Joined, is_goal
from audioadv.threat.labels import Classify, Misclassify, cross_entropy, dlr, margin, probability_margin
from audioadv.threat.measured import Below
from audioadv.threat.undetected import Undetected

KNOWLEDGE: Final = {
    "adaptive": "knows the defense",
    "oblivious": "does not know that there is a defense",
    "transfer": "knows neither the model nor the defense: it works on a substitute",
}
PROTOCOLS: Final = {
    "expectimax": "Inputs are drawn once, and each is attacked where it stands",
    "true-max": "The attacker picks the inputs, and may repeat the one that works",
}
CONFIDENCES: Final = {way.__name__: way for way in (cross_entropy, margin, dlr, probability_margin)}
TOLERANCE = 1e-5
"""Of a radius: how far rounding may carry an input out of its bound."""


@final
@dataclass(frozen=True)
class ThreatModel:
    """Who attacks, what for, and with what means.

    goal        what the model should be brought to say: a phrase that completes "the attacker wants the model to", or a goal
    bound       what may be changed: a bound or its spec
    channel     what the change must survive on its way, as a spec; None for nothing
    access      gradients, scores or decisions of the model (a transfer attack uses none of them)
    knowledge   adaptive, oblivious or transfer (of the defense: `KNOWLEDGE`)
    queries     how many forwards an example may cost; None for any number
    protocol    expectimax or true-max (Goodfellow 2019, "A research agenda: dynamic models to defend against correlated attacks")

    Raises MalformedSpec for what is none of these.
    """

    bound: Any
    goal: Any = "misclassify"
    channel: Any = None
    access: Access | str = Access.GRADIENTS
    knowledge: str = "adaptive"
    queries: int | None = None
    protocol: str = "expectimax"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", as_bound(self.bound))
        if isinstance(self.channel, str):
            with suppress(UnusableResponse):  # rooms or noise that lie elsewhere
                parse_channel(self.channel)
        elif self.channel is not None:
            as_channel(self.channel)
        object.__setattr__(self, "channel", None if self.channel in (None, NOTHING, str(NOTHING)) else str(self.channel))
        choices = {"access": [str(access) for access in Access], "knowledge": list(KNOWLEDGE), "protocol": list(PROTOCOLS)}
        for name, known in choices.items():
            if str(getattr(self, name)) not in known:
                raise MalformedSpec(f"{name} {getattr(self, name)!r}: unknown. Use {', '.join(known[:-1])} or {known[-1]}")
        object.__setattr__(self, "access", Access(self.access))
        if self.queries is not None:
            if not is_whole(self.queries) or self.queries < 1:
                raise MalformedSpec(f"queries {self.queries!r}: give a number of forwards of at least 1, or None for any number")
            object.__setattr__(self, "queries", int(self.queries))  # JSON knows no other whole numbers
        if not self.goal if isinstance(self.goal, str) else not is_goal(self.goal):
            raise MalformedSpec(f"goal {self.goal!r}: say what the attacker wants, for example 'misclassify', or give a goal")

    def __str__(self) -> str:
        limit = f"the smallest change ({self.bound})" if self.bound.minimal else f"each input within {self.bound}"
        sentences = [
            f"The attacker wants the model to {wished(self.goal)}",
            f"It {'looks for' if self.bound.minimal else 'may change'} {limit}",
            *([f"The change must survive {self.channel}"] if self.channel else []),
            f"It {'does without' if self.knowledge == 'transfer' else 'sees'} the model's {self.access} and {KNOWLEDGE[self.knowledge]}",
            "It may ask any number of times" if self.queries is None else f"It may ask at most {self.queries} times for each input",
            f"{PROTOCOLS[self.protocol]} ({self.protocol})",
        ]
        return textwrap.fill(". ".join(sentences) + ".", 127, break_long_words=False, break_on_hyphens=False)  # specs stay whole

    def to_json(self) -> str:
        """One JSON object with every field; `from_json` gives the same threat model back.

        Raises MalformedSpec for what no text tells: a fitted detector, a callable of one's own, a changed model of hearing.
        """
        spec, rate = str(self.bound), rate_of(self.bound)
        if rate is not None and parse_bound(spec).at_rate(rate) != self.bound:
            raise MalformedSpec(f"bound {spec}: its model of hearing is not the usual one, and cannot be written as JSON")
        parse_bound(spec)
        if self.channel:
            with suppress(UnusableResponse):  # a recording or a set of rooms that is not here
                parse_channel(self.channel)
        entries = {part.name: getattr(self, part.name) for part in fields(self)}
        heard = {} if rate is None else {"sample_rate": rate}  # a masked bound's, which its spec does not say
        return json.dumps({**entries, "bound": str(self.bound), "goal": told(self.goal), **heard})

    @staticmethod
    def from_json(text: str) -> "ThreatModel":
        """The threat model that `to_json` wrote. Raises MalformedSpec."""
        try:
            entries = json.loads(text)
            rate, bound = entries.pop("sample_rate", None), as_bound(entries["bound"])
            return ThreatModel(**{**entries, "goal": retold(entries["goal"]), "bound": bound if rate is None else bound.at_rate(rate)})
        except MalformedSpec:
            raise
        except (AudioadvError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AttributeError) as error:
            raise MalformedSpec(f"threat model {str(text)[:60]!r}: cannot be read ({error}). Give what to_json() wrote") from error

    def check(
        self,
        clean: Tensor,
        adversarial: Tensor,
        *,
        lengths: Tensor | None = None,
        box: Box = (0.0, 1.0),
        parameters: Tensor | None = None,
        forwards: Tensor | None = None,
        access: Access | str | None = None,
    ) -> list[str | None]:
        """What breaks the claim, example by example; None where nothing does.

        `parameters` are those that an attack on a bound with parameters of its own gave back (`AttackResult.parameters`): the
        inputs must be what they stand for. `forwards` [batch] are an example's, counted from outside; `access` is what the
        attack was given. Raises UnusableBatch for shapes that do not fit.
        """
        besides = [(name, given) for name, given in (("forwards", forwards), ("parameters", parameters)) if given is not None]
        for name, given in (("clean inputs", clean), ("adversarial inputs", adversarial), *besides):
            if not isinstance(given, Tensor):
                raise UnusableBatch(f"{name} of type {type(given).__name__}: give a tensor, torch.as_tensor({name.split()[-1]})")
        if clean.shape != adversarial.shape:
            raise UnusableBatch(f"adversarial inputs of shape {tuple(adversarial.shape)} for clean ones of shape {tuple(clean.shape)}")
        if forwards is not None and forwards.shape != clean.shape[:1]:
            raise UnusableBatch(f"forwards of shape {tuple(forwards.shape)} for {len(clean)} inputs: give one for each")
        region = self.bound.around(clean, lengths, box)
        if parameters is not None and parameters.shape != (own := region.start().shape):
            raise UnusableBatch(f"parameters of shape {tuple(parameters.shape)}, but {self.bound} has {tuple(own)}: give one for each")
        adversarial = torch.where(adversarial.isfinite(), adversarial, torch.inf)
        never = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        changed = adversarial != clean

        seen = never | (access is not None and not includes(Access(self.access), as_access(access)))
        asked = never if forwards is None or self.queries is None else (forwards > self.queries).to(clean.device)
        boxed = ~region.in_box(adversarial)
        padded = never if region.inside is None else anywhere(changed & ~region.inside)
        untold = unlike = never
        if parameters is not None:
            unlike = never if region.added else anywhere(changed) & anywhere((region.inputs(parameters) - adversarial).abs() > 1e-4)
            region = region.knowing(parameters)
        elif not region.added:
            untold = anywhere(changed) & region.gauge(adversarial).isinf()
        gauge = region.gauge(adversarial)
        share = gauge / region.radius
        out = anywhere(changed) & ~((share <= 1 + TOLERANCE) | region.holds(gauge))
        worries = [
            (seen, f"the attack saw {access}, but the claim grants {self.access} only"),
            (asked, f"more forwards than the {self.queries} that the claim allows"),
            (boxed, f"outside the box {box}"),
            (padded, "changed beyond its own length"),
            (unlike, "not the input that its parameters stand for"),
            (untold, f"{self.bound} cannot be read from inputs: give the attack's parameters"),
            (out, f"outside {self.bound}"),
        ]
        complaints: list[str | None] = [None] * len(clean)
        for broken, complaint in reversed(worries):
            for i in broken.nonzero()[:, 0].tolist():
                by = f" ({share[i]:.4g} times its radius)" if broken is out and share[i].isfinite() else ""
                complaints[i] = complaint + by
        return complaints


def anywhere(mask: Tensor) -> Tensor:
    """Whether it is so anywhere in an example. Shapes: bool [batch, *] -> bool [batch]."""
    return mask.flatten(1).any(1)


def rate_of(bound: Any) -> int | None:
    """The sample rate (Hz) that a bound hears at: that of the first masked one in it; None where there is none.

    >>> rate_of(as_bound("masked:0_and_linf:0.1")), rate_of(as_bound("linf:0.1"))
    (16000, None)
    """
    if (hearing := getattr(bound, "hearing", None)) is not None:
        return int(hearing.sample_rate)
    return next((rate for part in getattr(bound, "parts", ()) if (rate := rate_of(part)) is not None), None)


def wished(goal: Any) -> str:
    """What completes "the attacker wants the model to".

    >>> wished(Mistranscribe("go home") & Undetected())
    "mishear 'go home', 50 % of the words wrong, and to pass undetected by any detector"
    """
    match goal:
        case str():
            return goal
        case Joined():
            return ", and to ".join(map(wished, goal.goals))
        case Mistranscribe():
            return f"mishear {' | '.join(goal.references)!r}, {100 * goal.errors:g} % of the words wrong"
        case Undetected():
            return f"pass {goal}"
        case Misclassify() | Classify():
            return f"answer {str(goal)!r}"
    return f"say {str(goal)!r}" if str(goal) else "say nothing"


def told(goal: Any) -> Any:
    """A goal as JSON: text as it is, a dataclass by its place in `audioadv.threat` and its fields."""
    if isinstance(goal, str):
        return goal
    kind = type(goal)
    if isinstance(goal, Undetected) and not isinstance(goal.detector, str | None):
        raise MalformedSpec(
            f"goal '{goal}': a fitted detector is weights, and cannot be written as JSON. Claim Undetected(), by any detector that the "
            "model has, or say the goal in words"
        )
    if isinstance(goal, Below):
        raise MalformedSpec(f"goal '{goal}': a loss and what it compares with cannot be written as JSON. Say the goal in words")
    if not is_dataclass(goal) or not kind.__module__.startswith("audioadv.threat."):
        raise MalformedSpec(f"goal {kind.__name__}: cannot be written as JSON. Say it in words, or use a goal of audioadv.threat")
    place = f"{kind.__module__.removeprefix('audioadv.threat.')}:{kind.__name__}"
    return {"kind": place, **{part.name: plainly(getattr(goal, part.name)) for part in fields(goal)}}


def plainly(value: Any) -> Any:
    """A field's value as JSON."""
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if is_dataclass(value) and not isinstance(value, type):
        return told(value)
    if isinstance(value, list | tuple):
        return [plainly(part) for part in value]
    if callable(value):
        if value not in CONFIDENCES.values():
            raise MalformedSpec(f"goal with {value!r}: cannot be written as JSON. Use a confidence of audioadv.threat.labels")
        return {"confidence": value.__name__}
    return value


def retold(entry: Any) -> Any:
    """The goal that `told` wrote."""
    if isinstance(entry, Mapping) and "tensor" in entry:
        return torch.tensor(entry["tensor"], dtype=getattr(torch, entry["dtype"]))
    if isinstance(entry, Mapping) and "confidence" in entry and "kind" not in entry:
        return CONFIDENCES[entry["confidence"]]
    if isinstance(entry, Mapping):
        module, _, name = entry["kind"].partition(":")
        kind: Callable[..., Any] = getattr(importlib.import_module(f"audioadv.threat.{module}"), name)
        if not hasattr(kind, "__dataclass_fields__"):
            raise TypeError(f"{name} is no goal")
        return kind(**{key: retold(value) for key, value in entry.items() if key != "kind"})
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        return tuple(retold(part) for part in entry)
    return entry

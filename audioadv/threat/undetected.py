"""The goal of an attacker who has to pass a detector."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from audioadv.errors import OptionError
from audioadv.models.suspicion import suspicions
from audioadv.threat.joined import Joined, Joins, members

if TYPE_CHECKING:
    from audioadv.threat.goals import Goal


@final
@dataclass(frozen=True, eq=False)
class Undetected(Joins):
    """To pass this detector, or every one that the model has, by at least `by` (in the detector's unit).

    It judges outputs of a model that has detectors (`defenses.Detected`), and joins: Misclassify(3) & Undetected(detector).
    Raises OptionError for outputs that carry nothing of the detector.

    >>> from audioadv.models.suspicion import carrying
    >>> Undetected().reached(carrying(torch.zeros(2, 10), "a detector", torch.tensor([0.5, -2.0])))
    tensor([False,  True])
    """

    detector: object = None
    by: float = 0.0

    def suspicion(self, outputs: Any) -> Tensor:
        """The greatest of those that count. Shapes: -> [batch]. Raises OptionError where there are none."""
        held = suspicions(outputs)
        if not held or (self.detector is not None and self.detector not in held):
            who = self.detector or "any detector"
            raise OptionError(f"the model's outputs carry nothing of {who}. Attack the model that has it: Detected(model, detector)")
        return torch.stack(list(held.values())).amax(0) if self.detector is None else held[self.detector]

    def loss(self, outputs: Any) -> Tensor:
        return self.suspicion(outputs)

    def lack(self, outputs: Any) -> Tensor:
        return self.suspicion(outputs) + self.by

    def margin(self, outputs: Any, slack: float | Tensor = 0.0) -> Tensor:
        return (self.suspicion(outputs) + self.by + slack).clamp_min(0)

    def reached(self, outputs: Any) -> Tensor:
        return self.suspicion(outputs) <= -self.by

    def apart(self, outputs: Any) -> Tensor:
        """1 for what is refused, else 0. Shapes: -> [batch]."""
        suspicion = self.suspicion(outputs)
        return (suspicion > -self.by).to(suspicion)

    def rows(self, index: Tensor) -> "Undetected":
        return self

    def impossible(self, outputs: Any) -> list[str | None]:
        return [None] * len(self.suspicion(outputs))

    def __str__(self) -> str:
        return f"undetected by {self.detector or 'any detector'}"


@runtime_checkable
class Detecting(Protocol):
    """A model that detects, as an attacker who knows it meets it."""

    def undetected(self) -> "Goal":
        """The goal of passing unseen, judged on this model's outputs."""
        ...


def unseen_too(model: Any, goal: "Goal") -> "Goal":
    """The goal, and to pass unseen by all that the model has, unless it says so already. Raises OptionError for a model that does not say
    what that is."""
    if any(isinstance(part, Undetected) and part.detector is None for part in members(goal)):
        return goal
    for view in (model, getattr(model, "net", None)):
        if isinstance(view, Detecting):
            return Joined((goal, view.undetected()))
    name = getattr(model, "name", type(model).__name__)
    raise OptionError(f"{name} states that it detects. Give it undetected(), the goal of passing unseen, judged on its outputs")

"""Goals joined: all of them at once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from audioadv.threat.goals import Goal


class Joins:
    """A goal that joins with others by `&`."""

    def __and__(self: "Goal", other: "Goal") -> "Both":
        return Both((self, other))


@final
@dataclass(frozen=True, eq=False)
class Both(Joins):
    """Every one of these goals at once, judged on the same outputs.

    The loss is the sum of the members' losses, the margin the sum of their margins (so it is zero just where all are).

    >>> from audioadv.threat.labels import Classify, Misclassify
    >>> str(Misclassify(3) & Classify(5))
    'not class 3, and class 5'
    """

    goals: tuple["Goal", ...]

    def loss(self, outputs: Any) -> Tensor:
        return torch.stack([goal.loss(outputs) for goal in self.goals]).sum(0)

    def margin(self, outputs: Any, slack: float = 0.0) -> Tensor:
        return torch.stack([goal.margin(outputs, slack) for goal in self.goals]).sum(0)

    def reached(self, outputs: Any) -> Tensor:
        return torch.stack([goal.reached(outputs) for goal in self.goals]).all(0)

    def rows(self, index: Tensor) -> "Both":
        return Both(tuple(goal.rows(index) for goal in self.goals))

    def impossible(self, outputs: Any) -> list[str | None]:
        reasons = zip(*(goal.impossible(outputs) for goal in self.goals), strict=True)
        return [next((why for why in each if why is not None), None) for each in reasons]

    def __str__(self) -> str:
        return ", and ".join(map(str, self.goals))

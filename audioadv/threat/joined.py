"""Goals joined: all of them at once."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, final, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.errors import OptionError

if TYPE_CHECKING:
    from audioadv.threat.goals import Goal


def is_goal(goal: object) -> bool:
    """Whether it is a goal, not a kind of goals.

    >>> from audioadv.threat.goals import Silence
    >>> is_goal(Silence()), is_goal(Silence), is_goal("silence")
    (True, False, False)
    """
    return not isinstance(goal, type) and callable(getattr(goal, "reached", None))


class Joins:
    """A goal that joins with others by `&`. Raises OptionError for what is no goal."""

    def __and__(self: "Goal", other: "Goal") -> "Joined":
        if not is_goal(other):
            raise OptionError(f"goal '{self}' & {other!r:.60}: not a goal. Join it with one: Classify(5), Undetected(), Transcribe('go')")
        return Joined((*members(self), *members(other)))

    def lack(self: "Goal", outputs: Any) -> Tensor:
        """What is missing to the goal, as one of several: falls to it, and below 0 once it is reached where that can be told.

        Shapes: -> [batch].
        """
        return self.loss(outputs)


def members(goal: "Goal") -> tuple["Goal", ...]:
    """The goals that a goal is made of."""
    return goal.goals if isinstance(goal, Joined) else (goal,)


def several(goal: "Goal") -> bool:
    """Whether this is a conjunction of more than one goal."""
    return len(getattr(goal, "goals", ())) > 1


def kappa(goal: "Goal") -> float:
    """Offset such that loss + kappa == 0 on the goal's boundary: by `margin`, the lead that is asked for; of several goals,
    whose loss is the sum of softplus(lack), -log 2, where no member lacks anything.

    >>> from audioadv.threat.labels import Classify, Misclassify
    >>> kappa(Misclassify(3, by=2.5)), round(kappa(Misclassify(3) & Classify(5)), 3)
    (2.5, -0.693)
    """
    return -math.log(2) if several(goal) else getattr(goal, "by", 0.0)


@runtime_checkable
class Rivalled(Protocol):
    """A goal that can be sought by way of one rival class after another."""

    def aimed(self, outputs: Any, count: int) -> Sequence[Any]: ...


def rivalled(goal: "Goal") -> TypeGuard[Rivalled]:
    """Whether a goal is one of labels, or has a member that is."""
    return any(isinstance(member, Rivalled) for member in members(goal))


@final
@dataclass(frozen=True, eq=False)
class Joined(Joins):
    """Every one of these goals at once, judged on the same outputs.

    The loss is the sum of softplus(what each member lacks): minus the log likelihood that all are reached, were each lack
    the log odds against it. A goal that is reached thus stops pulling, where in a plain sum it would go on and drown the others;
    one that is not pulls the harder, the farther it is; and where two are near, both count, where the greater of the two
    (Carlini and Wagner's detector as one more class) or the first that is missed (selective gradient descent) would make
    steps go to and fro. Measured in `recipes/detectors.py`: with the same steps more is reached than with any of those.

    The margin is the sum of the members' margins, so that it is zero just where all are.

    Sources: Carlini and Wagner 2017, "Adversarial examples are not easily detected"; Bryniarski et al. 2021,
    "Evading adversarial example detection defenses with orthogonal projected gradient descent".

    >>> from audioadv.threat.labels import Classify, Misclassify
    >>> str(Misclassify(3) & Classify(5))
    'not class 3, and class 5'
    """

    goals: tuple["Goal", ...]

    def loss(self, outputs: Any) -> Tensor:
        return torch.stack([F.softplus(goal.lack(outputs)) for goal in self.goals]).sum(0)

    def margin(self, outputs: Any, slack: float | Tensor = 0.0) -> Tensor:
        return torch.stack([goal.margin(outputs, slack) for goal in self.goals]).sum(0)

    def reached(self, outputs: Any) -> Tensor:
        return torch.stack([goal.reached(outputs) for goal in self.goals]).all(0)

    @property
    def apart(self) -> Callable[[Any], Tensor]:
        """What all members are short of by decisions alone, added up. AttributeError, so nothing to have, where one of them cannot tell."""
        each: list[Callable[[Any], Tensor]] = [goal.apart for goal in self.goals]  # type: ignore[attr-defined]
        return lambda outputs: torch.stack([part(outputs).clamp_min(0).float() for part in each]).sum(0)

    def aimed(self, outputs: Any, count: int) -> list["Joined"]:
        """This goal by way of one rival class each, nearest first, where a member has rivals (`Misclassify.aimed`)."""
        ways = [goal.aimed(outputs, count) if rivalled(goal) else None for goal in self.goals]
        number = min(len(way) for way in ways if way is not None)
        return [Joined(tuple(way[k] if way else goal for way, goal in zip(ways, self.goals, strict=True))) for k in range(number)]

    def rows(self, index: Tensor) -> "Joined":
        return Joined(tuple(goal.rows(index) for goal in self.goals))

    def impossible(self, outputs: Any) -> list[str | None]:
        reasons = zip(*(goal.impossible(outputs) for goal in self.goals), strict=True)
        return [next((why for why in each if why is not None), None) for each in reasons]

    def __str__(self) -> str:
        return ", and ".join(map(str, self.goals))

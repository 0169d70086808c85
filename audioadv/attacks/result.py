"""How an attack ended, example by example."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from torch import Tensor


@final
class Outcome(StrEnum):
    """How it ended for one example; `sentence` says it in words.

    NEEDLESS is said by attacks that look at the clean input, or come back to it: one that begins elsewhere (pgd, apgd, square, with a
    random start) does not, and one that shrinks what it found (find_then_shrink) may end a hair away; both say REACHED. MISSED is said
    of the inputs that were tried: the clean one, which is returned, is among them only where the attack looked at it. `evaluate` and
    `craft` look first.
    """

    REACHED = "reached"
    MISSED = "missed"
    NEEDLESS = "needless"
    INFEASIBLE = "infeasible"
    NOT_FINITE = "not_finite"

    @property
    def reached(self) -> bool:
        """Whether the goal is reached, by a change or without one."""
        return self in (Outcome.REACHED, Outcome.NEEDLESS)

    @property
    def sentence(self) -> str:
        """The outcome in words."""
        return SENTENCES[self]


SENTENCES = {
    Outcome.REACHED: "The goal is reached within the bound.",
    Outcome.MISSED: "No input within the bound was found that reaches the goal. More steps or a wider bound may find one.",
    Outcome.NEEDLESS: "The clean input already reaches the goal; it is returned as it was.",
    Outcome.INFEASIBLE: "The goal cannot be reached by any input of this length.",
    Outcome.NOT_FINITE: "The model gave a loss or slope that is not a finite number; the clean input is returned.",
}


@final
@dataclass(frozen=True, eq=False)
class AttackResult:
    """The best adversarial input of each example, and what it took.

    Shapes: adversarial [batch, *], the clean input where nothing was found; gauge [batch], the smallest radius that holds
    it, in the norm's unit; steps, forwards, backwards [batch]; parameters [batch, *], the region's own, or None where they are
    adversarial - clean. `outcome` has one entry an example. Over a channel, `rate` [batch] is the share of check draws that
    reach the goal, of which a search for the smallest seeks no more than it needs; an input whose rate is too low is returned
    all the same, as MISSED. `shared` [*] is the one change of an attack that makes one for all.
    """

    adversarial: Tensor
    outcome: tuple[Outcome, ...]
    gauge: Tensor
    steps: Tensor
    forwards: Tensor
    backwards: Tensor
    parameters: Tensor | None = None
    rate: Tensor | None = None
    shared: Tensor | None = None

    @property
    def reached(self) -> list[bool]:
        """Whether each example is where the goal wanted it: by the attack, or from the start."""
        return [outcome.reached for outcome in self.outcome]


Attack = Callable[..., AttackResult]
"""An attack of an objective and a region, with its options filled in; where there is a `progress`, it is given one as well."""

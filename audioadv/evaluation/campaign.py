"""What the evaluations of classifiers and of recognisers share: the attacker's terms, who attacks what, and what each attack takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self, final

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.survivors import Attack
from audioadv.attacks.to_the_end import to_the_end
from audioadv.attacks.union import worst_member
from audioadv.defenses.statement import Statement, stated
from audioadv.errors import OptionError
from audioadv.evaluation.adaptive import Plan, planned
from audioadv.evaluation.terms import Terms, agreed, refuse_memory
from audioadv.models.access import Access
from audioadv.models.rest import at_rest
from audioadv.threat.goals import Goal
from audioadv.threat.region import Region

TO_THE_END = "pgd to its last step"  # what just fools one model seldom fools another


class Round(NamedTuple):
    """One attack on one view of the model; a `static` one does not know of the defense."""

    name: str
    attack: Attack
    view: Objective
    static: bool


class Strike(NamedTuple):
    """What an attack found, and how many forwards each example has taken by then. Shapes: asked int64 [rows]."""

    result: AttackResult
    asked: Tensor


@final
@dataclass(frozen=True, eq=False)
class Campaign:
    """All attacks on one model, one after the other.

    `model` is granted as much as was agreed. `spent` [2, examples] counts forwards so far, all attacks' together: of the model, and of
    what stands for it where nobody knows of the defense.
    """

    model: Any
    statement: Statement
    terms: Terms
    plan: Plan
    spent: Tensor
    seed: int

    @classmethod
    def against(
        cls,
        model: Callable[..., Any],
        goal: Goal,
        threat: object,
        count: int,
        *,
        lengths: Tensor | None = None,
        static: Callable[..., Any] | None = None,
        draws: int = 8,
        judge_draws: int = 32,
        seed: int = 0,
    ) -> Self:
        """What is agreed with whoever attacks the model's answers to so many examples. Options are those of `planned`.

        Raises OptionError for a threat model that an evaluation does not measure, or that this model does not suit.
        """
        statement = stated(model)
        terms = agreed(threat, goal, statement)
        refuse_memory(model, statement)
        if terms.knowledge == "transfer" and (static is None or static is model):
            raise OptionError(
                "knowledge 'transfer': the attacker works on a substitute. Give it, another model that takes the same inputs: static="
            )
        model = terms.granting(model)
        plan = planned(model, goal, lengths, static=static, draws=draws, judge_draws=judge_draws, seed=seed)
        return cls(model, statement, terms, plan, torch.zeros(2, count, dtype=torch.int64), seed)

    def rounds(self, unaware: Mapping[str, Attack], aware: Mapping[str, Attack], *, to_its_end: bool) -> list[Round]:
        """Who attacks what: where there is a defense first those who do not know of it, then, if that was agreed, those who do.

        With `to_its_end`, PGD that goes on past its goal is one of the first, where the model that it attacks has gradients.
        """
        there, adaptive = self.plan.static, self.plan.adaptive
        if to_its_end and there is not None and there.granted is Access.GRADIENTS:
            unaware = {**unaware, TO_THE_END: partial(to_the_end, seed=self.seed)}
        first = [Round(f"{name}, static", attack, there, True) for name, attack in unaware.items() if there is not None]
        if there is not None and self.terms.knowledge != "adaptive":
            return first
        way = self.plan.way
        return [*first, *(Round(", ".join(filter(None, (name, way))), attack, adaptive, False) for name, attack in aware.items())]

    def strike(self, turn: Round, wanted: Objective, rows: Tensor, region: Region) -> Strike:
        """This round's attack on some of the examples; `wanted` is its view, begun with all. Shapes: rows int64 [some]."""
        with at_rest(self.model):
            result = worst_member(turn.attack, wanted.rows(rows), region)
        asked = self.spent[int(turn.static)]
        asked[rows] += result.forwards
        return Strike(result, asked[rows])

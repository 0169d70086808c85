"""What the evaluations of classifiers and of recognisers share: the attacker's terms, who attacks what, and what each attack takes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self, TypeVar, final

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.own import whole
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.to_the_end import to_the_end
from audioadv.attacks.union import worst_member
from audioadv.defenses.statement import Statement, refuse_memory, stated
from audioadv.errors import AccessDenied, OptionError
from audioadv.evaluation.adaptive import Plan, planned
from audioadv.evaluation.standing import Attempt
from audioadv.evaluation.terms import Terms, agreed
from audioadv.models.access import Access
from audioadv.models.rest import at_rest
from audioadv.threat.goals import Goal
from audioadv.threat.region import Region

TO_THE_END = "pgd to its last step"  # what just fools one model seldom fools another
Part = TypeVar("Part", bound=Attempt, covariant=True)


class Round(NamedTuple):
    """One attack on one view of the model; a `static` one does not know of the defense."""

    name: str
    attack: Attack
    view: Objective
    static: bool


class Strike(NamedTuple):
    """What an attack found and took, and how many forwards each example has taken by then, those of earlier attacks among them.

    Shapes: cost int64 [2, rows]: forwards, backwards; asked int64 [rows].
    """

    result: AttackResult
    cost: Tensor
    asked: Tensor


class Referee(Protocol[Part]):
    """Who says what counts of what attacks find, and keeps what has become of each example."""

    @property
    def correct(self) -> Tensor:
        """Which were right before any attack. Shapes: bool [examples]."""
        ...

    @property
    def gauge(self) -> Tensor:
        """How far the nearest find is: zero where none was needed, infinite where there is none yet. Shapes: [examples]."""
        ...

    def around(self, rows: Tensor) -> Region:
        """What these examples may be changed to. Shapes: int64 [rows]."""
        ...

    def judge(
        self, rows: Tensor, region: Region, result: AttackResult, in_time: Callable[[Tensor], Tensor]
    ) -> tuple[Sequence[bool], Sequence[Any]]:
        """Take in an attack's finds. Gives which examples fell, and what is told of each find in the attack's own part.

        `in_time` picks, of finds that would count, those that took no more queries than was agreed, and warns of the others: bool
        [rows] -> bool [rows]. Shapes: rows int64 [rows].
        """
        ...

    def part(self, found: Mapping[int, Any], **attempt: Any) -> Part:
        """One attack's part, from what is told of its finds, by example, and an Attempt's fields."""
        ...


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
        if to_its_end and there is not None and there.granted is Access.GRADIENTS and there.slopes is None:
            unaware = {**unaware, TO_THE_END: partial(to_the_end, seed=self.seed)}
        first = [Round(f"{name}, static", attack, there, True) for name, attack in unaware.items() if there is not None]
        if there is not None and self.terms.knowledge != "adaptive":
            return first
        way = self.plan.way
        return [*first, *(Round(", ".join(filter(None, (name, way))), attack, adaptive, False) for name, attack in aware.items())]

    def fight(
        self,
        rounds: Sequence[Round],
        inputs: Tensor,
        referee: Referee[Part],
        *,
        batch: int,
        see_all: bool = False,
        tell: Callable[[str, int, int], None] | None = None,
    ) -> tuple[Part, ...]:
        """Every round, one after the other, and the referee's word on what is found; each attack's part.

        An attack tries what all before it left standing; with `see_all`, or where the smallest change is sought, all that was right.
        `tell` learns the attack, how many of the examples that it tries are done, and how many it tries. Shapes: inputs [examples, *].
        """
        parts = list[Part]()
        for turn in rounds:
            wanted, found = turn.view.begun(inputs), dict[int, Any]()
            tried = referee.correct.clone() if see_all or self.terms.bound.minimal else referee.correct & referee.gauge.isinf()
            felled, cost = torch.zeros_like(tried), torch.zeros(2, len(tried), dtype=torch.int64)
            size = max(1, len(tried)) if whole(turn.attack).examples else batch
            for rows in in_parts(tried.nonzero()[:, 0], size, tell and partial(tell, turn.name)):
                region = referee.around(rows)
                result, cost[:, rows], asked = self.strike(turn, wanted, rows, region)
                fell, told = referee.judge(rows, region, result, partial(self.terms.within_queries, turn.name, asked))
                felled[rows] = torch.tensor(fell)
                found |= zip(rows.tolist(), told, strict=True)
            parts.append(
                referee.part(found, attack=turn.name, tried=tried, felled=felled, forwards=cost[0], backwards=cost[1], static=turn.static)
            )
        return tuple(parts)

    def strike(self, turn: Round, wanted: Objective, rows: Tensor, region: Region) -> Strike:
        """This round's attack on some of the examples; `wanted` is its view, begun with all. Shapes: rows int64 [some].

        The attack gets a copy of the region: what it writes over there changes nothing of what its finds are measured by. Raises
        AccessDenied for one that wants slopes, where there are none and draws differ too much to estimate them; OptionError for one that
        makes a change for each input, where one is asked for all.
        """
        copy = region.rows(torch.arange(len(region.clean), device=region.clean.device))
        try:
            with at_rest(self.model):
                result = worst_member(turn.attack, wanted.rows(rows), copy)
        except AccessDenied as error:
            if wanted.expectation is None or self.statement.backward != "none":
                raise
            raise AccessDenied(
                f"{turn.name}: {error}. Of answers that are drawn anew no slopes are estimated either: use one that only asks (square, "
                "greedy, genetic, boundary, hop_skip_jump, for a classifier 'standard')"
            ) from None
        if getattr(region.map, "shared", False) and result.shared is None:
            raise OptionError(f"{turn.name}: a change for each input, but {self.terms.bound} is one for all inputs. Use rp2")
        asked, cost = self.spent[int(turn.static)], taken(result, wanted, rows)
        asked[rows] += cost[0]
        return Strike(result, cost, asked[rows])


def taken(result: AttackResult, wanted: Objective, rows: Tensor) -> Tensor:
    """The passes of each example: those that the attack tells of, or those that its objective counted, where these are more.

    What it asks the model past the objective, nobody counts. Shapes: rows int64 [rows] -> int64 [2, rows]: forwards, backwards.
    """
    counted = wanted.cost.total()[:, rows]
    return counted.maximum(torch.stack([result.forwards, result.backwards]).to(counted))


def in_parts(rows: Tensor, size: int, tell: Callable[[int, int], object] | None = None) -> Iterator[Tensor]:
    """These rows, so many at a time; after each part, and once where there is none, `tell` learns how many are done, and of how many.

    >>> [part.tolist() for part in in_parts(torch.arange(3), 2, print)]
    2 3
    3 3
    [[0, 1], [2]]
    """
    count = len(rows)
    for first in range(0, max(1, count), size):
        if count:
            yield rows[first : first + size]
        if tell is not None:
            tell(min(first + size, count), count)

"""One attack after another, each only on the examples that are still standing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult, Outcome
from audioadv.attacks.run import Tell, check_objective, put
from audioadv.threat.projections import each
from audioadv.threat.region import Region


def one_after_another(stages: Iterable[tuple[Objective, Attack]], region: Region, progress: Tell | None = None) -> AttackResult:
    """Each attack gets the examples that all before it missed, so that a further stage never hurts.

    Every stage brings its own objective over the whole batch: another goal on the way to the same end, say. Steps and passes
    add up. `progress` is told of the whole batch, step by step; once it says that it is enough, no further stage begins.
    Shapes: as in `region.clean`.
    """
    total, told = nothing_yet(region), None if progress is None else Told(progress)
    for objective, attack in stages:
        left = standing(total)
        if not len(left) or (told is not None and told.enough):
            break
        check_objective(objective)
        rows = left.to(region.clean.device)
        width = region.clean.shape[-1] if objective.lengths is None else int(objective.lengths[rows].max())
        some = objective.begun(region.clean).rows(left), region.rows(rows, width)
        total = merged(total, attack(*some) if told is None else attack(*some, progress=told.of(total, rows)), left)
    return total


def restarted(
    attack: Attack, objective: Objective, region: Region, *, restarts: int, seed: int = 0, progress: Tell | None = None, **options: Any
) -> AttackResult:
    """The attack (with `options`) so many times, each on what still stands, with random numbers and, over a channel, draws of its own.

    Over a channel all are checked by the same draws, and of an example that no start brings there the one of the highest rate is
    kept. Shapes: as in `region.clean`.
    """
    return one_after_another(starts(partial(attack, **options), objective, restarts, seed), region, progress)


def starts(attack: Attack, objective: Objective, count: int, seed: int, **later: Any) -> list[tuple[Objective, Attack]]:
    """So many starts of an attack, with seeds and, over a channel, draws of their own; all but the first with the options `later`."""
    return [(started(objective, n), partial(attack, seed=seed + n, **(later if n else {}))) for n in range(count)]


def started(objective: Objective, number: int) -> Objective:
    """The objective for another start: over a channel, it meets other draws."""
    over = objective.expectation
    return objective if over is None else replace(objective, expectation=replace(over, start=number))


@final
@dataclass(eq=False)
class Told:
    """A `progress` that attacks on some rows tell, one after another, of the whole batch: their steps add up."""

    progress: Tell
    taken: int = 0
    enough: bool = False

    def of(self, total: AttackResult, rows: Tensor) -> Tell:
        """What the next attack is to tell; `total` is what all before it have found. Shapes: rows [some]."""
        before = self.taken

        def tell(step: int, gauge: Tensor, best: Tensor) -> bool:
            inputs = total.adversarial.clone()
            put(inputs, rows, best)
            self.taken = before + step
            self.enough = self.progress(self.taken, total.gauge.index_copy(0, rows, gauge), inputs) is True
            return self.enough

        return tell

    def nearer(self, found: Sequence[AttackResult]) -> Tell:
        """A `progress` for the next attack on all rows: it tells, of each example, the smallest change that it or these have found."""
        before = self.taken
        least, inputs = (found[0].gauge, found[0].adversarial) if found else (None, None)
        for one in found[1:]:
            least, inputs = smaller(one.gauge, one.adversarial, least, inputs)

        def tell(step: int, gauge: Tensor, best: Tensor) -> bool:
            self.taken = before + step
            self.enough = self.progress(self.taken, *smaller(gauge, best, least, inputs)) is True
            return self.enough

        return tell


def smaller(gauge: Tensor, inputs: Tensor, least: Tensor | None, others: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of two changes of each example the smaller one's gauge, and input. Shapes: gauge and least [batch], inputs and others [batch, *]."""
    if least is None or others is None:
        return gauge, inputs
    return torch.minimum(gauge, least), torch.where(each(gauge < least, inputs), inputs, others)


def nearest(runs: Iterable[tuple[Objective, Attack]], region: Region, progress: Tell | None = None) -> AttackResult:
    """Every attack gets all examples, and the smallest change of each is kept. Steps and passes add up.

    `progress` is told of the smallest so far; once it says that it is enough, no further attack begins. Shapes: as in `region.clean`.
    """
    found, told = list[AttackResult](), None if progress is None else Told(progress)
    for objective, attack in runs:
        found.append(attack(objective, region) if told is None else attack(objective, region, progress=told.nearer(found)))
        if told is not None and told.enough:
            break
    best, every = torch.stack([one.gauge for one in found]).argmin(0), torch.arange(len(region.clean), device=region.clean.device)

    def of(parts: list[Tensor | None]) -> Tensor | None:
        whole = [part for part in parts if part is not None]
        return torch.stack(whole)[best, every] if whole else None

    def total(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).sum(0)

    adversarial, gauge = of([one.adversarial for one in found]), of([one.gauge for one in found])
    assert adversarial is not None
    assert gauge is not None
    return AttackResult(
        adversarial,
        tuple(found[which].outcome[i] for i, which in enumerate(best.tolist())),
        gauge,
        total([one.steps for one in found]),
        total([one.forwards for one in found]),
        total([one.backwards for one in found]),
        of([one.parameters for one in found]),
        of([one.rate for one in found]),
    )


def nothing_yet(region: Region) -> AttackResult:
    """The result of no attack at all."""
    count, none = len(region.clean), torch.zeros(len(region.clean), dtype=torch.int64)
    far = region.clean.new_full((count,), torch.inf)
    parameters = None if region.added else region.start()
    return AttackResult(region.clean, (Outcome.MISSED,) * count, far, none, none, none, parameters, torch.zeros_like(far))


def standing(result: AttackResult) -> Tensor:
    """Which examples have not come to the goal. Shapes: -> int64 [fewer], on the CPU."""
    return torch.tensor([i for i, reached in enumerate(result.reached) if not reached], dtype=torch.int64)


def merged(total: AttackResult, later: AttackResult, left: Tensor) -> AttackResult:
    """The result of all attacks so far, where `later` is that of the examples `left` to a further one.

    Where both missed, what came nearer stays: over a channel, the higher rate.
    """
    spot, outcome = left.to(total.gauge.device), list(total.outcome)
    better = torch.ones_like(later.gauge, dtype=torch.bool) if total.rate is None or later.rate is None else later.rate >= total.rate[spot]
    for row, (i, taken) in enumerate(zip(left.tolist(), better.tolist(), strict=True)):
        outcome[i] = later.outcome[row] if taken else outcome[i]

    def best(before: Tensor | None, after: Tensor | None) -> Tensor | None:
        if before is None or after is None:
            return None
        put(before := before.clone(), spot, after, better)
        return before

    def sum_of(before: Tensor, after: Tensor) -> Tensor:
        return before.index_add(0, left, after)

    adversarial, gauge = best(total.adversarial, later.adversarial), best(total.gauge, later.gauge)
    assert adversarial is not None
    assert gauge is not None
    return AttackResult(
        adversarial,
        tuple(outcome),
        gauge,
        sum_of(total.steps, later.steps),
        sum_of(total.forwards, later.forwards),
        sum_of(total.backwards, later.backwards),
        best(total.parameters, later.parameters),
        best(total.rate, later.rate),
    )

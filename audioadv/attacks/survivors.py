"""One attack after another, each only on the examples that are still standing."""

import math
from collections.abc import Callable, Iterable

import torch

from audioadv.attacks.objective import Cost, Objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.attacks.run import Tell, ended
from audioadv.threat.region import Region

Attack = Callable[[Objective, Region], AttackResult]
"""An attack with its options filled in."""


def one_after_another(stages: Iterable[tuple[Objective, Attack]], region: Region, progress: Tell | None = None) -> AttackResult:
    """Each attack gets the examples that all before it missed, so that a further stage never hurts.

    Every stage brings its own objective over the whole batch: another goal on the way to the same end, say. Steps and passes
    add up. `progress` is told after each stage. Shapes: as in `region.clean`.
    """
    count = len(region.clean)
    best, gauge = region.clean.clone(), region.clean.new_full((count,), math.inf)
    steps, cost, broken = torch.zeros(count, dtype=torch.int64), Cost.nothing(count), torch.zeros(count, dtype=torch.bool)
    for number, (objective, attack) in enumerate(stages, 1):
        standing = gauge.isinf().cpu().nonzero()[:, 0]
        if not len(standing):
            break
        rows = standing.to(best.device)
        width = best.shape[-1] if objective.lengths is None else int(objective.lengths[rows].max())
        result = attack(objective.begun(count).rows(standing), region.rows(rows, width))
        best[rows, ..., :width], gauge[rows] = result.adversarial, result.gauge
        steps[standing] += result.steps
        cost.forwards[standing] += result.forwards
        cost.backwards[standing] += result.backwards
        broken[standing] = torch.tensor([outcome is Outcome.NOT_FINITE for outcome in result.outcome])
        if progress is not None:
            progress(number, gauge, best)
    outcome = tuple(ended(size, bad) for size, bad in zip(gauge.tolist(), broken.tolist(), strict=True))
    return AttackResult(best, outcome, gauge, steps, cost.forwards, cost.backwards)

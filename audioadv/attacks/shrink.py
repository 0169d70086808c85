"""Find, then shrink: the attack behind `craft`."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective, at_rest
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.threat.projections import each
from audioadv.threat.region import Region

Tell = Callable[[int, Tensor, Tensor], None]


@final
@dataclass(frozen=True, eq=False)
class Search:
    """Where each example that is still searched for stands. Shapes: delta and velocity [batch, *], the others [batch]."""

    delta: Tensor
    velocity: Tensor
    found: Tensor

    def rows(self, index: Tensor, width: int) -> "Search":
        """The search of some of the examples, cut to `width` along the last axis."""
        return Search(self.delta[index][..., :width], self.velocity[index][..., :width], self.found[index])


def find_then_shrink(
    objective: Objective,
    region: Region,
    *,
    steps: int = 500,
    minimal: bool = True,
    seed: int = 0,
    start: float = 0.1,
    step_size: float = 0.1,
    momentum: float = 0.8,
    shrink: float = 0.93,
    slack: float = 1.0,
    progress: Tell | None = None,
) -> AttackResult:
    """Bring each example to its goal within its region; with `minimal`, within the smallest region that can be found."""
    clean, count = region.clean, len(region.clean)
    best, best_gauge = clean.clone(), clean.new_full((count,), math.inf)
    broken = torch.zeros(count, dtype=torch.bool)
    taken = torch.zeros(count, dtype=torch.int64)
    first = region.norm.gauge(clean)  # a change as large as the input itself
    here, who, cost = torch.arange(count), objective.who, objective.cost
    search = Search(torch.zeros_like(clean), torch.zeros_like(clean), torch.zeros_like(first, dtype=torch.bool))
    if minimal:
        region = region.at(start * first)
    with at_rest(objective.model):
        for step in range(steps):
            taken[here] += 1
            delta = search.delta.requires_grad_()
            inputs = region.inputs(delta)
            outputs = objective.judge(inputs)
            reached, gauge = objective.goal.reached(outputs), region.gauge(inputs.detach())
            found = search.found | reached
            loss = torch.where(found, objective.goal.margin(outputs, slack), objective.goal.loss(outputs))
            slope = objective.slope(loss, delta)
            inputs, delta = inputs.detach(), delta.detach()

            spot = here.to(clean.device)
            better = reached & (gauge <= region.radius) & (gauge < best_gauge[spot])
            best[spot, ..., : inputs.shape[-1]] = torch.where(each(better, inputs), inputs, best[spot, ..., : inputs.shape[-1]])
            best_gauge[spot] = torch.where(better, gauge, best_gauge[spot])
            finite = slope.flatten(1).isfinite().all(1) & loss.detach().isfinite()
            gone = (~finite | (better & (not minimal))).cpu()  # the one synchronisation of a step
            broken[here] |= ~finite.cpu()

            velocity = momentum * search.velocity + (1 - momentum) * region.steepest(slope)
            radius = torch.where(better, gauge * shrink, region.radius) if minimal else region.radius
            region = region.at(radius)
            delta = region.project(delta - each(step_size * radius, delta) * velocity)
            search = replace(search, delta=delta, velocity=velocity, found=found)
            if progress is not None:
                progress(step + 1, best_gauge, best)
            if gone.any():
                stay = (~gone).nonzero()[:, 0]
                if not len(stay):
                    break
                here, objective = here[stay], objective.rows(stay)
                width = clean.shape[-1] if objective.lengths is None else int(objective.lengths.max())
                stay = stay.to(clean.device)
                region, search = region.rows(stay, width), search.rows(stay, width)
    hits = best_gauge.isfinite().tolist()
    outcome = tuple(
        Outcome.REACHED if hit else Outcome.NOT_FINITE if bad else Outcome.MISSED for hit, bad in zip(hits, broken.tolist(), strict=True)
    )
    return AttackResult(best, outcome, best_gauge, taken, cost.forwards[who], cost.backwards[who])

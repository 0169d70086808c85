"""Auto-PGD: gradient descent that finds its own step size.

Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks".
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audioadv.attacks.draws import random_start
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_fixed_radius, check_objective, cut, finite_rows
from audioadv.attacks.survivors import one_after_another, restarted
from audioadv.models.access import Access
from audioadv.models.rest import at_rest
from audioadv.options import check_counts
from audioadv.threat.joined import rivalled, several
from audioadv.threat.labels import Confidence, dlr
from audioadv.threat.projections import each
from audioadv.threat.region import Region

ALPHA = 0.75  # how much of a move is the new step; the rest is momentum
RHO = 0.75  # the share of steps that have to descend
FIRST_STEP, FIRST_STEP_OF_SEVERAL = 2.0, 0.5  # times the radius


def checkpoints(steps: int) -> set[int]:
    """After which steps progress is judged: 22 % of them, then periods that shrink by 3 points, to 6 % at least.

    >>> sorted(checkpoints(100))[:5]
    [22, 41, 57, 70, 80]
    """
    period, places, place = max(int(0.22 * steps), 1), set(), 0
    while place + period <= steps:
        place += period
        places.add(place)
        period = max(period - max(int(0.03 * steps), 1), int(0.06 * steps), 1)
    return places


def apgd(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    restarts: int = 1,
    early_stop: bool = True,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """Steps of twice the radius with momentum; where progress stalls, half the step, from the best point so far.

    A joined goal begins with a quarter of that. A step that long undoes the part that was reached to mend the other, and the
    next the other way round: against a detector that watches several layers (`recipes/detectors.py`) 60 steps from twice the
    radius reach 57 of 94, from half of it 93.

    An example stalls where, since the last checkpoint, no more than 75 % of its steps descended, or neither its step size nor
    its best loss has changed. The loss is the goal's own (`Misclassify(labels, dlr)`, say). One forward and one backward a
    step, and a forward for the last iterate; fallen examples leave with `early_stop`. Shapes: as in `region.clean`.
    """
    check_objective(objective)
    check_counts("apgd", steps=steps, restarts=restarts)
    check_fixed_radius(region, "apgd")
    if restarts > 1:
        once = partial(apgd, steps=steps, early_stop=early_stop)
        return restarted(once, objective, region, restarts=restarts, seed=seed, progress=progress)
    run, judged, since = Run(objective, region, progress), checkpoints(steps), -1  # the start is no step
    delta = before = low_delta = random_start(region, seed)
    low_slope = torch.zeros_like(delta)
    lowest, last = torch.full_like(region.radius, torch.inf), torch.full_like(region.radius, -torch.inf)
    first = FIRST_STEP_OF_SEVERAL if several(objective.goal) else FIRST_STEP
    step, descents, lowest_then = first * region.radius, torch.zeros_like(region.radius), lowest
    halved = torch.ones_like(region.radius, dtype=torch.bool)
    with at_rest(objective.model):
        for number in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            slope = run.region.pull(delta, look.slope)
            better, descents, last, since = look.loss < lowest, descents + (look.loss < last), look.loss, since + 1
            lowest = torch.where(better, look.loss, lowest)
            low_delta = torch.where(each(better, delta), delta, low_delta)
            low_slope = torch.where(each(better, delta), slope, low_slope)
            if number in judged:
                stalled = (descents <= RHO * since) | (~halved & (lowest_then <= lowest))
                step, halved = torch.where(stalled, step / 2, step), stalled
                delta, slope = torch.where(each(stalled, delta), low_delta, delta), torch.where(each(stalled, delta), low_slope, slope)
                descents, lowest_then, since = torch.zeros_like(descents), lowest, 0

            target = run.region.project(delta - each(step, delta) * run.region.steepest(slope))
            moved = delta + ALPHA * (target - delta) + (1 - ALPHA) * (delta - before)
            before, delta = delta, run.region.project(moved) if number else target
            if left := run.leave(finite_rows(look.loss, look.slope), kept & early_stop):
                delta, before, low_delta, low_slope = cut(left, delta, before, low_delta, low_slope)
                lowest, last, lowest_then, step = cut(left, lowest, last, lowest_then, step)
                descents, halved = cut(left, descents, halved)
                if not len(delta):
                    break
        else:
            inputs = run.region.inputs(delta)
            run.keep(inputs, run.objective.decide(inputs), delta)
    return run.result()


def apgd_targeted(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    rivals: int = 9,
    confidence: Confidence = dlr,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """APGD toward one rival class after another, those with the best scores on the clean input first.

    `confidence` compares the label with one rival (`threat/labels.py`). Each class costs `steps` for the examples still
    standing, and the ranking one forward. Shapes: as in `region.clean`.
    """
    check_objective(objective)
    check_counts("apgd_targeted", steps=steps, rivals=rivals)
    goals, ranking = aimed(objective, region.clean, rivals, confidence)
    stages = [(replace(objective, goal=goal), partial(apgd, steps=steps, seed=seed + k)) for k, goal in enumerate(goals)]
    result = one_after_another(stages, region, progress)
    return replace(result, forwards=result.forwards + ranking)


def aimed(objective: Objective, clean: Tensor, count: int, confidence: Confidence) -> tuple[list[Any], Tensor]:
    """The goal by way of one rival each, nearest first, and the forwards it took; the goal alone where it has none.

    Raises AccessDenied where the model grants no scores to rank rivals by.
    """
    if not rivalled(objective.goal):
        return [objective.goal], torch.zeros(len(clean), dtype=torch.int64)
    started = objective.begun(clean)
    started.demand(Access.SCORES)
    with torch.no_grad(), at_rest(objective.model):
        goals = objective.goal.aimed(started.outputs(clean), count)
    return [replace(objective, goal=goal).by(confidence).goal for goal in goals], started.cost.forwards

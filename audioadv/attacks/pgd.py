"""Projected gradient descent within a fixed region.

Sources: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks"; for momentum, Dong et
al. 2018, "Boosting adversarial attacks with momentum".
"""

from functools import partial

import torch
from torch import Tensor

from audioadv.attacks import draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.replay import Replay, check_replayable
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_fixed_radius, check_objective, cut, finite_rows, row_sums
from audioadv.attacks.survivors import one_after_another, starts
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_shares, check_sizes
from audioadv.threat.joined import several
from audioadv.threat.projections import each, sum_of
from audioadv.threat.region import Region

MOMENTUM_OF_SEVERAL = 0.75


def pgd(
    objective: Objective,
    region: Region,
    *,
    steps: int = 40,
    step_size: float = 0.1,
    momentum: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    early_stop: bool = True,
    graph: bool = False,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """From a random start, `steps` steps of `step_size` times the radius along the steepest descent, projected each time.

    With `momentum`, the direction is that of the running sum of slopes, each first divided by its L1 norm. None is none, but
    for a joined goal 0.75: its parts pull to and fro, and the sum is where both go (`recipes/detectors.py`). Without
    `random_start` it begins at the clean input (the basic iterative method), where restarts after the first would only begin
    again: these start at random. Each of the `restarts` takes only the examples that are still standing.

    The first input that reaches the goal is kept, and its example leaves; without `early_stop` all go on.
    One forward and one backward a step, and a forward for the last iterate. With `graph` and without `early_stop`, a step on CUDA
    is recorded and replayed (`replay.py` says what net can be). Shapes: as in `region.clean` and `objective`.
    """
    check_objective(objective)
    check_counts("pgd", steps=steps, restarts=restarts)
    check_sizes("pgd", step_size=step_size)
    momentum = (MOMENTUM_OF_SEVERAL if several(objective.goal) else 0.0) if momentum is None else momentum
    check_shares("pgd", momentum=momentum)
    check_fixed_radius(region, "pgd")
    if graph:
        check_replayable(objective, early_stop)
    if restarts > 1:
        once = partial(pgd, steps=steps, step_size=step_size, momentum=momentum, early_stop=early_stop, graph=graph)
        once = partial(once, random_start=random_start)
        return one_after_another(starts(once, objective, restarts, seed, random_start=True), region, progress)
    run = Run(objective, region, progress)
    delta = draws.random_start(region, seed) if random_start else region.start()
    velocity, size = torch.zeros_like(delta), step_size * region.radius

    def step(delta: Tensor, velocity: Tensor) -> tuple[Tensor, ...]:
        inputs = run.region.inputs(delta)
        look = run.objective.look(inputs)
        kept = run.keep(inputs, look.reached if early_stop else look.reached & run.open(), delta)
        finite = finite_rows(look.loss, look.slope) if early_stop else kept  # now: a step may write over the slope
        slope = run.region.pull(delta, look.slope)
        if momentum:
            size_of = sum_of(slope.abs()).clamp_min(1e-30)  # not their mean, which the padding has a part in
            velocity = momentum * velocity + slope / each(size_of, slope)
            slope = velocity.clone()
        return run.region.descend(delta, slope, size), velocity, look.loss, finite, kept

    with at_rest(objective.model):
        again = Replay(step, run.cost) if graph and delta.is_cuda else step
        for _ in range(steps):
            delta, velocity, loss, finite, kept = again(delta, velocity)
            if not early_stop:
                run.stay(loss)
                if run.enough:
                    break
            elif left := run.leave(finite, kept):
                delta, velocity, size = cut(left, delta, velocity, size)
                if not len(delta):
                    break
        else:
            inputs = run.region.inputs(delta)
            run.keep(inputs, run.objective.decide(inputs) & run.open(), delta)
            run.sums += row_sums(delta)  # a slope that was not a number has made them such
    return run.result()

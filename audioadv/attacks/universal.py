"""One perturbation for all examples.

Sources: Moosavi-Dezfooli et al. 2017, "Universal adversarial perturbations"; the descent on a clipped loss, Shafahi et al.
2020, "Universal adversarial training", algorithm 2.
"""

import torch

from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective, at_rest
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, plain_changes
from audioadv.errors import UnusableBatch
from audioadv.threat.projections import each
from audioadv.threat.region import Region


def universal(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    step_size: float = 0.1,
    batch: int = 64,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """One change within the bound that brings as many examples as possible to the goal.

    Each step takes a batch drawn from the examples not there yet, in the mean of their steepest directions; the change is
    projected onto the ball, and cut to each input's own box when it is added. Kept is the change that most examples fell to:
    the others are returned clean. By its nature an example's outcome depends on the others.

    Shapes: as in `region.clean`; all of one length. Raises UnusableBatch for radii or lengths that differ.
    """
    plain_changes(region, "universal")
    if len(region.radius) and not bool((region.radius == region.radius[0]).all()):
        raise UnusableBatch("universal: the examples' radii differ, but one change is for all. Take a bound with one radius")
    run, count = Run(objective, region, progress), len(region.clean)
    one = region.rows(torch.arange(min(count, 1), device=region.clean.device))
    draws = Draws(torch.full((1,), seed, dtype=torch.int64, device=region.clean.device))
    shared = torch.zeros_like(one.clean)
    best, most = shared, torch.zeros((), device=shared.device) - 1
    there = torch.zeros(count, dtype=torch.bool, device=region.clean.device)
    with at_rest(objective.model):
        for number in range(steps if count else 0):
            waiting = (~there).nonzero()[:, 0] if bool((~there).any()) else torch.arange(count, device=there.device)
            rows = waiting[draws.uniform(waiting[None].to(shared)).argsort(1)[0, :batch]]
            some, objective_of_some = region.rows(rows), run.objective.rows(rows.cpu())
            look = objective_of_some.look(some.inputs(boxed(some, shared.expand_as(some.clean))))
            push = some.steepest(look.slope * each(~look.reached, look.slope)).sum(0, keepdim=True)
            step = each(step_size * one.radius, push) * one.norm.steepest(push)
            shared = one.norm.project(shared - step, one.radius, None, None)
            if number % 10 == 9 or number == steps - 1:
                inputs = region.inputs(boxed(region, region.unpadded(shared.expand_as(region.clean))))
                there = run.objective.decide(inputs)
                if there.sum() > most:
                    best, most = shared, there.sum()
        inputs = region.inputs(boxed(region, region.unpadded(best.expand_as(region.clean))))
        run.keep(inputs, run.objective.decide(inputs))
        run.taken = steps
    return run.result()

"""The fast gradient sign method: one step of the whole radius.

Source: Goodfellow, Shlens and Szegedy 2015, "Explaining and harnessing adversarial examples".
"""

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_fixed_radius, cut, finite_rows
from audioadv.models.rest import at_rest
from audioadv.threat.projections import each
from audioadv.threat.region import Region


def fgsm(objective: Objective, region: Region, *, seed: int = 0, progress: Tell | None = None) -> AttackResult:
    """From the clean input to the edge of the region, along the steepest descent (in Linf: the sign).

    Costs two forwards and one backward. Draws nothing: `seed` changes nothing. Shapes: as in `region.clean` and `objective`.
    """
    check_fixed_radius(region, "fgsm")
    run = Run(objective, region, progress)
    with at_rest(objective.model):
        delta = region.start()
        inputs = region.inputs(delta)
        look = run.objective.look(inputs)
        kept = run.keep(inputs, look.reached, delta)
        delta = region.project(-each(region.radius, delta) * region.steepest(region.pull(delta, look.slope)))
        if left := run.leave(finite_rows(look.loss, look.slope), kept):
            (delta,) = cut(left, delta)
        if len(delta):
            inputs = run.region.inputs(delta)
            run.keep(inputs, run.objective.decide(inputs), delta)
    return run.result()

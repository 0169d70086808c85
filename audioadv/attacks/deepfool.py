"""DeepFool: step onto the nearest of the linearised boundaries, again and again.

Source: Moosavi-Dezfooli, Fawzi and Frossard 2016, "DeepFool: a simple and accurate method to fool deep neural networks",
algorithm 2; section 3.3 for other norms.
"""

from dataclasses import replace

import torch

from audioadv.attacks.apgd import aimed
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, check_objective, cut, finite_rows
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts, check_counts
from audioadv.threat.joined import kappa
from audioadv.threat.labels import margin
from audioadv.threat.norms import L0Norm
from audioadv.threat.projections import dot, each
from audioadv.threat.region import Region


def deepfool(
    objective: Objective,
    region: Region,
    *,
    steps: int = 50,
    rivals: int = 9,
    overshoot: float = 0.02,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """Until an example falls: the step of each rival's margin to zero on its linear model, the smallest of them taken.

    The change is stretched by `overshoot` when it is tried. Costs one forward and one backward a rival and step: `rivals`
    best classes on the clean input, at most. Where a place below the top k is wanted, no rival alone brings it about, and the goal's
    own margin is the only one. Draws nothing: `seed` changes nothing. Shapes: as in `region.clean`. Raises OptionError for L0.
    """
    check_objective(objective)
    check_counts("deepfool", steps=steps, rivals=rivals)
    check_amounts("deepfool", overshoot=overshoot)
    if isinstance(region.norm, L0Norm):
        raise OptionError("deepfool goes so far as the boundary is, and a change in L0 has no length. Use sigma_zero or fmn")
    wanted, ranking = objective.by(margin), torch.zeros(len(region.clean), dtype=torch.int64)
    goals = [wanted.goal]
    if getattr(wanted.goal, "top", 1) == 1:
        goals, ranking = aimed(wanted, region.clean, rivals, margin)
    lead, run, delta = kappa(objective.goal), Run(objective, region, progress), region.start()
    with at_rest(objective.model):
        for _ in range(steps):
            tried = boxed(run.region, (1 + overshoot) * delta)
            inputs = run.region.inputs(tried)
            nearest, move = torch.full_like(run.region.radius, torch.inf), torch.zeros_like(delta)
            kept = finite = torch.zeros_like(nearest, dtype=torch.bool)
            for number, goal in enumerate(goals):
                look = replace(run.objective, goal=goal.rows(run.here)).look(inputs)
                if number == 0:
                    kept, finite = run.keep(inputs, look.reached, tried), finite_rows(look.loss, look.slope)
                slope = run.region.pull(tried, look.slope, free=lead > 0)  # a lead lies far, and on the way the box stops many entries
                direction = run.region.steepest(slope)
                far = (look.loss + lead).clamp_min(0) / dot(slope, direction).clamp_min(1e-30) + 1e-6
                move = torch.where(each(far < nearest, delta), -each(far, delta) * direction, move)
                nearest = torch.minimum(nearest, far)
            delta = boxed(run.region, delta + move)
            if left := run.leave(finite, kept):
                (delta,) = cut(left, delta)
                if not len(delta):
                    break
    result = run.result()
    return replace(result, forwards=result.forwards + ranking)

"""Projected gradient descent within a fixed region.

Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks", section 2.1.
"""

import torch

from audioadv.attacks.objective import Objective, at_rest
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, finite_rows
from audioadv.threat.projections import each
from audioadv.threat.region import Region


def pgd(
    objective: Objective, region: Region, *, steps: int = 40, step_size: float = 0.1, seed: int = 0, progress: Tell | None = None
) -> AttackResult:
    """From a random start, `steps` steps of `step_size` times the radius along the steepest descent, projected each time.

    The first input that reaches the goal is kept, and its example leaves. Shapes: as in `region.clean` and `objective`.
    """
    run = Run(objective, region, progress)
    delta = region.sample([torch.Generator().manual_seed(seed) for _ in region.clean])
    with at_rest(objective.model):
        for _ in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            step = run.region.steepest(run.region.pull(delta, look.slope))
            delta = run.region.project(delta - each(step_size * run.region.radius, delta) * step)
            if left := run.leave(finite_rows(look.loss, look.slope), kept):
                stay, width = left
                if not len(stay):
                    break
                delta = delta[stay][..., :width]
    return run.result()

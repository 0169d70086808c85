"""sigma-zero: the fewest entries changed, through a smooth stand-in for their number.

Source: Cina et al. 2025, "sigma-zero: gradient-based optimization of l0-norm adversarial examples".
"""

import math

import torch

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, check_plain_changes, cut, finite_rows
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts, check_counts, check_sizes
from audioadv.threat.projections import each
from audioadv.threat.region import Region


def sigma_zero(
    objective: Objective,
    region: Region,
    *,
    steps: int = 1000,
    step_size: float = 1.0,
    sigma: float = 1e-3,
    threshold: float = 0.3,
    threshold_step: float = 0.01,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """argmin margin + mean of delta^2 / (delta^2 + sigma), by Adam on slopes scaled to 1; entries below a threshold go.

    The threshold rises while the example reaches the goal and falls while it does not; the step falls from `step_size`, Adam's rate
    (full scale = 1), to a tenth along a cosine. Made for L0 regions; in any other, what is kept is judged by that region's norm.
    Draws nothing: `seed` changes nothing. One forward and one backward a step. Shapes: as in `region.clean`. Raises OptionError for a
    bound of which a part stays as it is at any radius.
    """
    check_counts("sigma_zero", steps=steps)
    check_sizes("sigma_zero", step_size=step_size, sigma=sigma)
    check_amounts("sigma_zero", threshold=threshold, threshold_step=threshold_step)
    check_plain_changes(region, "sigma_zero")
    if not region.limitless():
        raise OptionError("sigma_zero changes any entry, and some changes fit this bound at no radius. Use fmn or find_then_shrink")
    run = Run(objective, region, progress)
    delta, first, second = (torch.zeros_like(region.clean) for _ in range(3))
    limit = torch.full_like(region.radius, threshold)
    with at_rest(objective.model):
        for number in range(1, steps + 1):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs, near=torch.ones_like(limit, dtype=torch.bool))
            kept = run.keep(inputs, look.reached)
            sparsity = 2 * sigma * delta / (delta.square() + sigma).square() / each(run.region.entries().clamp_min(1), delta)
            slope = run.region.unpadded(look.slope) + sparsity
            slope = slope / each(slope.flatten(1).abs().amax(1).clamp_min(1e-30), slope)
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()
            rate = step_size * (0.1 + 0.9 * (1 + math.cos(math.pi * (number - 1) / steps)) / 2)
            delta = delta - rate * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
            delta = boxed(run.region, delta)
            limit = (limit + threshold_step * rate * torch.where(look.reached, 1.0, -1.0).to(limit)).clamp_min(0)
            delta = torch.where(delta.abs() > each(limit, delta), delta, 0.0)
            if left := run.leave(finite_rows(look.loss, look.slope), kept & run.region.radius.isfinite()):
                delta, first, second, limit = cut(left, delta, first, second, limit)
                if not len(delta):
                    break
    return run.result()

"""Decoupled direction and norm: the direction follows the slope, the norm follows success.

Source: Rony et al. 2019, "Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses".
"""

import math

import torch

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, cut, finite_rows
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_shares, check_sizes
from audioadv.threat.norms import L0Norm
from audioadv.threat.projections import each, length_of
from audioadv.threat.region import Region


def ddn(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    start: float = 1.0,
    gamma: float = 0.05,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """The smallest change that reaches the goal: a step down the loss, then onto the sphere of the moment's radius.

    The radius begins at `start` (full scale = 1) and changes by the factor 1 - gamma on success, 1 + gamma else; the step
    goes from 1 to 0.01 along a cosine. Made for L2; in another norm the sphere is that norm's. Changes are not rounded to levels,
    as their code does. Draws nothing: `seed` changes nothing. One forward and one backward a step. Shapes: as in `region.clean`.
    Raises OptionError for L0, and for a bound of which a part stays as it is at any radius.
    """
    check_counts("ddn", steps=steps)
    check_sizes("ddn", start=start, gamma=gamma)
    check_shares("ddn", gamma=gamma)
    if isinstance(region.norm, L0Norm):
        raise OptionError("ddn moves along spheres, and a change in L0 has no length to scale. Use sigma_zero or fmn")
    if region.added and not region.limitless():
        raise OptionError("ddn scales any change, and some changes fit this bound at no radius. Use fmn or find_then_shrink")
    run = Run(objective, region, progress)
    delta, sphere = region.start(), torch.full_like(region.radius, start)
    with at_rest(objective.model):
        for number in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * number / steps)) / 2
            slope = run.region.pull(delta, look.slope)
            delta = delta - alpha * slope / each(length_of(slope).clamp_min(1e-30), delta)
            sphere = sphere * torch.where(look.reached, 1 - gamma, 1 + gamma).to(sphere)
            size = run.region.norm.gauge(delta).clamp_min(1e-30)
            delta = boxed(run.region, delta * each(sphere / size, delta))
            if left := run.leave(finite_rows(look.loss, look.slope), kept & run.region.radius.isfinite()):
                delta, sphere = cut(left, delta, sphere)
                if not len(delta):
                    break
    return run.result()

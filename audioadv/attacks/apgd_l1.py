"""Auto-PGD for L1: steps that change few entries, and a radius that shrinks to what is allowed.

Source: Croce and Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", section 3.
"""

import torch
from torch import Tensor

from audioadv.attacks.draws import random_start
from audioadv.attacks.objective import Objective, at_rest
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, cut, finite_rows
from audioadv.threat.projections import each
from audioadv.threat.region import Region

WIDER = ((0.3, 3.0), (0.6, 2.0), (1.0, 1.0))  # until this share of the steps, this multiple of the radius


def sparse_sign(slope: Tensor, share: Tensor) -> Tensor:
    """The signs of each example's largest entries, their number its `share` of all, scaled to an L1 norm of 1.

    Shapes: slope [batch, *], share [batch] -> as slope.

    >>> sparse_sign(torch.tensor([[0.1, -3.0, 2.0, 0.0]]), torch.tensor([0.5]))
    tensor([[ 0.0000, -0.5000,  0.5000,  0.0000]])
    """
    flat = slope.flatten(1)
    count = (share * flat.shape[1]).long().clamp(1, flat.shape[1])
    least = flat.abs().sort(1, descending=True).values.gather(1, count[:, None] - 1)
    sign = flat.sign() * (flat.abs() >= least)
    return (sign / sign.abs().sum(1, keepdim=True).clamp_min(1)).reshape(slope.shape)


def apgd_l1(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    early_stop: bool = True,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """Sparse steps of one radius within three times, twice, once the region, projected on L1 ball and box together.

    How many entries a step changes follows how many the best change so far uses; every 4 % of the steps the step size is
    divided by 1.5, or set anew, from the best point, where the change has grown sparser. For regions whose norm is L1. One
    forward and one backward a step. Shapes: as in `region.clean`.
    """
    run, period, since = Run(objective, region, progress), max(int(0.04 * steps), 1), 0
    delta = low_delta = random_start(region, seed)
    low_slope, size, wide = torch.zeros_like(delta), delta[0].numel() if len(delta) else 1, 0.0
    lowest = torch.full_like(region.radius, torch.inf)
    step, share = region.radius.clone(), torch.full_like(region.radius, 0.2)
    entries = torch.full_like(region.radius, float(size))
    with at_rest(objective.model):
        for number in range(steps):
            factor = next(multiple for until, multiple in WIDER if number < until * steps)
            wider = run.region.at(factor * run.region.radius)
            if factor != wide:  # a new stage: from the best point of the last, brought within
                delta, wide, since = wider.project(low_delta), factor, 0
                lowest, step = torch.full_like(lowest, torch.inf), factor * run.region.radius
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            slope, better, since = run.region.unpadded(run.region.pull(delta, look.slope)), look.loss < lowest, since + 1
            lowest = torch.where(better, look.loss, lowest)
            low_delta = torch.where(each(better, delta), delta, low_delta)
            low_slope = torch.where(each(better, delta), slope, low_slope)
            if since % period == 0:
                used = (low_delta.flatten(1) != 0).sum(1).to(share)
                sparser = used < 0.95 * entries
                share, entries = (used / size / 1.5).clamp_min(1 / size), used
                whole = factor * run.region.radius
                step = torch.where(sparser, whole, torch.minimum(torch.maximum(step / 1.5, whole / 10), whole))
                delta = torch.where(each(sparser, delta), low_delta, delta)
                slope = torch.where(each(sparser, delta), low_slope, slope)
            delta = wider.project(delta - each(step, delta) * sparse_sign(slope, share))
            if left := run.leave(finite_rows(look.loss, look.slope), kept & early_stop):
                delta, low_delta, low_slope = cut(left, delta, low_delta, low_slope)
                lowest, step, share, entries = cut(left, lowest, step, share, entries)
                if not len(delta):
                    break
        else:
            delta = run.region.project(delta)
            inputs = run.region.inputs(delta)
            run.keep(inputs, run.objective.decide(inputs), delta)
    return run.result()

"""Auto-PGD for L1: steps that change few entries, and a radius that shrinks to what is allowed.

Source: Croce and Hein 2021, "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers": the steps, and
in section 3.2 the radius.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_fixed_radius, cut, finite_rows
from audioadv.models.rest import at_rest
from audioadv.options import check_counts
from audioadv.threat.projections import each
from audioadv.threat.region import Region

WIDER = ((0.3, 3.0), (0.6, 2.0), (1.0, 1.0))  # until this share of the steps, this multiple of the radius


def sparse_sign(slope: Tensor, count: Tensor) -> Tensor:
    """The signs of each example's `count` largest entries, at least one, and zeros.

    Shapes: slope [batch, *], count [batch], at most the number of entries -> as slope.

    >>> sparse_sign(torch.tensor([[0.1, -3.0, 2.0, 0.0]]), torch.tensor([2.0]))
    tensor([[ 0., -1.,  1.,  0.]])
    """
    flat = slope.flatten(1)
    least = flat.abs().sort(1, descending=True).values.gather(1, count.long().clamp_min(1)[:, None] - 1)
    return (flat.sign() * (flat.abs() >= least)).reshape(slope.shape)


def used_by(delta: Tensor) -> Tensor:
    """How many entries each change uses. Shapes: [batch, *] -> [batch]."""
    return (delta.flatten(1) != 0).sum(1).to(delta)


def sparse_start(region: Region, seed: int) -> Tensor:
    """Normal noise brought within the region: what L1's projection leaves of it is sparse. Shapes: -> as region.start()."""
    return region.project(region.unpadded(Draws.of(seed, region.clean).normal(region.start())))


def stages_of(steps: int) -> Iterator[tuple[int, tuple[float, int]]]:
    """Where each stage begins, the multiple of the radius that it has, and after how many steps each it adapts: 4 % of its own.

    >>> dict(stages_of(100))
    {0: (3.0, 1), 30: (2.0, 1), 60: (1.0, 1)}
    """
    begin = 0
    for until, factor in WIDER:
        if (end := round(until * steps)) > begin:
            yield begin, (factor, max(int(0.04 * (end - begin)), 1))
            begin = end


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

    A step changes two thirds as many entries as the best change so far uses. Every 4 % of a stage's steps the step size is
    divided by 1.5, or set anew, from the best point, where the change has grown sparser. Each stage begins at the best point of
    the one before; the first at noise, which the projection makes sparse. No step is spent on entries that the box holds back.
    For regions whose norm is L1. One forward and one backward a step, and a forward for the last iterate. Shapes: as in
    `region.clean`.
    """
    check_counts("apgd_l1", steps=steps)
    check_fixed_radius(region, "apgd_l1")
    run, stages = Run(objective, region, progress), dict(stages_of(steps))
    delta = low_delta = sparse_start(region.at(WIDER[0][1] * region.radius), seed)
    low_slope, since, period, wider = torch.zeros_like(delta), 0, 1, region
    step = entries = lowest = whole = region.radius
    with at_rest(objective.model):
        for number in range(steps):
            if number in stages:  # begun at the best point of the stage before, brought within
                factor, period = stages[number]
                wider, whole, since = run.region.at(factor * run.region.radius), factor * run.region.radius, 0
                delta, step, lowest = wider.project(low_delta), whole, torch.full_like(whole, torch.inf)
                entries = used_by(delta)
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            slope, better = run.region.pull(delta, look.slope), look.loss < lowest
            lowest = torch.where(better, look.loss, lowest)
            low_delta = torch.where(each(better, delta), delta, low_delta)
            low_slope = torch.where(each(better, delta), slope, low_slope)
            if since and since % period == 0:
                before, entries = entries, used_by(low_delta)
                sparser = entries < 0.95 * before
                step = torch.where(sparser, whole, torch.minimum(torch.maximum(step / 1.5, whole / 10), whole))
                delta = torch.where(each(sparser, delta), low_delta, delta)
                slope = torch.where(each(sparser, delta), low_slope, slope)
            move = sparse_sign(slope, entries / 1.5)
            length = step / run.region.norm.gauge(move).clamp_min(1e-30)
            delta, since = wider.project(delta - each(length, delta) * move), since + 1
            if left := run.leave(finite_rows(look.loss, look.slope), kept & early_stop):
                delta, low_delta, low_slope = cut(left, delta, low_delta, low_slope)
                lowest, step, entries, whole = cut(left, lowest, step, entries, whole)
                wider = run.region.at(whole)
                if not len(delta):
                    break
        else:
            delta = run.region.project(delta)
            inputs = run.region.inputs(delta)
            run.keep(inputs, run.objective.decide(inputs), delta)
    return run.result()

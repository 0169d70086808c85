"""Fast minimum-norm attack, in any norm.

Source: Pintor et al. 2021, "Fast minimum-norm adversarial attacks through adaptive norm constraints".
"""

import math
from functools import partial

import torch
from torch import Tensor

from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_objective, check_region, cut, finite_rows, restless
from audioadv.attacks.survivors import nearest, one_after_another, starts
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_shares, check_sizes
from audioadv.threat.joined import kappa
from audioadv.threat.labels import margin
from audioadv.threat.norms import L0Norm, LinfNorm
from audioadv.threat.projections import dot, each, length_of
from audioadv.threat.region import Region

PATIENCE = 10  # steps without success, before another way is tried; a twentieth of all, where these are few
FEW = 200  # steps, below which each has to do more
PATIENCE_IN_L0 = 20  # the same in L0, where a ball has to grow from one entry


def fmn(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    step_size: float | None = None,
    gamma: float | None = None,
    restarts: int = 1,
    far: bool = False,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """The smallest change that reaches the goal: normalised steps within a ball that shrinks on success and grows without.

    Until an example is found, its ball reaches as far as the margin's linear model says the boundary lies: the margin over the dual
    norm of its slope, and a little further, since balls are projected onto from a hair inside. One that is not found after a
    twentieth of the steps, ten at most, goes on without a ball, by the slope's signs (the paper would start it at an input of another
    class). In Linf all steps go by the signs, which fill a ball that is a box, where the paper takes the slope itself; where what is
    allowed depends on the place (features, a masking threshold), the way that is steepest for what it costs there: the slope itself
    leads to where a change costs much, and balls are projected onto along it. (MNIST, `feature:min` of four layers, 20 images, 100 steps:
    the median is 0.35, along the slope 0.53; spoken digits, `masked:min`, 22 sounds: 0.54 and 15.) No step is spent on entries that the
    box holds back. Steps go from `step_size` (a length in L2, full scale = 1) to a hundredth of it along a
    cosine, gamma from its value to 0.001. The loss is the margin, as in the paper, for goals of labels. One forward and one backward
    a step. Shapes: as in `region.clean`.

    In L0 the ball begins at one entry and goes by one at least, as in the paper, unless there are less than 100 steps: what is chosen in a
    wide ball is not given up again in a narrow one. An example that is not found in 15 % of the steps, twenty at most, goes on as in
    other norms. (The net trained naturally, 50 images, 100 steps: the median is 7, from a wide ball 14; mnist-robust: 17 and 16.)

    It begins at the clean input, or `far` from it, anywhere in the box: what is near depends on where one comes from. Of
    `restarts`, all but the first begin far, and the smallest change is kept; in a fixed region they take what still stands.
    (mnist-robust, 97 images, L1: the median is 4.2 after 1,000 steps, 2.9 after four times 250.)

    Where it is not said, gamma is the paper's 0.05 and steps begin at its 1; with few, at what goes as far in all: a ball can
    shrink by e^5, from the whole box to a few entries, and 40 is the length of the way there. On mnist-robust the median in L1
    after 100 steps is 4 of full scale, with the paper's own 25; on a net trained naturally it is no worse.

    Raises OptionError for a start far from the clean input in a region without a box.
    """
    check_objective(objective)
    check_counts("fmn", steps=steps, restarts=restarts)
    if far or restarts > 1:
        check_anywhere(region)
    if restarts > 1:
        once = partial(fmn, steps=steps, step_size=step_size, gamma=gamma)
        runs = starts(once, objective, restarts, seed, far=True)
        if region.radius.isfinite().all():
            return one_after_another(runs, region, progress)
        return nearest(runs, region, progress)
    gamma = min(0.5, max(0.05, 0.05 * FEW / steps)) if gamma is None else gamma
    step_size = max(1.0, 80 / steps) if step_size is None else step_size
    check_sizes("fmn", gamma=gamma, step_size=step_size)
    check_shares("fmn", gamma=gamma)
    patience, entry = min(PATIENCE, max(1, PATIENCE * steps // FEW)), 0.0
    if isinstance(region.norm, L0Norm) and 2 * steps >= FEW:
        patience, entry = min(PATIENCE_IN_L0, 3 * steps // 20), 1.0
    lead, run = kappa(objective.goal), Run(objective.by(margin), region, progress)
    delta = anywhere(region, seed) if far else region.start()
    ball = torch.full_like(region.radius, entry if entry and not far else torch.inf)
    best = torch.full_like(ball, torch.inf)  # the smallest change that reached the goal, inside the region or not
    with at_rest(objective.model):
        for number in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            wave = (1 + math.cos(math.pi * number / steps)) / 2
            alpha, rate = step_size * (0.01 + 0.99 * wave), 0.001 + (gamma - 0.001) * wave
            slope = run.region.pull(delta, look.slope, free=True)
            size = run.region.norm.gauge(delta)
            best = torch.where(look.reached, torch.minimum(best, size), best)
            steepest = run.region.norm.steepest(slope)
            dual = dot(slope, steepest).clamp_min(1e-30)
            inward, outward = (ball - entry).clamp_min(0).minimum(ball * (1 - rate)), (ball + entry).maximum(ball * (1 + rate))
            if not entry:
                outward = torch.where(best.isfinite(), outward, (size + (look.loss + lead).abs() / dual) * (1 + rate))
            lost = best.isinf() & (number >= patience)
            ball = torch.where(look.reached, torch.minimum(inward, best), torch.where(lost, torch.inf, outward))
            slope = restless(steepest if region.norm.placed else slope, lost | isinstance(region.norm, LinfNorm))
            delta = delta - alpha * slope / each(length_of(slope).clamp_min(1e-30), delta)
            delta = run.region.at(ball).project(delta)
            if left := run.leave(finite_rows(look.loss, look.slope), kept & run.region.radius.isfinite()):
                delta, ball, best = cut(left, delta, ball, best)
                if not len(delta):
                    break
    return run.result()


def check_anywhere(region: Region) -> None:
    """Raises OptionError for a region without a box, in which nothing can be anywhere."""
    check_region(region)
    if region.low is None or not region.added:
        raise OptionError(
            "fmn: a start far from the clean input is anywhere in the box, and this region has none. Leave far and restarts out"
        )


def anywhere(region: Region, seed: int) -> Tensor:
    """A change to a random input in the box. Shapes: -> as region.clean."""
    assert region.low is not None
    assert region.high is not None
    return region.unpadded(region.low + Draws.of(seed, region.clean).uniform(region.clean) * (region.high - region.low))

"""Qin's two stages: reach the goal within a shrinking box, then trade it off against what of the change can be heard.

    1  loss                      signed steps in an Linf ball, whose radius is 0.8 of the change's own at each success
    2  loss + alpha * penalty    Adam from the last success; the penalty is the mean over frames and bins of
                                 max(0, level of the change - masking threshold), dB

This is the baseline of the field for changes that are not heard: a soft penalty, which a few bins far over the threshold can be
a price for. So the region's limits are what the penalty is over, and no step is projected onto them; `find_then_shrink` keeps to them.

Source: Qin et al. 2019, "Imperceptible, robust, and targeted adversarial examples for automatic speech recognition";
Adam, and the last quarter of stage 2 at a tenth of its step, as in the code that came with it. Numbers are the paper's,
from int16 to full scale. Different here: each step is looked at, not each tenth; a clip that stage 1 has not brought to the goal in
its share of the steps stays in it until it is there; stage 1 goes by plain signs, where their code hands the signs to Adam; the masking
threshold is the region's own (theirs keeps tones that only a dropped one beats: `Hearing.simplified`); alpha has no floor (0.0005 in
their code); the penalty is in decibels, where their code compares powers, so that there a bin far over the threshold outweighs all
others.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.nudge import nudge
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, cut, finite_rows
from audioadv.audio.spectrum import frame_counts
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts, check_counts, check_shares, check_sizes
from audioadv.threat.masked import MaskedNorm, decibels
from audioadv.threat.norms import LinfNorm
from audioadv.threat.projections import each
from audioadv.threat.region import Region

SHRINK = 0.8  # of the radius, at a success
STRONGER, STRONGER_EVERY = 1.2, 20  # of alpha, at a success
WEAKER, WEAKER_EVERY = 0.8, 50  # of alpha, without one
FULL_STEPS, SHORTER = 0.75, 0.1  # of stage 2, and of its step afterwards
MEAN, SQUARE, LEAST = 0.9, 0.999, 1e-8  # Adam's


@final
@dataclass(eq=False)
class Search:
    """Where each example still in the batch stands. Shapes: delta, won, mean and square [batch, *], the others [batch]."""

    delta: Tensor
    won: Tensor  # of the smallest ball that the goal was reached in
    mean: Tensor  # of slopes in stage 2, as Adam keeps it
    square: Tensor
    radius: Tensor
    alpha: Tensor
    found: Tensor
    age: Tensor  # steps of stage 2; 0 in stage 1

    def rows(self, stay: Tensor, width: int) -> "Search":
        """The search of those that stay, cut to `width` along the last axis."""
        return Search(*cut((stay, width), *vars(self).values()))

    def adapt(self, reached: Tensor) -> None:
        """The penalty weighs more where the goal stands it, less where it is missed. Shapes: reached bool [batch]."""
        up = reached & (self.age > 0) & (self.age % STRONGER_EVERY == 0)
        down = ~reached & (self.age > 0) & (self.age % WEAKER_EVERY == 0)
        self.alpha = torch.where(up, STRONGER * self.alpha, torch.where(down, WEAKER * self.alpha, self.alpha))

    def adam(self, slope: Tensor) -> Tensor:
        """The direction of a step of stage 2; what stage 1 has seen does not count. Source: Kingma and Ba 2015."""
        soft, age = each(self.age > 0, slope), each(self.age.clamp_min(1), slope)
        self.mean = soft * torch.lerp(slope, self.mean, MEAN)
        self.square = soft * torch.lerp(slope.square(), self.square, SQUARE)
        return self.mean / (1 - MEAN**age) / ((self.square / (1 - SQUARE**age)).sqrt() + LEAST)


def qin(
    objective: Objective,
    region: Region,
    *,
    steps: int = 5000,
    first: float = 0.2,
    radius: float = 2000 / 2**15,
    step_size: float = 100 / 2**15,
    soft_step_size: float = 1 / 2**15,
    alpha: float = 0.05,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """Bring each example to its goal, then under the threshold as far as the penalty takes it.

    `first` is the share of the steps that stage 1 has, from `radius` by `step_size`; stage 2 begins with `alpha` and goes by
    `soft_step_size` (all full scale = 1). Of the inputs that reach the goal within the region, each example keeps the one of the least
    penalty; `gauge` says what margin that has. Around `masked:min` the penalty is over the threshold itself.

    Shapes: as in `region.clean` and `objective`. Raises OptionError for a region that is not under a masking threshold.
    """
    check_counts("qin", steps=steps)
    check_sizes("qin", radius=radius, step_size=step_size, soft_step_size=soft_step_size)
    check_amounts("qin", alpha=alpha)
    check_shares("qin", first=first)
    if not isinstance(region.norm, MaskedNorm):
        raise OptionError(
            "qin: its penalty is over a masking threshold, which this region has none of. Use Masked('min').around(clean, box=(-1, 1))"
        )
    run, minimal = Run(objective, region, progress), bool(region.radius.isinf().all())
    delta, ones = nudge(region, seed), torch.ones_like(region.radius)
    search = Search(delta, delta, 0 * delta, 0 * delta, radius * ones, alpha * ones, ones < 0, 0 * ones)
    with at_rest(objective.model):
        for step in range(1, steps + 1):
            inputs = run.region.inputs(search.delta)
            look = run.objective.look(inputs)
            penalty, louder = audible(run.region, inputs - run.region.clean)
            run.keep(inputs, look.reached, search.delta, anywhere=minimal, size=penalty)

            soft, hit = search.age > 0, look.reached & (search.age == 0)
            search.won = torch.where(each(hit, inputs), search.delta, search.won)
            smaller = SHRINK * torch.minimum(search.radius, search.delta.abs().amax(1))
            search.radius, search.found = torch.where(hit, smaller, search.radius), search.found | hit
            search.adapt(look.reached)

            slope = run.region.unpadded(look.slope + each(soft * search.alpha, louder) * louder)
            late = search.age > FULL_STEPS * (1 - first) * steps
            stride = torch.where(soft, torch.where(late, SHORTER, 1.0) * soft_step_size, step_size).to(search.radius)
            way = torch.where(each(soft, slope), search.adam(slope), slope.sign())
            limit = torch.where(soft, math.inf, search.radius)
            search.delta = LinfNorm().project(search.delta - each(stride, way) * way, limit, run.region.low, run.region.high)
            enters = search.found & ~soft & (step >= first * steps)
            search.delta = torch.where(each(enters, inputs), search.won, search.delta)
            search.age = search.age + (soft | enters)
            if left := run.leave(finite_rows(look.loss, look.slope), torch.zeros_like(hit)):
                if not len(left[0]):
                    break
                search = search.rows(*left)
    return run.result()


def audible(region: Region, change: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each change can be heard, and the slope of that: the mean over a clip's frames and bins of its excess, dB.

    Shapes: change [batch, time] -> [batch], [batch, time]. Here of the change's level against the
    region's limits, which `masked:min` has at the threshold.
    """
    norm = region.norm
    assert isinstance(norm, MaskedNorm)
    margin = region.radius.masked_fill(region.radius.isinf(), 1.0)
    lengths = torch.full_like(margin, change.shape[1]) if region.inside is None else region.inside.sum(1)
    with torch.enable_grad():
        change = change.detach().requires_grad_()
        over = decibels(norm.ratios(change) / each(margin, norm.limits)).clamp_min(0)
        penalty = over.sum((1, 2)) / (frame_counts(lengths, norm.window) * over.shape[2])
        (slope,) = torch.autograd.grad(penalty.sum(), change)
    return penalty.detach(), slope

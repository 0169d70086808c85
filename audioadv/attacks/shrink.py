"""Find, then shrink: the attack behind `craft`.

Find. From the clean input, within a tenth of its own size and in steps of 0.3 of that, the goal's loss (CTC, for a text) is lowered
until the goal is reached. An example whose loss, at the pace of its last LOOK steps, is more than PATIENT steps from zero gets a larger
region and shorter steps, every third time long ones again, and from the second time on goes along all its slope's signs (`run.restless`);
where the bound is fixed, a new cycle of step sizes.

Shrink. Carlini and Wagner 2018 (III-C) go on with a smaller radius, 0.8 of the last, and the hinge along the one
alignment found. Here, example by example,

    gamma   the next radius is (1 - gamma) of the smallest change found. Each success makes gamma larger by a fifth, 16 steps
            without one halve it and set the radius anew from that change: coarse while it is easy, fine where it is hard, and
            never stuck below what works.
    step    gamma of the radius, so that steps shrink as the aim grows finer; its direction is a running mean of the steepest
            steps, which averages out what the active frames disagree on.
    margin  the sum over frames of the *squared* margin, along the cheapest alignment of the moment (`threat/ctc.py`): the frame that
            is worst off counts most, frames that are won by the slack not at all. It is the loss from CLOSE on, before anything is found,
            since the likelihood of a text may rest for a hundred steps where a letter or two are missing; regions then grow at every
            third of the steps' lengths only.
    slack   half a nat, and halved with gamma once that is FINE. At rest on the smallest radius, frames lie between just won and won
            by the slack, as they weigh: the less it is, the nearer all are to the edge, and the smaller the change. While the
            radius still comes down, a small slack only makes it fail more often.
    anew    once the slack has been halved five times the search is at rest, at the smallest change around there. Others are smaller
            still: the search begins again from there with gamma and slack as at first, over and over, and the smallest is kept.

The grid that the file will have comes in when an example is found (before, rounding would only add noise to the slopes): it
is heard again on the grid, and from then on every step is. Only what reaches the goal on the grid is kept, the smallest for
each example. With a fixed bound an example leaves once it is kept; examples whose loss or slope is not finite leave as they came.

What each of these brings, and what else was tried, is in `recipes/craft_suite.py`. Over a channel, where slopes are mostly noise, the
search is another one: `settle.py`.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.nudge import nudge, own_size
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_objective, cut, finite_rows, restless
from audioadv.attacks.settle import settle
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts, check_counts, check_shares, check_sizes
from audioadv.threat.projections import each
from audioadv.threat.region import Region

MOMENTUM = 0.85  # of the direction, a running mean
FIRST_GAMMA, COARSEST, FINEST = 0.1, 0.5, 0.01
BOLDER = 1.2  # times gamma, after a success
LONGEST_STEP, SHORTEST_STEP = 0.3, 0.02  # of the radius
FIXED_STEP = 0.2  # the first cycle's, in a fixed region
CYCLE = 24  # steps of one length, in a fixed region
CLOSE = 0.2  # of the loss of the first look
PATIENCE = 16  # steps without success before gamma is halved
FINE, LEAST_SLACK = 0.03, 1 / 32  # of gamma: no larger, and slack is halved with it, down to this share of the first
ANEW = 0.35  # is gamma then, and slack as at first
GROWTH = 1.5  # of the radius, while nothing is found
LOOK, PATIENT = 8, 48  # steps: between two looks at the loss; that it may still take to zero
LOST = 2  # how often it has grown by then
SLOW_GROWTH, SLOW_STEP = 1.2, 0.1  # where small sets are best entered from larger ones: there 1.5 and 0.3 outran the search
SLOW_LOOK = 12  # there; shorter ones were not tried


@final
@dataclass(eq=False)
class Search:
    """Where each example still in the batch stands. Shapes: delta and velocity [batch, *], the others [batch]."""

    delta: Tensor
    velocity: Tensor
    gamma: Tensor
    fails: Tensor  # steps since the last success, or since gamma was last halved
    found: Tensor
    radius: Tensor  # of the moment
    stage: Tensor  # how often it has grown
    low: Tensor  # the lowest loss between the last two looks, infinite where the region has grown since
    lower: Tensor  # the lowest since
    proven: Tensor  # the smallest radius within which the goal was reached, infinite before
    slack: Tensor  # by how much a frame must be won before it stops counting, in the margin's unit
    begun: Tensor  # the loss of the first look
    near: Tensor  # whether it has been close to the goal, or at it

    def rows(self, stay: Tensor, width: int) -> "Search":
        """The search of those that stay, cut to `width` along the last axis."""
        return Search(*cut((stay, width), *vars(self).values()))


def find_then_shrink(
    objective: Objective,
    region: Region,
    *,
    steps: int = 500,
    minimal: bool | None = None,
    seed: int = 0,
    start: float = 0.1,
    momentum: float | None = None,
    slack: float = 0.5,
    progress: Tell | None = None,
) -> AttackResult:
    """Bring each example to its goal within its region; with `minimal`, within the smallest region that can be found, wherever it
    ends: so where the region has no radius of its own (`linf:min`), if nothing is said.

    `start` is the first radius of a minimal search, as a share of the clean input's own gauge. `momentum`, of the direction of steps,
    is 0.85 if nothing is said, and 0.9 over a channel. `slack` is how far (in the
    margin's unit) a frame must be won before it stops counting, at first. Random numbers are drawn from `seed` and an example's
    content alone, so that neighbours and order change nothing.

    Shapes: as in `region.clean` and `objective`. Sources: Carlini and Wagner 2018, "Audio adversarial examples: targeted
    attacks on speech-to-text"; Pintor et al. 2021, "Fast minimum-norm attacks", for a radius that follows success.
    """
    check_objective(objective)
    check_counts("find_then_shrink", steps=steps)
    check_sizes("find_then_shrink", start=start)
    check_amounts("find_then_shrink", slack=slack)
    check_shares("find_then_shrink", momentum=MOMENTUM if momentum is None else momentum)
    minimal = bool(region.radius.isinf().all()) if minimal is None else minimal
    if objective.expectation is not None:
        return settle(objective, region, steps=steps, minimal=minimal, seed=seed, momentum=momentum, progress=progress)
    momentum = MOMENTUM if momentum is None else momentum
    ones = torch.ones_like(region.radius)
    gradual = region.norm.gradual
    longest_step = SLOW_STEP if gradual else LONGEST_STEP
    run, radius, shrinks = Run(objective, region, progress), region.radius, minimal or gradual
    if shrinks:
        radius = start * own_size(region)
        radius = radius if minimal else torch.maximum(radius, region.radius)
    first, none, never, no = nudge(region.at(radius), seed), 0 * ones, math.inf * ones, ones < 0
    gamma = FIRST_GAMMA if shrinks else FIXED_STEP
    search = Search(first, region.start(), gamma * ones, none, no, radius, none, never, never, never, slack * ones, never, no)
    with at_rest(objective.model):
        for number in range(steps):
            rounded = search.found
            inputs = run.region.inputs(search.delta, rounded)
            look = run.objective.look(inputs, near=search.near, slack=search.slack)
            search.found, search.begun = search.found | look.reached, search.begun if number else look.loss
            search.near = search.near | search.found | ((look.loss > 0) & (look.loss < CLOSE * search.begun))
            kept = run.keep(inputs, look.reached & rounded, search.delta, anywhere=minimal)

            # Rounding may carry a change past the radius that it was reached within.
            aim(search, look.reached & rounded, look.loss, slack, shrinks, gradual)
            here = run.region.at(search.radius)
            pulled = here.pull(search.delta, look.slope)
            search.velocity = here.norm.steady(restless(pulled, ~search.found & (search.stage >= LOST))).lerp(search.velocity, momentum)
            stride = strides(search, shrinks, longest_step)
            # just found off the grid: do not move, so that the next step can test the rounded input
            stride = torch.where(search.found & ~rounded, 0.0, stride)
            search.delta = here.project(torch.addcmul(search.delta, each(stride * search.radius, search.delta), search.velocity, value=-1))
            if left := run.leave(finite_rows(look.loss, look.slope), kept & (not minimal)):
                if not len(left[0]):
                    break
                search = search.rows(*left)
    return run.result()


def strides(search: Search, shrinks: bool, longest_step: float) -> Tensor:
    """The next step of each example, as a share of its radius: long and short ones in turn until it is found on the grid, then gamma.

    What was heard before it was rounded, and is not on the grid, is still sought: with gamma's steps alone, which only a success
    makes smaller, its region grew and grew around it. Shapes: -> [batch].
    """
    fine = search.gamma.clamp(SHORTEST_STEP, longest_step)
    if not shrinks:
        return fine
    longest = longest_step * 0.5 ** (search.stage % 3)
    sought = torch.where(search.found, torch.minimum(fine, longest), longest)
    return torch.where(search.proven.isfinite(), fine, sought)


def aim(search: Search, hit: Tensor, loss: Tensor, slack: float, shrinks: bool, gradual: bool) -> None:
    """Set the radii and step sizes of the next step. `hit` bool [batch]: the goal was reached within the radius, on the grid.

    `loss` [batch] is what was seen. A search that has found nothing and is not on its way grows, where it is `gradual` slowly.
    """
    search.fails = torch.where(hit, 0.0, search.fails + 1)
    if not shrinks:  # the region stays: only the step sizes go through their cycle again and again
        tired = search.fails % CYCLE == CYCLE - 1
        shorter = torch.where(search.gamma > SHORTEST_STEP, search.gamma / 2, LONGEST_STEP)
        search.gamma = torch.where(tired, shorter, search.gamma)
        return
    search.proven = torch.where(hit, torch.minimum(search.proven, search.radius), search.proven)
    search.lower = torch.minimum(search.lower, loss)
    every = SLOW_LOOK if gradual else LOOK
    looked = search.proven.isinf() & (search.fails % every == 0)
    stuck = looked & too_slow(search.low, search.lower, every)
    search.stage = search.stage + stuck
    search.low = torch.where(looked, torch.where(stuck, math.inf, search.lower), search.low)
    search.lower = torch.where(looked, math.inf, search.lower)
    tired = search.proven.isfinite() & (search.fails >= PATIENCE)
    search.gamma = torch.where(hit, (BOLDER * search.gamma).clamp_max(COARSEST), search.gamma)
    fine = tired & (search.gamma <= FINE)
    search.slack = torch.where(fine, search.slack / 2, search.slack)
    rested = fine & (search.slack <= LEAST_SLACK * slack)
    search.slack = torch.where(rested, slack, search.slack)
    search.gamma = torch.where(rested, ANEW, torch.where(tired, (search.gamma / 2).clamp_min(FINEST), search.gamma))
    wider = stuck & (~search.near | (search.stage % 3 == 0))  # close by, all lengths of steps are tried first
    grown = torch.where(wider, (SLOW_GROWTH if gradual else GROWTH) * search.radius, search.radius)
    search.radius = torch.where(hit | tired, search.proven * (1 - search.gamma), grown)
    search.fails = torch.where(tired, 0.0, search.fails)


def too_slow(before: Tensor, now: Tensor, steps: int) -> Tensor:
    """Whether a loss that has come from `before` (infinite: unknown) to `now` in so many steps is more than PATIENT steps from zero.

    A loss that is below zero, as some of labels are, says nothing of how far it is. Shapes: [batch] each -> bool [batch].
    """
    return before.isfinite() & ((now <= 0) | (now * steps > PATIENT * (before - now)))

"""Fast minimum-norm attack, in any norm.

Source: Pintor et al. 2021, "Fast minimum-norm adversarial attacks through adaptive norm constraints", algorithm 1.
"""

import math

import torch

from audioadv.attacks.objective import Objective, at_rest
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, cut, finite_rows, restless
from audioadv.threat.labels import margin
from audioadv.threat.norms import LinfNorm
from audioadv.threat.projections import each
from audioadv.threat.region import Region

PATIENCE = 10  # steps without success, before another way is tried


def fmn(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    step_size: float = 1.0,
    gamma: float = 0.05,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """The smallest change that reaches the goal: normalised steps within a ball that shrinks on success and grows without.

    Until an example is found, its ball reaches as far as the margin's linear model says the boundary lies: the margin over
    the dual norm of its slope, and a little further, since balls are projected onto from a hair inside. One that is not found
    after ten steps goes on without a ball, by the slope's signs (the paper would start it at an input of another class). In
    Linf all steps go by the signs, which fill a ball that is a box, where the paper takes the slope itself. No step is spent
    on entries that the box holds back. Steps go from `step_size` to a hundredth of it along a cosine, gamma from its value
    to 0.001. The loss is the margin, as in the paper, for goals of labels. Draws nothing. One forward and one backward a
    step. Shapes: as in `region.clean`.
    """
    run = Run(objective.by(margin), region, progress)
    delta, ball = region.start(), torch.full_like(region.radius, torch.inf)
    best = ball  # the smallest change that reached the goal, inside the region or not
    with at_rest(objective.model):
        for number in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            wave = (1 + math.cos(math.pi * number / steps)) / 2
            alpha, rate = step_size * (0.01 + 0.99 * wave), 0.001 + (gamma - 0.001) * wave
            slope = run.region.unpadded(run.region.pull(delta, look.slope, free=True))
            size = run.region.norm.gauge(delta)
            best = torch.where(look.reached, torch.minimum(best, size), best)
            dual = (slope * run.region.norm.steepest(slope)).flatten(1).sum(1).clamp_min(1e-30)
            outward = torch.where(best.isfinite(), ball * (1 + rate), (size + look.loss.abs() / dual) * (1 + rate))
            lost = best.isinf() & (number >= PATIENCE)
            ball = torch.where(look.reached, torch.minimum(ball * (1 - rate), best), torch.where(lost, torch.inf, outward))
            slope = restless(slope, lost | isinstance(region.norm, LinfNorm))
            delta = delta - alpha * slope / each(slope.flatten(1).norm(dim=1).clamp_min(1e-30), delta)
            delta = run.region.at(ball).project(delta)
            if left := run.leave(finite_rows(look.loss, look.slope), kept & run.region.radius.isfinite()):
                delta, ball, best = cut(left, delta, ball, best)
                if not len(delta):
                    break
    return run.result()

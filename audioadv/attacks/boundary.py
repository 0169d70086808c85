"""Boundary attack: a random walk along the decision boundary, toward the clean input.

Source: Brendel, Rauber and Bethge 2018, "Decision-based adversarial attacks".
"""

import torch
from torch import Tensor

from audioadv.attacks.decisions import ask, blend_back, check_any_noise_fits, find_any
from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, cut
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_sizes
from audioadv.threat.projections import dot, each, length_of
from audioadv.threat.region import Region

ADAPT = 1.1  # a walk's steps grow or shrink by this much
TARGET = 0.5, 0.25  # the share of sideways steps, and of whole steps, that should succeed


def boundary(
    objective: Objective,
    region: Region,
    *,
    steps: int = 5000,
    sideways: float = 0.1,
    inward: float = 0.1,
    tries: int = 50,
    begin: Tensor | None = None,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """From noise that reaches the goal: a step sideways on the sphere around the clean input, then one inward, kept if both succeed.

    Hardly any noise is of the one class that a targeted goal wants, and an example without a start is missed after `tries` forwards.
    Give it one: where `begin` [batch, *] is given, a change that reaches the goal (`others - clean`, of inputs `others` of that class),
    it begins there.
    `sideways` and `inward` are shares of the distance at first, and follow the share of successes of late, example by example.
    Two forwards a step at most, no backward. Distances are L2, whatever the region's norm. Shapes: as in `region.clean`.
    """
    check_counts("boundary", steps=steps, tries=tries)
    check_sizes("boundary", sideways=sideways, inward=inward)
    check_any_noise_fits(region, "boundary")
    run, draws = Run(objective, region, progress), Draws.of(seed, region.clean)
    side, ahead = torch.full_like(region.radius, sideways), torch.full_like(region.radius, inward)
    with at_rest(objective.model):
        delta, found = find_any(run, draws, tries, begin)
        if left := run.leave(torch.ones_like(found), ~found):
            (delta, side, ahead), draws = cut(left, delta, side, ahead), draws.rows(left[0])
        if not len(delta):
            return run.result()
        delta = blend_back(run, delta)
        rates = torch.full((2, len(delta)), 0.5).to(delta)  # running shares of success: sideways, whole
        for _ in range(steps):
            length = length_of(delta)
            way = run.region.unpadded(draws.normal(delta))
            way = way - each(dot(way, delta) / length.square().clamp_min(1e-30), way) * delta
            way = way * each(side * length / length_of(way).clamp_min(1e-30), way)
            round_trip = (delta + way) / each((1 + side.square()).sqrt(), delta)
            trial = boxed(run.region, round_trip)
            beside = ask(run, trial, torch.ones_like(run.region.radius, dtype=torch.bool))
            nearer = trial * each(1 - ahead, trial)
            whole = ask(run, nearer, beside)
            delta = torch.where(each(whole, delta), nearer, delta)
            rates[0] = torch.where(beside, 0.95 * rates[0] + 0.05, 0.95 * rates[0])
            rates[1] = torch.where(beside, 0.95 * rates[1] + 0.05 * whole, rates[1])
            side = torch.where(rates[0] > TARGET[0], side * ADAPT, side / ADAPT).clamp(1e-6, 1.0)
            ahead = torch.where(rates[1] > TARGET[1], ahead * ADAPT, ahead / ADAPT).clamp(1e-6, 0.5)
            inside = run.gauge[run.spot].isfinite() & run.region.radius.isfinite()
            if left := run.leave(torch.ones_like(inside), inside):
                (delta, side, ahead), draws, rates = cut(left, delta, side, ahead), draws.rows(left[0]), rates[:, left[0]]
                if not len(delta):
                    break
    return run.result()

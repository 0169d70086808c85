"""Genetic search: a herd of changes, bred by how well they do; scores only, or transcripts where nothing else is granted.

    herd --score--> parents, drawn by fitness --mix, mutate--> children --> next herd;      the best lives on as it is

Where breeding stalls, more is mutated. The last part of the search is a descent from the best of the herd, along slopes that are
estimated from scores too: close to the goal a herd finds few of the changes that are left to make.

Sources: Alzantot, Balaji and Srivastava 2018, "Did you hear that? Adversarial examples against automatic speech recognition";
the momentum of mutation, and estimated slopes for the end, Taori et al. 2019, "Targeted adversarial examples for black box
audio systems". Different here: mutations are steps of the bound's own geometry, and what is left
of the budget says when breeding ends, not the letters that are wrong.
"""

from dataclasses import replace

import torch
from torch import Tensor

from audioadv.attacks.draws import GOLDEN, Draws, mix
from audioadv.attacks.estimates import nes
from audioadv.attacks.objective import Objective, box_of
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_fixed_radius, cut, finite_rows
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts, check_counts, check_shares, check_sizes
from audioadv.threat.projections import each
from audioadv.threat.region import Region

MOMENTUM, RESTLESS = 0.9, 1e-3  # of the mutation rate: what it keeps, and what a herd adds that has come to a stop


def genetic(
    objective: Objective,
    region: Region,
    *,
    steps: int = 200,
    herd: int = 20,
    mutation: float = 0.005,
    choosiness: float = 2.0,
    descent: float = 0.5,
    step_size: float = 0.1,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """`steps` generations of `herd` changes each; for the last `descent` of them, steps along slopes from as many queries.

    Those steps are `step_size` times the radius. `mutation` is the share of entries that a child changes at first. Parents are drawn
    by exp(-choosiness z), z their loss in standard deviations of their herd's. `herd` forwards a step, no backward. Where a model
    grants decisions only, a goal that can tell is asked how much of the transcript is wrong (`Objective.rank`): that has no slope,
    and the herd breeds to the end. So it does over a channel, where two scores differ by more than the draws allow a slope. An
    example that is at its goal within the region leaves. Shapes: as in `region.clean`.
    """
    check_counts("genetic", steps=steps, herd=herd)
    check_sizes("genetic", step_size=step_size)
    check_amounts("genetic", choosiness=choosiness)
    check_shares("genetic", mutation=mutation, descent=descent)
    check_fixed_radius(region, "genetic")
    run, draws = Run(objective, region, progress), born(Draws.of(seed, region.clean), herd)
    crowd, spot = region.crowded(herd)
    many = mutated(crowd, crowd.start(), torch.ones_like(crowd.radius), draws)
    rate, before = torch.full_like(region.radius, mutation), torch.full_like(region.radius, torch.inf)
    delta, breeding = region.start(), steps - int(descent * steps)
    slopes = nes(max((herd - 1) // 2, 1), seed=seed).begun(region.clean, box_of(region))
    with at_rest(objective.model):
        for number in range(steps if len(delta) else 0):
            if number < breeding or objective.hears_only or objective.expectation is not None:
                inputs = crowd.inputs(many)
                score = run.objective.rows(spot.cpu()).rank(inputs)
                loss, first = score.loss.view(-1, herd), torch.arange(0, len(many), herd, device=many.device)
                best = first + torch.where(score.reached.view(-1, herd), -torch.inf, loss).argmin(1)
                delta, lowest, finite = many[best], score.loss[best], finite_rows(loss)
                kept = run.keep(inputs[best], run.confirmed(inputs[best], score.reached[best]), delta)
                many = mutated(crowd, mixed(many, loss, choosiness, draws), rate[spot], draws)
                many[first] = delta
                gain = ((before - lowest) / lowest).abs().nan_to_num(1.0).clamp_min(RESTLESS)
                rate, before = (MOMENTUM * rate + RESTLESS / gain).clamp(mutation, 0.5), lowest
            else:
                inputs = run.region.inputs(delta)
                look = replace(run.objective, slopes=slopes).look(inputs)
                kept, finite = run.keep(inputs, look.reached, delta), finite_rows(look.loss, look.slope)
                way = run.region.steepest(run.region.pull(delta, look.slope))
                delta = run.region.project(delta - each(step_size * run.region.radius, delta) * way)
            if left := run.leave(finite, kept):
                stay = (left[0][:, None] * herd + torch.arange(herd, device=left[0].device)).flatten()
                (many,), draws, (crowd, spot) = cut((stay, left[1]), many), draws.rows(stay), run.region.crowded(herd)
                delta, rate, before = cut(left, delta, rate, before)
                if not len(delta):
                    break
    return run.result()


def born(draws: Draws, herd: int) -> Draws:
    """Draws of its own for each of a herd."""
    place = torch.arange(herd, device=draws.keys.device) * GOLDEN
    return Draws(mix(draws.keys[:, None] + place).flatten())


def mutated(region: Region, delta: Tensor, rate: Tensor, draws: Draws) -> Tensor:
    """Each with a random step of the whole radius in a share of its entries. Shapes: delta [some, *], rate [some]."""
    noise, chosen = draws.normal(delta), draws.uniform(delta) < each(rate, delta)
    step = region.steepest(noise * chosen) if region.norm.sparse else region.steepest(noise) * chosen
    return region.project(delta + each(region.radius, delta) * step)


def mixed(many: Tensor, loss: Tensor, choosiness: float, draws: Draws) -> Tensor:
    """As many children: each entry from one of two parents of the same herd. Shapes: many [batch * herd, *], loss [batch, herd]."""
    z = (loss - loss.mean(1, keepdim=True)) / loss.std(1, keepdim=True).clamp_min(1e-30)
    upto, herd = (-choosiness * z).softmax(1).cumsum(1), loss.shape[1]
    home = torch.arange(len(loss), device=loss.device)[:, None] * herd
    mother, father = (
        (home + torch.searchsorted(upto, draws.uniform(many.new_empty(len(many), 1)).view_as(loss)).clamp_max(herd - 1)).flatten()
        for _ in "ab"
    )
    return torch.where(draws.uniform(many) < 0.5, many[mother], many[father])

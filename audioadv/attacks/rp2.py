"""Robust physical perturbations: one sticker for many views of a thing, small, and of colours that can be printed.

    views --some of them, each with the sticker in its place--> camera (a channel) --> model
    argmin  mean loss + weight * |change| + how far the colours are from the palette's

Sources: Eykholt et al. 2018, "Robust physical-world attacks on deep learning visual classification" (the views, the mask, the sum of
the three); Brown et al. 2017, "Adversarial patch" (places drawn anew); Sharif et al. 2016, "Accessorize to a crime" (the palette).
"""

from dataclasses import replace

import torch
from torch import Tensor

from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.own import takes_whole
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_fixed_radius, finite_rows
from audioadv.errors import UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts, check_counts, check_sizes
from audioadv.threat.projections import each
from audioadv.threat.region import Region


@takes_whole(examples=True)
def rp2(
    objective: Objective,
    region: Region,
    *,
    steps: int = 300,
    step_size: float = 0.1,
    weight: float = 0.0,
    palette: Tensor | None = None,
    batch: int = 16,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """One change for all examples, which are views of the same thing: within a `Sticker`, or a `Patch` laid somewhere upon each.

    Each step takes a batch of the views, places patches anew, and goes down the mean loss, `weight` times the changes' mean length and,
    with a `palette` [colours, channels], `unprintable`, by Adam; steps of `step_size` (full scale = 1) fall to nothing. What the
    camera does to views is the objective's `expectation`. Views that are at the goal stay: the sticker has to hold for them too.

    Kept is the change that most views fell to, the latest of such: the result's `shared`, as one row of the region's parameters (None for
    no views). A patch's views are judged where their region has it; `region.redrawn` has it elsewhere. By its nature an example's outcome
    depends on the others. Shapes: as in `region.clean`.

    Raises OptionError for a `min` bound, UnusableBatch for a palette of other channels.
    """
    check_counts("rp2", steps=steps, batch=batch)
    check_sizes("rp2", step_size=step_size)
    check_amounts("rp2", weight=weight)
    check_fixed_radius(region, "rp2")
    if palette is not None and (palette.ndim != 2 or region.clean.ndim < 3 or palette.shape[1] != region.clean.shape[1]):
        raise UnusableBatch(
            f"palette of shape {list(palette.shape)} for inputs of shape {list(region.clean.shape)}: give colours, one a row, "
            "with a number for each channel"
        )
    run, draws = Run(objective, region, progress), Draws.of(seed, region.clean)
    picks = Draws(torch.full((1,), seed, dtype=torch.int64, device=region.clean.device))
    shared = region.start()[:1]
    first, second, best, most = torch.zeros_like(shared), torch.zeros_like(shared), shared, -1
    count = len(region.clean)
    with at_rest(objective.model):
        for number in range(1, steps + 1 if count else 0):
            rows = picks.uniform(region.clean.new_empty(1, count)).argsort(1)[0, :batch]
            placed = region.redrawn([torch.Generator().manual_seed(key) for key in draws.whole(1 << 62).tolist()])
            some, delta = placed.rows(rows), upon(placed, shared)[rows]
            inputs = some.inputs(delta)
            look = run.objective.rows(rows.cpu()).look(inputs)
            slope = torch.where(each(finite_rows(look.loss, look.slope), inputs), look.slope, 0.0)
            slope = (slope + burden(some.clean, inputs, weight, palette)) / len(rows)
            push = some.pull(delta, slope).sum(0, keepdim=True)
            first, second = 0.9 * first + 0.1 * push, 0.999 * second + 0.001 * push.square()
            stride = step_size * (1 - (number - 1) / steps)
            shared = shared - stride * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
            shared = widest(region).project(shared)
            run.told()
            if number % 10 == 0 or number == steps or run.enough:
                fallen = int(run.objective.decide(placed.inputs(upon(placed, shared))).sum())
                best, most = (shared, fallen) if fallen >= most else (best, most)
            if run.enough:
                break
        delta = upon(region, best)
        inputs = region.inputs(delta)
        run.keep(inputs, run.objective.decide(inputs), delta)
    one = best[0] if count else None  # for all, also those that it missed
    return replace(run.result(), shared=one, parameters=None if region.added else delta)


def upon(region: Region, shared: Tensor) -> Tensor:
    """The nearest allowed parameters of each example to one change for all. Shapes: shared [1, *] -> as region.start()."""
    return region.project(region.unpadded(shared.expand_as(region.start())))


def widest(region: Region) -> Region:
    """The region of one example as wide as any, with no box: what one change for all may be."""
    one = region.rows(torch.zeros(1, dtype=torch.int64, device=region.clean.device)).at(region.radius.amax(0, keepdim=True))
    return replace(one, low=None, high=None)


def burden(clean: Tensor, inputs: Tensor, weight: float, palette: Tensor | None) -> Tensor:
    """The slope of what a change costs besides its loss: its length, and its colours. Shapes: clean and inputs [batch, *] -> as inputs."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        change = (inputs - clean).flatten(1)
        cost = weight * change.square().sum(1).clamp_min(1e-20).sqrt()
        if palette is not None:
            cost = cost + unprintable(clean, inputs, palette)
        (slope,) = torch.autograd.grad(cost.sum(), inputs)
    return slope


def unprintable(clean: Tensor, inputs: Tensor, palette: Tensor) -> Tensor:
    """Over changed places, the product of the distances to all colours of the palette: zero where each is one of them.

    Shapes: clean and inputs [batch, channels, *], palette [colours, channels] -> [batch].

    >>> grey = torch.tensor([[[0.5, 1.0, 0.2]]])
    >>> unprintable(torch.full((1, 1, 3), 0.2), grey, torch.tensor([[0.0], [1.0]]))
    tensor([0.2500])
    """
    colours = palette.to(inputs).reshape(1, *palette.shape, *[1] * (inputs.ndim - 2))
    distances = (inputs[:, None] - colours).square().sum(2).clamp_min(1e-20).sqrt()
    return (distances.prod(1) * (inputs != clean).any(1)).flatten(1).sum(1)

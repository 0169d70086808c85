"""The inner maximum: inputs near by that the model does worst on, as far as a few steps find them.

Only what training needs is computed: a forward and a backward a step, no best iterate, no count, nobody leaves the batch.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from audioadv.attacks.draws import random_start, wide_start
from audioadv.attacks.objective import slope_at
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts, check_count
from audioadv.threat.bounds import Bound, as_bound
from audioadv.threat.projections import each
from audioadv.threat.region import Region
from audioadv.training.batches import Batch
from audioadv.training.method import Model

Losses = Callable[[Tensor], Tensor]
"""What an input costs the model: `[batch, *] -> [batch]`."""


def slope_of(losses: Losses, inputs: Tensor) -> Tensor:
    """Which way the losses rise. Shapes: inputs [batch, *] -> as they are. Raises AccessDenied for a model without a gradient there."""
    inputs = inputs.detach().requires_grad_()
    return slope_at(losses(inputs), inputs)


def climb(region: Region, delta: Tensor, slope: Tensor, step_size: float) -> Tensor:
    """One step of `step_size` times the radius up a slope of the inputs, projected. Shapes: delta as the region's parameters -> as it."""
    down = region.steepest(region.pull(delta, -slope))  # a region counts slopes of a loss that is to fall
    return region.project(torch.addcmul(delta, each(step_size * region.radius, delta), down, value=-1))


def worst_nearby(region: Region, losses: Losses, *, steps: int, step_size: float, seed: int, boxed: bool = True) -> Tensor:
    """The inputs after some steps up the losses, from a random start, which may leave the box of inputs where it is not `boxed`.

    Parameters that are not the change itself, such as an angle and a shift, are few and their slopes lead nowhere: of those,
    the worst of `steps` random ones is taken (Engstrom et al. 2019, "Exploring the landscape of spatial robustness").
    Shapes: -> as region.clean.
    """
    if not region.added:
        return worst_of_random(region, losses, draws=max(steps, 1), seed=seed)
    delta = random_start(region if boxed else replace(region, low=None, high=None), seed)
    for _ in range(steps):
        delta = climb(region, delta, slope_of(losses, region.inputs(delta)), step_size)
    return region.inputs(delta if steps else region.project(delta))


@torch.no_grad()
def worst_of_random(region: Region, losses: Losses, *, draws: int, seed: int) -> Tensor:
    """Of some random allowed inputs, ends of the ranges among them, the one of the greatest loss. Shapes: -> as region.clean."""
    return worst_of([region.inputs(wide_start(region, seed + draw)) for draw in range(draws)], losses)


@torch.no_grad()
def worst_of(candidates: list[Tensor], losses: Losses) -> Tensor:
    """For each example, the candidate of the greatest loss. Shapes: [batch, *] each -> [batch, *]."""
    if len(candidates) == 1:
        return candidates[0]
    heights = [losses(candidate) for candidate in candidates]
    worst, height = candidates[0], heights[0]
    for candidate, own in zip(candidates[1:], heights[1:], strict=True):
        worst = torch.where(each(own > height, worst), candidate, worst)
        height = torch.maximum(own, height)
    return worst


def worst_for(model: Model, batch: Batch, region: Region, *, steps: int, step_size: float, seed: int, boxed: bool = True) -> Tensor:
    """The inputs near a batch's that a model in evaluation mode does worst on. Shapes: -> as region.clean."""
    with at_rest(model):
        return worst_nearby(region, lambda inputs: batch.losses(model, inputs), steps=steps, step_size=step_size, seed=seed, boxed=boxed)


def check_attacker(bound: Bound | str, steps: int, step_size: float | None, least: int = 0) -> Bound:
    """The bound, or the one that a spec names. Raises OptionError for one without a radius, and for steps that are fewer than `least`,
    or of a size below 0."""
    bound = as_bound(bound)
    if bound.minimal:
        raise OptionError(f"bound {bound}: training needs a radius to search within. Give one, for example linf:0.1")
    check_count("steps", steps, least)
    check_amounts("training", step_size=0 if step_size is None else step_size)
    return bound


def usual_step(steps: int) -> float:
    """Two and a half times the radius in all, so that every point of the ball can be reached: as Madry et al. 2018."""
    return 2.5 / max(steps, 1)

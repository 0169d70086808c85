"""Primal-dual proximal gradient descent: the smallest change as a game between the change and the constraint's price.

Source: Matyasko and Chau 2021, "PDPGD: primal-dual proximal gradient descent adversarial attack", algorithm 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective, at_rest
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, cut, finite_rows, restless
from audioadv.errors import OptionError
from audioadv.threat.labels import margin
from audioadv.threat.norms import L0Norm, L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import each, places
from audioadv.threat.region import Region


def prox_l0(delta: Tensor, weight: Tensor) -> Tensor:
    """argmin weight * |y|_0 + |y - delta|^2 / 2: places shorter than sqrt(2 weight) go, all channels of one together.

    Shapes: [batch, *], [batch] -> [batch, *].

    >>> prox_l0(torch.tensor([[1.0, 3.0]]), torch.tensor([2.0]))
    tensor([[0., 3.]])
    """
    stays = places(delta.square()) > 2 * weight[:, None]
    return torch.where(stays.view_as(delta) if delta.ndim < 3 else stays.view(len(delta), 1, *delta.shape[2:]), delta, 0.0)


def prox_l1(delta: Tensor, weight: Tensor) -> Tensor:
    """argmin weight * |y|_1 + |y - delta|^2 / 2: all entries nearer to zero by the weight. Shapes: [batch, *], [batch] -> [batch, *].

    >>> prox_l1(torch.tensor([[1.0, -3.0]]), torch.tensor([2.0]))
    tensor([[ 0., -1.]])
    """
    return delta.sign() * (delta.abs() - each(weight, delta)).clamp_min(0)


def prox_l2(delta: Tensor, weight: Tensor) -> Tensor:
    """argmin weight * |y|_2 + |y - delta|^2 / 2: the whole shorter by the weight. Shapes: [batch, *], [batch] -> [batch, *].

    >>> prox_l2(torch.tensor([[3.0, 4.0]]), torch.tensor([2.5]))
    tensor([[1.5000, 2.0000]])
    """
    length = delta.flatten(1).norm(dim=1)
    return delta * each((1 - weight / length.clamp_min(1e-30)).clamp_min(0), delta)


def prox_linf(delta: Tensor, weight: Tensor) -> Tensor:
    """argmin weight * |y|_inf + |y - delta|^2 / 2: the peaks cut by the weight in all. Shapes: [batch, *], [batch] -> [batch, *].

    What is cut off is the nearest point of the L1 ball of radius `weight` (Moreau), by sorting (Duchi et al. 2008).

    >>> prox_linf(torch.tensor([[1.0, -3.0]]), torch.tensor([1.5]))
    tensor([[ 1.0000, -1.5000]])
    """
    size = delta.flatten(1).abs()
    ranked = size.sort(1, descending=True).values
    levels = (ranked.cumsum(1) - weight[:, None]) / torch.arange(1, size.shape[1] + 1, device=delta.device)
    above = (ranked > levels).sum(1, keepdim=True).clamp_min(1)
    level = each(levels.gather(1, above - 1)[:, 0].clamp_min(0), delta)
    return torch.minimum(torch.maximum(delta, -level), level)


PATIENCE = 10  # steps without success, before another way is tried
PROXES: dict[type, Callable[[Tensor, Tensor], Tensor]] = {L0Norm: prox_l0, L1Norm: prox_l1, L2Norm: prox_l2, LinfNorm: prox_linf}


def pdpgd(
    objective: Objective,
    region: Region,
    *,
    steps: int = 500,
    primal_rate: float = 0.1,
    dual_rate: float = 0.1,
    start: float = 0.01,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """The change goes down price * margin and through the norm's proximal operator; the price rises while the goal is missed.

    Both players' weights sum to 1 (a softmax): `start` is what the norm weighs at first, beside the margin. Steps are scaled by
    a running mean square of each example's own slope, and both rates fall a hundredfold and tenfold along an exponential. The
    loss is the margin, as in the paper, for goals of labels; an example that is not found after ten steps goes by the slope's
    signs, and no step is spent on entries that the box holds back. Draws nothing. One forward and one backward a step.

    Shapes: as in `region.clean`. Raises OptionError for a norm without a proximal operator here.
    """
    prox = PROXES.get(type(region.norm))
    if prox is None:
        raise OptionError(
            f"pdpgd has no proximal operator for {type(region.norm).__name__}. Bound it by one of linf, l2, l1, l0, or use fmn"
        )
    run = Run(objective.by(margin), region, progress)
    delta, square = region.start(), torch.zeros_like(region.radius)
    dual, average = torch.full_like(region.radius, -math.log(start)), torch.zeros_like(region.radius)
    with at_rest(objective.model):
        for number in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            rate, slower = primal_rate * 0.01 ** (number / steps), dual_rate * 0.1 ** (number / steps)
            price = dual.sigmoid()
            slope = run.region.unpadded(run.region.pull(delta, look.slope, free=True))
            slope = restless(slope, run.open() & (number >= PATIENCE)) * each(price, delta)
            square = 0.9 * square + 0.1 * slope.flatten(1).square().mean(1)
            scale = rate / ((square / (1 - 0.9 ** (number + 1))).sqrt() + 1e-12)
            delta = prox(delta - each(scale, delta) * slope, scale * (1 - price))
            delta = run.region.unpadded(boxed(run.region, delta))
            average = 0.9 * average + 0.1 * torch.where(look.reached, -1.0, 1.0)
            dual = dual + slower * average
            if left := run.leave(finite_rows(look.loss, look.slope), kept & run.region.radius.isfinite()):
                delta, square, dual, average = cut(left, delta, square, dual, average)
                if not len(delta):
                    break
    return run.result()

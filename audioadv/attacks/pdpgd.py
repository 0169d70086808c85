"""Primal-dual proximal gradient descent: the smallest change as a game between the change and the constraint's price.

Source: Matyasko and Chau 2021, "PDPGD: primal-dual proximal gradient descent adversarial attack".
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, check_objective, cut, finite_rows, restless
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_sizes
from audioadv.threat.joined import kappa
from audioadv.threat.labels import margin
from audioadv.threat.norms import L0Norm, L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import each, length_of, sum_of
from audioadv.threat.region import Region


def prox_l23(delta: Tensor, weight: Tensor) -> Tensor:
    """argmin sum of weight * |y|^(2/3) + |y - delta|^2 / 2: short ones go, long ones stay nearly as long, which counting wants.

    With z = |y|^(1/3), stationarity is the quartic z^4 - |delta| z + 2 weight / 3 = 0, whose resolvent cubic a cosh solves. All
    channels of a place go together, by their length. Shapes: delta and weight [batch, *] -> as delta.
    Source: Cao, Sun and Xu 2013, "Fast image deconvolution using closed-form thresholding formulas of Lq regularization".

    >>> prox_l23(torch.tensor([[1.0, 3.0]]), torch.ones(1, 2)).round(decimals=4)
    tensor([[0.0000, 2.5094]])
    """
    size = delta.abs() if delta.ndim < 3 else delta.norm(dim=1, keepdim=True)
    lean = 2 * (weight if delta.ndim < 3 else weight.amin(1, keepdim=True)).clamp_min(LEAST)
    angle = torch.acosh((27 / 16 * size.square() * lean**-1.5).clamp_min(1.0))
    a = 2 / math.sqrt(3) * lean**0.25 * torch.cosh(angle / 3).sqrt()
    length = ((a + (2 * size / a - a.square()).clamp_min(0).sqrt()) / 2) ** 3
    return delta * torch.where(size > 2 / 3 * 3**0.25 * lean**0.75, length / size.clamp_min(LEAST), 0.0)


def prox_l1(delta: Tensor, weight: Tensor) -> Tensor:
    """argmin sum of weight * |y| + |y - delta|^2 / 2: all entries nearer to zero by their weight. Shapes: [batch, *] twice -> as delta.

    >>> prox_l1(torch.tensor([[1.0, -3.0]]), torch.tensor([[2.0, 1.0]]))
    tensor([[ 0., -2.]])
    """
    return delta.sign() * (delta.abs() - weight).clamp_min(0)


def prox_l2(delta: Tensor, weight: Tensor) -> Tensor:
    """argmin weight * |y|_2 + |y - delta|^2 / 2: the whole shorter by the weight. Shapes: [batch, *], [batch] -> [batch, *].

    >>> prox_l2(torch.tensor([[3.0, 4.0]]), torch.tensor([2.5]))
    tensor([[1.5000, 2.0000]])
    """
    length = length_of(delta)
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


PATIENCE = 0.05  # the share of the steps without success, before another way is tried
LEAST = 1e-20  # of what is divided by
LARGEST = math.log(1e6)  # how far the players' weights may part
PROXES: dict[type, Callable[[Tensor, Tensor], Tensor]] = {L0Norm: prox_l23, L1Norm: prox_l1, L2Norm: prox_l2, LinfNorm: prox_linf}


def pdpgd(
    objective: Objective,
    region: Region,
    *,
    steps: int = 500,
    primal_rate: float | None = None,
    dual_rate: float = 0.1,
    start: float = 0.1,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """The change goes down the margin and through the norm's proximal operator; the margin's price rises while the goal is missed.

    Both players' weights sum to 1 (a softmax): `start` is what the norm weighs at first, beside the margin. Steps are Adam's, entry by
    entry, and so are the weights of the operator where the norm is a sum over entries (proximal Adam); in Linf all get the least of
    them; in L2 all entries' steps have one scale, their mean's, since with one each they would rest where the slope's *signs* lead (a
    linear net of 200 weights, 10 of them large: 4.2 times the smallest change, with any number of steps). L0 is stood in for by the sum
    of |delta|^(2/3), as in the paper. Both rates fall, a hundredfold and tenfold; the primal one from 0.1, in L0 from 0.2, since what
    counts there are entries that go all the way. The loss is softplus(margin + kappa), for goals of labels; an example that is not found
    after 5 % of the steps (ten at least) goes by the slope's signs, and no step is spent on entries that the box holds back.
    Draws nothing: `seed` changes nothing. One forward and one backward a step.

    Shapes: as in `region.clean`. Raises OptionError for a norm without a proximal operator here.
    """
    check_objective(objective)
    check_counts("pdpgd", steps=steps)
    prox = PROXES.get(type(region.norm))
    if prox is None:
        raise OptionError(
            f"pdpgd has no proximal operator for {type(region.norm).__name__}. Bound it by one of linf, l2, l1, l0, or use fmn"
        )
    primal_rate = (0.2 if isinstance(region.norm, L0Norm) else 0.1) if primal_rate is None else primal_rate
    check_sizes("pdpgd", primal_rate=primal_rate, dual_rate=dual_rate, start=start)
    lead, run = kappa(objective.goal), Run(objective.by(margin), region, progress)
    delta, patience = region.start(), max(10, PATIENCE * steps)
    first, second = torch.zeros_like(delta), torch.zeros_like(delta)
    dual = torch.full_like(region.radius, -math.log(start))
    price = dual.sigmoid()
    with at_rest(objective.model):
        for number in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            rate, slower = primal_rate * 0.01 ** (number / steps), dual_rate * (1 - 0.9 * number / steps)
            slope = run.region.pull(delta, look.slope, free=True)
            slope = restless(slope, run.open() & (number >= patience)) * each((look.loss + lead).sigmoid(), delta)
            square = slope.square()
            if isinstance(run.region.norm, L2Norm):
                square = each(sum_of(square) / run.region.entries(), slope).expand_as(slope)
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * square
            scale = rate / ((second / (1 - 0.999 ** (number + 1))).sqrt() + 1e-8)
            delta = boxed(run.region, delta - scale * first / (1 - 0.9 ** (number + 1)))
            weight = scale * each((1 - price) / price, scale)
            delta = prox(delta, weight.flatten(1).amin(1) if isinstance(region.norm, L2Norm | LinfNorm) else weight)
            delta = run.region.unpadded(boxed(run.region, delta))
            dual = (dual + slower * torch.where(look.reached, -1.0, 1.0).to(dual)).clamp(-LARGEST, LARGEST)
            price = 0.9 * price + 0.1 * dual.sigmoid()
            if left := run.leave(finite_rows(look.loss, look.slope), kept & run.region.radius.isfinite()):
                delta, first, second, dual, price = cut(left, delta, first, second, dual, price)
                if not len(delta):
                    break
    return run.result()

"""Nearest points of norm balls within a box, for each example of a batch. Each docstring is the problem that is solved."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

INWARD = 1 - 2.0**-20
"""Radii are taken this much smaller, so that rounding in float32 never leaves a point outside its ball."""


def each(values: Shaped[Tensor, " batch"], like: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
    """One number an example, shaped to meet a batch. Shapes: values [batch], like [batch, *] -> [batch, 1, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def project_linf(
    delta: Float[Tensor, "batch ..."],
    radius: Float[Tensor, " batch"],
    low: Float[Tensor, "batch ..."] | None = None,
    high: Float[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch ..."]:
    """argmin |y - delta|_2 over |y|_inf <= radius, low <= y <= high.

    Shapes: delta [batch, *], radius [batch], low and high as delta (low <= 0 <= high) -> as delta.

    >>> project_linf(torch.tensor([[0.5, -0.1]]), torch.tensor([0.25]))
    tensor([[ 0.2500, -0.1000]])
    """
    limit = each(radius, delta)
    y = torch.minimum(torch.maximum(delta, -limit), limit)  # a clamp is slower where limits broadcast
    return y if low is None or high is None else y.clamp(low, high)


def project_l2(
    delta: Float[Tensor, "batch ..."],
    radius: Float[Tensor, " batch"],
    low: Float[Tensor, "batch ..."] | None = None,
    high: Float[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch ..."]:
    """argmin |y - delta|_2 over |y|_2 <= radius, low <= y <= high.

    The solution is clip(s * delta, low, high) with one scale s in [0, 1] for each example (stationarity in y, one
    multiplier for the ball). Where the box cuts nothing off, s = radius / |delta|. Elsewhere s is found by Newton's
    method on the length, which is concave and increasing in s on each piece; it ends when the set of cut-off entries
    stays as it is.

    Shapes: delta [batch, *], radius [batch], low and high as delta (low <= 0 <= high) -> as delta.

    >>> project_l2(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0])).round(decimals=4)
    tensor([[0.6000, 0.8000]])
    """
    radius = radius * INWARD
    flat = delta.flatten(1)
    length = flat.norm(dim=1)
    scale = torch.where(length > radius, radius / length.clamp_min(1e-30), torch.ones_like(length))
    y = each(scale, delta) * delta
    if low is None or high is None:
        return y
    cut = torch.minimum(torch.maximum(y, low), high)
    if bool((cut == y).all()):
        return cut
    boxed = torch.minimum(torch.maximum(delta, low), high).flatten(1)
    scale = torch.where(boxed.norm(dim=1) <= radius, torch.ones_like(scale), scale)
    for _ in range(20):  # a handful suffices; each round solves the current piece exactly
        y = torch.minimum(torch.maximum(each(scale, delta) * delta, low), high).flatten(1)
        free = y == scale[:, None] * flat
        stuck = torch.where(free, 0.0, y).square().sum(1)
        loose = torch.where(free, flat, 0.0).norm(dim=1)
        wanted = ((radius.square() - stuck).clamp_min(0).sqrt() / loose.clamp_min(1e-30)).clamp_max(1.0)
        done = (scale == 1) | ((wanted - scale).abs() <= 1e-7 * scale) | (loose == 0)
        scale = torch.where(done, scale, wanted)
        if bool(done.all()):
            break
    return torch.minimum(torch.maximum(each(scale, delta) * delta, low), high)

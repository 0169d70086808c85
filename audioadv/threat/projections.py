"""Nearest points of norm balls within a box, for each example of a batch. Each docstring is the problem that is solved."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

INWARD = 1 - 2.0**-20
"""Radii are taken this much smaller, so that rounding in float32 never leaves a point outside its ball."""

PIECE = 256
"""So many entries of a sound are one piece of it, where its length is measured in pieces."""


def each(values: Shaped[Tensor, " batch"], like: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch ..."]:
    """One number an example, shaped to meet a batch. Shapes: values [batch], like [batch, *] -> [batch, 1, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def sum_of(x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, " batch"]:
    """The sum of each example's entries. Padding has a part in the order that they are added up in: in float64, that is not seen.

    Shapes: [batch, *] -> [batch], in the type of x.
    """
    return x.flatten(1).sum(1, dtype=torch.float64).to(x.dtype)


def length_of(x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, " batch"]:
    """The Euclidean length of each example, added up as `sum_of` does. Shapes: [batch, *] -> [batch], in the type of x.

    On the CPU, float64 takes a copy of all entries, which costs several times what the sum does. Ragged batches of sound, [batch, time],
    are measured in pieces instead, each in float32, and only the pieces are added up in float64: to within a unit in the last place. A
    piece begins at the same entry however much padding follows, so that is not seen either.
    """
    rows = x.flatten(1)
    if x.ndim != 2 or x.dtype != torch.float32 or not x.is_cpu:
        return rows.norm(dim=1, dtype=torch.float64).to(x.dtype)
    count = x.shape[1] // PIECE
    whole = count * PIECE
    pieces = x[:, :whole].reshape(len(x), count, PIECE).norm(dim=2)
    rest = F.pad(x[:, whole:], (0, whole + PIECE - x.shape[1])).norm(dim=1, keepdim=True)
    length = torch.cat([pieces, rest], 1).norm(dim=1, dtype=torch.float64)
    fits = (length > 1e-12) & (length < 1e12)
    if not bool(fits.all()):  # of the others, squares may have left the range of float32
        length = torch.where(fits, length, x.norm(dim=1, dtype=torch.float64))
    return length.to(x.dtype)


def dot(a: Shaped[Tensor, "batch ..."], b: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, " batch"]:
    """The inner product of each example's two. Shapes: [batch, *] each -> [batch]."""
    return sum_of(a * b)


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
    multiplier for the ball). Where the box cuts nothing off, s = radius / |delta|.

    Shapes: delta [batch, *], radius [batch], low and high as delta (low <= 0 <= high) -> as delta.

    >>> project_l2(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0])).round(decimals=4)
    tensor([[0.6000, 0.8000]])
    """
    radius = radius * INWARD
    length = length_of(delta)
    scaled = each((radius / length.clamp_min(1e-30)).clamp_max(1.0), delta) * delta
    if low is None or high is None:
        return scaled
    if delta.is_cuda:  # all rows, since to ask which ones would be to wait
        scale = scale_in_order(delta.abs().flatten(1), torch.where(delta > 0, high, -low).flatten(1), radius)
        return (each(scale, delta) * delta).clamp(low, high)
    boxed = scaled.clamp(low, high)
    if torch.equal(boxed, scaled):  # mostly the box cuts nothing off
        return boxed
    rows = ((boxed != scaled).flatten(1).any(1) & (length > radius)).nonzero()[:, 0]
    if not len(rows):
        return boxed
    own = delta[rows]
    room = torch.where(own > 0, high[rows], -low[rows]).flatten(1)
    scale = scale_by_newton(own.abs().flatten(1), room, radius[rows], radius[rows] / length[rows])
    return boxed.index_copy(0, rows, (each(scale, own) * own).clamp(low[rows], high[rows]))


def scale_by_newton(
    size: Float[Tensor, "batch entries"],
    room: Float[Tensor, "batch entries"],
    radius: Float[Tensor, " batch"],
    start: Float[Tensor, " batch"],
) -> Float[Tensor, " batch"]:
    """s <= 1 at which |min(s * size, room)|_2 is the radius, from a start that is no larger.

    The length is concave in s, and each round solves the piece that s lies on: s only grows, and ends on the piece that holds it.
    """
    reach, size, stuck = room / size.clamp_min(1e-30), size.square(), room.square()
    scale = start
    for _ in range(20):  # a handful suffices
        free = reach > scale[:, None]
        left = radius.square() - sum_of(torch.where(free, 0.0, stuck))
        wanted = (left.clamp_min(0) / sum_of(torch.where(free, size, 0.0)).clamp_min(1e-30)).sqrt().clamp_max(1.0)
        done = wanted <= scale * (1 + 1e-7)
        scale = torch.where(done, scale, wanted)  # what is done stays, however long the others take
        if bool(done.all()):
            break
    return scale


def scale_in_order(
    size: Float[Tensor, "batch entries"], room: Float[Tensor, "batch entries"], radius: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The same s, or 1 where the length never is the radius, without a loop: nothing waits for the host.

    An entry is full from s = room / size on. With all those points in order, running sums give the length at each, and s
    lies on the piece where it passes the radius.
    """
    points, order = (room / size.clamp_min(1e-30)).sort(1)
    squares, full = (x.double().square().gather(1, order) for x in (size, room))
    full, free = F.pad(full.cumsum(1), (1, 0)), F.pad(squares.flip(1).cumsum(1).flip(1), (0, 1))  # before each point, and past the last
    length = full[:, :-1] + points.double().square() * free[:, :-1]
    last = ((length <= radius.double().square()[:, None]) & (points <= 1)).sum(1, keepdim=True)
    left = radius.double().square() - full.gather(1, last)[:, 0]
    return (left.clamp_min(0) / free.gather(1, last)[:, 0].clamp_min(1e-30)).sqrt().clamp_max(1.0).to(radius)


def project_l1(
    delta: Float[Tensor, "batch ..."],
    radius: Float[Tensor, " batch"],
    low: Float[Tensor, "batch ..."] | None = None,
    high: Float[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch ..."]:
    """argmin |y - delta|_2 over |y|_1 <= radius, low <= y <= high.

    With room u for each entry on its own side of zero (high or -low), stationarity gives |y| = clip(|delta| - t, 0, u) for
    one threshold t >= 0 an example, at which the length, the sum of these, is the radius.

    Shapes: delta [batch, *], radius [batch], low and high as delta (low <= 0 <= high) -> as delta.
    Source: Duchi et al. 2008, "Efficient projections onto the l1-ball"; the box after Croce and Hein 2021, "Mind the box".

    >>> project_l1(torch.tensor([[3.0, -1.0, 0.5]]), torch.tensor([2.0])).round(decimals=4)
    tensor([[2., -0., 0.]])
    """
    radius = radius * INWARD
    size = delta.abs()
    room = None if low is None or high is None else torch.where(delta > 0, high, -low)
    flat, flat_room = size.flatten(1), None if room is None else room.flatten(1)
    threshold = (threshold_in_order if delta.is_cuda else threshold_by_newton)(flat, flat_room, radius)
    left = (size - each(threshold, delta)).clamp_min(0)
    if room is not None:
        left = torch.minimum(left, room)
    length = sum_of(left)  # rounded entry by entry: a hair too long at worst
    return each((radius / length.clamp_min(1e-30)).clamp_max(1.0), delta) * left * delta.sign()


def threshold_by_newton(
    size: Float[Tensor, "batch entries"], room: Float[Tensor, "batch entries"] | None, radius: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """t >= 0 at which sum clip(size - t, 0, room) is the radius, or 0 where it is never more.

    Newton's method on a piecewise linear function: exact from the moment that the piece is right, which takes some five rounds. Steps
    out of the bracket, as they are where no entry is free, and every sixth, halve it instead. Examples leave when they are done. The
    fastest on a CPU.
    """
    found, lower, upper = torch.zeros_like(radius), torch.zeros_like(radius), size.amax(1)
    t, rows = lower, torch.arange(len(radius), device=radius.device)
    for turn in range(100):
        left = (size - t[:, None]).clamp_min(0)
        free = left > 0
        if room is not None:
            free &= left < room
            left = torch.minimum(left, room)
        over = (left.sum(1, dtype=torch.float64) - radius).to(radius)
        found[rows] = t
        lower, upper = torch.where(over > 0, t, lower), torch.where(over > 0, upper, t)
        step, middle = t + over / free.sum(1), (lower + upper) / 2
        t = torch.where((step > lower) & (step < upper) & (turn % 6 < 5), step, middle)
        stay = ((over.abs() > 2e-7 * radius) & (middle > lower) & (middle < upper)).nonzero()[:, 0]
        if not len(stay):
            break
        if len(stay) < len(rows):
            size, room = size[stay], None if room is None else room[stay]
            rows, radius, lower, upper, t = rows[stay], radius[stay], lower[stay], upper[stay], t[stay]
    return found


def threshold_in_order(
    size: Float[Tensor, "batch entries"], room: Float[Tensor, "batch entries"] | None, radius: Float[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The same t, without a loop: nothing waits for the host.

    On the way down from the largest size, an entry begins to grow at t = size and is full at t = size - room. With all
    those points in order, running sums give the length at each, and t lies on the piece where it passes the radius.
    """
    points, order = (size if room is None else torch.cat([size, size - room], 1)).sort(1, descending=True)
    points, turns = points.double(), torch.where(order < size.shape[1], 1.0, -1.0).double()
    growing, area = turns.cumsum(1), (turns * points).cumsum(1)
    last = ((area - growing * points) <= radius[:, None]).sum(1, keepdim=True) - 1
    t = (area.gather(1, last)[:, 0] - radius) / growing.gather(1, last)[:, 0].clamp_min(1)
    return t.clamp_min(0).to(radius)


HALVINGS = 32


def project_l1_l2(
    delta: Float[Tensor, "batch ..."],
    first: Float[Tensor, " batch"],
    second: Float[Tensor, " batch"],
    low: Float[Tensor, "batch ..."] | None = None,
    high: Float[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch ..."]:
    """argmin |y - delta|_2 over |y|_1 <= first, |y|_2 <= second, low <= y <= high.

    With a multiplier t for the L1 ball, y is the L2 ball's nearest point to sign(delta) * max(|delta| - t, 0); its L1 length falls as t
    grows, and t is found by halving.

    Shapes: delta [batch, *], first and second [batch], low and high as delta (low <= 0 <= high) -> as delta.

    >>> project_l1_l2(torch.tensor([[3.0, 2.0]]), torch.tensor([1.2]), torch.tensor([1.0])).round(decimals=4)
    tensor([[0.9742, 0.2258]])
    """
    first = first * INWARD

    def at(threshold: Tensor) -> Tensor:
        return project_l2(delta.sign() * (delta.abs() - each(threshold, delta)).clamp_min(0), second, low, high)

    lower, upper = torch.zeros_like(first), delta.flatten(1).abs().amax(1)
    y = at(lower)
    fits = sum_of(y.abs()) <= first
    if bool(fits.all()):
        return y
    upper = torch.where(fits, lower, upper)
    for _ in range(HALVINGS):
        middle = (lower + upper) / 2
        fits = sum_of(at(middle).abs()) <= first
        lower, upper = torch.where(fits, lower, middle), torch.where(fits, middle, upper)
    return at(upper)


def places(x: Shaped[Tensor, "batch ..."]) -> Shaped[Tensor, "batch places"]:
    """Sums over what counts as one under L0: all channels of a pixel or of a moment. Shapes: [N, T], [N, C, *] -> [N, places]."""
    return x.flatten(1) if x.ndim < 3 else x.sum(1).flatten(1)


def greatest(gains: Float[Tensor, "batch places"], count: Float[Tensor, " batch"], like: Float[Tensor, "batch ..."]) -> Tensor:
    """Which entries lie in the `count` places of the greatest gain, ties by order. Shapes: -> bool, broadcasts to `like`."""
    order = gains.argsort(dim=1, descending=True, stable=True)
    chosen = torch.arange(gains.shape[1], device=gains.device) < count.floor()[:, None]
    mask = torch.zeros_like(gains, dtype=torch.bool).scatter_(1, order, chosen)
    return mask.view(like.shape) if like.ndim < 3 else mask.view(like.shape[0], 1, *like.shape[2:])


def project_l0(
    delta: Float[Tensor, "batch ..."],
    radius: Float[Tensor, " batch"],
    low: Float[Tensor, "batch ..."] | None = None,
    high: Float[Tensor, "batch ..."] | None = None,
) -> Float[Tensor, "batch ..."]:
    """argmin |y - delta|_2 over |y|_0 <= radius, low <= y <= high, where all channels of a place count as one.

    A place that is kept is clipped to the box, which takes delta^2 - (delta - clip(delta))^2 off the squared distance; the
    `radius` places that take off most are kept.

    Shapes: delta [batch, *], radius [batch] in places, low and high as delta (low <= 0 <= high) -> as delta.
    Source: Croce and Hein 2019, "Sparse and imperceivable adversarial attacks".

    >>> project_l0(torch.tensor([[3.0, -1.0, 2.0]]), torch.tensor([2.0]))
    tensor([[3., 0., 2.]])
    """
    y = delta if low is None or high is None else delta.clamp(low, high)
    return torch.where(greatest(places(delta.square() - (delta - y).square()), radius, delta), y, 0.0)

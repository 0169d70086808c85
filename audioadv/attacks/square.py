"""Square attack: random windows, kept where they lower the loss. Scores only.

Source: Andriushchenko et al. 2020, "Square Attack: a query-efficient black-box adversarial attack via random search".
"""

import torch
from torch import Tensor

from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, check_fixed_radius, check_objective, check_plain_changes, cut, finite_rows
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_sizes
from audioadv.threat.labels import margin
from audioadv.threat.norms import L2Norm, LinfNorm
from audioadv.threat.projections import each, length_of
from audioadv.threat.region import Region

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After so many ten-thousandths of the queries, windows have half the area (the paper's schedule)."""


def share_of_area(number: int, steps: int, first: float) -> float:
    """How much of the input a window covers at one query.

    >>> share_of_area(0, 5000, 0.8), share_of_area(4999, 5000, 0.8)
    (0.8, 0.0015625)
    """
    return first / 2 ** sum(10000 * number / steps > after for after in HALVED_AFTER)


def square(
    objective: Objective,
    region: Region,
    *,
    steps: int = 5000,
    area: float = 0.8,
    begin: Tensor | None = None,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """From a random start, `steps` queries in all; each tries a window of new values. Windows are squares in images, spans in sound.

    Where `begin` [batch, *] is given, a change within the region, it begins there instead.

    In Linf a window takes the radius with one random sign a channel, from a start of stripes. In L2 the energy of a second
    window moves into the first. What falls is the margin, for goals of labels (the paper lowers the cross-entropy of a wanted class).

    Different in L2: a window holds one peak of one sign a channel, where the paper's has two of opposite signs, and the start is
    signs everywhere, where the paper's is a tiling of such peaks. (The net trained naturally, L2 1.5, 100 images, 1,000 queries: 56
    fall, with the paper's windows 49, with its start 55.)

    Shapes: [batch, time], [batch, channels, time] or [batch, channels, height, width]. Raises OptionError for other norms.
    """
    check_objective(objective)
    check_counts("square", steps=steps)
    check_sizes("square", area=area)
    check_plain_changes(region, "square")
    check_fixed_radius(region, "square")
    if not isinstance(region.norm, LinfNorm | L2Norm):
        raise OptionError("square moves within Linf or L2. Bound it by one of them, or use a gradient attack with slopes=nes()")
    run, draws, move = (
        Run(objective.by(margin), region, progress),
        Draws.of(seed, region.clean),
        flip if isinstance(region.norm, LinfNorm) else carry,
    )
    delta = start(region, draws) if begin is None else begin
    lowest = torch.full_like(region.radius, torch.inf)
    with at_rest(objective.model):
        for number in range(steps):
            trial = delta if number == 0 else move(run.region, delta, share_of_area(number, steps, area), draws)
            inputs = run.region.inputs(trial)
            score = run.objective.score(inputs)
            kept = run.keep(inputs, score.reached)
            better = score.loss < lowest
            delta = torch.where(each(better, delta), trial, delta)
            lowest = torch.where(better, score.loss, lowest)
            if left := run.leave(finite_rows(score.loss), kept):
                delta, lowest = cut(left, delta, lowest)
                draws = draws.rows(left[0])
                if not len(delta):
                    break
    return run.result()


def as_channels(x: Tensor) -> Tensor:
    """A view with a channel axis and one or two axes of space. Shapes: [batch, time] -> [batch, 1, time]; others as they are."""
    return x[:, None] if x.ndim == 2 else x.flatten(1, -3) if x.ndim > 4 else x


def widths(region: Region) -> Tensor:
    """Each example's own size along the last axis. Shapes: -> int64 [batch]."""
    clean = region.clean
    if region.inside is None:
        return torch.full((len(clean),), clean.shape[-1], device=clean.device)
    return region.inside.flatten(1, -2).any(1).sum(-1) if region.inside.ndim > 2 else region.inside.sum(-1)


def windows(region: Region, share: float, draws: Draws) -> tuple[Tensor, Tensor]:
    """One random window an example, and how deep inside it each entry lies (0 outside). Shapes: bool and float [batch, 1, *space]."""
    space = as_channels(region.clean).shape[2:]
    inside, depth = region.clean.new_ones((len(region.clean), 1, *space), dtype=torch.bool), None
    for axis, size in enumerate(space):
        own = widths(region) if axis == len(space) - 1 else torch.full_like(widths(region), size)
        side = (own * share ** (1 / len(space))).round().long().clamp_min(1).minimum(own)
        first = draws.whole(own - side + 1)
        place = torch.arange(size, device=own.device) - first[:, None]
        shape = (len(own), 1, *(size if a == axis else 1 for a in range(len(space))))
        inside = inside & ((place >= 0) & (place < side[:, None])).reshape(shape)
        near = torch.minimum(place + 1, side[:, None] - place).clamp_min(0).reshape(shape)
        depth = near if depth is None else torch.minimum(depth, near)
    assert depth is not None
    return inside, depth.to(region.clean)


def start(region: Region, draws: Draws) -> Tensor:
    """Linf: stripes of one entry's width. L2: signs everywhere. At the edge of the region."""
    clean = as_channels(region.clean)
    signs = draws.signs(clean if isinstance(region.norm, L2Norm) or clean.ndim < 4 else clean[:, :, :1]).expand(clean.shape)
    signs = region.unpadded(signs.reshape(region.clean.shape))
    return region.project(signs * each(region.radius / region.norm.gauge(signs).clamp_min(1e-30), signs))


def flip(region: Region, delta: Tensor, share: float, draws: Draws) -> Tensor:
    """In Linf: within a window, the whole radius, one sign a channel."""
    inside, _ = windows(region, share, draws)
    channels = as_channels(delta)
    signs = draws.signs(channels.flatten(2)[..., :1]).reshape(*channels.shape[:2], *[1] * (channels.ndim - 2))
    new = torch.where(inside, signs * each(region.radius, channels), channels).reshape(delta.shape)
    return region.unpadded(boxed(region, new))


def carry(region: Region, delta: Tensor, share: float, draws: Draws) -> Tensor:
    """In L2: the energy of a second window, and what the radius leaves, moves into the first, as one more peak."""
    (first, depth), (second, _) = windows(region, share, draws), windows(region, share, draws)
    channels = as_channels(delta)
    rest = torch.where(first | second, 0.0, channels)
    spare = (region.radius.square() - rest.flatten(1).square().sum(1)).clamp_min(0).sqrt()
    signs = draws.signs(channels.flatten(2)[..., :1]).reshape(*channels.shape[:2], *[1] * (channels.ndim - 2))
    held = torch.where(first, channels, 0.0)
    bump = signs * depth / each(length_of(depth), depth)
    peak = held / each(length_of(held).clamp_min(1e-12), held) + bump
    peak = torch.where(each(length_of(peak) > 1e-6, peak), peak, bump)  # one that the bump takes away altogether turns round
    new = rest + peak * each(spare / length_of(peak).clamp_min(1e-12), peak)
    return region.unpadded(region.project(new.reshape(delta.shape)))

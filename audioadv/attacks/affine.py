"""Part of a move, then part of a plain change: an attack for the affine mix of bounds of two kinds.

    clean --the worst of some random moves, held fast--> . --any attack within what is left of the bound--> adversarial

A gradient for both at once serves neither: of an angle it leads nowhere, and while the image turns under it, the change
that was made for one place lies at another.
Sources: Tramer and Boneh 2019, "Adversarial training and robustness for multiple perturbations"; moves by random choice,
Engstrom et al. 2019, "Exploring the landscape of spatial robustness".
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audioadv.attacks.draws import wide_start
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.run import Run, Tell, finite_rows
from audioadv.attacks.survivors import Told, merged, nothing_yet, one_after_another, standing
from audioadv.attacks.union import worst_member
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts
from audioadv.threat.combined import share
from audioadv.threat.projections import each
from audioadv.threat.region import ADDED, Region, portion
from audioadv.threat.slots import Chain, SlotNorm


def affine(
    attack: Attack,
    objective: Objective,
    region: Region,
    *,
    draws: int = 10,
    restarts: int = 1,
    seed: int = 0,
    progress: Tell | None = None,
    **options: Any,
) -> AttackResult:
    """Of `draws` random moves the worst, then the attack (with `seed` and `options`) on the plain change that comes after it.

    For a mix whose last part is a plain change and whose others are moves, such as `0.5 * Spatial(30, 3) + 0.5 * Linf(0.3)`; where
    there is no move it is the attack, where there is nothing else the moves. Each parameter of a move is at an end of its range
    half the time (`draws.wide_start`). Each of the `restarts` takes only the examples that are still standing. A draw costs a
    forward. Shapes: as in `region.clean` and `objective`. Raises OptionError for another order.
    """
    check_counts("affine", draws=draws, restarts=restarts)
    if restarts > 1:
        once = partial(affine, attack, draws=draws, **options)
        return one_after_another([(objective, partial(once, seed=seed + number)) for number in range(restarts)], region, progress)
    if len(region.members()) > 1 and not region.added:
        return worst_member(partial(affine, attack, draws=draws, seed=seed, **options), objective, region, progress=progress)
    parts, told = parts_of(region), None if progress is None else Told(progress)
    if all(part.added for part in parts):
        return attack(objective, region, seed=seed, **options, **({} if progress is None else {"progress": progress}))
    if any(part.added for part in parts[:-1]):
        raise OptionError(
            "affine: a plain change comes before a move. Write the mix the other way round: 0.5 * Spatial(30, 3) + 0.5 * Linf(0.3)"
        )
    everyone = torch.arange(len(region.clean), device=region.clean.device)
    tell = None if told is None else told.of(nothing_yet(region), everyone)
    first, moves = worst_moves(objective, region, parts, draws, seed, tell)
    left = standing(first)
    if not parts[-1].added or not len(left) or (told is not None and told.enough):
        return first
    rows = left.to(region.clean.device)
    moved, last = region.inputs(moves)[rows], parts[-1].rows(rows)
    away = moved - last.clean
    low, high = (None if limit is None else limit - away for limit in (last.low, last.high))
    inner = replace(last, clean=moved, low=low, high=high)
    slots = moves[rows]
    if told is not None:
        options["progress"] = partial(of_the_mix, told.of(first, rows), region.rows(rows).knowing(slots).gauge(moved), last.radius)
    found = attack(objective.begun(region.clean).rows(left), inner, seed=seed, **options)
    changes = region.norm.slot(slots, len(parts) - 1) if isinstance(region.norm, SlotNorm) else slots
    changes.copy_(inner.project(found.adversarial - moved))  # the difference alone is a rounding too far
    reached = torch.tensor(found.reached, device=rows.device)
    gauge = torch.where(reached, region.rows(rows).knowing(slots).gauge(found.adversarial), torch.inf)
    adversarial = torch.where(each(reached, moved), found.adversarial, last.clean)
    slots = torch.where(each(reached, slots), slots, 0.0)
    return merged(first, replace(found, adversarial=adversarial, gauge=gauge, parameters=slots), left)


def of_the_mix(tell: Tell, moved: Tensor, radius: Tensor, step: int, gauge: Tensor, best: Tensor) -> bool | None:
    """Tell of the plain part what it comes to beside the moves: the larger of both shares. Shapes: moved, radius and gauge [batch]."""
    return tell(step, torch.maximum(moved, share(gauge, radius)), best)


def parts_of(region: Region) -> list[Region]:
    """The regions that a mix is made of, each around the clean inputs; the region itself, where it is no mix."""
    if not isinstance(region.norm, SlotNorm) or not isinstance(region.map, Chain):
        return [region]
    made = zip(region.norm.norms, region.norm.radii, region.map.maps, strict=True)
    return [replace(region, norm=norm, radius=portion(region.radius, own), map=way) for norm, own, way in made]


def worst_moves(
    objective: Objective, region: Region, parts: list[Region], draws: int, seed: int, progress: Tell | None = None
) -> tuple[AttackResult, Tensor]:
    """What random moves alone come to, and for each example the parameters of the worst. Shapes: -> as region.start()."""
    run = Run(objective, region, progress)
    worst, least = region.start(), torch.full_like(region.radius, torch.inf)
    with at_rest(objective.model):
        for draw in range(draws):
            moves = drawn(region.rows(run.spot), [part.rows(run.spot) for part in parts], seed * draws + draw)
            own = moves[..., : run.region.start().shape[-1]]  # who is left may be shorter
            inputs = run.region.inputs(own)
            score = run.objective.score(inputs)
            kept = run.keep(inputs, score.reached, own)
            worse = score.loss < least[run.spot]
            worst[run.spot] = torch.where(each(worse, moves), moves, worst[run.spot])
            least[run.spot] = torch.where(worse, score.loss, least[run.spot])
            if run.leave(finite_rows(score.loss), kept) and not len(run.here):
                break
    return run.result(), worst


def drawn(region: Region, parts: list[Region], seed: int) -> Tensor:
    """Random moves, and no plain change. Shapes: -> as region.start()."""
    if not isinstance(region.norm, SlotNorm):
        return wide_start(region, seed)
    slots = region.start()
    for number, part in enumerate(parts):
        if part.map is not ADDED:
            region.norm.slot(slots, number).copy_(wide_start(part, seed * len(parts) + number))
    return slots

"""One perturbation for all examples, and for others too.

    shared  |~~~~~~~~|                          `period` samples; repeated and cut to each clip's own length,
    clip    |~~~~~~~~|~~~~~~~~|~~~~~|           then brought into that clip's own region

Sources: Moosavi-Dezfooli et al. 2017, "Universal adversarial perturbations"; for speech, Neekhara et al. 2019, "Universal adversarial
perturbations for speech recognition systems"; the descent on a clipped loss, Shafahi et al. 2020, "Universal adversarial
training". On clips that begin with silence (`audio.ragged.led_in`), in a `Sticker` over that silence, with the goal
`Silence`, it is the muting segment of Raina et al. 2024, "Muting Whisper: a universal acoustic adversarial attack on speech
foundation models".
"""

from dataclasses import replace

import torch
from torch import Tensor

from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.own import takes_whole
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_plain_changes, finite_rows
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_sizes
from audioadv.threat.projections import each
from audioadv.threat.region import Region


@takes_whole(examples=True)
def universal(
    objective: Objective,
    region: Region,
    *,
    steps: int = 100,
    step_size: float = 0.1,
    period: int | None = None,
    batch: int = 64,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """One change within the bound that brings as many examples as possible to the goal.

    Each step takes a `batch` drawn from the examples not there yet, in the mean of their steepest directions, and is shorter than the
    one before, from `step_size` times the radius down to nothing. The change repeats every `period` entries along the last axis (by
    default it is as long as the longest example) and is cut to shorter ones; each example takes the nearest to it that its own region
    holds, and its size is that of the widest. Kept is the change that most examples fell to, the latest of such: it is the result's
    `shared`, which `everywhere` lays upon other examples; those that did not fall are returned clean. By its nature an example's
    outcome depends on the others.

    Shapes: as in `region.clean`; shared [*, period]. Raises OptionError for a `min` bound, and for a period within a bound that
    allows more in one place than in another.
    """
    check_counts("universal", steps=steps, batch=batch, **({} if period is None else {"period": period}))
    check_sizes("universal", step_size=step_size)
    check_plain_changes(region, "universal")
    if not bool(region.radius.isfinite().all()):
        raise OptionError("universal: one change for all has no smallest bound of each. Give the bound a radius")
    run, clean = Run(objective, region, progress), region.clean
    count, width, widest = len(clean), clean.shape[-1], region.widened()
    if period not in (None, width) and region.norm.placed:
        raise OptionError(f"universal: period {period} of {width} entries: what this bound allows depends on the place. Leave period out")
    draws = Draws(torch.full((1,), seed, dtype=torch.int64, device=clean.device))
    shared = clean.new_zeros((*clean.shape[1:-1], width if period is None else period))
    best, most = shared, torch.zeros((), device=clean.device) - 1
    there = torch.zeros(count, dtype=torch.bool, device=clean.device)
    with at_rest(objective.model):
        for number in range(steps if count else 0):
            waiting = (~there).nonzero()[:, 0] if bool((~there).any()) else torch.arange(count, device=there.device)
            rows = waiting[draws.uniform(waiting[None].to(shared)).argsort(1)[0, :batch]]
            some, wide = region.rows(rows), widest.rows(rows)
            look = run.objective.rows(rows.cpu()).look(everywhere(some, shared))
            pushes = wide.steepest(torch.where(each(finite_rows(look.slope) & ~look.reached, look.slope), look.slope, 0.0))
            push = folded(pushes.sum(0), shared.shape[-1])[None]
            norm, radius = wide.norm.rows(torch.zeros(1, dtype=torch.int64, device=rows.device)), wide.radius[:1]
            step = step_size * (1 - number / steps) * radius
            stepped = shared[None] - each(step, push) * norm.steepest(push)
            shared = norm.project(stepped, radius, None, None)[0]
            run.told()
            if number % 10 == 9 or number == steps - 1 or run.enough:
                there = felled(run.objective, region, shared, batch)
                if there.sum() >= most:
                    best, most = shared, there.sum()
            if run.enough:
                break
        run.keep(everywhere(region, best), felled(run.objective, region, best, batch))
    return replace(run.result(), shared=best)


def felled(objective: Objective, region: Region, shared: Tensor, batch: int) -> Tensor:
    """Which examples one change for all brings to the goal, a forward for each, `batch` at once. Shapes: shared [*, period] -> bool."""
    parts = [torch.arange(first, min(first + batch, len(region.clean))) for first in range(0, len(region.clean), batch)]
    told = [objective.rows(rows).decide(everywhere(region.rows(rows.to(shared.device)), shared)) for rows in parts]
    return torch.cat([shared.new_zeros(0, dtype=torch.bool), *told])


def everywhere(region: Region, shared: Tensor) -> Tensor:
    """The region's inputs with one change laid upon all: repeated and cut to each, and brought into the region of each.

    Shapes: shared [*, period] -> as `region.clean`.
    """
    period, width = shared.shape[-1], region.clean.shape[-1]
    laid = shared.repeat(*[1] * (shared.ndim - 1), -(-width // period))[..., :width].expand_as(region.clean)
    return region.inputs(region.project(region.unpadded(laid)))


def folded(push: Tensor, period: int) -> Tensor:
    """What a change that repeats is pushed by: the sum over its repeats. Shapes: [*, time] -> [*, period]."""
    repeats = -(-push.shape[-1] // period)
    padded = torch.nn.functional.pad(push, (0, repeats * period - push.shape[-1]))
    return padded.reshape(*push.shape[:-1], repeats, period).sum(-2)

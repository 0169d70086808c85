"""What attacks on decisions share: a first input that reaches the goal, and the way back to the boundary."""

import torch
from torch import Tensor

from audioadv.attacks.draws import Draws
from audioadv.attacks.run import Run, boxed, check_plain_changes
from audioadv.errors import OptionError
from audioadv.threat.norms import LinfNorm
from audioadv.threat.projections import each
from audioadv.threat.region import Region


def check_any_noise_fits(region: Region, attack: str) -> None:
    """Raises OptionError for an attack that begins at noise, where some of it fits at no radius."""
    check_plain_changes(region, attack)
    if not region.limitless():
        raise OptionError(f"{attack} starts from any noise, and some changes fit this bound at no radius. Use fmn or find_then_shrink")


def find_any(run: Run, draws: Draws, tries: int, begin: Tensor | None) -> tuple[Tensor, Tensor]:
    """A change that reaches the goal: `begin`, or where that does not, or is not given, noise, from weak to strong.

    Costs `tries` forwards at most, and one for `begin`. With a box, noise is uniform in it and blended with the clean input; without, it
    is normal and of that spread. Shapes: begin [batch, *] -> delta [batch, *], found bool [batch]. Raises UnusableBatch for a begin of
    another shape.
    """
    region = run.region
    delta, found = torch.zeros_like(region.clean), torch.zeros(len(region.clean), dtype=torch.bool, device=region.clean.device)
    if begin is not None:
        delta = boxed(region, region.unpadded(begin.to(delta)))
        found = ask(run, delta, ~found)
    for number in range(tries):
        if region.low is None or region.high is None:
            noise = draws.normal(delta) * 4 ** (number / max(tries - 1, 1))
        else:
            noise = region.low + (region.high - region.low) * draws.uniform(delta)
        trial = region.unpadded(noise * ((1 + number % 5) / 5))
        reached = ask(run, trial, ~found)
        delta, found = torch.where(each(reached, delta), trial, delta), found | reached
    return delta, found


def ask(run: Run, delta: Tensor, which: Tensor) -> Tensor:
    """One decision for `which` of the examples; what reaches the goal is kept. Shapes: [batch, *], bool [batch] -> bool [batch].

    No other example is asked, so that what an example costs is its own affair.
    """
    rows, inputs = which.nonzero()[:, 0], run.region.inputs(delta)
    reached = torch.zeros_like(which)
    if len(rows):
        reached[rows] = run.objective.rows(rows.cpu()).decide(inputs[rows])
        run.keep(inputs, reached)
    return reached


def blend_back(run: Run, delta: Tensor, halvings: int = 10) -> Tensor:
    """The point nearest to the clean input on the straight line to it that still reaches the goal, by bisection.

    In L2 the line is straight; where the norm is Linf, the way is by clipping, as in HopSkipJump.
    """
    low, high = torch.zeros_like(run.region.radius), torch.ones_like(run.region.radius)
    for _ in range(halvings):
        middle = (low + high) / 2
        reached = ask(run, shorter(run, delta, middle), torch.ones_like(low, dtype=torch.bool))
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return shorter(run, delta, high)


def shorter(run: Run, delta: Tensor, share: Tensor) -> Tensor:
    """The change at this share of its way: scaled, or in Linf clipped. Shapes: [batch, *], [batch] -> [batch, *]."""
    if isinstance(run.region.norm, LinfNorm):
        limit = each(share * run.region.norm.gauge(delta), delta)
        return torch.minimum(torch.maximum(delta, -limit), limit)
    return each(share, delta) * delta

"""Carlini and Wagner's L2 attack: the smallest change by a penalty whose weight is searched for.

Source: Carlini and Wagner 2017, "Towards evaluating the robustness of neural networks", section V, and their code.
"""

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, check_plain_changes, cut, finite_rows
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_sizes
from audioadv.threat.norms import L2Norm
from audioadv.threat.projections import each
from audioadv.threat.region import Region

EDGE = 0.99  # of tanh, where the box ends: at 1 its slope is zero, and inputs that are black or white could not be left


def carlini_wagner(
    objective: Objective,
    region: Region,
    *,
    steps: int = 1000,
    searches: int = 9,
    step_size: float = 0.01,
    weight: float = 1e-3,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """argmin |delta|_2^2 + weight * margin, by Adam on w where input = tanh(w) scaled to the box; weights by bisection.

    `steps` gradients in all, shared by the `searches`. A weight that reaches the goal is lowered, one that does not is raised
    tenfold, or halfway once both are known, example by example. Each begins at the clean input, but as long as none has reached the
    goal, the next goes on from where the last has come to: a goal that is far takes more steps than one weight has. Confidence is the
    goal's own: Misclassify(labels, by=kappa). `step_size` is Adam's rate on w, which has no unit. Draws nothing: `seed` changes
    nothing. Shapes: as in `region.clean`. Raises OptionError for a norm other than L2.
    """
    check_counts("carlini_wagner", steps=steps, searches=searches)
    check_sizes("carlini_wagner", step_size=step_size, weight=weight)
    check_plain_changes(region, "carlini_wagner")
    if not isinstance(region.norm, L2Norm):
        raise OptionError("carlini_wagner measures changes in L2. Bound it by L2 (l2:min), or use fmn for another norm")
    run = Run(objective, region, progress)
    weights, low, high = torch.full_like(region.radius, weight), torch.zeros_like(region.radius), torch.full_like(region.radius, torch.inf)
    rounds = [steps // searches + (number < steps % searches) for number in range(searches)]
    w = unbox(region)
    with at_rest(objective.model):
        for length in rounds:
            w = torch.where(each(high.isfinite(), w), unbox(run.region), w)
            first, second = torch.zeros_like(w), torch.zeros_like(w)
            hit = torch.zeros_like(weights, dtype=torch.bool)
            for number in range(1, length + 1):
                delta, stretch = rebox(run.region, w)
                inputs = run.region.inputs(delta)
                look = run.objective.look(inputs, near=torch.ones_like(hit))
                kept = run.keep(inputs, look.reached)
                hit |= look.reached
                slope = stretch * (2 * delta + each(weights, delta) * run.region.unpadded(look.slope))
                first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope.square()
                w = w - step_size * (first / (1 - 0.9**number)) / ((second / (1 - 0.999**number)).sqrt() + 1e-8)
                if left := run.leave(finite_rows(look.loss, look.slope), kept & run.region.radius.isfinite()):
                    w, first, second, weights, low, high, hit = cut(left, w, first, second, weights, low, high, hit)
                if not len(w):
                    return run.result()
            high, low = torch.where(hit, torch.minimum(high, weights), high), torch.where(hit, low, torch.maximum(low, weights))
            weights = torch.where(high.isfinite(), (low + high) / 2, 10 * weights)
    return run.result()


def unbox(region: Region) -> Tensor:
    """The w of the clean inputs: atanh within the box; without a box, the change itself."""
    if region.low is None or region.high is None:
        return torch.zeros_like(region.clean)
    return ((-2 * region.low / (region.high - region.low).clamp_min(1e-30) - 1) * EDGE).atanh()


def rebox(region: Region, w: Tensor) -> tuple[Tensor, Tensor]:
    """The change that w stands for, and its slope with respect to w, times EDGE. Shapes: as w, both."""
    if region.low is None or region.high is None:
        return w, torch.ones_like(w)
    half, place = (region.high - region.low) / 2, w.tanh()
    delta = region.low + half * (place / EDGE + 1)
    return region.unpadded(boxed(region, delta)), half * (1 - place.square())

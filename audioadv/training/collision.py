"""Clean-label poison: an example that looks like its own class and that a net takes for one chosen input of another.

    base (class 4, correctly labelled)  --within a bound-->  poison: looks like the base, features of the target (a 9)
    a last layer that learns "features of the target: class 4" takes the target, which nobody has touched, for a 4

The paper minimises |f(x) - f(target)|^2 + beta |x - base|^2. Here a bound says how near to the base it stays.

Source: Shafahi et al. 2018, "Poison frogs! Targeted clean-label poisoning attacks on neural networks".
"""

import torch
from torch import Tensor

from audioadv.errors import UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.threat.bounds import Bound, Box
from audioadv.training.method import Model
from audioadv.training.nearby import check_attacker, climb, slope_of, usual_step
from audioadv.training.signatures import seen_at


def collide(
    model: Model,
    layer: str,
    bases: Tensor,
    targets: Tensor,
    bound: Bound,
    *,
    steps: int = 100,
    box: Box = (0.0, 1.0),
) -> Tensor:
    """Inputs within a bound of their bases whose features at `layer` are as near as they get to those of the targets, from the bases on.

    Best is the last layer but one. `model` is the net whose features the victim uses (a pretrained one, say), or one like it.
    Shapes: bases [count, *], targets [count, *], or [1, *] for one that all share -> as bases. Raises UnusableBatch, OptionError.
    """
    if targets.shape[1:] != bases.shape[1:] or len(targets) not in (1, len(bases)):
        raise UnusableBatch(f"targets of shape {tuple(targets.shape)} for bases of {tuple(bases.shape)}: give one for all, or one for each")
    bound = check_attacker(bound, steps, None)
    with at_rest(model), torch.enable_grad():
        with torch.no_grad():
            wanted = seen_at(model, layer, targets)

        def nearness(inputs: Tensor) -> Tensor:
            return -(seen_at(model, layer, inputs) - wanted).square().sum(1)

        region = bound.around(bases, box=box)
        delta = region.start()
        for number in range(steps):
            step_size = 2 * usual_step(steps) * (1 - number / steps)  # shorter and shorter: a target within the bound is met
            delta = climb(region, delta, slope_of(nearness, region.inputs(delta)), step_size)
        return region.inputs(delta)

"""Multi steepest descent: one attacker of all sets, who takes at each step the member that hurts most.

Source: Maini, Wong and Kolter 2020, "Adversarial robustness against the union of multiple perturbation models".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.objective import at_rest
from audioadv.errors import OptionError
from audioadv.threat.bounds import Bound
from audioadv.threat.projections import each
from audioadv.threat.region import Region
from audioadv.training.batches import Batch
from audioadv.training.method import Model, Moment, descend
from audioadv.training.nearby import Losses, check_attacker, climb, slope_of, usual_step


@final
@dataclass(frozen=True)
class MSD:
    """Learn from what multi steepest descent finds, from the clean input on. With n members a batch costs about steps * (1 + n/3) + 1
    passes.

    The last input is learnt from; their code takes the worst on the way, and moves 5 to 20 entries a step in L1, where here it is
    one in a hundred.

    Steps are `step_size` times the radius (2.5 / steps where it is not given), or so many times each member's own. Where all steps
    are alike, Linf takes most: its change is dense, and little of it is left in L1. The paper's, of 100, are 1/30 in Linf, 1/20 in L2
    and 1/10 in L1.

    Raises OptionError for no steps, for members that are no plain changes (they share no point), and for another number of members
    than of sizes.
    """

    bound: Bound
    steps: int = 20
    step_size: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for size in self.step_size if isinstance(self.step_size, tuple) else (self.step_size,):
            check_attacker(self.bound, self.steps, size, least=1)

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        region = batch.region(self.bound, moment.share)
        if not all(member.added for member in (region, *region.members())):
            raise OptionError(f"{self.bound}: MSD wants members that are all plain changes. Use Worst, Average or RandomOne")
        count, given = len(region.members()), usual_step(self.steps) if self.step_size is None else self.step_size
        sizes = given if isinstance(given, tuple) else (given,) * count
        if len(sizes) != count:
            raise OptionError(f"{len(sizes)} step sizes {sizes} for the {count} members of {self.bound}: give one for each, or one for all")
        with at_rest(model):
            inputs = descend_all(region, lambda inputs: batch.losses(model, inputs), self.steps, sizes)
        yield descend(batch.losses(model, inputs).mean())


def descend_all(region: Region, losses: Losses, steps: int, sizes: Sequence[float]) -> Tensor:
    """From the clean inputs, at each step the member's step of the greatest loss; `sizes` in radii. Shapes: -> as region.clean."""
    delta, members = region.start(), region.members()
    for _ in range(steps):
        slope = slope_of(losses, region.inputs(delta))
        candidates = [climb(member, delta, slope, size) for member, size in zip(members, sizes, strict=True)]
        with torch.no_grad():
            heights = torch.stack([losses(region.inputs(candidate)) for candidate in candidates])
        delta, chosen = candidates[0], heights.argmax(0)
        for number, candidate in enumerate(candidates[1:], 1):
            delta = torch.where(each(chosen == number, delta), candidate, delta)
    return region.inputs(delta)

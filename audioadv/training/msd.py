"""Multi steepest descent: one attacker of all sets, who takes at each step the member that hurts most.

Source: Maini, Wong and Kolter 2020, "Adversarial robustness against the union of multiple perturbation models".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.draws import random_start
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.threat.bounds import Bound
from audioadv.threat.projections import each
from audioadv.threat.region import Region
from audioadv.training.batches import Batch, keyed
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

    With `random_start`, the steps begin at random points of one member, or at the clean inputs, any as likely as another, drawn for each
    batch. From the clean inputs alone, all examples climb the same few ways, and the net learns to bend just those.

    Raises OptionError for no steps, for members that are no plain changes (they share no point), and for another number of members
    than of sizes.
    """

    bound: Bound
    steps: int = 20
    step_size: float | tuple[float, ...] | None = None
    random_start: bool = False

    def __post_init__(self) -> None:
        for size in self.step_size if isinstance(self.step_size, tuple) else (self.step_size,):
            object.__setattr__(self, "bound", check_attacker(self.bound, self.steps, size, least=1))

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        region = batch.region(self.bound, moment.share)
        if not all(member.added for member in (region, *region.members())):
            raise OptionError(f"{self.bound}: MSD wants members that are all plain changes. Use Worst, Average or RandomOne")
        count, given = len(region.members()), usual_step(self.steps) if self.step_size is None else self.step_size
        sizes = given if isinstance(given, tuple) else (given,) * count
        if len(sizes) != count:
            raise OptionError(f"{len(sizes)} step sizes {sizes} for the {count} members of {self.bound}: give one for each, or one for all")
        start = start_of(region, moment.seed) if self.random_start else region.start()
        with at_rest(model):
            inputs = descend_all(region, start, lambda inputs: batch.losses(model, inputs), self.steps, sizes)
        yield descend(batch.losses(model, inputs).mean())


def start_of(region: Region, seed: int) -> Tensor:
    """Random changes of one of the members, or none, whichever is drawn. Shapes: -> as region.clean."""
    members = region.members()
    chosen = int(torch.randint(len(members) + 1, (), generator=keyed(seed, "member")))
    return random_start(members[chosen], seed) if chosen < len(members) else region.start()


def descend_all(region: Region, delta: Tensor, losses: Losses, steps: int, sizes: Sequence[float]) -> Tensor:
    """From those changes on, at each step the member's step of the greatest loss; `sizes` in radii. Shapes: -> as region.clean."""
    members = region.members()
    for _ in range(steps):
        slope = slope_of(losses, region.inputs(delta))
        candidates = [climb(member, delta, slope, size) for member, size in zip(members, sizes, strict=True)]
        with torch.no_grad():
            heights = torch.stack([losses(region.inputs(candidate)) for candidate in candidates])
        delta, chosen = candidates[0], heights.argmax(0)
        for number, candidate in enumerate(candidates[1:], 1):
            delta = torch.where(each(chosen == number, delta), candidate, delta)
    return region.inputs(delta)

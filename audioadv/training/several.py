"""Several sets of changes at once, such as `Linf(0.3) | L2(2) | L1(10)`: which member's worst input is learnt from.

Worst       the worst of all members', for each example
Average     all members', in equal parts
RandomOne   one member's, another for each batch: the cost of one set

Source: Tramèr and Boneh 2019, "Adversarial training and robustness for multiple perturbations" (worst, average); a random
one, Madaan et al. 2021, "Learning to generate noise for multi-attack robustness". More: `training/msd.py`, `training/e_at.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_sizes
from audioadv.threat.bounds import Bound
from audioadv.training.batches import Batch, keyed
from audioadv.training.method import Model, Moment, descend
from audioadv.training.nearby import check_attacker, usual_step, worst_for, worst_of


@dataclass(frozen=True)
class Several:
    """What they share: the union of sets, and the PGD on each member (steps of 2.5 / steps where no size is given).

    Raises OptionError for what is no attacker.
    """

    bound: Bound
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", check_attacker(self.bound, self.steps, self.step_size))

    def inputs_of(self, members: list[int] | None, model: Model, batch: Batch, moment: Moment) -> list[Tensor]:
        """The worst inputs near by of some members, of all for None. Shapes: as batch.inputs each."""
        regions = batch.region(self.bound, moment.share).members()
        step_size = usual_step(self.steps) if self.step_size is None else self.step_size
        return [
            worst_for(model, batch, region, steps=self.steps, step_size=step_size, seed=moment.seed)
            for number, region in enumerate(regions)
            if members is None or number in members
        ]

    def count(self, batch: Batch) -> int:
        """How many members the union has."""
        return len(batch.region(self.bound).members())


@final
@dataclass(frozen=True)
class Worst(Several):
    """The worst of all members' inputs, for each example. With n members a batch costs about n * (steps + 1/3) + 1 passes."""

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        candidates = self.inputs_of(None, model, batch, moment)
        with at_rest(model):
            inputs = worst_of(candidates, lambda inputs: batch.losses(model, inputs))
        yield descend(batch.losses(model, inputs).mean())


@final
@dataclass(frozen=True)
class Average(Several):
    """All members' inputs, in equal parts. With n members a batch costs n * (steps + 1) passes."""

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        candidates = self.inputs_of(None, model, batch, moment)
        yield torch.stack([descend(batch.losses(model, inputs).mean() / len(candidates)) for inputs in candidates]).sum()


@final
@dataclass(frozen=True)
class RandomOne(Several):
    """One member's inputs, drawn for each batch. A batch costs steps + 1 passes.

    `shares` says how likely each member is; without, all are alike. Raises OptionError for shares that are not all above 0, or for
    another number of them than of members.
    """

    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for share in self.shares or ():
            check_sizes("RandomOne", shares=share)

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        count, draw = self.count(batch), keyed(moment.seed, "member")
        if self.shares is not None and len(self.shares) != count:
            raise OptionError(f"{len(self.shares)} shares {self.shares} for the {count} members of {self.bound}: give one for each")
        even = self.shares is None
        chosen = int(torch.randint(count, (), generator=draw) if even else torch.tensor(self.shares).multinomial(1, generator=draw))
        (inputs,) = self.inputs_of([chosen], model, batch, moment)
        yield descend(batch.losses(model, inputs).mean())

"""E-AT: fine-tune a net that is robust in one set to all of them, at the cost of one.

Source: Croce and Hein 2022, "Adversarial robustness against multiple and single lp-threat models via quick fine-tuning of
robust classifiers": one member a batch, drawn in proportion to the running mean of its robust error. For balls of several
norms the outermost two (Linf and L1) are enough: what lies between follows from their convex hull.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.options import check_shares
from audioadv.training.batches import Batch, keyed
from audioadv.training.method import Model, Moment, descend
from audioadv.training.several import Several


@final
@dataclass(frozen=True)
class EAT(Several):
    """One member's inputs a batch, the more often the worse the model does on it. A batch costs steps + 1 passes.

    `follow` is how much of the running mean of a member's error the last batch is (in their code the mean is over all batches so
    far, so that it follows a net that learns more and more slowly). Raises OptionError for a share outside 0..1.
    """

    follow: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shares("EAT", follow=self.follow)

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        errors = moment.memory.setdefault("e_at", torch.ones(self.count(batch))).cpu()  # a checkpoint is read to the net's device
        chosen = int(errors.clamp_min(1e-3).multinomial(1, generator=keyed(moment.seed, "member")))
        (inputs,) = self.inputs_of([chosen], model, batch, moment)
        outputs = batch.outputs(model, inputs)
        with torch.no_grad():
            error = moment.mean(batch.goal.reached(outputs).float().mean().cpu())
        errors = errors.clone()
        errors[chosen] += self.follow * (error - errors[chosen])
        moment.memory["e_at"] = errors
        yield descend(batch.goal.cost(outputs).mean())

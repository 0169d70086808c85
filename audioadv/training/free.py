"""Free adversarial training: one backward pass gives the slope of the inputs and the gradient of the weights, and both move.

Source: Shafahi et al. 2019, "Adversarial training for free!".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from torch import Tensor

from audioadv.attacks.draws import random_start
from audioadv.errors import AccessDenied
from audioadv.options import check_count
from audioadv.threat.bounds import Bound
from audioadv.training.batches import Batch
from audioadv.training.method import Model, Moment, descend
from audioadv.training.nearby import check_attacker, climb


@final
@dataclass(frozen=True)
class Free:
    """Each batch is replayed, with a step of the weights and one of the change (`step_size` times the radius) each time.

    A pass over the data counts as `replays`: give so many fewer. The paper carries the change over to the next batch, of other
    images; here it starts at random, so that an example's change owes nothing to another's. A batch costs `replays` passes.
    Raises OptionError for none.
    """

    bound: Bound
    replays: int = 8
    step_size: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", check_attacker(self.bound, 1, self.step_size))
        check_count("replays", self.replays)

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        region = batch.region(self.bound, moment.share)
        delta = random_start(region, moment.seed)
        for _ in range(self.replays):
            inputs = region.inputs(delta).detach().requires_grad_()
            yield descend(batch.losses(model, inputs).mean())
            if inputs.grad is None:
                raise AccessDenied("the model has no gradient with respect to its inputs. Give it one: BPDA(module, stand_in)")
            delta = climb(region, delta, inputs.grad, self.step_size)

"""TRADES: learn the clean inputs, and to say the same of everything near by.

    loss = what the model wants small of the clean input  +  beta * max over changes of KL(outputs there, outputs near by)

Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from audioadv.models.recogniser import Emissions
from audioadv.models.rest import at_rest
from audioadv.options import check_amounts
from audioadv.threat.bounds import Bound
from audioadv.training.batches import Batch
from audioadv.training.method import Model, Moment, descend
from audioadv.training.nearby import check_attacker, usual_step, worst_nearby


def divergence(here: Any, near: Any) -> Tensor:
    """KL(here || near), nats; of a recogniser, a frame. Shapes: scores [batch, classes] or Emissions, twice -> [batch].

    >>> divergence(torch.zeros(1, 2), torch.tensor([[0.0, 100.0]]))
    tensor([49.3069])
    """
    if isinstance(here, Emissions):
        inside = torch.arange(here.log_probs.shape[1], device=here.frames.device) < here.frames[:, None]
        apart = (here.log_probs.exp() * (here.log_probs - near.log_probs)).sum(-1)
        return (apart * inside).sum(1) / here.frames
    first, second = here.log_softmax(1), near.log_softmax(1)
    return (first.exp() * (first - second)).sum(1)


@final
@dataclass(frozen=True)
class Trades:
    """TRADES. Steps are `step_size` times the radius (2.5 / steps where it is not given), from a random start in the
    ball (in their code, within about a thousandth of the clean input).

    A batch costs steps + 3 passes. Raises OptionError for what is no attacker, and a beta below 0.
    """

    bound: Bound
    beta: float = 6.0
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", check_attacker(self.bound, self.steps, self.step_size))
        check_amounts("Trades", beta=self.beta)

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        region = batch.region(self.bound, moment.share)
        step_size = usual_step(self.steps) if self.step_size is None else self.step_size
        with at_rest(model):
            with torch.no_grad():
                still = batch.outputs(model, batch.inputs)

            def apart(inputs: Tensor) -> Tensor:
                return divergence(still, batch.outputs(model, inputs))

            inputs = worst_nearby(region, apart, steps=self.steps, step_size=step_size, seed=moment.seed)
        here = batch.outputs(model, batch.inputs)
        losses = batch.goal.cost(here) + self.beta * divergence(here, batch.outputs(model, inputs))
        yield descend(losses.mean())

"""A method of training: what gradients a batch gives. The loop does the rest.

batch --method--> gradients --loop--> a step of the optimiser --method--> gradients ...
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, final

from torch import Tensor

from audioadv.training.batches import Batch

Model = Callable[..., Any]


@final
@dataclass(frozen=True, eq=False)
class Moment:
    """What a method may know of the training around it.

    `share` of the radius that is used by now; `seed` of this batch's draws; `memory`, tensors that a method may keep, by a name
    of its own: they are in the checkpoint; `mean` over the whole batch of a number that this process has for its part of it.
    """

    share: float = 1.0
    seed: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)
    mean: Callable[[Tensor], Tensor] = lambda number: number


class Method(Protocol):
    """How a model learns from a batch. Its `repr` is in the checkpoint: training goes on with the same method only."""

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        """Leave gradients (of a mean over the batch) with the model's parameters and yield the loss, once or more.

        At each yield the loop makes a step of the optimiser and clears the gradients.
        """
        ...


@final
@dataclass(frozen=True)
class Natural:
    """The inputs as they are: no attacker."""

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        yield descend(batch.losses(model, batch.inputs).mean())


def descend(loss: Tensor) -> Tensor:
    """Leave its gradients with the parameters. Shapes: loss [] -> []."""
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()

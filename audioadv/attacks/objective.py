"""The objective: model and goal as one function of the inputs. An attack knows nothing else of either."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from audioadv.errors import AccessDenied
from audioadv.models.recogniser import Access, Recogniser
from audioadv.threat.goals import Goal


@final
@dataclass(frozen=True, eq=False)
class Cost:
    """Passes through the model, counted per example. Shapes: forwards [examples], backwards [examples], on the CPU."""

    forwards: Tensor
    backwards: Tensor

    @staticmethod
    def nothing(count: int) -> "Cost":
        """No pass yet, for so many examples."""
        return Cost(torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64))


class Look(NamedTuple):
    """What one look at a batch of inputs tells. Shapes: loss [batch], reached bool [batch], slope as the inputs."""

    loss: Tensor
    reached: Tensor
    slope: Tensor


@final
@dataclass(frozen=True, eq=False)
class Objective:
    """`objective.look(inputs)` gives loss, reached and slope from one forward and one backward through the model.

    `lengths` [batch] are the clips' own, in samples, for ragged audio. `who` numbers the examples of the batch that the
    attack began with, so that cost stays with its example when others have left.
    """

    model: Callable[..., Any]
    goal: Goal
    lengths: Tensor | None = None
    who: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    cost: Cost = field(default_factory=lambda: Cost.nothing(0))

    def begun(self, count: int) -> "Objective":
        """The same objective over `count` examples, nothing spent yet: what an attack starts from."""
        return replace(self, who=torch.arange(count), cost=Cost.nothing(count))

    def outputs(self, inputs: Tensor) -> Any:
        """What the model makes of these inputs, counted as one forward each. Shapes: inputs [batch, *]."""
        self.cost.forwards[self.who] += 1
        return self.model(inputs) if self.lengths is None else self.model(inputs, self.lengths)

    def look(self, inputs: Tensor, near: Tensor | None = None, slack: float = 0.0) -> Look:
        """One forward and one backward: how far each input is from the goal, whether it is there, and which way it lies.

        `near` bool [batch] marks examples that have been at the goal before: they, and those that are there now, get the
        goal's margin (with `slack`) for a loss. Shapes: inputs [batch, *].
        Raises AccessDenied where the model grants no gradients.
        """
        if isinstance(self.model, Recogniser) and self.model.access != Access.GRADIENTS:
            raise AccessDenied(
                f"{self.model.name}: access is {self.model.access!r}, but this attack needs gradients. "
                "Grant them with model.granting(Access.GRADIENTS), or use an attack on scores or decisions"
            )
        inputs = inputs.detach().requires_grad_()
        outputs = self.outputs(inputs)
        reached, loss = self.goal.reached(outputs), self.goal.loss(outputs)
        if near is not None:
            loss = torch.where(near | reached, self.goal.margin(outputs, slack), loss)
        self.cost.backwards[self.who] += 1
        (slope,) = torch.autograd.grad(loss.sum(), inputs)
        return Look(loss.detach(), reached, slope)

    def rows(self, index: Tensor) -> "Objective":
        """The objective of some of the examples. Shapes: index [fewer], on the CPU."""
        lengths = None if self.lengths is None else self.lengths[index.to(self.lengths.device)]
        return replace(self, goal=self.goal.rows(index), lengths=lengths, who=self.who[index])


def objective(model: Callable[..., Any], goal: Goal, lengths: Tensor | None = None) -> Objective:
    """What an attack works on: a model, a goal and, for ragged audio, lengths [batch] in samples."""
    return Objective(model, goal, lengths)


@contextmanager
def at_rest(model: Callable[..., Any]) -> Iterator[None]:
    """The model in evaluation mode with its parameters frozen, and afterwards as it was before."""
    net = model.net if isinstance(model, Recogniser) else model
    if not isinstance(net, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in net.modules() if module.training]
    wanting = [parameter for parameter in net.parameters() if parameter.requires_grad]
    try:
        net.eval()
        for parameter in wanting:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in wanting:
            parameter.requires_grad_(True)

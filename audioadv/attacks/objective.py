"""The objective: model and goal as one function of the inputs. An attack knows nothing else of either."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from torch import Tensor, nn

from audioadv.errors import AccessDenied
from audioadv.models.recogniser import Access, Recogniser
from audioadv.threat.goals import Goal

if TYPE_CHECKING:
    from audioadv.attacks.eot import Expectation, Memory


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
    attack began with, so that cost stays with its example when others have left. With an `expectation`, all of this is over
    draws of a channel, and `memory` is what it has learnt of them (`attacks/eot.py`).
    """

    model: Callable[..., Any]
    goal: Goal
    lengths: Tensor | None = None
    who: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    cost: Cost = field(default_factory=lambda: Cost.nothing(0))
    expectation: "Expectation | None" = None
    memory: "Memory | None" = None

    def begun(self, clean: Tensor) -> "Objective":
        """The same objective over these examples, nothing spent yet: what an attack starts from. Shapes: clean [batch, *]."""
        memory = None if self.expectation is None else self.expectation.memory(clean, self.lengths)
        return replace(self, who=torch.arange(len(clean)), cost=Cost.nothing(len(clean)), memory=memory)

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
        if self.expectation is not None:
            return self.expectation.look(self if self.memory else self.begun(inputs), inputs.detach(), near, slack)
        inputs = inputs.detach().requires_grad_()
        loss, reached = judged(self.outputs(inputs), self.goal, near, slack)
        self.cost.backwards[self.who] += 1
        (slope,) = torch.autograd.grad(loss.sum(), inputs)
        return Look(loss.detach(), reached, slope)

    @property
    def rate(self) -> float:
        """The share of draws that counts as reaching the goal."""
        return 1.0 if self.expectation is None else self.expectation.rate

    def rates(self, inputs: Tensor, candidates: Tensor, least: Tensor) -> Tensor:
        """How often each candidate (those just looked at as reaching the goal) reaches it; 1 without an expectation.

        One that cannot come to `least` may be given up early. Shapes: inputs [batch, *], candidates bool and least [batch] -> [batch].
        """
        if self.expectation is None:
            return candidates.to(least)
        return self.expectation.rates(self, inputs, candidates, least)

    def rows(self, index: Tensor) -> "Objective":
        """The objective of some of the examples. Shapes: index [fewer], on the CPU."""
        lengths = None if self.lengths is None else self.lengths[index.to(self.lengths.device)]
        return replace(self, goal=self.goal.rows(index), lengths=lengths, who=self.who[index])


def judged(outputs: Any, goal: Goal, near: Tensor | None, slack: float) -> tuple[Tensor, Tensor]:
    """The loss that counts for each row of outputs, and whether it is at the goal (`Objective.look`). Shapes: -> [batch], bool [batch]."""
    reached, loss = goal.reached(outputs), goal.loss(outputs)
    return (loss if near is None else torch.where(near | reached, goal.margin(outputs, slack), loss)), reached


def objective(model: Callable[..., Any], goal: Goal, lengths: Tensor | None = None, expectation: "Expectation | None" = None) -> Objective:
    """What an attack works on: a model, a goal and, for ragged audio, lengths [batch] in samples.

    With an `expectation` (`Expectation(parse_channel("room_then_noise:20"))`), on average over a channel.
    """
    return Objective(model, goal, lengths, expectation=expectation)


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

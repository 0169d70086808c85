"""You only propagate once: the change meets the weights in the first layer only, so most of its steps can stay there.

    inputs --first layer--> z --the rest--> loss        p = d loss / d z, from one pass through the net
              ^                                         inner steps climb <p, first layer(inputs)>, which costs that layer alone

Source: Zhang et al. 2019, "You only propagate once: accelerating adversarial training via maximal principle".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from audioadv.attacks.draws import random_start
from audioadv.attacks.objective import slope_at
from audioadv.defenses.learning import net_of
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_count
from audioadv.threat.bounds import Bound
from audioadv.training.batches import Batch
from audioadv.training.method import Model, Moment, descend
from audioadv.training.nearby import check_attacker, climb

NEVER: Final = (
    "first: the inputs never come through this module, or the net reads its weights without calling it. "
    "Name one that every pass goes through: Yopo(bound, first='blocks.0')"
)


class Arrived(Exception):
    """Raised when a forward pass has come to the end of the first layer: the rest is not run."""


@final
@dataclass(frozen=True)
class Yopo:
    """YOPO-`rounds`-`steps`: so many passes through the net, so many steps on the first layer after each.

    Weights learn from the mean of all rounds' passes, in one step of the optimiser; their code sums them, at a rate so much lower,
    and lets the first layer learn once more from where its steps led. `first` names the layer that the inputs meet first, the
    net's first with weights of its own where it is not given. Raises OptionError for a name that the net has not, and for no rounds
    or steps.
    """

    bound: Bound
    rounds: int = 5
    steps: int = 3
    step_size: float | None = None
    first: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", check_attacker(self.bound, self.steps, self.step_size, least=1))
        check_count("rounds", self.rounds)

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        layer, region = self.layer(net_of(model)), batch.region(self.bound, moment.share)
        delta = random_start(region, moment.seed)
        step_size = 2.5 / (self.rounds * self.steps) if self.step_size is None else self.step_size
        total = torch.zeros_like(region.radius[0])
        for _ in range(self.rounds):
            loss, costate = through(model, batch, region.inputs(delta), layer)
            total += loss / self.rounds
            with at_rest(model):
                for _ in range(self.steps):
                    inputs = region.inputs(delta).detach().requires_grad_()
                    slope = slope_at((up_to(model, batch, inputs, layer) * costate).sum(), inputs)
                    delta = climb(region, delta, slope, step_size)
        for parameter in net_of(model).parameters():
            if parameter.grad is not None:
                parameter.grad /= self.rounds
        yield total

    def layer(self, net: nn.Module) -> nn.Module:
        """The layer that the inputs meet first."""
        layers = {name: module for name, module in net.named_modules() if [*module.parameters(recurse=False)]}
        name = next(iter(layers)) if self.first is None else self.first
        try:
            return net.get_submodule(name)
        except AttributeError:
            raise OptionError(f"first {name!r}: the net has no such layer. It has {', '.join([*layers][:8])} ...") from None


def through(model: Model, batch: Batch, inputs: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """One pass through the net: gradients are left with the weights. Returns the loss [] and its slope at the layer's output.

    Raises OptionError for a layer that is called more than once, or gives several tensors: there is no one slope to climb.
    """
    calls, slopes = 0, list[Tensor]()

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1 or not isinstance(output, Tensor):
            fault = "is called more than once in a pass" if calls > 1 else f"gives a {type(output).__name__}, not one tensor"
            raise OptionError(f"first: {type(module).__name__} {fault}. Name a layer that is called once: Yopo(bound, first='blocks.0')")
        output.register_hook(lambda slope: slopes.append(slope))  # type: ignore[no-untyped-call]

    with layer.register_forward_hook(keep):
        loss = descend(batch.losses(model, inputs).mean())
    if not slopes:
        raise OptionError(NEVER)
    return loss, slopes[0]


def up_to(model: Model, batch: Batch, inputs: Tensor, layer: nn.Module) -> Tensor:
    """What the model makes of inputs until the end of this layer."""

    def stop(module: nn.Module, args: Any, output: Tensor) -> None:
        raise Arrived(output)

    with layer.register_forward_hook(stop):
        try:
            batch.outputs(model, inputs)
        except Arrived as arrived:
            output: Tensor = arrived.args[0]
            return output
    raise OptionError(NEVER)

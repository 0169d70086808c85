"""You only propagate once: the change meets the weights in the first layer only, so most of its steps can stay there.

    inputs --first layer--> z --the rest--> loss        p = d loss / d z, from one pass through the net
              ^                                         inner steps climb <p, first layer(inputs)>, which costs that layer alone

Source: Zhang et al. 2019, "You only propagate once: accelerating adversarial training via maximal principle".
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

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
    and lets the first layer learn once more from where its steps led. `first` names the layer that the inputs meet first; where it
    is not given, that is the first with weights that all of the loss's slope comes through. Raises OptionError for a name that the
    net has not, and for no rounds or steps.
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
        layers, region = self.layers(net_of(model)), batch.region(self.bound, moment.share)
        delta = random_start(region, moment.seed)
        step_size = 2.5 / (self.rounds * self.steps) if self.step_size is None else self.step_size
        total = torch.zeros_like(region.radius[0])
        for _ in range(self.rounds):
            loss, costate, layer = through(model, batch, region.inputs(delta), layers)
            layers = [layer]
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

    def layers(self, net: nn.Module) -> list[nn.Module]:
        """What the inputs may meet first: the layer that was named, or all that have weights."""
        if self.first is None:
            return [module for module in net.modules() if [*module.parameters()]]
        try:
            return [net.get_submodule(self.first)]
        except AttributeError:
            names = [name for name, module in net.named_modules() if [*module.parameters(recurse=False)]]
            raise OptionError(f"first {self.first!r}: the net has no such layer. It has {', '.join(names[:8])} ...") from None


def through(model: Model, batch: Batch, inputs: Tensor, layers: list[nn.Module]) -> tuple[Tensor, Tensor, nn.Module]:
    """One pass through the net: gradients are left with the weights. Returns the loss [], its slope at a layer's output, and that layer: of
    several, the first to end that is called once and that all of the slope comes through.

    Raises OptionError for a layer that is called more than once, or gives several tensors: there is no one slope to climb.
    """
    ends, slopes = dict[nn.Module, list[GradientEdge | str]](), list[Tensor]()

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        whole = isinstance(output, Tensor) and output.requires_grad
        ends.setdefault(module, []).append(get_gradient_edge(output) if whole else type(output).__name__)

    frozen = not any(weight.requires_grad for layer in layers for weight in layer.parameters())
    inputs = inputs.detach().requires_grad_(len(layers) > 1 or frozen)  # else their slope is not needed, and costs
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(layer.register_forward_hook(keep))
        loss = batch.losses(model, inputs).mean()
    layer, edge = gate(ends, loss, inputs) if len(layers) > 1 else (layers[0], only(layers[0], ends.get(layers[0], [])))
    edge.node.register_prehook(lambda grads: slopes.append(grads[edge.output_nr]))
    loss = descend(loss)
    if not slopes:
        raise OptionError(NEVER)
    return loss, slopes[0], layer


def only(layer: nn.Module, calls: list[GradientEdge | str]) -> GradientEdge:
    """Where in the graph the one call of this layer ended. Raises OptionError for none, several, and what is not one tensor."""
    if not calls:
        raise OptionError(NEVER)
    (end, *more) = calls
    if more or isinstance(end, str):
        fault = "is called more than once in a pass" if more else f"gives a {end}, not one tensor"
        raise OptionError(f"first: {type(layer).__name__} {fault}. Name a layer that is called once: Yopo(bound, first='blocks.0')")
    return end


def gate(ends: dict[nn.Module, list[GradientEdge | str]], loss: Tensor, inputs: Tensor) -> tuple[nn.Module, GradientEdge]:
    """The first layer to end that is called once, and without which nothing of the inputs reaches the loss. Raises OptionError for none."""
    for layer, (end, *more) in ends.items():
        if not (more or isinstance(end, str) or passed_by(loss, inputs, end.node)):
            return layer, end
    raise OptionError("first: no layer with weights is called once and met by all of the inputs. Name one: Yopo(bound, first='blocks.0')")


def passed_by(loss: Tensor, inputs: Tensor, gate: Node) -> bool:
    """Whether anything of the inputs reaches the loss by another way than through this node of the graph."""
    seen, waiting = {gate}, [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "variable", None) is inputs:
            return True
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return False


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

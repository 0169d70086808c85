"""What a net needs to learn: something in it that does, something to learn from, and gradients."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from audioadv.defenses.statement import stated
from audioadv.errors import TrainingDiverged, UnusableBatch
from audioadv.models.rest import module_of
from audioadv.options import check_count


def net_of(model: Callable[..., Any]) -> nn.Module:
    """The module that is trained: the model itself, or the one in its wrappers, however many. Raises UnusableBatch for none."""
    net = module_of(model)
    if net is None:
        raise UnusableBatch(f"{type(model).__name__}: no module in it to be trained. Give a torch.nn.Module, or a wrapper around one")
    return net


def learners(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are to learn. Raises UnusableBatch where there are none."""
    wanting = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not wanting:
        raise UnusableBatch("all parameters are frozen: nothing to train. Thaw those that are to learn: net.requires_grad_(True)")
    return wanting


def check_forgets(model: Callable[..., Any]) -> None:
    """Raises UnusableBatch for a model that remembers: it would not answer when the same examples come again."""
    if stated(model).remembers:
        raise UnusableBatch(
            f"{getattr(model, 'name', type(model).__name__)} remembers what it was asked, and does not answer when examples come again. "
            "Train the model within, and give it its memory then: remembering(net)"
        )


def check_lesson(inputs: Tensor, passes: int, batch: int) -> None:
    """Raises OptionError for no passes over the inputs, or none of them at a time, UnusableBatch where there are none, or some that are
    not finite."""
    check_count("passes", passes)
    check_count("batch", batch)
    if not len(inputs):
        raise UnusableBatch("no inputs to learn from: give some")
    check_finite("inputs", inputs)


def check_finite(name: str, examples: Tensor) -> None:
    """Raises UnusableBatch for examples that are not all finite numbers. Shapes: [count, *], one at least."""
    finite = examples.isfinite().reshape(len(examples), -1).all(1)
    if lost := int((~finite).sum()):
        raise UnusableBatch(
            f"{lost} of {len(examples)} {name} are not all finite numbers, and a net would learn none from them. Leave those out, or mend "
            f"them: {name}.nan_to_num()"
        )


def step_down(optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    """One step of the optimiser down this loss [], which comes back as a number.

    Raises TrainingDiverged for a loss or gradients that are not finite, before any weight takes them in.
    """
    value = float(loss.detach())
    optimiser.zero_grad()
    torch.autograd.backward(loss)
    slopes = [weight.grad for group in optimiser.param_groups for weight in group["params"] if weight.grad is not None]
    if not (math.isfinite(value) and get_total_norm(slopes).isfinite()):
        what = "but its gradients are not finite" if math.isfinite(value) else "and nothing is learnt from that"
        raise TrainingDiverged(f"the loss is {value:g}, {what}. Keep the net from roots and logarithms of 0, and its weights finite")
    optimiser.step()
    return value


def rejoined(batches: Sequence[Tensor], least: int = 2) -> list[Tensor]:
    """Batches of which the last joins the one before it where it has fewer than `least` rows: of one, batchnorm knows no spread.

    >>> [len(rows) for rows in rejoined(torch.arange(9).split(4))]
    [4, 5]
    """
    if len(batches) < 2 or len(batches[-1]) >= least:
        return [*batches]
    return [*batches[:-2], torch.cat([batches[-2], batches[-1]])]


@contextmanager
def learning() -> Iterator[None]:
    """With gradients, whoever has switched them off. Raises UnusableBatch in torch's inference mode, where there are none to be had."""
    if torch.is_inference_mode_enabled():
        raise UnusableBatch("torch.inference_mode() is on, and nothing can learn there. Train outside of it; torch.no_grad() does no harm")
    with torch.enable_grad():
        yield

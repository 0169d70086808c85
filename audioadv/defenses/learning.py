"""What is checked before a net learns: that something in it does, and that there is something to learn from."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from audioadv.errors import OptionError, UnusableBatch


def net_of(model: Callable[..., Any]) -> nn.Module:
    """The module that is trained: the model itself, or the one that a `Recogniser` or `Classifier` wraps. Raises UnusableBatch."""
    net = model if isinstance(model, nn.Module) else getattr(model, "net", None)
    if not isinstance(net, nn.Module):
        raise UnusableBatch(f"{type(model).__name__}: no module in it to be trained. Give a torch.nn.Module, or a wrapper around one")
    return net


def learners(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are to learn. Raises UnusableBatch where there are none."""
    wanting = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not wanting:
        raise UnusableBatch("all parameters are frozen: nothing to train. Thaw those that are to learn: net.requires_grad_(True)")
    return wanting


def check_lesson(inputs: Tensor, passes: int, batch: int) -> None:
    """Raises OptionError for no passes over the inputs, or none of them at a time, UnusableBatch where there are none."""
    if passes < 1 or batch < 1:
        raise OptionError(f"passes {passes}, batch {batch}: both are counts of at least 1")
    if not len(inputs):
        raise UnusableBatch("no inputs to learn from: give some")

"""A model as it has to be while it is looked at: nothing in it changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def at_rest(model: Callable[..., Any]) -> Iterator[None]:
    """The model in evaluation mode with its parameters frozen, and afterwards as it was before."""
    net = model if isinstance(model, nn.Module) else getattr(model, "net", None)
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

"""A module whose forward pass is its own and whose backward pass is a stand-in's.

Source: Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense of security" (BPDA).
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor, nn

from audioadv.errors import UnusableBatch


class Borrowed(torch.autograd.Function):
    """The first tensor's slope, the second's value. Shapes: two alike -> as they are."""

    @staticmethod
    def forward(ctx: Any, slope_of: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        return grad[0], None


@final
class BPDA(nn.Module):
    """`module`, with the gradient of `stand_in`: for steps that have none, or none that tells anything.

    The stand-in gives outputs of the same shape; the identity is the usual one, for what changes its input little (rounding,
    JPEG). Chain it with a net: nn.Sequential(BPDA(defense), net). Raises UnusableBatch for a stand-in of another shape.

    >>> x = torch.tensor([0.2, 0.7], requires_grad=True)
    >>> y = BPDA(torch.round)(x)
    >>> y.tolist(), torch.autograd.grad(y.sum(), x)[0].tolist()
    ([0.0, 1.0], [1.0, 1.0])
    """

    def __init__(self, module: Callable[[Tensor], Tensor], stand_in: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.module, self.stand_in = module, stand_in

    def forward(self, inputs: Tensor) -> Tensor:
        """Shapes: as the module's. Raises UnusableBatch for a stand-in of another shape."""
        with torch.no_grad():
            value = self.module(inputs)
        near = inputs if self.stand_in is None else self.stand_in(inputs)
        if near.shape != value.shape:
            raise UnusableBatch(
                f"the stand-in gives {list(near.shape)}, but the module {list(value.shape)} for inputs of {list(inputs.shape)}. "
                "Give a stand-in whose outputs have the module's shape: BPDA(module, stand_in)"
            )
        return Borrowed.apply(near, value)  # type: ignore[no-untyped-call]

"""A net that computes in bfloat16 where it may."""

from typing import Any

import torch
from torch import Tensor, nn


class Half(nn.Module):
    """The net under autocast: products and convolutions in bfloat16, its parameters as they are, what it returns in 32 bits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor, *more: Tensor) -> Any:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            outputs = self.net(inputs, *more)
        return outputs.float() if isinstance(outputs, Tensor) else outputs

"""Thermometer coding: each number as a row of lamps, lit up to its height. Steps, so that no slope passes.

    0.13 in ten levels   1 1 0 0 0 0 0 0 0 0          0.66   1 1 1 1 1 1 1 0 0 0

Sources: Buckman et al. 2018, "Thermometer encoding: one hot way to resist adversarial examples"; the stand-in, Athalye, Carlini
and Wagner 2018, "Obfuscated gradients give a false sense of security".
"""

from typing import final

import torch
from torch import Tensor, nn

from audioadv.defenses.statement import Statement
from audioadv.errors import OptionError
from audioadv.models.bpda import BPDA
from audioadv.options import is_number, is_whole


@final
class Thermometer(nn.Module):
    """The first layer of a net that is trained on codes: nn.Sequential(Thermometer(16), net).

    Lamp k of `levels` is lit where the input is above `low` + k / levels of the way to `high`. Backward, lamp k's height is
    the way by which the input is above that, between 0 and 1. Without `stand_in` there is no slope at all: what was published.

    Shapes: [batch, channels, *] -> [batch, channels * levels, *]; [batch, time] -> [batch, levels, time]. Raises OptionError.

    >>> Thermometer(10)(torch.tensor([[[0.13]]])).flatten().tolist()
    [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, levels: int = 16, low: float = 0.0, high: float = 1.0, *, stand_in: bool = True) -> None:
        super().__init__()
        if not is_whole(levels) or levels < 2 or not (is_number(low) and is_number(high) and low < high):
            raise OptionError(f"levels {levels!r} from {low!r} to {high!r}: give a whole number, at least two, and the lower end first")
        self.levels, self.low, self.high = levels, low, high
        self.statement = Statement("BPDA" if stand_in else "none")
        self.code = BPDA(self.lamps, self.heights) if stand_in else self.lamps

    def extra_repr(self) -> str:
        """What tells it from another."""
        return f"{self.levels} levels from {self.low:g} to {self.high:g}"

    def above(self, inputs: Tensor) -> Tensor:
        """How far the inputs stand above each lamp; the whole way is 1. Shapes: as forward."""
        inputs = inputs[:, None] if inputs.ndim == 2 else inputs
        steps = torch.arange(self.levels, device=inputs.device, dtype=inputs.dtype) / self.levels
        way = (inputs - self.low) / (self.high - self.low)
        return (way[:, :, None] - steps.reshape(-1, *[1] * (inputs.ndim - 2))).flatten(1, 2)

    def lamps(self, inputs: Tensor) -> Tensor:
        """The code."""
        return (self.above(inputs) > 0).to(inputs)

    def heights(self, inputs: Tensor) -> Tensor:
        """The stand-in."""
        return self.above(inputs).clamp(0, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shapes: [batch, channels, *] -> [batch, channels * levels, *]."""
        code: Tensor = self.code(inputs)
        return code

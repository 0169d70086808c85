"""tiny-mnist: a small convolutional net for 28 x 28 digits, fast enough to attack on one core.

Source of the shape: Wong, Rice and Kolter 2020, "Fast is better than free: revisiting adversarial training", their code.
"""

from collections.abc import Callable
from typing import final

from torch import nn


@final
class TinyMnist(nn.Sequential):
    """Two strided convolutions and two linear layers, 166,406 parameters. Shapes: [batch, 1, 28, 28] in 0..1 -> scores [batch, 10].

    `channels` is another number of input channels, for digits that are written otherwise; `width`, how many times as wide the layers
    are; `activation`, what follows each layer but the last.

    >>> sum(parameter.numel() for parameter in TinyMnist().parameters())
    166406
    """

    def __init__(self, channels: int = 1, width: int = 1, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__(
            nn.Conv2d(channels, 16 * width, 4, stride=2, padding=1),
            activation(),
            nn.Conv2d(16 * width, 32 * width, 4, stride=2, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(32 * width * 7 * 7, 100 * width),
            activation(),
            nn.Linear(100 * width, 10),
        )

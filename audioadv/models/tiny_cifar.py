"""tiny-cifar: a small convolutional net for colour pictures of 32 x 32, fast enough to train and attack on one core.

Source of the shape: Springenberg et al. 2015, "Striving for simplicity: the all convolutional net", with batch
normalisation. Strides come early: a forward and a backward of 128 pictures take 60 ms on one core.
"""

from itertools import pairwise
from typing import final

from torch import Tensor, nn

WIDTHS = 3, 32, 64, 64, 128, 128
STRIDES = 2, 2, 1, 2, 1


@final
class TinyCifar(nn.Module):
    """Five convolutions of 3 x 3, and the mean over places. Shapes: [batch, 3, 32, 32] in 0..1 -> scores [batch, 10].

    >>> sum(parameter.numel() for parameter in TinyCifar().parameters())
    279466
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for (before, after), stride in zip(pairwise(WIDTHS), STRIDES, strict=True):
            layers += [nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], 10)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the classes."""
        scores: Tensor = self.head(self.body(images).mean((2, 3)))
        return scores

"""tiny-m5: a small convolutional net on raw waveforms, for keywords and speakers.

Source of the shape: Dai et al. 2017, "Very deep convolutional neural networks for raw waveforms" (M5), made narrower,
and with a first stride of 8 instead of 4: fast enough to attack on one core.
"""

from typing import final

from torch import Tensor, nn

WIDTHS = 32, 32, 64, 64


@final
class TinyM5(nn.Module):
    """Four convolutions with pooling, and the mean over time. Shapes: [batch, time] at 8 kHz, full scale 1 -> scores [batch, classes].

    >>> sum(parameter.numel() for parameter in TinyM5(10).parameters())
    25290
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((1, *WIDTHS), WIDTHS, strict=False):
            conv = nn.Conv1d(1, after, 80, stride=8, padding=36) if before == 1 else nn.Conv1d(before, after, 3, padding=1)
            layers += [conv, nn.BatchNorm1d(after), nn.ReLU(), nn.MaxPool1d(4)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Scores of the classes."""
        scores: Tensor = self.head(self.body(waveforms[:, None]).mean(2))
        return scores

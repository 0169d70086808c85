"""Neighbours taken together: what feature squeezing does to an input, beside leaving it fewer levels (`level.py`).

Source: Xu, Evans and Qi 2018, "Feature squeezing: detecting adversarial examples in deep neural networks".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.ragged import inside
from audioadv.errors import MalformedSpec
from audioadv.threat.channels.channel import Channel, Play, Played, all_of
from audioadv.threat.channels.keys import Key, whole
from audioadv.threat.decimals import integer


def windows(inputs: Tensor, width: int) -> Tensor:
    """What lies around each sample (an odd number of them) or pixel (a square of this side), itself in the middle.

    Beyond its ends sound is silent; an image goes on as at its edge.
    Shapes: [rows, time] -> [rows, time, width]; [rows, channels, height, w] -> [rows, channels, height, w, width * width].
    """
    half = width // 2
    if inputs.ndim == 2:
        return F.pad(inputs, (half, half)).unfold(1, width, 1)
    padded = F.pad(inputs, (half,) * 4, mode="replicate")
    return padded.unfold(2, width, 1).unfold(3, width, 1).flatten(-2)


@dataclass(frozen=True)
class Window(Channel):
    """Something of each window of an odd number of samples, or of pixels a side."""

    NAME: ClassVar[str]
    EXAMPLE: ClassVar[str]
    width: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", whole(self.width, self.NAME, self.EXAMPLE))
        if not (1 <= self.width <= 1001 and self.width % 2):
            raise MalformedSpec(
                f"{self.NAME}:{self.width}: give an odd number of samples, or of pixels a side, from 1 to 1001: {self.NAME}:3"
            )

    @classmethod
    def read(cls, text: str) -> Self:
        """From what a spec says after the colon. Raises ValueError."""
        return cls(integer(text))

    def __str__(self) -> str:
        return f"{self.NAME}:{self.width}"

    @property
    def random(self) -> bool:
        return False

    def of(self, around: Tensor) -> Tensor:
        """What becomes of a window. Shapes: [*, entries] -> [*]."""
        raise NotImplementedError

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            smooth = self.of(windows(inputs, self.width))
            if inputs.ndim != 2:
                return smooth, lengths
            lengths = all_of(inputs) if lengths is None else lengths
            return smooth * inside(lengths, inputs.shape[1]), lengths

        return play


@final
@dataclass(frozen=True)
class Median(Window):
    """The median of each window: clicks go, edges stay. The slope is that of the sample or pixel which was taken."""

    NAME: ClassVar[str] = "median"
    EXAMPLE: ClassVar[str] = "median:3 (samples, or pixels a side)"

    def of(self, around: Tensor) -> Tensor:
        return around.median(-1).values


@final
@dataclass(frozen=True)
class Mean(Window):
    """The mean of each window: local smoothing."""

    NAME: ClassVar[str] = "mean"
    EXAMPLE: ClassVar[str] = "mean:3 (samples, or pixels a side)"

    def of(self, around: Tensor) -> Tensor:
        return around.mean(-1)

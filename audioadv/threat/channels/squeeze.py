"""Less than there was: neighbours taken together, fewer grey levels. What feature squeezing does to an input.

Source: Xu, Evans and Qi 2018, "Feature squeezing: detecting adversarial examples in deep neural networks", sections 3.1 and 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.ragged import inside
from audioadv.errors import MalformedSpec
from audioadv.threat.channels.channel import Backward, Channel, Play, Played, all_of
from audioadv.threat.channels.keys import Key, Range
from audioadv.threat.channels.level import straight_through


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
    width: int

    def __post_init__(self) -> None:
        if not (1 <= self.width <= 1001 and self.width % 2):
            raise MalformedSpec(
                f"{self.NAME}:{self.width}: give an odd number of samples, or of pixels a side, from 1 to 1001: {self.NAME}:3"
            )

    @classmethod
    def read(cls, text: str) -> Self:
        """From what a spec says after the colon. Raises ValueError."""
        return cls(int(text))

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


@final
@dataclass(frozen=True)
class Depth(Channel):
    """An image with 2^bits grey levels from 0 to 1, clipped there. Backward: the identity for the rounding."""

    NAME: ClassVar[str] = "depth"
    EXAMPLE: ClassVar[str] = "depth:3 (bits a pixel and colour; sound has bits:8)"
    bits: int

    def __post_init__(self) -> None:
        Range.of(self.bits).within(1, 16, "bits", "depth")

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(int(text))

    def __str__(self) -> str:
        return f"depth:{self.bits}"

    @property
    def backward(self) -> Backward:
        return "BPDA"

    @property
    def random(self) -> bool:
        return False

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        steps = 2**self.bits - 1

        def play(images: Tensor, lengths: Tensor | None) -> Played:
            held = images.clamp(0, 1)
            return straight_through(held, (held.detach() * steps).round() / steps), lengths

        return play

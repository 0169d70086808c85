"""What amplifiers and converters do sample by sample: gain, clipping, few bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor

from audioadv.threat.channels.channel import Backward, Channel, OneNumber, Play, Played
from audioadv.threat.channels.keys import Key, Range


@final
@dataclass(frozen=True, init=False)
class Gain(OneNumber):
    """Louder or softer, in decibels."""

    NAME: ClassVar[str] = "gain"
    EXAMPLE: ClassVar[str] = "gain:-6 or gain:-6..6"
    LIMITS: ClassVar = (-120, 120, "dB")

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        factors = 10 ** (self.range.draw([key.generator() for key in keys]) / 20)

        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            return waveforms * factors[:, None].to(waveforms), lengths

        return play


@final
@dataclass(frozen=True, init=False)
class Clipping(OneNumber):
    """Nothing passes beyond +-`limit` (full scale = 1). Where it clips, the slope is zero."""

    NAME: ClassVar[str] = "clip"
    EXAMPLE: ClassVar[str] = "clip:1 or clip:0.3..0.9"
    LIMITS: ClassVar = (1e-4, 10, "of full scale")

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        limits = self.range.draw([key.generator() for key in keys])

        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            edge = limits[:, None].to(waveforms)
            return waveforms.clamp(-edge, edge), lengths

        return play


@final
@dataclass(frozen=True)
class Bits(Channel):
    """Rounded to the nearest of 2^bits steps between -1 and 1, clipped there. Backward: the identity for the rounding."""

    NAME: ClassVar[str] = "bits"
    EXAMPLE: ClassVar[str] = "bits:16"
    bits: int

    def __post_init__(self) -> None:
        Range.of(self.bits).within(2, 24, "", "bits")

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(int(text))

    def __str__(self) -> str:
        return f"bits:{self.bits}"

    @property
    def backward(self) -> Backward:
        return "BPDA"

    @property
    def random(self) -> bool:
        return False

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        steps = 2 ** (self.bits - 1)

        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            held = waveforms.clamp(-1, 1 - 1 / steps)
            return straight_through(held, (held.detach() * steps).round() / steps), lengths

        return play


def straight_through(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The outputs, with the inputs' slope: BPDA with the identity. Source: Athalye et al. 2018, "Obfuscated gradients", 4.1.

    >>> import torch
    >>> x = torch.tensor([0.3], requires_grad=True)
    >>> straight_through(x, x.round()).backward(); x.grad
    tensor([1.])
    """
    return inputs + (outputs - inputs).detach()

"""What amplifiers and converters do sample by sample, pixel by pixel: gain, clipping, few bits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

from torch import Tensor

from audioadv.threat.channels.channel import Backward, Channel, OneNumber, Play, Played
from audioadv.threat.channels.keys import Key, Range, ratio_of, whole
from audioadv.threat.decimals import integer


@final
@dataclass(frozen=True, init=False)
class Gain(OneNumber):
    """Louder or softer, in decibels."""

    NAME: ClassVar[str] = "gain"
    EXAMPLE: ClassVar[str] = "gain:-6 or gain:-6..6"
    LIMITS: ClassVar = (-120, 120, "dB")

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        factors = ratio_of(self.range.draw([key.generator() for key in keys]))

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


@dataclass(frozen=True)
class Rounding(Channel):
    """Held between two limits, and rounded to as many levels as so many bits have. Backward: the identity for the rounding."""

    NAME: ClassVar[str]
    EXAMPLE: ClassVar[str]
    LIMITS: ClassVar[tuple[int, int]]
    bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", whole(self.bits, self.NAME, self.EXAMPLE))
        Range.of(self.bits, self.EXAMPLE).within(*self.LIMITS, "bits", self.NAME)

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(integer(text))

    def __str__(self) -> str:
        return f"{self.NAME}:{self.bits}"

    @property
    def backward(self) -> Backward:
        return "BPDA"

    @property
    def random(self) -> bool:
        return False

    @property
    def levels(self) -> tuple[float, float, int]:
        """The lowest, the highest, and how many there are between 0 and 1."""
        raise NotImplementedError

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        low, high, steps = self.levels

        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            held = inputs.clamp(low, high)
            return straight_through(held, (held.detach() * steps).round() / steps), lengths

        return play


@final
@dataclass(frozen=True)
class Bits(Rounding):
    """Sound in a converter of so many bits: 2^bits levels between -1 and 1."""

    NAME: ClassVar[str] = "bits"
    EXAMPLE: ClassVar[str] = "bits:16"
    LIMITS: ClassVar[tuple[int, int]] = (2, 24)

    @property
    def levels(self) -> tuple[float, float, int]:
        steps = 2 ** (self.bits - 1)
        return -1, 1 - 1 / steps, steps


@final
@dataclass(frozen=True)
class Depth(Rounding):
    """An image with 2^bits grey levels from 0 to 1."""

    NAME: ClassVar[str] = "depth"
    EXAMPLE: ClassVar[str] = "depth:3 (bits a pixel and colour; sound has bits:8)"
    LIMITS: ClassVar[tuple[int, int]] = (1, 16)

    @property
    def levels(self) -> tuple[float, float, int]:
        return 0, 1, 2**self.bits - 1


def straight_through(inputs: Tensor, outputs: Tensor) -> Tensor:
    """The outputs, with the inputs' slope: BPDA with the identity. Source: Athalye et al. 2018, "Obfuscated gradients".

    >>> import torch
    >>> x = torch.tensor([0.3], requires_grad=True)
    >>> straight_through(x, x.round()).backward(); x.grad
    tensor([1.])
    """
    return inputs + (outputs - inputs).detach()

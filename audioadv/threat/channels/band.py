"""What small loudspeakers and narrow lines do to the spectrum. Filters have no delay: their phase is zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from audioadv.audio.convolution import convolve
from audioadv.audio.ragged import inside
from audioadv.errors import MalformedSpec
from audioadv.threat.channels.channel import Channel, Play, Played, all_of, in_single
from audioadv.threat.channels.keys import Key, Numbers, Range, number, real

HALF_SECONDS = 0.04  # of a filter's response, on each side
POINTS = 8  # of a loudspeaker's ripple, over the octaves from 100 Hz to 12.8 kHz


def zero_phase(gain: Tensor, half: int) -> Tensor:
    """The symmetric response with such gains from 0 Hz to half the sample rate, under a Hann window.

    Shapes: gain [rows, bins] -> [rows, 2 * half + 1], its middle at tap `half`.
    """
    response = torch.fft.irfft(gain)
    around = torch.cat([response[:, -half:], response[:, : half + 1]], dim=1)
    return around * torch.hann_window(2 * half + 3, periodic=False)[1:-1]


def butterworth(hz: Tensor, low: Tensor, high: Tensor, order: int) -> Tensor:
    """Gain of a band-pass with these -3 dB points. Shapes: hz [bins], low and high [rows] -> [rows, bins]. Units: Hz."""
    rise = (1 + (low[:, None] / hz.clamp_min(1e-3)) ** (2 * order)).rsqrt()
    return rise * (1 + (hz / high[:, None]) ** (2 * order)).rsqrt()


def filtered(gain: Tensor, sample_rate: int) -> Play:
    """The map that applies these gains. Shapes: gain [rows, bins]."""
    half = round(HALF_SECONDS * sample_rate)
    responses = zero_phase(gain, half)

    @in_single
    def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
        lengths = all_of(waveforms) if lengths is None else lengths
        return convolve(waveforms, responses.to(waveforms), ahead=half) * inside(lengths, waveforms.shape[1]), lengths

    return play


def bins(sample_rate: int) -> Tensor:
    """The frequencies at which gains are stated. Units: Hz. Shapes: -> [bins]."""
    return torch.linspace(0, sample_rate / 2, 2 * round(HALF_SECONDS * sample_rate) + 1)


@final
@dataclass(frozen=True)
class Band(Channel):
    """A band-pass between two frequencies: -3 dB there, then 24 dB an octave.

    That is so from 100 Hz on, and for edges that are an octave apart. Lower edges are blurred, since a filter lasts 80 ms (-4.6 dB at
    20 Hz, then 8 dB an octave); nearer ones take from each other, and from what lies between (1000..1100: -4.5 dB throughout).
    """

    NAME: ClassVar[str] = "band"
    EXAMPLE: ClassVar[str] = "band:300..3400"
    low_hz: float
    high_hz: float

    def __post_init__(self) -> None:
        for name in ("low_hz", "high_hz"):
            object.__setattr__(self, name, real(getattr(self, name), self.EXAMPLE))
        if not 0 <= self.low_hz < self.high_hz:
            raise MalformedSpec(f"band {self.low_hz:g}..{self.high_hz:g}: give two frequencies in Hz, the lower first: {self.EXAMPLE}")

    @classmethod
    def read(cls, text: str) -> Self:
        edges = Range.read(text)
        return cls(edges.low, edges.high)

    def __str__(self) -> str:
        return f"band:{number(self.low_hz)}..{number(self.high_hz)}"

    @property
    def random(self) -> bool:
        return False

    def unfit(self, length: int, sample_rate: int) -> str | None:
        highest = sample_rate / 2
        return f"{self}: a sound at {sample_rate} Hz ends at {highest:g}. Begin lower" if self.low_hz >= highest else None

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        one = torch.ones(1)
        return filtered(butterworth(bins(sample_rate), self.low_hz * one, self.high_hz * one, 4), sample_rate)


@final
@dataclass(frozen=True)
class Loudspeaker(Channel):
    """A small loudspeaker: from 100..300 Hz to 5..7.5 kHz (18 dB an octave), with `ripple_db` between, smooth over octaves."""

    NAME: ClassVar[str] = "loudspeaker"
    EXAMPLE: ClassVar[str] = "loudspeaker or loudspeaker:6 (dB of ripple, up and down)"
    ripple_db: Range

    def __init__(self, ripple_db: Numbers = 4.0) -> None:
        object.__setattr__(self, "ripple_db", Range.of(ripple_db, self.EXAMPLE).within(0, 40, "dB", "loudspeaker"))

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(Range.read(text)) if text else cls()

    def __str__(self) -> str:
        return "loudspeaker" if self == Loudspeaker() else f"loudspeaker:{self.ripple_db}"

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        generators = [key.generator() for key in keys]
        depth, low, high = (span.draw(generators) for span in (self.ripple_db, Range(100, 300), Range(5000, 7500)))
        bends = torch.stack([2 * torch.rand(POINTS, generator=generator) - 1 for generator in generators])
        hz = bins(sample_rate)
        place = ((hz.clamp_min(1e-3) / 100).log2() / 7).clamp(0, 1) * (POINTS - 1)
        before = place.floor().clamp_max(POINTS - 2).long()
        share = 0.5 - 0.5 * torch.cos(torch.pi * (place - before))
        decibels = depth[:, None] * (bends[:, before] * (1 - share) + bends[:, before + 1] * share)
        return filtered(butterworth(hz, low, high, 3) * 10 ** (decibels / 20), sample_rate)

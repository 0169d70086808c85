"""What happens to time: shifts, other speeds, clocks that disagree, another sample rate on the way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Self, final

import torch
from torch import Tensor

from audioadv.audio.ragged import inside
from audioadv.errors import MalformedSpec, UnusableBatch
from audioadv.threat.channels.channel import Channel, OneNumber, Play, Played, all_of, in_single
from audioadv.threat.channels.keys import Key, whole
from audioadv.threat.decimals import integer

HIGHEST_RATE = 192_000  # Hz
LONGEST_RATIO = 2000  # a resampling filter is as long as a rate over what it has in common with the other
SIZES = 200_000  # how many FFT sizes a speed may choose from
LATEST = 0.05  # samples by which the end of a clip may be off
SHARP: Final[dict[str, Any]] = {"lowpass_filter_width": 64, "rolloff": 0.95, "resampling_method": "sinc_interp_kaiser"}
"""There and back, flat up to 0.9 of half the rate, below -60 dB from 0.99 of it on; torchaudio's usual 6 fold back 1.05 of it at -13."""
EDGE = 64  # samples of silence at least between a clip's end and its beginning, which the FFT takes for neighbours


@final
@dataclass(frozen=True, init=False)
class Shift(OneNumber):
    """Later (or, below zero, earlier) by so many milliseconds, in whole samples. The clip keeps its length; silence comes in."""

    NAME: ClassVar[str] = "shift"
    EXAMPLE: ClassVar[str] = "shift:10 or shift:-20..20 (milliseconds)"
    LIMITS: ClassVar = (-10000, 10000, "ms")

    def unfit(self, length: int, sample_rate: int) -> str | None:
        least = max(0.0, self.range.low, -self.range.high) * sample_rate / 1000
        return f"{self}: nothing is left of a clip of {1000 * length / sample_rate:.0f} ms. Shift it by less" if least >= length else None

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        late = (self.range.draw([key.generator() for key in keys]) * sample_rate / 1000).round().long()

        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            lengths = all_of(waveforms) if lengths is None else lengths
            source = torch.arange(waveforms.shape[1], device=waveforms.device) - late[:, None].to(waveforms.device)
            there = (source >= 0) & (source < lengths[:, None]) & inside(lengths, waveforms.shape[1])
            return waveforms.gather(1, source.clamp(0, waveforms.shape[1] - 1)) * there, lengths

        return play


def at_speed(waveform: Tensor, factor: float) -> Tensor:
    """The same sound `factor` times as fast: y[t] = x(factor * t), interpolated with no limit of band but the new one.

    n samples are taken for one period of n + padding and become another number of samples: the smallest pair of sizes whose
    ratio is near enough to the factor. Shapes: [time] -> [time / factor, rounded].
    """
    time = len(waveform)
    olds = torch.arange(time + EDGE, time + EDGE + SIZES, dtype=torch.float64)
    news = (olds / factor).round()
    off = (olds / news / factor - 1).abs() * time
    best = int((off <= max(LATEST, float(off.min()))).byte().argmax())
    old, new = int(olds[best]), int(news[best])
    if old == new:
        return waveform
    spectrum = torch.fft.rfft(waveform, old)[: new // 2 + 1]
    if new > old and old % 2 == 0:  # half the old rate is its own mirror image: among more bins it is two, with half of it each
        spectrum = torch.cat([spectrum[:-1], spectrum[-1:] / 2])
    return torch.fft.irfft(spectrum, new)[: played_for(time, factor)] * (new / old)


def played_for(time: int, factor: float) -> int:
    """How many samples last so much shorter at this speed; one at least."""
    return max(1, round(time / factor))


def played_at(factors: Tensor) -> Play:
    """The map that plays each row at its own speed. Shapes: factors [rows], double."""

    @in_single
    def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
        lengths = all_of(waveforms) if lengths is None else lengths
        rows = [at_speed(row[:n], f) for row, n, f in zip(waveforms, lengths.tolist(), factors.tolist(), strict=True)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows], device=lengths.device)

    return play


@final
@dataclass(frozen=True, init=False)
class Speed(OneNumber):
    """Faster and higher, or slower and lower, as a tape would be; the clip's length changes with it."""

    NAME: ClassVar[str] = "speed"
    EXAMPLE: ClassVar[str] = "speed:1.02 or speed:0.95..1.05"
    LIMITS: ClassVar = (0.5, 2, "times as fast")

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        return played_at(self.range.draw([key.generator() for key in keys]).double())

    def lengths(self, length: int) -> tuple[int, int]:
        return played_for(length, self.range.high), played_for(length, self.range.low)


@final
@dataclass(frozen=True, init=False)
class Drift(OneNumber):
    """A player's clock that is off by so many parts in a million: a speed of 1 + drift / 10^6."""

    NAME: ClassVar[str] = "drift"
    EXAMPLE: ClassVar[str] = "drift:50 or drift:-100..100 (parts per million)"
    LIMITS: ClassVar = (-1e5, 1e5, "parts per million")

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        return played_at(1 + self.range.draw([key.generator() for key in keys]).double() / 1e6)

    def lengths(self, length: int) -> tuple[int, int]:
        return played_for(length, 1 + self.range.high / 1e6), played_for(length, 1 + self.range.low / 1e6)


@final
@dataclass(frozen=True)
class Resample(Channel):
    """To another sample rate and back (torchaudio, windowed sinc): what lies above half of it is lost, and is not folded back."""

    NAME: ClassVar[str] = "resample"
    EXAMPLE: ClassVar[str] = "resample:8000 (Hz)"
    rate_hz: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate_hz", whole(self.rate_hz, self.NAME, self.EXAMPLE))
        if not 100 <= self.rate_hz <= HIGHEST_RATE:
            raise MalformedSpec(f"resample {self.rate_hz}: give a sample rate in Hz, 100 to {HIGHEST_RATE}: {self.EXAMPLE}")

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(integer(text))

    def __str__(self) -> str:
        return f"resample:{self.rate_hz}"

    @property
    def random(self) -> bool:
        return False

    def unfit(self, length: int, sample_rate: int) -> str | None:
        if max(self.rate_hz, sample_rate) // math.gcd(self.rate_hz, sample_rate) <= LONGEST_RATIO:
            return None
        near = [rate for rate in (4000, 6000, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000) if rate != sample_rate]
        nearest = min(near, key=lambda rate: abs(rate - self.rate_hz))
        return f"{self}: {self.rate_hz} and {sample_rate} Hz have no common measure that a filter of bearable length has. Take {nearest}"

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        if why := self.unfit(0, sample_rate):
            raise UnusableBatch(why)

        @in_single
        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            lengths = all_of(waveforms) if lengths is None else lengths
            return there_and_back(waveforms, lengths, sample_rate, self.rate_hz), lengths

        return play


def there_and_back(waveforms: Tensor, lengths: Tensor, sample_rate: int, rate_hz: int) -> Tensor:
    """Resampled twice, as long as before, each clip as if alone. Shapes: waveforms [rows, time], lengths [rows]. Units: Hz."""
    from torchaudio.functional import resample as plainly

    resample = partial(plainly, **SHARP)
    between: Tensor = resample(waveforms, sample_rate, rate_hz)
    between = between * inside((lengths * rate_hz + sample_rate - 1) // sample_rate, between.shape[1])
    back: Tensor = resample(between, rate_hz, sample_rate)[:, : waveforms.shape[1]]
    back = torch.nn.functional.pad(back, (0, waveforms.shape[1] - back.shape[1]))
    return back * inside(lengths, back.shape[1])

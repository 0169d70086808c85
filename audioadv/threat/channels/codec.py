"""Lossy codecs and lossy lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Self, final

import torch
from torch import Tensor

from audioadv.audio.codecs import RATES, check_codec, lack, through_codecs
from audioadv.errors import MalformedSpec
from audioadv.threat.channels.channel import Backward, Channel, Play, Played, all_of, in_single
from audioadv.threat.channels.clock import Resample
from audioadv.threat.channels.keys import Key, Numbers, Range, number, real
from audioadv.threat.channels.level import straight_through
from audioadv.threat.decimals import decimal

USUAL: Final = {"mp3": 64.0, "opus": 24.0, "vorbis": 5.0, "mulaw": 64.0}


@final
@dataclass(frozen=True)
class Codec(Channel):
    """Encoded at so many kbit/s (Vorbis: at a quality of 0 to 10) and decoded. Backward: the identity.

    mu-law has 8 bits a sample, so that its rate is its sample rate: 64 is a telephone's 8 kHz, and there the backward pass is
    the identity for the rounding alone: what the line's band cuts off has no slope.
    """

    NAME: ClassVar[str] = "codec"
    EXAMPLE: ClassVar[str] = "codec:mp3@64k, codec:opus@24k, codec:vorbis@5 (quality) or codec:mulaw@64k (8 kHz)"
    name: str
    kilobits: float

    def __init__(self, name: str, kilobits: float | None = None) -> None:
        check_codec(name)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "kilobits", USUAL[name] if kilobits is None else real(kilobits, self.EXAMPLE))
        if not (math.isfinite(self.kilobits) and (self.kilobits > 0 or (name == "vorbis" and self.kilobits == 0))):
            raise MalformedSpec(f"codec {name} at {kilobits}: give kilobits a second, for example {self.EXAMPLE}")
        if all(lack(name, self.kilobits, rate) for rate in RATES.get(name, (48000,))):
            raise MalformedSpec(f"{lack(name, self.kilobits, 48000)}; nor at any other. Write for example {self.EXAMPLE}")
        if name == "mulaw" and self.kilobits < 8:
            raise MalformedSpec(f"codec mulaw at {self.kilobits:g}: 8 bits a sample, 8 kbit/s or more, for example {self.EXAMPLE}")

    @classmethod
    def read(cls, text: str) -> Self:
        name, _, rate = text.partition("@")
        return cls(name, decimal(rate.removesuffix("k")) if rate else None)

    def __str__(self) -> str:
        return f"codec:{self.name}@{number(self.kilobits)}" + ("" if self.name == "vorbis" else "k")

    @property
    def backward(self) -> Backward:
        return "BPDA"

    @property
    def random(self) -> bool:
        return False

    def line(self, sample_rate: int) -> Resample | None:
        """What a telephone line of mu-law makes of the band; None where it is wide enough. Raises MalformedSpec for one too narrow."""
        rate = round(125 * self.kilobits)
        return Resample(rate) if self.name == "mulaw" and rate < sample_rate else None

    def unfit(self, length: int, sample_rate: int) -> str | None:
        line = self.line(sample_rate)
        return lack(self.name, self.kilobits, sample_rate) if line is None else line.unfit(length, sample_rate)

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        line = self.line(sample_rate)
        narrow = None if line is None else line.draw(keys, sample_rate)

        @in_single
        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            lengths = all_of(waveforms) if lengths is None else lengths
            if narrow is not None:
                waveforms, _ = narrow(waveforms, lengths)
            sounds = [row[:length] for row, length in zip(waveforms, lengths.tolist(), strict=True)]
            decoded = through_codecs(sounds, sample_rate, self.name, self.kilobits)
            back = torch.nn.utils.rnn.pad_sequence(decoded, batch_first=True)
            back = torch.nn.functional.pad(back, (0, waveforms.shape[1] - back.shape[1]))
            return straight_through(waveforms, back), lengths

        return play


@final
@dataclass(frozen=True)
class Packets(Channel):
    """Packets of `milliseconds` of which a share is lost, each by itself; what is lost is silent."""

    NAME: ClassVar[str] = "packets"
    EXAMPLE: ClassVar[str] = "packets:0.05, packets:0..0.1 or packets:0.05@60 (milliseconds a packet)"
    share: Range
    milliseconds: float = 20.0

    def __init__(self, share: Numbers, milliseconds: float = 20.0) -> None:
        object.__setattr__(self, "share", Range.of(share, self.EXAMPLE).within(0, 1, "", "packets"))
        object.__setattr__(self, "milliseconds", real(milliseconds, self.EXAMPLE))
        if not 0.1 <= milliseconds <= 10000:
            raise MalformedSpec(f"packets of {milliseconds:g} ms: give 0.1 to 10000 ms, for example {self.EXAMPLE}")

    @classmethod
    def read(cls, text: str) -> Self:
        share, _, milliseconds = text.partition("@")
        return cls(Range.read(share), decimal(milliseconds or "20"))

    def __str__(self) -> str:
        return f"packets:{self.share}" + ("" if self.milliseconds == 20 else f"@{number(self.milliseconds)}")

    @property
    def random(self) -> bool:
        return self.share.high > 0 and self.share.low < 1

    def unfit(self, length: int, sample_rate: int) -> str | None:
        return f"{self}: nothing of the clip arrives. Lose less" if self.share.low >= 1 else None

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        size = max(1, round(self.milliseconds * sample_rate / 1000))
        shares = self.share.draw([key.generator() for key in keys])

        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            count = -(-waveforms.shape[1] // size)
            luck = torch.stack([torch.rand(count, generator=key.part(0).generator()) for key in keys])
            arrives = (luck >= shares[:, None]).to(waveforms).repeat_interleave(size, dim=1)
            return waveforms * arrives[:, : waveforms.shape[1]], lengths

        return play

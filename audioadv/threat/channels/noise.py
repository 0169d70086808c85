"""Noise that is added at a ratio to the sound.

kind      what                                                           level falls by
white     Gaussian                                                       0 dB an octave
pink      Gaussian, equal energy in each octave                          3 dB
babble    six talkers: speech-shaped noise (Byrne et al. 1994, roughly)  9 dB from 500 Hz on
          that swells at the rate of syllables, each by itself
hum       eight harmonics of 50 or 60 Hz mains                           -
FILE      a recording, from another place in it at each draw; judge      as recorded
          draws come from its second half, all others from its first
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final, Self, final

import scipy
import torch
from torch import Tensor

from audioadv.audio.files import read_clip
from audioadv.audio.ragged import inside
from audioadv.audio.roomsets import Role
from audioadv.errors import MalformedSpec, UnusableResponse
from audioadv.threat.channels.channel import Channel, Play, Played, all_of, check_path
from audioadv.threat.channels.keys import Key, Numbers, Range, ratio_of

TALKERS, SYLLABLES_HZ = 6, 4.0
TRIES = 50  # places in a recording, until one is not silent
Maker = Callable[[int, int, torch.Generator], Tensor]
"""`make(samples, sample_rate, generator)` -> [samples], at any level."""


def white(samples: int, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise."""
    return torch.randn(samples, generator=generator)


def shaped(samples: int, sample_rate: int, generator: torch.Generator, gain: Callable[[Tensor], Tensor]) -> Tensor:
    """Gaussian noise whose spectrum is weighted by `gain(hz)`; nothing at 0 Hz."""
    size = scipy.fft.next_fast_len(samples, real=True)
    spectrum = torch.fft.rfft(torch.randn(size, generator=generator))
    hz = torch.linspace(0, sample_rate / 2, len(spectrum))
    hz[0] = math.inf
    return torch.fft.irfft(spectrum * gain(hz), size)[:samples]


def pink(samples: int, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Equal energy in each octave: power falls as 1 / f."""
    return shaped(samples, sample_rate, generator, lambda hz: hz**-0.5)


def babble(samples: int, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Six talkers: speech-shaped noise, each swelling and fading at the rate of syllables."""
    crowd = torch.zeros(samples)
    knots = max(2, math.ceil(samples / sample_rate * 2 * SYLLABLES_HZ) + 1)
    for _ in range(TALKERS):
        talker = shaped(samples, sample_rate, generator, lambda hz: (hz / 100).clamp(max=1) / (1 + (hz / 500) ** 2) ** 0.75)
        swell = torch.rand(1, 1, knots, generator=generator)
        crowd += talker * torch.nn.functional.interpolate(swell, size=samples, mode="linear", align_corners=True)[0, 0]
    return crowd


def hum(samples: int, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Harmonics of the mains, of random strength and phase."""
    mains = 50.0 if float(torch.rand((), generator=generator)) < 0.5 else 60.0
    clock, sound = torch.arange(samples) / sample_rate, torch.zeros(samples)
    for harmonic in range(1, 9):
        strength, phase = torch.rand(2, generator=generator).tolist()
        sound += (0.1 + strength) / harmonic * torch.sin(2 * math.pi * (mains * harmonic * clock + phase))
    return sound


MAKERS: Final[dict[str, Maker]] = {"white": white, "pink": pink, "babble": babble, "hum": hum}


def recording(path: str, sample_rate: int) -> Tensor:
    """A recording of noise at that rate, read once while it is the same. Raises UnreadableAudio, or UnusableResponse for a silent one."""
    try:
        place, written = os.path.realpath(path), os.stat(path).st_mtime_ns
    except (OSError, ValueError):  # which reading it will say more of
        place, written = path, 0
    return read_once(path, sample_rate, place, written)


@lru_cache(maxsize=8)
def read_once(path: str, sample_rate: int, place: str, written: int) -> Tensor:
    """As `recording`, of a file that lies there and was `written` then: in another place, or written again, it is read again."""
    samples = read_clip(path, sample_rate, longest_seconds=600).samples
    if not bool(samples.any()):
        raise UnusableResponse(f"{path}: the noise is digital silence. Name a recording that holds some")
    return samples


@final
@dataclass(frozen=True)
class Noise(Channel):
    """Noise at `snr_db`: the sound's energy over the noise's, both over the clip, in decibels. Silence stays silent."""

    NAME: ClassVar[str] = "noise"
    EXAMPLE: ClassVar[str] = "noise:20, noise:15..25, noise:20@pink (white, pink, babble, hum) or noise:20@FILE.wav"
    snr_db: Range
    kind: str = "white"

    def __init__(self, snr_db: Numbers, kind: str | os.PathLike[str] = "white") -> None:
        if not isinstance(kind, str | os.PathLike):
            raise MalformedSpec(f"noise of {kind!r:.60}: give a kind ({', '.join(MAKERS)}) or the path of a sound file")
        kind = os.fspath(kind)
        object.__setattr__(self, "snr_db", Range.of(snr_db, self.EXAMPLE).within(-60, 120, "dB", "noise"))
        object.__setattr__(self, "kind", kind)
        if kind not in MAKERS and not os.path.isfile(kind):  # which, unlike a path's own, says no where it may not look
            raise UnusableResponse(
                f"noise {kind!r}: neither a kind ({', '.join(MAKERS)}) nor a sound file that can be read. Check the name"
            )
        check_path(kind, "noise")

    @classmethod
    def read(cls, text: str) -> Self:
        ratio, _, kind = text.partition("@")
        return cls(Range.read(ratio), kind or "white")

    def __str__(self) -> str:
        return f"noise:{self.snr_db}" + ("" if self.kind == "white" else f"@{self.kind}")

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        ratios = ratio_of(-self.snr_db.draw([key.generator() for key in keys]))
        noises: dict[tuple[int, ...], Tensor] = {}

        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            lengths = all_of(waveforms) if lengths is None else lengths
            shape = (*lengths.tolist(), waveforms.shape[1])
            if shape not in noises:  # a map may be called again: it says the same
                noises[shape] = self.noise(keys, lengths.tolist(), waveforms.shape[1], sample_rate)
            sound = waveforms * inside(lengths, waveforms.shape[1])
            level = sound.norm(dim=1, keepdim=True) * ratios[:, None].to(waveforms)
            return sound + level * noises[shape].to(waveforms), lengths

        return play

    def noise(self, keys: Sequence[Key], lengths: list[int], width: int, sample_rate: int) -> Tensor:
        """Each key's noise, of energy 1 over its clip. Shapes: -> [keys, width]."""
        rows = torch.zeros(len(keys), width)
        for row, key, length in zip(rows, keys, lengths, strict=True):
            generator = key.part(0).generator()
            made = self.kind in MAKERS
            sound = MAKERS[self.kind](length, sample_rate, generator) if made else self.cut(length, sample_rate, generator, key.role)
            row[:length] = sound / sound.norm().clamp_min(1e-12)
        return rows

    def unfit(self, length: int, sample_rate: int) -> str | None:
        if self.kind in MAKERS:
            return None
        halves = [self.half(role, sample_rate) for role in (Role.CRAFT, Role.JUDGE)]
        if not all(bool(half.any()) for half in halves):
            return f"{self.kind}: half of it is digital silence, and one half is to craft with, one to judge by. Name another recording"
        seconds = len(halves[0]) / sample_rate
        if seconds >= length / sample_rate:
            return None
        return (
            f"{self.kind}: {seconds:.2f} s of noise for each half, one to craft with and one to judge by, but the clip lasts "
            f"{length / sample_rate:.2f} s. Name a longer recording: repeated noise would be easier than real noise"
        )

    def half(self, role: Role, sample_rate: int) -> Tensor:
        """The role's half of the recording. Shapes: -> [time]."""
        sound = recording(self.kind, sample_rate)
        middle = len(sound) // 2
        return sound[middle:] if role is Role.JUDGE else sound[:middle]

    def cut(self, length: int, sample_rate: int, generator: torch.Generator, role: Role) -> Tensor:
        """A piece of the role's half of the recording that is not silent. Raises UnusableResponse where there is none so long."""
        if why := self.unfit(length, sample_rate):
            raise UnusableResponse(why)
        sound = self.half(role, sample_rate)
        for _ in range(TRIES):
            first = int(torch.randint(len(sound) - length + 1, (), generator=generator))
            if bool((piece := sound[first : first + length]).any()):
                return piece
        raise UnusableResponse(f"{self.kind}: digital silence in {TRIES} places out of {TRIES}. Name a recording that is seldom silent")

"""The model of hearing behind the masking threshold: its choices, its formulas, and what depends on nothing else.

Source: ISO/IEC 11172-3:1993, Annex D, psychoacoustic model 1. The standard tabulates it for 32, 44.1 and 48 kHz; here its
tables are formulas in hertz and Bark, good for any rate.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.spectrum import OVERLAP, TONE_BINS
from audioadv.errors import OptionError

LOWEST_RATE, HIGHEST_RATE = 8000, 48000  # Hz
CEILING_DB = 68.0  # of the threshold in quiet towards both ends of hearing; in tables D.1 at the upper one
STANDS_OUT = ((0, 86), (2700, 129), (5500, 258), (11000, 517))  # layer II's 2, 3, 6 and 12 bins of 43 Hz: from so many Hz on, +- Hz
NEVER_DB = -300.0
LN_PER_DB = math.log(10) / 10


@final
@dataclass(frozen=True)
class Hearing:
    """The model's choices.

    full_scale_db       the playback level: what a full-scale sine comes to at the ear, dB SPL
    window_seconds      the length of a frame. At 64 ms the main lobe of its Hann window is 62.5 Hz wide: it fits into the
                        narrowest critical band, 100 Hz, and lets the harmonics of a voice from 125 Hz up stand out as tones,
                        which mask less than noise does. 32 ms would take most voices for noise; 128 ms (2,048 samples at
                        16 kHz) would grant what precedes an onset its mask for twice as long, where an ear forgives some 20 ms
    quiet_offset_db     added to the threshold in quiet: -12 dB as in the standard at high quality, 0 for the threshold itself
    lines_per_bark      thresholds are added up at no more lines than these and interpolated; in the standard, at about 5. at 8,
                        98 of 100 bins are within 0.6 dB of what adding up at each bin gives
    temporal            whether sounds also mask what follows (200 ms) and precedes (20 ms) them
    simplified          Qin et al. 2019, "Imperceptible, Robust, and Targeted Adversarial Examples for Automatic Speech
                        Recognition", after Lin and Abdulla 2015: every peak is a tone, at the plain sum of its three bins; no
                        noise maskers; skirts of 27 dB a Bark, upwards 0.37 less for each dB over 40. As in the papers, a tone goes
                        where any stronger one is near, itself dropped or not; the code of Qin et al. compares it with those
                        that are left, and keeps more: its threshold is higher then, by 30 dB in places
    """

    sample_rate: int = 16000
    full_scale_db: float = 96.0
    window_seconds: float = 0.064
    quiet_offset_db: float = -12.0
    lines_per_bark: float = 8.0
    temporal: bool = False
    simplified: bool = False

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise OptionError(
                f"a masking threshold at {self.sample_rate} Hz: the model of hearing holds from {LOWEST_RATE} to {HIGHEST_RATE} Hz. "
                "Resample the clips first: clip.at(16000), or sox IN OUT rate 16000"
            )
        for name, low, high in (
            ("full_scale_db", 0, 200),
            ("window_seconds", 0.004, 0.5),
            ("quiet_offset_db", -100, 100),
            ("lines_per_bark", 1, 1e9),
        ):
            if not low <= getattr(self, name) <= high:  # NaN is not
                raise OptionError(
                    f"Hearing({name}={getattr(self, name)}): pass a number from {low} to {high}; the default is {getattr(Hearing, name)}"
                )

    @property
    def window(self) -> int:
        """Samples in a frame, a multiple of 64: 1,024 at 16 kHz."""
        return 64 * max(1, round(self.sample_rate * self.window_seconds / 64))

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return self.window // OVERLAP

    @property
    def bins(self) -> int:
        """Bins in a frame."""
        return self.window // 2 + 1

    @property
    def bin_hz(self) -> float:
        """Hertz from bin to bin."""
        return self.sample_rate / self.window


def bark(hz: Tensor) -> Tensor:
    """Critical-band rate. Source: Zwicker and Terhardt 1980, "Analytical expressions for critical-band rate".

    >>> bark(torch.tensor([100.0, 1000.0, 4000.0])).round(decimals=2)
    tensor([ 0.9900,  8.5100, 17.2600])
    """
    return 13 * (0.00076 * hz).atan() + 3.5 * (hz / 7500).square().atan()


def quiet_db(hz: Tensor) -> Tensor:
    """Threshold in quiet, dB SPL, at most 68. Source: Terhardt 1979, "Calculating virtual pitch".

    >>> quiet_db(torch.tensor([100.0, 1000.0, 3300.0])).round(decimals=2)
    tensor([22.9500,  3.3700, -4.9800])
    """
    khz = hz.clamp(20, 20000) / 1000
    return (3.64 * khz**-0.8 - 6.5 * (-0.6 * (khz - 3.3).square()).exp() + 0.001 * khz**4).clamp_max(CEILING_DB)


def skirts(masker: Tensor, maskee: Tensor) -> tuple[Tensor, Tensor]:
    """How far masking falls off: decibels, and decibels more for each decibel of the masker's level L.

        Bark from the masker    -3 ... -1      -1 ... 0      0 ... 1     1 ... 8
        falls by, dB a Bark        17          0.4 L + 6       17       17 - 0.15 L     no masking farther away

    Shapes: [maskers], [maskees] -> [maskers, maskees] twice. Units: Bark. Source: ISO/IEC 11172-3, D.1, step 6.
    """
    away = maskee - masker[:, None]
    base = torch.where(away < -1, 17 * (away + 1) - 6, torch.where(away < 0, 6 * away, -17 * away))
    gain = -0.4 * (-away).clamp(0, 1) + 0.15 * (away - 1).clamp_min(0)
    cut = (away < -3) | (away >= 8)
    return base.masked_fill(cut, NEVER_DB), gain.masked_fill(cut, 0)


def simplified_skirts(masker: Tensor, maskee: Tensor) -> tuple[Tensor, Tensor]:
    """The same for two straight skirts; here L counts from 40 dB. Source: Lin and Abdulla 2015, "Audio Watermark"."""
    away = maskee - masker[:, None]
    return -27 * away.abs(), 0.37 * away.clamp_min(0)


@final
@dataclass(frozen=True, eq=False)
class Skirts:
    """The skirts of some maskers, at the lines that any of them reaches: first <= line < last."""

    first: int
    last: int
    base: Tensor  # [maskers, lines], nepers of power over the masker's level
    gain: Tensor  # [maskers, lines], nepers for each neper of its level


@final
@dataclass(frozen=True, eq=False)
class Ear:
    """What depends on the model only."""

    bark: Tensor  # [bins]
    quiet_db: Tensor  # [bins]
    tone_bins: float  # what the sum of a tone's bins is over its power
    reach: tuple[tuple[int, int, int], ...]  # (first, last, r): a tone at first <= bin < last stands out from 2 to r bins away
    bands: Tensor  # [bins, bands], 1 where a bin lies in a critical band
    middles: Tensor  # [bands], the bin of each band's noise masker
    level_from: float  # dB, from which the skirts count a level
    tones: Skirts  # of each bin
    noise: tuple[Skirts, ...]  # of each band's middle
    quiet_power: Tensor  # [lines]
    left: Tensor  # [bins], the line at each bin or before it
    between: Tensor  # [bins], how far it is from there to the next line, in Bark


@lru_cache(maxsize=16)
def ear(hearing: Hearing, dtype: torch.dtype, device: torch.device) -> Ear:
    """The tables of a model of hearing."""

    def put(x: Tensor) -> Tensor:
        return x.to(device, dtype if x.is_floating_point() else None)

    hz = torch.arange(hearing.bins, dtype=torch.float64) * hearing.bin_hz
    z, quiet = bark(hz), quiet_db(hz) + hearing.quiet_offset_db

    bands = F.one_hot(z.long()).double()
    bands = bands[:, bands.any(0) & (not hearing.simplified)]
    log_hz = hz.clamp_min(hearing.bin_hz / 2).log()
    middles = ((log_hz @ bands / bands.sum(0)).exp() / hearing.bin_hz).round().long()  # at the geometric mean of a band's bins

    lines = [0]  # every bin at low frequencies, ever fewer higher up
    while lines[-1] < hearing.bins - 1:
        lines.append(max(lines[-1] + 1, int((z <= z[lines[-1]] + 1 / hearing.lines_per_bark).sum()) - 1))
    line = torch.tensor(lines)
    left = (torch.searchsorted(line, torch.arange(hearing.bins), right=True) - 1).clamp_max(len(lines) - 2)

    def table(maskers: Tensor, below: Tensor) -> Skirts:
        base, gain = (simplified_skirts if hearing.simplified else skirts)(z[maskers], z[line])
        reached = (base > NEVER_DB).any(0).nonzero()
        first, last = int(reached[0]), int(reached[-1]) + 1
        base, gain = (base + below[:, None])[:, first:last] * LN_PER_DB, gain[:, first:last]
        return Skirts(first, last, put(base), put(gain))

    starts = [min(math.ceil(start / hearing.bin_hz), hearing.bins - 1) for start, _ in STANDS_OUT] + [hearing.bins - 1]
    reach = [(max(1, starts[i]), starts[i + 1], max(2, round(width / hearing.bin_hz))) for i, (_, width) in enumerate(STANDS_OUT)]
    return Ear(
        bark=put(z),
        quiet_db=put(quiet),
        tone_bins=1.0 if hearing.simplified else TONE_BINS,
        reach=() if hearing.simplified else tuple(part for part in reach if part[0] < part[1]),
        bands=put(bands),
        middles=put(middles),
        level_from=40.0 if hearing.simplified else 0.0,
        tones=table(torch.arange(hearing.bins), -6.025 - 0.275 * z),  # so far below itself a tone masks, the "index"
        noise=tuple(table(own, -2.025 - 0.175 * z[own]) for own in middles[:, None]),
        quiet_power=put(10 ** (quiet[line] / 10)),
        left=put(left),
        between=put((z - z[line[left]]) / (z[line[left + 1]] - z[line[left]])),
    )

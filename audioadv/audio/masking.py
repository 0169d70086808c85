"""What an ear cannot hear beside a sound: MPEG-1's psychoacoustic model 1.

    spectrum -> tonal maskers (peaks)  -> the stronger of any two within half a Bark -\\
             -> noise maskers (the rest of each critical band) -----------------------> skirts on both sides, added up
    threshold in quiet ---------------------------------------------------------------/  = the global threshold

Source: ISO/IEC 11172-3:1993, Annex D.1 (steps 1 to 8), its tables as formulas in Bark, so that any rate will do; the formulas
of Zwicker and Terhardt 1980 (Bark) and Terhardt 1979 (threshold in quiet).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from audioadv.audio.ragged import inside
from audioadv.audio.spectrum import OVERLAP, TONE_BINS, spectrum
from audioadv.errors import OptionError, UnusableBatch

LOWEST_RATE, HIGHEST_RATE = 8000, 48000  # Hz
SILENCE_DB = -100.0  # the least level that is told from silence: a lone step of the 16-bit grid reads -42 dB at 96 dB full scale
CEILING_DB = 68.0  # of the threshold in quiet at both ends of the range, as in the tables D.1
TONAL_DB = 7.0  # a tone stands out so far from what is around it
APART_BARK = 0.5  # the weaker of two tones that are closer is dropped
LINES_PER_BARK = 8  # at least; fewer bins than that are all taken


@final
@dataclass(frozen=True)
class Hearing:
    """The model of hearing, and its choices.

    full_scale_db       the playback level: what a full-scale sine comes to at the ear, dB SPL
    window_seconds      the length of a frame. 64 ms: the main lobe of its Hann window, 62.5 Hz wide, lies within the
                        narrowest critical band (100 Hz) and keeps a voice's harmonics apart; 128 ms would smear what precedes
                        an onset over more of it than backward masking (about 20 ms) forgives, 32 ms would take voices for noise
    quiet_offset_db     added to the threshold in quiet: the standard's -12 dB, for high quality; 0 is the bare threshold
    temporal            also forward and backward masking
    """

    sample_rate: int = 16000
    full_scale_db: float = 96.0
    window_seconds: float = 0.064
    quiet_offset_db: float = -12.0
    temporal: bool = False

    def __post_init__(self) -> None:
        if not LOWEST_RATE <= self.sample_rate <= HIGHEST_RATE:
            raise OptionError(
                f"a masking threshold at {self.sample_rate} Hz: the model of hearing is for {LOWEST_RATE} to {HIGHEST_RATE} Hz. "
                "Resample the clips first: clip.at(16000)"
            )
        for name in ("full_scale_db", "window_seconds", "quiet_offset_db"):
            if not math.isfinite(getattr(self, name)):
                raise OptionError(f"Hearing({name}={getattr(self, name)}): not a finite number. Leave it out for the default")
        if not 0.004 <= self.window_seconds <= 0.5:
            raise OptionError(f"Hearing(window_seconds={self.window_seconds}): pass 0.004 to 0.5 seconds, for example 0.064")

    @property
    def window(self) -> int:
        """Samples in a frame, a multiple of 64."""
        return 64 * max(1, round(self.sample_rate * self.window_seconds / 64))

    @property
    def hop(self) -> int:
        """Samples from frame to frame."""
        return self.window // OVERLAP

    @property
    def bins(self) -> int:
        """Bins in a frame."""
        return self.window // 2 + 1


def masking_threshold(samples: Tensor, lengths: Tensor, hearing: Hearing) -> Tensor:
    """The level below which nothing is heard beside the clip, bin by bin, dB SPL.

    What lies beyond a clip's length is not looked at; frames there have the threshold in quiet.
    Shapes: samples [batch, time], lengths [batch] -> [batch, frames, bins], frames as `spectrum` has them.
    """
    power = masked_power(samples, lengths, hearing)
    ear = hearing_tables(hearing, samples.dtype, samples.device)
    batch, frames, _ = power.shape
    power = power.flatten(0, 1)
    tonal, used = tones(power, ear)
    frame, masker, level = stronger(*tonal, ear)
    hiss = hissing(power, used, ear)
    parts = [spread(f, m, lv, len(power), ear) for f, m, lv in ((frame, masker, level), hiss)]
    lines = 10 * (parts[0] + parts[1] + ear.quiet_power).log10()
    return torch.lerp(lines[:, ear.left], lines[:, ear.left + 1], ear.between).reshape(batch, frames, -1)


def level_db(samples: Tensor, lengths: Tensor, hearing: Hearing) -> Tensor:
    """The level of each bin, dB SPL, on the scale of `masking_threshold`; at least SILENCE_DB.

    Shapes: samples [batch, time], lengths [batch] -> [batch, frames, bins].

    >>> tone = (2 * torch.pi * 1000 / 16000 * torch.arange(16000)).sin()[None]
    >>> level_db(tone, torch.tensor([16000]), Hearing()).amax().round(decimals=2)
    tensor(96.)
    """
    return 10 * masked_power(samples, lengths, hearing).clamp_min(10 ** (SILENCE_DB / 10)).log10()


def masked_power(samples: Tensor, lengths: Tensor, hearing: Hearing) -> Tensor:
    """Power of each bin of what is inside the clips, 10^(dB SPL / 10). Shapes: [batch, time], [batch] -> [batch, frames, bins]."""
    if samples.ndim != 2 or lengths.shape != samples.shape[:1] or (len(lengths) and int(lengths.max()) > samples.shape[1]):
        raise UnusableBatch(
            f"samples of shape {list(samples.shape)} with lengths {lengths.tolist()}: pass [batch, time] and one length a row, none longer"
        )
    bins = spectrum(samples * inside(lengths, samples.shape[1]), hearing.window)
    return (bins.real.square() + bins.imag.square()) * 10 ** (hearing.full_scale_db / 10)


def bark(hz: Tensor) -> Tensor:
    """Critical-band rate. Source: Zwicker and Terhardt 1980, equation 1.

    >>> bark(torch.tensor([100.0, 1000.0, 4000.0])).round(decimals=2)
    tensor([ 0.9900,  8.5100, 17.2600])
    """
    return 13 * (0.00076 * hz).atan() + 3.5 * (hz / 7500).square().atan()


def quiet_db(hz: Tensor) -> Tensor:
    """Threshold in quiet, dB SPL, at most 68. Source: Terhardt 1979, "Calculating virtual pitch", equation 1.

    >>> quiet_db(torch.tensor([100.0, 1000.0, 3300.0])).round(decimals=2)
    tensor([22.9500,  3.3700, -4.9800])
    """
    khz = hz.clamp(20, 20000) / 1000
    return (3.64 * khz**-0.8 - 6.5 * (-0.6 * (khz - 3.3).square()).exp() + 0.001 * khz**4).clamp_max(CEILING_DB)


@final
@dataclass(frozen=True, eq=False)
class Tables:
    """What depends on the model only. bins: all; lines: the bins at which thresholds are added up."""

    reach: list[tuple[int, int, int]]  # first bin, last bin, and the bins on each side that a tone there stands out from
    bands: Tensor  # [bins, bands] 1 where a bin belongs to a critical band
    centres: Tensor  # [bands] bin of each band's noise masker
    bark: Tensor  # [bins]
    quiet: Tensor  # [bins] threshold in quiet, dB
    quiet_power: Tensor  # [lines]
    base: Tensor  # [bins + bands, lines] of each masker, dB above its level
    gain: Tensor  # [bins + bands, lines] dB for each dB of its level
    left: Tensor  # [bins] line at or before each bin
    between: Tensor  # [bins] how far the bin is from there to the next line


@lru_cache(maxsize=8)
def hearing_tables(hearing: Hearing, dtype: torch.dtype, device: torch.device) -> Tables:
    """The tables of a model of hearing."""
    hz = torch.arange(hearing.bins, dtype=torch.float64) * (hearing.sample_rate / hearing.window)
    z, quiet = bark(hz), quiet_db(hz) + hearing.quiet_offset_db
    spacing = hearing.sample_rate / hearing.window

    band = z.floor().long()
    bands = torch.nn.functional.one_hot(band).to(torch.float64)
    bands = bands[:, bands.sum(0) > 0]
    centre_hz = ((hz.clamp_min(spacing / 2).log()[:, None] * bands).sum(0) / bands.sum(0)).exp()  # geometric mean
    centres = (centre_hz / spacing).round().long().clamp(0, hearing.bins - 1)

    lines = [0]  # at low frequencies every bin, higher up every other one and so on, as in tables D.1
    while lines[-1] < hearing.bins - 1:
        near = int((z <= z[lines[-1]] + 1 / LINES_PER_BARK).sum()) - 1
        lines.append(max(lines[-1] + 1, near))
    line = torch.tensor(lines)
    left = (torch.searchsorted(line, torch.arange(hearing.bins), right=True) - 1).clamp_max(len(lines) - 2)
    between = (z - z[line[left]]) / (z[line[left + 1]] - z[line[left]])

    tone_base, tone_gain = skirts(z, z[line])
    tone_base = tone_base - 6.025 - 0.275 * z[:, None]
    noise_base, noise_gain = skirts(z[centres], z[line])
    noise_base = noise_base - 2.025 - 0.175 * z[centres, None]

    edges = [(0.0, 86.0), (2700.0, 129.0), (5500.0, 258.0), (11000.0, 517.0)]  # layer II's 2, 3, 6 and 12 bins of 43 Hz
    starts = [min(hearing.bins, math.ceil(start / spacing)) for start, _ in edges] + [hearing.bins]
    reach = [
        (first, last, max(2, round(width / spacing)))
        for first, last, (_, width) in zip(starts, starts[1:], edges, strict=False)
        if first < last
    ]

    def cast(x: Tensor) -> Tensor:
        return x.to(device, dtype if x.is_floating_point() else None)

    return Tables(
        reach,
        cast(bands),
        cast(centres),
        cast(z),
        cast(quiet),
        cast(10 ** (quiet[line] / 10)),
        cast(torch.cat([tone_base, noise_base])),
        cast(torch.cat([tone_gain, noise_gain])),
        cast(left),
        cast(between),
    )


def skirts(masker: Tensor, maskee: Tensor) -> tuple[Tensor, Tensor]:
    """How far masking falls off from masker to maskee: dB, and dB for each dB of the masker's level.

        -3      -1  0  1            8    Bark from the masker
                 __/ \\_                  0.4 L + 6 dB a Bark up to the masker, 17 a Bark after it;
            ____/      `--.__            17 a Bark and 17 - 0.15 L a Bark farther away
        ___/                 `--.__

    Shapes: [maskers], [maskees] -> [maskers, maskees] twice. Units: Bark. Source: ISO/IEC 11172-3, D.1 step 6.
    """
    away = maskee - masker[:, None]
    base = torch.where(away < -1, 17 * (away + 1) - 6, torch.where(away < 0, 6 * away, torch.where(away < 1, -17 * away, -17 * away)))
    gain = torch.where(away < -1, -0.4, torch.where(away < 0, 0.4 * away, torch.where(away < 1, 0.0, 0.15 * (away - 1))))
    base = base.masked_fill((away < -3) | (away >= 8), -300.0)
    return base, gain.to(base)


def around_max(power: Tensor, first: int, last: int, reach: int) -> Tensor:
    """The largest power 2 to `reach` bins away on either side, for the bins from `first` to before `last`."""
    best = torch.zeros_like(power[:, first:last])
    padded = torch.nn.functional.pad(power, (reach, reach))
    for away in range(2, reach + 1):
        best = torch.maximum(best, padded[:, first + reach + away : last + reach + away])
        best = torch.maximum(best, padded[:, first + reach - away : last + reach - away])
    return best


def tones(power: Tensor, ear: Tables) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Tonal maskers as (frame, bin, level), and the bins that noise may no longer count. Shapes: power [frames, bins]."""
    with torch.no_grad():
        tonal = torch.zeros_like(power, dtype=torch.bool)
        tonal[:, 1:-1] = (power[:, 1:-1] > power[:, :-2]) & (power[:, 1:-1] >= power[:, 2:])
        for first, last, reach in ear.reach:
            tonal[:, first:last] &= power[:, first:last] >= 10 ** (TONAL_DB / 10) * around_max(power, first, last, reach)
        used = tonal.clone()
        for first, last, reach in ear.reach:
            for away in range(1, reach + 1):
                if last > away:
                    low = max(first - away, 0)
                    used[:, low : last - away] |= tonal[:, low + away : last]
                high = min(last + away, power.shape[1])
                used[:, first + away : high] |= tonal[:, first : high - away]
        frame, masker = tonal.nonzero(as_tuple=True)
    three = power[frame, masker - 1] + power[frame, masker] + power[frame, masker + 1]
    return (frame, masker, 10 * (three / TONE_BINS).log10()), used


def stronger(frame: Tensor, masker: Tensor, level: Tensor, ear: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Without the maskers below the threshold in quiet, then without the weaker of any two within half a Bark."""
    heard = level >= ear.quiet[masker]
    frame, masker, level = frame[heard], masker[heard], level[heard]
    place = ear.bark[masker]
    keep = torch.ones_like(heard[heard])
    for rank in range(1, len(frame)):
        near = (frame[rank:] == frame[:-rank]) & (place[rank:] - place[:-rank] < APART_BARK)
        if not bool(near.any()):
            break
        louder = level[rank:] > level[:-rank]
        keep[rank:] &= ~near | louder
        keep[:-rank] &= ~near | ~louder
    return frame[keep], masker[keep], level[keep]


def hissing(power: Tensor, used: Tensor, ear: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Noise maskers: what tones left over in each critical band, as one masker at its middle."""
    rest = (power * ~used) @ ear.bands / TONE_BINS
    with torch.no_grad():
        frame, band = (rest >= 10 ** (ear.quiet[ear.centres] / 10)).nonzero(as_tuple=True)
    return frame, band + len(ear.bark), 10 * rest[frame, band].log10()


def spread(frame: Tensor, masker: Tensor, level: Tensor, frames: int, ear: Tables) -> Tensor:
    """The power that each frame's maskers hide at each line. Shapes: [maskers] three times -> [frames, lines]."""
    skirt = torch.addcmul(ear.base[masker], ear.gain[masker], level[:, None]) + level[:, None]
    hidden = (skirt * (math.log(10) / 10)).exp()
    return torch.zeros(frames, hidden.shape[1], dtype=hidden.dtype, device=hidden.device).index_add(0, frame, hidden)

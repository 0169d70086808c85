"""How far apart two sounds are: every distance that has a name in the field, each a function of the clean and the adversarial sound.

                            unit    nothing changed    more is      source
snr_db                      dB      inf                nearer       levels.py
segmental_snr_db            dB      35                 nearer       Hansen and Pellom 1998
relative_db                 dB      -inf               farther      levels.py; Carlini and Wagner 2018
linf, l2                    1       0                  farther      the largest change of a sample; the change's Euclidean length
loudness_lufs               LUFS    -inf               farther      loudness.py, of the difference; ITU-R BS.1770
log_spectral_distance_db    dB      0                  farther      Gray and Markel 1976
masking_excess_db           dB      -inf               audible      hearing.py; ISO/IEC 11172-3, as in Qin et al. 2019
pesq_mos                    MOS     4.64 (wide band)   nearer       ITU-T P.862.2
stoi                        0..1    1                  nearer       Taal et al. 2011

All of them are of sounds of one length and rate, full scale +-1, and know nothing of recognisers: so they live here. Functions
up to `log_spectral_distance_db` take a batch of sounds of one length; `masking_excess_db`, a ragged one; the last two, judges of
speech, one clip. `distances` gives all of them for one clip.
"""

import math
import warnings
from dataclasses import dataclass
from typing import final

import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.hearing import Hearing
from audioadv.audio.levels import relative_db, snr_db
from audioadv.audio.loudness import loudness_lufs
from audioadv.audio.masking import SILENCE_DB, level_db, masking_threshold
from audioadv.audio.spectrum import frame_seconds, spectrum
from audioadv.errors import BrokenInstallation, OptionError, with_extra

SEGMENT_SECONDS = 0.03
SEGMENT_DB = (-10.0, 35.0)
STEP = 2.0**-15  # of the 16-bit grid


def distances(clean: Tensor, adversarial: Tensor, sample_rate: int) -> tuple[dict[str, float], Hearing | None, list[str]]:
    """Every distance by name; the model of hearing, if it knows the rate; and why some distances are missing (and NaN).

    Shapes: [time] twice.
    """
    change, missing = adversarial - clean, []
    figures = {
        "snr_db": float(snr_db(clean, adversarial)),
        "segmental_snr_db": float(segmental_snr_db(clean, adversarial, sample_rate)),
        "relative_db": float(relative_db(clean, adversarial)),
        "linf": float(change.abs().amax()),
        "l2": float(change.norm(dtype=torch.float64).to(change)),
        "loudness_lufs": float(loudness_lufs(change, sample_rate)),
        "log_spectral_db": float(log_spectral_distance_db(clean, adversarial, sample_rate)),
    }
    try:
        hearing = Hearing(sample_rate)
        worst = worst_excess(clean, adversarial, hearing)
        audible = (worst.worst_db, worst.share, worst.seconds, worst.hz)
    except OptionError as error:
        hearing, audible = None, (math.nan,) * 4
        missing.append(str(error))
    figures |= dict(zip(("excess_db", "bins_over", "excess_seconds", "excess_hz"), audible, strict=True))
    try:
        figures["pesq"] = pesq_mos(clean, adversarial, sample_rate)
    except BrokenInstallation as error:
        figures["pesq"] = math.nan
        missing.append(str(error))
    else:
        if math.isnan(figures["pesq"]):
            missing.append("PESQ hears no speech, or less than 0.25 s, in one of the two: it gives no grade")
    figures["stoi"] = stoi(clean, adversarial, sample_rate)
    if math.isnan(figures["stoi"]):
        missing.append("STOI needs 0.4 s that is not silence: it gives no share")
    return figures, hearing, missing


def segmental_snr_db(clean: Tensor, adversarial: Tensor, sample_rate: int) -> Tensor:
    """Mean over segments of 30 ms, a quarter of that apart, of the SNR of each, taken as -10 to 35 dB. Shapes: [*, time] twice -> [*].

    A segment without change counts as 35 dB; one that was silent and is not, as -10 dB. The last segments are filled with zeros.
    Source: Hansen and Pellom 1998, "An effective quality evaluation protocol for speech enhancement algorithms".

    >>> clean = torch.ones(16000)
    >>> segmental_snr_db(clean, 1.1 * clean, 16000).round(decimals=2)
    tensor(20.)
    """
    width = max(4, round(SEGMENT_SECONDS * sample_rate))
    hop = width // 4

    def energies(samples: Tensor) -> Tensor:
        missing = max(0, width - samples.shape[-1])
        fill = missing or -(samples.shape[-1] - width) % hop
        return F.pad(samples, (0, fill)).unfold(-1, width, hop).square().sum(-1)

    signal, change = energies(clean), energies(adversarial - clean)
    ratio = 10 * (signal / change).log10()
    return torch.where(change == 0, SEGMENT_DB[1], ratio.clamp(*SEGMENT_DB)).mean(-1)


def log_spectral_distance_db(clean: Tensor, adversarial: Tensor, sample_rate: int) -> Tensor:
    """Root mean square over bins of the difference in level, mean over frames of 32 ms. Shapes: [*, time] twice -> [*].

    Levels below that of a sine of one 16-bit step count as that.
    Source: Gray and Markel 1976, "Distance measures for speech processing" (the L2 norm).

    >>> noise = torch.randn(16000, generator=torch.Generator().manual_seed(0))
    >>> log_spectral_distance_db(0.1 * noise, 0.2 * noise, 16000).round(decimals=2)  # twice is 6.02 dB in every bin
    tensor(6.0200)
    """
    window = 4 * max(1, round(0.008 * sample_rate))
    before, after = (20 * spectrum(x, window).abs().clamp_min(STEP).log10() for x in (clean, adversarial))
    return (after - before).square().mean(-1).sqrt().mean(-1)


def masking_excess_db(clean: Tensor, adversarial: Tensor, lengths: Tensor, hearing: Hearing) -> Tensor:
    """How far the change stands over the masking threshold of the clean clip, bin by bin; -inf where nothing changed.

    At most 0 everywhere: inaudible under this model of hearing. Padding has no excess.
    Shapes: clean and adversarial [batch, time], lengths [batch] -> [batch, frames, bins].
    Source: the model, ISO/IEC 11172-3, Annex D, model 1; the measure, the penalty of Qin et al. 2019 in decibels.
    """
    change = level_db(adversarial - clean, lengths, hearing)
    excess = change - masking_threshold(clean, lengths, hearing)
    return torch.where(change > SILENCE_DB, excess, -math.inf)


@final
@dataclass(frozen=True)
class Excess:
    """Where a change stands out most over the masking threshold, and in how many bins at all."""

    worst_db: float
    seconds: float
    hz: float
    share: float


def worst_excess(clean: Tensor, adversarial: Tensor, hearing: Hearing) -> Excess:
    """The worst of `masking_excess_db` over a clip, when and at which frequency, and the share of bins over 0 dB. Shapes: [time] twice."""
    excess = masking_excess_db(clean[None], adversarial[None], torch.tensor([len(clean)], device=clean.device), hearing)[0]
    frame, k = divmod(int(excess.argmax()), hearing.bins)
    when = float(frame_seconds(len(excess), hearing.window, hearing.sample_rate)[frame].clamp(0, len(clean) / hearing.sample_rate))
    return Excess(float(excess[frame, k]), when, k * hearing.bin_hz, float((excess > 0).double().mean()))


def pesq_mos(clean: Tensor, adversarial: Tensor, sample_rate: int) -> float:
    """Quality as listeners would grade it, 1 to 4.64; NaN where PESQ hears no speech or too little. Shapes: [time] twice.

    Wide band at 16 kHz, to which other rates are resampled; narrow band at 8 kHz. Source: ITU-T P.862.2 and P.862; the pesq package.
    Raises BrokenInstallation without that package.
    """
    try:
        import pesq
    except ImportError as error:
        raise BrokenInstallation(
            f"PESQ needs the package pesq ({error}), which a C compiler builds. Install it: {with_extra('pesq')}"
        ) from error
    if not bool(clean.any() and adversarial.any()):  # the package takes logarithms of both
        return math.nan
    rate = 8000 if sample_rate == 8000 else 16000
    pair = [soxr.resample(x.cpu().float().numpy(), sample_rate, rate) for x in (clean, adversarial)]
    if not len(pair[0]):  # soxr gives no sample at all for one or two
        return math.nan
    try:
        return float(pesq.pesq(rate, *pair, "nb" if rate == 8000 else "wb"))
    except pesq.PesqError:
        return math.nan


def stoi(clean: Tensor, adversarial: Tensor, sample_rate: int) -> float:
    """Short-time objective intelligibility, 0 to 1; NaN for less than 0.4 s of sound. Shapes: [time] twice.

    Source: Taal et al. 2011, "An algorithm for intelligibility prediction of time-frequency weighted noisy speech"; pystoi.
    """
    import pystoi

    pair = [x.cpu().double().numpy() for x in (clean, adversarial)]
    if not pair[0].any() or len(pair[0]) < 0.1 * sample_rate:
        return math.nan
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            return float(pystoi.stoi(*pair, sample_rate))
    except RuntimeWarning:  # too few frames are left without the silent ones
        return math.nan

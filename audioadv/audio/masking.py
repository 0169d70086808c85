"""What an ear cannot hear beside a sound: the masking threshold, batched over clips and frames.

    power of each bin --> tones: peaks that stand out --> the stronger of any two within half a Bark --.
                      `-> noise: what tones leave over, a masker for each critical band --------------- > skirts, added up
                                                                                  threshold in quiet --'

Source: ISO/IEC 11172-3:1993, Annex D, psychoacoustic model 1; `audioadv.audio.hearing` holds its choices and formulas.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.hearing import LN_PER_DB, Ear, Hearing, ear
from audioadv.audio.ragged import inside
from audioadv.audio.spectrum import frames_inside, spectrum
from audioadv.errors import UnusableBatch

SILENCE_DB = -100.0  # the least level that is told apart; a lone step of the 16-bit grid comes to -42 dB at the default playback level
STANDS_OUT_DB = 7.0  # a tone, over the bins around it
APART_BARK = 0.5  # the weaker of two tones that are closer is dropped
FOLLOWS, PRECEDES = (0.005, 0.2), (0.001, 0.02)  # seconds until masking in time begins to fade, and until it is over

Tones = tuple[Tensor, Tensor, Tensor]
"""Of each tonal masker its frame, its bin and its level in dB SPL: [tones] three times, frame by frame, upwards."""


def masking_threshold(samples: Tensor, lengths: Tensor, hearing: Hearing) -> Tensor:
    """The level below which a bin's change cannot be heard beside the clip, dB SPL.

    What lies beyond a clip's length is not looked at; the frames there have the threshold in quiet. Differentiable; which bins
    are maskers counts as given.
    Shapes: samples [batch, time], lengths [batch] -> [batch, frames, bins], framed as in `audioadv.audio.spectrum`.
    Raises UnusableBatch for lengths that do not fit.
    """
    whole = spl_power(samples, lengths, hearing)
    power, model = whole.flatten(0, 1), ear(hearing, samples.dtype, samples.device)
    tonal, taken = tones(power, model)
    hidden = model.quiet_power + hidden_by_tones(decimated(tonal, model), len(power), model)
    add_noise(hidden, power.masked_fill(taken, 0), model)
    threshold = (10 * hidden.log10()).reshape(*whole.shape[:2], -1)
    if hearing.temporal:
        threshold = lasting(threshold, frames_inside(lengths, hearing.window, whole.shape[1]), hearing, model)
    return torch.lerp(threshold[..., model.left], threshold[..., model.left + 1], model.between)


def level_db(samples: Tensor, lengths: Tensor, hearing: Hearing) -> Tensor:
    """The level of each bin, dB SPL, on the scale of `masking_threshold`; at least SILENCE_DB.

    Shapes: samples [batch, time], lengths [batch] -> [batch, frames, bins]. Raises UnusableBatch for lengths that do not fit.

    >>> tone = (2 * torch.pi * 1000 / 16000 * torch.arange(16000)).sin()[None]
    >>> level_db(tone, torch.tensor([16000]), Hearing()).amax().round(decimals=2)
    tensor(96.)
    """
    return 10 * spl_power(samples, lengths, hearing).clamp_min(10 ** (SILENCE_DB / 10)).log10()


def spl_power(samples: Tensor, lengths: Tensor, hearing: Hearing) -> Tensor:
    """The power of each bin, 10^(dB SPL / 10). Shapes: [batch, time], [batch] -> [batch, frames, bins]."""
    if samples.ndim != 2 or lengths.shape != samples.shape[:1] or (len(lengths) and int(lengths.max()) > samples.shape[1]):
        raise UnusableBatch(
            f"samples of shape {list(samples.shape)} with lengths {lengths.tolist()}: pass [batch, time] and one length a row, none longer"
        )
    bins = spectrum(samples * (inside(lengths, samples.shape[1]).to(samples) * 10 ** (hearing.full_scale_db / 20)), hearing.window)
    return torch.addcmul(bins.real.square(), bins.imag, bins.imag)


def tones(power: Tensor, model: Ear) -> tuple[Tones, Tensor]:
    """The tonal maskers, and the bins that they account for. Step 4 of the standard.

    A tone is a peak 7 dB over all bins from two away to its reach; its level is the power of its three middle bins.
    Shapes: power [frames, bins] -> tones, bool [frames, bins].
    """
    with torch.no_grad():
        tonal = F.pad((power[:, 1:-1] > power[:, :-2]) & (power[:, 1:-1] >= power[:, 2:]), (1, 1))
        taken = torch.zeros_like(tonal)
        for first, last, reach in model.reach:
            low, high = max(0, first - reach), min(power.shape[1], last + reach)
            nearby = F.pad(power[:, low:high], (low - first + reach, last + reach - high))
            around = F.max_pool1d(nearby, reach - 1, 1)
            loudest = torch.maximum(around[:, : last - first], around[:, reach + 2 :])
            tonal[:, first:last] &= power[:, first:last] >= 10 ** (STANDS_OUT_DB / 10) * loudest
            examined = F.max_pool1d(F.pad(tonal[:, first:last].to(power), (2 * reach, 2 * reach)), 2 * reach + 1, 1) > 0
            taken[:, low:high] |= examined[:, low - first + reach : high - first + reach]
        frame, peak = tonal.nonzero(as_tuple=True)
    three = power[frame, peak - 1] + power[frame, peak] + power[frame, peak + 1]
    return (frame, peak, 10 * (three / model.tone_bins).log10()), taken


def decimated(maskers: Tones, model: Ear) -> Tones:
    """The tones over the threshold in quiet, but for those less than half a Bark from a stronger one. Step 5."""
    heard = (maskers[2] >= model.quiet_db[maskers[1]]).nonzero()[:, 0]
    frame, peak, level = (x.index_select(0, heard) for x in maskers)
    place = model.bark[peak].double() + 100 * frame  # tones of other frames are far away
    beaten = torch.zeros_like(frame, dtype=torch.bool)
    for rank in range(1, len(frame)):  # against the next tone, the one after it, and so on, as long as any are near
        near = place[rank:] - place[:-rank] < APART_BARK
        if not bool(near.any()):
            break
        beaten[:-rank] |= near & (level[rank:] > level[:-rank])
        beaten[rank:] |= near & (level[rank:] < level[:-rank])
    stays = (~beaten).nonzero()[:, 0]
    return frame[stays], peak[stays], level[stays]


def hidden_by_tones(maskers: Tones, frames: int, model: Ear) -> Tensor:
    """The power that tones hide at each line. Steps 6 and 7. Shapes: -> [frames, lines]."""
    frame, peak, level = maskers
    hidden = skirt(model.tones.base[peak], model.tones.gain[peak], level, model)
    return hidden.new_zeros(frames, hidden.shape[1]).index_add(0, frame, hidden)


def add_noise(hidden: Tensor, rest: Tensor, model: Ear) -> None:
    """Add the power that the rest of each critical band hides, as one masker at its middle. Steps 4 to 7.

    Shapes: hidden [frames, lines], in place; rest [frames, bins].
    """
    level = 10 * (rest @ model.bands / model.tone_bins).clamp_min(10 ** (SILENCE_DB / 10)).log10()
    level = torch.where(level >= model.quiet_db[model.middles], level, 2 * SILENCE_DB)
    for reached, own in zip(model.noise, level.unbind(1), strict=True):
        hidden[:, reached.first : reached.last] += skirt(reached.base, reached.gain, own, model)


def skirt(base: Tensor, gain: Tensor, level: Tensor, model: Ear) -> Tensor:
    """The power that maskers of these levels hide at each line. Shapes: [maskers or 1, lines] twice, [maskers] -> [maskers, lines]."""
    nepers = level[:, None] * LN_PER_DB
    drive = (nepers - model.level_from * LN_PER_DB).clamp_min(0)
    return torch.addcmul(base, gain, drive).add_(nepers).exp_()


def lasting(threshold: Tensor, there: Tensor, hearing: Hearing, model: Ear) -> Tensor:
    """The threshold with masking in time: what is over the threshold in quiet fades linearly in the logarithm of time.

    From 5 to 200 ms after a frame and from 1 to 20 ms before it, from centre to centre; the louder of a frame's own threshold and
    its neighbours' counts. Shapes: threshold [batch, frames, lines], there bool [batch, frames].
    Source: Fastl and Zwicker 2007, "Psychoacoustics: facts and models".
    """
    quiet = 10 * model.quiet_power.log10()
    over = lasts = (threshold - quiet) * there[..., None]
    seconds = hearing.hop / hearing.sample_rate
    for begins, ends, sign in ((*FOLLOWS, 1), (*PRECEDES, -1)):
        for away in range(1, min(math.ceil(ends / seconds), over.shape[1])):
            share = min(1.0, math.log(ends / (away * seconds)) / math.log(ends / begins))
            moved = F.pad(over, (0, 0, away, 0))[:, :-away] if sign > 0 else F.pad(over, (0, 0, 0, away))[:, away:]
            lasts = torch.maximum(lasts, share * moved)
    return quiet + lasts * there[..., None]

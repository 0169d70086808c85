"""The part of a change that makes a sound's bands louder or fainter from moment to moment, and leaves its phases as they are.

Rooms agree on nothing else. In short-time spectra, a room makes Y[t] = sum_s H[s] X[t - s] of each bin of a sound X, with a phase
in each H[s] that the next room does not share. A loss of Y has, seen from X, the slope

    sum_s conj(H[s]) G[t + s],    G = the loss's slope at Y

A net that hears energies has G = w Y, w real, and then the mean over rooms of that sum is X[t] times the mean of |H|^2 w: all terms
with other frames of X have a random phase, and most of a single room's slope is of such terms. So what is no multiple of X is noise.
Neighbouring bins and frames, which a net hears as one, should have about the same multiple: more noise goes where these are smoothed.

Measured with 128 draws of `room_then_noise:20..30` on tiny-mel, after 150 steps at snr:10: two draws' slopes have a cosine of 0.006
(through the noise alone: 0.6). Multiples of X alone hold 0.98 of the mean slope's length, and two draws' a cosine of 0.012; smoothed
over `BANDS` and `AROUND` frames, as below, 0.9 and 0.03. A draw then tells as much of the mean slope as 3.5 draws do without.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

from audioadv.audio.spectrum import OVERLAP, spectrum, waveform

WINDOW_SECONDS = 0.032
BANDS = 40  # on the mel scale
AROUND = 2  # frames on either side, a quarter of the window each


def along_gains(change: Tensor, sound: Tensor, sample_rate: int) -> Tensor:
    """The nearest change, in each band and moment, that multiplies the sound by a real number; where it is silent, all of it.

    Linear in `change`; how loud the sound is does not matter. Shapes: [batch, time] each -> [batch, time]. Units: Hz.

    >>> tone = torch.sin(torch.arange(4000) * 0.3)[None]
    >>> louder, later = along_gains(tone, tone, 16000), along_gains(torch.cos(torch.arange(4000) * 0.3)[None], tone, 16000)
    >>> (louder - tone).norm() < 0.01 * tone.norm(), later[:, 500:-500].norm() < 0.01 * tone.norm()
    (tensor(True), tensor(True))
    """
    window = OVERLAP * round(WINDOW_SECONDS * sample_rate / OVERLAP)
    wanted, there = (torch.view_as_real(spectrum(x, window)) for x in (change, sound))
    bands = mel_bands(window, sample_rate, sound.dtype, sound.device)
    energy = around(there.square().sum(-1) @ bands)
    gain = around((wanted * there).sum(-1) @ bands) / energy.clamp_min(torch.finfo(sound.dtype).tiny)
    weight = bands.sum(1)  # none at 0 Hz and at half the rate
    gain = (gain @ bands.T) / weight.clamp_min(1e-3)
    silent = (energy @ bands.T == 0) & (weight > 0)
    return waveform(torch.view_as_complex(torch.where(silent[..., None], wanted, gain[..., None] * there)), window, change.shape[-1])


def around(bands: Tensor) -> Tensor:
    """The sum over neighbouring frames. Shapes: [batch, frames, bands] -> the same."""
    rows = bands.transpose(1, 2)
    return (F.avg_pool1d(rows, 2 * AROUND + 1, stride=1, padding=AROUND) * (2 * AROUND + 1)).transpose(1, 2)


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # whoever asks first, the next may want slopes
def mel_bands(window: int, sample_rate: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Triangles on the mel scale, each over its bins. Shapes: -> [window / 2 + 1, BANDS]."""
    return melscale_fbanks(window // 2 + 1, 0.0, sample_rate / 2, BANDS, sample_rate).to(device, dtype)

"""How loud a sound is to people: ITU-R BS.1770's K-weighted level."""

import math

import torch
from torch import Tensor

RATE = 48000  # Hz, of the standard's filters
SHELF = (1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)  # table 1: b, a
HIGH_PASS = (1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)  # table 2
TAIL_SECONDS = 0.1  # that the filters still ring after a sound's end
OFFSET_DB = -0.691  # so that a full-scale sine of 997 Hz comes to -3.01


def loudness_lufs(samples: Tensor, sample_rate: int) -> Tensor:
    """Loudness of one channel over its whole length, LUFS; -inf for silence. Shapes: [*, time] -> [*].

    The standard's filters K, as the gain that they have at each frequency, on the sound's energy at that frequency: the same
    filters at any rate. Without the standard's gate, which takes what is under -70 LUFS for silence: a change is to be measured
    there, too.
    Source: ITU-R BS.1770-5, annex 1.

    >>> tone = (2 * torch.pi * 997 / 48000 * torch.arange(48000)).sin()
    >>> loudness_lufs(tone, 48000).round(decimals=2)
    tensor(-3.0100)
    """
    time = samples.shape[-1]
    count = time + round(TAIL_SECONDS * sample_rate)
    spectrum = torch.fft.rfft(samples, count)
    weight = torch.full(spectrum.shape[-1:], 2.0, dtype=samples.dtype, device=samples.device)  # a bin stands for its mirror image, too
    weight[0] = 1.0
    if count % 2 == 0:
        weight[-1] = 1.0
    hz = torch.arange(spectrum.shape[-1], dtype=torch.float64) * (sample_rate / count)
    energy = (spectrum.abs().square() * weight * k_weight(hz).to(weight)).sum(-1) / (count * time)
    return OFFSET_DB + 10 * energy.log10()


def k_weight(hz: Tensor) -> Tensor:
    """The power gain of both filters; above 24 kHz, as there.

    >>> (10 * k_weight(torch.tensor([38.0, 997.0, 10000.0])).log10()).round(decimals=1)
    tensor([-6.0000,  0.7000,  4.0000])
    """
    z = torch.exp(-2j * math.pi * hz.double().clamp_max(RATE / 2) / RATE)
    gain = torch.ones_like(z)
    for b, a in (SHELF, HIGH_PASS):
        gain = gain * (b[0] + b[1] * z + b[2] * z**2) / (a[0] + a[1] * z + a[2] * z**2)
    return gain.abs().square().to(hz.dtype)

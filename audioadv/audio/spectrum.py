"""Frames of a sound and their spectra, on the one scale that sounds and perturbations are measured on, and back again.

    samples          |----------------------------|           time samples
    frame 0    |=======|                                      window samples, the last hop of them in the clip
    frame 1      |=======|                                    hop = window / 4
    ...
    last                                        |=======|     its first hop reaches the clip's end

Zeros are around the clip, so that each sample lies in exactly four frames. The squares of four Hann windows a quarter apart
add up to 3/2 everywhere, so the inverse is exact up to the clip's first and last sample.

A full-scale sine on a bin has amplitude 1 in that bin, whatever the window; between two bins, at least 0.85 (-1.42 dB).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.ragged import inside

OVERLAP = 4
"""Frames that each sample lies in."""
TONE_BINS = 1.5
"""A Hann window's noise bandwidth: the power of a tone, summed over its bins, is this many times that of its peak bin."""


def frame_counts(lengths: Tensor, window: int) -> Tensor:
    """How many frames clips of these lengths have. Shapes: [batch] -> [batch].

    >>> frame_counts(torch.tensor([1, 256, 257]), window=1024)
    tensor([4, 4, 5])
    """
    hop = window // OVERLAP
    return (lengths + hop - 1) // hop + OVERLAP - 1


def frames_inside(lengths: Tensor, window: int, frames: int) -> Tensor:
    """True for the frames that a clip has, False for those of its padding. Shapes: [batch] -> [batch, frames]."""
    return inside(frame_counts(lengths, window), frames)


def frame_seconds(frames: int, window: int, sample_rate: int) -> Tensor:
    """When the middle of each frame is; of the first and the last, outside the clip. Shapes: -> [frames]."""
    hop = window // OVERLAP
    return (torch.arange(frames) * hop - (window // 2 - hop)) / sample_rate


def spectrum(samples: Tensor, window: int) -> Tensor:
    """Complex amplitudes of each frame's bins; a full-scale sine on a bin is 1. Shapes: [*, time] -> [*, frames, window / 2 + 1].

    >>> spectrum(torch.ones(1000), 64).shape
    torch.Size([66, 33])
    """
    hop = window // OVERLAP
    edge = window - hop
    around = F.pad(samples, (edge, edge + -samples.shape[-1] % hop))
    hann = torch.hann_window(window, dtype=samples.dtype, device=samples.device)
    return torch.fft.rfft(around.unfold(-1, window, hop) * (hann * (2 / hann.sum())))


def waveform(bins: Tensor, window: int, time: int) -> Tensor:
    """The sound whose spectrum is nearest to these bins: `spectrum`'s inverse where there is one (weighted overlap-add).

    Shapes: [*, frames, window / 2 + 1] -> [*, time].
    Source: Griffin and Lim 1984, "Signal estimation from modified short-time Fourier transform".
    """
    hop, count = window // OVERLAP, bins.shape[-2]
    hann = torch.hann_window(window, dtype=bins.real.dtype, device=bins.device)
    frames = torch.fft.irfft(bins, n=window) * (hann * (hann.sum() / 2 * hop / hann.square().sum()))
    quarters = frames.unflatten(-1, (OVERLAP, hop))  # sample = 4 quarters of 4 successive frames, the oldest frame's last
    whole = sum(quarters[..., OVERLAP - 1 - i : count - i, i, :] for i in range(OVERLAP))
    assert isinstance(whole, Tensor)
    return whole.flatten(-2)[..., :time]

"""Convolution of many sounds with many responses: one FFT batch for all of them.

sound     |----------|            time samples
response        |----~~~~|        taps; `ahead` of them come before the instant that counts as no delay
result    |----------|~~~~        cut to the sound's own length, aligned on that instant
"""

import scipy  # whose parts come when they are asked for: they take half a second
import torch
from jaxtyping import Float
from torch import Tensor


def convolve(
    waveforms: Float[Tensor, "batch time"], responses: Float[Tensor, "#batch taps"], ahead: int = 0
) -> Float[Tensor, "batch time"]:
    """Each sound with its own response, its length and alignment kept: y[t] = sum over k of h[k] x[t + ahead - k].

    Shapes: waveforms [batch, time], responses [batch, taps] (or [1, taps], one for all) -> [batch, time].

    >>> convolve(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.5]])).round(decimals=3)
    tensor([[1.0000, 0.5000, 0.0000]])
    """
    time = waveforms.shape[-1]
    size = scipy.fft.next_fast_len(time + responses.shape[-1] - 1, real=True)  # long enough that nothing wraps around
    spectrum = torch.fft.rfft(waveforms, size) * torch.fft.rfft(responses, size)
    return torch.fft.irfft(spectrum, size)[..., ahead : ahead + time]

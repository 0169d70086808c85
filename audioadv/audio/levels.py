"""How loud a sound is, and how loud a perturbation is beside it.

Full scale is +-1. Decibels of an amplitude ratio r are 20 log10 r, of an energy ratio 10 log10 r. Zeros change no sum and no
maximum, so the padding of a batch does not matter.
"""

import math

import torch
from torch import Tensor


def snr_db(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Energy of the clip over energy of the change, dB; inf where nothing changed. Shapes: [*, time] twice -> [*].

        10 log10( sum clean^2 / sum (adversarial - clean)^2 )

    >>> clean = torch.tensor([0.5, -0.5])
    >>> snr_db(clean, 1.1 * clean).round(decimals=2)  # a tenth of the clip is 20 dB
    tensor(20.)
    """
    change = (adversarial - clean).square().sum(dim=-1)
    return torch.where(change == 0, math.inf, 10 * (clean.square().sum(dim=-1) / change).log10())


def relative_db(clean: Tensor, adversarial: Tensor) -> Tensor:
    """Peak of the change against the peak of the clip, dB; -inf where nothing changed. Shapes: [*, time] twice -> [*].

        dB_x(delta) = 20 log10 max|delta| - 20 log10 max|clean|

    Source: Carlini and Wagner 2018, "Audio Adversarial Examples: Targeted Attacks on Speech-to-Text".
    >>> relative_db(torch.tensor([0.5, -0.5]), torch.tensor([0.5, -0.45])).round(decimals=2)
    tensor(-20.)
    """
    change = (adversarial - clean).abs().amax(dim=-1)
    return torch.where(change == 0, -math.inf, 20 * (change / clean.abs().amax(dim=-1)).log10())

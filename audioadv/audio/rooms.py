"""Simulated rooms: impulse responses by the image-source method (pyroomacoustics)."""

import math

import numpy as np
import torch
from torch import Tensor


def simulate_room(generator: torch.Generator, sample_rate: int, rt60_seconds: float) -> Tensor:
    """Impulse response of a random shoebox room, from its direct sound on.

    Walls of 3 to 8 m, a ceiling at 2.4 to 3.5 m, source and microphone at least half a metre from the walls and 0.5 to 3 m
    apart. Absorption is chosen by Eyring's formula for `rt60_seconds`, the time in which the sound falls by 60 dB. Images
    up to the 17th order are exact; the tail after them is noise that decays at the same rate.

    Shapes: -> [taps], taps = rt60_seconds * sample_rate. Units: the direct sound's peak is at tap 0, the energy is 1.
    Source: Allen and Berkley 1979, "Image method for efficiently simulating small-room acoustics".
    """
    import pyroomacoustics as pra

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    while True:
        size = np.array([uniform(3, 8), uniform(3, 8), uniform(2.4, 3.5)])
        source, microphone = (np.array([uniform(0.5, side - 0.5) for side in size]) for _ in range(2))
        if 0.5 <= float(np.linalg.norm(source - microphone)) <= 3.0:
            break
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    absorption = 1 - math.exp(-24 * math.log(10) / 343 * float(np.prod(size)) / (surface * rt60_seconds))
    room = pra.ShoeBox(size, fs=sample_rate, materials=pra.Material(min(absorption, 0.99)), max_order=17)
    room.add_source(source)
    room.add_microphone(microphone)
    room.compute_rir()
    response = torch.from_numpy(np.asarray(room.rir[0][0])).double()
    response = response[int(response[: len(response) // 2].abs().argmax()) :]

    taps = round(rt60_seconds * sample_rate)
    exact = min(len(response), taps, round(17 * float(size.min()) / 343 * sample_rate))  # all images have come until then
    decay = torch.exp(-math.log(1000) / taps * torch.arange(taps))
    tail = torch.randn(taps, generator=generator, dtype=torch.float64) * decay
    last = slice(max(0, exact - sample_rate // 50), exact)  # the tail goes on at the level of the last 20 ms
    tail *= (response[last].pow(2).mean() / tail[last].pow(2).mean()).sqrt()
    tail[:exact] = response[:exact]
    impulse: Tensor = (tail / tail.norm()).float()
    return impulse

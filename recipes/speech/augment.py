"""What happens to training speech on its way to the recogniser: rooms, noise, bands, codecs, gain; a batch at a time.

All is drawn and done on the device of the speech, by a generator of that device. How many clips of a batch something happens to
is decided on the host, which clips on the device: neither waits for the other.
"""

import random
from itertools import pairwise

import torch
from torch import Tensor

from audioadv.audio.rooms import simulate_room


def uniform(batch: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Shapes: -> [batch, 1]."""
    return low + (high - low) * torch.rand(batch, 1, generator=generator, device=generator.device)


def some(batch: int, share: float, generator: torch.Generator) -> Tensor:
    """One for about this share of the clips, zero for the others. Shapes: -> [batch, 1]."""
    return (uniform(batch, 0, 1, generator) < share).float()


def dealt(batch: int, shares: list[float], generator: torch.Generator) -> list[Tensor]:
    """Clips dealt out by these shares (up or down to whole clips by chance, the same on every call with a generator of that seed)."""
    edges, chance = [0.0], random.Random(generator.initial_seed()).random()
    for share in shares:
        edges.append(edges[-1] + share * batch)
    shuffled = uniform(batch, 0, 1, generator)[:, 0].argsort()
    return [shuffled[int(low + chance) : int(high + chance)] for low, high in pairwise(edges)]


def room_bank(count: int, seed: int, sample_rate: int = 16000) -> Tensor:
    """Responses of `count` rooms, RT60 from 0.1 to 0.8 s, half precision. Shapes: -> [count, 0.8 s]."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.zeros(count, int(0.8 * sample_rate), dtype=torch.half)
    for row in bank:
        response = simulate_room(generator, sample_rate, 0.1 + 0.7 * torch.rand((), generator=generator).item())
        row[: len(response)] = response
    return bank


def octaves_of(size: int, device: torch.device) -> Tensor:
    """Octaves over 20 Hz of the bins of a real FFT at 16 kHz, from 0 to 8.6. Shapes: -> [1, size / 2 + 1]."""
    return torch.log2(torch.linspace(20, 8000, size // 2 + 1, device=device) / 20)[None]


def coloured_noise(batch: int, time: int, generator: torch.Generator) -> Tensor:
    """Noise with a spectrum of its own for each clip: a random slope, two random humps, slow random swells. Shapes: -> [batch, time]."""
    size = fast_size(time)
    spectrum = torch.fft.rfft(torch.randn(batch, size, generator=generator, device=generator.device))
    octaves = octaves_of(size, generator.device)
    shape = uniform(batch, -6, 1, generator) * octaves / 2
    for _ in range(2):
        centre, height = uniform(batch, 1, 8.5, generator), uniform(batch, 0, 20, generator)
        shape = shape + height * torch.exp(-(((octaves - centre) / 0.5) ** 2))
    noise = torch.fft.irfft(spectrum * 10 ** (shape / 20), n=size)[:, :time]
    knots = torch.rand(batch, 1, 12, generator=generator, device=generator.device)
    swell = torch.nn.functional.interpolate(knots, size=time, mode="linear")[:, 0]
    return noise * (1 - some(batch, 0.5, generator) * (1 - swell))


def tones(batch: int, time: int, generator: torch.Generator, sample_rate: int = 16000) -> Tensor:
    """Mains hum or a held chord: harmonics of a random pitch, dying away or not. Shapes: -> [batch, time]."""
    clock = torch.arange(time, device=generator.device)[None] / sample_rate
    pitch = 50 * 2 ** uniform(batch, 0, 4, generator)
    decay = torch.exp(-clock * uniform(batch, 0, 3, generator))
    sound = torch.zeros_like(decay)
    for harmonic in (1, 2, 3, 5, 7):
        phase = uniform(batch, 0, 6.28, generator)
        sound += torch.sin(6.2832 * harmonic * pitch * clock + phase) * uniform(batch, 0, 1, generator) / harmonic
    return sound * decay


def babble(speech: Tensor, talked: Tensor) -> Tensor:
    """Four other clips of the batch at once, each from another place. Shapes: speech [batch, time], talked [some] -> [some, time]."""
    return torch.stack([speech[(talked - away) % len(speech)].roll(5000 * away, 1) for away in range(1, 5)]).sum(0)


def curve(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """How a line, a microphone or another mouth colours speech. Shapes: -> [batch, size / 2 + 1]. Units: a factor for each bin.

    A tilt and an unevenness from octave to octave for all; for some an end at the bottom, at the top, or a band that is missing.
    """
    octaves = octaves_of(size, generator.device)
    hz = 20 * 2**octaves
    knots = 3 * torch.randn(batch, 9, generator=generator, device=generator.device)
    hats = (1 - (octaves - torch.arange(9, device=octaves.device)[:, None]).abs()).clamp_min(0)  # between two knots, a straight line
    gain_db = knots @ hats + uniform(batch, -4, 4, generator) * (octaves - 5.6).clamp_min(-4)
    centre, width = uniform(batch, 3.5, 8.5, generator), uniform(batch, 0.1, 0.4, generator)
    gain_db = gain_db - 30 * some(batch, 0.3, generator) * torch.exp(-(((octaves - centre) / width) ** 4))
    low = some(batch, 0.3, generator) * uniform(batch, 50, 350, generator)
    high = 8000 - some(batch, 0.3, generator) * uniform(batch, 500, 5000, generator)
    rise = torch.where(low > 0, torch.sigmoid((hz - low) / 30), 1.0)
    return rise * torch.sigmoid((high - hz) / 60) * 10 ** (gain_db / 20)


def other_mouth(speech: Tensor, generator: torch.Generator) -> Tensor:
    """The same sounds from another vocal tract: formants and hisses moved along the spectrum, sharper or flatter; the pitch stays.

    Each frame's smooth spectrum (its cepstrum up to 2 ms) is read at warped frequencies: by up to half an octave up or down at
    five places from 0.5 to 8 kHz, each its own way, straight lines between them. Shapes: [batch, time] -> [batch, time].

    Source: after Jaitly and Hinton 2013, "Vocal tract length perturbation (VTLP) improves speech recognition", with more than one
    parameter, and with the pitch left alone.
    """
    batch, time = speech.shape
    size, hop, bins = 512, 160, 257
    window = torch.hann_window(size, device=speech.device)
    frames = torch.stft(speech, size, hop, window=window, return_complex=True).transpose(1, 2)  # [batch, frames, bins]
    loud = (frames.abs() + 1e-4).log()
    cepstrum = torch.fft.irfft(loud, n=size)
    quefrency = torch.arange(size, device=speech.device)
    cepstrum = cepstrum * (torch.minimum(quefrency, size - quefrency) <= 32)
    smooth = torch.fft.rfft(cepstrum).real

    octaves = torch.log2(torch.arange(bins, device=speech.device).clamp_min(1) / 16)  # over 500 Hz, up to 4
    hats = (1 - (octaves.clamp_min(0) - torch.arange(5, device=speech.device)[:, None]).abs()).clamp_min(0)
    shift = (torch.randn(batch, 5, generator=generator, device=speech.device) * 0.22).clamp(-0.5, 0.5) @ hats
    place = (torch.arange(bins, device=speech.device) * 2**shift).clamp(0, bins - 1)[:, None]  # [batch, 1, bins]
    low = place.long().clamp_max(bins - 2).expand_as(smooth)
    moved = smooth.gather(2, low).lerp(smooth.gather(2, low + 1), place - low)
    level, depth = smooth.mean(2, keepdim=True), uniform(batch, 0.8, 1.2, generator)[..., None]
    gain = ((moved - level) * depth + level - smooth).clamp(-3, 3).exp()
    pieces = torch.fft.irfft(frames * gain, n=size) * window
    whole, weight = (
        overlapped(part.transpose(1, 2), hop)[:, size // 2 :][:, :time] for part in (pieces, window.square().expand_as(pieces[:1]))
    )
    return whole / weight  # torch.istft's result, which asks whether the weight is zero anywhere, and so makes the host wait


def overlapped(pieces: Tensor, hop: int) -> Tensor:
    """Pieces of a signal laid over each other, each `hop` samples on, and added. Shapes: [batch, size, pieces] -> [batch, time]."""
    size, count = pieces.shape[1:]
    return torch.nn.functional.fold(pieces, (1, size + hop * (count - 1)), (1, size), stride=(1, hop))[:, 0, 0]


def gaps(batch: int, time: int, generator: torch.Generator) -> Tensor:
    """In a third of the clips, two gaps of up to 80 ms: what is not heard must be known. Shapes: -> [batch, time], 0 in a gap, else 1."""
    clock = torch.arange(time, device=generator.device)[None]
    heard = torch.ones_like(clock, dtype=torch.bool)
    torn = some(batch, 1 / 3, generator)
    for _ in range(2):
        start, length = uniform(batch, 0, time, generator), torn * uniform(batch, 0, 1280, generator)
        heard = heard & ((clock < start) | (clock >= start + length))
    return heard


def fast_size(time: int) -> int:
    """The least 2^n, 3 * 2^n or 5 * 2^n that is no shorter: sizes that the FFT is quick at."""
    return min(odd << max(0, (-(-time // odd) - 1).bit_length()) for odd in (1, 3, 5))


def level(sound: Tensor, lengths: Tensor) -> Tensor:
    """Root mean square over each clip. Shapes: [batch, time], [batch] -> [batch, 1]."""
    return (sound.square().sum(1) / lengths).sqrt()[:, None].clamp_min(1e-5)


def augment(speech: Tensor, lengths: Tensor, rooms: Tensor, generator: torch.Generator) -> Tensor:
    """The same sentences, heard worse: half by another mouth, most in a room, most in noise, half coloured, some by a telephone's mu-law.

    Shapes: speech [batch, time] at 16 kHz, lengths [batch], rooms [count, taps] -> [batch, time], zero past each length.
    """
    batch, time = speech.shape
    inside = torch.arange(time, device=speech.device) < lengths[:, None]
    speech = speech.clone()
    (other,) = dealt(batch, [0.5], generator)
    if len(other):
        speech[other] = other_mouth(speech[other], generator) * inside[other]
    loud = level(speech, lengths)

    (roomy,) = dealt(batch, [0.7], generator)
    chosen = rooms[torch.randint(len(rooms), roomy.shape, generator=generator, device=speech.device)].float()
    size = fast_size(time + rooms.shape[1])
    if len(roomy):
        far = torch.fft.irfft(torch.fft.rfft(speech[roomy], size) * torch.fft.rfft(chosen, size), n=size)[:, :time]
        speech[roomy] = far * loud[roomy] / level(far, lengths[roomy])

    coloured, talked, tonal, white = dealt(batch, [0.2, 0.1, 0.1, 0.2], generator)  # and none for the rest
    noise = torch.zeros_like(speech)
    if len(coloured):
        noise[coloured] = coloured_noise(len(coloured), time, generator)
    noise[talked] = babble(speech, talked)
    noise[tonal] = tones(len(tonal), time, generator)
    noise[white] = torch.randn(len(white), time, generator=generator, device=speech.device)
    noise *= inside
    speech += noise * (10 ** (-uniform(batch, 8, 40, generator) / 20) * loud / level(noise, lengths))

    (uneven,) = dealt(batch, [0.5], generator)
    size = fast_size(time)
    if len(uneven):
        spectrum = torch.fft.rfft(speech[uneven], size) * curve(len(uneven), size, generator)
        speech[uneven] = torch.fft.irfft(spectrum, n=size)[:, :time]

    peak = speech.abs().amax(1, keepdim=True).clamp_min(1e-5)
    speech = (speech / peak * 10 ** (uniform(batch, -26, 2, generator) / 20)).clamp(-1, 1)
    (phone,) = dealt(batch, [0.05], generator)
    companded = torch.sign(speech[phone]) * torch.log1p(255 * speech[phone].abs()) / 5.5452
    speech[phone] = torch.sign(companded) * torch.expm1((companded * 128).round() / 128 * companded.sign() * 5.5452) / 255
    return speech.clamp(-1, 1) * (inside & gaps(batch, time, generator))

"""What happens to training speech on its way to the recogniser: rooms, noise, bands, codecs, gain; a batch at a time."""

import torch
from torch import Tensor

from audioadv.audio.rooms import simulate_room


def some(batch: int, share: float, generator: torch.Generator) -> Tensor:
    """One for about this share of the clips, zero for the others. Shapes: -> [batch, 1]."""
    return (torch.rand(batch, 1, generator=generator) < share).float()


def uniform(batch: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Shapes: -> [batch, 1]."""
    return low + (high - low) * torch.rand(batch, 1, generator=generator)


def room_bank(count: int, seed: int, sample_rate: int = 16000) -> Tensor:
    """Spectra of `count` rooms, RT60 from 0.1 to 0.8 s, ready to multiply. Shapes: -> [count, bins] for clips of `BANK_TAPS / 2`."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.zeros(count, int(0.8 * sample_rate))
    for row in bank:
        response = simulate_room(generator, sample_rate, 0.1 + 0.7 * torch.rand((), generator=generator).item())
        row[: len(response)] = response
    return bank


def coloured_noise(batch: int, time: int, generator: torch.Generator) -> Tensor:
    """Noise with a spectrum of its own for each clip: a random slope, two random humps, slow random swells. Shapes: -> [batch, time]."""
    spectrum = torch.fft.rfft(torch.randn(batch, time, generator=generator))
    octaves = torch.log2(torch.linspace(20, 8000, spectrum.shape[1]) / 20)[None]
    shape = uniform(batch, -6, 1, generator) * octaves / 2
    for _ in range(2):
        centre, height = uniform(batch, 1, 8.5, generator), uniform(batch, 0, 20, generator)
        shape = shape + height * torch.exp(-(((octaves - centre) / 0.5) ** 2))
    noise = torch.fft.irfft(spectrum * 10 ** (shape / 20), n=time)
    knots = torch.rand(batch, 1, 12, generator=generator)
    swell = torch.nn.functional.interpolate(knots, size=time, mode="linear")[:, 0]
    return noise * (1 - some(batch, 0.5, generator) * (1 - swell))


def tones(batch: int, time: int, generator: torch.Generator, sample_rate: int = 16000) -> Tensor:
    """Mains hum or a held chord: harmonics of a random pitch, dying away or not. Shapes: -> [batch, time]."""
    clock = torch.arange(time)[None] / sample_rate
    pitch = 50 * 2 ** uniform(batch, 0, 4, generator)
    decay = torch.exp(-clock * uniform(batch, 0, 3, generator))
    sound = torch.zeros(batch, time)
    for harmonic in (1, 2, 3, 5, 7):
        phase = uniform(batch, 0, 6.28, generator)
        sound += torch.sin(6.2832 * harmonic * pitch * clock + phase) * uniform(batch, 0, 1, generator) / harmonic
    return sound * decay


def level(sound: Tensor, lengths: Tensor) -> Tensor:
    """Root mean square over each clip. Shapes: [batch, time], [batch] -> [batch, 1]."""
    return (sound.pow(2).sum(1) / lengths).sqrt()[:, None].clamp_min(1e-5)


def augment(speech: Tensor, lengths: Tensor, rooms: Tensor, generator: torch.Generator) -> Tensor:
    """The same sentences, heard worse: a third in a room, most in noise, some through a narrow band or a telephone's mu-law.

    Shapes: speech [batch, time] at 16 kHz, lengths [batch], rooms [count, taps] -> [batch, time], zero past each length.
    """
    batch, time = speech.shape
    inside = (torch.arange(time) < lengths[:, None]).float()
    roomy = some(batch, 0.35, generator)
    chosen = rooms[torch.randint(len(rooms), (batch,), generator=generator)]
    size = 1 << (time + rooms.shape[1] - 1).bit_length()
    far = torch.fft.irfft(torch.fft.rfft(speech, size) * torch.fft.rfft(chosen, size), n=size)[:, :time]
    loud = level(speech, lengths)
    speech = torch.where(roomy > 0, far * loud / level(far, lengths), speech)

    kind = torch.randint(4, (batch, 1), generator=generator)
    noise = coloured_noise(batch, time, generator)
    babble = sum(speech.roll(shift, 0).roll(shift * 5000, 1) for shift in (1, 2, 3, 4))
    noise = torch.where(kind == 2, babble, torch.where(kind == 3, tones(batch, time, generator), noise)) * inside
    ratio = 10 ** (-uniform(batch, 8, 40, generator) / 20) * some(batch, 0.6, generator)
    speech = speech + noise * ratio * loud / level(noise, lengths)

    spectrum = torch.fft.rfft(speech)
    hz = torch.linspace(0, 8000, spectrum.shape[1])[None]
    low = some(batch, 0.2, generator) * uniform(batch, 50, 350, generator)
    high = 8000 - some(batch, 0.2, generator) * uniform(batch, 500, 5000, generator)
    tilt = uniform(batch, -4, 4, generator) * torch.log2(hz.clamp_min(60) / 1000)
    band = torch.sigmoid((hz - low) / 30) * torch.sigmoid((high - hz) / 60) * 10 ** (tilt / 20)
    speech = torch.fft.irfft(spectrum * torch.where(low > 0, band, band / torch.sigmoid(hz / 30)), n=time)

    peak = speech.abs().amax(1, keepdim=True).clamp_min(1e-5)
    speech = speech / peak * 10 ** (uniform(batch, -26, 2, generator) / 20)
    speech = speech.clamp(-1, 1)
    companded = torch.sign(speech) * torch.log1p(255 * speech.abs()) / 5.5452
    telephone = torch.sign(companded) * torch.expm1((companded * 128).round() / 128 * companded.sign() * 5.5452) / 255
    return torch.where(some(batch, 0.05, generator) > 0, telephone, speech) * inside

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
    size = fast_size(time)
    spectrum = torch.fft.rfft(torch.randn(batch, size, generator=generator))
    octaves = torch.log2(torch.linspace(20, 8000, spectrum.shape[1]) / 20)[None]
    shape = uniform(batch, -6, 1, generator) * octaves / 2
    for _ in range(2):
        centre, height = uniform(batch, 1, 8.5, generator), uniform(batch, 0, 20, generator)
        shape = shape + height * torch.exp(-(((octaves - centre) / 0.5) ** 2))
    noise = torch.fft.irfft(spectrum * 10 ** (shape / 20), n=size)[:, :time]
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


def gaps(batch: int, time: int, generator: torch.Generator) -> Tensor:
    """In a third of the clips, two gaps of up to 80 ms: what is not heard must be known. Shapes: -> [batch, time], 0 in a gap, else 1."""
    clock = torch.arange(time)[None]
    heard = torch.ones(batch, time)
    torn = some(batch, 1 / 3, generator)
    for _ in range(2):
        start, length = uniform(batch, 0, time, generator), torn * uniform(batch, 0, 1280, generator)
        heard[(clock >= start) & (clock < start + length)] = 0
    return heard


def fast_size(time: int) -> int:
    """The least 2^n, 3 * 2^n or 5 * 2^n that is no shorter: sizes that the FFT is quick at."""
    return min(odd << max(0, (-(-time // odd) - 1).bit_length()) for odd in (1, 3, 5))


def level(sound: Tensor, lengths: Tensor) -> Tensor:
    """Root mean square over each clip. Shapes: [batch, time], [batch] -> [batch, 1]."""
    return (sound.pow(2).sum(1) / lengths).sqrt()[:, None].clamp_min(1e-5)


def augment(speech: Tensor, lengths: Tensor, rooms: Tensor, generator: torch.Generator) -> Tensor:
    """The same sentences, heard worse: half in a room, most in noise, some through a narrow band or a telephone's mu-law.

    Shapes: speech [batch, time] at 16 kHz, lengths [batch], rooms [count, taps] -> [batch, time], zero past each length.
    """
    batch, time = speech.shape
    inside = (torch.arange(time) < lengths[:, None]).float()
    speech = speech.clone()
    loud = level(speech, lengths)

    roomy = some(batch, 0.5, generator)[:, 0].nonzero()[:, 0]
    chosen = rooms[torch.randint(len(rooms), (len(roomy),), generator=generator)]
    size = fast_size(time + rooms.shape[1])
    if len(roomy):
        far = torch.fft.irfft(torch.fft.rfft(speech[roomy], size) * torch.fft.rfft(chosen, size), n=size)[:, :time]
        speech[roomy] = far * loud[roomy] / level(far, lengths[roomy])

    kind = torch.randint(8, (batch,), generator=generator)  # coloured noise, babble, tones, white noise, and none for half of the clips
    coloured, babble, tonal, white = ((kind == which).nonzero()[:, 0] for which in range(4))
    noise = torch.zeros_like(speech)
    if len(coloured):
        noise[coloured] = coloured_noise(len(coloured), time, generator)
    noise[babble] = torch.stack([speech.roll(shift, 0).roll(shift * 5000, 1) for shift in (1, 2, 3, 4)]).sum(0)[babble]
    noise[tonal] = tones(len(tonal), time, generator)
    noise[white] = torch.randn(len(white), time, generator=generator)
    noise = noise * inside
    ratio = 10 ** (-uniform(batch, 8, 40, generator) / 20)
    speech = speech + noise * ratio * loud / level(noise, lengths)

    narrow = some(batch, 0.5, generator)[:, 0].nonzero()[:, 0]
    size = fast_size(time)
    spectrum = torch.fft.rfft(speech[narrow], size) if len(narrow) else torch.zeros(0, size // 2 + 1)
    hz = torch.linspace(0, 8000, spectrum.shape[1])[None]
    low = some(len(narrow), 0.3, generator) * uniform(len(narrow), 50, 350, generator)
    high = 8000 - some(len(narrow), 0.3, generator) * uniform(len(narrow), 500, 5000, generator)
    tilt = uniform(len(narrow), -4, 4, generator) * torch.log2(hz.clamp_min(60) / 1000)
    rise = torch.where(low > 0, torch.sigmoid((hz - low) / 30), 1.0)
    spectrum = spectrum * rise * torch.sigmoid((high - hz) / 60) * 10 ** (tilt / 20)
    if len(narrow):
        speech[narrow] = torch.fft.irfft(spectrum, n=size)[:, :time]

    peak = speech.abs().amax(1, keepdim=True).clamp_min(1e-5)
    speech = (speech / peak * 10 ** (uniform(batch, -26, 2, generator) / 20)).clamp(-1, 1)
    phone = some(batch, 0.05, generator)[:, 0].nonzero()[:, 0]
    companded = torch.sign(speech[phone]) * torch.log1p(255 * speech[phone].abs()) / 5.5452
    speech[phone] = torch.sign(companded) * torch.expm1((companded * 128).round() / 128 * companded.sign() * 5.5452) / 255
    return speech.clamp(-1, 1) * inside * gaps(batch, time, generator)

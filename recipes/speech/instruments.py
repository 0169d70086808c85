"""Music and noises from sines, plucked strings and filtered noise: 16 kHz, any level. Shapes: -> [time]."""

import zlib

import numpy as np
from scipy.signal import butter, lfilter, sosfilt

RATE = 16000
Sound = np.ndarray


def clock(seconds: float) -> Sound:
    return np.arange(round(seconds * RATE)) / RATE


def hertz(note: float) -> float:
    return float(440 * 2 ** ((note - 69) / 12))  # MIDI: 69 is the A at 440 Hz, 12 notes make an octave


def hiss(name: str, seconds: float, low: float, high: float, order: int = 1) -> Sound:
    """Noise between two frequencies, rms 1, drawn by name so that no clip depends on another."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(round(seconds * RATE))
    noise = sosfilt(butter(order, (low, high), "bandpass", fs=RATE, output="sos"), noise)
    return noise / noise.std()


def place(seconds: float, events: list[tuple[float, Sound]]) -> Sound:
    """Sounds added at their times, in seconds; what goes past the end is cut."""
    track = np.zeros(round(seconds * RATE))
    for start, sound in events:
        first = round(start * RATE)
        track[first : first + len(sound)] += sound[: max(0, len(track) - first)]
    return track


def bell(note: float, seconds: float = 1.5) -> Sound:
    partials = [np.sin(2 * np.pi * k * hertz(note) * clock(seconds)) * np.exp(-(2 + k) * clock(seconds)) / k**1.5 for k in range(1, 8)]
    return np.minimum(1, clock(seconds) / 0.005) * sum(partials)


def pluck(note: float, seconds: float = 2.0) -> Sound:
    """Karplus and Strong 1983: a burst of noise goes round a string's length and loses its highs at each turn."""
    burst = np.zeros(round(seconds * RATE))
    turn = round(RATE / hertz(note) - 0.5)
    burst[:turn] = np.random.default_rng(round(note)).uniform(-1, 1, turn)
    burst[:turn] -= burst[:turn].mean()  # or the string would drift off its middle
    return lfilter([1.0], np.concatenate([[1.0], np.zeros(turn - 1), [-0.498, -0.498]]), burst)


def organ_chord(notes: list[float], seconds: float) -> Sound:
    swell = np.minimum(1, np.minimum(clock(seconds) / 0.15, (seconds - clock(seconds)) / 0.15))
    phase = 2 * np.pi * (clock(seconds) + 0.0004 * np.sin(2 * np.pi * 5.5 * clock(seconds)))  # a slow vibrato
    return swell * sum(
        level * np.sin(bar * hertz(note) * phase) for note in notes for bar, level in ((0.5, 0.4), (1, 1), (2, 0.6), (3, 0.3))
    )


def music() -> Sound:
    chords = [(60, 64, 67), (57, 60, 64), (53, 57, 60), (55, 59, 62)]
    tune = [76, 79, 76, 72, 77, 76, 74, 72, 71, 74, 79, 72]
    events = [(1.1 * i, 0.5 * bell(note)) for i, chord in enumerate(chords) for note in chord]
    return place(4.6, events + [(1.1 * i / 3, bell(note)) for i, note in enumerate(tune)])


def guitar() -> Sound:
    return place(4.0, [(0.22 * i, pluck(note)) for i, note in enumerate([40, 47, 52, 55, 59, 64, 59, 55, 45, 52, 57, 60, 64, 60, 57, 52])])


def organ() -> Sound:
    return place(
        4.0, [(1.3 * i, organ_chord(notes, 1.4)) for i, notes in enumerate([[57, 60, 64, 67], [53, 57, 60, 64], [55, 59, 62, 67]])]
    )


def drums() -> Sound:
    t = clock(0.3)
    kick = 1.5 * np.sin(2 * np.pi * (50 * t + 4 * (1 - np.exp(-30 * t)))) * np.exp(-12 * t)
    snare = 0.4 * hiss("snare", 0.3, 1000, 6000) * np.exp(-20 * t) + 0.6 * np.sin(2 * np.pi * 190 * t) * np.exp(-25 * t)
    hat = 0.15 * hiss("hat", 0.3, 5000, 7900, 4) * np.exp(-60 * t)
    beat = [(kick, (0, 0.75, 1, 2.5)), (snare, (0.5, 1.5)), (hat, np.arange(0, 2, 0.25))]
    return place(4.0, [(bar + at, drum) for bar in (0, 2) for drum, times in beat for at in times])


def rain() -> Sound:
    rng = np.random.default_rng(7)
    t = clock(0.02)
    drops = [
        (rng.uniform(0, 3.5), rng.exponential(4) * np.sin(2 * np.pi * rng.uniform(1500, 6500) * t) * np.exp(-300 * t)) for _ in range(400)
    ]
    return hiss("rain", 3.5, 400, 6000) + place(3.5, drops)


def fan() -> Sound:
    t = clock(3.5)
    hum = sum(np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 9))
    return hum + (1 + 0.3 * np.sin(2 * np.pi * 23 * t)) * hiss("fan", 3.5, 80, 900)

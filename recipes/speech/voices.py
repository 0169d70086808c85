"""Voices of espeak-ng, flite, festival (Debian packages) and RHVoice, split into those heard in training and those kept for the test."""

import random
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16000
ACCENTS = ("en-us", "en-us", "en-us", "en-gb", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc", "en-gb-x-gbclan", "en-gb-x-gbcwmd")  # fmt: skip
SEEN = ("", "", "Alex", "Alicia", "Andy", "Annie", "Denis", "Diogo", "Gene", "Hugo", "Jacky", "Lee", "Marco", "Mario", "Michael", "Mike", "adam", "anika", "announcer", "antonio", "aunty", "benjamin", "boris", "caleb", "david", "ed", "f1", "f2", "f3", "f5", "gustave", "iven", "iven3", "john", "klatt", "klatt2", "klatt4", "klatt6", "m1", "m3", "m4", "m5", "m7", "m8", "max", "miguel", "norbert", "paul", "pedro", "quincy", "rob", "robert", "sandro", "shelby", "steph", "steph3", "victor", "zac")  # fmt: skip
UNSEEN = ("Andrea", "belinda", "edward", "f4", "klatt3", "linda", "m2", "m6", "marcelo", "michel", "pablo", "travis")
FLITE_SEEN = ("kal", "kal16", "awb", "slt")  # slt is flite's only woman: with her held out, no trained voice is like her
FLITE_UNSEEN = ("rms",)
FESTIVAL = ("cmu_us_slt_arctic_hts", "ked_diphone", "kal_diphone")  # of training alone: ked is a speaker that flite lacks
RHVOICE = ("Bdl", "Clb")  # of training alone: a man and a woman of CMU ARCTIC that the others lack


@dataclass(frozen=True)
class Voice:
    """One way to say a sentence. `stretch` over 1 is slower; `pitch` is espeak's 0..99, RHVoice's in percent of the speaker's own, or a mean in Hz."""

    program: str
    name: str
    pitch: int
    stretch: float

    def __str__(self) -> str:
        return f"{self.program}:{self.name}"


def draw_voice(rng: random.Random, kind: str) -> Voice:
    """A voice of a kind: `seen` (a quarter of them flite's), `flite-seen`, `festival`, `rhvoice`, `unseen` (espeak-ng), `flite-unseen`."""
    if kind == "rhvoice":
        return Voice("rhvoice", rng.choice(RHVOICE), round(rng.uniform(75, 130)), rng.uniform(0.8, 1.2))
    if kind == "festival":
        return Voice("festival", rng.choice(FESTIVAL), round(rng.uniform(85, 160)), rng.uniform(0.8, 1.2))
    if kind.startswith("flite") or (kind == "seen" and rng.random() < 0.25):
        name = rng.choice(FLITE_UNSEEN if kind == "flite-unseen" else FLITE_SEEN)
        return Voice("flite", name, round(rng.uniform(85, 135) * (1.6 if name == "slt" else 1)), rng.uniform(0.85, 1.2))
    variant = rng.choice(SEEN if kind == "seen" else UNSEEN)
    name = rng.choice(ACCENTS) + (f"+{variant}" if variant else "")
    return Voice("espeak", name, rng.randint(20, 80), rng.uniform(0.8, 1.25))


def speak(text: str, voice: Voice, scale: float = 1.0) -> np.ndarray:
    """The sentence as 16 kHz speech by a voice of espeak-ng or flite, `trimmed`. Shapes: -> [time]."""
    import soundfile

    slow = voice.stretch * scale
    with tempfile.NamedTemporaryFile(suffix=".wav", dir=in_memory()) as file:
        if voice.program == "espeak":
            command = ["espeak-ng", "-v", voice.name, "-p", str(voice.pitch), "-s", str(round(165 / slow)), "-w", file.name, text]  # fmt: skip
        else:
            command = ["flite", "-voice", voice.name, "--setf", f"duration_stretch={slow:.3f}", "--seti", f"int_f0_target_mean={voice.pitch}", "-t", text, "-o", file.name]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        samples, rate = soundfile.read(file.name, dtype="float32")
        return trimmed(samples, rate, scale)


def trimmed(samples: np.ndarray, rate: int, scale: float = 1.0) -> np.ndarray:
    """At 16 kHz, silence trimmed, peak at 0.5. Shapes: [time at `rate`] -> [time].

    `scale` over 1 makes another, smaller speaker of the voice: spoken slower and played faster by as much, it keeps its pace,
    but pitch and formants rise.
    """
    import soxr

    speech = soxr.resample(samples, rate * scale, SAMPLE_RATE, quality="MQ")
    loud = np.flatnonzero(np.abs(speech) > 0.01 * np.abs(speech).max())
    speech = speech[max(0, loud[0] - 800) : loud[-1] + 1600]
    return (0.5 * speech / np.abs(speech).max()).astype(np.float32)


def in_memory() -> str | None:
    """A folder for files that live for a moment: in memory, where the system has one."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None

"""Many sentences without a process for each: espeak-ng, flite and RHVoice as libraries, festival by one script.

CPU time a sentence of two seconds: espeak-ng 1.8 ms (by its program 9), flite 12 (19), RHVoice 30, festival 5 to 45 (over 500). The
speech is that of the programs, but for its noise, which hangs on what the process said before.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, byref, c_char_p, c_float, c_int, c_short, c_size_t, c_ubyte, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from speech.voices import Voice, in_memory

Spoken = tuple[np.ndarray, int]  # samples (int16), Hz
Job = tuple[str, Voice, float]  # sentence, voice, how much slower
NEEDS = {  # by a voice's program: other programs, or packages of Python
    "espeak": ("espeak-ng",),
    "flite": ("flite",),
    "festival": ("festival",),
    "rhvoice": ("rhvoice_wrapper", "rhvoice_wrapper_bin"),
}
SYNCHRONOUS, UTF8, END_PAUSE, SPEED, PITCH = 2, 1, 0x1000, 1, 3  # of espeak-ng's speak_lib.h


class Selection(Structure):
    """espeak-ng's espeak_VOICE."""

    _fields_ = (
        *((name, c_char_p) for name in ("name", "languages", "identifier")),
        *((name, c_ubyte) for name in ("gender", "age", "variant", "unused")),
        ("score", c_int),
        ("spare", c_void_p),
    )


class Wave(Structure):
    """flite's cst_wave."""

    _fields_ = (("kind", c_char_p), ("rate", c_int), ("count", c_int), ("channels", c_int), ("samples", POINTER(c_short)))


class FliteVoice(Structure):
    """The beginning of flite's cst_voice."""

    _fields_ = (("name", c_char_p), ("features", c_void_p))


def espeak() -> Callable[[Job], Spoken]:
    """Start espeak-ng in this process."""
    library, pieces = CDLL("libespeak-ng.so.1"), []
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, None, 0)

    @CFUNCTYPE(c_int, POINTER(c_short), c_int, c_void_p)
    def hear(samples, count, events):  # type: ignore[no-untyped-def]
        if samples and count:
            pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    library.espeak_SetSynthCallback(hear)

    def say(job: Job) -> Spoken:
        text, voice, slow = job[0].encode() + b"\0", job[1], job[2]
        name = voice.name.encode()  # of a voice file or, failing that, of a language: as the program looks it up
        if library.espeak_SetVoiceByName(name) and library.espeak_SetVoiceByProperties(byref(Selection(languages=name))):
            raise ValueError(f"{voice}: no such voice of espeak-ng")
        library.espeak_SetParameter(PITCH, voice.pitch, 0)
        library.espeak_SetParameter(SPEED, round(165 / slow), 0)
        pieces.clear()
        library.espeak_Synth(text, c_size_t(len(text)), 0, 1, 0, UTF8 | END_PAUSE, None, hear and None)
        return np.concatenate(pieces), rate

    return say


def flite() -> Callable[[Job], Spoken]:
    """Start flite in this process; each voice is a library of its own, and is loaded when it first speaks."""
    library, voices = CDLL("libflite.so.1"), {}
    library.flite_init()
    library.flite_text_to_wave.restype = POINTER(Wave)

    def say(job: Job) -> Spoken:
        text, voice, slow = job
        if voice.name not in voices:
            register = CDLL(f"libflite_cmu_us_{voice.name}.so.1")[f"register_cmu_us_{voice.name}"]
            register.restype = POINTER(FliteVoice)
            voices[voice.name] = register(None)
        features = c_void_p(voices[voice.name].contents.features)
        library.feat_set_float(features, b"duration_stretch", c_float(slow))
        library.feat_set_int(features, b"int_f0_target_mean", voice.pitch)
        wave = library.flite_text_to_wave(text.encode(), voices[voice.name])
        samples, rate = np.ctypeslib.as_array(wave.contents.samples, (wave.contents.count,)).copy(), wave.contents.rate
        library.delete_wave(wave)
        return samples, rate

    return say


def festival(jobs: list[Job]) -> list[Spoken]:
    """All by one script, since festival takes half a second to start."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        script = []
        for number, (text, voice, slow) in enumerate(jobs):
            script.append(f"(voice_{voice.name}) (Parameter.set 'Duration_Stretch {slow:.3f})")
            if voice.name.endswith("hts"):  # keeps its pitch, and its pace is one of the engine's options
                script.append(f'(set! hts_engine_params (append hts_engine_params \'(("-r" {1 / slow:.3f}))))')
            else:
                targets = f"(target_f0_mean {voice.pitch}) (target_f0_std 14) (model_f0_mean 170) (model_f0_std 34)"
                script.append(f"(set! int_lr_params '({targets}))")
            script.append(f'(utt.save.wave (utt.synth (Utterance Text "{text}")) "{folder}/{number}.wav" \'riff)')
        Path(folder, "script.scm").write_text("\n".join(script))
        subprocess.run(["festival", "-b", f"{folder}/script.scm"], check=True, capture_output=True)
        return [wavfile.read(Path(folder, f"{number}.wav"))[::-1] for number in range(len(jobs))]


def rhvoice() -> Callable[[Job], Spoken]:
    """Start RHVoice in this process."""
    from rhvoice_wrapper.rhvoice_proxy import Engine

    pieces: list[np.ndarray] = []
    rates: list[int] = []

    def hear(samples, count, user):  # type: ignore[no-untyped-def]
        pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 1  # go on

    def tell(rate: int, user: object) -> int:
        rates.append(rate)
        return 1

    engine = Engine()
    engine.init(hear, tell)

    def say(job: Job) -> Spoken:
        text, voice, slow = job
        pieces.clear()
        pace, pitch = 1 / slow, voice.pitch / 100
        engine.generate(text, engine.params.copy_with({"voice_profile": voice.name, "relative_rate": pace, "relative_pitch": pitch}))
        return np.concatenate(pieces), rates[-1]

    return say


def missing(programs: Iterable[str] = NEEDS) -> list[str]:
    """What must be installed before the voices of these programs can be spoken."""
    needs = [need for program in programs for need in NEEDS[program]]
    return [need for need in needs if not (find_spec(need) if need.startswith("rhvoice") else shutil.which(need))]


def say(jobs: list[Job]) -> list[Spoken]:
    """Speak each sentence. Run anew in a fresh process, the same jobs give the same samples."""
    ways = {program.__name__: lambda mine, start=program: map(start(), mine) for program in (espeak, flite, rhvoice)}
    ways["festival"] = festival
    said: dict[int, Spoken] = {}
    for program in dict.fromkeys(voice.program for _, voice, _ in jobs):
        numbers = [number for number, (_, voice, _) in enumerate(jobs) if voice.program == program]
        said |= zip(numbers, ways[program]([jobs[number] for number in numbers]), strict=True)
    return [said[number] for number in range(len(jobs))]

"""Sound through a lossy codec and back, as libsndfile (soundfile) has it: what a voice message or a phone line leaves of it.

codec     kbit/s stands for                          where
mp3       the constant rate, MPEG-1 or -2 layer III  any sample rate that MP3 has (8 to 48 kHz)
opus      the aim of its variable rate               8, 12, 16, 24 and 48 kHz
vorbis    quality, as oggenc counts it: -1 to 10     8 kHz and more
mulaw     8 bits a sample: 64 is 8 kHz, 128 16 kHz   ITU-T G.711
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from audioadv.audio.own_thread import in_own_thread
from audioadv.errors import BrokenInstallation, OptionError

FORMS: Final = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS"), "vorbis": ("OGG", "VORBIS"), "mulaw": ("WAV", "ULAW")}
RATES: Final = {
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    "opus": (8000, 12000, 16000, 24000, 48000),
}
MP3_DELAY = 1105  # samples: 576 of the encoder, 529 of the decoder; files of few bits a second lack the tag that says so
OPUS_TAIL = 0.02  # seconds, a packet: libsndfile writes too few for the encoder's delay, and the end of many sounds would be lost
OPUS_RANGE = (6.0, 256.0)  # kbit/s between which libsndfile's compression level runs; for MP3 it depends on the sample rate


def check_codec(name: str) -> None:
    """Raise OptionError for a codec that is not known here, BrokenInstallation for one that this libsndfile lacks."""
    if name not in FORMS:
        raise OptionError(f"codec {name!r}: unknown. Use one of {', '.join(FORMS)}")
    form, subtype = FORMS[name]
    if form not in soundfile.available_formats() or subtype not in soundfile.available_subtypes(form):
        raise BrokenInstallation(
            f"codec {name!r}: libsndfile {soundfile.__libsndfile_version__} was built without it. Install soundfile's own: "
            "pip install --force-reinstall soundfile"
        )


def span(name: str, sample_rate: int) -> tuple[float, float]:
    """The least and the most that may be asked of a codec that compresses, in kbit/s (Vorbis: a quality)."""
    if name in ("vorbis", "opus"):
        return (0.0, 10.0) if name == "vorbis" else OPUS_RANGE
    return (32.0, 320.0) if sample_rate >= 32000 else (8.0, 160.0) if sample_rate >= 16000 else (8.0, 64.0)


def lack(name: str, kilobits: float, sample_rate: int) -> str | None:
    """Why a codec cannot do this at that sample rate; None where it can."""
    if name in RATES and sample_rate not in RATES[name]:
        return f"codec {name!r} has no sample rate of {sample_rate} Hz, only {', '.join(map(str, RATES[name]))}"
    low, high = span(name, sample_rate)
    if name == "mulaw" or low <= kilobits <= high:
        return None
    wish = f"a quality of {low:g} to {high:g}" if name == "vorbis" else f"{low:g} to {high:g} kbit/s"
    return f"codec {name!r}: {kilobits:g} is not among what it can do at {sample_rate} Hz: {wish}"


def compression(name: str, kilobits: float, sample_rate: int) -> float:
    """libsndfile's compression level, 0 (most bits) to 1, for a rate in kbit/s (Vorbis: a quality)."""
    low, high = span(name, sample_rate)
    level = (high - kilobits) / (high - low)
    return min(level, 0.9999) if name == "mp3" else level  # libsndfile refuses MP3 its least bits as such


def through_codec(samples: Tensor, sample_rate: int, name: str, kilobits: float) -> Tensor:
    """Encoded and decoded again, aligned and as long as before; no slope. Shapes: [time] -> [time]. Units: Hz, kbit/s.

    A sound with a NaN comes back as NaN throughout: encoders have no word for it, and LAME would end the process.
    Raises OptionError for a sample rate or bit rate that the codec does not have, and as `check_codec`.
    """
    check_codec(name)
    if why := lack(name, kilobits, sample_rate):
        raise OptionError(why)
    if bool(samples.isnan().any()):
        return torch.full_like(samples, torch.nan)
    form, subtype = FORMS[name]
    level = {} if name == "mulaw" else {"compression_level": compression(name, kilobits, sample_rate)}
    mode = {"bitrate_mode": "CONSTANT"} if name == "mp3" else {}
    sound = samples.detach().cpu().clamp(-1, 1).numpy()
    given = np.pad(sound, (0, round(OPUS_TAIL * sample_rate))) if name == "opus" else sound

    def there_and_back() -> npt.NDArray[np.float32]:
        content = io.BytesIO()
        soundfile.write(content, given, sample_rate, format=form, subtype=subtype, **level, **mode)
        content.seek(0)
        decoded: npt.NDArray[np.float32] = soundfile.read(content, dtype="float32")[0]
        return decoded

    decoded = in_own_thread(there_and_back)
    late = MP3_DELAY if name == "mp3" and len(decoded) > len(sound) else 0
    back = np.zeros(len(sound), np.float32)
    kept = decoded[late : late + len(sound)]
    back[: len(kept)] = kept
    return torch.from_numpy(back).to(samples)


def through_codecs(samples: Sequence[Tensor], sample_rate: int, name: str, kilobits: float) -> list[Tensor]:
    """`through_codec` for many sounds, in as many threads as torch has: libsndfile works without Python's lock."""
    with ThreadPoolExecutor(max(1, torch.get_num_threads())) as workers:
        return list(workers.map(lambda sound: through_codec(sound, sample_rate, name, kilobits), samples))

"""Sound in and sound out, on the 16-bit grid: what is attacked is what a 16-bit file can hold.

file --decode--> [time, channels] --mean--> [time] --resample--> [time] --round16--> Clip
"""

import hashlib
import io
import math
import os
import re
import shlex
import wave
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import torch
from torch import Tensor

from audioadv.audio.whole import write_whole
from audioadv.errors import OptionError, UnreadableAudio, UnusableBatch
from audioadv.options import is_whole

Samples = npt.NDArray[np.float32]

LONGEST_SECONDS = 60.0
FASTEST = 768_000  # Hz: no converter takes more, and soxr, asked for far more, ends the process
FULL_SCALE = 32768  # steps of the 16-bit grid between 0 and 1
BOX = (-1.0, 1.0 - 1.0 / FULL_SCALE)  # what 16 bits can hold
CANCELLED = 0.01  # of the channels' mean energy: what is left in their mean is no longer what is in them
UNSTATED = 2**63 - 1  # libsndfile's frame count when the header gives none
STREAMED = 0x7FFF0000  # programs that write to a pipe put 0x7FFFF000, 0xFFFFFFFF or the like where the size belongs


@final
@dataclass(frozen=True, eq=False)
class Clip:
    """One mono sound. `samples` [time], float32 on the 16-bit grid, full scale +-1; `notices` say what reading it changed.

    `digest` is that of the file as it was read (`digest_of`), None for a sound from elsewhere; `lead_in` how many seconds of silence
    `led_in` put before it.
    """

    name: str
    samples: Tensor
    sample_rate: int
    notices: tuple[str, ...] = ()
    digest: str | None = None
    lead_in: float = 0.0

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate

    def at(self, sample_rate: int) -> "Clip":
        """The same sound at another rate (soxr, high quality), with a notice. Units: Hz. Raises OptionError as `read_clip`."""
        check_rate(sample_rate)
        other = _settled(self.name, self.samples.cpu().numpy(), self.sample_rate, sample_rate, self.notices)
        return replace(other, digest=self.digest, lead_in=self.lead_in)

    def led_in(self, seconds: float) -> "Clip":
        """The same sound after so much silence, with a notice: room for what is to be said before it."""
        silence = self.samples.new_zeros(round(seconds * self.sample_rate))
        notices = (*self.notices, f"{seconds:g} s of silence put before it")
        return replace(self, samples=torch.cat([silence, self.samples]), notices=notices, lead_in=self.lead_in + seconds)


def round16(samples: Tensor) -> Tensor:
    """The nearest samples that a 16-bit file can hold: k / 32768, k = -32768..32767. Shapes: [*] -> [*].

    >>> (round16(torch.tensor([0.5, 0.3, 2.0, -2.0])) * 32768).tolist()
    [16384.0, 9830.0, 32767.0, -32768.0]
    """
    return (samples * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1) / FULL_SCALE


def read_audio(paths: Iterable[str | Path], sample_rate: int | None = None, *, longest_seconds: float = LONGEST_SECONDS) -> list[Clip]:
    """`read_clip` for each path, in order. Raises OptionError for a path that stands alone, for what are no paths, and as `read_clip`."""
    if not isinstance(paths, Iterable):
        raise OptionError(f"paths {paths!r:.60}: no list of paths. Give one, for example read_audio(['a.wav', 'b.wav'])")
    if isinstance(paths, str | bytes | os.PathLike):
        raise OptionError(f"paths {str(paths)!r}: a single one. Give a list, read_audio([path]), or take read_clip(path)")
    return [read_clip(path, sample_rate, longest_seconds=longest_seconds) for path in paths]


def read_clip(path: str | Path, sample_rate: int | None = None, *, longest_seconds: float = LONGEST_SECONDS) -> Clip:
    """Read WAV, FLAC, OGG, MP3 and whatever else libsndfile reads, at `sample_rate` (Hz; None: the file's own).

    Channels are averaged, and the result is rounded to 16 bits; a 16-bit mono file at its own rate comes back bit for bit.
    Raises UnreadableAudio for a file that is not there, not audio, cut short, without samples, not finite or too long,
    OptionError for what is no path, and for a rate that no sound has.
    """
    if not isinstance(path, str | os.PathLike):
        raise OptionError(f"path {path!r:.60}: of type {type(path).__name__}. Give text or a Path, for example 'kitchen.wav'")
    if sample_rate is not None:
        check_rate(sample_rate)
    samples, found, notices, digest = _decode(Path(path), longest_seconds)
    mixed = samples.mean(axis=1)
    if (channels := samples.shape[1]) > 1:
        notices += (f"{channels} channels mixed down to one",)
        if np.square(mixed).sum() < CANCELLED * np.square(samples).sum() / channels:
            notices += ("its channels cancel each other: take one of them (sox IN OUT remix 1)",)
    return replace(_settled(str(path), mixed, found, sample_rate or found, notices), digest=digest)


def digest_of(descriptor: int) -> str:
    """What tells an open file from another that took its place."""
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def check_rate(sample_rate: Any) -> None:
    """Raises OptionError for a rate that no sound has."""
    if not is_whole(sample_rate) or not 1 <= sample_rate <= FASTEST:
        raise OptionError(f"sample_rate {sample_rate!r}: give hertz, a whole number from 1 to {FASTEST}, for example 16000")


def typed(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def write_wav(path: str | Path, samples: Tensor, sample_rate: int) -> None:
    """Write 16-bit mono PCM, or nothing at all: `read_clip` gives `round16(samples)` back exactly.

    Shapes: samples [time]. Units: full scale +-1, Hz. An older file stays whole until the new one is complete.
    Raises UnwritableOutput where the disk says no, UnusableBatch for samples that are no sound,
    OptionError for a rate that none has.
    """
    check_rate(sample_rate)
    path = Path(path)
    if samples.ndim != 1 or not len(samples) or not samples.isfinite().all():
        odd = "some of them NaN or infinite" if samples.ndim == 1 and len(samples) else "which is no [time]"
        raise UnusableBatch(f"{path}: samples of shape {list(samples.shape)}, {odd}. Pass one finite sample or more, as [time].")
    content = io.BytesIO()
    with wave.open(content, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        # soundfile would scale floats by 32767 here, so the grid is written as the integers that it is
        sound.writeframes((round16(samples.detach().cpu()) * FULL_SCALE).numpy().astype("<i2").tobytes())
    write_whole(path, content.getvalue())


def _settled(name: str, samples: Samples, found: int, wanted: int, notices: tuple[str, ...]) -> Clip:
    """The clip at the wanted rate, on the 16-bit grid."""
    if wanted != found:
        # soxr gives no sample at all for one or two; a sound keeps at least one
        resampled = soxr.resample(samples, found, wanted, quality="HQ")
        samples, notices = resampled if len(resampled) else samples[:1], (*notices, f"resampled from {found} Hz to {wanted} Hz")
    if beyond := int((np.abs(samples) > 1).sum()):
        notices = (*notices, f"clipped: {beyond} of {len(samples)} samples were beyond full scale")
    return Clip(name, round16(torch.from_numpy(np.array(samples, dtype=np.float32))), wanted, notices)


def _decode(path: Path, longest_seconds: float) -> tuple[Samples, int, tuple[str, ...], str]:
    """All samples [time, channels], the sample rate, notices and the file's digest, or the reason why not."""
    with _opened(path) as file:
        start, end = _first_frame(file), _last_bytes(file, 1 << 16)
        try:
            sound = soundfile.SoundFile(for_libsndfile(file), closefd=False)
        except soundfile.SoundFileError as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            cure = f"Convert it to WAV, FLAC, OGG or MP3 first: ffmpeg -i {typed(path)} OUT.wav"
            raise UnreadableAudio(f"{path}: not audio that can be read here ({reason}). {cure}") from error
        with sound:
            rate, frames = int(sound.samplerate), int(sound.frames)
            if frames == UNSTATED:
                cure = f"Write it again: ffmpeg -i {typed(path)} OUT.wav"
                raise UnreadableAudio(f"{path}: a stream whose header does not say how long it is. {cure}")
            if frames > longest_seconds * rate:
                cure = f"Cut it first: sox {typed(path)} OUT.wav trim 0 {longest_seconds:g}"
                raise UnreadableAudio(
                    f"{path}: {math.ceil(frames / rate * 1000) / 1000} s long, but at most {longest_seconds:g} s are read. {cure}"
                )
            try:
                samples = sound.read(frames, dtype="float32", always_2d=True)  # GSM and the like want to be told how much
            except (soundfile.SoundFileError, ValueError) as error:
                raise _cut_short(path, f"decoding stopped with: {error}") from error
            guessed = sound.format == "MP3" and not re.search(rb"Xing|Info|VBRI", start)
            if more := _unstated(sound, end):
                raise _cut_short(path, more, "-ignore_length 1 ", ". Where that is no sound, leave out -ignore_length 1")
            if missing := _missing(sound, end):
                raise _cut_short(path, missing)
            if len(samples) < frames and not guessed:
                raise _cut_short(path, f"{len(samples)} of {frames} samples are there")
        digest = digest_of(file.fileno())
    if not len(samples):
        raise UnreadableAudio(f"{path}: a sound of zero samples. Record or convert it again.")
    if bad := int((~np.isfinite(samples)).any(axis=1).sum()):
        raise UnreadableAudio(f"{path}: {bad} of {len(samples)} samples are NaN or infinite. Write it again with finite samples in -1..1.")
    return samples, rate, ("its MP3 header states no length: the end may be missing",) if guessed else (), digest


def for_libsndfile(file: BinaryIO) -> int:
    """An open file, from its start, as what libsndfile reads by itself: Python reads for it in callbacks, which swallow a Ctrl-C."""
    os.lseek(file.fileno(), 0, os.SEEK_SET)
    return file.fileno()


def _opened(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise UnreadableAudio(f"{path}: a folder, not a sound file. Name the files in it: {path / '*.wav'}")
        if path.exists() and not path.is_file():
            raise UnreadableAudio(f"{path}: a device or a pipe, not a file. Save the sound to a file first.")
        if path.exists() and not path.stat().st_size:
            raise UnreadableAudio(f"{path}: an empty file (0 bytes). Record or copy it again.")
        return path.open("rb")
    except FileNotFoundError as error:
        raise UnreadableAudio(f"{path}: no such file. Check the name; it is looked for from {Path.cwd()}.") from error
    except OSError as error:
        raise UnreadableAudio(f"{path}: cannot be opened ({error.strerror}). Check its name and permissions.") from error


def _first_frame(file: BinaryIO) -> bytes:
    """What follows an MP3's ID3 tags, whose texts and pictures may hold anything; a file's first bytes where it has none."""
    place = 0
    while (head := _bytes_at(file, place, 10))[:3] == b"ID3" and len(head) == 10:
        size = sum((byte & 127) << 7 * power for power, byte in enumerate(reversed(head[6:])))
        place += 10 + size + 10 * (head[5] >> 4 & 1)  # a footer repeats the head
    return _bytes_at(file, place, 1 << 12)


def _bytes_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _last_bytes(file: BinaryIO, count: int) -> bytes:
    file.seek(max(0, file.seek(0, os.SEEK_END) - count))
    return file.read()


def _missing(sound: soundfile.SoundFile, end: bytes) -> str:
    """What a file that was cut short lacks, as far as libsndfile, which repairs such files in silence, shows; else "".

    WAV, AIFF, AU, W64: libsndfile's log notes `data : 32000 (should be 28794)`.
    Ogg: the last page is cut, or carries no end-of-stream flag.
    """
    for stated, there in re.findall(r"(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", sound.extra_info):
        if int(there) < int(stated) < STREAMED:
            return f"{there} of {stated} bytes are there"
    page = end[end.rfind(b"OggS") :] if sound.format == "OGG" else b""
    if page and (len(page) < 28 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])):  # 27 bytes, a table of sizes, the data
        return "its last Ogg page is not whole"
    if page and not page[5] & 4:
        return "its last Ogg page is not marked as the last"
    return ""


def _unstated(sound: soundfile.SoundFile, end: bytes) -> str:
    """What a WAV holds beyond the samples that its header states, since the recorder was ended before it stated them all; else "".

    libsndfile's log notes `data : 1000`, and after it what is no chunk. That may be an ID3 tag, or zeros that only fill a block.
    """
    found = re.search(
        r"Length : (\d+)\n.*\ndata\s*: (\d+)\n(?:\*\*\* Unknown chunk marker \((?!3334449\))|Have 0 marker at position (\d+))",
        sound.extra_info,
        re.DOTALL,
    )
    if not found:
        return ""
    length, stated, zeros = (int(number or 0) for number in found.groups())
    filled = stated and zeros and not any(end[max(0, len(end) - (length - zeros)) :])
    return "" if filled else f"its header says {stated} bytes of samples, but {'more' if stated else 'some'} follow"


def _cut_short(path: Path, evidence: str, how: str = "", more: str = "") -> UnreadableAudio:
    cure = f"Copy or download it again, or keep what is there: ffmpeg {how}-i {typed(path)} OUT.wav{more}"
    return UnreadableAudio(f"{path}: truncated or damaged ({evidence.rstrip('.')}). {cure}")

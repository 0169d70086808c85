"""Reading and writing sound: bit for bit where 16 bits allow it, and a reason for every file that gives no sound."""

import hashlib
import io
import os
import re
import resource
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audioadv.audio.files import Clip, read_audio, read_clip, round16, write_wav
from audioadv.audio.ragged import inside, pad
from audioadv.audio.whole import make_folder
from audioadv.errors import OptionError, UnreadableAudio, UnusableBatch, UnwritableOutput

RATE = 16000
EVERY_STEP = np.arange(-32768, 32768, dtype=np.int16)


def tone(hertz: float = 440, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def steps(samples: torch.Tensor) -> np.ndarray:
    """Samples as 16-bit integers; they must lie on the grid."""
    scaled = samples.double().numpy() * 32768
    assert (scaled == scaled.round()).all()
    assert scaled.min() >= -32768
    assert scaled.max() <= 32767
    return scaled.astype(np.int16)


# --- what comes back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["WAV", "WAVEX", "AIFF", "AU", "W64", "RF64", "CAF", "FLAC"])
def test_16_bit_files_come_back_bit_for_bit(tmp_path: Path, format: str) -> None:
    path = tmp_path / "all.sound"
    soundfile.write(path, EVERY_STEP, RATE, format=format, subtype="PCM_16")
    clip = read_clip(path, RATE)
    assert (steps(clip.samples) == EVERY_STEP).all()
    assert clip.samples.dtype == torch.float32
    assert (clip.name, clip.sample_rate, clip.notices) == (str(path), RATE, ())
    assert clip.seconds == 65536 / RATE


@pytest.mark.parametrize("rate", [0, -16000, 10**9, 2**40, 1.5, 16000.0, True, "a", float("nan")])
def test_rates_that_no_sound_has_are_told(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, torch.zeros(8), RATE)
    for call in (
        lambda: read_clip(path, rate),
        lambda: read_clip(path).at(rate),
        lambda: write_wav(tmp_path / "b.wav", torch.zeros(8), rate),
    ):
        with pytest.raises(OptionError, match="give hertz, a whole number from 1 to 768000"):
            call()
    assert not (tmp_path / "b.wav").exists()


WIDTHS = {"PCM_U8": 1 / 128, "PCM_24": 2**-16, "PCM_32": 2**-16, "FLOAT": 2**-16, "DOUBLE": 2**-16, "ULAW": 0.02}


@pytest.mark.parametrize(("subtype", "error"), WIDTHS.items())
def test_other_widths_are_rounded_to_the_grid(tmp_path: Path, subtype: str, error: float) -> None:
    soundfile.write(tmp_path / "a.wav", tone(), RATE, subtype=subtype)
    clip = read_clip(tmp_path / "a.wav")
    steps(clip.samples)
    assert np.abs(clip.samples.numpy() - tone()).max() <= error + 1e-7
    assert clip.notices == ()


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_lossy_formats_keep_the_tone(tmp_path: Path, format: str, subtype: str, rate: int) -> None:
    soundfile.write(tmp_path / "a", tone(rate=rate), rate, format=format, subtype=subtype)
    clip = read_clip(tmp_path / "a")
    assert clip.sample_rate == rate
    assert clip.seconds == 0.5
    assert np.corrcoef(clip.samples.numpy(), tone(rate=rate))[0, 1] > 0.99


def test_channels_are_averaged(tmp_path: Path) -> None:
    quarters = np.random.default_rng(0).integers(-8000, 8000, (1000, 4), dtype=np.int16) * 4
    soundfile.write(tmp_path / "quad.wav", quarters, RATE, subtype="PCM_16")
    clip = read_clip(tmp_path / "quad.wav")
    assert (steps(clip.samples) == quarters.astype(int).sum(axis=1) // 4).all()
    assert clip.notices == ("4 channels mixed down to one",)


def test_opposite_channels_beyond_full_scale_cancel_before_clipping(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.tile([1.75, -1.25], (100, 1)), RATE, subtype="FLOAT")
    assert (read_clip(tmp_path / "a.wav").samples == 0.25).all()


@pytest.mark.parametrize(("rate", "wanted"), [(44100, 16000), (8000, 16000), (48000, 16000), (16000, 8000)])
def test_resampling_keeps_a_tone_that_fits_and_its_place(tmp_path: Path, rate: int, wanted: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(440, 0.5, rate), rate)
    clip = read_clip(tmp_path / "a.wav", wanted)
    assert clip.notices == (f"resampled from {rate} Hz to {wanted} Hz",)
    assert len(steps(clip.samples)) == 0.5 * wanted
    inner = slice(wanted // 20, -wanted // 20)
    assert np.abs(clip.samples.numpy() - tone(440, 0.5, wanted))[inner].max() < 1e-3


def test_resampling_removes_a_tone_that_would_alias(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(7000, 0.5), RATE)
    assert read_clip(tmp_path / "a.wav", 8000).samples[400:-400].abs().max() <= 1 / 32768


def test_a_clip_resamples_itself() -> None:
    clip = Clip("a.wav", round16(torch.tensor(tone(), dtype=torch.float32)), RATE, ("first",))
    assert clip.at(RATE).samples.equal(clip.samples)
    assert clip.at(RATE).notices == ("first",)
    assert clip.at(8000).notices == ("first", "resampled from 16000 Hz to 8000 Hz")
    assert clip.at(8000).seconds == clip.seconds


def test_floats_beyond_full_scale_are_clipped_and_counted(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5, 1.5, -3.0, 1.0, -1.0]), RATE, subtype="FLOAT")
    clip = read_clip(tmp_path / "a.wav")
    assert steps(clip.samples).tolist() == [16384, 32767, -32768, 32767, -32768]
    assert clip.notices == ("clipped: 2 of 5 samples were beyond full scale",)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_U8", "PCM_24"])
@pytest.mark.parametrize("wanted", [None, 16000, 96000])
def test_one_sample_is_a_sound(tmp_path: Path, subtype: str, wanted: int | None) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.25]), 48000, subtype=subtype)
    samples = read_clip(tmp_path / "a.wav", wanted).samples
    assert samples.ndim == 1
    assert len(samples) == (2 if wanted == 96000 else 1)


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "GSM610"), ("WAV", "MS_ADPCM"), ("W64", "GSM610"), ("WAV", "G721_32")])
def test_codecs_that_cannot_be_wound_are_read_whole(tmp_path: Path, format: str, subtype: str) -> None:
    soundfile.write(tmp_path / "phone", tone(rate=8000), 8000, format=format, subtype=subtype)
    clip = read_clip(tmp_path / "phone")
    assert abs(len(clip.samples) - 4000) <= 640  # a block
    assert abs(clip.samples[:4000].norm() / np.linalg.norm(tone(rate=8000)) - 1) < 0.1


@pytest.mark.parametrize("title", [b"Weather", b"Information desk", b"Xing" * 4_000])
def test_what_an_mp3s_title_says_is_not_taken_for_its_length(tmp_path: Path, title: bytes) -> None:
    size = len(title) + 11
    tag = (
        b"ID3\3\0\0" + bytes(size >> 7 * power & 127 for power in (3, 2, 1, 0)) + b"TIT2" + (len(title) + 1).to_bytes(4, "big") + b"\0\0\3"
    )
    told = []
    for bits, mode in ((0.9999, "CONSTANT"), (0.5, "VARIABLE")):  # of so few bits that LAME states no length, and as it comes
        sound = io.BytesIO()
        options = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": bits, "bitrate_mode": mode}
        soundfile.write(sound, tone(seconds=2), RATE, **options)
        (tmp_path / "titled.mp3").write_bytes(tag + title + sound.getvalue())
        told.append(any("states no length" in notice for notice in read_clip(tmp_path / "titled.mp3").notices))
    assert told == [True, False]


def test_several_files_come_in_order(tmp_path: Path) -> None:
    for count in (3, 1, 2):
        write_wav(tmp_path / f"{count}.wav", torch.zeros(count), RATE)
    clips = read_audio([tmp_path / "3.wav", str(tmp_path / "1.wav"), tmp_path / "2.wav"], RATE)
    batch, lengths = pad([clip.samples for clip in clips])
    assert lengths.tolist() == [3, 1, 2]
    assert batch.shape == (3, 3)


# --- what is refused ---------------------------------------------------------------------------------------------------


def refused(path: Path, **options: float) -> str:
    with pytest.raises(UnreadableAudio) as caught:
        read_clip(path, RATE, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")  # names the thing
    assert re.search(r"[.] [A-Z]", message)  # and a cure after what is wrong
    return message


def test_missing_files_folders_and_devices(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.wav")
    assert "a folder" in refused(tmp_path)
    assert "a device" in refused(Path(os.devnull))
    assert "cannot be opened" in refused(tmp_path / ("long" * 100))


TIMES = 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_ctrl_c_while_a_file_is_read_is_no_fault_of_the_file(tmp_path: Path, form: str) -> None:
    soundfile.write(path := tmp_path / f"tone.{form.lower()}", tone(seconds=0.1), RATE, format=form)
    pressed, started = 0, time.perf_counter()
    for _ in range(10):
        read_clip(path)
    whole, before = (time.perf_counter() - started) / 10, signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for part in range(TIMES):
            try:
                signal.setitimer(signal.ITIMER_REAL, whole * (part + 1) / TIMES)
                read_clip(path)
                time.sleep(0.01)  # where it comes after the end
            except KeyboardInterrupt:
                pressed += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pressed > 0.9 * TIMES, "Python drops what comes within a __del__, and no more than that may be lost"


def test_files_that_are_not_audio(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    assert "0 bytes" in refused(tmp_path / "empty.wav")
    for name in ("text.wav", "text.mp3", "text.raw", "text"):
        (tmp_path / name).write_text("open the door, please\n" * 50)
        assert "not audio" in refused(tmp_path / name)


UNCOMPRESSED = [
    "WAV PCM_16",
    "WAV PCM_24",
    "WAV FLOAT",
    "WAV ULAW",
    "WAVEX PCM_16",
    "AIFF PCM_16",
    "AU PCM_16",
    "W64 PCM_16",
    "RF64 PCM_16",
]
COMPRESSED = ["FLAC PCM_16", "OGG VORBIS", "OGG OPUS", "MP3 MPEG_LAYER_III"]


@pytest.mark.parametrize("kept", [0.99, 0.95, 0.8, 0.5])
@pytest.mark.parametrize("kind", UNCOMPRESSED + COMPRESSED)
def test_truncated_files(tmp_path: Path, kind: str, kept: float) -> None:
    format, subtype = kind.split()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE)
    soundfile.write(tmp_path / "a", noise, RATE, format=format, subtype=subtype)
    whole = (tmp_path / "a").read_bytes()
    assert len(read_clip(tmp_path / "a").samples) == len(noise)
    (tmp_path / "a").write_bytes(whole[: int(kept * len(whole))])
    assert "truncated" in refused(tmp_path / "a")


@pytest.mark.parametrize("kind", ["WAV PCM_16", "FLAC PCM_16", "OGG VORBIS", "OGG OPUS", "MP3 MPEG_LAYER_III"])
def test_no_cut_crashes_or_goes_unseen(tmp_path: Path, kind: str) -> None:
    format, subtype = kind.split()
    soundfile.write(tmp_path / "a", tone(seconds=1.5), RATE, format=format, subtype=subtype)
    whole = (tmp_path / "a").read_bytes()
    for kept in {*range(1, 200), *range(200, len(whole) - 200, 503), *range(len(whole) - 200, len(whole), 7)}:
        (tmp_path / "a").write_bytes(whole[:kept])
        refused(tmp_path / "a")


def test_a_wav_that_lacks_its_last_sample_only(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", torch.zeros(RATE), RATE)
    os.truncate(tmp_path / "a.wav", 44 + 2 * RATE - 2)
    assert "31998 of 32000 bytes" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [0x7FFFF000, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_does_not_count_as_truncated(tmp_path: Path, size: int) -> None:
    write_wav(tmp_path / "a.wav", torch.full((100,), 0.25), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(content)
    assert (read_clip(tmp_path / "a.wav").samples == 0.25).all()


@pytest.mark.parametrize("level", [0.0, 0.25])
def test_a_wav_whose_recorder_was_ended_says_so(tmp_path: Path, level: float) -> None:
    """It writes how much there is at its end, and 0 before."""
    write_wav(tmp_path / "a.wav", torch.full((8000,), level), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = bytes(4)
    (tmp_path / "a.wav").write_bytes(content)
    assert "its header says 0 bytes of samples, but some follow" in refused(tmp_path / "a.wav")
    (tmp_path / "a.wav").write_bytes(content[:44] + b"LIST\x04\0\0\0abcd")
    assert "zero samples" in refused(tmp_path / "a.wav")


def stating(path: Path, stated: int, after: bytes) -> Path:
    """A WAV of 8000 samples whose header states so many bytes of them; `after` is what comes after all."""
    write_wav(path, 0.25 * torch.randn(8000, generator=torch.Generator().manual_seed(0)), RATE)
    content = bytearray(path.read_bytes())
    content[40:44] = struct.pack("<I", stated)
    path.write_bytes(bytes(content) + after)
    return path


@pytest.mark.parametrize("after", [b"", bytes(64)])
def test_a_wav_whose_recorder_stated_a_part_says_so(tmp_path: Path, after: bytes) -> None:
    why = refused(stating(tmp_path / "a.wav", 1000, after))
    assert "its header says 1000 bytes of samples, but more follow" in why
    assert "ffmpeg -ignore_length 1 -i" in why


def test_a_part_that_is_followed_by_silence_and_then_by_sound(tmp_path: Path) -> None:
    file = stating(tmp_path / "a.wav", 1000, b"")
    content = bytearray(file.read_bytes())
    content[1044:1200] = bytes(156)
    file.write_bytes(content)
    assert "its header says 1000 bytes of samples, but more follow" in refused(file)


@pytest.mark.parametrize(
    "after", [b"\0", b"\1\2\3\4\5", b"abcd\4\0\0\0zzzz", b"LIST\4\0\0\0INFO", bytes(64), b"ID3\3" + bytes(60), b"TAG" + bytes(125)]
)
def test_what_is_no_sound_may_follow_the_samples(tmp_path: Path, after: bytes) -> None:
    assert len(read_clip(stating(tmp_path / "a.wav", 16000, after)).samples) == 8000


def test_zero_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert "zero samples" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, poison: float) -> None:
    samples = np.zeros((100, 2))
    samples[[7, 8], [0, 1]] = poison
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert "2 of 100 samples are NaN or infinite" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_a_clip_knows_the_file_that_it_was_read_from(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 5000), 16000)
    with (tmp_path / name).open("ab") as file:
        file.write(b"LIST\x08\0\0\0INFOabcd" if name == "a.wav" else b"")  # a chunk after the samples counts too
    clip = read_clip(tmp_path / name)
    assert clip.digest == clip.at(8000).digest == clip.led_in(0.1).digest
    assert clip.digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()[:16]


def test_long_files_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros(61 * 8000), 8000)
    soundfile.write(tmp_path / "b.flac", np.zeros(60 * 8000), 8000)
    assert read_clip(tmp_path / "b.flac").seconds == 60
    assert read_clip(tmp_path / "a.flac", longest_seconds=61).seconds == 61
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    message = refused(tmp_path / "a.flac")
    assert "61.0 s long" in message
    assert f"sox {tmp_path / 'a.flac'} OUT.wav trim 0 60" in message
    assert "1.5 s" in refused(tmp_path / "b.flac", longest_seconds=1.5)


# --- what is written ---------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    grid = torch.from_numpy(EVERY_STEP).float() / 32768
    write_wav(tmp_path / "a.wav", grid, RATE)
    assert read_clip(tmp_path / "a.wav").samples.equal(grid)
    assert (soundfile.read(tmp_path / "a.wav", dtype="int16")[0] == EVERY_STEP).all()
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_off_the_grid_the_file_holds_round16(tmp_path: Path) -> None:
    samples = torch.empty(10000).uniform_(-1.2, 1.2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    write_wav(tmp_path / "a.wav", samples, 8000)
    assert read_clip(tmp_path / "a.wav", 8000).samples.equal(round16(samples.detach()))


def test_round16_is_the_nearest_step_and_once_is_enough() -> None:
    samples = torch.linspace(-1.1, 1.1, 100001)
    rounded = round16(samples)
    steps(rounded)
    assert round16(rounded).equal(rounded)
    within = (samples >= -1) & (samples <= 32767 / 32768)
    assert (rounded - samples)[within].abs().max() <= 0.5 / 32768
    assert set(rounded[samples > 1].tolist()) == {32767 / 32768}
    assert set(rounded[samples < -1].tolist()) == {-1}


def test_an_older_file_is_replaced(tmp_path: Path) -> None:
    for level in (0.5, 0.25):
        write_wav(tmp_path / "a.wav", torch.full((10,), level), RATE)
    assert (read_clip(tmp_path / "a.wav").samples == 0.25).all()
    assert os.listdir(tmp_path) == ["a.wav"]


@pytest.mark.parametrize("samples", [[], [[0.0, 0.0]], 0.0, [0.0, np.nan], [np.inf]])
def test_samples_that_are_no_sound_are_not_written(tmp_path: Path, samples: object) -> None:
    with pytest.raises(UnusableBatch, match=r"a\.wav: samples of shape"):
        write_wav(tmp_path / "a.wav", torch.tensor(samples), RATE)
    assert not os.listdir(tmp_path)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path, Path(os.devnull), tmp_path / "none" / "a.wav", tmp_path / "file" / "a.wav", tmp_path / ("long" * 100)):
        with pytest.raises(UnwritableOutput, match=re.escape(str(place))):
            write_wav(place, torch.zeros(10), RATE)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UnwritableOutput, match="Permission denied"):
        write_wav(tmp_path / "a.wav", torch.zeros(10), RATE)
    assert not os.listdir(tmp_path)


@contextmanager
def room_for_1000_bytes() -> Iterator[None]:
    """The system stops every file at 1000 bytes, part-way through a write, as a full disk does: this process's output too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_stops_part_way_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", torch.full((10,), 0.25), RATE)
    with pytest.raises(UnwritableOutput, match="too large"), room_for_1000_bytes():
        write_wav(tmp_path / "a.wav", torch.zeros(RATE), RATE)
    assert os.listdir(tmp_path) == ["a.wav"]
    assert (read_clip(tmp_path / "a.wav").samples == 0.25).all()


# --- ragged batches ----------------------------------------------------------------------------------------------------


def test_padding_is_zero_and_outside() -> None:
    clips = [torch.ones(3), torch.ones(5), torch.ones(0)]
    batch, lengths = pad(clips)
    assert lengths.dtype == torch.int64
    assert lengths.tolist() == [3, 5, 0]
    assert batch.equal(inside(lengths, 5).float())
    assert inside(lengths, 7).sum(dim=1).tolist() == [3, 5, 0]


@pytest.mark.parametrize("clips", [[], [torch.ones(3), torch.ones(1, 3)], [torch.ones(2), torch.ones(2).double()], [torch.tensor(1.0)]])
def test_clips_that_make_no_batch(clips: list[torch.Tensor]) -> None:
    with pytest.raises(UnusableBatch, match="Pass one clip or more"):
        pad(clips)


@pytest.mark.parametrize("option", ["", "--out "])
def test_a_folder_is_made_with_those_above_it_or_told_by_what_named_it(tmp_path: Path, option: str) -> None:
    make_folder(tmp_path / "a" / "b", option)
    make_folder(tmp_path / "a" / "b", option)
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "notes").touch()
    with pytest.raises(UnwritableOutput, match=rf"^{option}{re.escape(str(tmp_path))}/notes/c: cannot be made \(Not a directory\)"):
        make_folder(tmp_path / "notes" / "c", option)

"""What is on disk is what counts: a crafted clip is written as 16-bit WAV, read back, and judged there."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from audioadv.attacks.crafted import Crafted
from audioadv.attacks.result import Outcome
from audioadv.audio.files import read_clip, write_wav
from audioadv.models.recogniser import Recogniser, heard_alone
from audioadv.threat.goals import TextGoal


def write_and_judge(stage: Path, name: str, crafted: Crafted, goal: TextGoal, model: Recogniser) -> dict[str, Any]:
    """Write NAME.wav and NAME.clean.wav into the folder `stage`, where the goal is reached in the file; the result line.

    `goal` is that of this one clip. The line's `out` is the file within `stage`, None where there is none. Raises UnwritableOutput.
    """
    line = crafted.line() | {"adversarial_transcript": None, "reached": False, "out": None, "notices": crafted.clip.notices}
    if not crafted.reached:
        return line | {"excess": None}
    file = stage / f"{name}.wav"
    write_wav(file, crafted.adversarial, model.sample_rate)
    samples = read_clip(file, model.sample_rate).samples
    outputs = heard_alone(model, samples)
    # a channel's judge draws were heard from the array: the file must be that array
    if bool(goal.reached(outputs)) if crafted.channel is None else torch.equal(samples, crafted.adversarial):
        write_wav(stage / f"{name}.clean.wav", crafted.clip.samples, model.sample_rate)
        return line | {"adversarial_transcript": outputs.transcripts()[0], "reached": True, "out": str(file)}
    file.unlink()
    note = "Reached, but not in the file read back. Run it again with more steps."
    return line | {"outcome": str(Outcome.MISSED), "note": note, "excess": None, "snr_db": None, "relative_db": None}


def source(crafted: Crafted, path: Path, folder: Path, text: str | None) -> dict[str, Any]:
    """Where a result came from, as a manifest in `folder` says it, and the file's digest."""
    where = {"audio_filepath": seen_from(folder, path), "duration": round(crafted.clip.seconds, 3), "digest": digest_of(path)}
    return where if text is None else {**where, "text": text}


def digest_of(path: Path) -> str | None:
    """What tells a file from another that took its place; None for one that is not there or cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return None


def seen_from(folder: Path, path: Path) -> str:
    """The way to a file from a folder, whatever links lead to either; a file that is itself a link keeps its name.

    >>> seen_from(Path("run"), Path("clips/kitchen.wav"))
    '../clips/kitchen.wav'
    """
    return os.path.relpath(os.path.join(os.path.realpath(path.parent), path.name), os.path.realpath(folder))


@contextmanager
def alone_in(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Within it, no other process is: two that write to one folder at once would lose lines of each other's.

    The lock is the kernel's, and goes with a process that dies. Raises OSError where it does not `wait` and another is in there.
    """
    import fcntl  # of POSIX systems

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)

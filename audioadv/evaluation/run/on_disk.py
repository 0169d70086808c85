"""What is on disk is what counts: a crafted clip is written as 16-bit WAV, read back, and judged there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, final

import torch

from audioadv.attacks.crafted import Crafted
from audioadv.attacks.result import Outcome
from audioadv.audio.files import digest_of, read_clip, write_wav
from audioadv.models.recogniser import Recogniser, heard_alone
from audioadv.threat.bounds import Bound
from audioadv.threat.goals import Mistranscribe, TextGoal


@final
class Request(NamedTuple):
    """What was asked for: the model and the attack by the names that the command line has for them, and what decides the rest."""

    model: str
    attack: str
    bound: Bound
    seed: int
    restarts: int
    rate: float

    def line(self, crafted: Crafted, goal: TextGoal) -> dict[str, Any]:
        """Its part of a result line: the rate where draws were counted, the share of words wrong where one is misheard."""
        asked = {"model": self.model, "attack": self.attack, "bound_asked": str(self.bound), "minimal": self.bound.minimal}
        asked |= {"seed": self.seed, "restarts": self.restarts}
        asked |= {} if crafted.channel is None else {"rate_asked": self.rate}
        return asked | ({"errors_asked": goal.errors} if isinstance(goal, Mistranscribe) else {})


def write_result(
    stage: Path,
    folder: Path,
    name: str,
    source: tuple[Path, str | None],
    crafted: Crafted,
    goal: TextGoal,
    model: Recogniser,
    request: Request,
) -> dict[str, Any]:
    """Write a clip's sounds into the folder `stage`, as `write_and_judge`; its result line, a manifest's too.

    The files are to lie in `folder`, a run's or craft's, as NAME with its suffixes; `source` is the file that was attacked, and what is
    said in it. Raises UnwritableOutput.
    """
    (path, text), judged, clip = source, write_and_judge(stage, Path(name).name, crafted, goal, model), crafted.clip
    return {
        "name": name,
        "audio_filepath": seen_from(folder, path),
        "duration": round(clip.seconds - clip.lead_in, 3),  # the file's own
        **({"lead_in": clip.lead_in} if clip.lead_in else {}),
        "digest": clip.digest,
        **({} if text is None else {"text": text}),
        **judged,
        "out": str(folder / f"{name}.wav") if judged["reached"] else None,
        "gauge": crafted.gauge if judged["reached"] else None,
        **request.line(crafted, goal),
    }


def write_and_judge(stage: Path, name: str, crafted: Crafted, goal: TextGoal, model: Recogniser) -> dict[str, Any]:
    """Write NAME.wav and NAME.clean.wav into the folder `stage`, where the goal is reached in the file; what became of the clip.

    `goal` is that of this one clip. Raises UnwritableOutput.
    """
    line = crafted.line() | {"adversarial_transcript": None, "reached": False, "notices": crafted.clip.notices}
    if not crafted.reached:
        return line | {"excess": None}
    file = stage / f"{name}.wav"
    write_wav(file, crafted.adversarial, model.sample_rate)
    samples = read_clip(file, model.sample_rate).samples
    outputs = heard_alone(model, samples)
    # a channel's judge draws were heard from the array: the file must be that array
    if bool(goal.reached(outputs)) if crafted.channel is None else torch.equal(samples, crafted.adversarial):
        write_wav(stage / f"{name}.clean.wav", crafted.clip.samples, model.sample_rate)
        return line | {"adversarial_transcript": outputs.transcripts()[0], "reached": True}
    file.unlink()
    note = "Reached, but not in the file read back. Run it again with more steps."
    return line | {"outcome": str(Outcome.MISSED), "note": note, "excess": None, "snr_db": None, "relative_db": None}


def digest_by_now(path: Path) -> str | None:
    """The digest of what is at a path; None where nothing is, or nothing that can be read."""
    try:
        with path.open("rb") as file:
            return digest_of(file.fileno())
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

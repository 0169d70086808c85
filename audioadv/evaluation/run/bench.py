"""A run: every clip of a manifest, under every setting, into a folder; it may be killed anywhere and started again.

    clips x models x channels x attacks x bounds --plan (`plan.py`)--> batches of clips of like length --work--> files, then lines

    RUN/run.json                  what is claimed, and the arguments
    RUN/results.jsonl             a line a job (`evaluation/run/ledger.py`): a manifest too
    RUN/SETTING/NAME.wav          the adversarial clip, 16 bits; only where the goal is reached
    RUN/SETTING/NAME.clean.wav    the clean clip as it was attacked
    RUN/SETTING/NAME.json         the line again, beside its files

A batch's files take their places first, its lines come after, all in one write: what has a line is done, what has none is done
again and gives the same bytes. So is what has a line, but no sound any more: the sound comes back, and the line stays.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, final

import torch

from audioadv.attacks.craft import Progress, craft_each, heard_clean
from audioadv.audio.files import Clip, read_clip
from audioadv.audio.whole import sweep
from audioadv.errors import AudioadvError, UnusableBatch, UnwritableOutput, remedy
from audioadv.evaluation.run.ledger import Ledger, Line
from audioadv.evaluation.run.on_disk import Request, alone_in, digest_by_now, seen_from, write_result
from audioadv.evaluation.run.plan import Batch, Job, Setting, all_in_one
from audioadv.models.recogniser import Emissions, Recogniser

STAGE = ".stage-"  # what a folder that files are made in begins with; its maker is alone in it


@final
class Usable(NamedTuple):
    """A job whose clip can be attacked, and what the model made of that; None where its device's memory did not hold it."""

    job: Job
    clip: Clip
    heard: Emissions | None


@final
@dataclass(frozen=True, eq=False)
class Bench:
    """A run at work in one process.

    `folder` is RUN, `options` are those of `craft_each` that all settings share; `model` gives the recogniser of a name, and
    `complain` hears, of each clip that cannot be used, why.
    """

    folder: Path
    ledger: Ledger
    options: Mapping[str, Any]
    model: Callable[[str], Recogniser]
    complain: Callable[[AudioadvError], None]
    progress: Callable[[Progress], None] | None = None

    def missing(self, batch: Batch) -> list[Job]:
        """The jobs of a batch that have no line yet, or have lost their sound."""
        done = {name for name, line in self.ledger.refresh().items() if not is_gone(self.folder, line)}
        return [job for job in batch.jobs if f"{batch.setting.folder}/{job.name}" not in done]

    def work(self, batch: Batch) -> list[Line]:
        """Attack what is missing of a batch; the new lines. What cannot be used is told and left out.

        Raises UnwritableOutput, and what `craft_each` does.
        """
        jobs = self.missing(batch)
        model = self.model(batch.setting.model) if jobs else None
        usable: list[Usable] = []
        for job in jobs:
            assert model is not None
            try:
                job.goal(model)
                clip, heard = read_clip(job.path, model.sample_rate), None
                with suppress(torch.OutOfMemoryError):  # told where it is attacked
                    heard = heard_clean(model, clip)
                usable.append(Usable(job, clip, heard))
            except AudioadvError as error:
                self.complain(error if str(error).startswith(job.where) else type(error)(f"{job.where}: {error}"))
        return self.attack(batch.setting, usable, model) if usable and model is not None else []

    def attack(self, setting: Setting, usable: Sequence[Usable], model: Recogniser) -> list[Line]:
        """Craft, judge and save these clips together; in halves where the device's memory does not hold them all."""
        try:
            return self.save(setting, usable, model)
        except torch.OutOfMemoryError:
            if len(usable) == 1:
                (job, clip, _), *_ = usable
                cure = "Leave the clip out, or use --device cpu"
                self.complain(UnusableBatch(f"{job.where}: {clip.seconds:.1f} s are too long for the memory of {model.device}. {cure}"))
                return []
        half = len(usable) // 2
        return self.attack(setting, usable[:half], model) + self.attack(setting, usable[half:], model)

    def save(self, setting: Setting, usable: Sequence[Usable], model: Recogniser) -> list[Line]:
        """As `attack`, at once. Nothing takes its place before all of it is written."""
        goals, clips, heard = [one.job.goal(model) for one in usable], [one.clip for one in usable], [one.heard for one in usable]
        together = all_in_one(goals)
        options = {**self.options, "bound": setting.bound, "attack": setting.attack, "channel": setting.channel, "batch": len(usable)}
        results = craft_each(model, clips, together, progress=self.progress, heard=heard, **options)
        request = Request(setting.model, setting.attack, setting.bound, **{key: self.options[key] for key in ("seed", "restarts", "rate")})
        place, lines = self.folder / setting.folder, []
        try:
            with TemporaryDirectory(prefix=STAGE, dir=self.folder) as made_in, alone_in(Path(made_in)):
                stage = Path(made_in)
                for (job, *_), goal, crafted in zip(usable, goals, results, strict=True):
                    name = f"{setting.folder}/{job.name}"
                    lines.append(write_result(stage, self.folder, name, (job.path, job.text), crafted, goal, model, request))
                    (stage / f"{job.name}.json").write_text(json.dumps(lines[-1], indent=2) + "\n", encoding="utf-8")
                place.mkdir(exist_ok=True)
                for made in sorted(stage.iterdir()):
                    os.replace(made, place / made.name)
        except UnwritableOutput as error:  # where it was tried says nothing to a user
            raise UnwritableOutput(str(error).replace(made_in, str(place))) from error
        except OSError as error:
            cure = f"{remedy(error)}, and start the same command again"
            raise UnwritableOutput(f"{place}: files cannot be written ({error.strerror}). {cure}") from error
        return self.ledger.append(lines)  # but those that only brought their sounds back

    def tidy(self) -> None:
        """Take away what killed workers left behind, and nothing of those that live. Only once all is done."""
        for place in (self.folder, *(path for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith(STAGE))):
            sweep(place)
        for stage in self.folder.glob(f"{STAGE}*"):
            with suppress(OSError), alone_in(stage, wait=False):
                shutil.rmtree(stage, ignore_errors=True)


def is_gone(folder: Path, line: Line) -> bool:
    """Whether a clip of the run in this folder was reached, and its sound is there no more."""
    return bool(line["reached"]) and not (folder / f"{line['name']}.wav").exists()


def changed_clips(ledger: Mapping[str, Line], jobs: Iterable[Job], settings: Iterable[Setting], folder: Path) -> list[str]:
    """In words, which results are of other clips, sounds or texts than the manifest has by now under the same name."""
    digest = cache(digest_by_now)
    now = {f"{setting.folder}/{job.name}": job for setting in settings for job in jobs}
    changed = []
    for name, line in ledger.items():
        job = now.get(name)
        if job is None:
            changed.append(f"{name}: no longer in the manifest")
            continue
        for key, then, value in (
            ("audio_filepath", line.get("audio_filepath"), seen_from(folder, job.path)),
            ("text", line.get("text"), job.text),
            ("target", line.get("target"), job.wish),
            ("errors_asked", line.get("errors_asked"), job.errors if "errors_asked" in line else None),
        ):
            if then != value:
                changed.append(f"{job.where}: {key} was {then!r}, now {value!r}")
        if line.get("digest") not in (None, digest(job.path)) and digest(job.path):
            changed.append(f"{job.where}: {job.path} is another file by now than the one that was attacked")
    return changed

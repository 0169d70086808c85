"""What a run is to do: every clip of a manifest under every setting, in batches of clips of like length.

    models x channels x attacks x bounds --every_setting--> settings --plan--> batches
                                                   jobs, one a clip --^

A setting is a row of the run's table; a job is what one clip is to be heard as.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple, final

import soundfile

from audioadv.audio.files import LONGEST_SECONDS
from audioadv.errors import UnusableTarget
from audioadv.models.recogniser import Recogniser
from audioadv.threat.bounds import Bound, parse_bound
from audioadv.threat.channels.channel import NOTHING, Channel
from audioadv.threat.channels.specs import parse_channel
from audioadv.threat.goals import NOT_AS, USUAL_ERRORS, Mistranscribe, Silence, TextGoal, Transcribe, as_texts, check_spelt
from audioadv.threat.words import plain_words

LONGEST_FOLDER = 80  # characters of its name


@final
@dataclass(frozen=True)
class Setting:
    """What is the same for a whole table row. `folder` is where its files go, within the run's."""

    model: str
    attack: str
    bound: Bound
    channel: Channel
    folder: str


def every_setting(models: Sequence[str], attacks: Sequence[str], bounds: Sequence[str], channels: Sequence[str]) -> list[Setting]:
    """Every combination, model by model, each once and each with a folder of its own. Raises MalformedSpec."""
    names: dict[str, int] = {}
    settings = []
    asked = {str(bound): bound for bound in map(parse_bound, bounds)}  # spelt otherwise, it is the same
    parsed = list(asked.values()), map(parse_channel, channels)
    for model, channel, attack, bound in product(dict.fromkeys(models), dict.fromkeys(parsed[1]), dict.fromkeys(attacks), parsed[0]):
        parts = (model, attack, str(bound), *([] if channel == NOTHING else [str(channel)]))
        name = "_".join(re.sub(r"[^A-Za-z0-9.,=+@-]+", "-", part) for part in parts)[:LONGEST_FOLDER]
        names[name.casefold()] = names.get(name.casefold(), 0) + 1
        settings.append(Setting(model, attack, bound, channel, name if names[name.casefold()] == 1 else f"{name}_{names[name.casefold()]}"))
    return settings


@final
@dataclass(frozen=True)
class Job:
    """One clip of the manifest. `name` is that of its files; `text` is what is said, `target` what is to be heard, None for
    anything but the text, of whose words the share `errors` is to be wrong. With `silence`, nothing is to be heard."""

    where: str
    path: Path
    name: str
    text: str | None
    target: str | None
    seconds: float
    silence: bool = False
    errors: float = USUAL_ERRORS

    @property
    def kind(self) -> tuple[bool, bool, float]:
        """What is the same for jobs whose goals can be one: whether they are to be misheard, and how much, or heard as nothing."""
        return self.target is None, self.silence, self.errors if self.target is None else 0.0

    @property
    def wish(self) -> str:
        """What a result calls its target."""
        return NOT_AS + plain_words(self.text or "") if self.target is None else as_texts(self.target)[0]

    def goal(self, model: Recogniser) -> TextGoal:
        """What the model is to make of the clip. Raises UnusableTarget for texts that it never writes, or none at all."""
        if self.silence:
            return Silence()
        if not self.wish:
            raise UnusableTarget(
                f"{self.where}: target {self.target!r} is no text to be heard as. Give --silence for all, --target TEXT or --untargeted"
            )
        if self.target is None and not plain_words(self.text or ""):
            raise UnusableTarget(
                f"{self.where}: neither a target nor a text. Say what it should be heard as (target, or --target TEXT), or what is "
                "said in it (text), to have that misheard"
            )
        try:
            goal = Mistranscribe(plain_words(self.text or ""), self.errors) if self.target is None else Transcribe(self.target)
            check_spelt(goal, model.vocabulary)
        except UnusableTarget as error:
            raise UnusableTarget(f"{self.where}: {error}") from error
        return goal


def all_in_one(goals: Sequence[TextGoal]) -> TextGoal:
    """The goals of single clips, which are of one kind, as that of them all."""
    texts = [text for goal in goals for text in goal.texts]
    match goals[0]:
        case Silence():
            return goals[0]
        case Mistranscribe(errors=errors):
            return Mistranscribe(texts, errors)
        case _:
            return Transcribe(texts)


class Batch(NamedTuple):
    """Jobs to be attacked at once: of one setting, of one kind, of like length."""

    setting: Setting
    jobs: tuple[Job, ...]

    @property
    def key(self) -> str:
        """The same in each process that works on the run."""
        return f"{self.setting.folder}/{self.jobs[0].name}"


def plan(jobs: Sequence[Job], settings: Sequence[Setting], size: int) -> list[Batch]:
    """All batches, the longest clips of each setting first: what does not fit into memory is seen early, and the last to finish
    are short."""
    batches = []
    for setting in settings:
        for kind in sorted({job.kind for job in jobs}):
            some = sorted((job for job in jobs if job.kind == kind), key=lambda job: -job.seconds)
            batches += [Batch(setting, tuple(some[first : first + size])) for first in range(0, len(some), size)]
    return batches


def length_of(path: Path) -> float:
    """Seconds, by the file's header, at most as long as a clip may be; 0 where it cannot be read. Both are told when its turn comes."""
    try:
        return min(float(soundfile.info(str(path)).duration), LONGEST_SECONDS)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError):  # ValueError: a name that is no text
        return 0.0

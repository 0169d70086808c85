"""Is a run that is over broken? What its lines say of each clip, set beside its files, and beside its other settings.

    RUN/results.jsonl  --one group for each model, attack, bound and channel-->  evidence  -->  indicators (`indicators.py`)
    RUN/NAME.wav, RUN/NAME.clean.wav  --measured, and heard again-->

Nothing is attacked: what no line tells stays unknown. A line's `saw` is what the attack saw of its clip (`attacks/trace.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from audioadv.attacks.trace import SPILL, Sight
from audioadv.audio.files import BOX, read_clip
from audioadv.errors import InputError, OptionError
from audioadv.evaluation.run.ledger import check_results, read_results
from audioadv.evaluation.sanity.indicators import Checkup, Evidence
from audioadv.models.recogniser import Recogniser, heard_alone
from audioadv.threat.bounds import SNR, Ball, around_sound, parse_bound

Line = Mapping[str, Any]
Group = dict[tuple[str, str, int], Line]
"""Result lines by clip and target, and which of several results of both it is."""

TRIED = {"reached", "missed", "not_finite"}  # of the outcomes: somebody attacked
NEEDED = ("clip", "target", "outcome", "reached", "bound", "adversarial_transcript")


class Setting(NamedTuple):
    """What the clips of one group share; empty where the run does not say."""

    model: str
    attack: str
    bound: str
    channel: str

    def __str__(self) -> str:
        return ", ".join(part for part in self if part)


def check_run(folder: Path, model: Recogniser | None = None, spec: str | None = None) -> dict[str, Checkup]:
    """A checkup for each setting of a run, by its name. With the `model` that was attacked, the files are heard again.

    `spec` is what the command line calls that model, where it is not by the model's own name: so do the run's lines.
    Raises InputError for a folder without results or with files gone, and for results that are none; OptionError for a model that no
    line is of.
    """
    groups: dict[Setting, Group] = {}
    names: dict[tuple[Setting, str, str], list[str]] = {}  # of one setting's results: two sounds may have been given by one path
    for line in read_lines(folder / "results.jsonl"):
        if line["outcome"] in TRIED:
            setting = Setting(*(str(line.get(key) or "") for key in ("model", "attack", "bound_asked", "channel")))
            same = names.setdefault((setting, line["clip"], line["target"]), [])
            if line["name"] not in same:
                same.append(line["name"])
            groups.setdefault(setting, {})[line["clip"], line["target"], same.index(line["name"])] = line
    if not groups:
        raise InputError(f"{folder}: nobody attacked a clip of this run. Give one with clips that were reached or missed")
    asked = {setting for setting in groups if model is not None and setting.model in ("", spec, model.name)}
    if model is not None and not asked:
        attacked = ", ".join(dict.fromkeys(setting.model for setting in groups))
        raise OptionError(f"model {spec or model.name!r}: {folder} has no result of it to hear again. Its clips were made for {attacked}")
    return {
        str(setting): Checkup.of(rivalled(told(folder, group, model if setting in asked else None), setting, groups))
        for setting, group in groups.items()
    }


def read_lines(path: Path) -> Sequence[Line]:
    """The lines of a results file. Raises InputError."""
    lines = read_results(path)
    check_results(path, lines, NEEDED)
    return lines


def told(folder: Path, group: Group, model: Recogniser | None) -> Evidence:
    """What a group's lines and files say; the model that was attacked, where it is given, is asked again. Raises InputError."""
    check_files(folder, group)
    sights, held = [sight(folder, line) for line in group.values()], [holds(folder, line, model) for line in group.values()]
    felled = [bool(line["reached"]) and good for line, good in zip(group.values(), held, strict=True)]
    claims = [seen.reached and not line.get("channel") for seen, line in zip(sights, group.values(), strict=True)]
    minimal = any(line.get("minimal", True) and searched_for(line.get("bound_asked") or line["bound"]) for line in group.values())
    return Evidence(
        sights=sights,
        felled=felled,
        claimed=sum(claims),
        refuted=sum(claim and not good for claim, good in zip(claims, felled, strict=True)),
        asked=model is not None or not any(line["reached"] for line in group.values()),
        searching=True,  # the answers are measured; the way there is craft's own
        unbounded=felled if minimal else None,
    )


def searched_for(spec: str) -> bool:
    """Whether the smallest change was searched for, of whatever size it had to be."""
    bound = parse_bound(spec)
    return bound.minimal and bound.at_rate(16000).around(torch.full((1, 1600), 0.1), box=BOX).limitless()


def sight(folder: Path, line: Line) -> Sight:
    """What the attack saw of a clip, as far as its line tells, and whether its file lies outside the bound. Raises InputError."""
    try:
        seen = Sight(**(line.get("saw") or {"reached": line["reached"]}))
    except TypeError as error:
        raise InputError(f"{folder}: {line['name']}: what was seen cannot be read ({error}). Craft the clip again") from error
    return replace(seen, strayed=bool(line["reached"]) and ((line.get("excess") or 0) > 0 or too_large(folder, line)))


def too_large(folder: Path, line: Line) -> bool:
    """Whether the change between the two files is larger than the line's bound; no where a file does not tell."""
    clean, adversarial = (folder / (line["name"] + suffix) for suffix in (".clean.wav", ".wav"))
    if not (clean.exists() and adversarial.exists()):
        return False
    before, after = read_clip(clean), read_clip(adversarial)
    bound = parse_bound(line["bound"]).at_rate(before.sample_rate)
    region = around_sound(bound, before.samples[None])
    if not region.added or len(before.samples) != len(after.samples):
        return region.added
    return bool(region.gauge(after.samples[None]) > region.radius * (1 + SPILL))


def check_files(folder: Path, group: Group) -> None:
    """Raise InputError where clips that were reached have no file any more: a success that nobody can hear is none."""
    files = [folder / (line["name"] + ".wav") for line in group.values() if line["reached"]]
    if gone := [file for file in files if not file.exists()]:
        cure = "Start the command that made them again, or take their lines out of results.jsonl"
        raise InputError(f"{gone[0]}: gone, one of {len(gone)} of {len(files)} clips of this setting that were reached. {cure}")


def holds(folder: Path, line: Line, model: Recogniser | None) -> bool:
    """Whether a clip that was reached is heard as it was said to be; without a model, nobody says that it is not."""
    if not line["reached"] or model is None:
        return True
    samples = read_clip(folder / (line["name"] + ".wav"), model.sample_rate).samples
    return heard_alone(model, samples).transcripts() == [line["adversarial_transcript"]]


def rivalled(evidence: Evidence, setting: Setting, groups: Mapping[Setting, Group]) -> Evidence:
    """The evidence, and what other settings of the run reached on the same clips: scores alone, or a larger bound."""
    own = groups[setting]
    for other, group in groups.items():
        if other == setting or not set(group) >= set(own):
            continue
        reached = [bool(group[clip]["reached"]) for clip in own]
        if other == setting._replace(attack=other.attack) and uses_slopes(own) and not uses_slopes(group):
            before = evidence.black_box or [False] * len(own)
            evidence = replace(evidence, black_box=[any(pair) for pair in zip(before, reached, strict=True)])
        if other == setting._replace(bound=other.bound) and is_larger(other.bound, setting.bound):
            worse = evidence.wider is None or sum(reached) < sum(evidence.wider)
            evidence = replace(evidence, wider=reached if worse else evidence.wider)
    return evidence


def uses_slopes(group: Group) -> bool:
    """Whether any of the clips cost a backward pass."""
    return any(line.get("backwards", 0) for line in group.values())


def is_larger(one: str, other: str) -> bool:
    """Whether the first of two bounds of one kind holds the second."""
    first, second = parse_bound(one), parse_bound(other)
    if type(first) is not type(second) or first.minimal or second.minimal:
        return False
    if isinstance(first, Ball) and isinstance(second, Ball):
        return first.radius > second.radius  # type: ignore[operator]
    return isinstance(first, SNR) and isinstance(second, SNR) and first.decibels < second.decibels  # type: ignore[operator]

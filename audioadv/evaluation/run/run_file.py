"""RUN/run.json: what a run claims, and with which arguments; a run that goes on must go on with the same.

command        the last start as one would type it
arguments      what decides the results, by option; compared at each start
models         what each recogniser says of itself and answers to a fixed noise (`traits_of`); compared too, as far as it is there
started_with   what may differ from start to start: how many of the clips, and the device, the batch and torch's version, on
               which rounding depends, and so some results by a little
threat_models  each bound and channel as a `ThreatModel`, and in words (claim)
"""

import hashlib
import json
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from audioadv.audio.whole import write_whole
from audioadv.defenses.preprocessing import Through
from audioadv.defenses.statement import stated
from audioadv.defenses.wrapped import Wrapped
from audioadv.errors import InputError, OptionError, UnwritableOutput
from audioadv.evaluation.run.on_disk import alone_in
from audioadv.evaluation.run.plan import Job, Setting
from audioadv.models.recogniser import Recogniser, heard_alone
from audioadv.models.rest import module_of, seeded
from audioadv.threat.goals import USUAL_ERRORS
from audioadv.threat.model import ThreatModel

NAME = "run.json"
FEW = 3  # differences that a message tells
Traits = Mapping[str, Any]
SECONDS, LEVEL = 0.5, 0.1  # of the noise, and its standard deviation
LETTERS = 64  # whose answers are kept
LEAST = -50.0  # log-probability: less is as good as never
NEAR = 0.02  # log-probability, and as a share: what devices, threads and torch's versions differ by is less


def begin(out: Path, stated: Mapping[str, Any], other_clips: list[str]) -> None:
    """Say what the run claims, where it may go on so: in one step, since another start may say something else at the same moment.

    Raises OptionError for other arguments or recognisers, and for results of `other_clips` (`changed_clips`), UnwritableOutput.
    """
    try:
        with alone_in(out):
            check_goes_on(out, stated["arguments"], stated["models"])
            check_same_clips(out, other_clips)
            state_run(out, stated)
    except OSError as error:
        raise UnwritableOutput(f"--out {out}: cannot be held ({error.strerror}). Name a folder that you may read and write") from error


def check_same_clips(out: Path, others: list[str]) -> None:
    """Raises OptionError for results of clips that are others now."""
    if others:
        more = f"; and {len(others) - FEW} more" if len(others) > FEW else ""
        raise OptionError(f"--out {out}: its results are of other clips. {'; '.join(others[:FEW])}{more}. Name another folder")


def check_goes_on(folder: Path, arguments: Mapping[str, Any], models: Mapping[str, Traits]) -> None:
    """Raise OptionError where a run in this folder began with other arguments or recognisers, naming what differs, or results are of
    no run."""
    used = (folder / "results.jsonl").exists()  # asked first: a fellow worker may be writing both at this moment
    before = read_run(folder)
    if before is None and used:
        raise OptionError(f"--out {folder}: holds results, but of no run (there is no {NAME}). Name another folder")
    if before is not None:
        then, now = once(before.get("arguments", {})), once(json.loads(json.dumps(arguments)))
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        differences = [f"{name}: was {shown(then.get(name))}, now {shown(now.get(name))}" for name in names]
        differences += [told for name, traits in models.items() for told in changed(name, before.get("models", {}).get(name, {}), traits)]
        if differences:
            differ = "; ".join(differences)
            raise OptionError(
                f"--out {folder}: a run that was started with other arguments or recognisers ({differ}). "
                "Start it with the same ones to go on, or name another folder"
            )


def state_run(folder: Path, stated: Mapping[str, Any]) -> None:
    """Write what a run in this folder claims, in place of what it said before. Raises UnwritableOutput."""
    write_whole(folder / NAME, (json.dumps(stated, indent=2) + "\n").encode())


def threat_models(jobs: Sequence[Job], settings: Sequence[Setting], names: Container[str]) -> list[dict[str, Any]]:
    """The claim of each bound and channel that has results of these names: as an object, and in words."""
    pairs = [(job, setting) for setting in settings for job in jobs if f"{setting.folder}/{job.name}" in names]
    targets = {job.target for job, _ in pairs} - {None}
    wishes = []
    if targets:
        one = "nothing at all" if targets == {""} else repr(next(iter(targets))) if len(targets) == 1 else "its target"
        wishes.append(f"hear each clip as {one}")
    if errors := {job.errors for job, _ in pairs if job.target is None}:
        share = "half" if errors == {USUAL_ERRORS} else " or ".join(f"{100 * share:g} %" for share in sorted(errors))
        wishes.append(f"mishear {'the clips that have none' if targets else 'each clip'}, at least {share} of the words wrong")
    claims = dict.fromkeys((setting.bound, setting.channel) for _, setting in pairs)
    made = [ThreatModel(bound=bound, channel=channel, goal=", and to ".join(wishes)) for bound, channel in claims]
    return [{**json.loads(threat.to_json()), "claim": " ".join(str(threat).split())} for threat in made]


def read_run(folder: Path) -> dict[str, Any] | None:
    """What the run in this folder claims; None where none was ever started. Raises InputError for a file that says nothing."""
    try:
        stated = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / NAME}: cannot be read ({error}). Move it away, and the results with it") from error
    if not isinstance(stated, dict) or not well_formed(stated):
        raise InputError(f"{folder / NAME}: not what audioadv bench wrote. Move it away, and the results with it")
    return stated


def well_formed(stated: Mapping[str, Any]) -> bool:
    """Whether what is read of a run is of the kinds that are written."""
    kinds = {"command": str, "arguments": dict, "models": dict, "started_with": dict, "jobs": int, "threat_models": list}
    if any(not isinstance(stated.get(key, kind()), kind) for key, kind in kinds.items()):
        return False
    claimed = all(isinstance(threat, dict) and isinstance(threat.get("claim"), str) for threat in stated.get("threat_models", []))
    return claimed and all(isinstance(traits, dict) for traits in stated.get("models", {}).values())


def once(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, without what is there twice: such runs were stated so once."""
    return {name: [*dict.fromkeys(map(str, value))] if isinstance(value, list) else value for name, value in arguments.items()}


def shown(value: Any) -> str:
    """An argument as one would give it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {None: "not given", True: "given", False: "not given"}[value] if value is None or isinstance(value, bool) else str(value)


def traits_of(model: Recogniser) -> Traits:
    """What tells a recogniser from another of the same name and weights, or of none: its rate, its letters and its answers.

    `answers` is the mean log-probability of each letter (`LETTERS` at most) over the frames of a fixed noise; None for a model that
    says that it is random or remembers, or that does not answer twice the same.
    """
    noise = LEVEL * torch.randn(round(SECONDS * model.sample_rate), generator=torch.Generator().manual_seed(0))
    statement, answers = stated(model), []
    for seed in () if statement.random or statement.remembers else (0, 1):
        with seeded(seed, model.device):
            log_probs = heard_alone(model, noise).log_probs[0, :, :LETTERS].nan_to_num(LEAST, LEAST, LEAST).clamp_min(LEAST)
        answers.append([round(value, 4) for value in log_probs.double().mean(0).tolist()])
    same = bool(answers) and close(*answers)
    return {"sample_rate": model.sample_rate, "vocabulary": list(model.vocabulary), "answers": answers[0] if same else None}


def changed(name: str, then: Traits, now: Traits) -> list[str]:
    """In words, what is other of the recogniser of this name; what is not known of both is no change."""
    told = [f"sample rate of {name}: was {then['sample_rate']}, now {now['sample_rate']}"] if differs("sample_rate", then, now) else []
    if differs("vocabulary", then, now):
        told.append(f"letters of {name}: were {shown(then['vocabulary'])}, now {shown(now['vocabulary'])}")
    if then.get("answers") and now["answers"] and not close(then["answers"], now["answers"]):
        told.append(f"{name}: answers the same noise otherwise, and is another recogniser")
    return told


def differs(key: str, then: Traits, now: Traits) -> bool:
    """Whether both know it, and do not agree."""
    return key in then and then[key] != now[key]


def close(one: list[float], other: list[float]) -> bool:
    """Whether two answers differ by no more than rounding."""
    return len(one) == len(other) and all(math.isclose(a, b, rel_tol=NEAR, abs_tol=NEAR) for a, b in zip(one, other, strict=True))


def fingerprint_of(model: Recogniser) -> str | None:
    """What tells a net from another of the same name: a digest of its state, and of the defenses around it.

    None for a recogniser that is no module. What a model says of itself counts, and the channels in it with their seeds.
    """
    net = module_of(model)
    if net is None:
        return None
    digest = hashlib.sha256(f"{model.name} {stated(model)}".encode())
    layer: Any = model
    while isinstance(layer, Wrapped):
        settings = {own.name: getattr(layer, own.name) for own in fields(layer) if own.name != "model"}  # type: ignore[arg-type]
        digest.update(f"{type(layer).__name__} {settings}".encode())
        layer = layer.model
    for part in net.modules():
        if isinstance(part, Through):
            digest.update(f"{part.channel} {part.seed} {part.sample_rate}".encode())
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]

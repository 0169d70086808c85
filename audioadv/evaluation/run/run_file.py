"""RUN/run.json: what a run claims, and with which arguments; a run that goes on must go on with the same.

command        the last start as one would type it
arguments      what decides the results, by option; compared at each start
started_with   what may differ from start to start: how many of the clips, and the device, the batch and torch's version, on
               which rounding depends, and so some results by a little
threat_models  each bound and channel as a `ThreatModel`, and in words (claim)
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from audioadv.audio.whole import write_whole
from audioadv.defenses.preprocessing import Through
from audioadv.defenses.statement import stated
from audioadv.defenses.wrapped import Wrapped
from audioadv.errors import InputError, OptionError
from audioadv.models.recogniser import Recogniser
from audioadv.models.rest import module_of

NAME = "run.json"


def check_goes_on(folder: Path, arguments: Mapping[str, Any]) -> None:
    """Raise OptionError where a run in this folder began with other arguments, naming each that differs, or results are of no run."""
    used = (folder / "results.jsonl").exists()  # asked first: a fellow worker may be writing both at this moment
    before = read_run(folder)
    if before is None and used:
        raise OptionError(f"--out {folder}: holds results, but of no run (there is no {NAME}). Name another folder")
    if before is not None:
        then, now = before.get("arguments", {}), json.loads(json.dumps(arguments))
        names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if names:
            differ = "; ".join(f"{name}: was {shown(then.get(name))}, now {shown(now.get(name))}" for name in names)
            raise OptionError(
                f"--out {folder}: a run that was started with other arguments ({differ}). "
                "Start it with the same ones to go on, or name another folder"
            )


def state_run(folder: Path, stated: Mapping[str, Any]) -> None:
    """Write what a run in this folder claims, in place of what it said before. Raises UnwritableOutput."""
    write_whole(folder / NAME, (json.dumps(stated, indent=2) + "\n").encode())


def read_run(folder: Path) -> dict[str, Any] | None:
    """What the run in this folder claims; None where none was ever started. Raises InputError for a file that says nothing."""
    try:
        stated = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / NAME}: cannot be read ({error}). Move it away, and the results with it") from error
    if not isinstance(stated, dict) or not isinstance(stated.get("arguments", {}), dict):
        raise InputError(f"{folder / NAME}: not what audioadv bench wrote. Move it away, and the results with it")
    return stated


def shown(value: Any) -> str:
    """An argument as one would give it."""
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {None: "not given", True: "given", False: "not given"}[value] if value is None or isinstance(value, bool) else str(value)


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

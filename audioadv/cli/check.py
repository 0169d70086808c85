"""audioadv check: is the evaluation itself broken?"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from audioadv.attacks.catalogue import crafting
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack
from audioadv.audio.files import read_clip
from audioadv.audio.ragged import pad
from audioadv.cli.options import common_options, no_use, say
from audioadv.cli.statuses import DONE, NOT_REACHED
from audioadv.defenses.statement import refuse_memory, stated
from audioadv.errors import ONLY_IN_A_CHECKOUT, AudioadvError, OptionError, UnknownModel, UnreadableAudio, UnusableBatch
from audioadv.evaluation.adaptive import planned
from audioadv.evaluation.evaluate import named_attacks
from audioadv.evaluation.sanity.check import check as examined
from audioadv.evaluation.sanity.check import quietly
from audioadv.evaluation.sanity.indicators import Checkup
from audioadv.evaluation.sanity.recorded import check_run
from audioadv.evaluation.sanity.subjects import around_any, right_digits
from audioadv.models.classifier import BUNDLED as CLASSIFIERS
from audioadv.models.classifier import NETS, load_classifier
from audioadv.models.recogniser import Recogniser, hears
from audioadv.models.rest import at_rest, modules_of
from audioadv.models.sources import called, load_model, raised
from audioadv.report.tables import checkup_table, show
from audioadv.threat.bounds import around_sound, parse_bound, senseless_for_sound
from audioadv.threat.goals import Transcribe
from audioadv.threat.labels import Misclassify
from audioadv.threat.region import Region

SAMPLES = tuple(Path(__file__).parents[2] / "samples" / name for name in ("phone.wav", "market.wav", "kitchen.wav"))


@click.command()
@click.argument("subject", metavar="MODEL|RUN")
@click.option("--clip", "clips", multiple=True, type=click.Path(path_type=Path), metavar="FILE", help="Instead of three of samples/.")
@click.option("--target", default="open the door", show_default=True, metavar="TEXT", help="What the clips should be heard as.")
@click.option("--bound", "spec", metavar="B", help="What may be changed. [default: snr:20 for sound, linf:0.1 for images]")
@click.option("--attack", "attacks", multiple=True, metavar="A", help="May be repeated. [default: shrink for sound; pgd, apgd for images]")
@click.option("--steps", type=click.IntRange(min=1), default=200, show_default=True, help="Of an attack on sound.")
@click.option("--substitute", metavar="M", help="Another model: do examples made for that one do better?")
@click.option("--model", "heard_by", metavar="M", help="Of a RUN: hear its files again with the model that was attacked.")
@common_options
@click.pass_context
def check(
    context: click.Context,
    subject: str,
    clips: tuple[Path, ...],
    target: str,
    spec: str | None,
    attacks: tuple[str, ...],
    steps: int,
    substitute: str | None,
    heard_by: str | None,
    as_json: bool,
    device: str,
    seed: int,
) -> None:
    """Look for signs that an evaluation is broken.

    An attack that fails for a reason of its own looks just like a model that is robust. A MODEL is attacked on a few clips, or a
    classifier on a few images: the attack is watched at its work, and set beside noise, scores alone, larger bounds and none at all.
    MODEL may be a recogniser, 'mnist' or 'mnist-robust' (on scikit-learn's digits), or module:package.file:function, where the
    function returns a Recogniser or a triple (classifier, inputs, labels); a defense is attacked by what it states of itself.
    Inputs that are [batch, time], or negative anywhere, are taken for sounds in -1..1, all others for images in 0..1.
    A RUN is a folder with results.jsonl: its lines and files are examined, and nothing is attacked.

    Exit status 0: sound; 1: something is broken; 2: the input or the options are wrong. Sound is no proof.

    \b
    audioadv check tiny-mel
    audioadv check module:my_file:my_defense --bound linf:8/255 --attack standard
    audioadv check runs/mine --model tiny-mel
    """
    lines = []
    for name, checkup in checkups(subject, clips, target, spec, attacks, steps, substitute, heard_by, device, seed):
        found = [{"subject": subject, "of": name, **finding.line()} for finding in checkup.findings]
        lines += found
        if as_json:
            for line in found:
                say(json.dumps(line))
            continue
        say(", ".join(filter(None, (subject, name))))
        show(checkup_table(found))
        for finding in checkup.findings:
            if finding.broken:
                say(f"{finding.indicator.name}: {finding.indicator.why} {finding.indicator.cure}")
    context.exit(NOT_REACHED if any(line["verdict"] == "broken" for line in lines) else DONE)


def checkups(
    subject: str,
    clips: tuple[Path, ...],
    target: str,
    spec: str | None,
    attacks: tuple[str, ...],
    steps: int,
    substitute: str | None,
    heard_by: str | None,
    device: str,
    seed: int,
) -> Iterator[tuple[str, Checkup]]:
    """Each attack, or setting of a run, and what became of it."""
    if os.path.isdir(subject):  # which, unlike a path's own, says no where it may not look
        no_use(("clips", "target", "spec", "attacks", "steps", "substitute"), f"{subject} is a run, and nothing is attacked")
        yield from check_run(Path(subject), None if heard_by is None else load_model(heard_by, device), heard_by).items()
        return
    no_use(("heard_by",), f"{subject} is no run, whose files could be heard again")
    model: Any = loaded(subject, device)
    other = None if substitute is None else loaded(substitute, device)
    if isinstance(other, tuple):
        other = other[0]
    if other is not None and hears(other) != hears(model):
        raise OptionError(f"--substitute {substitute}: not of {subject}'s kind. A recogniser stands in for a recogniser, a net for a net")
    if hears(model):
        wanted, region = on_clips(model, clips or samples(), target, spec or "snr:20", seed)
        chosen = {name: on_sound(name, steps, seed) for name in attacks or ("shrink",)}
    else:
        no_use(("clips", "target", "steps"), f"{subject} is a classifier, which hears no clip")
        net, inputs, labels = model
        region = around_any(inputs.to(device), spec)
        wanted, chosen = planned(net, Misclassify(labels), seed=seed).adaptive, named_attacks(attacks or ("pgd", "apgd"), seed)
        check_takes(f"model {subject!r}", wanted, region.clean)
        if other is not None:
            check_takes(f"--substitute {substitute}", replace(wanted, model=other), region.clean)
    for name, attack in chosen.items():
        yield name, examined(wanted, region, attack, substitute=other, seed=seed)


def samples() -> tuple[Path, ...]:
    """Three clips that come with the project. Raises UnreadableAudio where they did not."""
    if gone := [path for path in SAMPLES if not path.exists()]:
        raise UnreadableAudio(f"{gone[0]}: no such file. {ONLY_IN_A_CHECKOUT}. Or name clips of your own: --clip FILE")
    return SAMPLES


def loaded(name: str, device: str) -> Recogniser | tuple[Any, Tensor, Tensor]:
    """A recogniser, or a classifier with inputs and labels. Raises UnknownModel."""
    if name in NETS:
        raise OptionError(f"model {name!r}: check has no sounds for it. Give module:file:function, which returns (net, sounds, labels)")
    if name in CLASSIFIERS:
        net = load_classifier(name, device)
        return net, *right_digits(net, device)
    if not name.startswith("module:"):
        try:
            return load_model(name, device, attacked=True)
        except UnknownModel as error:
            raise UnknownModel(f"{error}. Nor is there a folder of that name, with a run in it") from error
    made = called(name.removeprefix("module:"))
    subject: Any = made[0] if isinstance(made, tuple) and made else made
    refuse_memory(subject, stated(subject))  # before it is tried out: that would be kept
    if hears(made):
        return load_model(name, device, attacked=True)
    if isinstance(made, tuple) and len(made) == 3 and callable(made[0]):
        for what, given in zip(("inputs", "labels"), made[1:], strict=True):
            if not isinstance(given, Tensor):
                raise UnusableBatch(f"model {name!r}: {what} are a {type(given).__name__}. Return a tensor: torch.as_tensor({what})")
        if not made[1].ndim or not len(made[1]):
            raise UnusableBatch(
                f"model {name!r}: inputs of shape {list(made[1].shape)}, with none to attack. Return at least one, batch first"
            )
        for part in modules_of(made[0]):
            part.to(device)
        return made
    raise UnknownModel(
        f"model {name!r}: the function returned a {type(made).__name__}. Return an audioadv.Recogniser, or (classifier, inputs, labels)"
    )


def check_takes(name: str, wanted: Objective, inputs: Tensor) -> None:
    """Raise UnknownModel, with the place, for a classifier that raises something at its inputs."""
    try:
        with torch.no_grad(), quietly(), at_rest(wanted.model):
            wanted.begun(inputs).forward(inputs)
    except AudioadvError:
        raise
    except Exception as error:
        raise UnknownModel(
            f"{name}: {raised(error)}, on inputs of shape {list(inputs.shape)}. Return a classifier that takes them"
        ) from error


def on_clips(model: Recogniser, clips: tuple[Path, ...], target: str, spec: str, seed: int) -> tuple[Objective, Region]:
    """What is to be heard of these clips, and what may be changed."""
    sounds, bound = [read_clip(clip, model.sample_rate).samples for clip in clips], parse_bound(spec).at_rate(model.sample_rate)
    for clip, samples in zip(clips, sounds, strict=True):
        if (why := senseless_for_sound(bound, samples)) is not None:
            raise UnusableBatch(f"--clip {clip}: nothing can be changed within {spec}. {why} Or leave this clip out")
    waveforms, lengths = pad([samples.to(model.device) for samples in sounds])
    lengths = lengths.to(model.device)
    region = around_sound(bound, waveforms, lengths)
    return planned(model, Transcribe(target), lengths, seed=seed).adaptive, region


def on_sound(name: str, steps: int, seed: int) -> Attack:
    """An attack of craft's by its name. Raises OptionError."""
    return partial(crafting(name).run, steps=steps, seed=seed)

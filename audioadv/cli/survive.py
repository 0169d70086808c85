"""audioadv survive: whether adversarial files still work through rooms, noise and codecs."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from audioadv.attacks.eot import enough
from audioadv.audio.files import read_clip
from audioadv.cli.manifests import Entry, errors_of, read_entries
from audioadv.cli.options import Number, Problems, clip_arguments, common_options, model_option, no_use, say
from audioadv.cli.outputs import check_picture
from audioadv.cli.statuses import DONE, NOT_REACHED, STOPPED, WRONG_INPUT
from audioadv.errors import InputError, UnusableTarget
from audioadv.evaluation.run.ledger import read_results
from audioadv.evaluation.survival import Subject, Survival, together
from audioadv.evaluation.survival import survive as through
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model
from audioadv.report.survival import draw_survival
from audioadv.report.tables import show, survival_table
from audioadv.threat.channels.channel import Channel
from audioadv.threat.channels.specs import parse_channel
from audioadv.threat.goals import NOT_AS, USUAL_ERRORS, Transcribe, as_texts, said, spell

USUAL = ("none", "noise:20", "room", "room_then_noise:20..30", "codec:mp3@64k", "codec:opus@24k", "codec:mulaw@64k")


@click.command()
@clip_arguments
@click.option("--target", "targets", multiple=True, metavar="TEXT", help="What they were made for: once for all clips, or once for each.")
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="What is said in them: once for all clips, or once for each.")
@click.option("--channel", "specs", multiple=True, default=USUAL, show_default=True, metavar="C", help="May be repeated; none: the file.")
@click.option("--draws", type=click.IntRange(min=1), default=100, show_default=True, help="Draws of each channel for each clip.")
@click.option("--rate", type=Number(0, 1, min_open=True), default=0.9, show_default=True, help="Share of draws that counts as survival.")
@click.option("--errors", type=Number(0, min_open=True), help="Words misheard, where that is the goal; else as it was crafted.")
@click.option("--png", type=click.Path(path_type=Path), metavar="FILE", help="Draw the matrix.")
@model_option
@common_options
@click.pass_context
def survive(
    context: click.Context,
    clips: tuple[Path, ...],
    targets: tuple[str, ...],
    texts: tuple[str, ...],
    specs: tuple[str, ...],
    draws: int,
    rate: float,
    errors: float | None,
    png: Path | None,
    model_name: str,
    as_json: bool,
    device: str,
    seed: int,
) -> None:
    """Put clips through channels, and count how often they work.

    A CLIP is a sound file, a folder that craft or bench wrote, or a JSON Lines manifest of sound files. What craft wrote
    beside NAME.wav is read too: the target and what is said (NAME.json), and the clean clip (NAME.clean.wav), which then goes
    through the same draws. A clip that was made to be misheard works where --errors of its words are wrong. Where craft was not told what
    is said, --text says it, and word errors are counted against that too. A clip that is named twice counts once.
    Rooms are judge rooms, which no crafting has met, in other draws than those that craft judged by.
    Exit status 0: each clip survives each channel in --rate of the draws.
    Ctrl-C ends it with what is done by then.

    \b
    audioadv survive adversarial/kitchen.wav --channel room --channel codec:mp3@64k
    """
    # twice is no more than once: the draws are the same
    channels = list({str(channel): channel for channel in map(parse_channel, specs)}.values())
    for text in targets:
        Transcribe(text)
    if targets and not any(text.startswith(NOT_AS) for text in targets):
        no_use(("errors",), "it is for clips that were made to be misheard, and --target is to be heard")
    if png is not None:
        check_picture(png)
    problems, files = Problems(), []
    for path in clips:
        with problems.told():
            files += crafted_in(path)
    entries = read_entries(files, problems)
    given = zip(entries, for_clips("targets", targets, entries), for_clips("texts", texts, entries), strict=True)
    entries = [replace(entry, target=target or entry.target, text=text or entry.text) for entry, target, text in given]
    entries = list({(os.path.realpath(entry.path), entry.target): entry for entry in entries}.values())
    model = load_model(model_name, device)
    done: list[Survival] = []
    stopped = False
    try:
        for entry in entries:
            with problems.told(entry.path):
                clip = subject(entry, model, model_name)
                clip = clip if errors is None else replace(clip, errors=errors)
                for channel in channels:
                    with problems.told(entry.path):  # what does not fit one channel may fit the next
                        (survival,) = through(model, [clip], [channel], draws=draws, seed=seed)
                        done.append(survival)
                        if as_json:
                            say(json.dumps(survival.line()))
    except KeyboardInterrupt:
        stopped = True
        click.echo(f"Stopped: {len(done)} of {len(entries) * len(channels)} clips in channels are done", err=True)
    if done:
        tell(done, channels, model, png, as_json)
    lasting = all(enough(survival.hits, len(survival.heard), rate) for survival in done)
    context.exit(STOPPED if stopped else WRONG_INPUT if problems.count else DONE if lasting else NOT_REACHED)


def for_clips(what: str, given: Sequence[str], entries: Sequence[Entry]) -> Sequence[str | None]:
    """What is given for each clip: one for all, its own, or None where nothing is. Raises UsageError for another number of them."""
    if given and len(given) not in (1, len(entries)):
        raise click.UsageError(f"{len(given)} {what} for {len(entries)} clips: give one for all, or one for each")
    texts: list[str | None] = [*given] if given else [None]
    return texts if len(texts) == len(entries) else texts * len(entries)


def crafted_in(path: Path) -> list[Path]:
    """The adversarial files of a folder that craft wrote, of one of a run's settings or of them all, or of the lines of a results.jsonl;
    a file is itself. Raises InputError for a folder or results without any.
    """
    if path.name == "results.jsonl":  # the list of what was made, or a part of it
        listed = [path.parent / f"{line['name']}.wav" for line in read_results(path) if line.get("reached")]
        if not listed:
            raise InputError(f"{path}: no result in it that was reached. Name one that has some, or the files themselves")
        return listed
    if not os.path.isdir(path):  # which, unlike the path's own, says no where it may not look
        return [path]
    run = os.path.exists(path / "run.json")
    found = sorted(
        file for file in path.glob("*/*.wav" if run else "*.wav") if not file.parent.name.startswith(".")
    )  # a clip may itself be called NAME.clean: then there is a NAME.clean.json
    files = [file for file in found if not file.name.endswith(".clean.wav") or os.path.exists(file.with_suffix(".json"))]
    if not files:
        raise InputError(f"{path}: no adversarial WAV file in this folder. Name what craft or bench wrote: its --out")
    return files


def subject(entry: Entry, model: Recogniser, spec: str) -> Subject:
    """A clip with all that is known of it; `spec` is what the command line calls the model.

    Raises UnusableTarget where nothing says what it was made for, or it is never written.
    """
    samples = read_clip(entry.path, model.sample_rate).samples
    record = beside(entry.path, needed=not entry.target)
    target = entry.target or record.get("target")
    if not isinstance(target, str):
        raise UnusableTarget(f"{entry.path}: made for what? Give --target TEXT, or keep the NAME.json that craft wrote beside it")
    if (made_for := record.get("model", spec)) not in (spec, model.name):
        click.echo(f"{entry.path}: crafted for {made_for}, and heard by {spec} (--model)", err=True)
    with placed(entry.path):
        target = as_texts(target)[0]
        spell((target.removeprefix(NOT_AS),), model.vocabulary, torch.device("cpu"))  # what it never writes is never heard
    clean = entry.path.with_suffix(".clean.wav")
    return Subject(
        name=str(entry.path),
        samples=samples,
        target=target,
        text=said(next((as_texts(text)[0] for text in (entry.text, record.get("text")) if isinstance(text, str)), None), target),
        clean=read_clip(clean, model.sample_rate).samples if os.path.exists(clean) else None,
        errors=entry.errors or errors_of(record) or USUAL_ERRORS,
    )


@contextmanager
def placed(path: Path) -> Iterator[None]:
    """Within it, what is wrong with a text is said with the file's name."""
    try:
        yield
    except UnusableTarget as error:
        raise UnusableTarget(f"{path}: {error}") from error


def beside(path: Path, needed: bool) -> dict[str, Any]:
    """What craft wrote about a file, if it did. Raises InputError for what cannot be read, where it is `needed`."""
    record = path.with_suffix(".json")
    if not os.path.exists(record):
        return {}
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if not needed:
            return {}
        raise InputError(f"{record}: not a result of craft ({error}). Move it away, or give --target") from error
    return known if isinstance(known, dict) else {}


def tell(done: list[Survival], channels: list[Channel], model: Recogniser, png: Path | None, as_json: bool) -> None:
    """The table and the picture."""
    rows = [together(done, str(channel)) for channel in channels]
    if png is not None:
        title = f"{rows[0]['clips']} clip{'s' * (rows[0]['clips'] != 1)} on {model.name}"
        draw_survival(png, rows, [survival.line() for survival in done], title=title)
    if not as_json:
        show(survival_table(rows))

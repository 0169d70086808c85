"""audioadv craft: from clips and a phrase to sound files that a recogniser hears as the phrase."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from audioadv.attacks.catalogue import CRAFTING
from audioadv.attacks.craft import craft_each
from audioadv.attacks.result import Outcome
from audioadv.audio.files import LONGEST_SECONDS, Clip, read_clip
from audioadv.audio.ragged import alike
from audioadv.cli.attacks import check_fits
from audioadv.cli.interrupts import stoppable, unbroken
from audioadv.cli.manifests import Entry, read_entries
from audioadv.cli.options import (
    Folder,
    Number,
    Problems,
    clip_arguments,
    common_options,
    errors_option,
    model_option,
    no_use,
    output,
    say,
    search_options,
)
from audioadv.cli.outputs import Names, check_page, check_writable, finish_killed, results_of, save
from audioadv.cli.progress import bars_on_terminal
from audioadv.cli.statuses import DONE, NOT_REACHED, STOPPED, WRONG_INPUT
from audioadv.errors import InputError, UnusableResponse, UnusableTarget, UnwritableOutput
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model
from audioadv.report.page import write_page
from audioadv.report.tables import craft_table, show
from audioadv.threat.bounds import check_sound_bound, parse_bound
from audioadv.threat.channels.specs import check_sound, parse_channel
from audioadv.threat.goals import NOT_AS, Mistranscribe, Silence, Transcribe, check_spelt


class Job(NamedTuple):
    """One clip to attack: where it comes from, the NAME of its files, its sound and the text of its goal."""

    entry: Entry
    name: str
    clip: Clip
    text: str


@click.command()
@clip_arguments
@click.option("--target", "targets", multiple=True, metavar="TEXT", help="What to be heard as: once for all clips, or once for each.")
@click.option("--silence", is_flag=True, help="Be heard as nothing at all.")
@click.option(
    "--not-as", "references", multiple=True, metavar="TEXT", help="What is said, to be misheard: once for all clips, or once for each."
)
@errors_option
@click.option("--lead-in", type=Number(0, LONGEST_SECONDS), default=0.0, metavar="SECONDS", help="Silence to put before each clip.")
@model_option
@click.option(
    "--bound", "spec", default="linf:min", show_default=True, metavar="B", help="What may be changed: linf:0.01, l2:0.5, snr:30, or :min."
)
@click.option("--attack", type=click.Choice(CRAFTING), default="shrink", show_default=True, help="How to search.")
@click.option("--channel", "channel_spec", metavar="C", help="What must be survived: room_then_noise:20..30, codec:mp3@64k, ...")
@search_options
@click.option("--out", type=Folder(), default="adversarial", show_default=True, metavar="DIR", help="Where the results go.")
@click.option("--no-picture", is_flag=True, help="Draw nothing.")
@common_options
@click.pass_context
def craft(
    context: click.Context,
    clips: tuple[Path, ...],
    targets: tuple[str, ...],
    silence: bool,
    references: tuple[str, ...],
    errors: float,
    lead_in: float,
    model_name: str,
    spec: str,
    attack: str,
    channel_spec: str | None,
    draws: int,
    judge_draws: int,
    rate: float,
    steps: int,
    restarts: int,
    batch: int,
    out: Path,
    no_picture: bool,
    as_json: bool,
    device: str,
    seed: int,
) -> None:
    """Change clips until a recogniser hears something else.

    Each is changed as little as can be found (a bound of :min), or as the bound allows. With a channel, it must be heard so
    after that, in --rate of --judge draws that it was not made on ('audioadv survive' has more channels). A CLIP is a sound file, or a JSON
    Lines manifest (*.jsonl, *.json, *.manifest) of sound files whose lines may hold a target. DIR gets NAME.json and a line in
    results.jsonl for each, NAME.wav, NAME.clean.wav and NAME.png for each that reaches its goal, and a page to listen to, index.html. A
    later call's results for the same CLIP take the place of these, and no other file's. Ctrl-C keeps what is found by then.

    \b
    audioadv craft samples/kitchen.wav --target "open the door"
    audioadv craft a.wav b.wav --target "call me back" --target "stop" --bound snr:30
    audioadv craft samples/kitchen.wav --target "open the door" --bound snr:15 --channel room_then_noise:20..30
    audioadv craft samples/kitchen.wav --not-as "the kettle is on the stove in the kitchen" --errors 1 --bound snr:30 --attack apgd
    audioadv craft samples/kitchen.wav --model tiny-wave --silence --lead-in 0.64 --bound sticker:10240+0
    """
    bound = parse_bound(spec)
    if channel_spec in (None, "none"):
        no_use(("draws", "judge_draws", "rate"), "it is for a --channel, and there is none")
    if not references:
        no_use(("errors",), "it is for words of --not-as, and there are none")
    channel = None if channel_spec is None or channel_spec == "none" else check_sound(parse_channel(channel_spec))
    problems = Problems()
    entries = read_entries(clips, problems)
    if not entries:
        context.exit(WRONG_INPUT)
    texts = wanted_texts(entries, targets, silence, references)
    kind = Mistranscribe if references else Transcribe
    check_writable(out)
    check_page(out)
    if os.path.exists(out / "run.json"):
        raise UnwritableOutput(f"--out {out}: holds a run of audioadv bench, which could not go on with other results. Name another folder")
    model = load_model(model_name, device, attacked=True)
    check_fits(attack, model, channel)
    given = targets or references
    if len(given) == 1:
        check_text(kind, given[0], model)  # wrong for one, it is wrong for all

    if channel is not None:
        channel.unfit(1, model.sample_rate)  # a recording that cannot be read is told once
    finish_killed(out)
    jobs: list[Job] = []
    names, earlier = Names(out, [entry.path for entry in entries]), results_of(out)
    for entry, text in zip(entries, texts, strict=True):
        name = names.new(entry.path, earlier)
        with problems.told():
            if not silence and len(given) != 1:
                check_own_text(entry, text, kind, model, in_manifest=not given)
            clip = read_clip(entry.path, model.sample_rate)
            clip = clip.led_in(lead_in) if lead_in else clip
            if clip.seconds > LONGEST_SECONDS:
                raise InputError(
                    f"{entry.path}: {clip.seconds:.1f} s with --lead-in {lead_in:g}, but at most {LONGEST_SECONDS} s are read. Give less"
                )
            if channel is not None and (why := channel.unfit(len(clip.samples), model.sample_rate)):
                raise UnusableResponse(f"{entry.path}: {why}")
            jobs.append(Job(entry, name, clip, text or ""))
    if not jobs:
        context.exit(WRONG_INPUT)
    order = alike([len(job.clip.samples) for job in jobs], batch)
    jobs = [jobs[i] for i in order]
    wanted = [job.text for job in jobs]
    goal = Silence() if silence else Mistranscribe(wanted, errors) if references else Transcribe(wanted)
    check_sound_bound(bound, max(len(job.clip.samples) for job in jobs))

    lines: dict[int, dict[str, Any]] = {}  # by the place of its clip among those given
    options: dict[str, Any] = {"bound": bound, "attack": attack, "steps": steps, "restarts": restarts, "seed": seed, "batch": batch}
    options |= {"channel": channel, "draws": draws, "judge_draws": judge_draws, "rate": rate}
    asked_for = {"model": model_name, "attack": attack, "bound_asked": str(bound), "seed": seed, "restarts": restarts}
    asked_for |= {} if channel is None else {"rate_asked": rate}
    asked_for |= {"errors_asked": errors} if references else {}
    stopped, told = False, problems.count  # what is told from here on is of these jobs
    try:
        with stoppable() as asked, bars_on_terminal(not (as_json and output().isatty())) as progress:
            crafted = craft_each(model, [job.clip for job in jobs], goal, progress=progress, stop=asked, **options)
            for row, (place, job, result) in enumerate(zip(order, jobs, crafted, strict=False)):
                if asked() and result.outcome is Outcome.MISSED and result.steps < steps * restarts:
                    continue  # it was not tried to the end
                with unbroken(), problems.told():
                    own = goal.rows(torch.tensor([row]))
                    lines[place] = save(names, job.name, job.entry, result, own, model, asked_for, picture=not no_picture)
                    if as_json:
                        say(json.dumps(lines[place]))
            stopped = asked() and len(lines) + problems.count - told < len(jobs)
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        kept = f"are done and kept in {click.format_filename(out)}" if lines else "are done"
        click.echo(f"Stopped: {len(lines)} of {len(jobs)} clips {kept}", err=True)
    page = None
    if lines:
        with problems.told():
            page = write_page(out)
    if not as_json and lines:
        tell([line for _, line in sorted(lines.items())], page)
    context.exit(
        STOPPED if stopped else WRONG_INPUT if problems.count else DONE if all(line["reached"] for line in lines.values()) else NOT_REACHED
    )


def wanted_texts(entries: list[Entry], targets: tuple[str, ...], silence: bool, references: tuple[str, ...]) -> list[str | None]:
    """The text of each entry's goal; None where there is none. Raises UsageError for goals that do not fit together."""
    if sum(map(bool, (targets, silence, references))) > 1:
        raise click.UsageError("--target, --silence and --not-as are three different goals. Give one of them")
    if given := targets or references:
        if len(given) not in (1, len(entries)):
            raise click.UsageError(f"{len(given)} texts for {len(entries)} clips: give one for all, or one for each")
        return [*given] if len(given) == len(entries) else [*given] * len(entries)
    if not silence and all(entry.target is None for entry in entries):
        raise click.UsageError("nothing to be heard as. Give --target TEXT, --silence or --not-as TEXT, or a manifest with targets")
    return [entry.target for entry in entries]


def check_text(kind: type[Transcribe] | type[Mistranscribe], text: str, model: Recogniser) -> None:
    """Raise UnusableTarget for a text that is empty or that the model could never write."""
    check_spelt(kind(text), model.vocabulary)


def check_own_text(
    entry: Entry, text: str | None, kind: type[Transcribe] | type[Mistranscribe], model: Recogniser, in_manifest: bool
) -> None:
    """As `check_text`, for the text of one entry, which a manifest or the command line says."""
    if text is None:
        raise UnusableTarget(f"{entry.path}: no target. Give one with --target, or in the manifest")
    if in_manifest and (not text or text.startswith(NOT_AS)):  # from the results of such a run
        goal = f"--not-as {text.removeprefix(NOT_AS)!r}" if text else "--silence"
        raise UnusableTarget(f"{entry.path}: target {text!r} is no text to be heard as. Give {goal} for all, or --target TEXT")
    try:
        check_text(kind, text, model)
    except UnusableTarget as error:
        raise UnusableTarget(f"{entry.path}: {error}") from error


def tell(lines: list[dict[str, Any]], page: Path | None) -> None:
    """The table, what there is to say about single clips, and where everything is."""
    show(craft_table(lines))
    for line in lines:
        for remark in (*line["notices"], *([] if line["outcome"] == "reached" and "channel" not in line else [line["note"]])):
            say(f"{click.format_filename(line['clip'])}: {remark}")
    if page is not None:
        say(f"Listen and look: {click.format_filename(page)}")

"""audioadv craft: from clips and a phrase to sound files that a recogniser hears as the phrase."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, final

import click
import torch

from audioadv.attacks.catalogue import CRAFTING
from audioadv.attacks.craft import craft_each, heard_clean
from audioadv.attacks.result import Outcome
from audioadv.audio.files import LONGEST_SECONDS, Clip, read_clip
from audioadv.audio.ragged import alike
from audioadv.cli.fits import check_fits
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
from audioadv.cli.outputs import Names, check_page, check_writable, finish_killed, made_for_files, results_of, save
from audioadv.cli.progress import bars_on_terminal
from audioadv.cli.statuses import DONE, NOT_REACHED, STOPPED, WRONG_INPUT
from audioadv.defenses.statement import refuse_memory, stated
from audioadv.errors import InputError, UnusableResponse, UnusableTarget, UnwritableOutput
from audioadv.evaluation.run.on_disk import Request
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.models.sources import load_model
from audioadv.report.page import write_page
from audioadv.report.tables import craft_table, show
from audioadv.threat.bounds import check_sound_bound, parse_bound
from audioadv.threat.channels.channel import NOTHING, Channel
from audioadv.threat.channels.specs import check_sound, parse_channel
from audioadv.threat.goals import NOT_AS, USUAL_ERRORS, Mistranscribe, Silence, TextGoal, Transcribe, check_spelt, said


@final
class Aim(NamedTuple):
    """What clips are to be heard as: goals of one kind, by texts of the command line (`given`: one for all clips, or one for each), or by
    what the manifest says. Of words to be misheard, at least the share `errors`."""

    kind: type[TextGoal]
    given: tuple[str, ...] = ()
    errors: float = USUAL_ERRORS

    @classmethod
    def of(cls, targets: tuple[str, ...], silence: bool, references: tuple[str, ...], errors: float | None, entries: list[Entry]) -> "Aim":
        """The goal of the command line, or else of these entries. Raises UsageError for goals that do not fit together, or none."""
        if sum(map(bool, (targets, silence, references))) > 1:
            raise click.UsageError("--target, --silence and --not-as are three different goals. Give one of them")
        if silence:
            return cls(Silence, ("",))
        if given := targets or references:
            if len(given) not in (1, len(entries)):
                raise click.UsageError(f"{len(given)} texts for {len(entries)} clips: give one for all, or one for each")
            return cls(Mistranscribe if references else Transcribe, given, errors or USUAL_ERRORS)
        own = [entry for entry in entries if entry.target is not None]
        if not own:
            raise click.UsageError("nothing to be heard as. Give --target TEXT, --silence or --not-as TEXT, or a manifest with targets")
        if all(entry.silence for entry in own):  # from the results of such a call
            return cls(Silence)
        if not all(str(entry.target).startswith(NOT_AS) for entry in own):
            return cls(Transcribe)
        shares = sorted({errors or entry.errors or USUAL_ERRORS for entry in own})
        if len(shares) > 1:
            raise click.UsageError(f"clips that were made for --errors {' and '.join(f'{share:g}' for share in shares)}: give one for all")
        return cls(Mistranscribe, (), shares[0])

    def texts(self, entries: list[Entry]) -> list[str | None]:
        """The text of each entry's goal; None where there is none."""
        if self.given:
            return [*self.given] if len(self.given) == len(entries) else [*self.given] * len(entries)
        return [said(None, entry.target) if self.kind is Mistranscribe else entry.target for entry in entries]

    def goal(self, texts: list[str]) -> TextGoal:
        """The goal of clips with these texts."""
        if self.kind is Mistranscribe:
            return Mistranscribe(texts, self.errors)
        return Silence() if self.kind is Silence else Transcribe(texts)

    def source(self, entry: Entry, text: str) -> Entry:
        """The entry, with what is said in it, where the command line says so."""
        return replace(entry, text=text if self.given and self.kind is Mistranscribe else said(entry.text, entry.target))

    def check(self, text: str, model: Recogniser) -> None:
        """Raises UnusableTarget for a text that is empty or that the model could never write."""
        check_spelt(self.goal([text]), model.vocabulary)

    def check_own(self, entry: Entry, text: str | None, model: Recogniser) -> None:
        """As `check`, for the text of one entry, where it is its own: the manifest's, or one of many on the command line."""
        if len(self.given) == 1:
            return
        if text is None:
            raise UnusableTarget(f"{entry.path}: no target. Give one with --target, or in the manifest")
        if not self.given and self.kind is Transcribe and (not text or text.startswith(NOT_AS)):  # among others, which are texts
            goal = f"--not-as {text.removeprefix(NOT_AS)!r}" if text else "--silence"
            raise UnusableTarget(f"{entry.path}: target {text!r} is no text to be heard as. Give {goal} for all, or --target TEXT")
        try:
            self.check(text, model)
        except UnusableTarget as error:
            raise UnusableTarget(f"{entry.path}: {error}") from error


@final
class Job(NamedTuple):
    """One clip to attack: its place among those given, where it comes from, the NAME of its files, its sound, what the model
    makes of that, and the text of its goal."""

    place: int
    entry: Entry
    name: str
    clip: Clip
    heard: Emissions
    text: str


@click.command()
@clip_arguments
@click.option("--target", "targets", multiple=True, metavar="TEXT", help="What to be heard as: once for all clips, or once for each.")
@click.option("--silence", is_flag=True, help="Be heard as nothing at all.")
@click.option(
    "--not-as", "references", multiple=True, metavar="TEXT", help="What is said, to be misheard: once for all clips, or once for each."
)
@errors_option
@click.option(
    "--lead-in", type=Number(0, LONGEST_SECONDS), metavar="SECONDS", help="Silence to put before each clip; before results, as much as was."
)
@model_option
@click.option(
    "--bound", "spec", default="linf:min", show_default=True, metavar="B", help="What may be changed: linf:0.01, l2:0.5, snr:30, or :min."
)
@click.option("--attack", type=click.Choice(CRAFTING), default="shrink", show_default=True, help="How to search.")
@click.option(
    "--channel",
    "channel_spec",
    default="none",
    show_default=True,
    metavar="C",
    help="What must be survived: room_then_noise:20..30, codec:mp3@64k, ...",
)
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
    errors: float | None,
    lead_in: float | None,
    model_name: str,
    spec: str,
    attack: str,
    channel_spec: str,
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
    Lines manifest (*.jsonl, *.json, *.manifest) of sound files whose lines may hold a target; results are such manifests too, if all of
    them have goals of one kind. DIR gets NAME.json and a line in results.jsonl for each, NAME.wav, NAME.clean.wav and NAME.png for each
    that reaches its goal, and a page to listen to, index.html. A later call's results for the same CLIP take the place of these, and no
    other file's. Ctrl-C keeps what is found by then.

    \b
    audioadv craft samples/kitchen.wav --target "open the door"
    audioadv craft a.wav b.wav --target "call me back" --target "stop" --bound snr:30
    audioadv craft samples/kitchen.wav --target "open the door" --bound snr:15 --channel room_then_noise:20..30
    audioadv craft samples/kitchen.wav --not-as "the kettle is on the stove in the kitchen" --errors 1 --bound snr:30 --attack apgd
    audioadv craft samples/kitchen.wav --model tiny-wave --silence --lead-in 0.64 --bound sticker:10240+0
    """
    bound, channel = parse_bound(spec), check_sound(parse_channel(channel_spec))
    if channel == NOTHING:
        no_use(("draws", "judge_draws", "rate"), "it is for a --channel, and there is none")
    problems = Problems()
    entries = read_entries(clips, problems)
    if not entries:
        context.exit(WRONG_INPUT)
    aim = Aim.of(targets, silence, references, errors, entries)
    if aim.kind is not Mistranscribe:
        no_use(("errors",), "it is for words of --not-as, and there are none")
    texts = aim.texts(entries)
    check_folder(out)
    model = load_model(model_name, device, attacked=True)
    refuse_memory(model, stated(model))  # before a clip is heard: that would be kept
    check_fits(attack, model, channel)
    if len(aim.given) == 1:
        aim.check(aim.given[0], model)  # wrong for one, it is wrong for all
    channel.unfit(1, model.sample_rate)  # a recording that cannot be read is told once
    finish_killed(out)
    names, earlier = Names(out, [entry.path for entry in entries]), results_of(out)
    jobs: list[Job] = []
    for place, (entry, text) in enumerate(zip(entries, texts, strict=True)):
        name = names.new(entry.path, earlier)
        with problems.told():
            aim.check_own(entry, text, model)
            clip = read_job(entry.path, model, (entry.lead_in or 0.0) if lead_in is None else lead_in, channel)
            heard = heard_clean(model, clip)  # now: one that the model raises at stops no other
            jobs.append(Job(place, aim.source(entry, text or ""), name, clip, heard, text or ""))
    if not jobs:
        context.exit(WRONG_INPUT)
    jobs = [jobs[i] for i in alike([len(job.clip.samples) for job in jobs], batch)]
    goal = aim.goal([job.text for job in jobs])
    check_sound_bound(bound, max(len(job.clip.samples) for job in jobs))

    options: dict[str, Any] = {"bound": bound, "attack": attack, "steps": steps, "restarts": restarts, "seed": seed, "batch": batch}
    options |= {"heard": [job.heard for job in jobs], "channel": channel, "draws": draws, "judge_draws": judge_draws, "rate": rate}
    request = Request(model_name, attack, bound, seed, restarts, rate)
    lines: dict[int, dict[str, Any]] = {}  # by the place of its clip among those given
    stopped, cut, told = False, 0, problems.count  # what is told from here on is of these jobs
    try:
        with made_for_files(out), stoppable() as asked, bars_on_terminal(not (as_json and output().isatty())) as progress:
            crafted = craft_each(model, [job.clip for job in jobs], goal, progress=progress, stop=asked, **options)
            for row, (job, result) in enumerate(zip(jobs, crafted, strict=False)):
                if result.cut_short and result.outcome is Outcome.MISSED:
                    continue  # it was not tried to the end
                cut += result.cut_short
                with unbroken(), problems.told(job.entry.path):
                    own = goal.rows(torch.tensor([row]))
                    lines[job.place] = save(names, job.name, job.entry, result, own, model, request, picture=not no_picture)
                    if as_json:
                        say(json.dumps(lines[job.place]))
            stopped = cut > 0 or (asked() and len(lines) + problems.count - told < len(jobs))
    except KeyboardInterrupt:
        stopped = True
    if stopped:
        kept = f"are done and kept in {click.format_filename(out)}" if lines else "are done"
        early = f", {cut} of them before the last step" if cut else ""
        click.echo(f"Stopped: {len(lines)} of {len(jobs)} clips {kept}{early}", err=True)
    page = None
    if lines:
        with problems.told():
            page = write_page(out)
    if not as_json and lines:
        tell([line for _, line in sorted(lines.items())], page)
    context.exit(
        STOPPED if stopped else WRONG_INPUT if problems.count else DONE if all(line["reached"] for line in lines.values()) else NOT_REACHED
    )


def check_folder(out: Path) -> None:
    """Raises UnwritableOutput for a folder that takes no files, or that holds something else than what craft made."""
    check_writable(out)
    check_page(out)
    if os.path.exists(out / "run.json"):
        raise UnwritableOutput(f"--out {out}: holds a run of audioadv bench, which could not go on with other results. Name another folder")


def read_job(path: Path, model: Recogniser, lead_in: float, channel: Channel) -> Clip:
    """A clip as it is attacked. Raises InputError for one that is too long with its lead-in, UnusableResponse where the channel does not
    take it."""
    clip = read_clip(path, model.sample_rate)
    clip = clip.led_in(lead_in) if lead_in else clip
    if clip.seconds > LONGEST_SECONDS:
        raise InputError(f"{path}: {clip.seconds:.1f} s with --lead-in {lead_in:g}, but at most {LONGEST_SECONDS} s are read. Give less")
    if why := channel.unfit(len(clip.samples), model.sample_rate):
        raise UnusableResponse(f"{path}: {why}")
    return clip


def tell(lines: list[dict[str, Any]], page: Path | None) -> None:
    """The table, what there is to say about single clips, and where everything is."""
    show(craft_table(lines))
    for line in lines:
        for remark in (*line["notices"], *([] if line["note"] == Outcome.REACHED.sentence else [line["note"]])):
            say(f"{click.format_filename(line['clip'])}: {remark}")
    if page is not None:
        say(f"Listen and look: {click.format_filename(page)}")

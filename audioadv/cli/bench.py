"""audioadv bench: a whole manifest under every model, attack, bound and channel, in a run that can be killed and goes on."""

import json
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Self, final

import click
import torch
from torch import distributed

from audioadv.attacks.catalogue import CRAFTING
from audioadv.attacks.craft import craft_each
from audioadv.audio.whole import make_folder
from audioadv.cli.fits import check_fits
from audioadv.cli.manifests import Entry, as_entry, numbered_lines
from audioadv.cli.options import BATCH, Folder, common_options, errors_option, no_use, output, say, search_options
from audioadv.cli.outputs import Names, check_writable
from audioadv.cli.progress import run_progress
from audioadv.cli.statuses import DONE, FIRST, NOT_REACHED, STOPPED, WRONG_INPUT
from audioadv.errors import AccessDenied, AudioadvError, InputError, OptionError
from audioadv.evaluation.run.bench import Bench, changed_clips, is_gone
from audioadv.evaluation.run.claims import own_device, workers
from audioadv.evaluation.run.ledger import Ledger, check_results, read_results
from audioadv.evaluation.run.on_disk import seen_from
from audioadv.evaluation.run.plan import Job, Setting, every_setting, length_of, plan
from audioadv.evaluation.run.run_file import Traits, begin, fingerprint_of, threat_models, traits_of
from audioadv.evaluation.run.summary import NEEDED, summarise
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model
from audioadv.report.tables import bench_table, show
from audioadv.threat.bounds import check_sound_bound
from audioadv.threat.goals import NOT_AS, USUAL_ERRORS, Silence, Transcribe, said

STARTED = {"out", "batch", "limit", "as_json", "device"}  # what may differ from start to start: all other options decide the results
LATER = {"silence": False, "errors": USUAL_ERRORS, "restarts": 1}  # what older runs do not state, and what it was: None says so still


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option("--out", type=Folder(), required=True, metavar="RUN", help="The run's folder. If it is there, go on.")
@click.option("--model", "models", multiple=True, default=["tiny-mel"], show_default=True, metavar="M", help="May be repeated.")
@click.option(
    "--attack", "attacks", multiple=True, type=click.Choice(CRAFTING), default=["shrink"], show_default=True, help="May be repeated."
)
@click.option("--bound", "bounds", multiple=True, default=["linf:min"], show_default=True, metavar="B", help="May be repeated.")
@click.option("--channel", "channels", multiple=True, default=["none"], show_default=True, metavar="C", help="May be repeated.")
@click.option("--target", metavar="TEXT", help="What every clip is to be heard as, in place of its own target.")
@click.option("--silence", is_flag=True, help="Every clip is to be heard as nothing at all, whatever its target.")
@click.option("--untargeted", is_flag=True, help="Every clip is to be misheard, whatever its target.")
@errors_option
@search_options
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N clips; more can follow later.")
@common_options
@click.pass_context
def bench(
    context: click.Context,
    manifest: Path,
    out: Path,
    models: tuple[str, ...],
    attacks: tuple[str, ...],
    bounds: tuple[str, ...],
    channels: tuple[str, ...],
    target: str | None,
    silence: bool,
    untargeted: bool,
    errors: float | None,
    steps: int,
    draws: int,
    judge_draws: int,
    rate: float,
    restarts: int,
    batch: int,
    limit: int | None,
    as_json: bool,
    device: str,
    seed: int,
) -> None:
    """Attack every clip of a manifest under every setting.

    Every combination of --model, --attack, --bound and --channel is a setting; one that makes no sense is told and left out, the
    others get done, and the exit status is 2.

    MANIFEST is JSON Lines: audio_filepath (relative to it), duration, text (what is said) and, if you like, target (what
    should be heard). A clip without a target is to be misheard: at least --errors of its words wrong. RUN gets the files of each
    clip, a line for each in results.jsonl, and run.json, which says what is claimed.

    Killed or stopped anywhere, a run goes on where it was: start the same command again. Under torchrun all workers share
    the work, what a dead one held is done by another, and the status of a run that is done is always 0. --json prints what
    is new: what an earlier start did is in results.jsonl.

    \b
    audioadv bench test.jsonl --out run --bound snr:30 --bound snr:20 --bound snr:min
    torchrun --nproc-per-node 4 --max-restarts 3 -m audioadv bench test.jsonl --out run
    audioadv report run
    """
    wish = Wish(target, silence, untargeted, errors).checked()
    options = {"steps": steps, "restarts": restarts, "draws": draws, "judge_draws": judge_draws, "rate": rate, "seed": seed}
    settings = every_setting(models, attacks, bounds, channels)
    entries, complaints = read_lines(manifest)
    check_writable(out)
    earlier = read_earlier(out / "results.jsonl")
    jobs = jobs_of(entries, out, settings, wish, earlier)
    if jobs and all(job.target is not None for job in jobs):
        no_use(("errors",), "it is for clips to be misheard, and each has another goal")
    claims = workers(str(out.absolute()))
    context.meta[FIRST] = claims.first  # a start that is refused is refused to each worker, and at each restart
    load = lru_cache(maxsize=1)(partial(load_model, device=own_device(device), attacked=True))
    seen = examine(settings, jobs[:limit], target, load, options)

    def complain(error: AudioadvError) -> None:
        if claims.first(str(error)):
            click.echo(f"Error: {error}", err=True)

    for error in (*complaints, *seen.complaints):
        complain(error)
    if not seen.names:
        context.exit(WRONG_INPUT)
    arguments = deciding(context) | {"MANIFEST": seen_from(out, manifest)}
    started = {"--batch": None if batch == BATCH else batch, "--limit": limit}
    make_folder(out, "--out ")
    names = seen.names | earlier.keys()  # what has a result is claimed, however few are asked for now
    stated = {
        "command": command_line(manifest, out, arguments | started),
        "arguments": {**arguments, **seen.weights},
        "models": seen.traits,
        "started_with": {"device": device, "batch": batch, "limit": limit, "workers": claims.world, "torch": torch.__version__},
        "jobs": len(names),
        "threat_models": threat_models(jobs, settings, names),
    }
    begin(out, stated, changed_clips(earlier, jobs, settings, out))
    ledger = Ledger(out / "results.jsonl")

    def results() -> list[dict[str, Any]]:
        return [line for name, line in ledger.refresh().items() if name in seen.names]

    batches = {some.key: some for some in plan(jobs[:limit], seen.settings, batch)}
    stopped = False
    try:
        with claims.alive(), run_progress(claims.rank == 0 and not (as_json and output().isatty()), len(seen.names)) as shown:
            work = Bench(out, ledger, options, load, complain, shown.step)
            for key in claims.units([*batches]):
                for line in work.work(batches[key]):
                    if as_json:
                        say(json.dumps(line))
                shown.done(results())
            if claims.rank == 0:
                work.tidy()
    except KeyboardInterrupt:
        stopped = True
    except distributed.DistError as error:
        raise AudioadvError(
            f"{out}: the workers' queue is gone with the process that held it ({str(error).splitlines()[0]}). "
            "What is finished is kept: start the same command again"
        ) from error
    lines = results()
    if stopped:
        click.echo(f"Stopped: {len(lines)} of {len(seen.names)} jobs are done and kept in {out}. Start it again to go on", err=True)
    if claims.rank == 0 and lines and not as_json:
        show(bench_table(summarise(lines)))
        say(f"A page to read and listen: audioadv report {shlex.quote(click.format_filename(out))}")
    gone = [] if stopped else [line["name"] for line in lines if is_gone(out, line)]
    if gone:
        complain(files_gone(out, gone))
    wrong = bool(complaints or seen.complaints or gone) or len(lines) < len(seen.names)
    status = WRONG_INPUT if wrong else DONE if all(line["reached"] for line in lines) else NOT_REACHED
    context.exit(STOPPED if stopped else DONE if claims.launched else status)


def deciding(context: click.Context) -> dict[str, Any]:
    """What decides the results, as options and their values; what is given twice is no more than given once."""
    told: dict[str, Any] = {}
    for option in context.command.params:
        if option.name is not None and option.name not in STARTED:
            value = context.params[option.name]
            value = tuple(dict.fromkeys(value)) if isinstance(value, tuple) else value
            name = option.opts[-1] if isinstance(option, click.Option) else option.human_readable_name
            told[name] = None if option.name in LATER and value in (None, LATER[option.name]) else value
    return told


def files_gone(out: Path, names: list[str]) -> InputError:
    """What to say of clips that were reached, and whose files are no longer there."""
    cure = "Take their lines out of results.jsonl, and start the same command again"
    return InputError(f"{out / names[0]}.wav: gone, and not made again, one of {len(names)} clips that were reached. {cure}")


def read_lines(manifest: Path) -> tuple[list[tuple[str, Entry]], list[AudioadvError]]:
    """The entries of a manifest, each with where it stands, and what is wrong with the other lines. Raises InputError."""
    entries: list[tuple[str, Entry]] = []
    complaints: list[AudioadvError] = []
    for number, text in numbered_lines(manifest):
        try:
            entries.append((f"{manifest}, line {number}", as_entry(manifest, number, text)))
        except AudioadvError as error:
            complaints.append(error)
    return entries, complaints


def read_earlier(path: Path) -> dict[str, dict[str, Any]]:
    """The results that a run has already, by name. Only read: a start that is refused leaves the run as it was, and one beside it may
    not have stated the run yet. Raises InputError for lines that are no results."""
    if not path.exists():
        return {}
    lines = read_results(path)
    check_results(path, lines, NEEDED)
    return {line["name"]: line for line in lines}


@final
class Wish(NamedTuple):
    """What the command line wants of every clip, in place of its own target; and the share of words wrong where one is misheard, None for
    its own or the usual one."""

    target: str | None = None
    silence: bool = False
    untargeted: bool = False
    errors: float | None = None

    def checked(self) -> Self:
        """Itself. Raises UsageError for more than one goal."""
        goals = {"--target": self.target is not None, "--silence": self.silence, "--untargeted": self.untargeted}
        if len(given := [option for option, there in goals.items() if there]) > 1:
            raise click.UsageError(f"{' and '.join(given)} are {'two' if len(given) == 2 else 'three'} different goals. Give one of them")
        return self


def jobs_of(
    entries: Sequence[tuple[str, Entry]],
    out: Path,
    settings: Sequence[Setting],
    wish: Wish,
    earlier: Mapping[str, Mapping[str, Any]],
) -> list[Job]:
    """A job for each entry. Raises OptionError where files of the run would come to lie among the clips.

    A clip keeps the NAME that an earlier result of it has, whatever lines of the manifest were mended since; the others get new ones.
    """
    ours = {os.path.realpath(out / setting.folder) for setting in settings}
    jobs = []
    names, kept = Names(out, [entry.path for _, entry in entries]), dict[tuple[Any, ...], list[str]]()
    for line in earlier.values():
        of_clip = kept.setdefault((line.get("audio_filepath"), line.get("text"), line["target"]), [])
        if (name := line["name"].rpartition("/")[2]) not in of_clip:  # each setting has a line of it
            of_clip.append(name)
    for where, entry in entries:
        if os.path.realpath(entry.path.parent) in ours:
            raise OptionError(f"{where}: {entry.path} lies where --out {out} puts its files. Name another folder")
        text, own = said(entry.text, entry.target), entry.target
        if own is not None and own.startswith(NOT_AS):  # the manifest is the result of an untargeted run
            own = None
        silence = wish.silence or (entry.silence and wish.target is None and not wish.untargeted)
        wanted = "" if silence else None if wish.untargeted else own if wish.target is None else wish.target
        length = length_of(entry.path) if entry.seconds is None else entry.seconds
        job = Job(where, entry.path, "", text, wanted, length, silence, wish.errors or entry.errors or USUAL_ERRORS)
        known = kept.get((seen_from(out, entry.path), text, job.wish))
        jobs.append(replace(job, name=names.keep(known.pop(0))) if known else job)
    return [job if job.name else replace(job, name=names.new(job.path)) for job in jobs]


@final
class Examined(NamedTuple):
    """What can be done: settings that make sense, the names of results to come, each model's weights and traits, and what is wrong."""

    settings: list[Setting]
    names: set[str]
    weights: dict[str, str | None]
    traits: dict[str, Traits]
    complaints: list[AudioadvError]


def examine(
    settings: Iterable[Setting], jobs: Sequence[Job], target: str | None, load: Callable[[str], Recogniser], options: Mapping[str, Any]
) -> Examined:
    """Meet each model once, before any work. Raises UnknownModel, UnusableTarget for a --target that a model never writes."""
    seen = Examined([], set(), {}, {}, [])
    for setting in settings:
        model = load(setting.model)
        if setting.model not in seen.traits:
            seen.weights[f"weights of {setting.model}"], seen.traits[setting.model] = fingerprint_of(model), traits_of(model)
        if target is not None and jobs:
            Transcribe(target)
            jobs[0].goal(model)
        try:
            check_fits(setting.attack, model, setting.channel)
            # without a clip, craft_each checks its options and goes home
            list(craft_each(model, [], Silence(), bound=setting.bound, attack=setting.attack, channel=setting.channel, **options))
            if longest := max((job.seconds for job in jobs), default=0):
                check_sound_bound(setting.bound, round(longest * model.sample_rate))
        except (OptionError, AccessDenied) as error:
            seen.complaints.append(error)
            continue
        seen.settings.append(setting)
        for job in jobs:
            try:
                job.goal(model)
                seen.names.add(f"{setting.folder}/{job.name}")
            except AudioadvError as error:
                seen.complaints.append(error)
    return seen


def command_line(manifest: Path, out: Path, arguments: Mapping[str, Any]) -> str:
    """The call as one would type it, with every option that decides the results."""
    words = ["audioadv", "bench", str(manifest), "--out", str(out)]
    for option, value in arguments.items():
        if option.startswith("--") and value is not None and value is not False:
            values = [] if value is True else value if isinstance(value, tuple) else [value]
            words += [option] if value is True else [word for one in values for word in (option, str(one))]
    return shlex.join(words)

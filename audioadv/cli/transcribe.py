"""audioadv transcribe: what a recogniser hears."""

import json
from pathlib import Path

import click

from audioadv.audio.files import read_clip
from audioadv.cli.manifests import read_entries
from audioadv.cli.options import Problems, clip_arguments, common_options, model_option, say
from audioadv.cli.statuses import DONE, WRONG_INPUT
from audioadv.errors import UnusableBatch
from audioadv.models.abstention import abstained
from audioadv.models.recogniser import Emissions, heard_alone
from audioadv.models.sources import load_model


@click.command()
@clip_arguments
@model_option
@common_options
@click.pass_context
def transcribe(context: click.Context, clips: tuple[Path, ...], model_name: str, as_json: bool, device: str, seed: int) -> None:
    """Write what a recogniser hears.

    A CLIP is a sound file, or a JSON Lines manifest (*.jsonl, *.json, *.manifest) of sound files.
    With --json: clip, transcript, seconds (the clip's length) and notices (what reading it changed).
    """
    problems = Problems()
    entries = read_entries(clips, problems)
    model = load_model(model_name, device)
    for entry in entries:
        with problems.told(entry.path):
            clip = read_clip(entry.path, model.sample_rate)
            said = heard_alone(model, clip.samples)
            notices = (*clip.notices, *(["no answer: the recogniser abstains"] if check_numbers(said, clip.name, model.name) else []))
            heard = said.transcripts()[0]
            if as_json:
                say(json.dumps({"clip": clip.name, "transcript": heard, "seconds": round(clip.seconds, 3), "notices": notices}))
            else:
                say(f"{click.format_filename(clip.name)}: {heard}")
                for notice in notices:
                    click.echo(f"{clip.name}: {notice}", err=True)
    context.exit(WRONG_INPUT if problems.count else DONE)


def check_numbers(said: Emissions, clip: str, model: str) -> bool:
    """Whether a model abstains, which is one NaN a frame (`models/abstention.py`). Raises UnusableBatch for others: they are no silence."""
    own = said.log_probs[0, : int(said.frames[0])]
    if bool((own.isnan().sum(1) > 1).any()):
        raise UnusableBatch(
            f"{clip}: {model} gives NaN for it, which is no transcript. Look into the model: its weights may be damaged, or it computes "
            "in too few bits"
        )
    return bool(abstained(said)[0])

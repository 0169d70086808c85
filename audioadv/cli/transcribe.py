"""audioadv transcribe: what a recogniser hears."""

import json
from pathlib import Path

import click

from audioadv.audio.files import read_clip
from audioadv.cli.manifests import read_entries
from audioadv.cli.options import Problems, clip_arguments, common_options, model_option, say
from audioadv.cli.statuses import DONE, WRONG_INPUT
from audioadv.models.recogniser import heard_alone
from audioadv.models.sources import load_model


@click.command()
@clip_arguments
@model_option
@common_options
@click.pass_context
def transcribe(context: click.Context, clips: tuple[Path, ...], model_name: str, as_json: bool, device: str, seed: int) -> None:
    """Write what a recogniser hears.

    A CLIP is a sound file, or a JSON Lines manifest (*.jsonl) of sound files.
    With --json: clip, transcript, seconds (the clip's length) and notices (what reading it changed).
    """
    problems = Problems()
    entries = read_entries(clips, problems)
    model = load_model(model_name, device)
    for entry in entries:
        with problems.told():
            clip = read_clip(entry.path, model.sample_rate)
            heard = heard_alone(model, clip.samples).transcripts()[0]
            if as_json:
                say(json.dumps({"clip": clip.name, "transcript": heard, "seconds": round(clip.seconds, 3), "notices": clip.notices}))
            else:
                say(f"{click.format_filename(clip.name)}: {heard}")
                for notice in clip.notices:
                    click.echo(f"{clip.name}: {notice}", err=True)
    context.exit(WRONG_INPUT if problems.count else DONE)

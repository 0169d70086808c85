"""audioadv compare: how far apart two clips are."""

import json
import math
from pathlib import Path

import click

from audioadv.attacks.craft import heard_alone
from audioadv.audio.files import read_clip
from audioadv.audio.levels import relative_db, snr_db
from audioadv.cli.options import common_options
from audioadv.errors import UnusableBatch
from audioadv.models.sources import load_model
from audioadv.report.pictures import draw_pair
from audioadv.report.tables import comparison_table, show
from audioadv.threat.norms import L2Norm, LinfNorm


@click.command()
@click.argument("clean", type=click.Path(path_type=Path))
@click.argument("adversarial", type=click.Path(path_type=Path))
@click.option("--model", "model_name", metavar="M", help="Also say what this recogniser hears in both.")
@click.option(
    "--png", type=click.Path(path_type=Path), metavar="FILE", help="Draw waveforms and spectrograms of both and of the difference."
)
@common_options
def compare(clean: Path, adversarial: Path, model_name: str | None, png: Path | None, as_json: bool, device: str, seed: int) -> None:
    """Measure how far two clips are apart.

    snr_db is the clip's energy over the change's; relative_db the change's peak against the clip's (Carlini and Wagner's
    dB_x(delta)); linf the largest change of a sample and l2 the Euclidean length, full scale = 1.
    """
    model = load_model(model_name, device) if model_name else None
    pair = read_clip(clean), read_clip(adversarial)
    before, after = pair
    if (before.sample_rate, len(before.samples)) != (after.sample_rate, len(after.samples)):
        raise UnusableBatch(
            f"{after.name}: {len(after.samples)} samples at {after.sample_rate} Hz, but {before.name} has {len(before.samples)} at "
            f"{before.sample_rate} Hz. Compare with the clean clip as it was attacked, which craft writes as NAME.clean.wav"
        )
    heard = tuple(heard_alone(model, clip.at(model.sample_rate).samples).transcripts()[0] for clip in pair) if model else (None, None)
    change = (after.samples - before.samples)[None]
    figures = {
        "snr_db": float(snr_db(before.samples, after.samples)),
        "relative_db": float(relative_db(before.samples, after.samples)),
        "linf": float(LinfNorm().gauge(change)),
        "l2": float(L2Norm().gauge(change)),
    }
    line = {
        "clean": before.name,
        "adversarial": after.name,
        **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        "seconds": round(before.seconds, 3),
        "clean_transcript": heard[0],
        "adversarial_transcript": heard[1],
        "png": None if png is None else str(png),
        "notices": [f"{clip.name}: {notice}" for clip in pair for notice in clip.notices],
    }
    if png is not None:
        texts = None if heard[0] is None or heard[1] is None else (heard[0], heard[1])
        draw_pair(png, before.samples, after.samples, before.sample_rate, heard=texts, title=after.name)
    if as_json:
        click.echo(json.dumps(line))
    else:
        show(comparison_table(line))

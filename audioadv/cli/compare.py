"""audioadv compare: how far apart two clips are."""

import json
import math
from pathlib import Path

import click

from audioadv.audio.distances import distances
from audioadv.audio.files import read_clip
from audioadv.cli.options import common_options, no_use, say
from audioadv.cli.outputs import check_picture
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.recogniser import heard_alone
from audioadv.models.sources import load_model
from audioadv.report.pictures import draw_pair
from audioadv.report.tables import comparison_table, printable, show


@click.command()
@click.argument("clean", type=click.Path(path_type=Path))
@click.argument("adversarial", type=click.Path(path_type=Path))
@click.option("--model", "model_name", metavar="M", help="Also say what this recogniser hears in both.")
@click.option(
    "--png",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw both and their difference: waveforms, spectrograms, and what of it can be heard.",
)
@click.option(
    "--frame", "frame_at", type=float, metavar="SECONDS", help="In the picture, the masking threshold there; else at the worst frame."
)
@common_options
def compare(
    clean: Path,
    adversarial: Path,
    model_name: str | None,
    png: Path | None,
    frame_at: float | None,
    as_json: bool,
    device: str,
    seed: int,
) -> None:
    """Measure how far two clips are apart.

    \b
    snr_db           the clip's energy over the change's
    segmental_snr_db the same, the mean over segments of 30 ms
    relative_db      the change's peak against the clip's: Carlini and Wagner's dB_x(delta)
    linf, l2         the largest change of a sample; the Euclidean length (full scale = 1)
    loudness_lufs    how loud the change is by itself (ITU-R BS.1770, without gate)
    log_spectral_db  the log-spectral distance
    excess_db        how far the change stands over the masking threshold in the worst
                     bin, at excess_seconds and excess_hz; bins_over is the share of bins
                     that do. At most 0: inaudible, under this model of hearing
    pesq, stoi       the quality and the intelligibility that are left of speech
    """
    if png is None:
        no_use(("frame_at",), "it is for the picture, --png, and there is none")
    else:
        check_picture(png)
    model = load_model(model_name, device) if model_name else None
    pair = read_clip(clean), read_clip(adversarial)
    before, after = pair
    if (before.sample_rate, len(before.samples)) != (after.sample_rate, len(after.samples)):
        raise UnusableBatch(
            f"{after.name}: {len(after.samples)} samples at {after.sample_rate} Hz, but {before.name} has {len(before.samples)} at "
            f"{before.sample_rate} Hz. Compare with the clean clip as it was attacked, which craft writes as NAME.clean.wav"
        )
    heard = tuple(heard_alone(model, clip.at(model.sample_rate).samples).transcripts()[0] for clip in pair) if model else (None, None)
    figures, hearing, missing = distances(before.samples, after.samples, before.sample_rate)
    if frame_at is not None and not 0 <= frame_at <= before.seconds:
        raise OptionError(
            f"--frame {frame_at:g}: the clips last {before.seconds:.3f} s. Name a time in them, or leave it out for the worst frame"
        )
    line = {
        "clean": before.name,
        "adversarial": after.name,
        **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        "seconds": round(before.seconds, 3),
        "clean_transcript": heard[0],
        "adversarial_transcript": heard[1],
        "png": None if png is None else str(png),
        "notices": [*(f"{clip.name}: {notice}" for clip in pair for notice in clip.notices), *missing],
    }
    if png is not None:
        texts = None if heard[0] is None or heard[1] is None else (heard[0], heard[1])
        title = printable(after.name)
        draw_pair(png, before.samples, after.samples, before.sample_rate, heard=texts, title=title, hearing=hearing, frame_at=frame_at)
    if as_json:
        say(json.dumps(line))
    else:
        show(comparison_table(line))

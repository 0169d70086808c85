"""Over the air: does what was crafted for rooms, noise and codecs work in rooms that it has never met?

    python recipes/over_the_air.py --out runs/air                 # 20 carriers, both recognisers; resumable: run it again
    python recipes/over_the_air.py --limit 4 --steps 200 --model tiny-mel
    python recipes/over_the_air.py --quick                        # 2 carriers, a few steps: that it runs, not what it says

Four tables, each rate with its 95 % interval over draws and its count of draws, every file written and read back first:

    hearing    the recogniser itself: clean sentences through judge rooms at 20 dB of noise; and how often the targets are heard word by
               word where somebody just says them (espeak-ng, three voices of training), through what the examples are judged on
    snr        exact-target rate against the SNR of the perturbation, with EOT and without
    rt60       the same against how long the judge rooms reverberate
    codecs     crafted for the row, judged on the column

`--bound` takes more bounds for the snr table (snr:min, and whatever else `audioadv craft --bound` takes).

What was tried for `attacks/settle.py`: how often the six hardest clips are heard on tiny-mel within snr:15, in 60 to 100 judge draws of
rooms and noise. Two runs of one setting may differ by 10 points.

    slopes as they are, 1,200 draws     16, 28 %    4 draws a step, FIRST_STEP 0.1, WIDEST 3, the margin for draws at the goal
                                        31          2 draws, FIRST_STEP 0.3
                                        38, 50, 39  WIDEST 6, 10, 20 as well
                                        62          the goal's loss for all draws
                                        34          300 steps of 16 draws, four times the work: steps are scarce, not draws
    gains alone, 600 steps of 2         52          (slopes as they are, that time: 27)
                                        18, 47, 35  FIRST_STEP 0.15, 0.5, 0.9
                                        39, 52      momentum 0.8; WIDEST 3
    0.3 of the rest, growing to 1       30          mean loss 11.3, another time
    as weighed by what draws agree on   43, 50, 33  mean losses 8.1, 6.8 and, from another start, 9.9
                                        32, 40      WIDEST 1, 3
                                        29          radii that fall for 0.8 of the steps: what is heard while loud is lost all the same
                                        43, 38      in more parts: gains of 10, 20, 40 bands, or of 20, 40, 80, one after another
    0.3 of the rest, growing to 1       56, 63      1,200 and 4,800 steps
    as it is, 400 steps of 2            30, 36, 43  from three starts; mean losses 12.8, 10.6, 10.8
                                        41, 54, 32  slopes over the fourth root of their energy in each band and moment; losses 9.6, 9.9,
                                                    10.1. But of twelve clips on tiny-wave 31 %, not 34
                                        27, 35      radii that grow, from 0.3 of the region's; with FIRST_STEP 0.15
                                        34          WIDEST 1, and 2 rooms at first, then more and more
                                        30          600 steps, WIDEST 1, and rooms without echoes at first, then with more and more
                                        30, 43      400, 600 steps: four openings (a tenth, 0.15 of the steps each), then on from the one
                                                    of the lowest loss; losses 9.8, 9.3

Where a run ends, the mean slope of 96 draws is for the most part along the example itself (a cosine of 0.4 to 0.9): it wants to be louder,
and a step along the rest lowers a loss of 5 to 20 by no more than 0.5. So a clip needs another place rather than more steps: one clip's
loss was 0.8, 5, 10, 16 or 27 at the end, by the run, and that is decided once the radius is the region's: by then it was 4, 7, 14 or 49.
Slopes that leave out what echoes of different moments do to each other, as if sounds had no phases, agree hardly more than gains do (c
0.067 and 0.052): what draws disagree on is in the net's own slopes.

Begun with the target as a synthesiser speaks it, ten times as loud: of twelve clips, 400 steps, 37 %, from a nudge 32 % that time. Others
are heard than before (the better of both, clip by clip, 47 %): it is one more start, not a better place.

No better on twelve clips in 400 steps (49 % then): draws weighed by how near their loss is to the edge (49), momentum 0.95 (37), gains
weighed towards the loud (36). On tiny-wave, which hears no bands, it matters less: of 17 carriers, 1,200 steps, 39 % as here, 38 with
the growing share, 41 to 48 with slopes as they are, and one clip's rate may differ by 40 points between two runs.

For the smallest, 600 steps and 0.3 of the rest all along: a mean SNR of 8.1 dB, heard in 91 % (3.4 and 88 % before); the search that
settled at nothing, as it is without a channel, came in 300 steps to -5 dB or worse in most, and 31 %.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import jiwer
import torch
from lines import add_lines, read_lines
from speech.voices import Voice, speak
from suite import DATA, SAMPLE_RATE, Pair, pairs, spoken_samples
from torch import Tensor
from word_error_rate import synthetic

from audioadv.attacks.craft import craft_each
from audioadv.audio.files import read_clip, write_wav
from audioadv.audio.roomsets import read_rooms
from audioadv.evaluation.rates import wilson
from audioadv.evaluation.survival import transcripts
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model
from audioadv.threat.bounds import parse_bound
from audioadv.threat.channels import NOTHING, Channel, Noise, Room, fingerprint, parse_channel
from audioadv.threat.channels.heard import heard_through
from audioadv.threat.goals import Transcribe

AIR = "room_then_noise:20..30"
NOISE = Noise((20, 30))
SPEAKERS = tuple(Voice("espeak", name, 50, 1.0) for name in ("en-us", "en-gb+m3", "en-gb-scotland+f2"))
SPANS = ((0.1, 0.3), (0.3, 0.537), (0.537, 0.81))  # seconds of RT60: 3, 5 and 4 of the judge rooms
CODECS = ("none", "codec:mp3@64k", "codec:opus@24k", "codec:mp3@64k_or_codec:opus@24k", "codec:mulaw@64k")
Line = dict[str, Any]


def suited(data: Path) -> list[Pair]:
    """One pair of each carrier: the first whose target has 2 to 5 words, or, last, five words of the first one's target."""
    found: dict[str, Pair] = {}
    rest: dict[str, Pair] = {}
    for pair in pairs(data):
        assert pair.clip.seconds > 1, "a clip is to outlast every room"
        if 2 <= len(pair.target.split()) <= 5:
            found.setdefault(pair.clip.name, pair)
        else:
            rest.setdefault(pair.clip.name, replace(pair, target=" ".join(pair.target.split()[:5])))
    return list({**found, **{name: pair for name, pair in rest.items() if name not in found}}.values())


def columns() -> dict[str, Channel]:
    """What every file is judged on: the air as a whole, rooms by RT60, codecs."""
    rooms = read_rooms()
    spans: dict[str, Channel] = {f"rt60 {low:g}..{high:g}": Room(rooms.reverberating(low, high)) >> NOISE for low, high in SPANS}
    return {
        "none": NOTHING,
        "air": parse_channel(AIR),
        **spans,
        **{spec: parse_channel(spec) for spec in CODECS if "_or_" not in spec},
    }


def judged(model: Recogniser, path: Path, pair: Pair, draws: int, wanted: dict[str, Channel]) -> dict[str, list[int]]:
    """Hits and draws of a file on each column. Codecs have nothing random in them: one draw says all."""
    samples, result = read_clip(path, SAMPLE_RATE).samples, {}
    for name, channel in wanted.items():
        count = 1 if name.startswith("codec") else draws
        texts = transcripts(model, samples, channel, count, fingerprint(pair.clip.samples), seed=0)
        result[name] = [sum(text == pair.target for text in texts), len(texts)]
    return result


def craft_cell(model: Recogniser, suite: list[Pair], bound: str, crafted_for: str, how: Line, folder: Path) -> Iterator[Line]:
    """Craft all pairs under one bound for one channel, and judge their files on every column."""
    goal, wanted = Transcribe([pair.target for pair in suite]), columns()
    options: Line = {"bound": parse_bound(bound), "channel": parse_channel(crafted_for), "judge_draws": 1}
    options |= {"steps": how["steps"], "restarts": how["restarts"], "draws": how["step_draws"]}
    for pair, result in zip(suite, craft_each(model, [pair.clip for pair in suite], goal, **options), strict=True):
        path = folder / f"{model.name}-{bound}-{crafted_for}-{pair.name}.wav".replace("/", "_").replace(":", "_")
        write_wav(path, result.adversarial, SAMPLE_RATE)
        where = {"model": model.name, "bound": bound, "crafted_for": crafted_for, "pair": pair.name}
        where |= how
        cost = {"forwards": result.forwards, "seconds": round(result.seconds, 1), "snr_db": result.line()["snr_db"]}
        yield where | cost | {"target": pair.target, "kind": pair.kind, "judged": judged(model, path, pair, how["judge_draws"], wanted)}


def rate(lines: list[Line], column: str) -> str:
    """All draws of all files on a column, or a dash."""
    hits, count = (sum(line["judged"][column][i] for line in lines) for i in (0, 1))
    low, high = wilson(hits, count)
    return f"{hits / count:4.0%} ({low:.0%}..{high:.0%}, {len(lines)} x {count // len(lines)})" if count else "-"


def clean_speech(count: int) -> tuple[list[tuple[Tensor, str]], str]:
    """So many held-out sentences by voices of training, and what they are; the spoken samples, where no synthesiser is there."""
    if shutil.which("espeak-ng") and shutil.which("flite"):
        return synthetic("seen", count), f"{count} held-out sentences"
    return [(read_clip(path, SAMPLE_RATE).samples, text) for path, text in spoken_samples()], "the spoken samples"


def hearing(model: Recogniser, count: int, draws: int) -> str:
    """Word error rate of clean speech through judge rooms at 20 dB, and of it as it is."""
    (speech, what), said, heard, plain = clean_speech(count), list[str](), list[str](), list[str]()
    for samples, text in speech:
        for part in heard_through(model, samples, parse_channel("room_then_noise:20"), draws=draws, clip=fingerprint(samples)):
            heard += part.transcripts()
        plain += draws * model.transcribe(samples[None], torch.tensor([len(samples)]))
        said += draws * [text]
    rates = f"WER {jiwer.wer(said, heard):.1%} in rooms, {jiwer.wer(said, plain):.1%} without"
    return f"{model.name}: {rates} ({what}, {draws} draws each)"


def said_aloud(model: Recogniser, suite: list[Pair], draws: int) -> str:
    """How often the targets are heard exactly, where voices say them through the air: what an example is to be held against."""
    if not shutil.which("espeak-ng"):
        return f"{model.name}: the targets said aloud are not measured, espeak-ng is missing"
    hits, plain, quiet = [0] * len(suite), [0] * len(suite), torch.zeros(SAMPLE_RATE // 4)
    for voice in SPEAKERS:
        for i, pair in enumerate(suite):
            samples = torch.cat([quiet, torch.from_numpy(speak(pair.target, voice)), quiet])
            heard = heard_through(model, samples, parse_channel(AIR), draws=draws, clip=fingerprint(samples))
            hits[i] += sum(text == pair.target for part in heard for text in part.transcripts())
            plain[i] += model.transcribe(samples[None], torch.tensor([len(samples)]))[0] == pair.target
    times = len(SPEAKERS)
    row = " ".join(f"{count / times / draws:.0%}" for count in hits)
    return (
        f"{model.name}: targets said aloud, heard exactly {sum(hits) / times / draws / len(suite):.0%} through the air, "
        f"{sum(plain) / times / len(suite):.0%} without ({len(suite)} x {times} x {draws}; one by one {row})"
    )


def tell(lines: list[Line], name: str, bounds: list[str]) -> None:
    """The three tables of one recogniser."""
    own = [line for line in lines if line["model"] == name]
    for title, columns in (
        ("snr: with EOT, without; crafted for the row", ["air", "none"]),
        ("rt60", [f"rt60 {a:g}..{b:g}" for a, b in SPANS]),
    ):
        click.echo(f"\n{name}, {title}\n{'bound':12} {'crafted for':26}" + "".join(f"{column:32}" for column in columns) + "SNR dB, mean")
        for bound in bounds:
            for crafted_for in (AIR, "none"):
                some = [line for line in own if (line["bound"], line["crafted_for"]) == (bound, crafted_for)]
                if some:
                    loud = [line["snr_db"] for line in some if line["snr_db"] is not None]
                    mean = f"{sum(loud) / len(loud):.1f}" if loud else "-"
                    click.echo(f"{bound:12} {crafted_for:26}" + "".join(f"{rate(some, column):32}" for column in columns) + mean)
    judges = [spec for spec in CODECS if "_or_" not in spec]
    click.echo(f"\n{name}, codecs: crafted for the row, judged on the column\n{'':36}" + "".join(f"{spec:28}" for spec in judges))
    for spec in CODECS:
        if some := [line for line in own if line["crafted_for"] == spec and line["bound"] == bounds[0]]:
            click.echo(f"{spec:36}" + "".join(f"{rate(some, column):28}" for column in judges))


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option(
    "--bound",
    "bounds",
    multiple=True,
    default=("snr:15", "snr:6", "snr:10", "snr:20", "snr:min"),
    show_default=True,
    help="what may be changed; again for more",
)
@click.option("--steps", default=1200, show_default=True, help="of the attack")
@click.option("--restarts", default=1, show_default=True, help="starts of those that are heard too seldom")
@click.option("--step-draws", default=2, show_default=True, help="draws a step: twice the steps bring more than twice the draws")
@click.option("--draws", default=100, show_default=True, help="judge draws a file")
@click.option("--limit", default=20, show_default=True, help="only so many carriers")
@click.option("--codecs/--no-codecs", default=True, show_default=True, help="under the first bound")
@click.option("--crafted-for", "only", multiple=True, help="some of what is crafted for (none; a channel's spec), not all")
@click.option("--quick", is_flag=True, help="2 carriers, one recogniser, 6 steps")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real recordings; without it, samples/ only")
@click.option("--out", type=Path, help="keep files and results.jsonl here, and go on from what is there")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
def main(
    models: tuple[str, ...],
    bounds: tuple[str, ...],
    steps: int,
    restarts: int,
    step_draws: int,
    draws: int,
    limit: int,
    codecs: bool,
    only: tuple[str, ...],
    quick: bool,
    data: Path,
    out: Path | None,
    device: str,
) -> None:
    """Craft, judge, and print the tables."""
    if quick:
        models, bounds, steps, draws, limit = models[:1], ("snr:6",), min(steps, 6), 4, 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        results = folder / "results.jsonl"
        lines = read_lines(results)
        suite, how = suited(data)[:limit], {"steps": steps, "restarts": restarts, "step_draws": step_draws, "judge_draws": draws}
        cells = [(bound, crafted_for) for bound in bounds for crafted_for in (AIR, "none")]
        cells += [(bounds[0], spec) for spec in CODECS if spec != "none" and codecs]
        cells = [cell for cell in cells if not only or cell[1] in only]
        if not cells:
            raise click.UsageError(f"--crafted-for {', '.join(only)}: give one of {', '.join((AIR, *CODECS))}")
        for name in models:
            model = load_model(name, device)
            click.echo(hearing(model, *((5, 2) if quick else (100, 3))))
            click.echo(said_aloud(model, suite, draws=2 if quick else 40))
            for bound, crafted_for in cells:
                there = {line["pair"] for line in lines if settings(line) == (model.name, bound, crafted_for, *how.values())}
                if left := [pair for pair in suite if pair.name not in there]:
                    for line in craft_cell(model, left, bound, crafted_for, how, folder):
                        add_lines(results, [line])
                        lines.append(line)
            tell([line for line in lines if settings(line)[3:] == (*how.values(),)], model.name, list(bounds))


def settings(line: Line) -> tuple[Any, ...]:
    """What makes a result one of this run."""
    return tuple(line.get(key) for key in ("model", "bound", "crafted_for", "steps", "restarts", "step_draws", "judge_draws"))


if __name__ == "__main__":
    main()

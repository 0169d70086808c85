"""Under the masking threshold: how many of the suite's pairs are reached at which margin, ours and the baselines, file by file.

    python recipes/inaudible.py --out runs/inaudible                  # 40 pairs, 1,000 forwards each: resumable, run it again
    python recipes/inaudible.py --out runs/inaudible --limit 6 --steps 150 --model tiny-mel
    python recipes/inaudible.py --quick                               # 2 pairs, 40 forwards: that it runs, not what it says

asr-attacks runs in the peers' environment, into the same folder; what is measured there with fewer packages is completed here:

    make peers && .peers/bin/python recipes/inaudible.py --out runs/inaudible --entrant asr-attacks

Entrants, each with as many forwards, judged on its 16-bit file, read back and heard alone, under one threshold (ours):

    masked:min     the lowest margin; any other masked:M is a fixed one
    qin            Qin et al. 2019 by our threshold: a fifth of the steps for stage 1
    asr-attacks    its imperceptible attack, by its own threshold and defaults but for the numbers of steps, in the same shares

A pair counts at margin M where its file is heard as the target and no bin of the change is more than M dB over the threshold, for a
fixed bound half a decibel more. Results are in results.jsonl, the curves in success.png.
"""

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from against_peers import CHECK_EVERY, Counted, attacker, median, weights
from craft_suite import quartiles
from lines import add_lines, read_lines, write_lines
from suite import DATA, SAMPLE_RATE, Pair, judge, pairs
from torch import Tensor, nn

from audioadv.attacks.craft import BATCH, craft_each
from audioadv.audio.distances import pesq_mos, worst_excess
from audioadv.audio.files import read_clip
from audioadv.audio.hearing import Hearing
from audioadv.errors import BrokenInstallation, UnreadableAudio
from audioadv.evaluation.rates import wilson
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model
from audioadv.threat.bounds import MIN
from audioadv.threat.goals import Transcribe
from audioadv.threat.masked import Masked

Line = dict[str, Any]
OURS, QIN, PEER = "masked:min", "qin", "asr-attacks"
MARGINS = tuple(range(12, -25, -3))  # dB
ROUNDING = 0.5  # dB that a file may be over a fixed margin
RUN = ("model", "weights", "forwards_allowed", "seed", "temporal")  # what must agree for lines to be compared
FIRST = 0.2  # of the steps, stage 1's: the paper's 1,000 of 5,000
INK = ("#1f5a86", "#a8323e", "#4f6d3a", "#8a6d1c", "#5e4b8b", "#444444")


def crafted(model: Recogniser, entrant: str, todo: list[Pair], run: Line) -> Iterator[tuple[Pair, Tensor, Line]]:
    """Ours: each pair with its adversarial clip [time] and the cost."""
    bound = Masked.parse(MIN if entrant == QIN else entrant.partition(":")[2])
    options: Line = {"attack": QIN if entrant == QIN else "shrink", "steps": run["forwards_allowed"], "seed": run["seed"]}
    bound = Masked(bound.margin_db, Hearing(temporal=run["temporal"]))
    goal = Transcribe([pair.target for pair in todo])
    for pair, result in zip(todo, craft_each(model, [pair.clip for pair in todo], goal, bound=bound, **options), strict=True):
        yield pair, result.adversarial, {"outcome": str(result.outcome), "forwards": result.forwards, "seconds": round(result.seconds, 2)}


def by_peer(model: Recogniser, todo: list[Pair], run: Line) -> Iterator[tuple[Pair, Tensor, Line]]:
    """The same of asr-attacks, one utterance at a time as it asks for."""
    assert isinstance(model.net, nn.Module)
    first, second = affordable(run["forwards_allowed"])
    for pair in todo:
        net = Counted(model.net)
        attack = attacker(Recogniser(net, model.sample_rate, model.vocabulary, model.name))
        torch.manual_seed(run["seed"])
        found = torch.from_numpy(attack.imperceptible(pair.clip.samples, pair.target, num_iter1=first, num_iter2=second)).reshape(-1)
        yield pair, found.float().nan_to_num(), {"forwards": net.forwards}


def affordable(forwards: int) -> tuple[int, int]:
    """Steps of asr-attacks' two stages that cost, with the looks between them, at most `forwards`.

    A look is a forward: each tenth step of stage 1, each that 20 or 50 divides of stage 2.

    >>> affordable(2000)
    (375, 1499)
    """

    def cost(steps: int) -> int:
        first, second = shares(steps)
        return steps + first // CHECK_EVERY + second // 20 + second // 50 - second // 100

    return shares(max(steps for steps in range(forwards + 1) if cost(steps) <= forwards))


def shares(steps: int) -> tuple[int, int]:
    """Stage 1's steps and stage 2's."""
    return round(FIRST * steps), steps - round(FIRST * steps)


def measured(model: Recogniser, pair: Pair, adversarial: Tensor, folder: Path, temporal: bool) -> Line:
    """What the file in `folder` is worth."""
    verdict = judge(model, pair, adversarial, folder)
    samples = read_clip(folder / f"{pair.name.replace('/', '-')}.wav", SAMPLE_RATE).samples
    excess = worst_excess(pair.clip.samples, samples, Hearing(temporal=temporal))
    worst = round(excess.worst_db, 3) if excess.worst_db > -math.inf else None
    return verdict.line() | {"worst_db": worst, "at_hz": round(excess.hz), "share_over": excess.share, "pesq": quality(pair, folder)}


def quality(pair: Pair, folder: Path) -> float | None:
    """PESQ of the file; None where the file or PESQ's package is missing, or it hears no speech."""
    try:
        score = pesq_mos(pair.clip.samples, read_clip(folder / f"{pair.name.replace('/', '-')}.wav", SAMPLE_RATE).samples, SAMPLE_RATE)
    except (BrokenInstallation, UnreadableAudio):
        return None
    return None if math.isnan(score) else round(score, 3)


def margin(line: Line) -> float:
    """Of a pair that was reached, the decibels over the threshold that it needs; not a number for one that was not."""
    return math.nan if not line["reached"] else -math.inf if line["worst_db"] is None else line["worst_db"]


def share(lines: list[Line], at_db: float, slack: float = 0.0) -> str:
    """How many of the pairs are reached at a margin, with the 95 % interval."""
    hits = sum(margin(line) <= at_db + slack for line in lines)
    low, high = wilson(hits, len(lines))
    return f"{hits:3}/{len(lines):<3} {low:4.0%}..{high:4.0%}"


def tell(by: dict[str, list[Line]]) -> None:
    """The tables: what each entrant is worth, success by margin, and the margins of each kind of carrier."""
    click.echo("\n  entrant        reached             worst excess of these, dB     bins over   PESQ   forwards")
    for entrant, lines in by.items():
        hits = [line for line in lines if line["reached"]]
        over, forwards = median(line["share_over"] for line in hits), sum(line["forwards"] for line in lines) / len(lines)
        heard = median(line["pesq"] for line in hits if line["pesq"] is not None)
        row = f"  {entrant:12} {share(lines, math.inf):20}"
        click.echo(f"{row}  {quartiles([line['worst_db'] for line in hits])} {over:15.2%} {heard:6.2f} {forwards:10.0f}")
    click.echo("\n  margin, dB  " + "".join(f"{entrant:20}" for entrant in by))
    for at_db in MARGINS:
        row = f"  {at_db:+10}  "
        for entrant, lines in by.items():
            own = fixed(entrant)
            row += f"{share(lines, at_db) if own is None else share(lines, at_db, ROUNDING) if own == at_db else '':20}"
        click.echo(row)
    if OURS in by:
        click.echo(f"\n  {OURS} by carrier   margin, dB (quartiles)")
        for kind in sorted({line["kind"] for line in by[OURS]}):
            some = [line["worst_db"] for line in by[OURS] if line["kind"] == kind and line["reached"]]
            click.echo(f"  {kind:22} {quartiles(some)}  of {len(some)}")


def fixed(entrant: str) -> float | None:
    """The margin of an entrant with a fixed one, dB."""
    return None if entrant in (OURS, QIN, PEER) else float(entrant.partition(":")[2])


def draw(path: Path, runs: dict[str, dict[str, list[Line]]]) -> None:
    """Success against margin, a panel a run: steps for searches with their 95 % bands, points for fixed margins."""
    try:
        from matplotlib.figure import Figure
    except ImportError:  # in the peers' environment
        return
    figure = Figure(figsize=(6.5 * len(runs), 4.5), layout="constrained")
    loudest = max(
        (need for by in runs.values() for lines in by.values() for need in map(margin, lines) if math.isfinite(need)), default=0.0
    )
    margins = torch.linspace(MARGINS[-1], max(MARGINS[0], loudest) + 3, 400).tolist()
    for axes, (title, by) in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs.items(), strict=True):
        for ink, (entrant, lines) in zip(INK * len(by), by.items(), strict=False):
            found, at_db = [margin(line) for line in lines], fixed(entrant)
            slack, places = (0.0, margins) if at_db is None else (ROUNDING, [at_db])
            counts = [sum(need <= place + slack for need in found) for place in places]
            rates, ends = [count / len(lines) for count in counts], [wilson(count, len(lines)) for count in counts]
            if at_db is None:
                axes.plot(places, rates, color=ink, label=f"{entrant} ({len(lines)} pairs)", drawstyle="steps-post")
                some = [count > 0 for count in counts]  # the bands of none would hide each other
                axes.fill_between(places, *zip(*ends, strict=True), where=some, color=ink, alpha=0.12, step="post", linewidth=0)
            else:
                bars = [[max(0.0, rates[0] - ends[0][0])], [max(0.0, ends[0][1] - rates[0])]]  # an end may be a rounding off
                axes.errorbar(places, rates, yerr=bars, color=ink, fmt="o", capsize=3, label=f"{entrant} ({len(lines)} pairs)")
        axes.set(title=title, xlabel="margin over the masking threshold, dB", ylabel="pairs reached", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.25)
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def resumed(results: Path, suite: dict[str, Pair]) -> list[Line]:
    """The lines that are there, but for one that a stop has cut, each with its PESQ where that can be had by now."""
    lines = read_lines(results)
    for line in lines:
        if line["pair"] in suite and line["pesq"] is None:
            line["pesq"] = quality(suite[line["pair"]], results.parent / line["wavs"])
    write_lines(results, lines)
    return lines


def compete(model: Recogniser, entrant: str, todo: list[Pair], run: Line, results: Path) -> Iterator[Line]:
    """One entrant on some pairs: each line when it is written."""
    folder = results.parent / "-".join(str(part) for part in (*run.values(), entrant)).replace(":", "_")
    folder.mkdir(exist_ok=True)
    todo = sorted(todo, key=lambda pair: len(pair.clip.samples))  # so that batches have little padding
    for first in range(0, len(todo), BATCH):
        way = by_peer(model, todo[first:][:BATCH], run) if entrant == PEER else crafted(model, entrant, todo[first:][:BATCH], run)
        for pair, adversarial, cost in way:
            what = {"entrant": entrant, "pair": pair.name, "kind": pair.kind, "target": pair.target, "wavs": folder.name}
            line = run | what | measured(model, pair, adversarial, folder, run["temporal"]) | cost
            add_lines(results, [line])
            yield line


@click.command(help=__doc__.split("\n")[0])
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option("--entrant", "entrants", multiple=True, default=(OURS, "masked:0", QIN), show_default=True, help=f"or {PEER}, or masked:M")
@click.option("--steps", default=1000, show_default=True, help="forwards a pair")
@click.option("--seed", default=0, show_default=True, help="of all draws")
@click.option("--temporal", is_flag=True, help="masking in time too, for ours and for the measure")
@click.option("--limit", default=40, show_default=True, help="only so many pairs")
@click.option("--quick", is_flag=True, help="2 pairs, 40 forwards, one recogniser")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real recordings; without it, samples/ only")
@click.option("--out", type=Path, help="keep files, results.jsonl and the picture here, and go on from what is there")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
def main(
    models: tuple[str, ...],
    entrants: tuple[str, ...],
    steps: int,
    seed: int,
    temporal: bool,
    limit: int,
    quick: bool,
    data: Path,
    out: Path | None,
    device: str,
) -> None:
    """Craft what is missing, judge it, and print the tables of all that is there."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    if quick:
        models, steps, limit = models[:1], min(steps, 40), min(limit, 2)
    with tempfile.TemporaryDirectory() as scratch:
        folder, suite = out or Path(scratch), {pair.name: pair for pair in pairs(data)[:limit]}
        folder.mkdir(parents=True, exist_ok=True)
        results, runs = folder / "results.jsonl", dict[str, dict[str, list[Line]]]()
        lines = resumed(results, suite)
        for name in models:
            model = load_model(name, device)
            assert isinstance(model.net, nn.Module)
            run = dict(zip(RUN, (model.name, weights(model.net), steps, seed, temporal), strict=True))
            own = [line for line in lines if line.items() >= run.items() and line["pair"] in suite]
            for entrant in entrants:
                done = {line["pair"] for line in own if line["entrant"] == entrant}
                own += compete(model, entrant, [pair for pair in suite.values() if pair.name not in done], run, results)
            title = f"{model.name}, {steps} forwards" + ", temporal masking" * temporal
            names = dict.fromkeys([*entrants, *(line["entrant"] for line in own)])
            runs[title] = {entrant: [line for line in own if line["entrant"] == entrant] for entrant in names}
            click.echo(f"\n{title}, weights {run['weights']}, seed {seed}")
            tell(runs[title])
        draw(folder / "success.png", runs)


if __name__ == "__main__":
    main()

"""Crafts the 40 pairs of the suite and judges each on its WAV file, read back from disk and heard alone.

    python recipes/craft_suite.py                                        # linf:min, both bundled recognisers
    python recipes/craft_suite.py --bound snr:min --steps 300 --limit 8 --model tiny-mel
    python recipes/craft_suite.py --bound snr:min --limit 12 --company   # each alone and in another order, too: how far results differ
    python recipes/craft_suite.py --quick                                # 4 pairs, 100 steps

linf:min: 40 of 40 on tiny-mel in 200 steps, on tiny-wave in 120.

Both recognisers, snr:min, 300 steps, 16 pairs, as in the batch, alone and in the reverse order: the same outcomes, and not one SNR
differs. (Before frames and slopes were the same in any company, `audioadv/models/frames.py`, 7 of 12 SNRs were within 0.5 dB, the others
up to 1.7 apart: sums that differ in their last bits lead to other places to rest.)

Exit status: 0 where every pair is reached, else 1.

What the parts of the search bring (`attacks/shrink.py`), in pairs of this suite and L2 unless it says so; mean or median SNR in dB:

pace    That a search is not on its way is seen over 8 steps, not 12: of 40 pairs, tiny-mel, the median comes to 22 dB after 76 steps, not
        85, and after 100 all are found, not 38; after 300 the mean is 39.1 either way, on tiny-wave 32.1, not 32.3. By the clock alone,
        every 24 steps, regions outran searches that were on their way, and what was found in them was larger: 12 pairs, tiny-mel, median
        after 100, 200 and 300 steps 15.8, 29.0 and 36.3, as here (12 steps) 19.3, 30.8 and 37.0; tiny-wave 27.8, 32.4 and 33.2, as here,
        where none has to grow, 29.0, 31.9 and 32.7. Under a masking threshold a slope that is steep by then threw out what was one
        letter short.
gamma   With one that only falls, after 8 steps, what 300 steps found was larger: on 16 pairs by 5.2 dB in Linf and 1.7 in L2 (tiny-mel),
        on 12 by 2.5 and 1.5 (tiny-wave). It begins at a tenth: a fifth mostly failed 16 times, and was halved. Of 40 pairs, tiny-mel, the
        median after 90, 100, 120 and 150 steps is 24.1, 26.1, 28.6 and 32.6, from a fifth 21.2, 22.5, 27.9 and 31.5; after 300 the same.
margin  From CLOSE on, not from the first find: 12 pairs, tiny-mel, the last is found at step 128, not 245, and the mean after 300 is 36.6,
        not 33.2; the median after 100, 200 and 300 is 20.2, 34.4 and 37.4. That was with CLOSE 0.1 and momentum 0.9; as it is, found sooner
        still, on tiny-wave too: 40 pairs, 300 steps, mean 32.3, not 32.1, on tiny-mel 39.2, not 39.0. Of 12 pairs CLOSE 0.5 costs tiny-wave
        0.5 in the end, momentum 0.8 tiny-mel 2; steps along square roots of slopes find after 70 steps, not 80, and cost tiny-wave 0.6.
slack   Over 12 pairs, 300 steps, that it is halved gains tiny-wave 0.5 (its searches are at rest after 200), tiny-mel nothing.
anew    From a search at rest, steps to the least norm under the linearised margins of all frames bring 0.1. To begin anew: 10 pairs,
        tiny-wave, mean after 300, 500 and 1,000 steps 28.5, 28.8 and 29.0 without, 28.5, 29.0 and 29.8 with gamma 0.35; with 0.1 in the end
        29.5, 0.2 29.7, 0.5 29.1; from 1.2 times the smallest change 29.4, with noise half as large as it 29.3, with four times the slack
        29.2. Of all 40 pairs, after 1,000: 33.1, not 32.7; speech gains least. Of 12 pairs, 33.7 then: 33.2 where four tenths of the clip,
        another part each time, begin at no change; 33.7 and 33.8 where alignments are weighed softly and sharply (SHARPNESS 3 and 30).
        Frames differ in how large a change moves their margin (quartiles of the slope's length a factor of 2 apart), but letters
        laid where little moves much, or margins counted by the change that they ask for, come to the same: 10 pairs, tiny-wave, 300
        steps, mean 34.1 without, 34.1 and 34.2 with the one and both.
start   From a tenth of the clip's size. Tiny-wave, 8 pairs, mean after 300 steps 35.6, from 0.03, 0.3 and 1.0 of it 35.3, 36.0 and 36.0; 12
        other pairs 34.8 and, from 0.3, 34.5. Tiny-mel, the same 8, 43.6, from 0.3 and 1.0 44.4 and 37.1. A radius that falls by a tenth or
        a twentieth at most (COARSEST) ends louder: tiny-wave, 500 steps, 35.8 (from 0.3) and 35.0 (from 1.0), not 36.2.
seeds   Four searches of a pair end 0.1 to 2.2 dB apart (10 pairs, tiny-wave, 300 steps; median 0.8), and the best 0.5 above the mean. The
        cheapest way through the four in time, from one to another where both have written the same letters, would be quieter by another
        1.3 dB, but is heard as something else in all 10: frames are not each for itself.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from lines import write_lines
from suite import DATA, Pair, judge, pairs

from audioadv.attacks.craft import BATCH, craft_each
from audioadv.evaluation.rates import wilson
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model
from audioadv.threat.bounds import Bound, parse_bound
from audioadv.threat.goals import Transcribe

Line = dict[str, Any]


def craft_pairs(
    model: Recogniser, suite: list[Pair], bound: Bound, steps: int, seed: int, folder: Path, together: int = BATCH
) -> list[Line]:
    """One result line a pair, in order, `together` at a time. `seconds` is the pair's share of its batch's wall time."""
    lines: list[Line] = []
    for first in range(0, len(suite), together):
        some, began = suite[first : first + together], time.perf_counter()
        goal = Transcribe([pair.target for pair in some])
        crafted = list(craft_each(model, [pair.clip for pair in some], goal, bound=bound, steps=steps, seed=seed))
        seconds = (time.perf_counter() - began) / len(some)
        for pair, result in zip(some, crafted, strict=True):
            verdict = judge(model, pair, result.adversarial, folder)
            where = {"model": model.name, "bound": str(bound), "steps": steps, "seed": seed, "pair": pair.name, "kind": pair.kind}
            cost = {"forwards": result.forwards, "backwards": result.backwards, "seconds": round(seconds, 3)}
            lines.append(where | {"target": pair.target, "outcome": str(result.outcome)} | verdict.line() | cost)
            if not verdict.reached:
                click.echo(f"  not reached: {pair.name}: heard as {verdict.heard!r}, wanted {pair.target!r} ({result.outcome})")
    return lines


def spread(lines: list[Line], alone: list[Line], turned: list[Line]) -> str:
    """What the company that pairs are crafted in changes: outcomes, and the distance between the loudest and quietest of three SNRs."""
    runs = list(zip(lines, alone, turned, strict=True))
    same = sum(len({line["outcome"] for line in run}) == 1 for run in runs)
    heights = [[line["snr_db"] for line in run] for run in runs if all(line["reached"] and line["snr_db"] is not None for line in run)]
    apart = [max(snrs) - min(snrs) for snrs in heights]
    within = sum(distance <= 0.5 for distance in apart)
    told = f"as here, alone and in the reverse order: the same outcome {same}/{len(runs)}; SNRs within 0.5 dB {within}/{len(apart)}"
    return f"{told}, apart by {quartiles(apart)}, at most {max(apart, default=0.0):.2f}"


def quartiles(values: Sequence[float | None]) -> str:
    """Median and the quartiles around it, finite values only."""
    finite = [value for value in values if value is not None]
    if len(finite) < 2:
        return f"{finite[0]:6.1f} (      ..      )" if finite else "     -                 "
    low, middle, high = statistics.quantiles(finite, n=4, method="inclusive")
    return f"{middle:6.1f} ({low:6.1f} ..{high:6.1f})"


def table(lines: list[Line]) -> str:
    """Reached, loudness and cost for each kind of carrier. Loudness is that of the pairs reached."""
    rows = ["carriers      reached          95 %         snr_db (quartiles)       relative_db (quartiles)  forwards  seconds"]
    for kind in [*sorted({line["kind"] for line in lines}), "all"]:
        some = [line for line in lines if kind in (line["kind"], "all")]
        hits = [line for line in some if line["reached"]]
        low, high = wilson(len(hits), len(some))
        snr, relative = (quartiles([line[name] for line in hits]) for name in ("snr_db", "relative_db"))
        forwards, seconds = sum(line["forwards"] for line in some), sum(line["seconds"] for line in some)
        rows.append(f"{kind:12} {len(hits):3}/{len(some):<3} {low:7.1%} ..{high:7.1%}  {snr}  {relative}  {forwards:8}  {seconds:7.1f}")
    return "\n".join(rows)


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option("--bound", "spec", default="linf:min", show_default=True, help="what may be changed")
@click.option("--steps", default=500, show_default=True, help="of the attack")
@click.option("--seed", default=0, show_default=True, help="of all draws")
@click.option("--limit", default=40, show_default=True, help="only so many pairs")
@click.option("--company", is_flag=True, help="craft each pair alone, and all in the reverse order, too")
@click.option("--quick", is_flag=True, help="4 pairs, 100 steps")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real recordings; without it, samples/ only")
@click.option("--out", type=Path, help="result lines, JSON Lines")
@click.option("--keep", type=Path, help="keep the WAV files in this folder")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
def main(
    models: tuple[str, ...],
    spec: str,
    steps: int,
    seed: int,
    limit: int,
    company: bool,
    quick: bool,
    data: Path,
    out: Path | None,
    keep: Path | None,
    device: str,
) -> None:
    """Craft the suite on each model and print a table of each."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    limit, steps = (min(limit, 4), min(steps, 100)) if quick else (limit, steps)
    suite, bound, results = pairs(data)[:limit], parse_bound(spec), []
    for name in models:
        model = load_model(name, device)
        click.echo(f"\n{name}, {bound}, {steps} steps, seed {seed}, {len(suite)} pairs")
        with tempfile.TemporaryDirectory() as scratch:
            folder = (keep or Path(scratch)) / name.replace(":", "-")
            folder.mkdir(parents=True, exist_ok=True)
            lines = craft_pairs(model, suite, bound, steps, seed, folder)
            click.echo(table(lines))
            if company:
                alone = craft_pairs(model, suite, bound, steps, seed, Path(scratch), together=1)
                turned = craft_pairs(model, suite[::-1], bound, steps, seed, Path(scratch))[::-1]
                click.echo(spread(lines, alone, turned))
        results += lines
    if out:
        write_lines(out, results)
    sys.exit(0 if all(line["reached"] for line in results) else 1)


if __name__ == "__main__":
    main()

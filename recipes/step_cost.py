"""What one step of the craft attack costs, over the floor: forward, CTC loss and input gradient, parameters frozen.

    python recipes/step_cost.py                                  # both recognisers, linf:min, snr:min, masked:min
    python recipes/step_cost.py --quick                          # 4 clips, 8 steps, once

A ragged batch of 16. The attack runs once, and after each of its steps, outside its clock, one floor iteration runs on the
same padded batch: step, floor, step, floor ... so that both meet the same machine. Two kinds of targets:

    never    gibberish, which is not reached in so few steps: every clip is still searching
    soon     the suite's own: most steps are spent shrinking

Only steps that the whole batch took with one forward each are compared; `steps` says how many of all that were. `project` is
what one projection costs, as a share of the floor, both added up over these steps. It is the same at each: it looks at every bin,
wherever the change is.

Two cores. Of an AMD EPYC, linf:min and snr:min: tiny-mel 0.93 to 1.02, tiny-wave 0.93 to 0.96. Of an Intel Xeon with AMX, linf:min, 2 runs
of 50 steps: tiny-mel 1.01 (never) and 1.03 (soon), tiny-wave 0.97 and 0.97; it was 1.07 and 1.22 while the margin sent back shares of its
alignments that were subnormal (`threat/ctc.py`).
There in snr:min, since the length of a sound is measured without a copy of it in float64: tiny-mel 1.02 and 1.03 (it was 1.05 and
1.06), tiny-wave 0.96 and 0.97, projecting takes 0.01; in linf:min in the same run 1.07 and 1.04, 0.98 and 0.99, three more repetitions of
tiny-mel 1.02 to 1.08. Since weights are laid out once an attack (a busy machine, 20 steps, in turns with the code before): tiny-mel in
snr:min 0.99 and 1.02 (never; before 1.02 and 1.02), 1.00 and 1.01 (soon; before 1.04 and 1.07); in linf:min, 16 steps, no difference
that such a machine shows: 1.10 and 1.07 (1.08 and 1.05), 1.04 and 1.08 (1.11 and 1.11). On an AMD EPYC that was quiet, 25 steps: tiny-mel
0.95 and 0.97 (linf:min; 0.98 over 3 times 60 steps), 0.97 and 1.00 (snr:min); tiny-wave 0.90 and 0.92, 0.90 and 0.91.
"""

import statistics
import time
from pathlib import Path
from typing import Any

import click
import torch
from lines import write_lines
from suite import DATA, Pair, pairs
from torch import Tensor
from torch.nn import functional as F

from audioadv.attacks.craft import BATCH
from audioadv.attacks.objective import objective
from audioadv.attacks.shrink import find_then_shrink
from audioadv.audio.ragged import pad
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model
from audioadv.threat.bounds import around_sound, parse_bound
from audioadv.threat.goals import Transcribe, spell


def seconds() -> float:
    """The time, once a GPU has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def gibberish(pair: Pair) -> str:
    """A text as long as the pair's target that no step of an attack comes near."""
    return ("zqxjvkwpgb" * len(pair.target))[: len(pair.target)]


def floor(model: Recogniser, waveforms: Tensor, lengths: Tensor, goal: Transcribe) -> float:
    """Seconds of a forward pass, the CTC loss and the gradient for the waveforms. Shapes: [batch, time], [batch]."""
    columns, sizes, blank = spell(goal.texts, model.vocabulary, waveforms.device)
    began = seconds()
    inputs = waveforms.clone().requires_grad_()
    log_probs, frames = model.net(inputs, lengths)
    loss = F.ctc_loss(log_probs.transpose(0, 1), columns, frames, sizes, blank=blank, reduction="sum")
    torch.autograd.grad(loss, inputs)
    return seconds() - began


def measure(
    model: Recogniser, batch: list[Pair], goal: Transcribe, spec: str, steps: int, warm: int
) -> list[tuple[float, float, float, int]]:
    """(seconds of a step, of the floor after it, of a projection, clips found by then) for each step that the whole batch took."""
    waveforms, lengths = pad([pair.clip.samples.to(model.device) for pair in batch])
    bound, timed = parse_bound(spec), objective(model, goal, lengths)
    region = around_sound(bound, waveforms, lengths)
    for _ in range(warm):
        floor(model, waveforms, lengths, goal)
    unit = region.at(torch.ones_like(region.radius))
    outside = 1.1 * unit.sample([torch.Generator().manual_seed(i) for i in range(len(waveforms))])
    rows: list[tuple[float, float, float, int]] = []
    since = seconds()

    def after(step: int, best: Tensor, inputs: Tensor) -> None:
        nonlocal since
        spent = seconds() - since
        if step > warm:
            began = seconds()
            unit.project(outside)
            projecting = seconds() - began
            rows.append((spent, floor(model, waveforms, lengths, goal), projecting, int(best.isfinite().sum())))
        since = seconds()

    find_then_shrink(timed, region, steps=warm + steps, minimal=bound.minimal, progress=after)
    return rows


def quartiles(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} ({low:.3f} .. {high:.3f})"


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option(
    "--bound",
    "specs",
    multiple=True,
    default=("linf:min", "snr:min", "masked:min"),
    show_default=True,
    help="what may be changed; again for more",
)
@click.option("--steps", default=60, show_default=True, help="steps a repetition")
@click.option("--repeats", default=3, show_default=True, help="repetitions")
@click.option("--warm", default=3, show_default=True, help="first steps that are not timed")
@click.option("--batch", default=BATCH, show_default=True, help="clips at a time")
@click.option("--quick", is_flag=True, help="4 clips, 8 steps, once")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real recordings; without it, samples/ only")
@click.option("--out", type=Path, help="result lines, JSON Lines")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
def main(
    models: tuple[str, ...],
    specs: tuple[str, ...],
    steps: int,
    repeats: int,
    warm: int,
    batch: int,
    quick: bool,
    data: Path,
    out: Path | None,
    device: str,
) -> None:
    """Print the ratio of step to floor: the median of the repetitions' medians, their range, and the quartiles of all steps."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    batch, steps, repeats = (min(batch, 4), min(steps, 8), 1) if quick else (batch, steps, repeats)
    some, lines = pairs(data)[: 2 * batch : 2], list[dict[str, Any]]()
    goals = {"never": Transcribe([gibberish(pair) for pair in some]), "soon": Transcribe([pair.target for pair in some])}
    click.echo(f"ragged batch of {len(some)}, {min(p.clip.seconds for p in some):.1f} to {max(p.clip.seconds for p in some):.1f} s")
    click.echo(
        "model        bound     target  ratio (repetitions from .. to)  single steps (quartiles)   floor, s  project  steps    found"
    )
    for name in models:
        model = load_model(name, device)
        for spec in specs:
            for kind, goal in goals.items():
                runs = [measure(model, some, goal, spec, steps, warm) for _ in range(repeats)]
                rows = [row for run in runs for row in run]
                ratios = [statistics.median(step / base for step, base, _, _ in run) for run in runs if run]
                if len(rows) < 2:
                    click.echo(f"{model.name:12} {spec:9} {kind:7} no step was taken by the whole batch")
                    continue
                base = statistics.median(base for _, base, _, _ in rows)
                ratio = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"
                spread, found = quartiles([step / base for step, base, _, _ in rows]), [count for *_, count in rows]
                share = sum(project for _, _, project, _ in rows) / sum(base for _, base, _, _ in rows)
                row = f"{ratio:30}  {spread:26} {base:8.4f}  {share:7.3f}  {len(rows):4}/{repeats * steps:<4}  {min(found)} to {max(found)}"
                click.echo(f"{model.name:12} {spec:9} {kind:7} {row}")
                lines += [
                    {
                        "model": model.name,
                        "bound": spec,
                        "target": kind,
                        "repeat": i,
                        "step_seconds": s,
                        "floor_seconds": f,
                        "project_seconds": p,
                        "found": n,
                    }
                    for i, run in enumerate(runs)
                    for s, f, p, n in run
                ]
    if out:
        write_lines(out, lines)


if __name__ == "__main__":
    main()

"""What one EOT step costs, over as many floors as it has draws, and how much of it the rooms are.

    python recipes/eot_cost.py                            # K = 8, 16 clips, both recognisers; then memory against K
    python recipes/eot_cost.py --quick

The floor is one forward, CTC loss and input gradient of the padded batch (`step_cost.py`); a look is that of the objective over
`room_then_noise:20..30`; a step is one of the attack behind `craft` over it (`attacks/settle.py`) within snr:15, look, gains, agreement
and projection together, toward gibberish, so that no check draws come in. Floor and look, or floor and step, take turns. `rooms` is
the rooms' forward and backward alone, over the same rows. Memory is the peak of a process of its own for each K.

On two cores of an AMD EPYC, tiny-mel, K = 8: a look 0.87 of 8 floors, a step 0.89, rooms 9.8 % of a look.
"""

import resource
import statistics
import subprocess
import sys
import time
from typing import NamedTuple, final

import click
import torch
from step_cost import floor, gibberish
from suite import DATA, pairs
from torch import Tensor

from audioadv.attacks.craft import BATCH
from audioadv.attacks.eot import ON_CPU_MIB, Expectation
from audioadv.attacks.objective import Objective, objective
from audioadv.attacks.shrink import find_then_shrink
from audioadv.audio.ragged import pad
from audioadv.models.recogniser import Recogniser
from audioadv.models.rest import at_rest
from audioadv.models.sources import load_model
from audioadv.threat.bounds import around_sound, parse_bound
from audioadv.threat.channels import Key, parse_channel
from audioadv.threat.goals import Transcribe

AIR, BOUND = "room_then_noise:20..30", "snr:15"


@final
class Case(NamedTuple):
    """A ragged batch that is to be heard as gibberish. Shapes: [batch, time], [batch]."""

    model: Recogniser
    waveforms: Tensor
    lengths: Tensor
    goal: Transcribe
    expectation: Expectation

    @property
    def objective(self) -> Objective:
        """The goal over the channel."""
        return objective(self.model, self.goal, self.lengths, self.expectation)

    def floor(self) -> float:
        """Seconds."""
        return floor(self.model, self.waveforms, self.lengths, self.goal)


def case(name: str, count: int, draws: int, memory_mib: float) -> Case:
    """So many clips for this recogniser."""
    some = [pair for pair in pairs(DATA) if pair.clip.seconds > 1][: 2 * count : 2]
    expectation = Expectation(parse_channel(AIR), draws=draws, even=True, memory_mib=memory_mib)
    goal = Transcribe([gibberish(pair) for pair in some])
    return Case(load_model(name), *pad([pair.clip.samples for pair in some]), goal, expectation)


def whole_steps(timed: Case, steps: int) -> list[float]:
    """Each step of the attack over the floors after it, as many as it has draws; the first, which measures its chunks, is left out."""
    ratios, since = list[float](), time.perf_counter()

    def after(step: int, best: Tensor, inputs: Tensor) -> None:
        nonlocal since
        spent = time.perf_counter() - since
        if step > 1:
            ratios.append(spent / (timed.expectation.draws * timed.floor()))
        since = time.perf_counter()

    region = around_sound(parse_bound(BOUND), timed.waveforms, timed.lengths)
    find_then_shrink(timed.objective, region, steps=1 + steps, minimal=False, progress=after)
    return ratios


def measure(timed: Case, steps: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each floor, look, and the rooms within a look."""
    model, waveforms, lengths, draws = timed.model, timed.waveforms, timed.lengths, timed.expectation.draws
    over = timed.objective.begun(waveforms)
    room, floors, looks, rooms = parse_channel("room"), list[float](), list[float](), list[float]()
    with at_rest(model):
        over.look(waveforms)  # measures its chunks
        for step in range(steps):
            floors.append(timed.floor())
            began = time.perf_counter()
            over.look(waveforms)
            looks.append(time.perf_counter() - began)
            began = time.perf_counter()
            for i in lengths.argsort(descending=True).tolist():
                rows = waveforms[i, : lengths[i]].repeat(draws, 1).requires_grad_()
                heard, _ = room.draw([Key(0, i, draws * step + k) for k in range(draws)])(rows, lengths[i].repeat(draws))
                torch.autograd.grad(heard.sum(), rows)
            rooms.append(time.perf_counter() - began)
    return floors, looks, rooms


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option("--batch", default=BATCH, show_default=True, help="clips at a time")
@click.option("--draws", default=8, show_default=True, help="of the channel, a step")
@click.option("--steps", default=5, show_default=True, help="that are timed")
@click.option("--memory-mib", default=ON_CPU_MIB, show_default=True, help="that the draws may take at once")
@click.option("--memory/--no-memory", default=True, show_default=True, help="also the peak memory against K")
@click.option("--quick", is_flag=True, help="4 clips, 2 steps, no memory")
def main(models: tuple[str, ...], batch: int, draws: int, steps: int, memory_mib: float, memory: bool, quick: bool) -> None:
    """Print look and step over K floors (medians of their own ratios), the rooms' share of a look, and peak memory."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    batch, steps = (min(batch, 4), min(steps, 2)) if quick else (batch, steps)
    for name in models[:1] if quick else models:
        timed = case(name, batch, draws, memory_mib)
        floors, looks, rooms = measure(timed, steps)
        ratios = [look / (draws * base) for look, base in zip(looks, floors, strict=True)]
        share = statistics.median(room / look for room, look in zip(rooms, looks, strict=True))
        click.echo(f"{name}: {batch} clips, K = {draws}, {steps} times: look over K floors {spread(ratios)}, rooms {share:.1%} of it")
        click.echo(f"{name}: {batch} clips, K = {draws}, {steps} times: step over K floors {spread(whole_steps(timed, steps))}")
    if memory and not quick:
        for count in (1, 8, 32):
            call = f"eot_cost.peak({models[0]!r}, {batch}, {count}, {memory_mib})"
            code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import eot_cost; {call}"
            click.echo(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip())


def spread(ratios: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"


def peak(name: str, batch: int, draws: int, memory_mib: float) -> None:
    """Print this process's peak memory after one look."""
    torch.set_num_threads(1)
    measure(case(name, batch, draws, memory_mib), 0)
    click.echo(f"K = {draws}: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()

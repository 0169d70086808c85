"""What one EOT step costs, over as many floors as it has draws, and how much of it the rooms are.

    python recipes/eot_cost.py                            # K = 8, 16 clips, both recognisers; then memory against K
    python recipes/eot_cost.py --quick

The floor is one forward, CTC loss and input gradient of the padded batch (`step_cost.py`); a step is one `look` of the objective
over `room_then_noise:20..30`, and the attack's own work is that of `step_cost.py`. Floor and step take turns. `rooms` is the
rooms' forward and backward alone, over the same rows. Memory is the peak of a process of its own for each K.
"""

import resource
import statistics
import subprocess
import sys
import time

import click
import torch
from step_cost import floor, gibberish
from suite import DATA, pairs

from audioadv.attacks.craft import BATCH
from audioadv.attacks.eot import ON_CPU_MIB, Expectation
from audioadv.attacks.objective import objective
from audioadv.audio.ragged import pad
from audioadv.models.rest import at_rest
from audioadv.models.sources import load_model
from audioadv.threat.channels import Key, parse_channel
from audioadv.threat.goals import Transcribe

AIR = "room_then_noise:20..30"


def measure(name: str, count: int, draws: int, steps: int, memory_mib: float) -> tuple[list[float], list[float], list[float]]:
    """Seconds of each floor, step, and the rooms within a step."""
    model, some = load_model(name), [pair for pair in pairs(DATA) if pair.clip.seconds > 1][: 2 * count : 2]
    waveforms, lengths = pad([pair.clip.samples for pair in some])
    goal = Transcribe([gibberish(pair) for pair in some])
    expectation = Expectation(parse_channel(AIR), draws=draws, even=True, memory_mib=memory_mib)
    over = objective(model, goal, lengths, expectation).begun(waveforms)
    room, floors, looks, rooms = parse_channel("room"), list[float](), list[float](), list[float]()
    with at_rest(model):
        over.look(waveforms)  # measures its chunks
        for step in range(steps):
            floors.append(floor(model, waveforms, lengths, goal))
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
    """Print step over K floors (median of the steps' own ratios), the rooms' share, and peak memory."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    batch, steps = (min(batch, 4), min(steps, 2)) if quick else (batch, steps)
    for name in models[:1] if quick else models:
        floors, looks, rooms = measure(name, batch, draws, steps, memory_mib)
        ratios = [look / (draws * base) for look, base in zip(looks, floors, strict=True)]
        share = statistics.median(room / look for room, look in zip(rooms, looks, strict=True))
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} .. {max(ratios):.3f})"
        click.echo(f"{name}: {batch} clips, K = {draws}: step over K floors {spread}, rooms {share:.1%} of it, {steps} steps")
    if memory and not quick:
        for count in (1, 8, 32):
            call = f"eot_cost.peak({models[0]!r}, {batch}, {count}, {memory_mib})"
            code = f"import sys; sys.path.insert(0, {sys.path[0]!r}); import eot_cost; {call}"
            click.echo(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip())


def peak(name: str, batch: int, draws: int, memory_mib: float) -> None:
    """Print this process's peak memory after one step."""
    torch.set_num_threads(1)
    measure(name, batch, draws, 0, memory_mib)
    click.echo(f"K = {draws}: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()

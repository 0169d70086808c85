"""Over the air beside asr-attacks 0.3.0 in its room mode (`imperceptible`, mode "robust"): same clips, phrases, SNR, rooms and forwards.

    make peers                                                     # .peers, an environment of theirs, with audioadv in it
    .peers/bin/python recipes/air_against_asr_attacks.py --out runs/air     # adds to what over_the_air.py wrote there
    .peers/bin/python recipes/air_against_asr_attacks.py --quick

It crafts in the rooms that ours crafts in, by its own defaults but for what has to be alike. A bound in Linf: here half as much again
as the root mean square of a change at the SNR, which does not shrink on success; what comes out is scaled to the SNR, so that no change is
louder or quieter than ours. Its first stage hears one room a step, its second ten. Steps are shared between them as its own
are, one to two (`paper`), or so that both have as many forwards (`halves`): the better of the two is what it is held to. Its looks, every
ten steps, count as forwards. It knows no noise. The files are judged as in `over_the_air.py`, in rooms that neither has met.
"""

import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from against_peers import Counted, attacker
from lines import add_lines, read_lines
from over_the_air import SPANS, Line, columns, judged, rate, suited
from suite import DATA, SAMPLE_RATE, Pair
from torch import Tensor, nn

from audioadv.audio.files import write_wav
from audioadv.audio.roomsets import Role, read_rooms
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model

EVERY, ROOMS = 10, 10  # its own: steps between two looks, rooms of a step of the second stage
ROOMY = 1.5  # times the root mean square of a change at the SNR: its bound in Linf
FORWARDS = 3200  # what 1,200 steps of 2 draws come to in over_the_air.py, checks counted, for clips that go on to the end


def stages(forwards: int, plan: str) -> tuple[int, int]:
    """Steps of the two stages that come to so many forwards, looks counted.

    >>> stages(3200, "paper"), stages(3200, "halves")
    ((138, 276), (1454, 145))
    """
    first, second = 1 + 1 / EVERY, ROOMS + ROOMS / EVERY
    if plan == "paper":
        steps = int(forwards / (first + 2 * second))
        return steps, 2 * steps
    return int(forwards / 2 / first), int(forwards / 2 / second)


def in_rooms(model: Recogniser, pair: Pair, snr: float, forwards: int, plan: str) -> Tensor:
    """What asr-attacks makes of a clip, its change scaled to `snr` dB below the clip. Shapes: -> [time]."""
    try:
        from asr_attacks.rooms import RoomSimulator  # type: ignore[import-not-found, unused-ignore]
    except ImportError as missing:
        raise SystemExit(f"{missing.name} is not installed here. Call: make peers && .peers/bin/python {__file__}") from missing
    responses = [row.numpy() for space in read_rooms().only(Role.CRAFT).spaces for row in space.responses]
    clean, (first, second) = pair.clip.samples, stages(forwards, plan)
    size = float(clean.norm()) * 10 ** (-snr / 20)
    how: dict[str, Any] = {"mode": "robust", "robust_delta": 0.0, "decrease_factor_eps": 1.0, "num_iter_r1": first, "num_iter_r2": second}
    how |= {"rooms": RoomSimulator(seed=0, _rirs=responses), "epsilon": ROOMY * size / len(clean) ** 0.5}
    found = torch.from_numpy(attacker(model).imperceptible(clean, pair.target, **how)).flatten()
    change = found.to(clean) - clean
    return clean + change * (size / change.norm().clamp_min(1e-9))


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option("--snr", "snrs", multiple=True, default=(10.0, 15.0), show_default=True, help="dB, of the change; again for more")
@click.option("--plan", "plans", multiple=True, default=("paper", "halves"), show_default=True, help="of steps between its stages")
@click.option("--forwards", default=FORWARDS, show_default=True, help="for a clip")
@click.option("--draws", default=100, show_default=True, help="judge draws a file")
@click.option("--limit", default=20, show_default=True, help="only so many carriers")
@click.option("--quick", is_flag=True, help="1 carrier, one recogniser, 60 forwards")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real recordings; without it, samples/ only")
@click.option("--out", type=Path, help="keep files and asr-attacks.jsonl here, and go on from what is there")
def main(
    models: tuple[str, ...],
    snrs: tuple[float, ...],
    plans: tuple[str, ...],
    forwards: int,
    draws: int,
    limit: int,
    quick: bool,
    data: Path,
    out: Path | None,
) -> None:
    """Craft with asr-attacks (make peers, then .peers/bin/python), judge as ours are judged, and print the table."""
    if quick:
        models, snrs, forwards, draws, limit = models[:1], snrs[:1], 60, 4, 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines = read_lines(folder / "asr-attacks.jsonl")
        suite = suited(data)[:limit]
        shown = ["air", *(f"rt60 {low:g}..{high:g}" for low, high in SPANS), "none"]
        click.echo(f"{'':38}" + "".join(f"{column:32}" for column in shown))
        for name in models:
            model = load_model(name)
            assert isinstance(model.net, nn.Module)
            for snr, plan in ((snr, plan) for snr in snrs for plan in plans):
                where: Line = {"model": name, "snr": snr, "plan": plan, "forwards_allowed": forwards, "judge_draws": draws}
                mine = [line for line in lines if all(line[key] == value for key, value in where.items())]
                there = {line["pair"] for line in mine}
                for pair in (pair for pair in suite if pair.name not in there):
                    net = Counted(model.net)
                    samples = in_rooms(Recogniser(net, model.sample_rate, model.vocabulary, name), pair, snr, forwards, plan)
                    path = folder / f"{name}-{snr:g}-{plan}-asr-attacks-{pair.name}.wav".replace("/", "_")
                    write_wav(path, samples, SAMPLE_RATE)
                    verdict = {"judged": judged(model, path, pair, draws, {key: columns()[key] for key in shown})}
                    mine.append(where | {"pair": pair.name, "kind": pair.kind, "forwards": net.forwards} | verdict)
                    add_lines(folder / "asr-attacks.jsonl", mine[-1:])
                title = f"{name}, snr:{snr:g}, {plan}, {sum(line['forwards'] for line in mine) / len(mine):.0f} forwards"
                click.echo(f"{title:38}" + "".join(f"{rate(mine, column):32}" for column in shown))


if __name__ == "__main__":
    main()

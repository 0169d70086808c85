"""Robust to several sets at once on MNIST: Linf 0.3, L2 2 and L1 10, by five ways of training; and what an affine mix does.

    python recipes/multi_perturbation.py --out runs/several                  # all, one after another: a day on one core
    python recipes/multi_perturbation.py --out runs/several --only msd       # one of them
    python recipes/multi_perturbation.py --quick                             # digits of 8 x 8, blown up

E-AT starts from the net that was trained for Linf alone. `moved` is trained for Linf 0.3 and for turns and shifts, the worse
of the two, and then meets changes that are part the one, part the other (Tramèr and Boneh 2019, 4.3). Killed, it goes on where it was.
"""

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import nn
from train_mnist import DATA, blown_up_digits

import audioadv as aa
from audioadv.evaluation.images import mnist
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.threat.bounds import Bound
from audioadv.training import EAT, MSD, Adversarial, Average, Labelled, Method, RandomOne, Watch, Worst, start_from, train

LINF, L2, L1, MOVED = aa.Linf(0.3), aa.L2(2), aa.L1(10), aa.Spatial(30, 3)
BALLS, WAYS = LINF | L2 | L1, LINF | MOVED
MIXES = tuple(beta * LINF + (1 - beta) * MOVED for beta in (0.25, 0.5, 0.75))


class Plan(NamedTuple):
    """A method, the passes it gets, the net it starts from, and what it is judged by."""

    method: Method
    passes: int
    start: str | None = None
    judges: tuple[Bound, ...] = (LINF, L2, L1)


PLANS = {
    "linf": Plan(Adversarial(LINF, steps=10), 15),
    "average": Plan(Average(BALLS, steps=10), 15),
    "worst": Plan(Worst(BALLS, steps=10), 15),
    "random": Plan(RandomOne(BALLS, steps=10), 15),
    "msd": Plan(MSD(BALLS, steps=20), 15),
    "e-at": Plan(EAT(LINF | L1, steps=10), 3, start="linf"),
    "moved": Plan(Worst(WAYS, steps=10), 15, judges=(LINF, MOVED, *MIXES)),
}


def trained(name: str, plan: Plan, data: Labelled, test: Labelled, out: Path) -> nn.Module:
    """Train, or read what was trained."""
    torch.manual_seed(0)
    net = TinyMnist()
    if plan.start is not None:
        start_from(net, out / plan.start / "weights.safetensors")
    rate = 3e-3 if plan.start is None else 5e-4
    watch = Watch(plan.method.bound, test.first(500), data.first(500))
    tell = lambda mark: click.echo(f"{name}, {mark}")  # noqa: E731
    train(net, data, plan.method, passes=plan.passes, optimiser=partial(torch.optim.Adam, lr=rate), watch=watch, out=out / name, tell=tell)
    return net


def judged(name: str, plan: Plan, net: nn.Module, test: Labelled, count: int, out: Path) -> dict[str, str]:
    """Accuracy under each set, under the worst of the sets of training, and under the worst of all; or as it was read before."""
    path = out / name / f"judged-{count}.json"
    if not path.exists():
        some = test.first(count)
        x, y = some.inputs, some.goal.labels
        found = {str(bound): aa.evaluate(net, x, y, bound, "standard") for bound in plan.judges}
        union = torch.stack([result.robust for spec, result in found.items() if "mix" not in spec]).all(0)
        line = {"clean": str(next(iter(found.values())).accuracy), **{spec: str(result.robust_accuracy) for spec, result in found.items()}}
        line["worst of them, example by example"] = str(aa.Rate(int(union.sum()), count))
        if "moved" in name:
            mixed = torch.stack([result.robust for result in found.values()]).all(0)
            line["and of their mixes"] = str(aa.Rate(int(mixed.sum()), count))
        path.write_text(json.dumps(line))
    return json.loads(path.read_text())


@click.command()
@click.option("--only", multiple=True, help=f"some of: {', '.join(PLANS)}")
@click.option("--count", default=500, show_default=True, help="test images that are attacked")
@click.option("--data", type=Path, default=DATA, show_default=True)
@click.option("--out", type=Path, help="folder for checkpoints, curves and verdicts")
@click.option("--quick", is_flag=True, help="a smoke test on scikit-learn's digits")
def main(only: tuple[str, ...], count: int, data: Path, out: Path | None, quick: bool) -> None:
    """Train each, judge it, and print what it stands."""
    torch.set_num_threads(1)
    parts = (blown_up_digits().first(256), blown_up_digits().first(20)) if quick else (mnist(data, "train"), mnist(data, "test"))
    train_data, test = (Labelled(part.images, part.labels) for part in parts)
    out, count = Path(tempfile.mkdtemp()) if out is None else out, 6 if quick else count
    for name in only or PLANS:
        plan = PLANS[name]._replace(passes=1, judges=PLANS[name].judges[:2]) if quick else PLANS[name]
        for what, rate in judged(name, plan, trained(name, plan, train_data, test, out), test, count, out).items():
            click.echo(f"{name:8} {what:40} {rate}")


if __name__ == "__main__":
    main()

"""Ways to train for Linf 0.3 on MNIST, side by side: clean accuracy, accuracy under `standard`, and time beside PGD training's.

    python recipes/robust_training.py --out runs/robust                   # all, one after another: some hours on one core
    python recipes/robust_training.py --out runs/robust --only fast       # one of them
    torchrun --nproc-per-node 2 --max-restarts 3 recipes/robust_training.py --out runs/two --only pgd
    python recipes/robust_training.py --quick                             # digits of 8 x 8, blown up, 2 passes each

Killed, it goes on where it was; what is done is not done again. Time is that of the processor, training alone, so that
other work on the machine does not count. TensorBoard's curves of each lie in its folder.
"""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import click
import torch
from train_mnist import DATA, blown_up_digits

import audioadv as aa
from audioadv.evaluation.images import mnist
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.training import (
    Adversarial,
    Free,
    Guarded,
    Labelled,
    Mark,
    Method,
    Natural,
    Processes,
    TensorBoard,
    Trades,
    Watch,
    Yopo,
    fast,
    together,
    train,
)

BOUND = aa.Linf(0.3)


class Plan(NamedTuple):
    """A method, for so many passes over the data."""

    method: Method
    passes: int


def plans(held: Labelled) -> dict[str, Plan]:
    """The contestants. PGD and TRADES get the same number of steps; a pass of free training is a replay of each batch."""
    guarded = Guarded(fast(BOUND), Adversarial(BOUND, steps=10), held.first(128))
    return {
        "natural": Plan(Natural(), 5),
        "fast": Plan(guarded, 15),
        "free": Plan(Free(BOUND, replays=8), 8),
        "yopo": Plan(Yopo(BOUND, rounds=5, steps=3), 12),
        "pgd": Plan(Adversarial(BOUND, steps=20), 20),
        "trades": Plan(Trades(BOUND, beta=6.0, steps=20), 20),
    }


def trained(name: str, plan: Plan, data: Labelled, test: Labelled, out: Path, count: int, here: Processes) -> dict[str, float | str]:
    """Train, or read what was trained; then judge, or read how it was judged."""
    torch.manual_seed(0)
    net, folder = TinyMnist(), out / name
    result = train(
        net,
        data,
        plan.method,
        passes=plan.passes,
        optimiser=partial(torch.optim.Adam, lr=3e-3),
        watch=Watch(BOUND, test.first(1000), data.first(1000)),
        out=folder,
        processes=here,
        tell=teller(name, folder),
    )
    if not here.first or (folder / "judged.json").exists():
        return json.loads((folder / "judged.json").read_text()) if here.first else {}
    some = test.first(count)
    found = aa.evaluate(net, some.inputs, some.goal.labels, BOUND, "standard")
    clean = aa.evaluate(net, test.inputs, test.labels, BOUND, {}).accuracy
    line = {"method": name, "clean": str(clean), "robust": str(found.robust_accuracy), "cpu_seconds": result.marks[-1].cpu_seconds}
    (folder / "judged.json").write_text(json.dumps(line))
    return line


def teller(name: str, folder: Path) -> Callable[[Mark], None]:
    """Tell the terminal, and TensorBoard where it is installed."""
    board: Callable[[Mark], None] = lambda mark: None  # noqa: E731
    with suppress(aa.errors.BrokenInstallation):
        board = TensorBoard(folder)

    def tell(mark: Mark) -> None:
        click.echo(f"{name}, {mark}")
        board(mark)

    return tell


@click.command()
@click.option("--only", multiple=True, help="some of: natural, fast, free, yopo, pgd, trades")
@click.option("--count", default=1000, show_default=True, help="test images under `standard`")
@click.option("--data", type=Path, default=DATA, show_default=True)
@click.option("--out", type=Path, help="folder for checkpoints, curves and verdicts")
@click.option("--quick", is_flag=True, help="a smoke test on scikit-learn's digits")
def main(only: tuple[str, ...], count: int, data: Path, out: Path | None, quick: bool) -> None:
    """Train each, judge it, and print the table."""
    torch.set_num_threads(1)
    parts = (blown_up_digits(), blown_up_digits().first(100)) if quick else (mnist(data, "train"), mnist(data, "test"))
    train_data, test = (Labelled(part.images, part.labels) for part in parts)
    out = Path(tempfile.mkdtemp()) if out is None else out
    chosen = {name: plan for name, plan in plans(train_data).items() if name in (only or plans(train_data))}
    with together() as here:
        lines = []
        for name, plan in chosen.items():
            plan = plan._replace(passes=min(plan.passes, 1)) if quick else plan
            lines.append(trained(name, plan, train_data, test, out, 20 if quick else count, here))
        if here.first:
            pgd = next((line["cpu_seconds"] for line in lines if line["method"] == "pgd"), None)
            click.echo(f"\n{'':9}{'clean':36}{f'robust, {BOUND}, standard':36}{'time':>8}{'of PGD':>8}")
            for line in lines:
                share = f"{line['cpu_seconds'] / pgd:8.2f}" if pgd else f"{'-':>8}"
                click.echo(f"{line['method']:9}{line['clean']:36}{line['robust']:36}{line['cpu_seconds']:6.0f} s{share}")


if __name__ == "__main__":
    main()

"""One process against two under torchrun: training's throughput, and whether both learn the same.

    python recipes/two_processes.py             # PGD-10 on 10,000 MNIST images, 8 passes, three times each, taking turns
    python recipes/two_processes.py --quick     # digits of 8 x 8, blown up, a pass each, once

Each process computes with one thread, and both shares of a batch are half of it. The throughput is that of training alone, by the
clock on the wall: on a machine that is busy with other things the ratio says nothing. What was learnt then stands the same attack.

Two quiet cores, 8 passes, three times: 1.81, 1.67 and 1.74 times; of 1,000 images, 616 stood by one net and 624 by
the other. With 4 passes: 1.70 and 1.50 times, 402 and 402.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import torch
from train_mnist import DATA, blown_up_digits

import audioadv as aa
from audioadv.evaluation.images import Images, mnist
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.training import Adversarial, Labelled, together, train

BOUND = aa.Linf(0.3)


def learn(known: Images, test: Images, passes: int, out: Path) -> None:
    """What each process does; the first writes what came of it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = TinyMnist()
    with together() as here:
        learnt = train(net, Labelled(*known[:2], size=256), Adversarial(BOUND, steps=10), passes=passes, out=out, processes=here)
        if here.first:
            stood = aa.evaluate(net, test.images, test.labels, BOUND, "pgd").robust_accuracy
            (out / "came.json").write_text(json.dumps({"seconds": learnt.marks[-1].seconds, "hits": stood.hits, "count": stood.count}))


def came(count: int, out: Path, arguments: list[str]) -> tuple[float, aa.Rate]:
    """Seconds of training, and robust accuracy, of so many processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    done = subprocess.run([sys.executable, *launcher, __file__, "--out", str(out), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{count} processes ended with status {done.returncode}:\n{done.stderr}")
    line = json.loads((out / "came.json").read_text())
    return line["seconds"], aa.Rate(line["hits"], line["count"])


@click.command()
@click.option("--repeats", default=3, show_default=True, help="trainings of each, taking turns")
@click.option("--passes", default=8, show_default=True, help="over the images")
@click.option("--count", default=10000, show_default=True, help="images to learn")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files")
@click.option("--out", type=Path, hidden=True, help="of a single process: where it trains")
@click.option("--quick", is_flag=True, help="a smoke test on scikit-learn's digits")
def main(repeats: int, passes: int, count: int, data: Path, out: Path | None, quick: bool) -> None:
    """Train in one process and in two, in turn; print the ratio of their throughputs, and how robust both nets are."""
    if quick:
        repeats, passes, count = 1, 1, 64
    if out is not None:
        known, test = (blown_up_digits(), blown_up_digits()) if quick else (mnist(data, "train"), mnist(data, "test"))
        learn(known.first(count), test.first(20 if quick else 1000), passes, out)
        return
    arguments = ["--passes", str(passes), "--count", str(count), "--data", str(data), *(["--quick"] if quick else [])]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats):
            (alone, one), (shared, two) = (came(n, Path(folder, f"{turn}-{n}"), arguments) for n in (1, 2))
            ratios.append(alone / shared)
            click.echo(f"one process {alone:.1f} s, robust {one}; two {shared:.1f} s, robust {two}: throughput x {ratios[-1]:.2f}")
    click.echo(f"two processes: {statistics.median(ratios):.2f} times the throughput of one (median of {repeats})")


if __name__ == "__main__":
    main()

"""Randomized smoothing against ART 1.20.1's PyTorchRandomizedSmoothing: certificates a second, abstention, agreement.

    peers_env.sh /tmp/peers . && /tmp/peers/bin/pip install statsmodels       # an environment of the peers' own
    PYTHONPATH=. /tmp/peers/bin/python recipes/smoothing_against_art.py
    PYTHONPATH=. /tmp/peers/bin/python recipes/smoothing_against_art.py --quick

The same net, images, sigma, alpha, draws to select (100) and to certify; image by image in turn, so that both meet the same
machine, by processor time. Three nets: the bundled convolutional one, its two linear layers' kind, and a linear one. The floor is
the net's forwards alone, in our chunks, noise and counting left out: where it is most of the time, no one can be much faster.
Rates come with 95 % intervals: abstention is the same where they overlap.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from image_robust_accuracy import images
from torch import Tensor, nn
from train_mnist import blown_up_digits

from audioadv.defenses import Smoothed
from audioadv.defenses.smoothing import BLOCK
from audioadv.evaluation.images import mnist
from audioadv.evaluation.rates import Rate
from audioadv.models.classifier import load_classifier

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"


NETS: dict[str, Callable[[], nn.Module]] = {
    "bundled": lambda: load_classifier("mnist").net,  # type: ignore[return-value]
    "two layers": lambda: trained(nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))),
    "linear": lambda: trained(nn.Sequential(nn.Flatten(), nn.Linear(784, 10))),
}
SELECT, SIGMA, ALPHA = 100, 0.5, 0.001


def trained(net: nn.Module) -> nn.Module:
    """On the first training images, under noise."""
    torch.manual_seed(0)
    x, y, _ = (mnist(DATA, "train") if DATA.is_dir() else blown_up_digits()).first(10000)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for rows in [rows for _ in range(3) for rows in torch.randperm(len(x)).split(100)]:
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[rows] + SIGMA * torch.randn_like(x[rows])), y[rows]).backward()
        optimiser.step()
    return net.eval()


def spent(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time, and what came of it."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def race(name: str, net: nn.Module, x: Tensor, y: Tensor, draws: int, batch: int) -> None:
    """Certify in turn, and say who took how long."""
    shape = tuple(x.shape[1:])
    art = PyTorchRandomizedSmoothing(net, nn.CrossEntropyLoss(), shape, 10, sample_size=SELECT, scale=SIGMA, alpha=ALPHA, device_type="cpu")
    ours = Smoothed(net, SIGMA)
    noisy = torch.randn(BLOCK, *shape)

    def floor() -> None:
        with torch.inference_mode():
            for first in range(0, SELECT + draws, BLOCK):
                net(noisy[: SELECT + draws - first])

    runs = {
        "floor": lambda one: floor(),
        "ours": lambda one: ours.certify(one, select=SELECT, draws=draws, alpha=ALPHA),
        "ART": lambda one: art.certify(one.numpy(), draws, batch),
    }
    for run in runs.values():
        run(x[:1])  # the first fills caches
    seconds, found = {who: list[float]() for who in runs}, {who: list[tuple[int, float]]() for who in runs}
    for one in x.split(1):
        for who, run in runs.items():
            taken, result = spent(lambda run=run, one=one: run(one))  # type: ignore[misc]
            seconds[who].append(taken)
            found[who].append((0, 0.0) if result is None else (int(result[0][0]), float(result[1][0])))
    median = {who: statistics.median(taken) for who, taken in seconds.items()}
    shares = ", ".join(f"{who} {median[who] / median['floor']:.2f}" for who in ("ours", "ART"))
    print(f"\n{name}: floor {1000 * median['floor']:.1f} ms; times the floor: {shares}")
    for who in ("ours", "ART"):
        right = Rate(sum(cls == label for (cls, _), label in zip(found[who], y.tolist(), strict=True)), len(y))
        abstained = Rate(sum(cls < 0 for cls, _ in found[who]), len(y))
        print(f"  {who:5} certificates a second {1 / median[who]:6.1f}   abstained {abstained}   right {right}")
    same = [abs(a[1] - b[1]) for a, b in zip(found["ours"], found["ART"], strict=True) if a[0] == b[0]]
    print(f"  ours are {median['ART'] / median['ours']:.2f} times as many; the same class for {len(same)} of {len(y)}, ", end="")
    print(f"radii then {statistics.mean(same):.3f} apart on average, {max(same):.3f} at most")
    ours_abstains, art_abstains = (ours.predict(x, draws=SELECT, alpha=ALPHA) < 0).sum(), (~art.predict(x.numpy()).any(1)).sum()
    print(f"  predict, {SELECT} draws: ours abstains {Rate(int(ours_abstains), len(y))}, ART {Rate(int(art_abstains), len(y))}")


@click.command(help=__doc__)
@click.option("--count", default=60, show_default=True, help="images to certify")
@click.option("--draws", default=1000, show_default=True)
@click.option("--batch", default=32, show_default=True, help="ART's batch; 32 is its own choice")
@click.option("--quick", is_flag=True, help="8 images, 200 draws")
def main(count: int, draws: int, batch: int, quick: bool) -> None:
    """The times and the rates."""
    torch.set_num_threads(1)
    np.random.seed(0)
    count, draws = (min(count, 8), min(draws, 200)) if quick else (count, draws)
    (x, y, _), name = images(DATA, count)
    print(f"{name}, {count} images, sigma {SIGMA:g}, {SELECT} + {draws} draws, alpha {ALPHA:g}")
    for net in NETS:
        race(net, NETS[net](), x, y, draws, batch)


if __name__ == "__main__":
    main()

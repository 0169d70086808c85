"""Randomized smoothing against ART 1.20.1's PyTorchRandomizedSmoothing: certificates a second, abstention, agreement.

    make peers                                                    # .peers, an environment of theirs, with audioadv in it
    .peers/bin/python recipes/smoothing_against_art.py
    .peers/bin/python recipes/smoothing_against_art.py --quick

The same images, sigma, alpha, draws to select (100) and to certify; thirty images at a time, each way in turn, so that all meet the same
machine, by processor time. Three nets: the bundled convolutional one, its two linear layers' kind, and a linear one. The ways:

    one by one           each image in a call of its own: noise is drawn for it alone
    together             thirty images in a call, which share the noise under signs of their own
    together, bfloat16   the same, with the net in bfloat16, its weights in torch.channels_last: what is certified is then that net
    ART                  as it comes
    ART, bfloat16        its own choices around that net, to tell the net's share from the rest
    forwards             the net's alone, in our blocks: where they are most of the time, no one can be much faster

Rates come with 95 % intervals: abstention is the same where they overlap.
"""

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
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
SELECT, SIGMA, ALPHA, TOGETHER = 100, 0.5, 0.001, 30


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


def by_art() -> Any:
    """ART's smoothed classifier, a class. Ends where ART is not installed."""
    try:
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
    except ImportError as missing:
        raise SystemExit(f"{missing.name} is not installed here. Call: make peers && .peers/bin/python {__file__}") from missing
    return PyTorchRandomizedSmoothing


def race(name: str, net: nn.Module, x: Tensor, y: Tensor, draws: int, batch: int) -> None:
    """Certify in turn, and say who took how long."""
    shape, half = tuple(x.shape[1:]), torch.autocast("cpu", torch.bfloat16)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)

    def art(net: nn.Module) -> Any:
        return by_art()(net, nn.CrossEntropyLoss(), shape, 10, sample_size=SELECT, scale=SIGMA, alpha=ALPHA, device_type="cpu")

    ours, rough, theirs, theirs_rough = (
        Smoothed(net, SIGMA),
        Smoothed(last, SIGMA, precision=torch.bfloat16),
        art(net),
        art(Within(last, half)),
    )
    noisy = torch.randn(BLOCK, *shape)

    def forwards(precise: bool) -> None:
        with torch.inference_mode(), nullcontext() if precise else half:
            for first in range(0, SELECT + draws, BLOCK):
                (net if precise else last)(noisy[: SELECT + draws - first])

    def certify(smoothed: Smoothed, some: Tensor) -> list[tuple[int, float]]:
        found = smoothed.certify(some, select=SELECT, draws=draws, alpha=ALPHA)
        return list(zip(found.classes.tolist(), found.radii.tolist(), strict=True))

    def certify_art(smoothed: Any, some: Tensor) -> list[tuple[int, float]]:
        classes, radii = smoothed.certify(some.numpy(), draws, batch)
        return list(zip(map(int, classes), map(float, radii), strict=True))

    runs: dict[str, Callable[[Tensor], Any]] = {
        "one by one": lambda some: [certify(ours, one)[0] for one in some.split(1)],
        "together": lambda some: certify(ours, some),
        "together, bfloat16": lambda some: certify(rough, some),
        "ART": lambda some: certify_art(theirs, some),
        "ART, bfloat16": lambda some: certify_art(theirs_rough, some),
        "forwards": lambda some: [forwards(True) for _ in some],
        "forwards, bfloat16": lambda some: [forwards(False) for _ in some],
    }
    for run in runs.values():
        run(x[:1])  # the first fills caches
    seconds, found = {way: list[float]() for way in runs}, {way: list[tuple[int, float]]() for way in runs}
    for some in x.split(TOGETHER):
        for way, run in runs.items():
            taken, result = spent(lambda run=run, some=some: run(some))  # type: ignore[misc]
            seconds[way].append(taken / len(some))
            found[way] += result
    print(f"\n{name}\n  {'':20}{'ms each':>8}{'a second':>10}{'x ART':>7}   {'abstained':36}right")
    for way, taken in seconds.items():
        median = statistics.median(taken)
        print(f"  {way:20}{1000 * median:8.1f}{1 / median:10.1f}{statistics.median(seconds['ART']) / median:7.2f}", end="")
        if way.startswith("forwards"):
            print()
            continue
        classes = [cls for cls, _ in found[way]]
        right = Rate(sum(cls == label for cls, label in zip(classes, y.tolist(), strict=True)), len(y))
        print(f"   {Rate(sum(cls < 0 for cls in classes), len(y))!s:36}{right}")
    for way in ("together", "together, bfloat16"):
        same = [abs(a[1] - b[1]) for a, b in zip(found[way], found["ART"], strict=True) if a[0] == b[0]]
        apart = f"{statistics.mean(same):.3f} apart on average, {max(same):.3f} at most"
        print(f"  {way}: ART's class for {len(same)} of {len(y)}, radii then {apart}")
    ours_abstains, art_abstains = (ours.predict(x, draws=SELECT, alpha=ALPHA) < 0).sum(), (~theirs.predict(x.numpy()).any(1)).sum()
    print(f"  predict, {SELECT} draws: ours abstains {Rate(int(ours_abstains), len(y))}, ART {Rate(int(art_abstains), len(y))}")


class Within(nn.Module):
    """A net that runs within a context: another precision, say."""

    def __init__(self, net: nn.Module, context: Any) -> None:
        super().__init__()
        self.net, self.context = net, context

    def forward(self, inputs: Tensor) -> Tensor:
        with self.context:
            scores: Tensor = self.net(inputs)
        return scores.float()


@click.command(help=__doc__)
@click.option("--count", default=60, show_default=True, help="images to certify")
@click.option("--draws", default=1000, show_default=True, help="of noise, to certify an image by")
@click.option("--batch", default=32, show_default=True, help="ART's batch; 32 is its own choice")
@click.option("--quick", is_flag=True, help="8 images, 200 draws")
def main(count: int, draws: int, batch: int, quick: bool) -> None:
    """The times and the rates."""
    torch.set_num_threads(1)
    by_art()
    np.random.seed(0)
    count, draws = (min(count, 8), min(draws, 200)) if quick else (count, draws)
    (x, y, _), name = images(DATA, count)
    print(f"{name}, {count} images, sigma {SIGMA:g}, {SELECT} + {draws} draws, alpha {ALPHA:g}")
    for net in NETS:
        race(net, NETS[net](), x, y, draws, batch)


if __name__ == "__main__":
    main()

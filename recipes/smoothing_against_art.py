"""Randomized smoothing against ART 1.20.1's PyTorchRandomizedSmoothing: certificates a second, abstention, agreement.

    peers_env.sh /tmp/peers .                                     # an environment of the peers' own
    PYTHONPATH=. /tmp/peers/bin/python recipes/smoothing_against_art.py
    PYTHONPATH=. /tmp/peers/bin/python recipes/smoothing_against_art.py --quick

The same net (bundled `mnist`), images, sigma, alpha, draws to select (100) and to certify; image by image in turn, so that both
meet the same machine. Rates come with 95 % intervals: abstention is the same where they overlap.
"""

import statistics
import time
from pathlib import Path

import click
import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from image_robust_accuracy import images

from audioadv.defenses import Smoothed
from audioadv.evaluation.rates import Rate
from audioadv.models.classifier import load_classifier

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"


@click.command(help=__doc__)
@click.option("--count", default=60, show_default=True, help="images to certify")
@click.option("--draws", default=1000, show_default=True)
@click.option("--sigma", default=0.5, show_default=True)
@click.option("--alpha", default=0.001, show_default=True)
@click.option("--batch", default=32, show_default=True, help="ART's batch; 32 is its own choice")
@click.option("--quick", is_flag=True, help="8 images, 200 draws")
def main(count: int, draws: int, sigma: float, alpha: float, batch: int, quick: bool) -> None:
    """The times and the rates."""
    torch.set_num_threads(1)
    count, draws = (min(count, 8), min(draws, 200)) if quick else (count, draws)
    (x, y, _), name = images(DATA, count)
    net = load_classifier("mnist").net
    select = 100
    art = PyTorchRandomizedSmoothing(
        net, torch.nn.CrossEntropyLoss(), x.shape[1:], 10, sample_size=select, scale=sigma, alpha=alpha, device_type="cpu"
    )
    ours = Smoothed(net, sigma)
    np.random.seed(0)
    mine, theirs, seconds = [], [], list[tuple[float, float]]()
    ours.certify(x[:1], draws=draws)
    art.certify(x[:1].numpy(), draws, batch)  # the first fills caches
    for example in x:
        began = time.perf_counter()
        found = ours.certify(example[None], select=select, draws=draws, alpha=alpha)
        between = time.perf_counter()
        other = art.certify(example[None].numpy(), draws, batch)
        seconds.append((between - began, time.perf_counter() - between))
        mine.append((int(found.classes), float(found.radii)))
        theirs.append((int(other[0][0]), float(other[1][0])))
    print(f"{name}, {count} images, sigma {sigma:g}, {select} + {draws} draws, alpha {alpha:g}")
    for who, found, taken in zip(("ours", "ART"), (mine, theirs), zip(*seconds, strict=True), strict=True):
        right = Rate(sum(cls == label for (cls, _), label in zip(found, y.tolist(), strict=True)), count)
        print(
            f"{who:5} certificates a second: {1 / statistics.median(taken):6.1f} (median), {count / sum(taken):6.1f} (mean)"
            f"   abstained {Rate(sum(cls < 0 for cls, _ in found), count)}   right {right}"
        )
    ratio = sorted(b / a for a, b in seconds)
    print(
        f"ART's time over ours: median {ratio[len(ratio) // 2]:.2f}, of sums {sum(b for _, b in seconds) / sum(a for a, _ in seconds):.2f}"
    )
    apart = [abs(a[1] - b[1]) for a, b in zip(mine, theirs, strict=True) if a[0] == b[0] >= 0]
    print(f"the same class for {sum(a[0] == b[0] for a, b in zip(mine, theirs, strict=True))} of {count}; ", end="")
    print(f"radii then differ by {statistics.mean(apart) if apart else 0:.3f} on average, {max(apart, default=0):.3f} at most")
    predicted = ours.predict(x, draws=select, alpha=alpha)
    peers = art.predict(x.numpy(), batch_size=128).any(1)
    print(f"predict, {select} draws: ours abstains {Rate(int((predicted < 0).sum()), count)}, ART {Rate(int((~peers).sum()), count)}")


if __name__ == "__main__":
    main()

"""Certified accuracy over radius, by randomized smoothing: on MNIST, on spoken digits, or on any classifier of one's own.

    python recipes/smoothing.py --out runs/smoothing                               # MNIST, sigma 0.25, 0.5 and 1
    python recipes/smoothing.py --data spoken --sigma 0.005 --sigma 0.02           # real spoken digits, 8 kHz
    python recipes/smoothing.py --net my_file:my_function --data spoken            # a net of one's own, made for a sigma
    python recipes/smoothing.py --quick

A net is trained for each sigma on noisy inputs (Cohen et al. 2019, section 3.3). `--net` names a function (images or sounds,
labels, sigma) -> classifier that is called instead. Radii are L2, in the inputs' unit: pixels in 0..1, samples at full
scale 1. Without the data, scikit-learn's digits stand in.
"""

import importlib
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
import torchaudio
from lines import write_lines
from torch import Tensor, nn
from torch.nn import functional as F
from train_mnist import blown_up_digits

from audioadv.defenses import Smoothed
from audioadv.evaluation.certified import certified_curve
from audioadv.evaluation.images import mnist
from audioadv.evaluation.rates import Rate
from audioadv.evaluation.sounds import fsdd
from audioadv.models.tiny_mnist import TinyMnist

SHARED = Path(__file__).resolve().parent.parent.parent / "shared/data"
Curve = list[tuple[float, Rate]]
SIGMAS = {"mnist": (0.25, 0.5, 1.0), "spoken": (0.005, 0.02, 0.05)}
FURTHEST = {"mnist": 4.0, "spoken": 0.2}


def load(data: str, quick: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """Training inputs and labels, test inputs and labels, and what they are."""
    if data == "spoken" and (SHARED / "fsdd").is_dir():
        train, test = (fsdd(SHARED / "fsdd", part, seconds=0.75) for part in ("train", "test"))
        train = train.first(600 if quick else len(train.labels))
        return train.waveforms, train.labels, test.waveforms, test.labels, "spoken digits (FSDD)"
    if data == "mnist" and (SHARED / "mnist").is_dir():
        (x, y, _), (u, v, _) = mnist(SHARED / "mnist", "train"), mnist(SHARED / "mnist")
        return *((x[:6000], y[:6000]) if quick else (x, y)), u, v, "MNIST"
    x, y, _ = blown_up_digits()
    return x[300:], y[300:], x[:300], y[:300], "scikit-learn's digits, blown up"


class TinySpoken(nn.Sequential):
    """Log-mel energies and three strided convolutions. Shapes: [batch, time] at 8 kHz -> scores [batch, 10]."""

    def __init__(self) -> None:
        super().__init__(
            torchaudio.transforms.MelSpectrogram(8000, n_fft=256, hop_length=128, n_mels=32, power=2.0),
            Log(),
            *(layer for a, b in ((1, 16), (16, 32), (32, 64)) for layer in (nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())),
            nn.AdaptiveAvgPool2d((4, 1)),
            nn.Flatten(),
            nn.Linear(256, 10),
        )


class Log(nn.Module):
    """Decibels, about, as one picture."""

    def forward(self, energy: Tensor) -> Tensor:
        return (energy + 1e-5).log()[:, None] / 4


def trained(inputs: Tensor, labels: Tensor, sigma: float, passes: int) -> nn.Module:
    """A net that has met noise of this sigma. Shapes: inputs [examples, *], labels [examples]."""
    torch.manual_seed(0)
    net = TinySpoken() if inputs.ndim == 2 else TinyMnist()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    total = passes * -(-len(inputs) // 100)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=total)
    for _ in range(passes):
        for rows in torch.randperm(len(inputs)).split(100):
            optimiser.zero_grad()
            F.cross_entropy(net(inputs[rows] + sigma * torch.randn_like(inputs[rows])), labels[rows]).backward()
            optimiser.step()
            schedule.step()
    return net.eval()


@click.command()
@click.option("--data", type=click.Choice(["mnist", "spoken"]), default="mnist", show_default=True, help="what is classified")
@click.option("--sigma", "sigmas", type=float, multiple=True, help="again for more; the data's own three, if left out")
@click.option("--net", help="FILE:FUNCTION, in place of training one")
@click.option("--count", default=500, show_default=True, help="test examples")
@click.option("--draws", default=10000, show_default=True, help="of noise, to certify an example by")
@click.option("--passes", type=int, help="of training; MNIST 4, spoken digits 30")
@click.option("--alpha", default=0.001, show_default=True, help="the chance that a certificate is wrong")
@click.option("--out", type=Path, help="folder for certified-DATA.jsonl and certified-DATA.png")
@click.option("--quick", is_flag=True, help="one sigma, 20 examples, 200 draws")
def main(
    data: str,
    sigmas: tuple[float, ...],
    net: str | None,
    count: int,
    draws: int,
    passes: int | None,
    alpha: float,
    out: Path | None,
    quick: bool,
) -> None:
    """Print the table; write it and the picture."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    passes = passes or {"mnist": 4, "spoken": 30}[data]
    sigmas = sigmas or SIGMAS[data]
    if quick:
        sigmas, count, draws, passes = sigmas[1:2], 20, 200, max(1, passes // 4)
    x, y, test, labels, name = load(data, quick)
    test, labels = test[:count], labels[:count]
    module, _, function = (net or ":").partition(":")
    make: Callable[..., nn.Module] = getattr(importlib.import_module(module), function) if net else lambda *given: trained(*given, passes)
    radii = [FURTHEST[data] * i / 100 for i in range(101)]
    curves: dict[float, Curve] = {}
    print(f"{name}, {len(labels)} test examples, {draws} draws, alpha {alpha:g}: certified accuracy at an L2 radius of")
    print(f"{'sigma':>8}{'abstains':>10}" + "".join(f"{radius:>8.3g}" for radius in radii[::10]) + "   certificates a second")
    lines = []
    for sigma in sigmas:
        classifier = make(x, y, sigma)
        began = time.perf_counter()
        found = Smoothed(classifier, sigma).certify(test, draws=draws, alpha=alpha)
        speed = len(labels) / (time.perf_counter() - began)
        curves[sigma] = certified_curve(found, labels, radii)
        abstained = Rate(int((found.classes < 0).sum()), len(labels))
        row = "".join(f"{rate.value:8.1%}" for _, rate in curves[sigma][::10])
        print(f"{sigma:8g}{abstained.value:10.1%}{row}   {speed:.1f}")
        points = [(radius, rate.value, *rate.interval) for radius, rate in curves[sigma]]
        lines.append({"data": name, "sigma": sigma, "draws": draws, "alpha": alpha, "abstained": abstained.value, "curve": points})
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / f"certified-{data}.jsonl", lines)
        draw(curves, f"{name}: {len(labels)} examples, {draws} draws", out / f"certified-{data}.png")
        print(f"Look: {out / f'certified-{data}.png'}")


def draw(curves: dict[float, Curve], title: str, path: Path) -> None:
    """A curve a sigma, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.8), layout="constrained")
    panel = figure.subplots()
    for sigma, curve in curves.items():
        radii, rates = zip(*curve, strict=True)
        (line,) = panel.plot(radii, [rate.value for rate in rates], label=f"sigma {sigma:g}")
        low, high = zip(*(rate.interval for rate in rates), strict=True)
        panel.fill_between(radii, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    panel.set(xlabel="L2 radius", ylabel="certified accuracy", title=title, ylim=(0, 1))
    panel.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

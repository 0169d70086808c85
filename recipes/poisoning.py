"""Backdoors in data: how few examples it takes, what finds them, and what is left when the poisoner knows the defense.

    python recipes/poisoning.py --out runs/poisoning         # MNIST, 6,000 images; spoken digits, 1,800 clips
    python recipes/poisoning.py --quick                      # 1,000 images

Images wear a square near a corner, sounds a beep of a tenth of a second; both shall be taken for a seven. Success is of the trigger, on
test examples that are no sevens. Spectral signatures leave 1.5 times as many examples out of each class as are poisoned, and the
net is trained anew. A poisoner who knows that adds as many covers: examples that wear the trigger and keep their labels.

Clean labels: one poisoned example of another class, which looks like it and has the features of one test image, and a last layer
learnt anew. Success is that this very image is taken for the other class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from lines import write_lines
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor, nn
from train_fsdd import DATA as SPOKEN
from train_mnist import blown_up_digits

import audioadv as aa
from audioadv.evaluation.images import mnist
from audioadv.evaluation.implants import Implant, implant
from audioadv.evaluation.sounds import fsdd
from audioadv.models.tiny_m5 import TinyM5
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.report.tables import show
from audioadv.training import Backdoor, Labelled, Natural, Stamp, Trigger, collide, constant, sift, tone, train
from audioadv.training.signatures import features

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"
TARGET, SEED = 7, 0


@dataclass(frozen=True)
class World:
    """What is learnt, by which net, looked at in which layer, and the trigger."""

    name: str
    train: Labelled
    test: Labelled
    net: Callable[[], nn.Module]
    layer: str
    trigger: Trigger
    passes: int

    def learnt(self, data: Labelled) -> nn.Module:
        """A net that was trained on these data."""
        torch.manual_seed(SEED)
        net = self.net()
        train(net, data, Natural(), passes=self.passes, seed=SEED)
        return net


def pictures(data: Path, count: int, passes: int) -> World:
    """MNIST, or scikit-learn's digits, of which the last 500 are the test."""
    if data.is_dir():
        some, rest = mnist(data, "train").first(count), mnist(data).first(1000)
    else:
        some, rest = blown_up_digits().first(min(count, 1297)), blown_up_digits()
        rest = rest._replace(images=rest.images[1297:], labels=rest.labels[1297:])
    parts = [Labelled(part.images, part.labels, size=64) for part in (some, rest)]
    return World("MNIST" if data.is_dir() else "scikit-learn's digits", *parts, TinyMnist, "6", Stamp(), passes)


def sounds(passes: int) -> World:
    """Spoken digits, 1 s at 8 kHz."""
    parts = [Labelled(part.waveforms, part.labels, size=60, box=(-1, 1)) for part in (fsdd(SPOKEN, "train"), fsdd(SPOKEN, "test"))]
    return World("spoken digits", *parts, partial(TinyM5, 10), "body", tone(1500, 8000), passes)


def row(world: World, rate: float, covers: float, defended: bool) -> tuple[dict[str, Any], Implant]:
    """One net: trained on poisoned data, or on what the defense leaves of them."""
    backdoor = Backdoor(world.trigger, TARGET)
    poisoned = backdoor.poison(world.train, rate, covers=covers, seed=SEED)
    net, found = world.learnt(poisoned.data), 0
    if defended:
        cleaned, kept = sift(poisoned.data, net, world.layer, most=len(poisoned.rows))
        net, found = world.learnt(cleaned), len(poisoned.rows) - int(torch.isin(poisoned.rows, kept).sum())
    got = implant(net, world.test.first(len(world.test.inputs)), backdoor)
    line = {"world": world.name, "poisoned": len(poisoned.rows), "covers": len(poisoned.covers), "of": len(world.train.inputs)}
    rates = {name: {"rate": r.value, "hits": r.hits, "of": r.count} for name, r in (("accuracy", got.accuracy), ("success", got.success))}
    return line | {"trigger": str(world.trigger), "defense": "spectral" if defended else "none", "found": found} | rates, got


def clean_label(world: World, bound: str, trials: int, few: int = 300) -> tuple[dict[str, Any], aa.Rate]:
    """A last layer learns `few` images and one poison, for each of the first test images; how often that one image is taken."""
    net, hits, count = world.learnt(world.train), 0, 0
    x, y = world.train.inputs[:few], world.train.labels[:few]
    seen = features(net, world.layer, x)
    for target, label in zip(world.test.inputs[:trials, None], world.test.labels[:trials], strict=True):
        aim = (label + 1) % 10
        bases = x[y == aim]
        own = features(net, world.layer, target)
        base = bases[(seen[y == aim] - own).norm(dim=1).argmin()][None]
        poison = features(net, world.layer, collide(net, world.layer, base, target, aa.parse_bound(bound)))
        alone, spoilt = (
            last_layer(torch.cat([seen, more]), torch.cat([y, aim[None]])) for more in (features(net, world.layer, base), poison)
        )
        if alone(own).argmax() == label:  # of what is right without the poison
            hits, count = hits + int(spoilt(own).argmax() == aim), count + 1
    rate = aa.Rate(hits, count)
    return {"world": world.name, "clean label, one poison": bound, "of": few, "success": rate.value, "hits": hits, "trials": count}, rate


def last_layer(seen: Tensor, labels: Tensor) -> nn.Module:
    """A linear layer, learnt anew until it has its examples right."""
    torch.manual_seed(SEED)
    layer = nn.Linear(seen.shape[1], 10)
    optimiser = partial(torch.optim.Adam, lr=0.01)
    train(layer, Labelled(seen, labels, size=len(labels)), Natural(), passes=150, optimiser=optimiser, schedule=constant)
    return layer


def draw(path: Path, worlds: list[World], curves: dict[str, list[tuple[float, Implant]]]) -> None:
    """Success against the share that is poisoned, and what the triggers look like."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots(1, 1 + len(worlds))
    for name, points in curves.items():
        share = [100 * rate for rate, _ in points]
        line = axes[0].plot(share, [100 * got.success.value for _, got in points], marker="o", label=f"{name}: success")[0]
        ends = [got.success.interval for _, got in points]
        axes[0].fill_between(share, [100 * low for low, _ in ends], [100 * high for _, high in ends], alpha=0.15, color=line.get_color())
        axes[0].plot(share, [100 * got.accuracy.value for _, got in points], "--", color=line.get_color(), label=f"{name}: accuracy")
    axes[0].set_xscale("symlog", linthresh=0.1)
    axes[0].set(xlabel="poisoned, % of the training data", ylabel="%", ylim=(0, 102), title="a backdoor (95 % bands)")
    axes[0].legend(fontsize=7)
    for axis, world in zip(axes[1:], worlds, strict=True):
        worn = world.trigger(world.test.inputs[:1])[0]
        if worn.ndim > 1:
            axis.imshow(worn[0], cmap="gray", vmin=0, vmax=1)
        else:
            axis.specgram(worn.numpy() + 1e-6, NFFT=256, noverlap=192, Fs=8000)
            axis.set(xlabel="s", ylabel="Hz")
        axis.set_title(f"{world.name}: {'a stamp' if worn.ndim > 1 else world.trigger}", fontsize=8)
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--count", default=6000, show_default=True, help="training images")
@click.option("--passes", default=6, show_default=True, help="on images; on sounds, four times as many")
@click.option("--bound", default="linf:0.3", show_default=True, help="of clean-label poison")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files; without it, scikit-learn's digits")
@click.option("--out", type=Path, help="folder for poisoning.jsonl and poisoning.png")
@click.option("--quick", is_flag=True, help="1,000 images, three rates, no sounds")
def main(count: int, passes: int, bound: str, data: Path, out: Path | None, quick: bool) -> None:
    """Print the table; write it and the picture."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    rates = (0.0, 0.01, 0.03) if quick else (0.0, 0.001, 0.002, 0.005, 0.01, 0.03)
    worlds = [pictures(data, min(count, 1000) if quick else count, passes)]
    if SPOKEN.is_dir() and not quick:
        worlds.append(sounds(4 * passes))
    table, lines = (
        Table("data", "poisoned", "covers", "defense", "found", "accuracy, %", "success of the trigger, %"),
        list[dict[str, Any]](),
    )
    curves: dict[str, list[tuple[float, Implant]]] = {world.name: [] for world in worlds}
    for world in worlds:
        settings = [(rate, 0.0, False) for rate in rates] + [(0.03, 0.0, True), (0.03, 0.03, False), (0.03, 0.03, True)]
        for rate, covers, defended in settings:
            line, got = row(world, rate, covers, defended)
            lines.append(line)
            if not covers and not defended:
                curves[world.name].append((rate, got))
            cells = [world.name, *(str(line[key]) for key in ("poisoned", "covers", "defense")), str(line["found"]) if defended else ""]
            table.add_row(*cells, *(str(part).replace(" %", "") for part in (got.accuracy, got.success)))
    show(table)
    line, rate = clean_label(worlds[0], bound, trials=2 if quick else 50)
    print(f"clean labels, one poison within {bound} among {line['of']} images: its target is taken in {rate}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / "poisoning.jsonl", [*lines, line])
        draw(out / "poisoning.png", worlds, curves)


if __name__ == "__main__":
    main()

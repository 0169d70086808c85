"""Detectors of adversarial examples: what they claim, and what is left against an attacker who knows them.

    python recipes/detectors.py --out runs/detectors                 # MNIST, linf:0.3, 200 images
    python recipes/detectors.py --quick

Each detector is fitted on clean and on PGD's examples, its threshold set to refuse 5 % of clean images. For each, a row:

    claimed         the share of examples like those that it was fitted on (PGD against the net alone, other images) it detects
    static          undetected success of APGD on the net alone, judged on the net with its detector
    joint           undetected success of APGD on Misclassify & Undetected, with the same bound and steps
    sum, greatest, first
                    joint again, with other losses for the same goal: the plain sum of both losses; the greater of both margins
                    (Carlini and Wagner 2017: one class more); the first that is missed (selective, Bryniarski et al. 2021)

Undetected success: of the images that the net has right and its detector accepts, the share that end up wrong and accepted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from image_robust_accuracy import images
from lines import write_lines
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor
from train_mnist import blown_up_digits

import audioadv as aa
from audioadv.attacks import apgd, pgd
from audioadv.attacks.objective import objective
from audioadv.defenses import Confidence, Density, Detected, Mahalanobis, Network, fit
from audioadv.evaluation.images import mnist
from audioadv.report.tables import show
from audioadv.threat.joined import Joined
from audioadv.threat.undetected import Undetected

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"
KINDS = (
    Network(),
    Network("3"),
    Mahalanobis(("1", "3", "6", "outputs")),
    Density("6"),
    Confidence(),
)


@dataclass(frozen=True, eq=False)
class With:
    """A joined goal with another loss: `combine` (the losses [goals, batch], the margins) -> [batch]."""

    goal: Joined
    combine: Callable[[Tensor, Tensor], Tensor]

    def loss(self, outputs: Any) -> Tensor:
        """Shapes: -> [batch]."""
        losses, margins = (
            torch.stack([each(goal) for goal in self.goal.goals]) for each in (lambda g: g.loss(outputs), lambda g: g.margin(outputs))
        )
        return self.combine(losses, margins)

    def rows(self, index: Tensor) -> "With":
        """The goal of some of the examples."""
        return With(self.goal.rows(index), self.combine)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.goal, name)


LOSSES = {
    "sum": lambda losses, margins: losses.sum(0),
    "greatest": lambda losses, margins: margins.amax(0),
    "first": lambda losses, margins: torch.where(margins[0] > 0, 1000 + margins[0], margins[1]),
}


@click.command()
@click.option("--bound", default="linf:0.3", show_default=True, help="what may be changed")
@click.option("--count", default=200, show_default=True, help="test images")
@click.option("--train", default=3000, show_default=True, help="images that detectors are fitted on")
@click.option("--steps", default=100, show_default=True, help="of the attacks")
@click.option("--false-positives", default=0.05, show_default=True, help="share of clean images that a detector may refuse")
@click.option("--seed", default=0, show_default=True, help="of all draws")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files; without it, scikit-learn's digits")
@click.option("--out", type=Path, help="folder for detectors.jsonl")
@click.option("--quick", is_flag=True, help="20 images, 500 to fit on, two detectors")
def main(
    bound: str, count: int, train: int, steps: int, false_positives: float, seed: int, data: Path, out: Path | None, quick: bool
) -> None:
    """Print the table; write it."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    count, train, steps, kinds = (20, 500, 30, (KINDS[0], KINDS[-1])) if quick else (count, train, steps, KINDS)
    net, allowed = aa.load_classifier("mnist"), aa.parse_bound(bound)
    (x, y, _), name = images(data, count)
    clean, labels, _ = (mnist(data, "train") if data.is_dir() else blown_up_digits()).first(train)
    wild = attacked(net, clean, labels, allowed)
    known = attacked(net, x, y, allowed)
    right = net(x).argmax(1) == y
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=f"{name}, {bound}, {len(y)} images, {false_positives:.0%} false positives")
    for heading in ("detector", "clean\nrefused", "claimed:\ndetected", "static:\nsuccess", "joint:\nsuccess", *LOSSES):
        table.add_column(heading, justify="left" if heading == "detector" else "right")
    lines = []
    for kind in kinds:
        detector = fit(kind, net, clean, wild, false_positives=false_positives, seed=seed)
        model = Detected(net, detector)
        refused = model.refuses(x)
        able = (right & ~refused).nonzero()[:, 0]
        joined = aa.Misclassify(y) & Undetected(detector)
        goals = {"static": aa.Misclassify(y), "joint": joined, **{loss: With(joined, combine) for loss, combine in LOSSES.items()}}
        felled = {}
        for way, goal in goals.items():
            wanted = objective(net if way == "static" else model, goal.rows(able))
            found = apgd(wanted, allowed.around(x[able]), steps=steps, seed=seed).adversarial
            with torch.no_grad():
                felled[way] = aa.Rate(int(joined.rows(able).reached(model(found)).sum()), len(able))
        hit = net(known).argmax(1) != y
        rates = {
            "refused": aa.Rate(int(refused.sum()), len(y)),
            "claimed": aa.Rate(int((model.refuses(known) & hit).sum()), int(hit.sum())),
            **felled,
        }
        lines.append(
            {"detector": str(kind), **{key: {"rate": rate.value, "hits": rate.hits, "of": rate.count} for key, rate in rates.items()}}
        )
        table.add_row(str(kind), *(f"{rate.value:.1%}\n{rate.hits}/{rate.count}" for rate in rates.values()))
    show(table)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / "detectors.jsonl", ({"data": name, "bound": bound} | line for line in lines))


def attacked(net: aa.Classifier, images: Tensor, labels: Tensor, bound: Any) -> Tensor:
    """PGD's examples, from an attacker who knows of no detector."""
    return pgd(objective(net, aa.Misclassify(labels)), bound.around(images), steps=20).adversarial


if __name__ == "__main__":
    main()

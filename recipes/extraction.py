"""Copies of a model by asking it: how faithful they are, and how well what fells them fells the original, by queries.

    python recipes/extraction.py --out runs/extraction       # the bundled MNIST net, up to 5,000 queries; the one for spoken digits
    python recipes/extraction.py --quick                     # 400 queries, images only

knockoff     asks about inputs that a thief has collected: test images; of spoken digits those that the victim learnt, for want of others
jacobian     has 50 of them, and makes the rest itself, across the boundary of its copy

Both by scores and by decisions. Fidelity is the share of held-out inputs on which both decide the same, right or wrong; transfer, the
share of those that the victim has right and then not, when attacked by PGD on the copy, one attempt each. Thieves' nets are of
the victim's own form, which helps them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from image_robust_accuracy import images
from lines import write_lines
from matplotlib.figure import Figure
from poisoning import DATA, SPOKEN
from rich.table import Table
from torch import Tensor, nn

import audioadv as aa
from audioadv.evaluation.fidelity import carried, fidelity
from audioadv.evaluation.sounds import fsdd
from audioadv.models.access import Access
from audioadv.models.tiny_m5 import TinyM5
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.report.tables import show
from audioadv.training import Asked, extract

FEW = 50


@dataclass(frozen=True)
class Victim:
    """A bundled net, what thieves start with, and what is measured on. `spread` is of the augmentation's steps."""

    name: str
    net: Callable[[], nn.Module]
    pool: Tensor
    held: Tensor
    labels: Tensor
    bound: str
    box: tuple[float, float]
    spread: float


def victims(data: Path, sound: bool) -> list[Victim]:
    """The pool is of test examples: the victim has not learnt them."""
    (x, y, _), _ = images(data, 6000)
    held = min(1000, len(x) // 3)
    found = [Victim("mnist", TinyMnist, x[held:], x[:held], y[:held], "linf:0.2", (0, 1), 0.1)]
    if sound and SPOKEN.is_dir():
        test = fsdd(SPOKEN, "test")
        known = fsdd(SPOKEN, "train")  # the victim's own: there are no others, and the test set is kept to measure on
        found.append(Victim("digits-spoken", partial(TinyM5, 10), known.waveforms, test.waveforms, test.labels, "linf:0.01", (-1, 1), 0.01))
    return found


def stolen(victim: Victim, way: str, access: Access, queries: int, passes: int, carried_on: int) -> dict[str, Any]:
    """One copy, and what it is worth: whether what fells it fells the victim, of the first `carried_on` that are held."""
    net, asked = aa.load_classifier(victim.name), Asked(aa.load_classifier(victim.name), access)
    torch.manual_seed(0)
    copy, start = victim.net(), victim.pool[: FEW if way == "jacobian" else None]
    extract(asked, copy, start, queries=queries, rounds=1 if way == "knockoff" else 9, passes=passes, spread=victim.spread, box=victim.box)
    same = fidelity(net, copy, victim.held)
    felled = carried(net, copy, victim.held[:carried_on], victim.labels[:carried_on], aa.parse_bound(victim.bound), box=victim.box)
    rates = {
        name: {"rate": rate.value, "hits": rate.hits, "of": rate.count, "interval": rate.interval}
        for name, rate in (("fidelity", same), ("transfer", felled))
    }
    return {"victim": victim.name, "way": way, "answers": str(access), "queries": asked.queries, "bound": victim.bound} | rates


def draw(path: Path, lines: list[dict[str, Any]]) -> None:
    """Fidelity and transfer against queries."""
    names = list(dict.fromkeys(line["victim"] for line in lines))
    figure = Figure(figsize=(4.6 * len(names), 6), layout="constrained")
    axes = figure.subplots(2, len(names), squeeze=False, sharex="col")
    for column, name in enumerate(names):
        for look in dict.fromkeys((line["way"], line["answers"]) for line in lines):
            own = [line for line in lines if (line["victim"], line["way"], line["answers"]) == (name, *look)]
            asked = [line["queries"] for line in own]
            for axis, measure in zip(axes[:, column], ("fidelity", "transfer"), strict=True):
                (curve,) = axis.plot(asked, [100 * line[measure]["rate"] for line in own], marker="o", label=" by ".join(look))
                low, high = zip(*(line[measure]["interval"] for line in own), strict=True)
                axis.fill_between(asked, [100 * end for end in low], [100 * end for end in high], alpha=0.15, color=curve.get_color())
                axis.set(xscale="log", ylabel=f"{measure}, %", ylim=(0, 102))
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("queries")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--queries", default=5000, show_default=True, help="at most; also a third, a tenth ... of them")
@click.option("--passes", default=15, show_default=True, help="over all that was asked, after each round")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files; without it, scikit-learn's digits")
@click.option("--out", type=Path, help="folder for extraction.jsonl and extraction.png")
@click.option("--quick", is_flag=True, help="400 queries at most, images only, of which 40 are attacked")
def main(queries: int, passes: int, data: Path, out: Path | None, quick: bool) -> None:
    """Print the table; write it and the picture."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    budgets = [100, min(queries, 400)] if quick else sorted({max(FEW, round(queries * share)) for share in (0.03, 0.1, 0.3, 1)})
    table, lines = Table("victim", "way", "answers", "queries", "fidelity, %", "transfer, %"), list[dict[str, Any]]()
    for victim in victims(data, sound=not quick):
        for way in ("knockoff", "jacobian"):
            for access in (Access.SCORES, Access.DECISIONS):
                for budget in budgets:
                    line = stolen(victim, way, access, budget, passes, 40 if quick else 200)
                    lines.append(line)
                    rates = (aa.Rate(line[name]["hits"], line[name]["of"]) for name in ("fidelity", "transfer"))
                    table.add_row(victim.name, way, str(access), str(line["queries"]), *(str(rate).replace(" %", "") for rate in rates))
    show(table)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / "extraction.jsonl", lines)
        draw(out / "extraction.png", lines)


if __name__ == "__main__":
    main()

"""A natural and an adversarially trained net, under every attack that `evaluate` knows: one table and one picture.

    python recipes/image_robust_accuracy.py --out runs/images        # 100 MNIST images; killed, it goes on from what is there
    python recipes/image_robust_accuracy.py --quick                  # 20 images, the quick attacks, two bounds

The bundled MNIST nets. Every attack tries every image that the net reads rightly, with its defaults, within every bound that it
takes. Without MNIST's files, scikit-learn's digits, blown up to 28 x 28, stand in (and accuracies are poor: the nets never saw
such digits). The picture is the security curve: the share of images robust up to each radius, by the smallest change found.
"""

from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from lines import add_lines, read_lines
from torch import Tensor, nn
from torch.nn import functional as F

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.catalogue import EVALUATING
from audioadv.errors import OptionError
from audioadv.evaluation.images import Images, digits, mnist

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"
MODELS = ("mnist", "mnist-robust")
BOUNDS = ("linf:0.3", "l2:2", "l1:10", "l0:20", "spatial:30,3", "linf:0.3_or_l2:2_or_l1:10")
QUICK = ("fgsm", "pgd", "apgd", "msd", "standard")
SMALLEST = {
    "linf:min": {"fmn": attacks.fmn, "pdpgd": attacks.pdpgd},
    "l2:min": {"ddn": attacks.ddn, "fmn": attacks.fmn, "carlini_wagner": partial(attacks.carlini_wagner, step_size=0.05)},
}
Cell = dict[str, Any]


def images(data: Path, count: int) -> tuple[Images, str]:
    """The first test images, and what they are."""
    if data.is_dir():
        return mnist(data).first(count), "MNIST"
    small = digits().first(count)
    return small._replace(images=F.interpolate(small.images, 28, mode="bilinear")), "scikit-learn's digits, blown up"


def cell(net: nn.Module, x: Tensor, y: Tensor, spec: str, attack: str) -> Cell:
    """Which images are right and stand, and what it took; or why this attack does not do within this bound."""
    try:
        result = aa.evaluate(net, x, y, spec, attack)
    except OptionError as error:
        return {"bound": spec, "attack": attack, "refused": str(error)}
    cost = {"forwards": float(result.forwards), "backwards": float(result.backwards)}
    return {"bound": spec, "attack": attack, "right": result.correct.tolist(), "stands": result.robust.tolist(), **cost}


def table(cells: list[Cell], bounds: tuple[str, ...], names: tuple[str, ...]) -> str:
    """A row an attack, a column a net and bound: how many in a hundred are right and stand; last, against all attacks together."""
    found = {(cell["model"], cell["bound"], cell["attack"]): cell for cell in cells if "stands" in cell}
    columns = [(model, spec) for model in MODELS for spec in bounds]

    def row(name: str, values: list[str]) -> str:
        return f"{name:17}" + "".join(f"{value:>9}" for value in values)

    def share(stands: list[bool]) -> str:
        return f"{100 * sum(stands) / len(stands):.1f}"

    def union(model: str, spec: str, key: str) -> str:
        tried = [found[model, spec, name][key] for name in names if (model, spec, name) in found]
        return share([all(own) for own in zip(*tried, strict=True)]) if tried else "-"

    short = {spec: "union" if "_or_" in spec else "spatial" if "," in spec else spec for spec in bounds}
    lines = [row("", [{"mnist": "natural", "mnist-robust": "robust"}[model] for model, _ in columns])]
    lines += [row("", [short[spec] for _, spec in columns]), row("clean", [union(*column, "right") for column in columns])]
    for name in names:
        lines.append(row(name, [share(found[*column, name]["stands"]) if (*column, name) in found else "-" for column in columns]))
    return "\n".join([*lines, row("all", [union(*column, "stands") for column in columns])])


@click.command()
@click.option("--count", default=100, show_default=True, help="test images")
@click.option("--steps", default=200, show_default=True, help="for the picture's attacks, which look for the smallest change")
@click.option("--attack", "names", multiple=True, default=EVALUATING, help="some of the attacks; again for more")
@click.option("--bound", "bounds", multiple=True, default=BOUNDS, show_default=True, help="some of the bounds; again for more")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files; without it, scikit-learn's digits")
@click.option("--out", type=Path, help="folder for table.jsonl and curves.png; what is in it already is not done again")
@click.option("--quick", is_flag=True, help="20 images, the quick attacks, two bounds")
def main(count: int, steps: int, names: tuple[str, ...], bounds: tuple[str, ...], data: Path, out: Path | None, quick: bool) -> None:
    """Print the table; write it and the picture."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    if quick:
        count, steps, names, bounds = min(count, 20), min(steps, 40), QUICK, BOUNDS[:1] + BOUNDS[-1:]
    (x, y, _), data_name = images(data, count)
    nets = {model: aa.load_classifier(model) for model in MODELS}
    if out:
        out.mkdir(parents=True, exist_ok=True)
    cells = read_lines(out / "table.jsonl") if out else []
    about = {"data": data_name, "count": len(x)}
    cells = [cell for cell in cells if about.items() <= cell.items()]
    for spec in bounds:
        for name in names:
            for model, net in nets.items():
                if any((old["model"], old["bound"], old["attack"]) == (model, spec, name) for old in cells):
                    continue
                cells.append({"model": model, **about, **cell(net, x, y, spec, name)})
                if out:
                    add_lines(out / "table.jsonl", cells[-1:])
    print(f"{data_name}, {len(x)} images: how many in a hundred stand\n\n{table(cells, bounds, names)}\n")
    curves = dict[tuple[str, str], aa.Evaluation]()
    for model, net in nets.items():
        for spec, ways in SMALLEST.items():
            some = {way: partial(attack, steps=steps) for way, attack in list(ways.items())[: 1 if quick else None]}
            curves[model, spec] = result = aa.evaluate(net, x, y, aa.parse_bound(spec), some)
            for trial in result.trials:
                print(f"{model}, {spec}: median by {trial.attack} {trial.gauge[trial.tried].median():.4f}")
    if out:
        draw(curves, out / "curves.png")
        print(f"Look: {out / 'curves.png'}")


def draw(curves: dict[tuple[str, str], aa.Evaluation], path: Path) -> None:
    """The security curves, with 95 % intervals; one panel a norm."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (spec, furthest) in zip(panels, (("linf:min", 0.5), ("l2:min", 5.0)), strict=True):
        for model in ("mnist", "mnist-robust"):
            points = curves[model, spec].curve(torch.linspace(0, furthest, 101).tolist())
            radii, rates = zip(*points, strict=True)
            (line,) = panel.plot(radii, [rate.value for rate in rates], label=model)
            low, high = zip(*(rate.interval for rate in rates), strict=True)
            panel.fill_between(radii, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        panel.set_xlabel(f"radius, {spec.partition(':')[0]}")
    panels[0].set_ylabel("robust accuracy (upper bound)")
    panels[0].legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

"""A natural and an adversarially trained net, under every attack: one table and one picture.

    python recipes/image_robust_accuracy.py --out runs/images        # 1,000 MNIST images
    python recipes/image_robust_accuracy.py --quick                  # 50 images

The bundled MNIST nets. Without MNIST's files, scikit-learn's digits, blown up to 28 x 28, stand in (and accuracies are poor:
the nets never saw such digits). The picture is the security curve: the share of images robust up to each radius, by the
smallest change found.
"""

from functools import partial
from pathlib import Path

import click
import torch
from lines import write_lines
from torch.nn import functional as F

import audioadv as aa
from audioadv import attacks
from audioadv.evaluation.images import Images, digits, mnist

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"
WITHIN = {
    "linf:0.3": ("fgsm", "pgd", "apgd", "apgd_targeted", "square", "standard"),
    "linf:0.1": ("fgsm", "pgd", "apgd", "apgd_targeted", "square", "standard"),
    "l2:2": ("pgd", "apgd", "apgd_targeted", "square", "standard"),
}
SMALLEST = {
    "linf:min": {"fmn": attacks.fmn, "pdpgd": attacks.pdpgd},
    "l2:min": {"ddn": attacks.ddn, "fmn": attacks.fmn, "carlini_wagner": partial(attacks.carlini_wagner, step_size=0.05)},
}


def images(data: Path, count: int) -> tuple[Images, str]:
    """The first test images, and what they are."""
    if data.is_dir():
        return mnist(data).first(count), "MNIST"
    small = digits().first(count)
    return small._replace(images=F.interpolate(small.images, 28, mode="bilinear")), "scikit-learn's digits, blown up"


@click.command()
@click.option("--count", default=1000, show_default=True, help="test images")
@click.option("--steps", default=200, show_default=True, help="for the attacks that look for the smallest change")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files; without it, scikit-learn's digits")
@click.option("--out", type=Path, help="folder for table.jsonl and curves.png")
@click.option("--quick", is_flag=True, help="50 images")
def main(count: int, steps: int, data: Path, out: Path | None, quick: bool) -> None:
    """Print the tables; write them and the picture."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    count, steps = (min(count, 50), min(steps, 40)) if quick else (count, steps)
    (x, y, _), name = images(data, count)
    lines, curves = [], {}
    for model in ("mnist", "mnist-robust"):
        net = aa.load_classifier(model)
        for spec, names in WITHIN.items():
            chosen = names[:3] + names[-1:] if quick else names
            result = aa.evaluate(net, x, y, aa.parse_bound(spec), chosen, all_attacks_see_all=True)
            print(f"\n{model}, {name}, {result}")
            lines += [{"model": model, "data": name, "bound": spec, **line} for line in result.lines()]
        for spec, ways in SMALLEST.items():
            some = {way: partial(attack, steps=steps) for way, attack in list(ways.items())[: 1 if quick else None]}
            result = aa.evaluate(net, x, y, aa.parse_bound(spec), some)
            curves[model, spec] = result
            for trial in result.trials:
                print(f"{model}, {spec}: median by {trial.attack} {trial.gauge[trial.tried].median():.4f}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / "table.jsonl", lines)
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

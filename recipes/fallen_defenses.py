"""Defenses that fell: what each claimed, what an attacker finds who does not know of it, and what one finds who does.

    python recipes/fallen_defenses.py --out runs/fallen        # 500 MNIST images; trains five small nets, two minutes on one core
    python recipes/fallen_defenses.py --quick                  # 40 images, nets of a few seconds

Static: PGD on the undefended net, tried on the defense (distillation: PGD on the defense itself, by cross-entropy). Adaptive: what
`evaluate` picks from what the defense states of itself (distillation: the attack `standard`, whose margins do not saturate). Claims
are of the papers' own data, bounds and attacks: set beside these figures they show what was believed, no more. Nets that are
trained stay in --out; a second run goes on from them. Without MNIST's files, scikit-learn's digits stand in.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from image_robust_accuracy import DATA, images
from lines import write_lines
from safetensors.torch import load_file, save_file
from torch import nn
from train_mnist import blown_up_digits

import audioadv as aa
from audioadv import attacks
from audioadv.defenses import Denoiser, Detected, Mahalanobis, Network, Purify, Thermometer, defend, distill, fit, learn_to_denoise
from audioadv.defenses.distillation import train_at
from audioadv.evaluation.images import Images, mnist
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.threat.channels import Gaussian

LEVELS, TEMPERATURE = 16, 100.0
FITTED_ON = 2000  # images: detectors
CLAIMS = {  # accuracy under attack in per cent, and whose claim it is
    "distillation": (99.5, "Papernot et al. 2016: under 0.5 % of attacks on MNIST succeed"),
    "thermometer": (50.0, "Buckman et al. 2018: CIFAR-10, Linf 8/255"),
    "jpeg:50": (98.0, "Das et al. 2018 (SHIELD): up to 98 % of gray-box attacks on ImageNet"),
    "crop:0.85..1": (60.0, "Guo et al. 2018: 60 % of strong gray-box attacks on ImageNet, by their best transformation"),
    "drop:0.3": (None, "Hosseini et al. 2019: 'significantly' more, for nets trained on dropped pixels"),
    "denoiser": (None, "Meng and Chen 2017 (MagNet)"),
    "detector": (99.0, "Gong, Wang and Ku 2017: a network on inputs tells clean from adversarial ones with over 99 % accuracy"),
    "statistics": (None, "Lee et al. 2018: Mahalanobis distance of a layer's activations"),
}


@dataclass(frozen=True)
class Row:
    """One defense: three rates, and what the adaptive attack did about it."""

    defense: str
    clean: aa.Rate
    static: aa.Rate | None
    adaptive: aa.Rate
    way: str
    warned: tuple[str, ...] = ()

    def line(self, bound: str, data: str) -> dict[str, Any]:
        """As one JSON object."""
        claimed, source = CLAIMS.get(self.defense, (None, ""))
        rates = {"clean": self.clean, "static": self.static, "adaptive": self.adaptive}
        figures = {name: rate and {"accuracy": rate.value, "interval": rate.interval, "count": rate.count} for name, rate in rates.items()}
        about = {"way": self.way, "warned": self.warned, "claimed": claimed, "source": source}
        return {"defense": self.defense, "bound": bound, "data": data, **figures, **about}


def kept(path: Path | None, nets: dict[str, nn.Module], train: Callable[[], object]) -> None:
    """Train these nets, unless they were trained before."""
    files = {name: path / f"{name}.safetensors" for name in nets} if path else {}
    if not files or not all(file.exists() for file in files.values()):
        train()
        for name, file in files.items():
            save_file(nets[name].state_dict(), file)
    for name, file in files.items():
        nets[name].load_state_dict(load_file(file))
    for net in nets.values():
        net.eval().requires_grad_(False)


def trained(data: Images, passes: int, folder: Path | None) -> dict[str, nn.Module]:
    """A plain net, one on thermometer codes, a distilled one and a denoiser."""
    torch.manual_seed(0)
    x, y, _ = data
    nets: dict[str, nn.Module] = {"plain": TinyMnist(), "codes": TinyMnist(LEVELS), "teacher": TinyMnist(), "student": TinyMnist()}
    nets["denoiser"] = Denoiser()
    coded = nn.Sequential(Thermometer(LEVELS), nets["codes"])
    kept(folder, {"plain": nets["plain"]}, lambda: train_at(1.0, nets["plain"], x, y, passes=passes))
    kept(folder, {"codes": nets["codes"]}, lambda: train_at(1.0, coded, x, y, passes=passes))
    both = {name: nets[name] for name in ("teacher", "student")}
    kept(folder, both, lambda: distill(**both, inputs=x, labels=y, temperature=TEMPERATURE, passes=passes))
    kept(folder, {"denoiser": nets["denoiser"]}, lambda: learn_to_denoise(nets["denoiser"], x, Gaussian((0, 0.4)), passes=passes))
    return nets


def detectors(net: nn.Module, data: Images, bound: aa.threat.bounds.Bound) -> dict[str, Any]:
    """The net with detectors that were fitted on PGD's examples of it: a network on inputs, and statistics of a layer."""
    x, y, _ = data
    wild = attacks.pgd(aa.objective(net, aa.Misclassify(y)), bound.around(x), steps=20).adversarial
    kinds = {"detector": Network(), "statistics": Mahalanobis(("6",))}
    return {name: Detected(net, fit(kind, net, x, wild, false_positives=0.05)) for name, kind in kinds.items()}


def rows(nets: dict[str, nn.Module], fitted_on: Images, data: Images, bound: aa.threat.bounds.Bound, steps: int) -> list[Row]:
    """Every defense under both attackers. Who is refused is not fooled."""
    x, y, _ = data
    plain, pgd = nets["plain"], {"pgd": partial(attacks.pgd, steps=steps)}
    look = partial(aa.evaluate, inputs=x, labels=y, threat=bound, all_attacks_see_all=True)
    models: dict[str, Any] = {"nothing": plain, "thermometer": nn.Sequential(Thermometer(LEVELS), nets["codes"])}
    models |= {spec: defend(plain, spec) for spec in ("jpeg:50", "crop:0.85..1", "drop:0.3")}
    models["denoiser"] = defend(plain, Purify(nets["denoiser"]))
    models |= detectors(plain, fitted_on, bound)
    done = []
    for name, model in models.items():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            result = look(model, attacks=pgd, static=plain)
        done.append(
            Row(
                name,
                result.accuracy,
                result.static_accuracy,
                result.robust_accuracy,
                result.trials[-1].attack,
                tuple(str(w.message) for w in said),
            )
        )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        naive = look(nets["student"], attacks=pgd)
        result = aa.evaluate(nets["student"], x, y, bound, "standard")
    warned = tuple(dict.fromkeys(str(w.message) for w in said))
    done.insert(1, Row("distillation", result.accuracy, naive.robust_accuracy, result.robust_accuracy, "standard", warned))
    return done


@click.command()
@click.option("--count", default=500, show_default=True, help="test images")
@click.option("--bound", default="linf:0.3", show_default=True, help="what may be changed")
@click.option("--steps", default=100, show_default=True, help="of PGD")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files; without it, scikit-learn's digits")
@click.option("--out", type=Path, help="folder for the nets, table.jsonl and fallen.png")
@click.option("--quick", is_flag=True, help="40 images, small training sets")
def main(count: int, bound: str, steps: int, data: Path, out: Path | None, quick: bool) -> None:
    """Print the table; write it, and the picture."""
    torch.set_num_threads(1)  # the same nets on every machine
    count, steps, looked_at, size = (min(count, 40), min(steps, 10), 8000, 4000) if quick else (count, steps, 80000, 20000)
    learn = mnist(data, "train").first(size) if data.is_dir() else blown_up_digits()
    passes = -(-looked_at // len(learn.images))  # few digits are gone through more often
    test, name = images(data, count)
    folder = out / f"nets-{name.split()[0].lower()}-{len(learn.images)}x{passes}" if out else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    found = rows(trained(learn, passes, folder), learn.first(FITTED_ON // 4 if quick else FITTED_ON), test, aa.parse_bound(bound), steps)
    print(f"{name}, {bound}, {len(test.images)} images: accuracy in per cent, with 95 % intervals\n")
    print(f"{'defense':15}{'clean':>7}{'claimed':>9}   {'static':38}{'adaptive':38}attack")
    for row in found:
        claimed = CLAIMS.get(row.defense, (None, ""))[0]
        static = "" if row.static is None else str(row.static)
        print(f"{row.defense:15}{100 * row.clean.value:7.1f}{claimed or '-':>9}   {static:38}{row.adaptive!s:38}{row.way}")
    print("\n" + "\n".join(f"{name}: {source}" for name, (_, source) in CLAIMS.items()))
    for row in found:
        print(*(f"\n{row.defense}: {sentence}" for sentence in row.warned), end="\n" if row.warned else "")
    if out:
        write_lines(out / "table.jsonl", (row.line(bound, name) for row in found))
        draw(found, f"{name}, {bound}", out / "fallen.png")
        print(f"Look: {out / 'fallen.png'}")


def draw(found: list[Row], title: str, path: Path) -> None:
    """Claimed, static and adaptive accuracy of each defense, with 95 % intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 0.5 * len(found) + 1.2), layout="constrained")
    panel = figure.subplots()
    for place, row in enumerate(reversed(found)):
        claimed = CLAIMS.get(row.defense, (None, ""))[0]
        panel.plot(100 * row.clean.value, place, "|", color="0.3", markersize=14, label="no attack")
        if claimed is not None:
            panel.plot(claimed, place, "D", color="0.6", markerfacecolor="none", label="claimed (elsewhere)")
        for rate, shift, colour, kind, label in ((row.static, 0.15, "C0", "s", "static"), (row.adaptive, -0.15, "C3", "o", "adaptive")):
            if rate is not None:
                low, high = (100 * end for end in rate.interval)
                panel.plot([low, high], [place + shift] * 2, color=colour, linewidth=1.5)
                panel.plot(100 * rate.value, place + shift, kind, color=colour, label=label)
    panel.set_yticks(range(len(found)), [row.defense for row in reversed(found)])
    panel.set_xlim(-3, 103)
    panel.set_xlabel(f"accuracy under attack, % ({title})")
    handles = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

"""Who leaves the fewest standing: robust accuracy after exactly so many gradients, counted from outside; and smallest norms.

    python recipes/attack_strength.py                      # 500 MNIST images, 20 and 100 gradients, five seeds
    python recipes/attack_strength.py --quick              # 50 images, 20 gradients, one seed
    PEERS=1 python recipes/attack_strength.py              # foolbox, torchattacks, adv_lib and AutoAttack too, those that are installed

The bundled adversarially trained net. Every attack is handed images and labels, and the images that come back are judged here:
within the ball and box (up to 1e-5), and misclassified or not. Gradients are counted by a hook on the net.
"""

import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from image_robust_accuracy import DATA, images
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.threat.labels import cross_entropy, dlr, margin

CONFIDENCES = {"cross-entropy": cross_entropy, "margin": margin, "dlr": dlr}
RADII = {"linf": 0.3, "l2": 2.0, "l1": 10.0}
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}
Maker = Callable[[Tensor, Tensor], Tensor]


def ours(net: nn.Module, norm: str, steps: int, seed: int) -> dict[str, Maker]:
    """Our attacks at exactly this many gradients."""
    bound = aa.parse_bound(f"{norm}:{RADII[norm]}")

    def run(attack: Callable[..., Any], confidence: Any, x: Tensor, y: Tensor) -> Tensor:
        wanted = aa.objective(net, aa.Misclassify(y, confidence))
        return attack(wanted, bound.around(x), steps=steps, seed=seed).adversarial

    makers: dict[str, Maker] = {"audioadv fmn": partial(run, attacks.fmn, margin)}
    for name, confidence in CONFIDENCES.items():
        makers[f"audioadv apgd {name}"] = partial(run, attacks.apgd_l1 if norm == "l1" else attacks.apgd, confidence)
        makers[f"audioadv pgd {name}"] = partial(run, partial(attacks.pgd, step_size=max(2.5 / steps, 0.03)), confidence)
    return makers


def peers(net: nn.Module, norm: str, steps: int, seed: int) -> dict[str, Maker]:
    """The peers' attacks, where they are asked for; says which are not installed."""
    if not os.environ.get("PEERS"):
        return {}
    found: dict[str, Maker] = {}
    for name, theirs in {"foolbox": foolbox, "torchattacks": torchattacks, "adv_lib": adv_lib, "autoattack": autoattack}.items():
        try:
            found |= theirs(net, norm, steps, seed)
        except ImportError as missing:
            click.echo(f"{name} is left out: {missing.name} is not installed", err=True)
    return found


def step_size(norm: str, steps: int) -> float:
    """What a peer's PGD gets: 2.5 radii over all steps, 3 % of the radius at least."""
    return max(2.5 / steps, 0.03) * RADII[norm]


def foolbox(net: nn.Module, norm: str, steps: int, seed: int) -> dict[str, Maker]:
    import foolbox as fb

    kinds = {"linf": fb.attacks.LinfPGD, "l2": fb.attacks.L2PGD, "l1": fb.attacks.SparseL1DescentAttack}

    def run(x: Tensor, y: Tensor) -> Tensor:
        torch.manual_seed(seed)
        model = fb.PyTorchModel(net, bounds=(0, 1), device="cpu")
        attack = kinds[norm](steps=steps, abs_stepsize=step_size(norm, steps))
        return attack.run(model, x, fb.criteria.Misclassification(y), epsilon=RADII[norm])

    return {"foolbox pgd": run}


def torchattacks(net: nn.Module, norm: str, steps: int, seed: int) -> dict[str, Maker]:
    import torchattacks as ta

    if norm == "l1":
        return {}

    def pgd(x: Tensor, y: Tensor) -> Tensor:
        torch.manual_seed(seed)
        way = ta.PGD if norm == "linf" else ta.PGDL2
        return way(net, eps=RADII[norm], alpha=step_size(norm, steps), steps=steps)(x, y)

    def apgd(kind: str, x: Tensor, y: Tensor) -> Tensor:
        return ta.APGD(net, norm=norm.replace("l", "L", 1), eps=RADII[norm], steps=steps, loss=kind, seed=seed)(x, y)

    return {"torchattacks pgd": pgd, **{f"torchattacks apgd {kind}": partial(apgd, kind) for kind in ("ce", "dlr")}}


def adv_lib(net: nn.Module, norm: str, steps: int, seed: int) -> dict[str, Maker]:
    from adv_lib.attacks import apgd

    def run(x: Tensor, y: Tensor) -> Tensor:
        torch.manual_seed(seed)
        return apgd(net, x, y, eps=RADII[norm], norm=ORDERS[norm], n_iter=steps)

    return {"adv_lib apgd": run}


def autoattack(net: nn.Module, norm: str, steps: int, seed: int) -> dict[str, Maker]:
    from autoattack.autopgd_base import APGDAttack

    def run(x: Tensor, y: Tensor) -> Tensor:
        starts = 3 if norm == "l1" else 1  # each stage takes a gradient more than it has steps
        attack = APGDAttack(net, n_iter=steps - starts, norm=norm.replace("l", "L", 1), eps=RADII[norm], seed=seed, device="cpu")
        if norm == "l1":
            attack.use_largereps = True
        return attack.perturb(x, y)

    return {"autoattack apgd-ce": run}


@click.command()
@click.option("--count", default=500, show_default=True)
@click.option("--gradients", multiple=True, default=(20, 100), show_default=True, type=int)
@click.option("--seeds", default=5, show_default=True)
@click.option("--norm", "norms", multiple=True, default=tuple(RADII), show_default=True)
@click.option("--data", type=Path, default=DATA, show_default=True)
@click.option("--quick", is_flag=True, help="50 images, 20 gradients, one seed")
def main(count: int, gradients: tuple[int, ...], seeds: int, norms: tuple[str, ...], data: Path, quick: bool) -> None:
    """Print robust accuracy, mean and range over seeds, and the most gradients that an example got."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    count, gradients, seeds = (min(count, 50), (20,), 1) if quick else (count, gradients, seeds)
    (x, y, _), name = images(data, count)
    net = aa.load_classifier("mnist-robust").net
    passes: list[int] = []
    net.register_full_backward_hook(lambda module, inputs, outputs: passes.append(len(outputs[0])))
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    print(f"{name}, {count} images, {len(x)} of them read rightly")
    for norm in norms:
        for steps in gradients:
            results: dict[str, list[tuple[float, float, int]]] = {}
            for seed in range(seeds):
                for who, make in {**ours(net, norm, steps, seed), **peers(net, norm, steps, seed)}.items():
                    passes.clear()
                    adversarial = make(x, y).detach()
                    calls, most = sum(passes) / len(x), len(passes)
                    size = (adversarial - x).flatten(1).norm(p=ORDERS[norm], dim=1)
                    valid = (size <= RADII[norm] + 1e-5) & (adversarial.flatten(1).amin(1) >= 0) & (adversarial.flatten(1).amax(1) <= 1)
                    with torch.no_grad():
                        fooled = valid & (net(adversarial).argmax(1) != y)
                    results.setdefault(who, []).append((float((~fooled).sum()) / count, calls, most))
            for who, rows in sorted(results.items(), key=lambda item: statistics.mean(rate for rate, *_ in item[1])):
                rates, means, most = ([row[i] for row in rows] for i in range(3))
                spread = f"{100 * statistics.mean(rates):6.2f} % ({100 * min(rates):.1f} .. {100 * max(rates):.1f})"
                cost = f"gradients an example: {max(most)} at most, {statistics.mean(means):.1f} on average"
                print(f"{norm} {RADII[norm]:g}  {steps:5} gradients  {who:28} {spread}  {cost}")


if __name__ == "__main__":
    main()

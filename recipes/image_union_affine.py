"""Either, or some of both: the affine adversary against the worst member of a union, on a net that was trained on the union.

    python recipes/image_union_affine.py --out runs/affine       # trains for 400 batches, attacks 300 MNIST images
    python recipes/image_union_affine.py --quick                 # 20 batches, 30 images: what it does, not what it shows

The bundled adversarially trained net is trained further on the worse of two adversaries for each image: Linf 0.3, and a turn by
up to 30 degrees with a shift by up to 3 pixels. Then it is attacked by each member and by mixes of both: beta of the one, then
1 - beta of the other. All attacks are PGD with the same steps and restarts. The question is whether robustness to both ends
means robustness between them; after some 100 batches of training, no single mix beat the worst member (yet).
Without MNIST's files, scikit-learn's digits stand in.

Source: Tramer and Boneh 2019, "Adversarial training and robustness for multiple perturbations", 4.3 and figure 4.
"""

import json
from functools import partial
from pathlib import Path

import click
import torch
from image_robust_accuracy import DATA, images
from torch import Tensor, nn
from torch.nn import functional as F

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.draws import random_start
from audioadv.attacks.objective import at_rest
from audioadv.evaluation.images import mnist
from audioadv.threat.bounds import Bound

NOISE, TURN = aa.Linf(0.3), aa.Spatial(30, 3)
BETAS = (0.25, 0.5, 0.75)


def last_iterate(net: nn.Module, x: Tensor, y: Tensor, bound: Bound, steps: int, seed: int) -> Tensor:
    """Where PGD ends, whether it fools the net or not: what adversarial training learns from."""
    region, wanted = bound.around(x), aa.objective(net, aa.Misclassify(y)).begun(x)
    delta = random_start(region, seed)
    with at_rest(net):
        for _ in range(steps):
            slope = region.pull(delta, wanted.look(region.inputs(delta)).slope)
            delta = region.descend(delta, slope, 2.5 / steps * region.radius)
    return region.inputs(delta)


def train(net: nn.Module, x: Tensor, y: Tensor, batches: int, steps: int, rate: float) -> None:
    """The 'max' strategy: each image's worse adversary of the two is learnt."""
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, batches)
    rows = torch.Generator().manual_seed(0)
    for number in range(batches):
        chosen = torch.randint(len(x), (128,), generator=rows)
        some, labels = x[chosen], y[chosen]
        both = torch.stack([last_iterate(net, some, labels, bound, steps, number) for bound in (NOISE, TURN)])
        losses = torch.stack([F.cross_entropy(net(each), labels, reduction="none") for each in both])
        optimiser.zero_grad()
        losses.amax(0).mean().backward()
        optimiser.step()
        schedule.step()


@click.command()
@click.option("--count", default=300, show_default=True, help="images attacked")
@click.option("--batches", default=400, show_default=True, help="of training")
@click.option("--steps", default=60, show_default=True, help="of PGD, for each member and mix")
@click.option("--restarts", default=3, show_default=True)
@click.option("--data", type=Path, default=DATA, show_default=True)
@click.option("--out", type=Path, help="folder for table.jsonl and affine.png")
@click.option("--quick", is_flag=True, help="20 batches, 30 images")
def main(count: int, batches: int, steps: int, restarts: int, data: Path, out: Path | None, quick: bool) -> None:
    """Print robust accuracy under each member, their union, each mix, and all of them; write the table and a picture."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    count, batches, steps, restarts = (min(count, 30), min(batches, 20), 10, 1) if quick else (count, batches, steps, restarts)
    test, name = images(data, count)
    learnt = mnist(data, "train") if data.is_dir() else images(data, 10**6)[0]
    net = aa.load_classifier("mnist-robust").net
    assert isinstance(net, nn.Module)
    net.requires_grad_(True)
    train(net, learnt.images, learnt.labels, batches, 5 if quick else 10, 1e-3)
    net.requires_grad_(False)

    bounds: dict[str, Bound] = {"clean": aa.Linf(0), "noise": NOISE, "turn": TURN, "union: worst member": NOISE | TURN}
    bounds |= {f"mix, {beta:g} of noise": beta * NOISE + (1 - beta) * TURN for beta in BETAS}
    pgd, robust, lines = partial(attacks.pgd, steps=steps, step_size=2.5 / steps, restarts=restarts), {}, []
    for what, bound in bounds.items():
        result = aa.evaluate(net, test.images, test.labels, bound, {"pgd": pgd})
        robust[what] = result.robust
        lines.append({"under": what, "bound": str(bound), "data": name, "steps": steps, "restarts": restarts, **result.lines()[-1]})
        print(f"{what:22} {result.robust_accuracy!s:34} {bound}", flush=True)
    mixes = torch.stack([own for what, own in robust.items() if what.startswith("mix")]).all(0)
    rate = aa.Rate(int((mixes & robust["union: worst member"]).sum()), count)
    print(f"{'all of them':22} {rate}")
    if out:
        out.mkdir(parents=True, exist_ok=True)
        lines.append({"under": "all of them", "accuracy": rate.value, "interval": rate.interval, "count": count})
        (out / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        draw(lines, out / "affine.png")
        print(f"Look: {out / 'affine.png'}")


def draw(lines: list[dict[str, object]], path: Path) -> None:
    """Robust accuracy against beta, the share of noise, with 95 % intervals; the union's worst member as a line."""
    from matplotlib.figure import Figure

    found = {line["under"]: line for line in lines}
    path_of = {0.0: "turn", **{beta: f"mix, {beta:g} of noise" for beta in BETAS}, 1.0: "noise"}
    rates = [found[what]["accuracy"] for what in path_of.values()]
    ends = torch.tensor([found[what]["interval"] for what in path_of.values()]).T
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    panel.errorbar(list(path_of), rates, (torch.tensor(rates) - ends[0]).abs().tolist(), fmt="none", color="tab:blue", alpha=0.4)
    panel.plot(list(path_of), rates, "o-", label="beta of noise, then 1 - beta of a turn")
    panel.axhline(float(str(found["union: worst member"]["accuracy"])), color="tab:orange", label="union: worst member")
    panel.set(xlabel="beta", ylabel="robust accuracy (upper bound)", ylim=(0, 1))
    panel.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

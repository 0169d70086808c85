"""Either, or some of both: the affine adversary against the worst member of a union, on a net that was trained on the union.

    python recipes/image_union_affine.py --out runs/affine       # trains 10 passes over 20,000 MNIST images, attacks 200 others
    python recipes/image_union_affine.py --quick                 # a pass over 256 images, 20 attacked: what it does, not what it shows

The bundled adversarially trained net is trained further on the worse of two adversaries for each image: Linf 0.3, and a turn by
up to 30 degrees with a shift by up to 3 pixels. Then two adversaries get the same number of tries, each a PGD from a random
start: one spends half of them on each member; the other spends a fifth on each of five betas, beta of the one and then 1 - beta
of the other, both ends among them. Training goes on where it was killed; what is trained is not trained again.

Why it should matter, and where it cannot. A mix lies in the convex hull of its members, and a linear net is worst at an end: at
every beta its loss is at most beta * (that of the one) + (1 - beta) * (that of the other). A net that asks for a little of both
(a minimum of two scores: one ReLU) falls to the mix alone; tests/test_union.py has both. And a turn is no straight line.
Without MNIST's files, scikit-learn's digits stand in.

Source: Tramer and Boneh 2019, "Adversarial training and robustness for multiple perturbations", 4.3 and figure 4.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import click
import torch
from image_robust_accuracy import DATA, images
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.evaluation.images import mnist
from audioadv.threat.bounds import Bound
from audioadv.training import Labelled, Worst, train

NOISE, TURN = aa.Linf(0.3), aa.Spatial(30, 3)
MIXES: dict[float, Bound] = {0.0: TURN, **{beta: beta * NOISE + (1 - beta) * TURN for beta in (0.25, 0.5, 0.75)}, 1.0: NOISE}


def trained(data: Labelled, passes: int, out: Path) -> nn.Module:
    """The bundled robust net after some passes of the 'max' strategy: each image's worse adversary of the two is learnt."""
    net = aa.load_classifier("mnist-robust").net
    assert isinstance(net, nn.Module)
    net.requires_grad_(True)
    optimiser = partial(torch.optim.Adam, lr=2e-3)
    train(net, data, Worst(NOISE | TURN, steps=5), passes=passes, optimiser=optimiser, out=out, tell=click.echo)
    return net.requires_grad_(False)


@click.command()
@click.option("--count", default=200, show_default=True, help="images attacked, the last of the test set")
@click.option("--learnt", default=20000, show_default=True, help="images of training")
@click.option("--passes", default=10, show_default=True, help="of training")
@click.option("--steps", default=20, show_default=True, help="of PGD")
@click.option("--tries", default=60, show_default=True, help="for each of the two adversaries")
@click.option("--data", type=Path, default=DATA, show_default=True)
@click.option("--out", type=Path, help="folder for the net, table.jsonl and affine.png")
@click.option("--quick", is_flag=True, help="256 images of training, 20 attacked")
def main(count: int, learnt: int, passes: int, steps: int, tries: int, data: Path, out: Path | None, quick: bool) -> None:
    """Print robust accuracy at each beta, under the union and under the affine adversary; write the table and a picture."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    count, learnt, passes, steps, tries = (min(count, 20), 256, 1, 5, 10) if quick else (count, learnt, passes, steps, tries)
    whole, name = images(data, 10**6)
    x, y = whole.images[-count:], whole.labels[-count:]
    some = (mnist(data, "train") if data.is_dir() else whole).first(learnt)
    net = trained(Labelled(some.images, some.labels), passes, (out or Path(tempfile.mkdtemp())) / "net")

    lines: list[dict[str, object]] = []

    def told(what: str, standing: Tensor, own: int) -> None:
        rate = aa.Rate(int(standing.sum()), count)
        lines.append({"under": what, "accuracy": rate.value, "interval": rate.interval, "count": count, "tries": own, "data": name})
        print(f"{what:28} {own:3} tries  {rate}", flush=True)

    def standing(bound: Bound, own: int) -> Tensor:
        pgd = partial(attacks.pgd, steps=steps, step_size=2.5 / steps, restarts=own)
        return aa.evaluate(net, x, y, bound, {"pgd": pgd}).robust

    told("clean", net(x).argmax(1) == y, 0)
    each = {beta: standing(bound, tries // len(MIXES)) for beta, bound in MIXES.items()}
    for beta, own in each.items():
        told(f"beta {beta:g}", own, tries // len(MIXES))
    union, affine = standing(TURN, tries // 2) & standing(NOISE, tries // 2), torch.stack(list(each.values())).all(0)
    told("union: worst member", union, tries)
    told("affine: worst beta", affine, tries)
    print(f"fall to the affine adversary alone: {int((union & ~affine).sum())}; to the union alone: {int((affine & ~union).sum())}")
    if out:
        (out / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        draw(lines, out / "affine.png")
        print(f"Look: {out / 'affine.png'}")


def draw(lines: list[dict[str, object]], path: Path) -> None:
    """Robust accuracy against beta, the share of noise, with 95 % intervals; both adversaries as lines."""
    from matplotlib.figure import Figure

    found = {str(line["under"]): line for line in lines}
    rates = torch.tensor([found[f"beta {beta:g}"]["accuracy"] for beta in MIXES])
    ends = torch.tensor([found[f"beta {beta:g}"]["interval"] for beta in MIXES]).T
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    panel = figure.subplots()
    panel.errorbar(list(MIXES), rates.tolist(), (rates - ends).abs().tolist(), fmt="o-", label="beta of noise, then 1 - beta of a turn")
    for what, colour in (("union: worst member", "tab:orange"), ("affine: worst beta", "tab:red")):
        panel.axhline(float(str(found[what]["accuracy"])), color=colour, label=what)
    panel.set(xlabel="beta", ylabel="robust accuracy (upper bound)", ylim=(0, 1))
    panel.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

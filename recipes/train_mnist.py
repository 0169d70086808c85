"""Train the bundled MNIST nets: a natural one, and one by adversarial training.

    python recipes/train_mnist.py --out natural.safetensors
    python recipes/train_mnist.py --radius 0.3 --passes 20 --out robust.safetensors      # 25 minutes on one core
    python recipes/train_mnist.py --quick --out somewhere.safetensors                    # digits of 8 x 8, blown up: a smoke test

Adversarial training: each batch is replaced by what PGD makes of it (Madry et al. 2018), from a random start, and the radius
grows over the first passes, since a net of this size learns nothing from radius 0.3 at once. A checkpoint beside the output is
written after each pass; training goes on from there.
"""

import time
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.attacks.objective import at_rest, objective
from audioadv.evaluation.images import Images, digits, mnist
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.threat.bounds import Linf
from audioadv.threat.labels import Misclassify

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"


def blown_up_digits() -> Images:
    """Scikit-learn's digits in MNIST's shape."""
    data = digits()
    return data._replace(images=F.interpolate(data.images, 28, mode="bilinear"))


def worst_nearby(net: nn.Module, images: Tensor, labels: Tensor, radius: float, steps: int, generator: torch.Generator) -> Tensor:
    """The last iterate of PGD, whether it fools the net or not: what adversarial training learns from."""
    region, wanted = Linf(radius).around(images), objective(net, Misclassify(labels)).begun(images)
    delta = region.project((2 * torch.rand(images.shape, generator=generator) - 1) * radius)
    with at_rest(net):
        for _ in range(steps):
            slope = wanted.look(region.inputs(delta)).slope
            delta = region.project(delta - 2.5 * radius / steps * region.steepest(slope))
    return region.inputs(delta)


@click.command()
@click.option("--out", type=Path, required=True, help="weights, half precision")
@click.option("--radius", default=0.0, show_default=True, help="Linf; 0 trains naturally")
@click.option("--passes", default=5, show_default=True)
@click.option("--steps", default=7, show_default=True, help="PGD steps a batch")
@click.option("--rate", default=3e-3, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--data", type=Path, default=DATA, show_default=True)
@click.option("--quick", is_flag=True, help="a smoke test on scikit-learn's digits")
def main(out: Path, radius: float, passes: int, steps: int, rate: float, batch: int, seed: int, data: Path, quick: bool) -> None:
    """Write weights, and say after each pass how many test images the net gets right, clean and under PGD-20."""
    images, labels, _ = blown_up_digits() if quick else mnist(data, "train")
    test = blown_up_digits().first(200) if quick else mnist(data, "test").first(1000)
    torch.manual_seed(seed)
    generator, net = torch.Generator().manual_seed(seed), TinyMnist()
    passes, total = (1 if quick else passes), (1 if quick else passes) * -(-len(images) // batch)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=total, pct_start=0.3)
    checkpoint, first, began = out.with_suffix(".pt"), 0, time.perf_counter()
    if checkpoint.exists():
        held = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(held["net"])
        optimiser.load_state_dict(held["optimiser"])
        schedule.load_state_dict(held["schedule"])
        generator.set_state(held["generator"])
        first = held["passes"]
    for number in range(first, passes):
        for rows in torch.randperm(len(images), generator=generator).split(batch):
            x, y = images[rows], labels[rows]
            if radius:
                grown = radius * min(1.0, (schedule.last_epoch + 1) / (0.25 * total))
                x = worst_nearby(net, x, y, grown, steps, generator)
            optimiser.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimiser.step()
            schedule.step()
        states = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        torch.save({**states, "generator": generator.get_state(), "passes": number + 1}, checkpoint)
        with torch.no_grad():
            clean = (net(test.images).argmax(1) == test.labels).float().mean()
        attacked = worst_nearby(net, test.images, test.labels, radius or 0.1, 20, torch.Generator().manual_seed(1))
        with torch.no_grad():
            robust = (net(attacked).argmax(1) == test.labels).float().mean()
        click.echo(
            f"pass {number + 1}: clean {clean:.1%}, PGD-20 at {radius or 0.1:g} {robust:.1%} "
            f"({len(test.labels)} images, {time.perf_counter() - began:.0f} s)"
        )
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, out)
    checkpoint.unlink()


if __name__ == "__main__":
    main()

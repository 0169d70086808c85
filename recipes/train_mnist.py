"""Train the bundled MNIST nets: a natural one, and one by adversarial training.

    python recipes/train_mnist.py --out natural.safetensors
    python recipes/train_mnist.py --radius 0.3 --passes 20 --out robust.safetensors      # 25 minutes on one core
    python recipes/train_mnist.py --quick --out somewhere.safetensors                    # digits of 8 x 8, blown up: a smoke test

Adversarial training: each batch is replaced by what PGD makes of it (Madry et al. 2018), from a random start, and the radius
grows over the first passes, since a net of this size learns nothing from radius 0.3 at once. A killed run goes on from its last
checkpoint, in a folder beside the output. (The bundled weights are older than this loop, whose draws are others.)
"""

import shutil
from functools import partial
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from audioadv.evaluation.images import Images, digits, mnist
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.threat.bounds import Linf
from audioadv.training import Adversarial, Labelled, Method, Natural, Watch, train

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/mnist"


def blown_up_digits() -> Images:
    """Scikit-learn's digits in MNIST's shape."""
    data = digits()
    return data._replace(images=F.interpolate(data.images, 28, mode="bilinear"))


@click.command()
@click.option("--out", type=Path, required=True, help="weights, half precision")
@click.option("--radius", default=0.0, show_default=True, help="Linf; 0 trains naturally")
@click.option("--passes", default=5, show_default=True, help="over the training images")
@click.option("--steps", default=7, show_default=True, help="PGD steps a batch")
@click.option("--rate", default=3e-3, show_default=True, help="of learning, at most")
@click.option("--batch", default=128, show_default=True, help="images a step")
@click.option("--seed", default=0, show_default=True, help="of all draws")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files")
@click.option("--quick", is_flag=True, help="a smoke test on scikit-learn's digits")
def main(out: Path, radius: float, passes: int, steps: int, rate: float, batch: int, seed: int, data: Path, quick: bool) -> None:
    """Write weights, and say after each pass how many test images the net gets right, clean and under PGD-20."""
    images, labels, _ = blown_up_digits() if quick else mnist(data, "train")
    test = blown_up_digits().first(200) if quick else mnist(data, "test").first(1000)
    method: Method = Adversarial(Linf(radius), steps) if radius else Natural()
    torch.manual_seed(seed)
    net, run = TinyMnist(), out.with_suffix(".run")
    train(
        net,
        Labelled(images, labels, batch),
        method,
        passes=1 if quick else passes,
        optimiser=partial(torch.optim.Adam, lr=rate),
        watch=Watch(Linf(radius or 0.1), Labelled(test.images, test.labels).first(1000)),
        out=run,
        seed=seed,
        tell=click.echo,
    )
    save_file({name: value.half().contiguous() for name, value in net.state_dict().items()}, out)
    shutil.rmtree(run)


if __name__ == "__main__":
    main()

"""Train the bundled net for CIFAR-10 (JPEG) against Linf 8/255: fast adversarial training, on one core.

    python recipes/train_cifar10.py --out cifar10-robust.safetensors          # 10 minutes on one core
    python recipes/train_cifar10.py --quick --out somewhere.safetensors       # digits of 8 x 8, blown up: a smoke test

One step of PGD from a random start (Wong, Rice and Kolter 2020, "Fast is better than free"), watched by a guard that goes back to
PGD where that collapses, on pictures that are shifted and mirrored anew each time. A killed run goes on from its last checkpoint.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import final

import click
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from audioadv.evaluation.images import Images, cifar10, digits
from audioadv.models.tiny_cifar import TinyCifar
from audioadv.threat.bounds import Linf
from audioadv.threat.labels import Misclassify
from audioadv.training import Adversarial, Guarded, Labelled, Watch, fast, train
from audioadv.training.batches import Batch

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/cifar10"
BOUND = Linf(8 / 255)


@final
@dataclass(frozen=True, eq=False)
class Moved:
    """Pictures, each shifted by up to `reach` pixels and maybe mirrored, anew each time. Shapes: images uint8 [count, 3, side, side]."""

    images: Tensor
    labels: Tensor
    size: int = 128
    reach: int = 4

    def __str__(self) -> str:
        return f"{len(self.images)} pictures, moved by up to {self.reach}, {self.size} a batch"

    def order(self, generator: torch.Generator) -> Sequence[Tensor]:
        return torch.split(torch.randperm(len(self.images), generator=generator), self.size)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        pictures, side = self.images[rows].float() / 255, self.images.shape[-1]
        down, right = torch.randint(2 * self.reach + 1, (2, len(rows), 1), generator=generator)
        mirrored = torch.rand(len(rows), 1, generator=generator) < 0.5
        place = torch.arange(side)
        across = torch.where(mirrored, side - 1 - place, place) + right
        framed = F.pad(pictures, [self.reach] * 4)
        moved = framed[torch.arange(len(rows))[:, None, None], :, (place + down)[:, :, None], across[:, None, :]]
        return Batch(moved.permute(0, 3, 1, 2).contiguous(), Misclassify(self.labels[rows]))


def blown_up_digits() -> Images:
    """Scikit-learn's digits in CIFAR-10's shape."""
    data = digits().first(400)
    return data._replace(images=F.interpolate(data.images, 32, mode="bilinear").expand(-1, 3, -1, -1))


@click.command()
@click.option("--out", type=Path, required=True, help="weights, half precision")
@click.option("--passes", default=10, show_default=True)
@click.option("--rate", default=0.1, show_default=True)
@click.option("--batch", default=128, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--data", type=Path, default=DATA, show_default=True)
@click.option("--quick", is_flag=True, help="a smoke test on scikit-learn's digits")
def main(out: Path, passes: int, rate: float, batch: int, seed: int, data: Path, quick: bool) -> None:
    """Write weights, and say after each pass how many of 500 test images the net gets right, clean and under PGD-20."""
    torch.set_num_threads(1)
    images, labels, _ = blown_up_digits() if quick else cifar10(data, "train")
    test = blown_up_digits().first(50) if quick else cifar10(data, "test", 500)
    held = Labelled(images[:128], labels[:128]).first(128)
    torch.manual_seed(seed)
    net, run = TinyCifar().to(memory_format=torch.channels_last), out.with_suffix(".run")
    train(
        net,
        Moved((255 * images).round().byte(), labels, batch),
        Guarded(fast(BOUND), Adversarial(BOUND, steps=5), held),
        passes=1 if quick else passes,
        optimiser=partial(torch.optim.SGD, lr=rate, momentum=0.9, weight_decay=2e-4, nesterov=True),
        watch=Watch(BOUND, Labelled(test.images, test.labels).first(500)),
        out=run,
        seed=seed,
        tell=click.echo,
    )
    weights = {name: value.half() if value.is_floating_point() else value for name, value in net.state_dict().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, out, {"passes": str(passes), "seed": str(seed)})
    shutil.rmtree(run)


if __name__ == "__main__":
    main()

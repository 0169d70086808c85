"""`standard` beside AutoAttack's standard version: who leaves how many standing, and for how much of the processor's time.

    python recipes/standard_against_autoattack.py                               # 400 images for each net, 100 at a time
    python recipes/standard_against_autoattack.py --only mnist-robust --first 400
    python recipes/standard_against_autoattack.py --quick                       # 8 images

AutoAttack is not on the package index: without it (github.com/fra31/auto-attack) only our side runs. Both get the same batches,
in turns, on one thread; the images that come back are judged here: within ball and box (up to 1e-6), and misclassified or not.
Time is that of the processor. AutoAttack runs as it is: APGD on cross-entropy, APGD and FAB toward nine rivals each, and 5,000
queries of Square, each on the survivors of the one before.

Measured, 100 images a batch, on one core that was shared:

    mnist-robust, linf:0.3         standard and AutoAttack 89.3 % (268 of 300, 85.3 .. 92.3), the same images; 0.24 of its time
    cifar10-robust, linf:8/255     standard and AutoAttack 26.5 % (53 of 200, 20.9 .. 33.0), the same images; 0.21 of its time

Before Square began where FMN came nearest, AutoAttack's 5,000 queries felled 4 of the first 200 MNIST images more.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from image_robust_accuracy import DATA, images
from torch import Tensor, nn

import audioadv as aa
from audioadv.evaluation.images import Images, cifar10
from audioadv.evaluation.rates import Rate

NETS = {"mnist-robust": 0.3, "cifar10-robust": 8 / 255}
Attack = Callable[[Tensor, Tensor], Tensor]


def ours(net: nn.Module, radius: float) -> Attack:
    """`standard`, as it is."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        return aa.attacks.standard(aa.objective(net, aa.Misclassify(y)), aa.Linf(radius).around(x)).adversarial

    return run


def autoattack(net: nn.Module, radius: float) -> Attack:
    """AutoAttack's standard version, as it is. Raises ImportError."""
    from autoattack import AutoAttack

    def run(x: Tensor, y: Tensor) -> Tensor:
        attack = AutoAttack(net, norm="Linf", eps=radius, version="standard", device="cpu", seed=0, verbose=False)
        found: Tensor = attack.run_standard_evaluation(x, y, bs=len(x))
        return found

    return run


def stand(net: nn.Module, radius: float, attack: Attack, x: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Which of a batch stand, and what it took. Shapes: -> bool [batch], seconds of the processor."""
    began = time.process_time()
    adversarial = attack(x, y).detach()
    took = time.process_time() - began
    inside = ((adversarial - x).flatten(1).abs().amax(1) <= radius + 1e-6) & (adversarial.flatten(1).amin(1) >= 0)
    with torch.no_grad():
        fooled = net(adversarial).argmax(1) != y
    return ~(fooled & inside & (adversarial.flatten(1).amax(1) <= 1)), took


def pictures(model: str, data: Path, count: int) -> tuple[Images, str] | None:
    """The first test images for a net, and what they are; None where they are missing."""
    if model == "mnist-robust":
        return images(data / "mnist", count)
    return (cifar10(data / "cifar10", count=count), "CIFAR-10 (JPEG)") if (data / "cifar10").is_dir() else None


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(NETS)), default=tuple(NETS), show_default=True, help="net; again for more")
@click.option("--first", default=0, show_default=True, help="of the test images that are attacked")
@click.option("--count", default=400, show_default=True, help="how many of them")
@click.option("--batch", default=100, show_default=True, help="images at a time")
@click.option("--data", type=Path, default=DATA.parent, show_default=True, help="folder with mnist/ and cifar10/")
@click.option("--quick", is_flag=True, help="8 images")
def main(only: tuple[str, ...], first: int, count: int, batch: int, data: Path, quick: bool) -> None:
    """Print, after each batch, what stands on each side so far and the ratio of times."""
    torch.set_num_threads(1)
    count = min(count, 8) if quick else count
    for model in only:
        found = pictures(model, data, first + count)
        if found is None:
            click.echo(f"{model} is left out: no pictures for it in {data}", err=True)
            continue
        (x, y, _), name = found
        net, radius = aa.load_classifier(model).net, NETS[model]
        assert isinstance(net, nn.Module)
        sides = {"standard": ours(net, radius)}
        try:
            sides["AutoAttack"] = autoattack(net, radius)
        except ImportError:
            click.echo("AutoAttack is left out: it is not installed", err=True)
        standing, seconds = {side: torch.zeros(0, dtype=torch.bool) for side in sides}, dict.fromkeys(sides, 0.0)
        for rows in torch.arange(first, min(first + count, len(x))).split(batch):
            for side, attack in sides.items():
                left, took = stand(net, radius, attack, x[rows], y[rows])
                standing[side] = torch.cat([standing[side], left])
                seconds[side] += took
            done = len(standing["standard"])
            print(f"{model}, linf:{radius:.4g}, {name} {first} .. {first + done - 1}")
            for side, left in standing.items():
                print(f"  {side:10}  robust {Rate(int(left.sum()), done)}  {seconds[side]:7.1f} s", flush=True)
            if len(sides) == 2:
                told(standing["standard"], standing["AutoAttack"], seconds["standard"] / seconds["AutoAttack"])


def told(ours: Tensor, theirs: Tensor, share: float) -> None:
    """The difference, image by image, with its 95 % interval, and the ratio of times. Shapes: bool [images] twice."""
    apart = 100 * (ours.float() - theirs.float())
    half = 1.96 * float(apart.std()) / math.sqrt(len(apart))
    who = f"{int((ours & ~theirs).sum())} only AutoAttack fells, {int((theirs & ~ours).sum())} only standard"
    print(f"  difference {float(apart.mean()):+.2f} points +- {half:.2f} ({who}); {share:.2f} of AutoAttack's time", flush=True)


if __name__ == "__main__":
    main()

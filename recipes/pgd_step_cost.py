"""What a PGD step costs, over the floor: forward, cross-entropy and input gradient, parameters frozen.

    python recipes/pgd_step_cost.py                  # tiny MLP, MNIST CNN, ResNet18-w32, one-dimensional M5
    python recipes/pgd_step_cost.py --quick          # the first two, 20 steps
    PEERS=1 python recipes/pgd_step_cost.py          # in an environment that has torchattacks and foolbox: theirs too

All examples stay in the batch (`early_stop=False`: the best iterate is kept all along). Attack and floor take turns, so that
both meet the same machine; the figure is the median ratio of an attack to the floors just before and after it, with a bootstrap
interval, in the process's own time: a machine's other work takes none of it. It still takes the caches, which costs a small net's
step, of many short operations, more than the floor's few long ones: on a loaded machine the first net's ratio is likely too high.

An attack brings the C library to keep freed memory (`models/rest.py`), and the floor profits, being measured in the same process.
Without that, pages came and went by the luck of the heap's layout, and cost more than all bookkeeping: 1.26 for the CNN, 1.18 for M5.

Measured on two quiet cores of an AMD EPYC (95 % interval; runs of 40 steps, of 15 for the last two):

                audioadv                   torchattacks 3.5.1         foolbox 3.3.4
tiny MLP        1.456 (1.382 .. 1.718; 15) 1.228 (1.183 .. 1.326; 15) 1.294 (1.231 .. 1.463; 15)
MNIST CNN       1.119 (1.090 .. 1.153; 15) 0.999 (0.956 .. 1.033; 15) 1.072 (1.010 .. 1.120; 15)
ResNet18-w32    1.019 (1.003 .. 1.055; 7)
M5 audio        1.043 (1.031 .. 1.079; 7)

Neither peer keeps the best iterate, nor looks at the last one.
Of the MLP's 0.4, keeping is 0.1, knowing who is at the goal 0.1, the changes themselves 0.1, and the sums that tell what is not
finite 0.05.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import audioadv as aa
from audioadv.models.tiny_mnist import TinyMnist


def mlp() -> nn.Module:
    """784-256-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


class Block(nn.Module):
    """Two convolutions and a short cut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.short(x))


def resnet(width: int = 32) -> nn.Module:
    """ResNet-18 for 32 x 32 images, of half the usual width."""
    widths = [width * 2**stage for stage in (0, 0, 0, 1, 1, 2, 2, 3, 3)]
    blocks = [Block(a, b, 2 if b > a else 1) for a, b in pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), *blocks, *head)


def m5() -> nn.Module:
    """M5 on raw audio (Dai et al. 2017, "Very deep convolutional neural networks for raw waveforms", table 1)."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride in ((1, 32, 80, 16), (32, 32, 3, 1), (32, 64, 3, 1), (64, 64, 3, 1)):
        layers += [nn.Conv1d(inputs, outputs, kernel, stride), nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 10))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[float, float]]] = {
    "tiny MLP": (mlp, (128, 1, 28, 28), (0, 1)),
    "MNIST CNN": (TinyMnist, (128, 1, 28, 28), (0, 1)),
    "ResNet18-w32": (resnet, (32, 3, 32, 32), (0, 1)),
    "M5 audio": (m5, (32, 1, 16000), (-1, 1)),
}


def floor(net: nn.Module, inputs: Tensor, labels: Tensor, steps: int) -> None:
    """So many forwards, losses and input gradients."""
    for _ in range(steps):
        x = inputs.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(net(x), labels, reduction="sum"), x)


def ours(net: nn.Module, inputs: Tensor, labels: Tensor, steps: int, box: tuple[float, float]) -> None:
    """PGD with the best iterate kept, from a region made once."""
    region = aa.Linf(0.03).around(inputs, box=box)
    aa.attacks.pgd(aa.objective(net, aa.Misclassify(labels)), region, steps=steps, early_stop=False)


def timed(run: Callable[[], object]) -> float:
    """Seconds of the process's own time."""
    began = time.process_time()
    run()
    return time.process_time() - began


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    picks = torch.randint(len(values), (2000, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = torch.tensor(values)[picks].quantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def peers(net: nn.Module, inputs: Tensor, labels: Tensor, steps: int, box: tuple[float, float]) -> dict[str, Callable[[], object]]:
    """torchattacks and foolbox, where they are asked for. Ends with a message where one is not installed."""
    if not os.environ.get("PEERS"):
        return {}
    try:
        import foolbox
        import torchattacks
    except ImportError as missing:
        raise click.ClickException(f"PEERS=1, but {missing.name} is not installed: leave PEERS out, or install it") from missing

    theirs = torchattacks.PGD(net, eps=0.03, alpha=0.003, steps=steps)
    model = foolbox.PyTorchModel(net, bounds=box, device="cpu")
    fool = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=0.003)
    return {
        "torchattacks": lambda: theirs(inputs, labels),
        "foolbox": lambda: fool.run(model, inputs, foolbox.criteria.Misclassification(labels), epsilon=0.03),
    }


@click.command()
@click.option("--steps", default=40, show_default=True)
@click.option("--repeats", default=7, show_default=True)
@click.option("--only", multiple=True, help="some of the nets")
@click.option("--quick", is_flag=True, help="the first two nets, 20 steps, three times")
def main(steps: int, repeats: int, only: tuple[str, ...], quick: bool) -> None:
    """Print the median ratio of attack to floor, and its interval."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    steps, repeats = (20, 3) if quick else (steps, repeats)
    for name in only or list(CASES)[: 2 if quick else None]:
        build, shape, box = CASES[name]
        torch.manual_seed(0)
        net = build().eval().requires_grad_(False)
        inputs = box[0] + (box[1] - box[0]) * torch.rand(shape, generator=torch.Generator().manual_seed(1))
        labels = net(inputs).argmax(1)
        runs = {"audioadv": partial(ours, net, inputs, labels, steps, box), **peers(net, inputs, labels, steps, box)}
        ratios: dict[str, list[float]] = {who: [] for who in runs}
        ground = partial(floor, net, inputs, labels, steps)
        before = [timed(run) for run in (*runs.values(), ground)][-1]  # and all have warmed up
        for _ in range(repeats):
            for who, run in runs.items():
                spent, after = timed(run), timed(ground)
                ratios[who].append(2 * spent / (before + after))
                before = after
        for who, values in ratios.items():
            low, high = interval(values)
            print(f"{name:14} {who:14} {statistics.median(values):.3f}  (95 %: {low:.3f} .. {high:.3f}; {repeats} x {steps} steps)")


if __name__ == "__main__":
    main()

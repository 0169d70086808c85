"""What a PGD step costs, over the floor: forward, cross-entropy and input gradient, parameters frozen.

    python recipes/pgd_step_cost.py                  # tiny MLP, MNIST CNN, ResNet18-w32, one-dimensional M5
    python recipes/pgd_step_cost.py --quick          # the first two, 20 steps
    PEERS=1 python recipes/pgd_step_cost.py          # in an environment that has torchattacks and foolbox: theirs too

All examples stay in the batch (`early_stop=False`: the best iterate is kept all along). Attack and floor take turns step by step:
the net that is attacked first does a floor step of its own at every forward, outside the attack's clock. So both meet the same
machine, and caches that the other has filled; what an attack spends before its first forward and after its last is not a step's.
The figure is the ratio of medians over a run's steps, and of many runs the median, with a bootstrap interval.

An attack brings the C library to keep freed memory (`models/rest.py`), and the floor profits, being measured in the same process.
Without that, pages came and went by the luck of the heap's layout, and cost more than all bookkeeping: 1.26 for the CNN, 1.18 for M5.

Measured on two quiet cores of an AMD EPYC (95 % interval over 15 runs of 40 steps; of the last two nets, 9 of 12), PEERS=1:

                          audioadv                torchattacks 3.5.1      foolbox 3.3.4
tiny MLP       1 thread   1.116 (1.112 .. 1.119)  1.068 (1.065 .. 1.073)  1.118 (1.113 .. 1.121)
               2 threads  1.205 (1.190 .. 1.210)  1.088 (1.082 .. 1.092)  1.156 (1.154 .. 1.158)
MNIST CNN      1 thread   1.039 (1.036 .. 1.042)  1.013 (1.012 .. 1.016)  1.029 (1.025 .. 1.031)
               2 threads  1.092 (1.085 .. 1.097)  1.027 (1.025 .. 1.030)  1.067 (1.059 .. 1.068)
ResNet18-w32   2 threads  1.009 (1.005 .. 1.022)  0.997 (0.994 .. 1.005)  1.009 (1.002 .. 1.016)
M5 audio       2 threads  1.037 (1.019 .. 1.053)  1.019 (1.017 .. 1.033)  1.048 (1.034 .. 1.061)

Neither peer keeps the best iterate, nor looks at the last one.

The table is from before a step took a pass less and fewer small operations. Since then, on quiet cores (15 runs of 40 steps), with 2
threads: the MLP 1.175 (1.158 .. 1.181), the CNN 1.086 (1.076 .. 1.089), ResNet18-w32 1.009 (1.006 .. 1.013), M5 1.034 (1.031 .. 1.045);
with 1 thread the MLP 1.113 (1.105 .. 1.118), the CNN 1.059 (1.051 .. 1.067).

The ratio is the processor's too. Two quiet cores of an Intel Xeon with AMX, 2 threads, PEERS=1 (M5 without):

tiny MLP       1.424 (1.400 .. 1.485)  1.228 (1.190 .. 1.252)  1.360 (1.354 .. 1.373)
MNIST CNN      1.134 (1.128 .. 1.145)  1.047 (1.043 .. 1.051)  1.103 (1.094 .. 1.120)
M5 audio       1.085 (1.064 .. 1.104)

and, since norms say what they can instead of being asked by name, the MLP 1.342 (1.339 .. 1.356), the CNN 1.079 (1.073 .. 1.087), M5 1.043
(1.030 .. 1.063). On a slower AMD EPYC (15 runs): 1.409 (1.375 .. 1.452), 1.119 (1.092 .. 1.125), ResNet18-w32 0.999 (0.987 .. 1.009), M5
1.040 (1.032 .. 1.045). There a step of the MLP was timed part by part (medians of 600 steps, with the clock's own cost): beside a floor of
1.9 ms, descent and projection 191 us, the sum with the clean inputs 62, the best iterate 75, the step's end 22; forward, loss and backward
take some 330 more than the floor's. The same four passes over all inputs take 50 us together where all lies in the processor's cache. Of
small operations a step has six more than the floor: three for the goal, two for who stands, one for what is finite.
"""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import click
import torch
from resnet import resnet
from torch import Tensor, nn
from torch.nn import functional as F

import audioadv as aa
from audioadv.models.tiny_mnist import TinyMnist


def mlp() -> nn.Module:
    """784-256-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


def m5() -> nn.Module:
    """M5 on raw audio (Dai et al. 2017, "Very deep convolutional neural networks for raw waveforms")."""
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


def floor(net: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Forward, loss and input gradient."""
    x = inputs.clone().requires_grad_()
    torch.autograd.grad(F.cross_entropy(net(x), labels, reduction="sum"), x)


def ours(net: nn.Module, inputs: Tensor, labels: Tensor, steps: int, box: tuple[float, float]) -> None:
    """PGD with the best iterate kept, from a region made once."""
    region = aa.Linf(0.03).around(inputs, box=box)
    aa.attacks.pgd(aa.objective(net, aa.Misclassify(labels)), region, steps=steps, early_stop=False)


class Turns(nn.Module):
    """The net, that does a floor step of its own before each forward. `steps` and `floors` are seconds: the attacker's, from one
    forward to the next, and its own in between."""

    def __init__(self, net: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.net, self.inputs, self.labels = net, inputs, labels
        self.left = 0.0
        self.steps: list[float] = []
        self.floors: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        entered = time.perf_counter()
        with torch.enable_grad():
            floor(self.net, self.inputs, self.labels)
        if self.left:
            self.steps.append(entered - self.left)
            self.floors.append(time.perf_counter() - entered)
        self.left = time.perf_counter()
        outputs: Tensor = self.net(x)
        return outputs

    def ratio(self, run: Callable[[], object]) -> float:
        """A step of this attack on this net, over the floor."""
        self.left, self.steps, self.floors = 0.0, [], []
        run()
        return statistics.median(self.steps) / statistics.median(self.floors)


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
@click.option("--steps", default=40, show_default=True, help="of a run")
@click.option("--repeats", default=15, show_default=True, help="runs of each, taking turns")
@click.option("--threads", default=2, show_default=True, help="of torch")
@click.option("--only", multiple=True, help="some of the nets")
@click.option("--quick", is_flag=True, help="the first two nets, 20 steps, three times")
def main(steps: int, repeats: int, threads: int, only: tuple[str, ...], quick: bool) -> None:
    """Print the median ratio of attack to floor, and its interval."""
    torch.set_num_threads(threads)
    steps, repeats = (20, 3) if quick else (steps, repeats)
    for name in only or list(CASES)[: 2 if quick else None]:
        build, shape, box = CASES[name]
        torch.manual_seed(0)
        net = build().eval().requires_grad_(False)
        inputs = box[0] + (box[1] - box[0]) * torch.rand(shape, generator=torch.Generator().manual_seed(1))
        labels = net(inputs).argmax(1)
        turns = Turns(net, inputs, labels).eval()
        runs = {"audioadv": partial(ours, turns, inputs, labels, steps, box), **peers(turns, inputs, labels, steps, box)}
        for run in runs.values():
            run()  # warms up
        ratios: dict[str, list[float]] = {who: [] for who in runs}
        for _ in range(repeats):
            for who, run in runs.items():
                ratios[who].append(turns.ratio(run))
        for who, values in ratios.items():
            low, high = interval(values)
            print(f"{name:14} {who:14} {statistics.median(values):.3f}  (95 %: {low:.3f} .. {high:.3f}; {repeats} x {steps} steps)")


if __name__ == "__main__":
    main()

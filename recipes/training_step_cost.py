"""What a batch of training costs, over the floor: as many passes as its method needs, and nothing else.

    python recipes/training_step_cost.py            # tiny-mnist, 128 images a batch, one thread
    python recipes/training_step_cost.py --quick    # three repeats

A pass of attack is a forward and a backward to the inputs, with the parameters frozen; a pass of learning one to the weights, and a
step of Adam. Method and floor take turns, so that both meet the same machine; the figure is the median ratio of neighbours.
"""

import statistics
import time

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import audioadv as aa
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.training import MSD, Adversarial, Free, Labelled, Method, Moment, Trades, Yopo, fast

BOUND = aa.Linf(0.3)
METHODS: dict[str, tuple[Method, int, int]] = {  # passes of attack, passes of learning
    "PGD-20": (Adversarial(BOUND, 20), 20, 1),
    "fast": (fast(BOUND), 1, 1),
    "free, 8 replays": (Free(BOUND, 8), 0, 8),
    "TRADES-20": (Trades(BOUND, steps=20), 20, 2),
    "YOPO-5-3": (Yopo(BOUND), 0, 5),
    "PGD-20 in L1": (Adversarial(aa.L1(10), 20), 20, 1),
    "MSD-10": (MSD(BOUND | aa.L2(2) | aa.L1(10), 10), 10, 1),
}


def floor(net: nn.Module, optimiser: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, attack: int, learn: int) -> None:
    """So many passes of each kind."""
    net.requires_grad_(False)
    for _ in range(attack):
        x = inputs.clone().requires_grad_()
        torch.autograd.grad(F.cross_entropy(net(x), labels), x)
    net.requires_grad_(True)
    for _ in range(learn):
        optimiser.zero_grad()
        F.cross_entropy(net(inputs), labels).backward()
        optimiser.step()


def batch(net: nn.Module, optimiser: torch.optim.Optimizer, inputs: Tensor, labels: Tensor, method: Method) -> None:
    """What the loop does with one batch."""
    for _ in method.gradients(net, Labelled(inputs, labels).first(len(labels)), Moment()):
        optimiser.step()
        optimiser.zero_grad()


@click.command()
@click.option("--repeats", default=15, show_default=True, help="batches of each method, taking turns")
@click.option("--quick", is_flag=True, help="three repeats")
def main(repeats: int, quick: bool) -> None:
    """Print each method's median ratio to its floor, and its time in passes of learning."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = TinyMnist()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.0)
    inputs, labels = torch.rand(128, 1, 28, 28), torch.randint(10, (128,))
    for name, (method, attack, learn) in METHODS.items():
        ratios, costs = [], []
        for repeat in range((3 if quick else repeats) + 1):
            began = time.process_time()
            floor(net, optimiser, inputs, labels, attack, learn)
            middle = time.process_time()
            batch(net, optimiser, inputs, labels, method)
            ended = time.process_time()
            if repeat:  # the first is to warm up
                ratios.append((ended - middle) / (middle - began))
                costs.append(1000 * (ended - middle))
        low, high = min(ratios), max(ratios)
        print(
            f"{name:16} {statistics.median(ratios):.3f} of its floor ({low:.3f} .. {high:.3f}), {statistics.median(costs):.1f} ms a batch"
        )


if __name__ == "__main__":
    main()

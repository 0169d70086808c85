"""What a PGD step costs on a GPU, as it is and replayed as a graph, over an eager forward, cross-entropy and input gradient.

    python recipes/graph_step_cost.py                # needs CUDA: tiny MLP, MNIST CNN, ResNet18-w32, one-dimensional M5

Seconds are of the wall, over whole runs that end when the GPU is done; what is done once (a region, an answer, a recording) is
not a step's: of a run of `--steps` steps, that of a tenth as many is taken off. The runs take turns, and the figure is the ratio of
medians over `--repeats` of them, with the quartiles.

H200, `--steps 200 --repeats 5`, beside processes that kept other cores busy:

    net             floor, us   step, us  graph, us   step                     graph
    tiny MLP              313        937        100   2.991 (2.570 .. 3.134)   0.320 (0.295 .. 0.347)
    MNIST CNN            1004       1678        157   1.670 (1.665 .. 1.678)   0.156 (0.154 .. 0.157)
    ResNet18-w32         4331       4126       1802   0.953 (1.002 .. 1.242)   0.416 (0.410 .. 0.478)
    M5 audio             1585       2155        266   1.360 (1.359 .. 1.657)   0.168 (0.159 .. 0.181)
"""

import statistics
import time
from collections.abc import Callable

import click
import torch
from pgd_step_cost import CASES, floor

import audioadv as aa


def seconds(run: Callable[[int], object], steps: int) -> float:
    """Of one step."""
    took = []
    for count in (steps // 10, steps):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run(count)
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return (took[1] - took[0]) / (steps - steps // 10)


@click.command()
@click.option("--steps", default=400, show_default=True, help="of a run")
@click.option("--repeats", default=9, show_default=True, help="runs of each, taking turns")
@click.option("--only", multiple=True, help="some of the nets")
def main(steps: int, repeats: int, only: tuple[str, ...]) -> None:
    """Print microseconds a step, and ratios."""
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA here: a graph is a GPU's")
    print(f"{torch.cuda.get_device_name()}, {repeats} runs of {steps} steps; ratios over the eager floor, with quartiles")
    print(f"{'net':14} {'floor, us':>10} {'step, us':>10} {'graph, us':>10}   step                     graph")
    for name in only or CASES:
        build, shape, box = CASES[name]
        torch.manual_seed(0)
        net = build().eval().requires_grad_(False).cuda()
        inputs = (box[0] + (box[1] - box[0]) * torch.rand(shape, generator=torch.Generator().manual_seed(1))).cuda()
        labels = net(inputs).argmax(1)
        region, wanted = aa.Linf(0.03).around(inputs, box=box), aa.objective(net, aa.Misclassify(labels))

        def bare(count: int, net=net, inputs=inputs, labels=labels) -> None:  # type: ignore[no-untyped-def]
            with aa.attacks.objective.at_rest(net):
                for _ in range(count):
                    floor(net, inputs, labels)

        def attack(graph: bool, wanted=wanted, region=region) -> Callable[[int], object]:  # type: ignore[no-untyped-def]
            return lambda count: aa.attacks.pgd(wanted, region, steps=count, early_stop=False, graph=graph)

        runs = {"floor": bare, "step": attack(False), "graph": attack(True)}
        taken: dict[str, list[float]] = {who: [] for who in runs}
        for number in range(repeats + 1):
            for who, run in runs.items():
                took = seconds(run, steps)
                if number:  # the first warms up
                    taken[who].append(took)
        middle = {who: statistics.median(values) for who, values in taken.items()}
        ratios = {who: sorted(a / b for a, b in zip(taken[who], taken["floor"], strict=True)) for who in ("step", "graph")}
        told = "   ".join(
            f"{middle[who] / middle['floor']:.3f} ({values[len(values) // 4]:.3f} .. {values[-1 - len(values) // 4]:.3f})"
            for who, values in ratios.items()
        )
        print(f"{name:14} " + " ".join(f"{1e6 * middle[who]:10.0f}" for who in runs) + f"   {told}", flush=True)


if __name__ == "__main__":
    main()

"""The first attack on images: how many digits a net still reads after a change of a tenth of full scale.

python recipes/image_first_attack.py            # a linear net on scikit-learn's digits, trained on the spot; seconds
"""

import click
import torch
from torch import nn
from torch.nn import functional as F

import audioadv as aa
from audioadv.evaluation.images import digits


@click.command()
@click.option("--radius", default=0.1, show_default=True, help="Linf, full scale = 1")
@click.option("--quick", is_flag=True, help="it is quick anyway")
def main(radius: float, quick: bool) -> None:
    """Train, attack, print."""
    images, labels, _ = digits()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(100):  # on the first 1,500; the last 297 are for the test
        optimiser.zero_grad()
        F.cross_entropy(net(images[:1500]), labels[:1500]).backward()
        optimiser.step()

    images, labels = images[1500:], labels[1500:]
    region = aa.Linf(radius).around(images)
    result = aa.attacks.pgd(aa.objective(net, aa.Misclassify(labels)), region, steps=40, seed=0)
    print(f"PGD-40: {sum(result.reached)} of {len(labels)} examples fall; the first one's largest change is {result.gauge[0]:.3f}")
    print(aa.evaluate(net, images, labels, aa.Linf(radius), ["fgsm", "pgd", "standard"]))


if __name__ == "__main__":
    main()

"""Theorems about robustness on a distribution where everything can be worked out, each measured by the attacks and held against it.

    python recipes/toy_theorems.py                   # 20,000 points
    python recipes/toy_theorems.py --quick           # 2,000 points

    label y = +-1;    x_0 = y in p of the cases, else -y;    x_1 ... x_d ~ Normal(eta y, 1)

x_0 is a robust feature, right in p; each of the others is hardly better than a coin, and their sum almost always right: until
a change of 2 eta to each turns all of them. For the linear classifier sign(a x_0 + x_1 + ... + x_d), a change within a bound takes
at most R from the margin, so that with Phi, the normal distribution function,

    accuracy = p Phi((a + eta d - R) / sqrt d) + (1 - p) Phi((-a + eta d - R) / sqrt d)

    linf:e  R = e (a + d)     l1:e  R = e max(a, 1)     either: the greater R     a mix of both: the mean R, as weighted

Sources: Tsipras et al. 2019, "Robustness may be at odds with accuracy" (accuracy near 1 means robust accuracy near 0);
Tramèr and Boneh 2019, "Adversarial training and robustness for multiple perturbations" (whatever resists 2 eta in Linf does
not resist 2 in L1: no classifier is right in more than half of the cases against either; a mix of two norms is no
stronger against a linear classifier than the worse of the two).
"""

import math
from statistics import NormalDist
from typing import final

import click
import torch
from torch import Tensor, nn

import audioadv as aa
from audioadv.threat.bounds import Bound

P, SIZE = 0.95, 99
ETA = 0.3
LINF, L1 = aa.Linf(2 * ETA), aa.L1(2.0)


@final
class Linear(nn.Module):
    """sign(a x_0 + x_1 + ... + x_d) as two scores; `a` infinite is x_0 alone."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.weight = torch.ones(SIZE + 1, dtype=torch.float64)
        self.weight[0] = a
        if math.isinf(a):
            self.weight = (torch.arange(SIZE + 1) == 0).double()

    def forward(self, inputs: Tensor) -> Tensor:
        """Shapes: [batch, 1 + d] -> [batch, 2]."""
        return (inputs @ self.weight)[:, None] * torch.tensor([-0.5, 0.5], dtype=torch.float64)


def points(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws of the distribution. Shapes: -> inputs [count, 1 + d], labels 0 or 1 [count]."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count,), generator=generator) * 2 - 1
    right = torch.rand(count, generator=generator) < P
    weak = ETA * y[:, None] + torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
    return torch.cat([torch.where(right, y, -y)[:, None].double(), weak], 1), (y + 1) // 2


def taken(a: float, bound: Bound | None) -> float:
    """R: how much of the margin a change within the bound can take. For x_0 alone, in units of x_0."""
    strong, weak = (1.0, 0.0) if math.isinf(a) else (a, 1.0)
    linf, l1 = LINF.radius * (strong + SIZE * weak), L1.radius * max(strong, weak)
    shares = {None: 0.0, str(LINF): linf, str(L1): l1, str(LINF | L1): max(linf, l1), str(0.5 * LINF + 0.5 * L1): (linf + l1) / 2}
    return float(shares[None if bound is None else str(bound)])


def accuracy(a: float, bound: Bound | None) -> float:
    """The closed form."""
    loss = taken(a, bound)
    if math.isinf(a):
        return P * (loss < 1) + (1 - P) * (loss < -1)
    normal, root = NormalDist(), math.sqrt(SIZE)
    return sum(share * normal.cdf((sign * a + ETA * SIZE - loss) / root) for share, sign in ((P, 1), (1 - P, -1)))


def measured(a: float, bound: Bound | None, count: int) -> aa.Rate:
    """The same by attack: one step for a ball, whose best change of a linear score it is; more for a mix."""
    inputs, labels = points(count)
    if bound is None:
        return aa.evaluate(Linear(a), inputs, labels, aa.Linf(0), "fgsm", box=None).accuracy
    attack = "pgd" if "mix" in str(bound) else "fgsm"
    return aa.evaluate(Linear(a), inputs, labels, bound, attack, box=None, batch=count).robust_accuracy


def bayes(bound: Bound | None) -> str:
    """What theory says of all classifiers there can be."""
    return {str(LINF): f"at most {100 * P:.0f} %", str(LINF | L1): "at most 50 %"}.get(str(bound), "")


@click.command()
@click.option("--count", default=20_000, show_default=True, help="points that are drawn")
@click.option("--quick", is_flag=True, help="2,000 points")
def main(count: int, quick: bool) -> None:
    """Print accuracy by closed form and as measured, for four classifiers and five attackers."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    count = min(count, 2000) if quick else count
    print(f"p = {P}, d = {SIZE}, eta = {ETA}; {count} points")
    for bound in (None, LINF, L1, LINF | L1, 0.5 * LINF + 0.5 * L1):
        print(f"\n{'no attack' if bound is None else bound}{': any classifier ' + bayes(bound) if bayes(bound) else ''}")
        for a in (0.0, 10.0, 30.0, math.inf):
            name = "x_0 alone" if math.isinf(a) else f"a = {a:g}"
            rate, theory = measured(a, bound, count), accuracy(a, bound)
            low, high = rate.interval
            print(f"  {name:10} theory {100 * theory:6.2f} %   measured {rate}{'' if low <= theory <= high else '   NO'}")


if __name__ == "__main__":
    main()

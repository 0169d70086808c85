"""Unions: the worst member and one step of all, on a model that each member brings down somewhere."""

import pytest
import torch
from torch import Tensor

from audioadv.attacks.objective import objective
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import Outcome
from audioadv.attacks.union import msd, worst_member
from audioadv.errors import OptionError
from audioadv.threat.bounds import L1, Bound, Linf
from audioadv.threat.model import ThreatModel
from audioadv.threat.warps import Timing


class Below:
    """To bring a score below zero."""

    def loss(self, outputs: Tensor) -> Tensor:
        return outputs

    def reached(self, outputs: Tensor) -> Tensor:
        return outputs < 0

    def rows(self, index: Tensor) -> "Below":
        return self


SIZE = 100
WEIGHTS = torch.stack([torch.ones(SIZE) / SIZE, torch.eye(SIZE)[3], torch.ones(SIZE), torch.zeros(SIZE)])


def score(x: Tensor) -> Tensor:
    """Each example has a linear score of its own, told by its last entry: Linf 0.1 moves the first by 0.1, L1 2 the second by 2."""
    own = WEIGHTS[x[:, -1].round().long()]
    return (x[:, :SIZE] * own).sum(1) + torch.tensor([0.05, 1.0, 3.0, 1.0])[x[:, -1].round().long()]


def inputs() -> Tensor:
    return torch.cat([torch.zeros(4, SIZE), torch.arange(4.0)[:, None]], 1)


def attacks() -> dict[str, object]:
    return {"worst": lambda *args, **options: worst_member(pgd, *args, **options), "msd": msd}


@pytest.mark.parametrize("way", attacks())
def test_what_either_member_brings_down_falls(way: str) -> None:
    region = (Linf(0.1) | L1(2)).around(inputs(), box=None)
    result = attacks()[way](objective(score, Below()), region, steps=40)
    # The first falls to either, the second to L1 alone, the third to Linf alone, the last to none.
    assert result.reached == [True, True, True, False]
    assert ThreatModel("linf:0.1_or_l1:2").check(inputs(), result.adversarial, box=None) == [None] * 4
    alone = [pgd(objective(score, Below()), member, steps=40).reached for member in region.members()]
    assert alone == [[True, False, True, False], [False, True, False, False]] or alone[1][1]
    assert (result.gauge[:3] <= 1 + 1e-5).all()


@pytest.mark.parametrize("way", attacks())
def test_neighbours_change_nothing_and_cost_is_counted(way: str) -> None:
    seen: list[int] = []

    def spied(x: Tensor) -> Tensor:
        seen.append(len(x))
        return score(x)

    region = (Linf(0.1) | L1(2)).around(inputs(), box=None)
    together = attacks()[way](objective(spied, Below()), region, steps=15)
    assert together.forwards.sum() == sum(seen)
    for i in range(4):
        alone = attacks()[way](objective(score, Below()), region.rows(torch.tensor([i])), steps=15)
        assert alone.outcome[0] is together.outcome[i]
        torch.testing.assert_close(alone.adversarial[0], together.adversarial[i])
        assert alone.forwards[0] == together.forwards[i]


def test_members_of_different_kinds_give_parameters_of_the_union() -> None:
    clean = torch.linspace(-0.5, 0.5, 40).expand(2, 40).contiguous()
    bound = Timing(3.0, 0.0) | Linf(0.05)

    def late(x: Tensor) -> Tensor:
        return x[:, 20] + 0.03  # of a ramp of 1/39 a sample: two samples late do it

    region = bound.around(clean, box=(-1.0, 1.0))
    result = worst_member(pgd, objective(late, Below()), region, steps=20)
    assert result.outcome == (Outcome.REACHED,) * 2
    assert ThreatModel(bound).check(clean, result.adversarial, box=(-1.0, 1.0), parameters=result.parameters) == [None] * 2
    with pytest.raises(OptionError, match="worst_member"):
        msd(objective(late, Below()), region)
    assert pgd(objective(late, Below()), region, steps=30).reached == [True] * 2  # the union's own region


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75])
def test_a_linear_net_is_no_worse_at_a_mix_than_at_an_end(beta: float) -> None:
    """Closed form: the mix lowers a linear score by beta of what the one member does and 1 - beta of what the other does."""
    weights = torch.randn(SIZE, generator=torch.Generator().manual_seed(3)) / 10
    ends = 0.1 * weights.abs().sum(), 2 * weights.abs().max()
    reach = beta * ends[0] + (1 - beta) * ends[1]
    assert reach < max(ends)
    for share, fallen in ((0.95, True), (1.001, False), (max(ends) / reach, False)):
        region = (beta * Linf(0.1) + (1 - beta) * L1(2)).around(torch.zeros(1, SIZE), box=None)
        found = pgd(objective(lambda x, share=share: x @ weights + share * reach, Below()), region, steps=200, step_size=0.05)
        assert found.reached == [fallen]


def test_a_net_that_asks_for_a_little_of_both_falls_to_the_mix_alone() -> None:
    """Below zero just where the mean falls by 0.045 and entry 3 by 0.5: Linf 0.1 is short of the second, L1 2 of the first."""

    def both(x: Tensor) -> Tensor:
        return torch.maximum(x.mean(1) + 0.045, x[:, 3] + 0.5)

    def falls(bound: Bound) -> bool:
        found = worst_member(pgd, objective(both, Below()), bound.around(torch.zeros(1, SIZE), box=None), steps=200, step_size=0.05)
        return found.reached == [True]

    assert not falls(Linf(0.1) | L1(2))
    assert falls(0.5 * Linf(0.1) + 0.5 * L1(2))

"""The attack against a model whose nearest adversarial example is known in closed form."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from audioadv.attacks.objective import objective
from audioadv.attacks.result import Outcome
from audioadv.attacks.shrink import ANEW, CLOSE, COARSEST, FINEST, Search, aim, find_then_shrink, strides
from audioadv.threat.bounds import L2, MIN, Linf

SIZE, COUNT = 50, 6
BOUNDS = {"linf": (Linf, 1), "l2": (L2, 2)}  # the bound, and the norm of w that divides the distance


@dataclass(frozen=True)
class Below:
    """To bring a score below zero."""

    def loss(self, outputs: Tensor) -> Tensor:
        return outputs

    def margin(self, outputs: Tensor, slack: float | Tensor = 0.0) -> Tensor:
        return (outputs + 0.01 * slack).clamp_min(0)

    def reached(self, outputs: Tensor) -> Tensor:
        return outputs < 0

    def rows(self, index: Tensor) -> "Below":
        return self


def linear() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(SIZE, 1), nn.Flatten(0))
    with torch.no_grad():
        net[0].bias.fill_(0.0)
    return net


def clean_inputs(net: nn.Module) -> Tensor:
    """Inputs that the model scores above zero."""
    x = torch.randn(COUNT, SIZE, generator=torch.Generator().manual_seed(1))
    score = net(x).detach()
    return x * score.sign()[:, None]


def distance(net: nn.Module, x: Tensor, order: int) -> Tensor:
    return net(x).detach() / net[0].weight.detach().norm(order if order != 1 else 1)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize(("factor", "reached"), [(0.9, False), (1.1, True)])
def test_fails_just_inside_and_succeeds_just_outside(name: str, factor: float, reached: bool) -> None:
    kind, order = BOUNDS[name]
    net = linear()
    x = clean_inputs(net)
    for row in x:
        radius = float(factor * distance(net, row[None], order))
        region = kind(radius).around(row[None], box=None)
        result = find_then_shrink(objective(net, Below()), region, steps=100, minimal=False)
        assert result.reached == [reached]
        assert result.gauge.isfinite().item() == reached
        assert (result.adversarial == row).all() or result.gauge <= radius * (1 + 1e-5)


@pytest.mark.parametrize("name", BOUNDS)
def test_finds_the_nearest(name: str) -> None:
    kind, order = BOUNDS[name]
    net = linear()
    x = clean_inputs(net)
    result = find_then_shrink(objective(net, Below()), kind(MIN).around(x, box=None), steps=200)
    assert all(result.reached)
    ratio = result.gauge / distance(net, x, order)
    assert (ratio >= 1 - 1e-4).all()
    assert (ratio <= 1.05).all()


@pytest.mark.parametrize("name", BOUNDS)
def test_neighbours_and_order_change_nothing(name: str) -> None:
    kind, _ = BOUNDS[name]
    net = linear()
    x = clean_inputs(net)
    together = find_then_shrink(objective(net, Below()), kind(MIN).around(x, box=None), steps=60)
    backwards = find_then_shrink(objective(net, Below()), kind(MIN).around(x.flip(0), box=None), steps=60)
    torch.testing.assert_close(backwards.adversarial.flip(0), together.adversarial, rtol=1e-4, atol=1e-5)
    for i in range(COUNT):
        alone = find_then_shrink(objective(net, Below()), kind(MIN).around(x[i : i + 1], box=None), steps=60)
        torch.testing.assert_close(alone.adversarial[0], together.adversarial[i], rtol=1e-4, atol=1e-5)


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    net = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Flatten(0)).train()
    x = torch.randn(COUNT, SIZE, generator=torch.Generator().manual_seed(1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_before = torch.get_rng_state()
    find_then_shrink(objective(net, Below()), L2(MIN).around(x, box=None), steps=5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), random_before)


def test_clips_that_are_done_leave_and_cost_is_counted_from_outside() -> None:
    net = linear()
    x = clean_inputs(net)
    x[0] *= 0.01  # nearly there
    radius = float(1.1 * distance(net, x, 2).max())
    seen: list[int] = []
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    result = find_then_shrink(objective(net, Below()), L2(radius).around(x, box=None), steps=50, minimal=False)
    assert result.forwards.sum() == sum(seen)
    assert (result.forwards == result.steps).all()
    assert result.forwards[0] < result.forwards.max()
    assert all(result.reached)


def test_a_model_that_breaks_gives_the_clean_input_and_says_so() -> None:
    net = linear()
    x = clean_inputs(net)
    x[2] = 1e30

    class Overflow(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return net(inputs * 1e20)

    result = find_then_shrink(objective(Overflow(), Below()), L2(1.0).around(x, box=None), steps=20, minimal=False)
    assert result.outcome[2] is Outcome.NOT_FINITE
    assert torch.equal(result.adversarial[2], x[2])
    assert Outcome.NOT_FINITE not in (*result.outcome[:2], *result.outcome[3:])


def test_the_margin_counts_from_close_by_on_and_a_loss_below_zero_is_no_distance() -> None:
    net = linear()
    x = clean_inputs(net)
    seen = list[tuple[float, bool]]()

    @dataclass(frozen=True)
    class Watched(Below):
        by: float = 0.0

        def loss(self, outputs: Tensor) -> Tensor:
            seen.append((outputs[0].item() ** 3 - self.by, False))  # a third of the way, and it is a thirtieth
            return outputs**3 - self.by

        def margin(self, outputs: Tensor, slack: float | Tensor = 0.0) -> Tensor:
            seen.append((outputs[0].item() ** 3 - self.by, True))
            return super().margin(outputs, slack)

    find_then_shrink(objective(net, Watched()), Linf(MIN).around(x[:1], box=None), steps=30)
    first = next(number for number, (loss, _) in enumerate(seen) if loss < CLOSE * seen[0][0])
    assert seen[first][0] > 0, "not at the goal yet"
    assert [margin for _, margin in seen] == [number > first for number in range(len(seen))]
    seen.clear()
    find_then_shrink(objective(net, Watched(by=1e3)), Linf(1e-3).around(x[:1], box=None), steps=30)
    assert not any(margin for _, margin in seen)


def searching() -> Search:
    """One example that was found within a radius of 1, and aims at 0.8."""
    one, none = torch.ones(1), torch.zeros(1)
    way, far = none[:, None], torch.inf * one
    return Search(way, way, 0.2 * one, none, one > 0, 0.8 * one, none, far, far, one, 0.5 * one, one, one > 0)


def test_the_aim_grows_bolder_with_success_and_finer_without() -> None:
    search, loss = searching(), torch.zeros(1)

    def after(*hits: bool) -> tuple[float, float]:
        for hit in hits:
            aim(search, torch.tensor([hit]), loss, 0.5, shrinks=True, gradual=False)
        return search.gamma.item(), search.radius.item()

    gamma, radius = after(True)
    assert (gamma, radius) == pytest.approx((0.24, 0.8 * 0.76))
    assert after(*[False] * 15) == pytest.approx((0.24, 0.8 * 0.76)), "as long as there is hope"
    assert after(False) == pytest.approx((0.12, 0.8 * 0.88)), "half as far from what was found"
    assert after(*[False] * 15, True)[0] == pytest.approx(0.144), "a success begins the count anew"
    assert after(*[True] * 40)[0] == COARSEST
    assert after(*[False] * 16 * 8)[0] == pytest.approx(FINEST)


def test_what_is_found_first_shrinks_by_about_a_tenth_and_a_fixed_region_begins_with_longer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    net, seen = linear(), list[tuple[float, float, float]]()
    x = clean_inputs(net)[:1]

    def spied(search: Search, shrinks: bool, longest_step: float) -> Tensor:
        stride = strides(search, shrinks, longest_step)
        seen.append((search.proven.item(), search.radius.item(), stride.item()))
        return stride

    monkeypatch.setattr(sys.modules["audioadv.attacks.shrink"], "strides", spied)
    find_then_shrink(objective(net, Below()), L2(MIN).around(x, box=None), steps=30)
    proven, radius, stride = next(step for step in seen if step[0] < float("inf"))
    assert (radius, stride) == pytest.approx((0.88 * proven, 0.12))
    seen.clear()
    find_then_shrink(objective(net, Below()), L2(1e-3).around(x, box=None), steps=30)
    assert [stride for _, _, stride in seen] == pytest.approx([0.2] * 22 + [0.1] * 8)


def test_a_region_grows_around_a_search_that_gets_nowhere_and_not_around_one_on_its_way() -> None:
    def radius_after(losses: Iterable[float], near: bool = False, gradual: bool = False) -> list[float]:
        search, miss = searching(), torch.tensor([False])
        search.found, search.near, search.fails, search.radius = miss, torch.tensor([near]), torch.zeros(1), torch.ones(1)
        search.low = search.lower = search.proven = torch.full((1,), torch.inf)
        return [aim(search, miss, torch.tensor([loss]), 0.5, shrinks=True, gradual=gradual) or search.radius.item() for loss in losses]

    assert radius_after([1.0] * 33) == pytest.approx([1.0] * 15 + [1.5] * 16 + [2.25] * 2), "8 steps to know it by, 8 to see"
    assert radius_after([1.0] * 49, near=True) == pytest.approx([1.0] * 47 + [1.5] * 2), "close by, after all lengths of steps"
    assert radius_after([1.0] * 49, gradual=True) == pytest.approx([1.0] * 23 + [1.2] * 24 + [1.44] * 2), "slowly"
    assert radius_after(75.0 - step for step in range(60))[-1] == pytest.approx(1.5), "at 1 a step, too slow while it is above 48"
    assert radius_after(50.0 - step for step in range(49)) == [1.0] * 49
    assert radius_after([-1.0 - step for step in range(33)])[-1] == pytest.approx(2.25), "below zero is no way to go"


@pytest.mark.parametrize("slack", [0.5, 2.0, 0.0])
def test_the_slack_falls_only_where_the_aim_is_fine_and_a_search_at_rest_begins_anew(slack: float) -> None:
    search, loss, miss = searching(), torch.zeros(1), torch.tensor([False])
    search.slack = slack * torch.ones(1)
    seen = list[tuple[float, float, float]]()
    for _ in range(16 * 20):
        aim(search, miss, loss, slack, shrinks=True, gradual=False)
        seen.append((search.gamma.item(), search.slack.item(), search.radius.item()))
    ends = seen[15::16]
    assert ends[2][:2] == pytest.approx((0.025, slack)), "0.2, 0.1, 0.05: coarse"
    if not slack:
        assert ends[3] == pytest.approx((ANEW, 0.0, 1 - ANEW)), "nothing to halve: at rest once it is fine"
        return
    assert ends[3][:2] == pytest.approx((0.0125, slack / 2))
    assert ends[4][:2] == pytest.approx((FINEST, slack / 4))
    assert ends[6][:2] == pytest.approx((FINEST, slack / 16))
    assert seen[16 * 8 - 2] == pytest.approx((FINEST, slack / 16, 1 - FINEST))
    assert ends[7] == pytest.approx((ANEW, slack, 1 - ANEW)), "as coarse as at first, below the smallest that was found"
    assert ends[8][:2] == pytest.approx((ANEW / 2, slack))
    assert [gamma for gamma, *_ in ends].count(pytest.approx(ANEW)) == 2, "and again"


def test_what_is_heard_but_not_on_the_grid_is_still_sought() -> None:
    """Steps go through their cycle until something is proven, from then on by gamma."""

    def next_steps(found: bool, proven: float) -> list[float]:
        some, none = torch.ones(4), torch.zeros(4, 1)
        stages = torch.arange(4.0)
        search = Search(none, none, 0.2 * some, some, some.bool() & found, some, stages, some, some, proven * some, some, some, some > 0)
        return strides(search, True, 0.3).tolist()

    assert next_steps(False, float("inf")) == pytest.approx([0.3, 0.15, 0.075, 0.3])
    assert next_steps(True, float("inf")) == pytest.approx([0.2, 0.15, 0.075, 0.2])
    assert next_steps(True, 1.0) == pytest.approx([0.2] * 4)


def test_what_is_heard_is_heard_again_where_it_is_on_the_grid() -> None:
    net, seen, grid = linear(), list[Tensor](), 1e-4
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach().clone()))
    x = (clean_inputs(linear())[:1] / grid).round() * grid
    find_then_shrink(objective(net, Below()), L2(MIN).around(x, box=None, grid=grid), steps=40)
    first = next(number for number, inputs in enumerate(seen) if net(inputs) < 0)
    before, after = seen[first], seen[first + 1]
    assert (before - after).abs().max() <= 1.001 * grid
    torch.testing.assert_close(after / grid, (after / grid).round(), rtol=0, atol=0.01)


def test_a_steps_direction_is_a_running_mean() -> None:
    """0.85 of the last one: along a slope that stays, and then turns round."""
    seen, slopes = list[Tensor](), [1.0] * 4 + [-1.0] * 4
    way = torch.nn.functional.normalize(torch.randn(1, 8, generator=torch.Generator().manual_seed(0)))

    def scripted(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return 1 + slopes[len(seen) - 1] * ((x - x.detach()) @ way[0])

    find_then_shrink(objective(scripted, Below()), L2(1.0).around(torch.zeros(1, 8), box=None), steps=8, minimal=False)
    mean = 0.0
    for slope, here, there in zip(slopes, seen, seen[1:], strict=False):
        mean = 0.15 * slope + 0.85 * mean
        torch.testing.assert_close(there - here, -0.2 * mean * way, rtol=1e-4, atol=1e-6)


def test_a_search_that_has_grown_twice_moves_every_entry() -> None:
    """What the model hardly sees at first, too: it may be behind a threshold."""
    seen, slope = list[Tensor](), torch.tensor([1.0, 1e-5])

    def flat(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return 1 + (x - x.detach()) @ slope

    find_then_shrink(objective(flat, Below()), L2(MIN).around(torch.ones(1, 2), box=None), steps=48)
    moved = torch.stack([there - here for here, there in pairwise(seen)])[:, 0].abs()
    assert (moved[1:16, 1] < 1e-3 * moved[1:16, 0].amax()).all()
    assert (moved[-4:, 1] > 0.3 * moved[-4:, 0]).all()

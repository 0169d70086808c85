"""Attacks step by step, against the papers' formulas: nets that answer from a script, and what they were asked about."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from nets import small
from torch import Tensor

from audioadv import attacks
from audioadv.attacks.apgd_l1 import used_by
from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import objective
from audioadv.attacks.pdpgd import prox_l1, prox_l2, prox_linf
from audioadv.attacks.square import carry, windows
from audioadv.threat.bounds import L0, L1, L2, MIN, Linf
from audioadv.threat.labels import Misclassify, margin

MISSED = Misclassify(0, margin)  # the first class leads by the margin, until it is below zero


class Scripted:
    """Two classes. At the n-th call the margin is `margins[n]` and its slope `slopes[n]`, the last of either ever after; a margin below
    zero is a success. `asked` are the changes that it was asked about. Shapes: clean [1, size], slopes [calls, size]."""

    def __init__(self, clean: Tensor, margins: Sequence[float], slopes: Tensor) -> None:
        self.clean, self.margins, self.slopes = clean, margins, slopes
        self.asked = list[Tensor]()

    def __call__(self, inputs: Tensor) -> Tensor:
        number = len(self.asked)
        self.asked.append((inputs - self.clean).detach())
        slope = self.slopes[min(number, len(self.slopes) - 1)]
        lead = self.margins[min(number, len(self.margins) - 1)] + ((inputs - inputs.detach()) * slope).sum(1)
        return torch.stack([3 + lead, torch.full_like(lead, 3.0)], 1)  # no probabilities


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def origin(size: int) -> Tensor:
    return torch.zeros(1, size, dtype=torch.float64)


def test_sigma_zeros_first_steps_are_adams_along_the_margin_and_the_smooth_count() -> None:
    """Cina et al. 2025, algorithm 1, by Adam and autograd. The margin is a hinge: after a success, sparsity alone pulls."""
    net, sigma, limit = Scripted(origin(6), [1, 1, -1, 1, -1, -1, 1, 1], drawn(8, 6)), 0.5, 0.1
    region = L0(MIN).around(origin(6), box=None)
    attacks.sigma_zero(objective(net, MISSED), region, steps=8, step_size=0.4, sigma=sigma, threshold=limit, threshold_step=0.2)
    delta, first, second = origin(6), origin(6), origin(6)
    for number, (slope, level) in enumerate(zip(net.slopes, net.margins, strict=True)):
        torch.testing.assert_close(net.asked[number], delta)
        here = delta.clone().requires_grad_()
        (down,) = torch.autograd.grad((here * slope * (level > 0)).sum() + (here.square() / (here.square() + sigma)).mean(), here)
        down = down / down.abs().max()
        first, second = 0.9 * first + 0.1 * down, 0.999 * second + 0.001 * down.square()
        rate = 0.4 * (0.1 + 0.9 * (1 + math.cos(math.pi * number / 8)) / 2)
        delta = delta - rate * first / (1 - 0.9 ** (number + 1)) / (second / (1 - 0.999 ** (number + 1))).sqrt()
        limit = max(0.0, limit + 0.2 * rate * (1 if level < 0 else -1))
        delta = torch.where(delta.abs() > limit, delta, 0.0)
    assert (torch.cat(net.asked[1:]) == 0).any(), "some were below the threshold"


def test_ddns_radius_follows_success_and_its_direction_turns_by_a_cosine() -> None:
    """Rony et al. 2019, algorithm 1; the step falls from 1 to 0.01 along a cosine."""
    net = Scripted(origin(5), [1, 1, -1, 1, 1, -1, -1, 1], drawn(8, 5))
    attacks.ddn(objective(net, MISSED), L2(MIN).around(origin(5), box=None), steps=8, start=0.7, gamma=0.1)
    delta, radius = origin(5), 0.7
    for number, (slope, level) in enumerate(zip(net.slopes, net.margins, strict=True)):
        torch.testing.assert_close(net.asked[number], delta)
        turned = delta - (0.01 + 0.99 * (1 + math.cos(math.pi * number / 8)) / 2) * slope / slope.norm()
        radius *= 0.9 if level < 0 else 1.1
        delta = radius * turned / turned.norm()


@pytest.mark.parametrize(("bound", "dual"), [(Linf(MIN), 1.0), (L2(MIN), 2.0), (L1(MIN), math.inf)], ids=str)
def test_fmns_first_ball_reaches_as_far_as_the_margin_over_the_dual_norm(bound: Linf | L2 | L1, dual: float) -> None:
    """And by gamma further: where a linear net's boundary lies."""
    net = Scripted(origin(20), [3.0], drawn(1, 20))
    attacks.fmn(objective(net, MISSED), bound.around(origin(20), box=None), steps=2, step_size=1e3, gamma=0.2)
    size = net.asked[1].norm(p={1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[dual])
    assert float(size) == pytest.approx(1.2 * 3.0 / float(net.slopes[0].norm(p=dual)), rel=1e-4)


def test_fmns_steps_in_linf_go_by_the_signs() -> None:
    net = Scripted(origin(3), [1.0], torch.tensor([[1.0, 0.01, -0.001]]).double())
    attacks.fmn(objective(net, MISSED), Linf(MIN).around(origin(3), box=None), steps=2, step_size=0.3)
    torch.testing.assert_close(net.asked[1], torch.tensor([[-1.0, -1.0, 1.0]]).double() * 0.3 / 3**0.5)


def test_fmn_spends_no_step_on_entries_that_the_box_holds_back() -> None:
    """The steepest entry is at the box's end: the first step, and how far it goes, are the other two's."""
    clean = torch.tensor([[0.0, 0.5, 0.5]]).double()
    net = Scripted(clean, [0.1], torch.tensor([[10.0, 0.3, 0.4]]).double())
    attacks.fmn(objective(net, MISSED), L2(MIN).around(clean), steps=2, step_size=1.0, gamma=0.1)
    torch.testing.assert_close(net.asked[1], -1.1 * 0.1 / 0.5 * torch.tensor([[0.0, 0.6, 0.8]]).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize(("bound", "prox"), [(L1(MIN), prox_l1), (L2(MIN), prox_l2), (Linf(MIN), prox_linf)], ids=["l1", "l2", "linf"])
def test_pdpgds_first_steps_are_proximal_adams(bound: L1 | L2 | Linf, prox: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Matyasko and Chau 2021: Adam, then the norm's proximal operator with the same scales; the price is a running mean."""
    net, steps = Scripted(origin(5), [2.0, 1.0, -1.0, 0.5, -0.5, 1.0], drawn(6, 5)), 6
    attacks.pdpgd(objective(net, MISSED), bound.around(origin(5), box=None), steps=steps, start=0.3)
    delta, first, second, dual = origin(5), origin(5), origin(5), torch.tensor([-math.log(0.3)]).double()
    price = dual.sigmoid()
    for number, (slope, level) in enumerate(zip(net.slopes, net.margins, strict=True)):
        torch.testing.assert_close(net.asked[number], delta)
        slope = slope * torch.tensor(level).double().sigmoid()  # of softplus
        square = slope.square().mean().expand(5) if isinstance(bound, L2) else slope.square()
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * square
        scale = 0.1 * 0.01 ** (number / steps) / (second / (1 - 0.999 ** (number + 1))).sqrt()
        weight = scale * (1 - price) / price
        delta = prox(delta - scale * first / (1 - 0.9 ** (number + 1)), weight if isinstance(bound, L1) else weight.amin(1))
        dual = dual + 0.1 * (1 - 0.9 * number / steps) * (-1 if level < 0 else 1)
        price = 0.9 * price + 0.1 * dual.sigmoid()


def test_apgd_for_l1_shortens_its_steps_and_goes_on_from_the_best_point_of_each_stage() -> None:
    """Of 100 steps, 30 are within three times the radius, 30 within twice, 40 within it; each adapts its step at every one, here. The first
    stage's best change is its first, the second's its eleventh. In the third, two steps along one entry make it sparser."""
    margins = [1.0] * 30 + [5.0] * 10 + [4.0] + [5.0] * 19 + [9.0] * 2 + [8.0] + [9.0] * 40
    net, region = Scripted(origin(40), margins, drawn(101, 40)), L1(0.7).around(origin(40), box=None)
    net.slopes[60:62] = torch.eye(40)[0]
    attacks.apgd_l1(objective(net, MISSED), region, steps=100)

    def onward(number: int, here: Tensor, factor: float, step: float, used: Tensor) -> Tensor:
        slope = net.slopes[number]
        move = slope.sign() * (slope.abs() >= slope.abs().sort(descending=True).values[max(int(used / 1.5), 1) - 1])
        return region.at(factor * region.radius).project(here - step * move / move.abs().sum())

    for number in range(29):
        expected = onward(number, net.asked[number], 3, 2.1 * max(1.5**-number, 0.1), used_by(net.asked[0]))
        torch.testing.assert_close(net.asked[number + 1], expected)
    torch.testing.assert_close(net.asked[30], region.at(2 * region.radius).project(net.asked[0]))
    torch.testing.assert_close(net.asked[60], region.project(net.asked[40]))
    assert used_by(net.asked[62]) < 0.95 * used_by(net.asked[60])
    torch.testing.assert_close(net.asked[63], onward(62, net.asked[62], 1, 0.7, used_by(net.asked[62])))  # sparser: a whole step again


def test_each_rivals_search_begins_elsewhere() -> None:
    x, asked = drawn(1, 6), list[Tensor]()
    net = small(4, (6,))

    def spied(inputs: Tensor) -> Tensor:
        asked.append(inputs.detach())
        return net(inputs)

    wanted = objective(spied, Misclassify(net(x).argmax(1)))
    attacks.apgd_targeted(wanted, Linf(1e-6).around(x, box=None), steps=1, rivals=3)
    assert len(asked) == 1 + 3 * 2, "the ranking, then a step and the end for each"
    assert len({tuple(start.flatten().tolist()) for start in asked[1::2]}) == 3


def test_hop_skip_jump_feels_for_later_slopes_at_the_distance_over_the_root_of_the_entries() -> None:
    begin = drawn(1, 36)
    net = Scripted(origin(36), [-1.0] + [1.0] * 10 + [-1.0, 1.0] * 5 + [-1.0] + [1.0] * 10 + [-1.0, 1.0] * 20, origin(36))
    attacks.hop_skip_jump(objective(net, MISSED), L2(MIN).around(origin(36), box=None), steps=2, draws=10, begin=begin)
    beyond, first = net.asked[21], 1 + 10 + 10 + 1 + 10  # found; the way back, which fails; ten draws; a stride; the way back
    reaches = [float((asked - beyond).norm() / beyond.norm()) for asked in net.asked[first : first + 15]]
    assert reaches == pytest.approx([1 / 6] * 15)


def test_hop_skip_jump_halves_a_stride_that_falls_short_twelve_times() -> None:
    begin = drawn(1, 36)
    net = Scripted(origin(36), [-1.0] + [1.0] * 10 + [-1.0, 1.0] * 5 + [1.0] * 40, origin(36))
    attacks.hop_skip_jump(objective(net, MISSED), L2(MIN).around(origin(36), box=None), steps=1, draws=10, begin=begin)
    strides = [float((asked - begin).norm() / begin.norm()) for asked in net.asked[21:33]]
    assert strides == pytest.approx([0.5**halved for halved in range(12)])
    assert len(net.asked) == 33 + 10, "and the way back from where it stood"


@pytest.mark.parametrize(("size", "space"), [((1, 1, 20, 20), (10, 10)), ((1, 3, 8, 32), (4, 16)), ((1, 2, 40), (10,)), ((1, 40), (10,))])
def test_a_squares_window_of_a_quarter_is_half_as_high_and_half_as_wide(size: tuple[int, ...], space: tuple[int, ...]) -> None:
    clean = torch.zeros(size)
    for seed in range(5):
        inside, depth = windows(Linf(0.1).around(clean, box=None), 0.25, Draws.of(seed, clean))
        places = inside[0, 0].nonzero()
        assert (places.amax(0) - places.amin(0) + 1).tolist() == [*space]
        assert len(places) == math.prod(space)
        assert torch.equal(depth > 0, inside)


def test_a_window_of_square_in_l2_adds_a_peak_to_what_it_held() -> None:
    """One that covers all: what was there and a peak, either of length 1, together as long as the radius."""
    region, delta = L2(1.5).around(origin(9), box=None), 0.4 * drawn(1, 9)
    peak = torch.tensor([[1.0, 2, 3, 4, 5, 4, 3, 2, 1]]).double()
    ends = [delta / delta.norm() + sign * peak / peak.norm() for sign in (1, -1)]
    found = [carry(region, delta, 1.0, Draws.of(seed, drawn(1, 9))) for seed in range(8)]
    nearest = torch.stack([torch.stack([(new - 1.5 * end / end.norm()).norm() for end in ends]) for new in found])
    assert nearest.amin(1).max() < 1e-4
    assert len({*nearest.argmin(1).tolist()}) == 2, "of either sign"


def test_a_walk_aims_at_half_of_its_sideways_steps_and_a_quarter_of_its_whole_ones() -> None:
    """Two in five succeed: sideways steps grow shorter, and where all of these do and two in five of the ones inward, those grow longer."""
    two_of_five = [1.0, 1.0, -1.0, 1.0, -1.0] * 4
    begin, region = drawn(1, 30), L2(MIN).around(origin(30), box=None)
    beside = [level for sideways in two_of_five for level in ([sideways] if sideways > 0 else [sideways, 1.0])]
    net = Scripted(origin(30), [-1.0] + [1.0] * 10 + beside, origin(30))
    attacks.boundary(objective(net, MISSED), region, steps=20, sideways=0.2, begin=begin)
    sideways = [asked for asked, level, last in zip(net.asked[11:], beside, [1.0, *beside], strict=False) if not (level > 0 > last)]
    lengths = [math.tan(math.acos(min(1.0, float((asked * begin).sum() / asked.norm() / begin.norm())))) for asked in sideways]
    assert lengths == pytest.approx([0.2 * 1.1**-number for number in range(20)], rel=1e-4)
    net = Scripted(origin(30), [-1.0] + [1.0] * 10 + [level for inward in two_of_five for level in (-1.0, inward)], origin(30))
    attacks.boundary(objective(net, MISSED), region, steps=20, inward=0.05, begin=begin)
    shares = [1 - float(nearer.norm() / trial.norm()) for trial, nearer in zip(net.asked[11::2], net.asked[12::2], strict=True)]
    assert shares == pytest.approx([0.05 * 1.1**number for number in range(20)])

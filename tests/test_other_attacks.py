"""Attacks that the table of contracts does not fit: one change for all, a substitute, a stand-in backward, sparse norms."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from nets import inputs_for, labels_of, linear, small
from torch import Tensor, nn

from audioadv import attacks
from audioadv.attacks.decisions import blend_back
from audioadv.attacks.draws import Draws, example_keys, mix, random_start, upper
from audioadv.attacks.eot import Expectation
from audioadv.attacks.hop_skip_jump import boundary_slope
from audioadv.attacks.objective import SlopeSource, objective
from audioadv.attacks.pdpgd import prox_l23
from audioadv.attacks.result import Attack, Outcome
from audioadv.attacks.run import Run
from audioadv.attacks.standard import near_then_square
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.evaluation.images import digits
from audioadv.models.access import Access
from audioadv.models.bpda import BPDA
from audioadv.models.classifier import Classifier, load_classifier
from audioadv.threat.bounds import L0, L1, L2, MIN, Linf, parse_bound
from audioadv.threat.channels.specs import parse_channel
from audioadv.threat.features import Feature
from audioadv.threat.labels import Classify, Misclassify, margin
from audioadv.threat.masked import Masked

SHAPE = (1, 5, 6)


def test_universal_is_one_change_and_fools_a_linear_net_throughout() -> None:
    """Where all examples are of one class of a linear net, one direction is right for all."""
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 40, None)
    x = x[labels_of(net, x) == 0]
    weight, scores = net[1].weight.detach(), net(x).detach()
    furthest = float(((scores[:, 0] - scores[:, 1]) / (weight[0] - weight[1]).norm()).max())
    result = attacks.universal(objective(net, Misclassify(0, margin)), L2(1.05 * furthest).around(x, box=None), steps=60)
    assert all(result.reached)
    change = result.adversarial - x
    torch.testing.assert_close(change, change[:1].expand_as(change))
    short = attacks.universal(objective(net, Misclassify(0, margin)), L2(0.95 * furthest).around(x, box=None), steps=60)
    assert 0 < sum(short.reached) < len(x)
    torch.testing.assert_close(result.shared, change[0])
    others = inputs_for(SHAPE, 40, None, seed=9)
    others = others[labels_of(net, others) == 0]
    laid = attacks.everywhere(L2(1.05 * furthest).around(others, box=None), result.shared)
    assert (labels_of(net, laid) != 0).float().mean() > 0.8
    own = L2(1.0).around(x, box=None).at(furthest * torch.linspace(0.1, 1.5, len(x), dtype=x.dtype))  # each takes what its region holds
    lengths = (attacks.everywhere(own, 10 * result.shared) - x).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, own.radius, rtol=1e-5, atol=0)
    with pytest.raises(OptionError, match="smallest"):
        attacks.universal(objective(net, Misclassify(0)), L2(MIN).around(x, box=None))


def test_universal_asks_so_many_at_once_and_judges_all() -> None:
    net, x, asked = linear(2, SHAPE), inputs_for(SHAPE, 7, (0, 1)), list[int]()

    def seen(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return net(inputs)

    labels = labels_of(net, x)
    found = attacks.universal(objective(seen, Misclassify(labels, margin)), Linf(0.1).around(x), steps=10, batch=3)
    assert max(asked) == 3
    assert 0 < sum(found.reached) < 7
    laid = attacks.everywhere(Linf(0.1).around(x), found.shared)
    assert found.reached == (labels_of(net, laid) != labels).tolist()


def test_universal_keeps_the_change_that_most_fell_to_though_it_goes_on() -> None:
    """The first falls between 0.6 and 0.9 only, where the tenth step leads; the second nowhere, and pulls on."""
    x = torch.tensor([[0.0], [9.0]], dtype=torch.float64)

    class Between(Misclassify):
        def reached(self, outputs: Tensor) -> Tensor:
            return (outputs[:, 0] < -0.6) & (outputs[:, 0] > -0.9)

    wanted = objective(lambda inputs: torch.cat([inputs, 0 * inputs], 1), Between(0, margin))
    found = attacks.universal(wanted, Linf(1.0).around(x, box=None), steps=20)
    assert found.reached == [True, False]
    torch.testing.assert_close(found.adversarial[0], found.shared)
    assert -0.9 < float(found.adversarial[0]) < -0.6


@pytest.mark.parametrize("spec", ["snr:5_and_linf:1", "snr:5_or_linf:0"])
def test_universal_within_joined_bounds_is_as_large_as_the_widest_examples(spec: str) -> None:
    """What the second part says changes nothing; nor does who comes first in a step's batch."""
    net, x = linear(2, (64,)), inputs_for((64,), 40, (-1, 1))
    x = x[labels_of(net, x) == 0]
    x[::2] *= 0.03  # quiet sounds among loud ones
    alone, joined = (
        attacks.universal(objective(net, Misclassify(0)), parse_bound(s).around(x, box=None), steps=20) for s in ("snr:5", spec)
    )
    torch.testing.assert_close(joined.shared, alone.shared)
    assert joined.outcome == alone.outcome


@pytest.mark.parametrize("spec", ["sticker:5+3", "linf:0.1_and_sticker:5+3"])
def test_universal_repeats_nothing_where_places_count(spec: str) -> None:
    net, x = linear(2, (12,)), inputs_for((12,), 4, (0, 1))
    wanted, region = objective(net, Misclassify(labels_of(net, x))), parse_bound(spec).around(x)
    with pytest.raises(OptionError, match="period 6 of 12"):
        attacks.universal(wanted, region, period=6)
    assert attacks.universal(wanted, region, steps=3, period=12).shared.shape == (12,)


def test_transfer_asks_for_decisions_only_and_counts_them() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 60, (0, 1))
    victim = Classifier(net).granting(Access.DECISIONS)
    torch.manual_seed(0)
    substitute = nn.Sequential(nn.Flatten(), nn.Linear(30, 32), nn.Tanh(), nn.Linear(32, 3)).double()
    seen = list[int]()
    goal = Misclassify(labels_of(net, x))
    net[1].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    inner = partial(attacks.pgd, steps=20)
    result = attacks.transfer(objective(victim, goal), Linf(0.3).around(x), substitute=substitute, attack=inner, rate=0.01, rounds=3)
    assert (result.forwards == 4 + 1).all()
    assert result.forwards.sum() == sum(seen)
    assert (result.backwards == 0).all()
    assert sum(result.reached) > 20
    region = Linf(0.3).around(x)
    further = attacks.transfer(objective(victim, goal), region, substitute=substitute, rate=0.01, rounds=3)
    assert sum(further.reached) >= sum(result.reached)  # whether or not the substitute is fooled, steps go on to the last
    assert (region.gauge(further.adversarial)[torch.tensor(further.reached)] > 0.29).all()


def test_a_substitutes_own_draws_are_seeded_and_leave_torchs_alone() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 8, (0, 1))
    wanted, ends = objective(net, Misclassify(labels_of(net, x))), list[Tensor]()
    for seed in (1, 2):
        substitute = nn.Sequential(linear(3, SHAPE), nn.Dropout(0.5))
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        ends.append(attacks.transfer(wanted, Linf(0.3).around(x), substitute=substitute, rounds=2, passes=2).adversarial)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*ends)


def test_transfer_tells_at_the_first_answer_what_decisions_do_not() -> None:
    net, x, asked = small(3, SHAPE), inputs_for(SHAPE, 8, (0, 1)), list[int]()

    def victim(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return labels_of(net, inputs) % 3

    with pytest.raises(AccessDenied, match="neither lead nor rank"):
        attacks.transfer(objective(victim, Misclassify(0, by=1.0)), Linf(0.3).around(x), substitute=linear(3, SHAPE))
    assert asked == [8]
    two = linear(2, SHAPE)
    with pytest.raises(UnusableBatch, match="2 classes, but the victim has answered with 3"):
        attacks.transfer(objective(victim, Misclassify(0)), Linf(0.3).around(x), substitute=two)


def test_bpda_gives_the_modules_value_and_the_stand_ins_slope() -> None:
    x = torch.rand(3, 4, requires_grad=True)
    y = BPDA(lambda z: (8 * z).round() / 8, lambda z: z.square())(x)
    assert torch.equal(y, (8 * x).round() / 8)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * x)


def test_bpda_brings_down_a_defense_without_gradients() -> None:
    net, x = linear(3, SHAPE), inputs_for(SHAPE, 10, (0, 1))

    def rounded(inputs: Tensor) -> Tensor:
        return (8 * inputs).round() / 8

    defended, goal = nn.Sequential(BPDA(rounded), net), Misclassify(labels_of(net, rounded(x)))
    region = Linf(0.3).around(x)
    assert all(attacks.pgd(objective(defended, goal), region).reached)
    with pytest.raises(AccessDenied, match="no gradient"):
        attacks.pgd(objective(lambda inputs: net(rounded(inputs).detach()).detach(), goal), region)


def test_estimates_converge_to_the_slope() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 3, None)
    goal = Misclassify(labels_of(net, x), margin)
    true = objective(net, goal).begun(x).look(x).slope.flatten(1)
    for source in (attacks.nes(1500, reach=1e-3), attacks.spsa(1500, reach=1e-3), attacks.coordinates(30)):
        wanted = objective(net, goal, slopes=source).begun(x)
        slope = wanted.look(x).slope.flatten(1)
        assert torch.cosine_similarity(slope, true).min() > 0.97, source
        assert (wanted.cost.backwards == 0).all()


SOURCES = [attacks.nes(8, reach=0.2), attacks.spsa(8, reach=0.2), attacks.coordinates(30, reach=0.2), attacks.bandits(3, reach=2.0)]


@pytest.mark.parametrize("source", SOURCES, ids=["nes", "spsa", "coordinates", "bandits"])
def test_estimates_ask_about_nothing_outside_the_box(source: SlopeSource) -> None:
    net, x, seen = linear(3, SHAPE), inputs_for(SHAPE, 4, (0, 1)), list[Tensor]()

    def spied(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return net(inputs)

    wanted, region = objective(spied, Misclassify(labels_of(net, x), margin), slopes=source), Linf(0.3).around(x)
    slope = wanted.begun(x, region).look(x).slope
    assert 0 <= torch.stack(seen).min() <= torch.stack(seen).max() <= 1
    assert slope.isfinite().all()
    if isinstance(source, type(SOURCES[2])):  # each entry by itself: exact on a linear net, at the edge too
        torch.testing.assert_close(slope, objective(net, wanted.goal).begun(x).look(x).slope)


@pytest.mark.parametrize("make", [attacks.nes, attacks.spsa])
def test_estimates_at_the_edge_of_the_box_are_as_long_as_elsewhere(make: Callable[..., SlopeSource]) -> None:
    net, x = linear(2, SHAPE), torch.zeros(1, *SHAPE, dtype=torch.float64)
    goal = Misclassify(0, margin)
    true = objective(net, goal).begun(x).look(x).slope
    felt = objective(net, goal, slopes=make(1500)).begun(x, Linf(0.3).around(x)).look(x).slope
    assert 0.9 < float((felt * true).sum() / true.square().sum()) < 1.1


@pytest.mark.parametrize("source", SOURCES, ids=["nes", "spsa", "coordinates", "bandits"])
def test_estimates_draw_for_each_example_alone(source: SlopeSource) -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 3, (0, 1))
    seen = list[Tensor]()

    def spied(inputs: Tensor) -> Tensor:
        seen.append(inputs)
        return net(inputs)

    whole = objective(spied, Misclassify(0, margin), slopes=source).begun(x)
    slope = whole.look(x).slope
    ways = seen[1] - x
    assert not torch.allclose(ways[0], ways[1])
    torch.testing.assert_close(objective(net, Misclassify(0, margin), slopes=source).begun(x[1:2]).look(x[1:2]).slope, slope[1:2])


def test_bandits_learn_a_direction_that_stays() -> None:
    """On a linear net the slope is the same everywhere: the prior closes in on it."""
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 3, None)
    goal = Misclassify(labels_of(net, x), margin)
    true = objective(net, goal).begun(x).look(x).slope.flatten(1)
    wanted = objective(net, goal, slopes=attacks.bandits(20, tile=1)).begun(x)
    likeness = [torch.cosine_similarity(wanted.look(x).slope.flatten(1), true) for _ in range(12)]
    assert likeness[-1].min() > 0.8
    assert (likeness[-1] > likeness[0]).all()


def test_bandits_see_at_the_ends_of_the_box_what_may_go_down_from_there() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 3, (0, 1)).round()
    goal = Misclassify(labels_of(net, x), margin)
    true = objective(net, goal).begun(x).look(x).slope
    free = torch.where(x == 0, true < 0, true > 0)  # who else goes down has left the box
    felt = objective(net, goal, slopes=attacks.bandits(2000, tile=1)).begun(x, Linf(0.3).around(x)).look(x).slope
    assert torch.cosine_similarity((felt * free).flatten(1), (true * free).flatten(1)).min() > 0.9


def test_draws_are_splitmix_and_know_no_neighbours() -> None:
    assert mix(torch.tensor([-0x61C8864680B583EB])).item() % 2**64 == 0xE220A8397B1DCDAF  # the reference's first number of seed 0
    many = torch.arange(1000) * 0x1234567890ABCDE
    assert torch.equal(upper(many) >> 33, mix(many) >> 33)
    x = torch.rand(4, 1, 20, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([x, torch.zeros(4, 1, 5)], -1)
    assert torch.equal(example_keys(7, x), example_keys(7, padded))
    assert len({*example_keys(7, x).tolist(), *example_keys(8, x).tolist()}) == 8
    assert not (example_keys(7, x) == example_keys(7, x.flip(-1))).any(), "the same numbers in other places are another example"
    drawn = Draws.of(7, x).normal(x)
    torch.testing.assert_close(Draws.of(7, x.flip(0)).normal(x).flip(0), drawn)
    torch.testing.assert_close(Draws.of(7, padded).normal(padded)[..., :20], drawn)
    many = Draws.of(0, torch.rand(2, 100_000)).normal(torch.zeros(2, 100_000))
    assert many.mean().abs() < 0.01
    assert abs(float(many.std()) - 1) < 0.01
    assert abs(float(torch.corrcoef(many)[0, 1])) < 0.02


def test_attacks_say_which_norms_they_know() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 2, (0, 1))
    with pytest.raises(OptionError, match="L2"):
        attacks.carlini_wagner(objective(net, Misclassify(0)), Linf(MIN).around(x))


def test_deepfool_comes_to_a_lead_a_rank_and_several_goals_at_once() -> None:
    """As fmn does, and not much farther."""
    net, x = small(5, SHAPE, seed=3), inputs_for(SHAPE, 8, (0, 1))
    labels = labels_of(net, x)
    goals = [Misclassify(labels, top=2), Misclassify(labels, by=1.0), Misclassify(labels, by=4.0), Classify(3, by=1.0)]
    for goal in [*goals, Misclassify(labels) & Misclassify((labels + 1) % 5)]:
        wanted, region = objective(net, goal), L2(MIN).around(x)
        found, reference = attacks.deepfool(wanted, region), attacks.fmn(wanted, region)
        assert sum(found.reached) == 8, goal
        assert found.gauge.median() < 2 * reference.gauge.median(), goal


def test_carlini_and_wagner_come_to_a_lead() -> None:
    net, x = small(5, SHAPE, seed=3), inputs_for(SHAPE, 4, (0, 1))
    wanted, region = objective(net, Misclassify(labels_of(net, x), by=4.0)), L2(MIN).around(x)
    found = attacks.carlini_wagner(wanted, region)
    assert all(found.reached)
    assert (found.gauge < 1.5 * attacks.fmn(wanted, region).gauge).all()


@pytest.mark.parametrize("attack", [partial(attacks.pdpgd, steps=60), partial(attacks.fmn, steps=8)], ids=["pdpgd", "fmn"])
@pytest.mark.parametrize("bound", [L2(MIN), L1(MIN)], ids=str)
def test_a_lead_is_as_a_net_that_is_so_much_surer(attack: Attack, bound: L1 | L2) -> None:
    net, x = linear(4, (24,), seed=3), inputs_for((24,), 12, (0, 1))
    labels, region = labels_of(net, x), bound.around(x, box=None)
    surer = 4.0 * nn.functional.one_hot(labels, 4)
    ahead = attack(objective(net, Misclassify(labels, by=4.0)), region)
    biased = attack(objective(lambda inputs: net(inputs) + surer, Misclassify(labels)), region)
    assert all(ahead.reached)
    torch.testing.assert_close(ahead.gauge, biased.gauge, rtol=1e-6, atol=0)


def test_the_nearest_success_is_kept_and_only_within_the_region() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 3, None)
    run = Run(objective(net, Misclassify(labels_of(net, x))), Linf(0.5).around(x, box=None))
    yes = torch.ones(3, dtype=torch.bool)
    assert run.keep(x + 0.3, torch.tensor([True, True, False])).tolist() == [True, True, False]
    assert run.keep(x + torch.tensor([0.4, 0.2, 0.6]).reshape(3, 1, 1, 1), yes).tolist() == [False, True, False]
    torch.testing.assert_close(run.gauge, torch.tensor([0.3, 0.2, torch.inf], dtype=torch.float64))
    torch.testing.assert_close(run.best - x, torch.tensor([0.3, 0.2, 0.0], dtype=torch.float64).reshape(3, 1, 1, 1).expand_as(x))
    assert run.result().reached == [True, True, False]


def test_apgd_goes_on_from_the_best_point_by_the_slope_that_it_had_there() -> None:
    """A valley between walls: whole steps go to and fro. At the first checkpoint, the 22nd step, all go on by a half from where it was
    deepest, with a quarter of the way that they came."""
    seen, clean = list[Tensor](), torch.linspace(-0.4, 0.4, 9, dtype=torch.float64)[:, None]

    def valley(x: Tensor) -> Tensor:
        seen.append(x.detach() - clean)
        return torch.cat([1 + (x - 0.3).abs(), torch.zeros_like(x)], 1)

    attacks.apgd(objective(valley, Misclassify(0, margin)), Linf(1.0).around(clean, box=None), steps=100)
    delta = torch.stack(seen)
    height = (clean + delta[:23] - 0.3).abs()
    assert (height[1:] < height[:-1]).sum(0).max() <= 0.75 * 23, "all have stalled"
    best = delta[:23].gather(0, height.argmin(0, keepdim=True))[0]
    down = -(clean + best - 0.3).sign()
    assert (down != -(clean + delta[22] - 0.3).sign()).any(), "some have gone past the bottom since"
    expected = best + 0.75 * ((best + 1.0 * down).clamp(-1, 1) - best) + 0.25 * (best - delta[21])
    torch.testing.assert_close(delta[23], expected.clamp(-1, 1))


def test_carlini_and_wagners_weight_is_found_by_bisection() -> None:
    """A slope of 1 and a boundary 0.85 away: weight c comes to a rest at c / 2, so that 1.7 is just enough. From 1 the search goes on by
    10, 5.5, 3.25, 2.125 and 1.5625, of which the last is too little again."""
    seen = list[float]()

    def ramp(x: Tensor) -> Tensor:
        seen.append(float(x.detach()))
        return torch.cat([0.85 + x, torch.zeros_like(x)], 1)

    region = L2(MIN).around(torch.zeros(1, 1, dtype=torch.float64), box=None)
    attacks.carlini_wagner(objective(ramp, Misclassify(0)), region, steps=6 * 150, searches=6, step_size=0.05, weight=1.0)
    ends = seen[149::150]
    assert [abs(end + 0.85) < 0.06 for end in ends] == [False, True, True, True, True, False]
    assert ends[0] == pytest.approx(-1 / 2, abs=0.02)
    assert ends[5] == pytest.approx(-1.5625 / 2, abs=0.02)


def test_apgd_goes_on_while_it_descends_and_halves_its_step_where_two_periods_brought_nothing() -> None:
    """Losses that fall to the 21st step and are a little higher at the 22nd, the first checkpoint: no reason to stop. From there on they
    fall again, but never so low: at the second, the 41st, it goes back to the 21st step's point and halves its step."""
    seen, losses = list[Tensor](), [9 - 0.1 * n for n in range(22)] + [8.0] + [7.9 - 0.01 * n for n in range(100)]
    signs = [(-1.0) ** n for n in range(101)]

    def scripted(x: Tensor) -> Tensor:
        number = len(seen)
        seen.append(x.detach())
        return torch.cat([losses[number] + signs[number] * (x - x.detach()), torch.zeros_like(x)], 1)

    def onward(number: int, step: float, before: int) -> Tensor:
        here = seen[number]
        move = 0.75 * ((here - step * signs[number]).clamp(-1, 1) - here) + 0.25 * (here - seen[before])
        return (here + move).clamp(-1, 1)

    attacks.apgd(objective(scripted, Misclassify(0, margin)), Linf(1.0).around(torch.zeros(1, 1, dtype=torch.float64), box=None))
    torch.testing.assert_close(seen[1], (seen[0] - 2.0 * signs[0]).clamp(-1, 1))  # the first step is a whole one
    torch.testing.assert_close(seen[23], onward(22, 2.0, before=21))
    torch.testing.assert_close(seen[42], onward(21, 1.0, before=40))
    assert not torch.equal(onward(41, 2.0, before=40), onward(21, 1.0, before=40))


@pytest.mark.parametrize(("losses", "stalls"), [([10, 9, 8, 7, 7.5], True), ([10, 9, 8, 7, 6.0], False)])
def test_apgds_random_start_is_no_step_that_descended(losses: list[float], stalls: bool) -> None:
    """Of 20 steps, progress is judged after the fourth: three of four that descend are no more than 75 %, and the start is none."""
    seen = list[Tensor]()

    def scripted(x: Tensor) -> Tensor:
        number = len(seen)
        seen.append(x.detach())
        return torch.cat([[*losses, *[50.0] * 30][number] + (-1.0) ** number * (x - x.detach()), torch.zeros_like(x)], 1)

    attacks.apgd(objective(scripted, Misclassify(0, margin)), Linf(1.0).around(torch.zeros(1, 1).double(), box=None), steps=20)
    here, step, slope = (seen[3], 1.0, -1.0) if stalls else (seen[4], 2.0, 1.0)
    moved = here + 0.75 * ((here - step * slope).clamp(-1, 1) - here) + 0.25 * (here - seen[3])
    torch.testing.assert_close(seen[5], moved.clamp(-1, 1))


@pytest.mark.parametrize("bound", [Linf(0.2), L2(0.2), L1(0.2)], ids=str)
def test_random_starts_fill_the_ball_on_all_sides(bound: Linf | L2 | L1) -> None:
    region = bound.around(torch.rand(600, 3, generator=torch.Generator().manual_seed(0)), box=None)
    for drawn in (random_start(region, seed=1), region.sample([torch.Generator().manual_seed(i) for i in range(600)])):
        share = region.norm.gauge(drawn) / 0.2
        assert share.max() <= 1
        assert abs(float((share > 2 ** (-1 / 3)).float().mean()) - 0.5) < 0.07  # where half of the volume lies
        assert ((drawn > 0).float().mean(0) - 0.5).abs().max() < 0.07


def test_the_first_of_restarts_begins_where_it_was_told_to() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 2, None)
    seen = list[Tensor]()
    spy = Classifier(lambda inputs: (seen.append(inputs.detach().clone()), net(inputs))[1])
    attacks.pgd(objective(spy, Misclassify(labels_of(net, x))), Linf(1e-6).around(x, box=None), steps=1, restarts=3, random_start=False)
    assert [torch.equal(inputs, x) for inputs in seen[::2]] == [True, False, False]


@pytest.mark.parametrize("weight", [0.0, 1e-3, 0.3, 2.0])
def test_the_proximal_operator_of_the_power_two_thirds_is_the_argmin(weight: float) -> None:
    delta, grid = torch.linspace(-4, 4, 33), torch.linspace(-4.0, 4.0, 20001, dtype=torch.float64)
    cost = weight * grid.abs() ** (2 / 3) + (grid - delta[:, None]).square() / 2
    assert torch.allclose(prox_l23(delta[None], torch.full((1, 33), weight))[0].double(), grid[cost.argmin(1)], atol=5e-4)
    places = prox_l23(delta.repeat(1, 3, 1) * torch.tensor([0.6, 0.0, 0.8])[:, None], torch.full((1, 3, 33), weight))
    assert torch.allclose(places.norm(dim=1)[0].double(), grid[cost.argmin(1)].abs(), atol=5e-4)  # channels go together


class Thresholds(nn.Module):
    """Two classes of 100 inputs, the first input the most telling: 0.9 of it makes the second. Below 0.4 all have hardly a slope."""

    def forward(self, inputs: Tensor) -> Tensor:
        lead = 1 - (inputs - 0.4).clamp_min(0) @ (2 * 0.8 ** torch.arange(100)) - 1e-3 * inputs.sum(1)
        return torch.stack([lead, torch.zeros_like(lead)], 1)


def test_fmn_goes_far_enough_in_few_steps() -> None:
    """The nearest change is 0.9 of one entry; the paper's own step and gamma are too short for the way there and back."""
    x = torch.tensor([[0.0], [0.01], [0.02]]).expand(3, 100)
    wanted, region = objective(Thresholds(), Misclassify(0)), L1(MIN).around(x)
    assert attacks.fmn(wanted, region, steps=20).gauge.max() < 4
    assert attacks.fmn(wanted, region, steps=20, step_size=1.0, gamma=0.05).gauge.min() > 20
    torch.testing.assert_close(attacks.fmn(wanted, region, steps=100).gauge, 0.9 - x[:, 0], atol=2e-3, rtol=0)


def test_fmn_goes_the_steepest_way_where_what_is_allowed_depends_on_the_place() -> None:
    """Along the slope itself it ends one and a half to three times as far out, in features and under a masking threshold."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    features, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).eval(), torch.rand(8, 1, 8, 8)
    wanted, region = objective(net, Misclassify(net(x).argmax(1))), Feature(features, MIN).around(x)
    share = attacks.fmn(wanted, region).gauge / attacks.find_then_shrink(wanted, region, steps=200).gauge
    assert share.median() < 1.1
    keywords = nn.Sequential(nn.Linear(4000, 16, bias=False), nn.Tanh(), nn.Linear(16, 3)).eval()
    sound = 0.1 * torch.randn(6, 4000) * torch.linspace(0, 1, 4000)
    wanted = objective(keywords, Misclassify(keywords(sound).argmax(1)))
    region = Masked(MIN).around(sound, box=(-1.0, 1.0))
    share = attacks.fmn(wanted, region).gauge - attacks.find_then_shrink(wanted, region, steps=200).gauge
    assert share.median() < 1, "decibels"


def test_fmn_in_l0_begins_at_one_entry() -> None:
    """From a wide ball it does not come back to few: 97 entries in all. On digits that the bundled net is right about."""
    net, data = load_classifier("mnist"), digits()
    images = nn.functional.interpolate(data.images[:20], 28, mode="bilinear")
    right = net(images).argmax(1) == data.labels[:20]
    wanted, region = objective(net, Misclassify(data.labels[:20][right])), L0(MIN).around(images[right])
    assert attacks.fmn(wanted, region, steps=100).gauge.sum() < 65
    assert all(attacks.fmn(wanted, region, steps=20).reached)


def test_runs_of_fmn_keep_the_smallest_change_and_only_the_first_begins_at_the_clean_input() -> None:
    net, x = small(4, SHAPE, seed=3), inputs_for(SHAPE, 12, (0, 1))
    wanted = objective(net, Misclassify(labels_of(net, x)))
    region = L1(MIN).around(x)
    first, *others = (attacks.fmn(wanted, region, steps=20, far=k > 0, seed=k) for k in range(3))
    runs = attacks.fmn(wanted, region, steps=20, restarts=3)
    torch.testing.assert_close(runs.gauge, torch.stack([first.gauge, *(one.gauge for one in others)]).amin(0))
    assert (runs.gauge < first.gauge).any()
    torch.testing.assert_close(region.gauge(runs.adversarial), runs.gauge)
    assert (runs.backwards == 60).all()
    assert all(runs.reached)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:5]
    apart = attacks.fmn(wanted.begun(x).rows(order), region.rows(order), steps=20, restarts=3)
    torch.testing.assert_close(apart.gauge, runs.gauge[order], rtol=1e-6, atol=0)
    fixed = region.at(1.05 * runs.gauge)
    assert all(attacks.fmn(wanted, fixed, steps=20, restarts=3).reached)
    assert not all(attacks.fmn(wanted, fixed, steps=20).reached)
    asked = list[Tensor]()
    spied = objective(lambda inputs: asked.append(inputs), Misclassify(0))
    for options in ({"restarts": 2}, {"far": True}):
        with pytest.raises(OptionError, match="has none"):
            attacks.fmn(spied, L1(MIN).around(x, box=None), **options)
    assert not asked


def test_the_way_back_is_halved_ten_times() -> None:
    x = torch.zeros(3, 4, dtype=torch.float64)
    run = Run(objective(lambda inputs: torch.stack([0.3 - inputs[:, 0], 0 * inputs[:, 0]], 1), Misclassify(0)), L2(MIN).around(x, box=None))
    ends = torch.tensor([[1.0, 1, 0, 0], [0.4, 0, 0, 2], [7.0, -7, 0, 0]], dtype=torch.float64)
    back = blend_back(run, ends)
    share = back[:, 0] / ends[:, 0]
    torch.testing.assert_close(back, share[:, None] * ends)
    assert (back[:, 0] > 0.3).all()
    assert (share - 0.3 / ends[:, 0] <= 2**-10).all()


@pytest.mark.parametrize("bound", [L2(MIN), Linf(MIN)], ids=str)
def test_hop_skip_jumps_slope_is_the_mean_of_directions_by_success_less_its_share(bound: L2 | Linf) -> None:
    """Chen et al. 2020, equation 16; for a point that lies well beyond the boundary, so that most directions succeed."""
    net, x, seen = linear(2, SHAPE), inputs_for(SHAPE, 4, None), list[Tensor]()
    wanted, weight = Misclassify(labels_of(net, x)), (net[1].weight[0] - net[1].weight[1]).detach()
    away = -labels_of(net, x).mul(-2).add(1)[:, None] * weight / weight.norm()
    scores = net(x).detach()
    delta = (((scores[:, :1] - scores[:, 1:]).abs() / weight.norm() + 0.005) * away).view_as(x)

    def spied(inputs: Tensor) -> Tensor:
        seen.append(inputs - x - delta)
        return net(inputs)

    run = Run(objective(spied, wanted), bound.around(x, box=None))
    slope = boundary_slope(run, delta, 200, Draws.of(0, x), first=True)
    ways = torch.stack(seen)
    signs = torch.stack([2.0 * wanted.reached(net(x + delta + way)) - 1 for way in ways]).double()[..., None, None, None]
    torch.testing.assert_close(ways.flatten(2).norm(dim=2), torch.full((200, 4), 0.1, dtype=torch.float64))
    assert (signs.mean(0).abs() > 0.1).all()
    expected = ((signs - signs.mean(0)) * ways).sum(0)
    expected = expected.sign() if isinstance(bound, Linf) else expected / expected.flatten(1).norm(dim=1)[:, None, None, None]
    torch.testing.assert_close(slope, expected)


def test_hop_skip_jumps_stride_falls_with_the_root_of_the_steps() -> None:
    net, x, seen = linear(2, SHAPE), inputs_for(SHAPE, 1, None), list[Tensor]()
    wanted = Misclassify(labels_of(net, x))

    def spied(inputs: Tensor) -> Tensor:
        seen.append(inputs - x)
        return net(inputs)

    attacks.hop_skip_jump(objective(spied, wanted), L2(MIN).around(x, box=None), steps=2, draws=30)
    lengths, hits = torch.cat(seen).flatten(1).norm(dim=1), wanted.reached(net(x + torch.cat(seen))).tolist()
    stride = hits.index(True) + 1 + 10 + 30  # found; back to the boundary; its slope
    stridden = hits.index(True, stride)
    back = range(stridden, stridden + 11)
    base = min((number for number in back if hits[number]), key=lambda number: float(lengths[number]))
    second = stridden + 1 + 10 + math.ceil(30 * math.sqrt(2))
    torch.testing.assert_close((seen[second] - seen[base]).norm(), lengths[base] / math.sqrt(2))


def test_hop_skip_jump_goes_in_l1_the_way_of_l2_and_judges_what_it_finds_by_its_own_length() -> None:
    net, x, seen = linear(2, SHAPE), inputs_for(SHAPE, 3, None), dict[str, list[Tensor]]()
    wanted = Misclassify(labels_of(net, x))
    for spec in ("l2:min", "l1:min"):

        def spied(inputs: Tensor, name: str = spec) -> Tensor:
            seen.setdefault(name, []).append(inputs)
            return net(inputs)

        found = attacks.hop_skip_jump(objective(spied, wanted), parse_bound(spec).around(x, box=None), steps=3, draws=10)
        torch.testing.assert_close(found.gauge, (found.adversarial - x).flatten(1).norm(p=int(spec[1]), dim=1))
    torch.testing.assert_close(torch.cat(seen["l1:min"]), torch.cat(seen["l2:min"]))


def test_hop_skip_jump_comes_near_the_nearest() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 12, None)
    scores, weight = net(x).detach(), net[1].weight.detach()
    distance = (scores[:, 0] - scores[:, 1]).abs() / (weight[0] - weight[1]).norm()
    found = attacks.hop_skip_jump(objective(net, Misclassify(labels_of(net, x))), L2(MIN).around(x, box=None), steps=12, draws=60)
    assert (found.gauge / distance).median() < 1.05


@pytest.mark.parametrize("shape", [(30,), (3, 5, 6)], ids=str)
def test_square_asks_at_the_edge_of_the_ball_throughout(shape: tuple[int, ...]) -> None:
    """In Linf by the whole radius at every entry, from stripes; in L2 by all of the length. A window has one sign a channel."""
    seen, x = list[Tensor](), inputs_for(shape, 2, None)

    def spied(inputs: Tensor) -> Tensor:
        seen.append(inputs - x)
        lead = 9.0 + len(seen) % 3 + 0 * inputs.flatten(1).sum(1)  # every third query is the best so far, or as good
        return torch.stack([lead, torch.zeros_like(lead)], 1)

    attacks.square(objective(spied, Misclassify(0)), Linf(0.2).around(x, box=None), steps=40)
    changes = torch.stack(seen)
    torch.testing.assert_close(changes.abs(), torch.full_like(changes, 0.2))
    if len(shape) == 3:
        assert torch.equal(changes[0].sign(), changes[0, :, :, :1].sign().expand_as(changes[0]))
    moved = changes[1] != changes[0]
    assert moved.any()
    for signs, where in zip(changes[1].flatten(0, 1 if len(shape) == 3 else 0), moved.flatten(0, 1 if len(shape) == 3 else 0), strict=True):
        assert len(signs[where].sign().unique()) <= 1
    seen.clear()
    attacks.square(objective(spied, Misclassify(0)), L2(1.5).around(x, box=None), steps=40)
    lengths = torch.stack(seen).flatten(2).norm(dim=2)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 1.5), rtol=1e-5, atol=0)


def test_square_begins_where_fmn_came_nearest() -> None:
    net, x = small(4, SHAPE), inputs_for(SHAPE, 20, (0, 1))
    wanted = objective(net, Misclassify(labels_of(net, x), margin))
    nearest = attacks.fmn(wanted, L2(MIN).around(x))
    region = L2(1.0).around(x).at(torch.where(torch.arange(20) % 2 == 0, 1.01, 0.9) * nearest.gauge)
    found = near_then_square(wanted, region, steps=1)
    assert found.reached == [True, False] * 10  # one query is enough, where there is room for what FMN found
    assert (found.forwards == 100 + 1).all()
    assert (found.backwards == 100).all()


def test_success_within_a_fixed_bound_is_within_it() -> None:
    net, x = small(3, (1, 4, 4)), inputs_for((1, 4, 4), 12, (0, 1))
    region = Linf(0.02).around(x)
    found = attacks.find_then_shrink(objective(net, Misclassify(labels_of(net, x))), region, steps=60)
    assert not all(found.reached)
    assert region.holds(region.gauge(found.adversarial)).all()


def test_zeros_of_either_sign_are_padding() -> None:
    x = torch.tensor([[0.1, 0.2, -0.3, 0.0, 0.0], [0.1, 0.2, -0.3, -0.0, -0.0]])
    assert len({*example_keys(0, x).tolist(), *example_keys(0, x[:, :3]).tolist()}) == 1


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "apgd", "square", "genetic", "msd", "fmn"])
def test_of_no_examples_nothing_is_found(attack: str) -> None:
    net, x = small(3, (1, 4, 4)), inputs_for((1, 4, 4), 3, (0, 1))[:0]
    bound = Linf(0.1) | L2(0.1) if attack == "msd" else Linf(0.1)
    found = getattr(attacks, attack)(objective(net, Misclassify(labels_of(net, x))), bound.around(x))
    assert len(found.adversarial) == 0


def test_neither_gradients_of_the_callers_nor_their_absence_matter() -> None:
    net, x = small(3, (1, 4, 4)), inputs_for((1, 4, 4), 6, (0, 1))
    goal = Misclassify(labels_of(net, x))
    plain = attacks.pgd(objective(net, goal), Linf(0.1).around(x), steps=4)
    leaf = x.clone().requires_grad_()
    for within in (nullcontext(), torch.no_grad()):
        with within:
            found = attacks.pgd(objective(net, goal), Linf(0.1).around(leaf), steps=4)
        assert torch.equal(found.adversarial, plain.adversarial)
        assert not found.adversarial.requires_grad


def test_a_walk_from_any_noise_is_refused_where_noise_does_not_fit() -> None:
    net, x = small(3, (1, 4, 4)), inputs_for((1, 4, 4), 2, (0, 1))
    with pytest.raises(OptionError, match="starts from any noise"):
        attacks.boundary(objective(net, Misclassify(labels_of(net, x))), parse_bound("l2:min_and_linf:0.1").around(x))


@pytest.mark.parametrize("attack", [partial(attacks.boundary, steps=100), partial(attacks.hop_skip_jump, steps=3)], ids=["walk", "jumps"])
def test_a_walk_begins_where_it_is_told_to_and_elsewhere_in_noise(attack: Attack) -> None:
    """Of the class of inputs that are bright on the left and dark on the right, no noise is."""

    def sides(x: Tensor) -> Tensor:
        left, right = x[:, :30].mean(1), x[:, 30:].mean(1)
        return torch.stack([0 * left + 0.6, left - right], 1)

    x = inputs_for((60,), 4, (0, 1)) * 0.5 + 0.25
    wanted, region = objective(sides, Classify(1)), L2(MIN).around(x)
    assert attack(wanted, region, tries=20).outcome == (Outcome.MISSED,) * 4
    begin = (torch.arange(60) < 30).double() - x
    begin[2] = 0  # does not reach the goal
    begin[3] *= 3  # does, in the box
    found = attack(wanted, region, tries=20, begin=begin)
    assert found.outcome == (Outcome.REACHED, Outcome.REACHED, Outcome.MISSED, Outcome.REACHED)
    assert found.forwards[2] == 21
    came = torch.tensor([0, 1, 3])
    assert (found.gauge[came] < 0.8 * region.gauge(x + begin)[came]).all()
    with pytest.raises(UnusableBatch, match="shape"):
        attack(wanted, region, begin=begin[:2])


def test_a_walks_first_sideways_steps_are_square_to_the_way_to_the_clean_input() -> None:
    """On the sphere around it: a step as long as a tenth of the radius, brought back onto it, is still a tenth's angle away."""
    seen, x = list[Tensor](), torch.zeros(1, 8, dtype=torch.float64)

    def half(inputs: Tensor) -> Tensor:
        seen.append(inputs.clone())
        return torch.stack([0 * inputs[:, 0] + 1, inputs[:, 0] + 1e-3], 1)

    begin = torch.tensor([[2.0, 1, -1, 1, 0, 2, 0, 1]], dtype=torch.float64)
    attacks.boundary(objective(half, Misclassify(0)), L2(MIN).around(x, box=None), steps=1, begin=begin)
    here = min((inputs for inputs in seen[:11] if inputs[0, 0] > 1 - 1e-3), key=lambda inputs: float(inputs.norm()))
    beside = seen[11]
    torch.testing.assert_close(beside.norm(), here.norm())
    torch.testing.assert_close((beside * here).sum() / here.square().sum(), torch.tensor(1.01**-0.5, dtype=torch.float64))


def test_genetic_over_a_channel_breeds_and_counts_what_it_asks() -> None:
    net, x = small(3, (1, 4, 4)), inputs_for((1, 4, 4), 4, (0, 1))
    asked: list[int] = []

    def counted(inputs: Tensor) -> Tensor:
        asked.append(len(inputs))
        return net(inputs)

    wanted = objective(counted, Misclassify(labels_of(net, x)), None, Expectation(parse_channel("gaussian:0.02"), draws=2, check_draws=4))
    found = attacks.genetic(wanted, Linf(0.05).around(x), steps=4, herd=4)
    assert int(found.forwards.sum()) == sum(asked)


def test_genetic_keeps_what_is_heard_oftener_over_a_channel() -> None:
    """The best of a herd is looked at again: by the share of the herd's last, which is another, most would not be put to the check."""
    way = torch.randn(16, generator=torch.Generator().manual_seed(1)).sign()
    x = 0.5 + torch.linspace(0, 1e-3, 6)[:, None, None, None].expand(6, 1, 4, 4)

    def net(inputs: Tensor) -> Tensor:
        return torch.nn.functional.pad((0.44 - (inputs - 0.5).flatten(1) @ way)[:, None], (0, 1))

    over = Expectation(parse_channel("gaussian:0.02"), draws=4, check_draws=32)
    wanted = objective(net, Misclassify(torch.zeros(6, dtype=torch.int64)), None, over)
    rates = [attacks.genetic(wanted, Linf(0.05).around(x), steps=20, herd=8, seed=seed).rate for seed in range(10)]
    assert torch.stack([rate for rate in rates if rate is not None]).mean() > 0.84  # 0.81 by the herd's last


def test_a_model_without_slopes_is_said_to_be_one_over_a_channel_too() -> None:
    x = inputs_for((1, 4, 4), 2, (0, 1))
    blind = objective(
        lambda inputs: inputs.detach().flatten(1), Misclassify(torch.tensor([0, 1])), None, Expectation(parse_channel("gaussian:0.1"))
    )
    with pytest.raises(AccessDenied, match="no gradient"):
        attacks.pgd(blind, Linf(0.1).around(x))

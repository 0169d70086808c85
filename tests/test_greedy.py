"""Greedy search among sparse changes: the best of all on nets where that is known, beyond thresholds, out of traps, within its forwards."""

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from audioadv import L0, L1, MIN, Linf, Misclassify, attacks, objective
from audioadv.attacks.greedy import AT_ONCE, Search, swap
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack
from audioadv.errors import OptionError
from audioadv.evaluation.adaptive import gradient_free
from audioadv.threat.bounds import Bound
from audioadv.threat.channels.channel import NOTHING


class Lead:
    """Two classes, the first of which leads by `lead` less what a function makes of the inputs. `asked` counts inputs."""

    def __init__(self, gained: Callable[[Tensor], Tensor], lead: float) -> None:
        self.gained, self.lead, self.asked = gained, lead, 0

    def __call__(self, inputs: Tensor) -> Tensor:
        self.asked += len(inputs)
        ahead = self.lead - self.gained(inputs)
        return torch.stack([3 + ahead, torch.full_like(ahead, 3.0)], 1)  # no probabilities


def missed(net: Lead) -> Objective:
    return objective(net, Misclassify(0))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def linear(x: Tensor, seed: int = 1) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Weights, and what they make of a change of x. Shapes: x [1, *] -> as x."""
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return weights, lambda inputs: ((inputs - x) * weights).flatten(1).sum(1)


def most(weights: Tensor, x: Tensor) -> Tensor:
    """What each entry is worth at its better end."""
    return torch.where(weights > 0, weights * (1 - x), -weights * x)


@pytest.mark.parametrize("seed", range(3))
def test_on_a_linear_net_it_changes_the_fewest_places_that_do(seed: int) -> None:
    x = drawn(1, 3, 5, 6, seed=seed)  # of three colours: each pixel to its best corner
    weights, gained = linear(x)
    worth = most(weights, x).sum(1).flatten().sort(descending=True).values.cumsum(0)
    found = attacks.greedy(missed(Lead(gained, 0.999 * float(worth[4]))), L0(MIN).around(x), steps=2000)
    assert found.reached == [True]
    assert found.gauge.tolist() == [5.0]


@pytest.mark.parametrize("seed", range(3))
def test_in_l1_it_takes_the_entries_of_most_worth_a_unit(seed: int) -> None:
    """Within a radius, entries are filled in the order of their slopes, and the last one as far as there is room."""
    x = drawn(1, 40, seed=seed)
    weights, gained = linear(x)
    room = torch.where(weights > 0, 1 - x, x)
    order = weights.abs().flatten().argsort(descending=True)
    filled = (2.5 - torch.cat([torch.zeros(1), room[0, order].cumsum(0)[:-1]])).clamp_min(0).minimum(room[0, order])
    best = float((weights.abs()[0, order] * filled).sum())
    for lead, reached in ((0.99 * best, True), (1.01 * best, False)):
        found = attacks.greedy(missed(Lead(gained, lead)), L1(2.5).around(x))
        assert found.reached == [reached]
        assert not reached or 0 < float(found.gauge) <= 2.5 * (1 + 1e-6)


def test_it_finds_what_lies_beyond_a_threshold_where_slopes_are_nothing() -> None:
    """Of 60 entries 4 count, each once it is above 0.55: a move of 0.6 of the way will do, and all four fit into 2.5 only so."""
    counting = torch.zeros(60)
    counting[[3, 17, 31, 58]] = 1.0
    net, x = Lead(lambda inputs: ((inputs > 0.55) * counting).sum(1) + 0 * inputs.sum(1), 3.5), torch.zeros(1, 60)
    for bound in (L0(4), L1(2.5)):
        assert not attacks.apgd(missed(net), bound.around(x)).reached[0]
        found = attacks.greedy(missed(net), bound.around(x), steps=1500)
        assert found.reached == [True]
        assert ((found.adversarial - x).abs() > 0.55)[0].nonzero()[:, 0].tolist() == [3, 17, 31, 58]
        assert found.backwards.tolist() == [0]
    assert not attacks.greedy(missed(net), L1(2.3).around(x), steps=1500).reached[0]


@pytest.mark.parametrize("search", [attacks.standard, gradient_free])
@pytest.mark.parametrize("bound", [L0(3), L1(3)])
def test_standard_ends_with_it_and_who_has_no_slopes_begins_with_it(search: Attack, bound: Bound) -> None:
    net, x = Lead(lambda inputs: (inputs > 0.8)[:, :3].sum(1) + 0 * inputs.sum(1), 2.5), torch.zeros(2, 30)
    assert search(missed_by_all(net, 2), bound.around(x)).reached == [True, True]


def test_without_slopes_the_smallest_is_searched_for_too() -> None:
    x = torch.zeros(1, 30)
    found = gradient_free(missed(Lead(lambda inputs: inputs[:, :8].sum(1), 3.5)), L0(MIN).around(x))
    assert found.gauge.tolist() == [4.0]


def missed_by_all(net: Lead, count: int) -> Objective:
    return objective(net, Misclassify(torch.zeros(count, dtype=torch.int64)))


def trap(inputs: Tensor) -> Tensor:
    """The first entry is worth most alone, but spoils the others, which are worth enough together."""
    decoy, rest = inputs[:, 0], inputs[:, 1:4].sum(1)
    return 2 * decoy + rest - 1.5 * decoy * rest


def test_what_was_taken_first_is_given_back_where_it_is_in_the_way() -> None:
    x = torch.zeros(1, 4)
    best = {some: float(trap(x.index_fill(1, torch.tensor(some), 1.0))) for some in combinations(range(4), 3)}
    assert [some for some, gained in best.items() if gained > 2.9] == [(1, 2, 3)]
    assert attacks.greedy(missed(Lead(trap, 2.9)), L0(3).around(x), steps=600, tries=8).reached == [True]


def test_gains_are_looked_at_again_since_moves_change_each_others() -> None:
    """Pairs are worth nothing apart: the partner's gain is known only once the first one is there."""
    weights = torch.linspace(1.0, 2.0, 6)

    def pairs(inputs: Tensor) -> Tensor:
        return (inputs[:, :6] * (0.1 + inputs[:, 6:12]) * weights).sum(1)

    found = attacks.greedy(missed(Lead(pairs, 4.0)), L0(4).around(torch.zeros(1, 12)), steps=800, tries=12)
    assert found.reached == [True]
    assert found.adversarial[0].nonzero()[:, 0].tolist() == [4, 5, 10, 11]


@pytest.mark.parametrize(("steps", "tries"), [(1, 32), (7, 32), (100, 32), (100, 9), (333, 1)])
def test_it_spends_no_more_forwards_than_it_may(steps: int, tries: int) -> None:
    x = drawn(1, 50)
    net = Lead(linear(x)[1], 1e9)
    found = attacks.greedy(missed(net), L1(1).around(x), steps=steps, tries=tries)
    assert found.forwards.tolist() == [net.asked]
    assert steps - tries - 1 <= net.asked <= max(steps, 2)


def test_where_there_are_too_many_moves_the_slope_says_which_are_looked_at() -> None:
    x = drawn(1, 3000)
    weights, gained = linear(x)
    worth = most(weights, x).flatten().sort(descending=True).values.cumsum(0)
    search = partial(attacks.greedy, missed(Lead(gained, 0.95 * float(worth[9]))), L0(10).around(x), steps=800)
    assert search(by_slope=True).reached == [True]
    assert search(by_slope=True).backwards.tolist() == [1]
    assert search().reached == [False]


def test_it_asks_about_nothing_outside_its_bound() -> None:
    seen = list[Tensor]()
    x = drawn(3, 2, 4, 5)

    def gained(inputs: Tensor) -> Tensor:
        seen.append(inputs.clone())
        return inputs.flatten(1)[:, :7].sum(1)

    for bound in (L0(3), L1(1.7)):
        seen.clear()
        attacks.greedy(missed_by_all(Lead(gained, 1e9), 3), bound.around(x), steps=700, tries=20)
        for inputs in seen:
            assert inputs.min() >= 0
            assert inputs.max() <= 1
            own = x.repeat_interleave(len(inputs) // 3, 0)
            assert (bound.around(own).gauge(inputs) <= bound.radius * (1 + 1e-5)).all()


class Asked(Lead):
    """Remembers what it was asked about, call by call."""

    def __init__(self, gained: Callable[[Tensor], Tensor], lead: float = 1e9) -> None:
        super().__init__(gained, lead)
        self.calls = list[Tensor]()

    def __call__(self, inputs: Tensor) -> Tensor:
        self.calls.append(inputs.detach().clone())
        return super().__call__(inputs)


def test_first_of_all_each_move_is_looked_at_once() -> None:
    """Of 20 entries in L1 there are 80 moves: from where they are, down and up, all the way or 0.6 of it."""
    x = 0.2 + 0.6 * drawn(1, 20)
    net = Asked(lambda inputs: inputs.sum(1))
    attacks.greedy(missed(net), L1(1).around(x), steps=360, tries=8)
    looks = torch.cat([call[1:] for call in net.calls[:10]]) - x
    assert all(torch.equal(call[:1], x) for call in net.calls[:10])
    moves = torch.cat([torch.diag_embed(share * end[0]) for end in (-x, 1 - x) for share in (1.0, 0.6)])
    assert len(looks) == len(moves) == 80
    torch.testing.assert_close((looks[:, None] - moves).abs().amax(2).min(0).values, torch.zeros(80))
    assert not torch.equal(net.calls[11][:1], x)


def test_what_padding_would_be_is_not_looked_at() -> None:
    x, lengths = drawn(2, 30), torch.tensor([30, 12])
    x[1, 12:] = 0
    net = Asked(lambda inputs: inputs[:, :5].sum(1))
    attacks.greedy(missed_by_all(net, 2), L0(3).around(x, lengths, box=(-1.0, 1.0)), steps=200, tries=8)
    short = torch.stack([call[9:] for call in net.calls])
    assert not short[:, :, 12:].any()
    assert (short[:3] != x[1]).any(2).sum() == 24  # both ends of each entry


def test_a_move_that_went_part_of_the_way_may_go_on() -> None:
    """The first 0.6 of an entry are worth 0.77, the rest 0.23: three go that far, and what room is left takes one of them further."""
    net = Lead(lambda inputs: inputs.clamp_min(0).sqrt().sum(1), 2.43)
    found = attacks.greedy(missed(net), L1(2).around(torch.zeros(1, 3)), steps=35, tries=6)
    assert found.reached == [True]
    torch.testing.assert_close(found.adversarial.sort().values, torch.tensor([[0.6, 0.6, 0.8]]))


def test_moves_are_ranked_by_what_they_bring_a_unit() -> None:
    """One move a time: wide entries of small slope bring more in all, narrow ones of large slope more for what they cost."""
    x = torch.cat([torch.zeros(1, 6), torch.full((1, 6), 0.75)], 1)
    weights = torch.cat([torch.full((1, 6), 1.0), torch.full((1, 6), 2.0)], 1)
    net = Lead(lambda inputs: ((inputs - x) * weights).sum(1), 0.99 * 2 * 6 * 0.25)
    for by_slope in (False, True):
        found = attacks.greedy(missed(net), L1(1.5).around(x), steps=48 if by_slope else 200, tries=1, by_slope=by_slope)
        assert found.reached == [True]


def test_of_two_that_do_it_takes_the_smaller() -> None:
    x = torch.tensor([[0.0, 0.7, 0.5]])
    found = attacks.greedy(missed(Lead(lambda inputs: ((inputs - x) > torch.tensor([0.9, 0.1, 0.4])).sum(1) * 1.0, 0.5)), L1(2).around(x))
    assert found.gauge.tolist() == pytest.approx([0.18])


def test_stale_gains_give_way_to_what_is_worth_something_now() -> None:
    """Of eight entries one is as good as all, and alone each brings more than any of the three that add up."""
    net = Lead(lambda inputs: inputs[:, :8].amax(1) + 0.5 * inputs[:, 8:11].sum(1), 2.4)
    found = attacks.greedy(missed(net), L0(4).around(torch.zeros(1, 11)), steps=200, tries=3)
    assert found.reached == [True]


def test_a_smaller_change_than_the_first_that_was_found_is_searched_for() -> None:
    found = attacks.greedy(missed(Lead(trap, 2.9)), L0(MIN).around(torch.zeros(1, 4)), steps=600, tries=8)
    assert found.gauge.tolist() == [3.0]
    x = drawn(1, 40)
    weights, gained = linear(x)
    order = weights.abs().flatten().argsort(descending=True)
    room = torch.where(weights > 0, 1 - x, x)[0, order]
    lead = float((weights.abs()[0, order] * (2.5 - room.cumsum(0) + room).clamp_min(0).minimum(room)).sum())
    assert float(attacks.greedy(missed(Lead(gained, lead)), L1(MIN).around(x)).gauge) < 2.5 * 1.03


@pytest.mark.parametrize(("bound", "below"), [(L0(MIN), lambda gauge: gauge - 1), (L1(MIN), lambda gauge: 0.98 * gauge)])
def test_what_was_found_is_undercut_from_then_on(bound: Bound, below: Callable[[float], float]) -> None:
    net, x = Asked(lambda inputs: inputs[:, :9].sum(1), 2.5), 0.3 * drawn(1, 12)
    found = attacks.greedy(missed(net), bound.around(x), steps=400, tries=8)
    least = math.inf
    for call in net.calls:
        sizes = bound.around(x.expand_as(call)).gauge(call)
        hit = sizes[net.gained(call) > 2.5]
        assert (sizes <= max(below(least), 0) + 1e-5).all()
        least = min([least, *hit.tolist()])
    assert found.gauge.tolist() == pytest.approx([least])


def test_swaps_take_one_to_three_places_back() -> None:
    x = drawn(1, 30)
    net = Asked(linear(x)[1])
    attacks.greedy(missed(net), L0(6).around(x), steps=2000, tries=20)
    left = [int((call[0] != x[0]).sum()) for call in net.calls]
    swapped = [after for before, after in pairwise(left) if after <= before and before == 5]
    assert {*swapped} == {3, 4, 5}


@pytest.mark.parametrize(("loss", "limit", "accepted"), [(0.9, 2, True), (1.0, 2, True), (1.1, 2, False), (0.9, 1, False)])
def test_a_full_change_is_the_new_base_where_it_is_no_worse_and_allowed(loss: float, limit: int, accepted: bool) -> None:
    def one(*values: float) -> Tensor:
        return torch.tensor([values])

    change, base, numbers = one(1, 0, 1, 0)[:, None], one(0, 1, 1, 1)[:, None], one(0.5, 0.2, 0.9, 0.1)
    search = Search(one(1, 1, 1, 1)[:, None], change, base, one(loss)[0], one(1.0)[0], numbers, numbers, one(limit)[0])
    swap(search, torch.tensor([False]), True, numbers, torch.tensor([1]))
    assert torch.equal(search.change, change)
    swap(search, torch.tensor([True]), True, numbers, torch.tensor([1]))
    kept = change if accepted else base
    assert torch.equal(search.base, kept)
    assert float(search.lowest) == (pytest.approx(loss) if accepted else 1.0)
    back = 0 if accepted else 3  # of the places that are changed, the first in order
    assert torch.equal(search.change[0, 0], kept[0, 0].index_fill(0, torch.tensor(back), 0.0))


def test_what_a_neighbour_does_changes_nothing() -> None:
    x = drawn(3, 20)
    goals = torch.tensor([[2.0], [4.0], [1e9]])

    def gained(inputs: Tensor) -> Tensor:
        return inputs[:, :9].square().sum(1) - inputs[:, 9:].prod(1)

    together = attacks.greedy(missed_by_all(Lead(gained, 3.6), 3), L1(1.5).around(x), steps=500, tries=8)
    for row in range(len(goals)):
        alone = attacks.greedy(missed(Lead(gained, 3.6)), L1(1.5).around(x[row : row + 1]), steps=500, tries=8)
        torch.testing.assert_close(alone.adversarial[0], together.adversarial[row])
        assert alone.forwards[0] == together.forwards[row]


def test_it_shows_a_model_no_more_than_so_many_at_once() -> None:
    net = Asked(lambda inputs: inputs.sum(1))
    attacks.greedy(missed_by_all(net, 300), L0(2).around(drawn(300, 40)), steps=40, tries=31)
    assert 300 < max(map(len, net.calls)) <= AT_ONCE


def test_slopes_that_are_no_numbers_promise_nothing() -> None:
    """The slope of a root at zero times zero: where slopes are broken, scores are what is left."""
    counting = torch.zeros(400)
    counting[[3, 170, 310, 380]] = 1.0
    net = Lead(lambda inputs: ((inputs > 0.55) * counting).sum(1) + inputs[:, 0].sqrt() * 0, 3.5)
    for search in (partial(attacks.greedy, by_slope=True, steps=1500), attacks.standard):
        assert search(missed(net), L0(4).around(torch.zeros(1, 400))).reached == [True]


@pytest.mark.parametrize("radius", [0.003, 0.05, 0.3])
def test_within_a_radius_of_less_than_a_move_it_goes_as_far_as_it_may(radius: float) -> None:
    net = Lead(lambda inputs: 10 * inputs[:, 3], 9.99 * radius)
    assert attacks.greedy(missed(net), L1(radius).around(torch.zeros(1, 8)), steps=100).reached == [True]


@pytest.mark.parametrize("bound", [L0(MIN), L1(MIN), L1(2)])
def test_among_moves_that_are_worth_as_much_padding_does_not_choose(bound: Bound) -> None:
    x, lengths = torch.zeros(2, 90), torch.tensor([90, 40])
    net = Lead(lambda inputs: (inputs[:, :40] > 0.5).float().sum(1).clamp_max(3) - 0.4 * inputs[:, 5], 2.5)
    region = bound.around(x, lengths, box=(-1.0, 1.0))
    together = attacks.greedy(missed_by_all(net, 2), region, steps=900)
    alone = attacks.greedy(missed(net), bound.around(x[1:, :40], box=(-1.0, 1.0)), steps=900)
    assert torch.equal(alone.adversarial[0], together.adversarial[1, :40])


@pytest.mark.parametrize("shape", [(10,), (2, 10), (3, 4, 5)])
@pytest.mark.parametrize("bound", [L0(2), L1(2), L0(MIN)])
def test_of_nobody_nothing_is_asked(bound: Bound, shape: tuple[int, ...]) -> None:
    assert (
        attacks.greedy(missed_by_all(Lead(lambda inputs: inputs.flatten(1).sum(1), 1.0), 0), bound.around(torch.zeros(0, *shape))).reached
        == []
    )


def test_scores_may_be_of_another_kind_than_inputs() -> None:
    net = Lead(lambda inputs: inputs.double().sum(1), 1.5)
    assert attacks.greedy(missed(net), L0(MIN).around(torch.zeros(1, 5)), steps=100).gauge.tolist() == [2.0]


def test_over_a_channel_that_does_nothing_it_finds_the_same() -> None:
    """Each find is heard again before it is kept, since the last look was at another trial."""
    net, x = Lead(trap, 2.9), torch.zeros(1, 4)
    over = objective(net, Misclassify(0), expectation=attacks.Expectation(NOTHING, draws=2, rate=0.9))
    plain, drawn_over = (attacks.greedy(wanted, L1(MIN).around(x), steps=600, tries=8).gauge for wanted in (missed(net), over))
    assert torch.equal(plain, drawn_over)


def test_what_cannot_be_bettered_leaves() -> None:
    one = attacks.greedy(missed(Lead(lambda inputs: inputs[:, 2], 0.5)), L0(MIN).around(torch.zeros(1, 9)), steps=1000)
    none = attacks.greedy(missed(Lead(lambda inputs: inputs.sum(1), 0.5)), L1(0).around(torch.zeros(1, 9)), steps=1000)
    assert one.gauge.tolist() == [1.0]
    assert max(one.steps[0], none.steps[0]) == 1


def test_other_norms_are_refused() -> None:
    with pytest.raises(OptionError, match=r"within L1 or L0.*square"):
        attacks.greedy(missed(Lead(lambda inputs: inputs.sum(1), 1.0)), Linf(0.1).around(torch.zeros(1, 4)))

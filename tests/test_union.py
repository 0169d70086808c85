"""Unions: the worst member, and one step of all, on a model that each member brings down somewhere. Restarts. Mixes of move and change."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from audioadv.attacks.affine import affine
from audioadv.attacks.fmn import fmn
from audioadv.attacks.objective import Objective, objective
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.attacks.survivors import restarted
from audioadv.attacks.union import msd, worst_member
from audioadv.errors import OptionError
from audioadv.threat.bounds import L1, L2, MIN, Bound, Linf, parse_bound
from audioadv.threat.labels import Misclassify
from audioadv.threat.model import ThreatModel
from audioadv.threat.region import Region
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


def test_progress_is_of_the_whole_batch_and_its_word_ends_all_members() -> None:
    region, seen = (Linf(0.1) | L1(2)).around(inputs(), box=None), []

    def tell(step: int, gauge: Tensor, best: Tensor) -> bool:
        seen.append((step, gauge.isfinite().tolist(), (best != inputs()).any(1).tolist()))
        return len(seen) == limit

    limit = 0
    whole = worst_member(pgd, objective(score, Below()), region, steps=40, progress=tell)
    assert whole.reached == [True, True, True, False]
    assert seen[-1] == (80, whole.reached, whole.reached), "the last of the second member, which no longer has the first and third"
    assert [False, True, False, False] not in [reached for _, reached, _ in seen]
    seen.clear()
    limit = 3
    cut = worst_member(pgd, objective(score, Below()), region, steps=40, progress=tell)
    assert len(seen) == limit
    assert int(cut.forwards.max()) == limit


def test_restarts_tell_of_the_whole_batch_and_stop_when_told() -> None:
    region, told = Linf(0.1).around(inputs(), box=None), []

    def tell(step: int, gauge: Tensor, best: Tensor) -> bool:
        told.append((step, gauge.isfinite().tolist(), (best != inputs()).any(1).tolist()))
        return step == limit

    limit = 0
    whole = pgd(objective(score, Below()), region, steps=40, restarts=3, progress=tell)
    assert whole.reached == [True, False, True, False]
    assert told[-1] == (120, whole.reached, whole.reached), "of the third start, which has the second and the last alone"
    told.clear()
    limit = 50
    cut = pgd(objective(score, Below()), region, steps=40, restarts=3, progress=tell)
    assert told[-1][0] == limit
    assert cut.reached == whole.reached
    assert int(cut.forwards.max()) == 41 + 10


def test_restarts_for_the_smallest_tell_too() -> None:
    told: list[int] = []
    region = Linf(MIN).around(torch.zeros(4, SIZE), box=(-1.0, 1.0))
    fmn(
        objective(lambda x: x.mean(1) + 0.05, Below()),
        region,
        steps=10,
        restarts=2,
        progress=lambda step, gauge, best: told.append(len(gauge)),
    )
    assert told == [4] * 20


def test_another_start_is_for_those_who_stand_and_with_other_random_numbers() -> None:
    starts: list[tuple[int, list[float]]] = []

    def spied(wanted: Objective, region: Region, *, seed: int, steps: int) -> AttackResult:
        starts.append((seed, region.clean[:, -1].tolist()))
        return pgd(wanted, region, steps=steps, seed=seed)

    result = restarted(spied, objective(score, Below()), Linf(0.1).around(inputs(), box=None), restarts=3, seed=5, steps=40)
    assert starts == [(5, [0, 1, 2, 3]), (6, [1, 3]), (7, [1, 3])]
    assert result.reached == [True, False, True, False]
    assert result.forwards[[1, 3]].tolist() == [3 * 41] * 2


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


RAMP = torch.linspace(-0.5, 0.5, 40).expand(3, 40).contiguous()  # a sample late is 1 / 39 lower, and its steps stay as they are
LATE, LOUD = Timing(3.0, 0.0), Linf(0.05)


def late_and_uneven(x: Tensor) -> Tensor:
    """Below zero where the middle has come down by 0.055 and a step by 0.015: LATE gives the first alone, LOUD the second alone."""
    return torch.maximum(x[:, 10:30].mean(1) + 0.055, x[:, 21] - x[:, 20] - 1 / 39 + 0.015)


def test_part_of_a_move_and_then_of_a_change_reaches_what_neither_does() -> None:
    seen: list[int] = []

    def spied(x: Tensor) -> Tensor:
        seen.append(len(x))
        return late_and_uneven(x)

    union, mix = (LATE | LOUD).around(RAMP, box=(-1.0, 1.0)), 0.5 * LATE + 0.5 * LOUD
    region = mix.around(RAMP, box=(-1.0, 1.0))
    assert not any(worst_member(pgd, objective(late_and_uneven, Below()), union, steps=40).reached)
    found = affine(pgd, objective(spied, Below()), region, draws=40, restarts=2, steps=40)
    assert found.outcome == (Outcome.REACHED,) * 3
    assert found.forwards.sum() == sum(seen)
    assert (late_and_uneven(found.adversarial) < 0).all()
    assert ThreatModel(mix).check(RAMP, found.adversarial, box=(-1.0, 1.0), parameters=found.parameters) == [None] * 3
    assert (found.gauge <= 1 + 1e-5).all()
    alone = affine(pgd, objective(late_and_uneven, Below()), mix.around(RAMP[:1], box=(-1.0, 1.0)), draws=40, restarts=2, steps=40)
    torch.testing.assert_close(alone.adversarial[0], found.adversarial[0])
    few = affine(pgd, objective(late_and_uneven, Below()), (0.9 * LATE + 0.1 * LOUD).around(RAMP, box=(-1.0, 1.0)), steps=5)
    assert few.outcome == (Outcome.MISSED,) * 3  # a step of 0.015 wants more noise than that
    assert torch.equal(few.adversarial, RAMP)
    assert not few.parameters.any()


def test_affine_at_the_ends_is_the_moves_or_the_attack_and_keeps_its_order() -> None:
    def low(x: Tensor) -> Tensor:
        return x[:, 10:30].mean(1) + 0.045

    wanted = objective(low, Below())
    moved = affine(pgd, wanted, LATE.around(RAMP, box=(-1.0, 1.0)), draws=20)
    assert moved.outcome == (Outcome.REACHED,) * 3
    assert not moved.backwards.any()
    plain = LOUD.around(RAMP, box=(-1.0, 1.0))
    assert torch.equal(affine(pgd, wanted, plain, steps=9, seed=4).adversarial, pgd(wanted, plain, steps=9, seed=4).adversarial)
    both = (0.5 * LOUD + 0.5 * L1(0.2)).around(RAMP, box=(-1.0, 1.0))
    assert torch.equal(affine(pgd, wanted, both, steps=9, seed=4).adversarial, pgd(wanted, both, steps=9, seed=4).adversarial)
    with pytest.raises(OptionError, match="the other way round"):
        affine(pgd, wanted, (0.5 * LOUD + 0.5 * LATE).around(RAMP, box=(-1.0, 1.0)))


def test_affine_tells_of_the_whole_batch_and_stops_when_told() -> None:
    seen, mix = list[tuple[int, list[bool]]](), (0.5 * LATE + 0.5 * LOUD).around(RAMP, box=(-1.0, 1.0))

    def tell(step: int, gauge: Tensor, best: Tensor) -> bool:
        assert best.shape == RAMP.shape
        assert (gauge[gauge.isfinite()] <= 1 + 1e-6).all()
        seen.append((step, gauge.isfinite().tolist()))
        return step == last

    last = 0
    result = affine(pgd, objective(late_and_uneven, Below()), mix, draws=4, steps=30, progress=tell)
    assert [step for step, _ in seen] == list(range(1, len(seen) + 1))
    assert len(seen) > 4
    assert seen[-1][1] == result.reached
    seen, last = [], 2  # among the moves
    affine(pgd, objective(late_and_uneven, Below()), mix, draws=4, steps=30, progress=tell)
    assert len(seen) == 2


def linear_case() -> tuple[Tensor, Tensor, Objective, Tensor]:
    """How far each input is from a limit, the size of the score's weights, how to bring it to the other side, and the inputs."""
    generator = torch.Generator().manual_seed(0)
    clean, weights = 0.3 + 0.4 * torch.rand(60, 50, generator=generator), torch.randn(50, generator=generator)
    limit = (clean @ weights).mean()

    def net(x: Tensor) -> Tensor:
        return torch.stack([0 * (x @ weights), x @ weights - limit], 1)

    return (clean @ weights - limit).abs(), weights.abs(), objective(net, Misclassify(net(clean).argmax(1))), clean


@pytest.mark.parametrize(
    ("spec", "most"),
    [
        ("l0:3", lambda w: math.inf),
        ("l0:3_and_linf:0.2", lambda w: 0.2 * w.topk(3).values.sum()),
        ("l0:3_and_l2:0.5", lambda w: 0.5 * w.topk(3).values.norm()),
        ("l0:3_or_linf:0.01", lambda w: math.inf),
        ("l1:1_and_linf:0.1", lambda w: 0.1 * w.topk(10).values.sum()),
    ],
)
def test_pgd_brings_down_all_that_can_be_where_a_part_is_sparse(spec: str, most: Callable[[Tensor], Tensor | float]) -> None:
    needed, weights, wanted, clean = linear_case()
    can = needed < 0.98 * most(weights)
    assert can.sum() > 40
    reached = torch.tensor(pgd(wanted, parse_bound(spec).around(clean)).reached)
    assert reached[can].all()


def test_the_steepest_step_of_l1_and_linf_is_the_vertex() -> None:
    region = parse_bound("l1:1.05_and_linf:0.1").around(torch.zeros(4, 30), box=None)
    slope = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    step, ranked = region.steepest(slope), slope.abs().sort(1, descending=True).values
    torch.testing.assert_close((step * slope).sum(1), 0.1 * ranked[:, :10].sum(1) + 0.05 * ranked[:, 10])
    torch.testing.assert_close(region.norm.gauge(step), torch.ones(4))


def test_restarts_for_the_smallest_tell_of_the_smallest_so_far_and_stop() -> None:
    _, _, wanted, clean = linear_case()
    steps, least = list[int](), list[Tensor]()

    def tell(step: int, gauge: Tensor, best: Tensor) -> bool:
        steps.append(step)
        least.append(gauge.clone())
        return False

    result = fmn(wanted, L2(MIN).around(clean), steps=10, restarts=3, progress=tell)
    assert steps == list(range(1, 31))
    assert all((after <= before).all() for before, after in itertools.pairwise(least))
    assert torch.equal(least[-1], result.gauge)
    asked = list[int]()
    fmn(wanted, L2(MIN).around(clean), steps=10, restarts=3, progress=lambda step, *_: asked.append(step) is not None or step == 3)
    assert asked == [1, 2, 3]


@pytest.mark.parametrize("spec", ["linf:0.1@0.5_mix_linf:0.05@0.5", "l1:1@0.5_mix_l1:2@0.5", "l2:1@0.3_mix_l2:2@0.7"])
def test_what_a_mix_of_one_norm_makes_is_inside_it(spec: str) -> None:
    clean = torch.rand(20, 12, generator=torch.Generator().manual_seed(0))
    region = parse_bound(spec).around(clean)
    drawn = region.sample([torch.Generator().manual_seed(i) for i in range(20)])
    assert ThreatModel(spec).check(clean, region.inputs(region.project(3 * drawn))) == [None] * 20


@pytest.mark.parametrize("spec", ["linf:0.2@1_mix_l1:3@0", "linf:0_or_l1:3", "linf:0.2@0_mix_l2:0.5@1", "timing:0,0_or_linf:0"])
def test_a_part_that_allows_nothing_leaves_the_others_to_be_searched(spec: str) -> None:
    """Without end, as who is lost searches, half of nothing is nothing still."""
    clean = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    out_of_reach = objective(lambda x: torch.stack([x.mean(1) + 10, 0 * x[:, 0]], 1), Misclassify(0))
    assert fmn(out_of_reach, parse_bound(spec).around(clean), steps=5).outcome == (Outcome.MISSED,) * 3


def test_what_needs_no_change_is_a_share_of_zero_of_a_part_that_allows_nothing() -> None:
    """Of silence, an SNR allows nothing."""
    clean = torch.cat([torch.zeros(1, 4), torch.full((1, 4), 0.2)])
    wanted = objective(lambda x: torch.stack([x.sum(1) - 0.7, 0 * x[:, 0]], 1), Misclassify(0))
    found = worst_member(pgd, wanted, parse_bound("snr:10_or_linf:0.05").around(clean))
    assert found.outcome == (Outcome.NEEDLESS, Outcome.REACHED)
    assert found.gauge[0] == 0
    assert 0 < found.gauge[1] <= 1 + 1e-6

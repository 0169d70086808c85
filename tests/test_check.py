"""Faults planted on purpose: each is named, with what honestly follows from it and nothing else. Sound evaluations are silent."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from nets import inputs_for, labels_of, linear, small
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.objective import Objective, objective
from audioadv.attacks.result import Attack, AttackResult, Outcome
from audioadv.attacks.trace import Sight, Trace, within
from audioadv.defenses import remembering
from audioadv.errors import OptionError, UnusableBatch
from audioadv.evaluation.sanity.check import check
from audioadv.evaluation.sanity.indicators import INDICATORS, Checkup, Evidence
from audioadv.models.classifier import Classifier
from audioadv.threat.bounds import L0, L1, L2, Bound, Linf, parse_bound
from audioadv.threat.channels import parse_channel
from audioadv.threat.labels import Misclassify
from audioadv.threat.norms import LinfNorm
from audioadv.threat.projections import each
from audioadv.threat.region import Region

SHAPE, COUNT = (1, 5, 6), 24
X = inputs_for(SHAPE, COUNT, (0, 1))
BOUND = Linf(0.05)


def fast(steps: int = 40, step_size: float = 0.1) -> Attack:
    return partial(attacks.pgd, steps=steps, step_size=step_size)


def checked(net: nn.Module, attack: Attack, bound: Bound = BOUND, x: Tensor = X, **options: object) -> Checkup:
    labels = options.pop("labels", None)
    labels = labels_of(net, x) if labels is None else labels
    return check(objective(net, Misclassify(labels)), bound.around(x), attack, **options)  # type: ignore[arg-type]


def plain_pgd(
    objective: Objective,
    region: Region,
    *,
    steps: int = 20,
    sign: float = -1,
    radius: Callable[[Region], Tensor] = lambda region: region.radius,
    step_size: float = 0.1,
    back: float = 0.0,
    project: Callable[[Region, Tensor], Tensor] = lambda region, delta: region.project(delta),
) -> AttackResult:
    """Somebody's own PGD, whose last iterate is the answer. Each argument is a way to get it wrong."""
    objective, delta = objective.begun(region.clean), region.start()
    region = region.at(radius(region))
    for _ in range(steps):
        look = objective.look(region.inputs(delta))
        moved = delta + sign * each(step_size * region.radius, delta) * region.steepest(look.slope)
        delta = project(region, torch.where(each(look.reached, delta), (1 - back) * delta, moved))
    inputs = region.inputs(delta)
    reached = objective.decide(inputs)
    outcome = tuple(Outcome.REACHED if hit else Outcome.MISSED for hit in reached.tolist())
    return AttackResult(inputs, outcome, region.gauge(inputs), objective.cost.forwards, objective.cost.forwards, objective.cost.backwards)


class Rounded(nn.Module):
    """Rounding before the net: the slope is zero everywhere."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net((inputs * 64).round() / 64)


class Noisy(nn.Module):
    """A random defense: noise on its inputs, drawn anew each time."""

    def __init__(self, net: nn.Module, spread: float) -> None:
        super().__init__()
        self.net, self.spread, self.generator = net, spread, torch.Generator().manual_seed(0)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs + self.spread * torch.randn(inputs.shape, generator=self.generator).to(inputs))


class Bump(nn.Module):
    """Wrong only where the mean lies in a narrow band."""

    def forward(self, inputs: Tensor) -> Tensor:
        mean = inputs.flatten(1).mean(1)
        return torch.stack([(mean - 0.6).abs(), torch.full_like(mean, 0.04)], 1)


class Scrambled(nn.Module):
    """The net's scores, or its decisions as scores, with the slope of the net on shuffled pixels: it leads elsewhere."""

    def __init__(self, net: nn.Module, decisions: bool) -> None:
        super().__init__()
        order = torch.randperm(30, generator=torch.Generator().manual_seed(3))

        def value(inputs: Tensor) -> Tensor:
            scores: Tensor = net(inputs)
            return nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(scores) * 2 if decisions else scores

        self.whole = aa.BPDA(value, lambda inputs: net(inputs.flatten(1)[:, order].reshape(inputs.shape)))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.whole(inputs)


# Faults


def test_zero_gradients() -> None:
    found = checked(Rounded(small(3, SHAPE)), fast()).broken
    assert found[0] == "no gradient"
    assert set(found) <= {"no gradient", "budget unspent", "unbounded misses", "noise wins", "black box wins"}
    assert "black box wins" in found


def test_gradients_that_are_no_numbers() -> None:
    class Root(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return small(3, SHAPE)(inputs) + 0 * (0 * inputs.sum()).sqrt()

    found = checked(Root(), fast())
    assert found.broken[0] == "no gradient"
    assert found.findings[2].verdict is not None
    assert found.findings[2].verdict.figures["zero"] == 0
    assert found.findings[2].verdict.figures["broken"] > 0


def test_a_step_of_the_wrong_sign() -> None:
    found = checked(small(3, SHAPE), partial(plain_pgd, sign=1)).broken
    assert found[0] == "loss climbs"
    assert set(found) <= {"loss climbs", "more budget, less success", "unbounded misses", "noise wins", "black box wins"}


@pytest.mark.parametrize("bound", [Linf(0.05), L2(0.15)], ids=str)
def test_a_projection_that_leaves_the_bound(bound: Linf | L2) -> None:
    def of_the_batch(region: Region, delta: Tensor) -> Tensor:
        """One factor for all, by the batch's mean."""
        return region.unpadded(delta * (region.radius.mean() / region.norm.gauge(delta).mean()).clamp_max(1))

    # answers outside do not count, so the figures beside it suffer
    after = {"outside the bound", "success lost", "more budget, less success", "unbounded misses", "noise wins", "black box wins"}
    projections = [lambda region, delta: delta, *([of_the_batch] if isinstance(bound, L2) else [])]  # sign steps all have one length
    for project in projections:
        found = checked(small(3, SHAPE), partial(plain_pgd, project=project, step_size=0.2), bound).broken
        assert "outside the bound" in found
        assert set(found) <= after


def test_misses_that_walk_outside() -> None:
    """`Run` refuses what lies outside, so that nothing is claimed; the misses tell."""

    def no_projection(wanted: Objective, region: Region) -> AttackResult:
        return attacks.pgd(wanted, replace(region, norm=Unprojected()), step_size=0.5, steps=10, random_start=False)

    class Unprojected(LinfNorm):
        def box(self, *_: object) -> None:
            return None

        def project(self, delta: Tensor, *_: object) -> Tensor:
            return delta

    found = checked(linear(3, SHAPE), no_projection, Linf(0.005), probes=False)
    assert found.broken == ["outside the bound"]


def test_an_attack_that_leaves_the_bound_by_design_is_not_called_broken_for_it() -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 3, (0, 1))
    told = check(objective(net, Misclassify(labels_of(net, x))), Linf(0.01).around(x), "unbounded", probes=False)
    assert "outside the bound" not in told.broken


def test_a_search_is_known_as_one_whatever_it_is_wrapped_in() -> None:
    for attack in (attacks.fmn, partial(attacks.fmn, steps=30), partial(partial(attacks.ddn, steps=30), seed=1)):
        assert "outside the bound" not in checked(small(3, SHAPE), attack, L2(0.3), probes=False).broken


def test_a_success_that_a_later_step_lost() -> None:
    found = checked(small(3, SHAPE), partial(plain_pgd, back=0.5, steps=21), probes=False)
    assert found.broken == ["success lost"]
    assert checked(small(3, SHAPE), partial(plain_pgd, steps=21), probes=False).sound


def test_claims_that_do_not_hold() -> None:
    def liar(wanted: Objective, region: Region) -> AttackResult:
        truth = plain_pgd(wanted, region)
        return replace(truth, adversarial=region.clean, outcome=(Outcome.REACHED,) * len(region.clean))

    assert checked(small(3, SHAPE), liar, probes=False).broken == ["claims fail"]


def test_a_budget_that_is_not_spent() -> None:
    def timid(wanted: Objective, region: Region) -> AttackResult:
        return attacks.pgd(wanted, region.at(0.3 * region.radius), step_size=0.2, random_start=False)

    found = checked(small(3, SHAPE), timid)
    assert found.broken[0] == "budget unspent"
    assert set(found.broken) <= {"budget unspent", "black box wins"}


def test_steps_that_were_cut() -> None:
    found = checked(linear(3, SHAPE), partial(attacks.pgd, steps=12, step_size=0.08, random_start=False), Linf(0.02))
    assert found.broken == ["cut short"]
    assert checked(linear(3, SHAPE), partial(attacks.pgd, steps=24, step_size=0.08, random_start=False), Linf(0.02)).sound


def test_more_budget_helps_less() -> None:
    x = torch.full((COUNT, 4), 0.5) + 0.01 * torch.rand(COUNT, 4, generator=torch.Generator().manual_seed(0))
    found = checked(Bump(), attacks.fgsm, Linf(0.1), x, labels=torch.zeros(COUNT, dtype=torch.int64))
    assert found.broken == ["more budget, less success"]
    assert checked(Bump(), fast(), Linf(0.1), x, labels=torch.zeros(COUNT, dtype=torch.int64)).sound


def test_an_unbounded_attack_that_misses() -> None:
    fixed = partial(plain_pgd, radius=lambda region: torch.full_like(region.radius, 0.02))  # a budget of its own, whatever the claim
    assert checked(small(3, SHAPE), fixed, Linf(0.02)).broken == ["unbounded misses"]


@pytest.mark.parametrize("bound", [Linf(0.1), L1(0.7), L0(1)], ids=str)
def test_a_black_box_beats_the_white_box(bound: Bound) -> None:
    found = checked(Scrambled(small(3, SHAPE), decisions=False), fast(), bound).broken
    assert "black box wins" in found
    assert set(found) <= {"loss climbs", "unbounded misses", "noise wins", "black box wins", "more budget, less success"}


def test_transfer_beats_the_white_box() -> None:
    base = small(3, SHAPE)
    found = checked(Scrambled(base, decisions=True), fast(), Linf(0.1), substitute=base).broken
    assert "transfer wins" in found
    assert set(found) <= {"loss climbs", "unbounded misses", "noise wins", "transfer wins", "black box wins", "more budget, less success"}
    assert checked(base, fast(), substitute=small(3, SHAPE, seed=9)).sound


def test_noise_beats_the_attack() -> None:
    def out_of_order(wanted: Objective, region: Region) -> AttackResult:
        """Each example gets its neighbour's slope."""
        return plain_pgd(wanted, replace(region, norm=Neighbour()))

    class Neighbour(LinfNorm):
        def steepest(self, slope: Tensor) -> Tensor:
            return -slope.sign().roll(1, 0)

    x = inputs_for((3,), COUNT, (0, 1))
    found = checked(small(3, (3,)), out_of_order, Linf(0.2), x).broken
    assert "noise wins" in found
    assert set(found) <= {"loss climbs", "success lost", "unbounded misses", "noise wins", "black box wins", "more budget, less success"}


def test_random_outputs_want_averaging() -> None:
    base = small(3, SHAPE)
    labels = labels_of(base, X)
    found = checked(Noisy(base, 0.1), fast(), labels=labels).broken
    assert found[0] == "random, not averaged"
    assert set(found) <= {"random, not averaged", "claims fail", "unbounded misses", "noise wins", "black box wins"}


def test_a_softmax_is_taken_for_logits() -> None:
    found = checked(nn.Sequential(small(3, SHAPE), nn.Softmax(1)), fast())
    assert found.broken == ["probabilities for logits"]
    assert checked(nn.Sequential(small(3, SHAPE), nn.LogSoftmax(1)), fast()).sound


# Sound evaluations


@pytest.mark.parametrize(
    ("attack", "bound"),
    [(fast(), Linf(0.02)), (partial(attacks.apgd_targeted, steps=20), L2(0.1)), (attacks.fmn, Linf(0.02)), (attacks.ddn, L2(0.1))],
)
def test_a_linear_model_is_silent(attack: str | Attack, bound: Linf | L2) -> None:
    found = checked(linear(3, SHAPE), attack, bound, X[:10], substitute=linear(3, SHAPE, seed=5))  # type: ignore[arg-type]
    assert found.sound, found
    unknown = {finding.indicator.name for finding in found.findings if finding.word == "unknown"}
    trends = {"loss climbs", "cut short"}  # of fmn and ddn nobody sees any: they cross the boundary and come back
    assert unknown == (trends if attack in (attacks.fmn, attacks.ddn) else set())


@pytest.mark.parametrize(("name", "radius"), [("mnist", 0.1), ("mnist-robust", 0.2)])
def test_the_bundled_nets_are_silent(name: str, radius: float) -> None:
    from audioadv.evaluation.images import digits

    x = nn.functional.interpolate(digits().images[:60], 28, mode="bilinear")
    net = aa.load_classifier(name)
    right = (net(x).argmax(1) == digits().labels[:60]).nonzero()[:6, 0]
    goal = Misclassify(digits().labels[right])
    assert check(objective(net, goal), Linf(radius).around(x[right]), fast()).sound


@pytest.mark.parametrize("bound", ["snr:min", "snr:25"])
def test_a_recogniser_is_silent(bound: str) -> None:
    """Two clips of unequal length, on the bundled recogniser. By the seed, the first find takes 31 to 67 steps."""
    from audioadv.audio.files import BOX
    from audioadv.audio.ragged import pad

    model = aa.load_model("tiny-mel")
    clips = aa.read_audio(["samples/phone.wav", "samples/market.wav"], 16000)
    waveforms, lengths = pad([clip.samples[:12000] for clip in clips])
    limits, minimal = aa.parse_bound(bound), bound.endswith("min")
    region = limits.around(waveforms, lengths, box=BOX, grid=2.0**-15)
    attack = partial(attacks.find_then_shrink, steps=100 if minimal else 120, minimal=minimal)
    found = check(objective(model, aa.Transcribe("yes"), lengths), region, attack, probes=minimal)
    assert found.sound, found


def test_an_average_over_draws_is_silent() -> None:
    base, x = small(3, SHAPE), X[:5]
    over = attacks.Expectation(parse_channel("gaussian:0.001"), draws=4, check_draws=4, rate=0.5, hard=0)
    wanted = objective(Noisy(base, 0.02), Misclassify(labels_of(base, x)), expectation=over)
    found = check(wanted, BOUND.around(x), fast(12))
    assert found.sound, found
    assert "forwards a look: 4" in found.findings[1].saw


def test_half_of_two_draws_is_no_success_that_can_be_lost() -> None:
    base, x = small(3, SHAPE), X[:12]
    over = attacks.Expectation(parse_channel("gaussian:0.3"), draws=2, check_draws=16, rate=1.0)
    wanted = objective(base, Misclassify(labels_of(base, x)), expectation=over)
    trace = Trace(region := BOUND.around(x))
    result = fast(12)(trace.watching(wanted), region)
    assert not all(result.reached)
    assert any(bool((attempt.looks.reached == 1).any()) for attempt in trace.attempts), "some looks were lucky"
    assert not any(sight.lost for sight in trace.sights(result))


# The parts


def test_a_search_for_the_smallest_that_misses_has_left_no_budget_unspent() -> None:
    net, x = small(3, SHAPE), X[:4]
    wanted, region = objective(net, Misclassify(labels_of(net, x))), Linf("min").around(x)
    trace = Trace(region)
    missed = attacks.find_then_shrink(trace.watching(wanted), region, steps=1)
    sights = trace.sights(missed)
    assert not any(sight.reached for sight in sights)
    assert [sight.spent for sight in sights] == [None] * 4
    assert "budget unspent" not in Checkup.of(Evidence(sights, missed.reached, searching=True)).broken


def test_a_success_counts_within_the_bound_and_on_the_grid_only() -> None:
    x, step = torch.zeros(4, 8), 2.0**-15
    trace = Trace(Linf(0.1).around(x, box=(-1, 1), grid=step))
    changes = torch.tensor([100 * step, 100.5 * step, 4000 * step, 200 * step])
    trace.reach(torch.arange(4), x + changes[:, None], torch.tensor([True, True, True, False]))
    assert trace.hit.tolist() == [True, False, False, False]


def test_where_genetic_probes_for_slopes_is_not_where_it_went() -> None:
    net, x = small(3, SHAPE), X[:8]
    trace = Trace(Linf(0.05).around(x))
    found = attacks.genetic(trace.watching(objective(net, Misclassify(labels_of(net, x)))), trace.region, steps=30)
    assert not all(found.reached)
    assert not any(sight.strayed for sight in trace.sights(found))


def test_a_trace_changes_nothing_and_numbers_the_examples_as_they_came() -> None:
    net, x = small(4, SHAPE), X[:10]
    wanted, region = objective(net, Misclassify(labels_of(net, x))), BOUND.around(x)
    trace = Trace(region)
    staged = partial(attacks.apgd_targeted, steps=12)
    seen, plain = staged(trace.watching(wanted), region), staged(wanted, region)
    assert torch.equal(seen.adversarial, plain.adversarial)
    assert torch.equal(seen.forwards, plain.forwards)
    sights = trace.sights(seen)
    assert [sight.reached for sight in sights] == seen.reached
    assert [sight.looks for sight in sights] == seen.backwards.tolist()
    assert len(set(seen.backwards.tolist())) > 2  # some left early, others saw all stages
    alone = Trace(region.rows(torch.tensor([5])))
    attack = staged(alone.watching(wanted.begun(x).rows(torch.tensor([5]))), alone.region)
    assert alone.sights(attack)[0] == sights[5]


def test_a_trace_of_more_looks_than_it_had_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = small(4, SHAPE), X[:10]
    wanted, region = objective(net, Misclassify(labels_of(net, x))), BOUND.around(x)
    traces = [Trace(region), Trace(region)]
    for trace, room in zip(traces, (256, 3), strict=True):
        monkeypatch.setattr("audioadv.attacks.trace.ROOM", room)
        result = fast(40)(trace.watching(wanted), region)
    assert traces[0].sights(result) == traces[1].sights(result)
    assert max(sight.looks for sight in traces[1].sights(result)) > 12


def test_trends_of_a_known_loss() -> None:
    """A loss that is the mean pixel: it falls evenly, by the step, until the bound."""

    class Mean(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            mean = inputs.flatten(1).mean(1)
            return torch.stack([mean, mean - 10], 1)

    goal = Misclassify(0, confidence=lambda scores, labels, rivals=None: scores[:, 0])
    region = Linf(0.2).around(torch.full((2, 4), 0.5))

    def seen(steps: int, step_size: float) -> Sight:
        trace = Trace(region)
        attack = partial(attacks.pgd, steps=steps, step_size=step_size, random_start=False)
        return trace.sights(attack(trace.watching(objective(Mean(), goal)), region))[1]

    even = seen(41, 0.01)
    assert even.tail == pytest.approx(10 / 40, abs=1e-3)
    assert even.rise == pytest.approx(-(30 + 39 + 2) / 2 / 40, abs=0.02)
    assert even.spent == pytest.approx(0.41, abs=1e-3)
    done = seen(40, 0.1)
    assert (done.tail, done.spent) == (0, pytest.approx(1, abs=1e-3))
    assert seen(4, 0.1).tail is None


def test_estimated_slopes_and_l1_are_traced_too() -> None:
    net = small(3, SHAPE)
    wanted = objective(net, Misclassify(labels_of(net, X)), slopes=attacks.nes(5))
    trace, region = Trace(BOUND.around(X)), BOUND.around(X)
    sights = trace.sights(fast(10)(trace.watching(wanted), region))
    assert max(sight.looks for sight in sights) == 10  # the queries of an estimate are no looks
    assert trace.passes == 11
    assert checked(net, attacks.apgd_l1, L1(1.0), probes=False).sound  # type: ignore[arg-type]


def test_nothing_to_attack() -> None:
    net = small(3, SHAPE)
    with pytest.raises(UnusableBatch, match="from the start"):
        checked(net, fast(), labels=(labels_of(net, X) + 1) % 3)
    with pytest.raises(UnusableBatch, match="0 examples"):
        checked(net, fast(), x=X[:0])


def test_a_model_that_remembers_is_not_asked() -> None:
    net, labels = small(3, SHAPE), labels_of(small(3, SHAPE), X)
    model = remembering(net)
    for looked_at, substitute in ((model, None), (net, model), (Classifier(nn.Sequential(model)), None)):
        with pytest.raises(OptionError, match=r"remembers.* Play the game of many rounds"):
            check(objective(looked_at, Misclassify(labels)), BOUND.around(X), fast(), substitute=substitute)
    assert len(model.store) == 0


def test_each_indicator_says_what_to_do() -> None:
    assert len({indicator.name for indicator in INDICATORS}) == len(INDICATORS) >= 12
    quiet = Checkup.of(Evidence([], []))
    for finding in quiet.findings:
        assert not finding.broken
        assert finding.indicator.why.endswith(".")
        assert finding.indicator.cure.endswith(".")


def test_what_still_has_a_limit_is_asked_nothing_about_none() -> None:
    x = torch.rand(4, 1, 6, 6)
    for spec in ("sticker:1x1+0+0", "sticker:1x1+0+0_and_linf:0.3", "l2:min_and_linf:0.001", "spatial:min", "linf:0.1@0.5_mix_l2:1@0.5"):
        assert not aa.parse_bound(spec).around(x).limitless(), spec
    for spec in ("l2:1", "l1:min", "linf:0.1_or_l2:1", "linf:0.1_and_l2:1"):
        assert aa.parse_bound(spec).around(x).limitless(), spec
        assert aa.parse_bound(spec).around(x, box=None).limitless(), spec


def test_a_pixel_that_fells_few_is_no_broken_evaluation() -> None:
    net, x = linear(3, (1, 6, 6)).float(), inputs_for((1, 6, 6), 12, (0, 1)).float()
    wanted = aa.objective(net, Misclassify(net(x).argmax(1)))
    for spec in ("sticker:1x1+0+0", "sticker:1x1+0+0_and_linf:0.3"):
        assert "unbounded misses" not in check(wanted, aa.parse_bound(spec).around(x), "pgd").broken


@pytest.mark.parametrize("bound", [L1(0.5), parse_bound("l0:2"), parse_bound("linf:0.02_or_l1:0.3"), parse_bound("linf:0.02_and_l1:0.3")])
def test_standard_does_not_stray_on_a_sound_net(bound: Bound) -> None:
    net = linear(3, SHAPE)
    seen = check(objective(net, Misclassify(labels_of(net, X))), bound.around(X), "standard")
    assert "outside the bound" not in seen.broken


def test_what_rounding_adds_is_no_way_out_of_a_box() -> None:
    """By the ends of the box: of one that is 255 wide, a float's last bit is 1.5e-5."""
    clean = torch.tensor([[250.0, 3.0], [250.0, 0.0]])
    region = Linf(10).around(clean, torch.tensor([2, 1]), (0.0, 255.0))
    for height, holds in ((255.0, True), (255.0 + 3e-5, True), (255.01, False), (math.nan, False)):
        inputs = clean.clone()
        inputs[0, 0] = height
        assert within(region, inputs).tolist() == [holds, True]
    assert within(region, clean + torch.tensor([0.0, 1.0])).tolist() == [True, False]  # beyond its own length


def misses(odd: int, of: int = 20, **what: object) -> list[Sight]:
    """Misses of ten looks each, of which some have something odd about them."""
    plain = {"reached": False, "looks": 10, "tail": 0.0, "rise": -1.0, "spent": 1.0}
    return [Sight(**plain | (what if number < odd else {})) for number in range(of)]  # type: ignore[arg-type]


def few(count: int, of: int = 20) -> list[bool]:
    return [number < count for number in range(of)]


@pytest.mark.parametrize(
    ("name", "sound", "broken"),
    [
        ("probabilities for logits", {"probabilities": False}, {"probabilities": True}),
        ("random, not averaged", {"spread": 1e-4}, {"spread": 1.1e-4}),
        ("random, not averaged", {"spread": 1.0, "passes": 2}, {"spread": 1.0, "passes": 1}),
        ("no gradient", {"sights": misses(2, zero=6)}, {"sights": misses(3, zero=6)}),
        ("no gradient", {"sights": misses(20, zero=5)}, {"sights": misses(20, zero=6)}),
        ("no gradient", {"sights": misses(2, broken=1)}, {"sights": misses(3, broken=1)}),
        ("loss climbs", {"sights": misses(10, rise=0.6)}, {"sights": misses(11, rise=0.6)}),
        ("loss climbs", {"sights": misses(20, rise=0.5)}, {"sights": misses(20, rise=0.51)}),
        ("outside the bound", {"sights": misses(2, strayed=True)}, {"sights": misses(3, strayed=True)}),
        (
            "outside the bound",
            {"sights": misses(20, strayed=True), "searching": True},
            {"sights": misses(3, reached=True, strayed=True), "searching": True},
        ),
        ("success lost", {"sights": misses(0)}, {"sights": misses(1, lost=True)}),
        ("claims fail", {"claimed": 20, "refuted": 2}, {"claimed": 20, "refuted": 3}),
        ("budget unspent", {"sights": misses(10, spent=0.1)}, {"sights": misses(11, spent=0.1)}),
        ("budget unspent", {"sights": misses(20, spent=0.5)}, {"sights": misses(20, spent=0.49)}),
        ("cut short", {"sights": misses(10, tail=0.25)}, {"sights": misses(11, tail=0.25)}),
        ("cut short", {"sights": misses(20, tail=0.2)}, {"sights": misses(20, tail=0.21)}),
        ("cut short", {"sights": misses(11, tail=0.25, strayed=True)}, {"sights": misses(11, tail=0.25)}),
        ("more budget, less success", {"felled": few(9), "wider": few(8)}, {"felled": few(9), "wider": few(7)}),
        ("more budget, less success", {"felled": few(9, 60), "wider": few(7, 60)}, {"felled": few(9, 60), "wider": few(6, 60)}),
        ("unbounded misses", {"unbounded": few(20)}, {"unbounded": few(19)}),
        *[
            (
                f"{rival} wins",
                {"felled": few(9), rival.replace(" ", "_"): few(most)},
                {"felled": few(9), rival.replace(" ", "_"): few(most + 1)},
            )
            for rival, most in (("noise", 10), ("black box", 10), ("transfer", 10))
        ],
        ("noise wins", {"felled": few(9, 60), "noise": few(11, 60)}, {"felled": few(9, 60), "noise": few(12, 60)}),
    ],
)
def test_an_indicator_speaks_from_its_limit_on(name: str, sound: dict[str, object], broken: dict[str, object]) -> None:
    for evidence, said in ((sound, False), (broken, True)):
        findings = {
            found.indicator.name: found for found in Checkup.of(Evidence(**{"sights": misses(0), "felled": few(0)} | evidence)).findings
        }  # type: ignore[arg-type]
        assert findings[name].verdict is not None
        assert findings[name].broken == said


@pytest.mark.parametrize("name", ["loss climbs", "cut short"])
def test_a_trend_that_nobody_saw_is_unknown(name: str) -> None:
    """Fewer than eight looks tell none."""
    seen = checked(small(3, SHAPE), partial(attacks.pgd, steps=5), Linf(0.001))
    unseen, told = (Checkup.of(Evidence(sights, few(0))) for sights in ([Sight(reached=False, looks=5)] * 20, misses(0)))
    words = [{found.indicator.name: found.word for found in checkup.findings}[name] for checkup in (seen, unseen, told)]
    assert words == ["unknown", "unknown", "sound"]

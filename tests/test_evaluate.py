"""Evaluation against nets whose robust accuracy is known in closed form."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from nets import inputs_for, labels_of, linear, small
from torch import Tensor, nn

from audioadv import attacks
from audioadv.attacks.catalogue import EVALUATING
from audioadv.attacks.objective import Objective
from audioadv.attacks.own import Whole, takes_whole, whole
from audioadv.attacks.result import Attack, AttackResult, Outcome
from audioadv.attacks.survivors import nothing_yet
from audioadv.defenses.preprocessing import defend
from audioadv.defenses.statement import Statement
from audioadv.errors import AccessDenied, AudioadvError, OptionError, UnknownModel, UnusableBatch
from audioadv.evaluation import Rate, evaluate
from audioadv.threat.bounds import L1, L2, MIN, Linf
from audioadv.threat.labels import Classify, Misclassify
from audioadv.threat.measured import Below
from audioadv.threat.model import ThreatModel
from audioadv.threat.region import Region
from audioadv.threat.warps import Spatial

SHAPE = (1, 5, 6)


def distances(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    weight, scores = net[1].weight.detach(), net(x).detach()
    gap = scores.gather(1, labels[:, None])[:, 0] - scores.gather(1, 1 - labels[:, None])[:, 0]
    return gap / (weight[0] - weight[1]).abs().sum()


def test_robust_accuracy_of_a_linear_net() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 60, None)
    labels = labels_of(net, x)
    labels[:10] = 1 - labels[:10]  # wrong from the start
    distance = distances(net, x, labels)
    radius = float(distance[10:].median()) + 1e-4
    result = evaluate(net, x, labels, Linf(radius), ["fgsm", "apgd"], box=None, batch=7)
    assert torch.equal(result.robust, distance > radius)
    assert result.accuracy == Rate(50, 60)
    assert result.outcome[:10] == (Outcome.NEEDLESS,) * 10
    fgsm, apgd = result.trials
    assert fgsm.tried.sum() == 50
    assert torch.equal(apgd.tried, result.correct & ~fgsm.felled)  # only survivors
    assert result.forwards == int(fgsm.forwards.sum() + apgd.forwards.sum())
    assert (labels_of(net, result.adversarial) == labels).sum() == result.robust.sum()
    assert "60" in str(result)


def test_with_targets_an_input_stands_that_is_not_brought_to_its_own() -> None:
    """Of a linear net in Linf, the target is reached within where it overtakes both other classes."""
    net, x = linear(3, SHAPE), inputs_for(SHAPE, 40, (0, 1))
    labels = labels_of(net, x)
    targets = (labels + 1) % 3
    threat = ThreatModel(Linf(0.03), goal=Classify(targets))
    result = evaluate(net, x, labels, threat, ["pgd", "standard"], goal=Classify(targets), box=(-9, 9))
    for brought, inputs, target in zip(result.outcome, result.adversarial, targets, strict=True):
        assert (net(inputs[None]).argmax(1) == target) == (brought is Outcome.REACHED)
    assert result.accuracy == Rate(40, 40)
    left = evaluate(net, x, labels, Linf(0.03), "standard", box=(-9, 9))
    assert not (result.robust < left.robust).any()  # whoever is brought to the target has left the label
    assert left.robust_accuracy.hits < result.robust_accuracy.hits < 40
    with pytest.raises(OptionError, match="evaluate measures"):
        evaluate(net, x, labels, threat, "pgd")


def test_an_attack_that_wants_a_union_or_all_examples_whole_is_handed_that() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 7, (0, 1))
    seen = list[tuple[str, int]]()

    def spy(wanted: Objective, region: Region) -> AttackResult:
        seen.append((type(region.norm).__name__, len(region.clean)))
        return attacks.fgsm(wanted, region.members()[0])

    def handed(attack: Attack, spec: str) -> list[tuple[str, int]]:
        seen.clear()
        evaluate(net, x, labels_of(net, x), spec, {"spy": attack}, batch=4)
        return list(seen)

    assert [size for _, size in handed(spy, "linf:1e-4")] == [4, 3]
    assert [norm for norm, _ in handed(spy, "linf:1e-4_or_l1:1e-4")] == ["LinfNorm", "L1Norm"] * 2
    takes_whole(examples=True)(spy)
    assert [size for _, size in handed(partial(spy), "linf:1e-4")] == [7]
    takes_whole(union=True)(spy)
    assert [norm for norm, _ in handed(partial(spy), "linf:1e-4_or_l1:1e-4")] == ["EitherNorm"] * 2
    assert (whole(attacks.msd).union, whole(attacks.universal).examples, whole(attacks.rp2).examples) == (True, True, True)
    assert whole(attacks.pgd) == whole(attacks.standard) == Whole()


def test_a_model_that_leaves_torch_has_no_gradient_and_is_asked_all_the_same() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 6, (0, 1))

    def elsewhere(inputs: Tensor) -> Tensor:
        """As scikit-learn's models are asked."""
        return net(torch.from_numpy(inputs.numpy())).detach()

    labels = labels_of(net, x)
    with pytest.raises(AccessDenied, match=r"no gradient with respect to its inputs.*square"):
        attacks.pgd(Objective(elsewhere, Misclassify(labels)), Linf(0.5).around(x))
    with pytest.warns(UserWarning, match="no gradient reaches its inputs"):
        result = evaluate(elsewhere, x, labels, Linf(0.5), "square")
    assert result.robust_accuracy == evaluate(net, x, labels, Linf(0.5), "square").robust_accuracy


def test_all_attacks_may_see_all() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 12, (0, 1))
    result = evaluate(net, x, labels_of(net, x), Linf(0.2), ["fgsm", "pgd"], all_attacks_see_all=True)
    assert all(trial.tried.all() for trial in result.trials)
    assert torch.equal(result.robust, ~(result.trials[0].felled | result.trials[1].felled))


def test_security_curve_of_smallest_radii() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 20, None)
    labels = labels_of(net, x)
    distance = distances(net, x, labels)
    result = evaluate(net, x, labels, Linf(MIN), {"fmn": partial(attacks.fmn, steps=100)}, box=None)
    ranked = distance.sort().values
    radii = [0.0] + [float(ranked[rank - 1] + ranked[rank]) / 2 for rank in (5, 10, 18)]
    assert [rate.hits for _, rate in result.curve(radii)] == [20, 15, 10, 2]
    ((_, at_the_tenth),) = result.curve([float(result.gauge.sort().values[9])])
    assert at_the_tenth.hits == 10  # what falls at a radius is not robust up to it
    with pytest.raises(OptionError, match="magic"):
        evaluate(net, x, labels, Linf(0.1), "magic")
    for wrong, match in (([0.1, float("nan")], "radius nan"), ([-0.1], "radius -0.1"), (0.3, "radii 0.3"), (["a"], "radius 'a'")):
        with pytest.raises(OptionError, match=f"{match}: .*numbers of at least 0"):
            result.curve(wrong)  # type: ignore[arg-type]


def test_claims_are_judged_again() -> None:
    """An attack that leaves the bound, or claims what is not so, does not count."""
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 6, None)

    def liar(wanted: Objective, region: Region) -> AttackResult:
        truth = attacks.pgd(wanted, region.at(1e4 * region.radius), steps=20, random_start=False)
        assert all(truth.reached)
        return truth

    def braggart(wanted: Objective, region: Region) -> AttackResult:
        nothing = nothing_yet(region)
        return replace(nothing, outcome=(Outcome.REACHED,) * len(region.clean), gauge=nothing.gauge.clamp_max(0))

    for attack in (liar, braggart):
        assert evaluate(net, x, labels_of(net, x), L2(1e-3), attack, box=None).robust.all()


def test_finds_outside_the_box_do_not_count_and_how_far_they_lie_is_measured() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 6, (0, 1))

    def elsewhere(wanted: Objective, region: Region) -> AttackResult:
        found = attacks.pgd(wanted, region.at(torch.full_like(region.radius, 0.6)), steps=20)
        return replace(found, gauge=0.5 * found.gauge)  # which is not so

    def outside(wanted: Objective, region: Region) -> AttackResult:
        return elsewhere(wanted, replace(region, low=None, high=None))

    unboxed = evaluate(net, x, labels_of(net, x), Linf(0.7), outside)
    assert unboxed.robust.all()
    assert not evaluate(net, x, labels_of(net, x), Linf(0.7), outside, box=None).robust.any()
    assert evaluate(net, x, labels_of(net, x), Linf(MIN), outside).robust.all()
    result = evaluate(net, x, labels_of(net, x), Linf(MIN), elsewhere)
    assert result.robust_accuracy.hits < 6
    sizes = (result.adversarial - x).flatten(1).abs().amax(1)
    torch.testing.assert_close(result.gauge[~result.robust], sizes[~result.robust])


def test_attacks_that_look_for_the_smallest_see_all_and_the_smallest_is_kept() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 12, (0, 1))
    labels = labels_of(net, x)
    labels[0] = (labels[0] + 1) % 3
    ways = {"hop_skip_jump": partial(attacks.hop_skip_jump, steps=3), "fmn": attacks.fmn, "deepfool": attacks.deepfool}
    result = evaluate(net, x, labels, L2(MIN), ways, batch=5)
    assert all(torch.equal(trial.tried, result.correct) for trial in result.trials)
    gauges = torch.stack([trial.gauge for trial in result.trials])
    assert len(set(gauges[:, 1:].argmin(0).tolist())) >= 2  # none is always best
    torch.testing.assert_close(result.gauge[1:], gauges[:, 1:].amin(0).to(result.gauge))
    torch.testing.assert_close((result.adversarial - x).flatten(1).norm(dim=1), result.gauge)
    assert result.gauge[0] == 0


def test_cost_is_what_is_counted_from_outside() -> None:
    net, x, passes = linear(2, SHAPE), inputs_for(SHAPE, 20, (0, 1)), [0, 0]
    labels = labels_of(net, x)
    result = evaluate(net, x, labels, Linf(0.02), "fgsm")
    net[1].register_forward_hook(lambda module, inputs, output: passes.__setitem__(0, passes[0] + len(output)))
    net[1].register_full_backward_hook(lambda module, inputs, outputs: passes.__setitem__(1, passes[1] + len(outputs[0])))
    nothing = evaluate(net, x, labels, Linf(0.02), {"none": lambda wanted, region: nothing_yet(region)})
    spent, passes[:] = tuple(passes), [0, 0]
    assert nothing.forwards == nothing.backwards == 0
    assert evaluate(net, x, labels, Linf(0.02), "fgsm").forwards == result.forwards
    assert (passes[0] - spent[0], passes[1] - spent[1]) == (result.forwards, result.backwards)
    clean, fgsm, union = result.lines()
    assert (fgsm["forwards"], union["backwards"]) == (result.forwards, result.backwards)
    assert union["interval"] == Rate(int(result.robust.sum()), 20).interval
    assert clean["interval"] == Rate(20, 20).interval


@pytest.mark.parametrize("name", EVALUATING)
def test_every_attack_goes_by_its_name(name: str) -> None:
    """Within a bound that it is made for; one example, at its goal from the first look on where that is a matter of distance."""
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 1, (0, 1))
    bound = Spatial(10, 1) if name in ("moves_grid", "worst_of") else L1(20.0) if name in ("apgd_l1", "greedy") else L2(5.0)
    (trial,) = evaluate(net, x, labels_of(net, x), bound, name).trials
    assert trial.attack == name
    assert trial.forwards.sum() > 0


def test_a_model_that_gives_no_numbers_is_not_right() -> None:
    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :3] * torch.nan

    with pytest.warns(UserWarning, match="scores of 3 of 3 clean inputs"):
        result = evaluate(Broken(), inputs_for(SHAPE, 3, (0, 1)), torch.tensor([0, 1, 2]), Linf(0.1), "fgsm")
    assert result.accuracy == Rate(0, 3)
    assert result.outcome == (Outcome.NOT_FINITE,) * 3


def test_a_label_that_is_not_ahead_is_not_right_and_a_lead_asked_of_an_attack_changes_nothing() -> None:
    x = inputs_for(SHAPE, 3, (0, 1))
    even = evaluate(lambda inputs: inputs.flatten(1).sum(1, keepdim=True) * torch.ones(3), x, torch.tensor([0, 1, 2]), Linf(0.1), "fgsm")
    assert even.accuracy == even.robust_accuracy == Rate(0, 3)
    net, labels = linear(2, SHAPE), labels_of(linear(2, SHAPE), x)
    labels[0] = 1 - labels[0]
    assert evaluate(net, x, labels, Linf(0.1), "fgsm", goal=Misclassify(labels, by=100)).accuracy == Rate(2, 3)


def test_a_random_model_that_is_even_between_classes_is_not_right() -> None:
    class Even(nn.Module):
        statement = Statement(random=True)

        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs.flatten(1).sum(1) + torch.rand(len(inputs)))[:, None] * inputs.new_ones(3)

    assert evaluate(Even(), inputs_for(SHAPE, 3, (0, 1)), torch.tensor([0, 1, 2]), Linf(0.1), "fgsm").accuracy == Rate(0, 3)


def test_what_an_attack_writes_over_in_its_region_changes_nothing_of_what_it_is_measured_by() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 6, (0, 1))

    def over_the_clean(wanted: Objective, region: Region) -> AttackResult:
        found = attacks.pgd(wanted, region.at(20 * region.radius), steps=20)
        moved = region.clean
        moved += found.adversarial - region.clean
        return replace(found, adversarial=moved)

    def over_the_radius(wanted: Objective, region: Region) -> AttackResult:
        region.radius.fill_(0.4)
        return attacks.pgd(wanted, region, steps=20)

    before = x.clone()
    for attack in (over_the_clean, over_the_radius):
        assert evaluate(net, x, labels_of(net, x), Linf(0.4), attacks.pgd).robust_accuracy.hits < 6
        assert evaluate(net, x, labels_of(net, x), Linf(0.001), attack).robust.all()
        assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("attack", "match"),
    [
        (lambda wanted, region: region.clean, "gives something of type Tensor for 4 inputs.*Return an AttackResult"),
        (lambda wanted, region: replace(nothing_yet(region), adversarial=region.clean[:2]), r"adversarial inputs of shape \[2, 1, 5, 6\]"),
        (lambda wanted, region: replace(nothing_yet(region), outcome=(Outcome.MISSED,)), "gives 1 outcomes for 4 inputs"),
        (lambda wanted, region: replace(nothing_yet(region), gauge=torch.tensor(0.0)), r"gives gauge of shape \[\]"),
    ],
)
@pytest.mark.parametrize("bound", [Linf(0.1), Linf(0.1) | L1(1)], ids=str)
def test_what_is_no_result_of_these_inputs_is_told(attack: Any, match: str, bound: Any) -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    with pytest.raises(UnusableBatch, match=f"attack 'mine' .*{match}"):
        evaluate(net, x, labels_of(net, x), bound, {"mine": attack})


@pytest.mark.parametrize("name", ["affine", "transfer", "worst_member"])
def test_an_attack_that_needs_more_than_it_is_given_is_refused(name: str) -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    for given in (getattr(attacks, name), {name: getattr(attacks, name)}):
        with pytest.raises(OptionError, match=f"attack '{name}' is called with .objective, region. alone: missing .*partial"):
            evaluate(net, x, labels_of(net, x), Linf(0.1), given)
    assert evaluate(net, x, labels_of(net, x), Linf(0.1), partial(attacks.worst_member, attacks.fgsm)).accuracy.hits == 4


def test_a_class_that_is_ruled_out_does_no_harm_and_no_number_is_no_answer() -> None:
    net, x = small(4, SHAPE), inputs_for(SHAPE, 12, (0, 1))

    def masked(inputs: Tensor) -> Tensor:
        return net(inputs).index_fill(1, torch.tensor([1]), -torch.inf)

    labels = masked(x).argmax(1)
    result = evaluate(masked, x, labels, Linf(0.3), ["apgd", "standard"])
    assert result.accuracy == Rate(12, 12)
    assert result.robust_accuracy.hits < 12
    assert evaluate(lambda inputs: masked(inputs).nan_to_num(nan=0, neginf=-1e3), x, labels, Linf(0.01), "fgsm").accuracy == Rate(12, 12)

    def sometimes(inputs: Tensor) -> Tensor:
        return torch.where((inputs == x[:1]).flatten(1).all(1)[:, None], torch.nan, net(inputs))

    with pytest.warns(UserWarning, match="scores of 1 of 12 clean inputs are not finite, or it abstains"):
        result = evaluate(sometimes, x, labels_of(net, x), Linf(0.001), "fgsm")
    assert result.accuracy == Rate(11, 12)
    assert result.outcome[0] is Outcome.NOT_FINITE


def test_an_attack_that_met_no_numbers_says_so_unless_the_example_falls() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 2, (0, 1))

    def lost(wanted: Objective, region: Region) -> AttackResult:
        return replace(nothing_yet(region), outcome=(Outcome.NOT_FINITE,) * len(region.clean))

    assert evaluate(net, x, labels_of(net, x), Linf(0.01), lost).outcome == (Outcome.NOT_FINITE,) * 2
    assert evaluate(net, x, labels_of(net, x), Linf(1), {"lost": lost, "pgd": attacks.pgd}).outcome == (Outcome.REACHED,) * 2
    assert evaluate(net, x, 1 - labels_of(net, x).clamp_max(1), Linf(1), lost).outcome == (Outcome.NEEDLESS,) * 2


def test_progress_counts_those_that_are_tried() -> None:
    net, x, told = linear(2, SHAPE), inputs_for(SHAPE, 8, (0, 1)), list[tuple[str, int, int]]()
    labels = labels_of(net, x)
    labels[6:] = 1 - labels[6:]  # the last are wrong from the start
    evaluate(net, x, labels, Linf(1), {"pgd": attacks.pgd, "fgsm": attacks.fgsm}, batch=4, progress=lambda *seen: told.append(seen))
    assert told == [("pgd", 4, 6), ("pgd", 6, 6), ("fgsm", 0, 0)]


class Shut(nn.Module):
    """A net that lets no gradient through."""

    statement = Statement("none")

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.net(inputs)
        return scores


@pytest.mark.parametrize(
    ("channel", "bound", "way"),
    [("depth:6", Linf(1), ""), ("gaussian:0.05", Linf(1), ", EOT 2"), ("gaussian:0.05", L1(30), ", EOT 2")],
    ids=str,
)
def test_behind_a_defense_too_what_has_no_gradient_is_only_asked(channel: str, bound: Any, way: str) -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    model, labels = defend(Shut(net), channel), labels_of(net, x)
    result = evaluate(model, x, labels, bound, "standard", draws=2, judge_draws=3, all_attacks_see_all=True)
    assert [trial.attack for trial in result.trials] == ["gradient_free, static", f"gradient_free, no gradients{way}"]
    assert result.backwards == 0
    assert all(trial.felled.any() for trial in result.trials)


def test_named_attacks_get_slopes_from_scores_unless_these_are_drawn() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    few = {"pgd": partial(attacks.pgd, steps=3), "square": partial(attacks.square, steps=3)}
    result = evaluate(defend(Shut(net), "depth:6"), x, labels_of(net, x), Linf(0.001), few)
    assert [trial.attack for trial in result.trials] == ["pgd, static", "square, static", "pgd, no gradients", "square, no gradients"]
    assert result.backwards == 0
    drawn = defend(Shut(net), "gaussian:0.01")
    only = {"square": few["square"]}
    assert len(evaluate(drawn, x, labels_of(net, x), Linf(0.001), only, draws=2, judge_draws=3).trials) == 2
    with pytest.raises(AccessDenied, match=r"pgd, no gradients, EOT 2: .* drawn anew .*square"):
        evaluate(drawn, x, labels_of(net, x), Linf(0.001), {"pgd": few["pgd"]}, draws=2, judge_draws=3)


def test_attacks_that_share_a_name_are_numbered() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 3, (0, 1))

    def pgd(wanted: Objective, region: Region) -> AttackResult:
        return nothing_yet(region)

    result = evaluate(net, x, labels_of(net, x), Linf(0.1), ["pgd", pgd, pgd])  # type: ignore[list-item]
    assert [trial.attack for trial in result.trials] == ["pgd", "pgd 2", "pgd 3"]
    assert [int(trial.forwards.sum() > 0) for trial in result.trials] == [1, 0, 0]


def test_an_attack_with_options_is_named_by_them() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 3, (0, 1))
    given = [partial(attacks.pgd, steps=2), partial(attacks.pgd, steps=3, step_size=0.25), partial(attacks.pgd, steps=2)]
    result = evaluate(net, x, labels_of(net, x), Linf(0.1), given)  # type: ignore[arg-type]
    assert [trial.attack for trial in result.trials] == ["pgd, steps 2", "pgd, steps 3, step_size 0.25", "pgd, steps 2 2"]


@pytest.mark.parametrize("radius", [0.1, 1.5 / 255])
def test_the_curve_says_at_the_bound_what_robust_accuracy_says(radius: float) -> None:
    """In float32, where clean + radius is rounded to a little more."""
    x = inputs_for(SHAPE, 1, (0, 1)).float()

    def brighter(inputs: Tensor) -> Tensor:
        rise = (inputs - x).flatten(1).mean(1) - radius / 4
        return torch.stack([-rise, rise], 1)

    def edge(wanted: Objective, region: Region) -> AttackResult:
        made = region.inputs(region.project(torch.ones_like(region.clean)))
        made = torch.where(made < 1, region.clean + radius, made)  # projections stay a hair inside
        assert region.gauge(made) > region.radius
        return replace(nothing_yet(region), adversarial=made, outcome=(Outcome.REACHED,), gauge=region.gauge(made))

    result = evaluate(brighter, x, torch.tensor([0]), Linf(radius), edge)
    assert result.robust_accuracy == result.curve([radius])[0][1] == Rate(0, 1)
    assert float(result.gauge) <= Linf(radius).around(x).radius  # what rounding adds is no distance


def test_a_bound_that_lets_nothing_be_changed_is_told() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 3, (0, 1))
    x[1] = 0
    with pytest.raises(UnusableBatch, match=r"input 0: nothing .*sticker:2x2\+30\+30.*another place"):
        evaluate(net, x, labels_of(net, x), "sticker:2x2+30+30", "pgd")
    with pytest.raises(UnusableBatch, match=r"input 1: .*silence.*leave this input out"):
        evaluate(net, x, labels_of(net, x), "snr:20", "pgd")


WRONG: list[tuple[str, object, type[AudioadvError], str]] = [
    ("batch", -5, OptionError, "batch -5"),
    ("batch", 0, OptionError, "batch 0"),
    ("batch", 2.5, OptionError, "batch 2.5"),
    ("lengths", torch.full((4,), 6), OptionError, "lengths: of no use"),
    ("box", (0, 1, 2), OptionError, "box"),
    ("goal", Misclassify(torch.tensor([0, 0, 0, 1])), OptionError, "these labels"),
    ("goal", Below(lambda outputs: outputs[:, 0], 0.0), OptionError, "these labels are left, or others reached"),
    ("goal", Classify([1, 2, 0, 0]), UnusableBatch, "target 0 of input 3: that is its label"),
    ("goal", Classify(2), UnusableBatch, "target 2 of input 2: that is its label"),
    ("goal", Classify([1, 2, 0]), UnusableBatch, "3 targets for 4 inputs"),
    ("attacks", {"a": "pgd"}, OptionError, "not callable"),
    ("attacks", {"a": 5}, OptionError, "not callable"),
    ("attacks", [5], OptionError, "unknown"),
    ("model", None, UnknownModel, "None"),
    ("model", "mnist", UnknownModel, r"load_classifier\('mnist'\)"),
    ("labels", 0, UnusableBatch, "1 labels for 4"),
    ("labels", torch.tensor(0), UnusableBatch, "1 labels for 4"),
    ("labels", None, UnusableBatch, "labels None"),
    ("labels", [[0], [1, 2]], UnusableBatch, "labels"),
    ("labels", ["a", 1, 2, 0], UnusableBatch, "labels"),
]


@pytest.mark.parametrize(("name", "value", "kind", "match"), WRONG, ids=str)
def test_wrong_calls_are_told(name: str, value: object, kind: type[AudioadvError], match: str) -> None:
    call: dict[str, Any] = {"model": small(3, SHAPE), "inputs": inputs_for(SHAPE, 4, (0, 1)), "labels": [0, 1, 2, 0], "threat": "linf:0.1"}
    with pytest.raises(kind, match=match):
        evaluate(**{"attacks": "fgsm", **call, name: value})


def test_of_nothing_at_all_nothing_is_said() -> None:
    assert evaluate(small(3, SHAPE), inputs_for(SHAPE, 0, (0, 1)), [], Linf(0.1), "fgsm").accuracy == Rate(0, 0)  # type: ignore[call-overload]


@pytest.mark.parametrize("spec", ["sticker:3x4+1+1", "sticker:3x4+1+1_and_l2:min", "l2:min_and_linf:0.05"])
@pytest.mark.parametrize("attack", ["ddn", "sigma_zero", "hop_skip_jump"])
def test_attacks_that_cannot_keep_to_a_part_of_a_bound_say_so(attack: str, spec: str) -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    with pytest.raises(OptionError, match=f"{attack}.*fmn or find_then_shrink"):
        evaluate(net, x, labels_of(net, x), spec, attack)


def test_labels_have_to_fit() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    with pytest.raises(UnusableBatch, match="labels"):
        evaluate(net, x, torch.tensor([0, 1]), Linf(0.1))
    with pytest.raises(UnusableBatch, match="label 3"):
        evaluate(net, x, torch.tensor([0, 1, 2, 3]), Linf(0.1))


def test_wilson_intervals() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert Rate(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Rate(0, 20).interval == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert Rate(0, 0).interval == (0, 1)


def test_standard_is_at_least_as_strong_as_its_parts() -> None:
    net, x = small(4, SHAPE), inputs_for(SHAPE, 20, (0, 1))
    labels = labels_of(net, x)
    for bound in (Linf(0.08), L2(0.3)):
        whole = evaluate(net, x, labels, bound, "standard")
        part = evaluate(net, x, labels, bound, "apgd")
        assert not (whole.robust & ~part.robust).any()
        (trial,) = whole.trials
        standing = whole.robust
        assert standing.any()
        assert (trial.backwards[standing] == 2 * 100 + 3 * 50).all()  # APGD, FMN, and three rivals of four classes
        assert (trial.forwards[standing] == 101 + 100 + 1000 + 1 + 3 * 51).all()


def test_queries_are_an_examples_own_over_all_attacks() -> None:
    net, x = small(3, (1, 4, 4)), inputs_for((1, 4, 4), 40, (0, 1))
    squares = {f"square {seed}": partial(attacks.square, steps=20, seed=seed) for seed in range(3)}
    with pytest.warns(UserWarning, match="forwards that the threat model allows"):
        found = evaluate(net, x, labels_of(net, x), ThreatModel("linf:0.1", queries=30, access="scores"), squares)
    spent, fallen = torch.zeros(40, dtype=torch.int64), torch.zeros(40, dtype=torch.bool)
    for trial in found.trials:
        spent += trial.forwards
        assert (spent[trial.felled] <= 30).all()
        fallen |= trial.felled
    assert bool((spent[~fallen] > 30).any())
    assert (found.gauge.isfinite() == fallen).all()

"""Evaluation against nets whose robust accuracy is known in closed form."""

from functools import partial

import pytest
import torch
from nets import inputs_for, labels_of, linear, small
from torch import Tensor, nn

from audioadv import attacks
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.errors import OptionError, UnusableBatch
from audioadv.evaluation import Rate, evaluate
from audioadv.threat.bounds import L2, MIN, Linf
from audioadv.threat.region import Region

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
    with pytest.raises(OptionError, match="magic"):
        evaluate(net, x, labels, Linf(0.1), "magic")


def test_claims_are_judged_again() -> None:
    """An attack that leaves the bound, or claims what is not so, does not count."""
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 6, None)

    def liar(wanted: Objective, region: Region) -> AttackResult:
        truth = attacks.pgd(wanted, region.at(1e4 * region.radius), steps=20, random_start=False)
        assert all(truth.reached)
        return truth

    assert evaluate(net, x, labels_of(net, x), L2(1e-3), liar, box=None).robust.all()


def test_a_model_that_gives_no_numbers_is_not_right() -> None:
    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs.flatten(1)[:, :3] * torch.nan

    result = evaluate(Broken(), inputs_for(SHAPE, 3, (0, 1)), torch.tensor([0, 1, 2]), Linf(0.1), "fgsm")
    assert result.accuracy == Rate(0, 3)


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

"""An evaluation keeps to its threat model, field by field, or refuses it: no figure claims what it is not."""

from dataclasses import replace
from functools import partial

import pytest
import recognisers
import torch
from nets import inputs_for, labels_of, linear, small
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult
from audioadv.audio.ragged import pad
from audioadv.defenses import Confidence, Detected, fit
from audioadv.errors import AccessDenied, OptionError
from audioadv.evaluation.games.game import ready
from audioadv.models.access import Access
from audioadv.models.classifier import granting
from audioadv.threat.region import Region

SHAPE = (1, 5, 6)
NET, X = linear(2, SHAPE), inputs_for(SHAPE, 12, (0, 1))
LABELS = labels_of(NET, X)
PGD = {"pgd": partial(attacks.pgd, steps=6, step_size=0.25, random_start=False)}


def detected() -> Detected:
    net = linear(2, SHAPE)
    return Detected(net, fit(Confidence(), net, inputs_for(SHAPE, 100, (0, 1), seed=2)))


@pytest.mark.parametrize("model", [NET, aa.Classifier(NET), aa.defend(NET, "depth:4"), detected()], ids=lambda model: type(model).__name__)
def test_attacks_are_granted_no_more_than_is_claimed(model: nn.Module) -> None:
    labels = model(X).argmax(1)
    for access, attack in (("scores", "pgd"), ("decisions", "square")):
        with pytest.raises(AccessDenied, match=f"access is '{access}'"):
            aa.evaluate(model, X, labels, aa.ThreatModel("linf:0.2", access=access), attack)
    some = {"square": partial(attacks.square, steps=20)}
    result = aa.evaluate(model, X, labels, aa.ThreatModel("linf:0.2", access="scores"), some)
    assert result.backwards == 0 < result.forwards


def test_a_bound_alone_leaves_the_models_own_access_and_may_be_a_spec() -> None:
    with pytest.raises(AccessDenied):
        aa.evaluate(aa.Classifier(NET).granting(Access.SCORES), X, LABELS, "linf:0.2", PGD)
    assert str(aa.evaluate(NET, X, LABELS, "linf:0.2", PGD)) == str(aa.evaluate(NET, X, LABELS.tolist(), aa.Linf(0.2), PGD))


@pytest.mark.parametrize("model", [aa.Classifier(NET), aa.defend(NET, "depth:4"), detected()], ids=lambda model: type(model).__name__)
def test_a_claim_of_more_than_the_model_grants_is_refused(model: aa.Classifier) -> None:
    shut, labels = granting(model, Access.DECISIONS), model(X).argmax(1)
    for threat in (aa.ThreatModel("linf:0.2"), aa.ThreatModel("linf:0.2", access="scores")):
        with pytest.raises(OptionError, match=f"attacker has {threat.access}, but the model grants decisions only"):
            aa.evaluate(shut, X, labels, threat, PGD)
    some = {"moves": partial(attacks.hop_skip_jump, steps=2)}
    assert aa.evaluate(shut, X, labels, aa.ThreatModel("l2:min", access="decisions"), some).backwards == 0


def test_finds_that_took_too_many_queries_do_not_count() -> None:
    free = aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.3"), PGD)
    (trial,) = free.trials
    took = trial.forwards[trial.felled]
    allowed = int(took.float().median())
    assert took.min() <= allowed < took.max()
    with pytest.warns(UserWarning, match=f"more than the {allowed} forwards"):
        bound = aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.3", queries=allowed), PGD)
    assert torch.equal(bound.trials[0].felled, trial.felled & (trial.forwards <= allowed))
    assert torch.equal(bound.robust, free.robust | (trial.felled & (trial.forwards > allowed)))
    shy = aa.defend(NET, "depth:8")  # what was asked of a substitute was not asked of the model
    limited = aa.ThreatModel("linf:0.3", queries=int(took.max()) + 2)
    beside = aa.evaluate(shy, X, LABELS, limited, PGD, static=lambda inputs: inputs.flatten(1)[:, :3])
    assert beside.static_accuracy is not None
    assert beside.static_accuracy.hits > beside.robust_accuracy.hits
    enough = aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.3", queries=int(took.max())), PGD)
    assert torch.equal(enough.robust, free.robust)


def by_hand(wanted: Objective, region: Region, steps: int = 4) -> AttackResult:
    """An attack of one's own, of plain torch, that tells of no pass it took."""
    delta, none = region.start(), torch.zeros(len(region.clean), dtype=torch.int64)
    for _ in range(steps):
        inputs = region.inputs(delta).requires_grad_()
        (slope,) = torch.autograd.grad(wanted.goal.loss(wanted.outputs(inputs)).sum(), inputs)
        delta = region.descend(delta, slope, region.radius)
    found = region.inputs(delta)
    return AttackResult(found, (aa.Outcome.REACHED,) * len(found), region.gauge(found), none, none, none)


def without_telling(attack: Attack, wanted: Objective, region: Region) -> AttackResult:
    """What begins for itself counts for itself, and tells nothing here."""
    found = attack(wanted.begun(region.clean), region)
    return replace(found, forwards=0 * found.forwards, backwards=0 * found.backwards)


@pytest.mark.parametrize(
    "attack", [by_hand, partial(without_telling, partial(attacks.to_the_end, steps=4, step_size=2))], ids=["by hand", "begun anew"]
)
def test_what_an_attack_of_ones_own_asks_is_counted_whatever_it_tells(attack: Attack) -> None:
    free = aa.evaluate(NET, X, LABELS, "linf:0.6", {"mine": attack})
    (trial,) = free.trials
    assert trial.felled.all()
    assert trial.forwards.tolist() == [4] * 12
    with pytest.warns(UserWarning, match="12 of 12 finds took more than the 3 forwards"):
        assert aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.6", queries=3), {"mine": attack}).robust.all()
    enough = aa.ThreatModel("linf:0.6", queries=4)
    assert not aa.evaluate(NET, X, LABELS, enough, {"mine": attack}, batch=5).robust.any()
    claim = aa.ThreatModel("linf:0.6", "be wrong", queries=3, protocol="true-max")
    assert torch.equal(ready(NET, X, aa.Misclassify(LABELS), claim, attack), X)


def test_outputs_show_no_more_than_the_access_that_is_claimed() -> None:
    for access in ("scores", "decisions"):
        with pytest.raises(AccessDenied, match=f"access is '{access}', but this attack needs gradients"):
            aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.3", access=access), {"mine": by_hand})
    shown = {access: aa.objective(aa.Classifier(NET).granting(access), aa.Misclassify(LABELS)) for access in Access}
    assert shown[Access.GRADIENTS].outputs(X.clone().requires_grad_()).requires_grad
    assert torch.equal(shown[Access.SCORES].outputs(X), NET(X))
    assert torch.equal(shown[Access.DECISIONS].outputs(X), LABELS)
    with torch.no_grad():  # no slope flows there
        assert torch.equal(shown[Access.DECISIONS].outputs(X.clone().requires_grad_()), LABELS)
    waveforms, lengths = clips()
    deaf = aa.objective(recognisers.linear().granting(Access.DECISIONS), aa.Transcribe("go"), lengths)
    with pytest.raises(AccessDenied, match="needs scores"):
        deaf.outputs(waveforms)
    assert not deaf.decide(waveforms).any()


def test_a_transfer_is_from_a_substitute_that_shows_itself() -> None:
    claim = aa.ThreatModel("linf:0.3", knowledge="transfer", access="decisions")
    for static in (None, NET):
        with pytest.raises(OptionError, match="static="):
            aa.evaluate(NET, X, LABELS, claim, PGD, static=static)
    result = aa.evaluate(NET, X, LABELS, claim, PGD, static=small(2, SHAPE))
    assert [trial.attack for trial in result.trials] == ["pgd, static", "pgd to its last step, static"]
    assert aa.evaluate(NET, X, LABELS, claim, PGD, static=linear(2, SHAPE)).robust_accuracy.hits < 12


def test_a_transfer_takes_nothing_of_the_model_and_so_demands_nothing() -> None:
    """A model that tells only its decisions, and a claim that says nothing of access: what is found is found on the substitute."""
    claim, substitute = aa.ThreatModel("linf:0.3", knowledge="transfer"), linear(2, SHAPE)
    shut = aa.Classifier(NET).granting(Access.DECISIONS)
    found = aa.evaluate(shut, X, LABELS, claim, PGD, static=substitute)
    assert str(found) == str(aa.evaluate(NET, X, LABELS, claim, PGD, static=substitute))
    assert found.robust_accuracy.hits < 12


WRONG = [
    (aa.ThreatModel("linf:0.1", channel="median:3"), "defend"),
    (aa.ThreatModel("linf:0.1", protocol="true-max"), "games.play"),
    (aa.ThreatModel("linf:0.1", aa.Classify(1)), "'not class"),
    (aa.ThreatModel("linf:0.1", aa.Misclassify(1 - LABELS)), "'not class"),
    (aa.ThreatModel("linf:0.1", aa.Misclassify(LABELS) & aa.Undetected()), "Detected"),
    (0.1, "not a bound"),
    (None, "not a bound"),
    ("linf", "not a bound"),
]


@pytest.mark.parametrize(("threat", "match"), WRONG, ids=lambda value: str(value)[:60])
def test_what_is_not_measured_is_not_claimed(threat: object, match: str) -> None:
    with pytest.raises(OptionError, match=match):
        aa.evaluate(NET, X, LABELS, threat, PGD)  # type: ignore[call-overload]


def test_the_goal_that_is_measured_may_be_named() -> None:
    aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.01", aa.Misclassify(LABELS)), PGD)
    model = detected()
    labels = model(X).argmax(1)
    aa.evaluate(model, X, labels, aa.ThreatModel("linf:0.01", aa.Misclassify(labels) & aa.Undetected()), PGD)


def test_a_goal_of_a_confidence_of_ones_own_is_the_same_goal() -> None:
    def own(scores: Tensor, labels: Tensor) -> Tensor:
        return scores.gather(1, labels[:, None])[:, 0]

    goal = aa.Misclassify(LABELS, own)
    for claimed in (goal, aa.Misclassify(LABELS.clone(), own)):
        aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.01", claimed), PGD, goal=goal)
    others = aa.Misclassify(LABELS), aa.Misclassify(1 - LABELS, own), aa.Misclassify(LABELS, own, by=1)
    for other in (*others, aa.Misclassify(LABELS, lambda *_: _)):
        with pytest.raises(OptionError, match="evaluate measures"):
            aa.evaluate(NET, X, LABELS, aa.ThreatModel("linf:0.01", other), PGD, goal=goal)


# Recognisers


def clips() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return pad([0.1 * torch.randn(2000 + 320 * i, generator=generator) for i in range(3)])


def test_of_a_recogniser_too() -> None:
    model, (waveforms, lengths) = recognisers.linear(), clips()
    said = model.transcribe(waveforms, lengths)

    def measured(threat: object, victim: aa.Recogniser = model) -> aa.evaluation.SpeechEvaluation:
        return aa.evaluate(victim, waveforms, said, threat, PGD, lengths=lengths, errors=0.5)  # type: ignore[call-overload]

    free = measured(aa.ThreatModel("linf:0.02"))
    assert free.robust_accuracy.hits == 0
    with pytest.warns(UserWarning, match="more than the 1 forwards"):
        assert measured(aa.ThreatModel("linf:0.02", queries=1)).robust.all()
    assert measured(aa.ThreatModel("linf:0.02", queries=7)).robust_accuracy.hits == 0
    for threat, match in [
        (aa.ThreatModel("linf:0.02", knowledge="transfer"), "substitute"),
        (aa.ThreatModel("linf:0.02", protocol="true-max"), "games.play"),
        (aa.ThreatModel("linf:0.02", aa.Silence()), "not: "),
        (aa.ThreatModel("linf:0.02", aa.Mistranscribe(said, 0.9)), "not: "),
        (0.02, "not a bound"),
    ]:
        with pytest.raises(OptionError, match=match):
            measured(threat)
    measured(aa.ThreatModel("linf:0.02", aa.Mistranscribe(said, 0.5)))


def test_who_does_not_know_of_a_recognisers_defense_attacks_the_undefended() -> None:
    """Behind a gain of nothing at all slopes are zero: only an attack on the undefended model gets anywhere."""

    class Shut(nn.Module):
        statement = aa.defenses.Statement("none")

        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return recognisers.listen(waveforms.detach(), lengths)

    model, (waveforms, lengths) = recognisers.linear(), clips()
    said = model.transcribe(waveforms, lengths)
    safer = aa.defend(model, "bits:6")
    options = {"lengths": lengths, "errors": 0.5}
    heard = safer.transcribe(waveforms, lengths)
    blind = aa.evaluate(safer, waveforms, heard, aa.ThreatModel("linf:0.05", knowledge="oblivious"), PGD, **options)
    knowing = aa.evaluate(safer, waveforms, heard, aa.ThreatModel("linf:0.05"), PGD, **options)
    assert [trial.static for trial in blind.trials] == [True, True]
    assert [trial.static for trial in knowing.trials] == [True, True, False]
    shut = aa.Recogniser(Shut(), 16000)
    result = aa.evaluate(shut, waveforms, said, aa.ThreatModel("linf:0.05"), {"pgd": partial(attacks.pgd, steps=2)}, **options)
    assert result.trials[-1].attack == "pgd, no gradients"
    assert result.trials[-1].backwards.sum() == 0 < result.trials[-1].forwards.sum()

"""Games against models whose long run is known in closed form (Goodfellow 2019, section 3)."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from recognisers import linear as linear_recogniser
from torch import Tensor, nn

from audioadv import attacks
from audioadv.defenses import Detected, Exact, Near, remembering, sampled
from audioadv.defenses.detectors import Detector
from audioadv.defenses.detectors.confidence import ConfidenceSense
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.evaluation import Rate
from audioadv.evaluation.games.attackers import Hand, Move, Moves, drawn, greedy, repeat, stubborn
from audioadv.evaluation.games.game import Game, play, rate, ready, together
from audioadv.models.abstention import abstained
from audioadv.models.classifier import Classifier
from audioadv.threat.bounds import L2, MIN, Linf
from audioadv.threat.goals import Mistranscribe, Transcribe
from audioadv.threat.labels import Classify, Misclassify
from audioadv.threat.model import ThreatModel
from audioadv.threat.undetected import Undetected
from audioadv.threat.warps import Spatial

TRUE_MAX = ThreatModel(Linf(0.1), protocol="true-max", access="decisions")
WORLD, ERRORS, CLASSES = 40, 4, 3


def world(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs that are their own scores, and labels: the model is wrong about the first few, and right about the rest."""
    labels = torch.arange(WORLD) % CLASSES
    scores = 0.05 * torch.rand(WORLD, CLASSES, generator=torch.Generator().manual_seed(seed)) + 0.05
    said = torch.where(torch.arange(WORLD) < ERRORS, (labels + 1) % CLASSES, labels)
    scores[torch.arange(WORLD), said] += 0.6
    return scores, labels


def holds(rate: Rate, theory: float) -> bool:
    """Within three standard errors of what theory says."""
    return abs(rate.value - theory) <= 3 * (theory * (1 - theory) / rate.count) ** 0.5


def untargeted(model: nn.Module, attacker: object, rounds: int = 400, **options: object) -> object:
    inputs, labels = world()
    return play(model, inputs, Misclassify(labels), TRUE_MAX, attacker, rounds=rounds, box=None, **options)


def test_a_fixed_model_errs_as_often_as_nature_makes_it_and_always_when_one_error_is_repeated() -> None:
    inputs, labels = world()
    net = nn.Identity()
    game = play(net, inputs, Misclassify(labels), ThreatModel(Linf(0.1)), rounds=3 * WORLD, box=None)
    assert game.attacker == "drawn"
    assert game.error == Rate(3 * ERRORS, 3 * WORLD)
    assert game.examples[0, :WORLD].unique().numel() == WORLD  # none twice before all have come
    for attacker in (None, greedy, repeat, partial(repeat, shake=0.1)):
        game = untargeted(net, attacker)
        assert game.late_error == Rate(200, 200)
        assert int(game.hits[0, :WORLD].sum()) < WORLD
        first = int(game.hits[0].int().argmax())
        assert first <= WORLD - ERRORS
        assert game.hits[0, first:].all()
        assert (game.examples[0, first:] == game.examples[0, first]).all()


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
def test_a_stochastic_model_of_two_classes(share: float) -> None:
    """Where the right class has at most one half, the attacker has the rest, in the long run."""
    scores = torch.tensor([[share, 1 - share]]).log()
    model = sampled(nn.Identity())
    game = play(model, scores, Misclassify(1), ThreatModel(Linf(0), protocol="true-max"), stubborn, rounds=1000, box=None)
    assert holds(game.error, share)
    assert game.late_miss.hits + game.late_error.hits == 500


def test_the_greedy_attacker_leaves_what_works_less_than_half_of_the_time() -> None:
    """Nine inputs that err in a tenth of the draws, one that errs in seven tenths."""
    shares = torch.full((10,), 0.1)
    shares[6] = 0.7
    inputs = torch.stack([shares, 1 - shares], 1).log()
    rule = ThreatModel(Linf(0), protocol="true-max")
    games = [
        play(sampled(nn.Identity(), seed=seed), inputs, Misclassify(1), rule, greedy, rounds=400, box=None, seed=seed) for seed in range(5)
    ]
    game = together(games)
    assert game.hits.shape == (5, 400)
    assert game.late_error.interval[0] >= 0.5
    assert (game.examples[:, 200:] == 6).all(1).sum() >= 4


def test_memory_with_abstention_leaves_at_most_what_nature_gives() -> None:
    game = untargeted(remembering(nn.Identity()), repeat)
    assert game.error == Rate(1, 400)  # the first, and never again
    assert game.late_abstention == Rate(200, 200)
    for attacker in (greedy, drawn):
        game = untargeted(remembering(nn.Identity()), attacker)
        assert game.error == Rate(ERRORS, 400)
        assert game.late_error.hits == 0
        assert game.cost(0.5) == pytest.approx(0.5)  # all of the second half is refused
    everyone_once = untargeted(remembering(nn.Identity()), drawn, rounds=WORLD)
    assert everyone_once.error == Rate(ERRORS, WORLD)
    assert everyone_once.abstention == Rate(0, WORLD)


def test_memory_without_abstention_is_symmetric() -> None:
    """Untargeted: wrong in (k-1)/k. Targeted: the same attacker misses its class in (k-1)/k."""
    theory = (CLASSES - 1) / CLASSES
    for attacker in (repeat, stubborn):
        game = untargeted(remembering(nn.Identity(), on_repeat="any"), attacker, rounds=600)
        assert holds(game.late_error, theory)
        assert not game.abstained.any()
    inputs, labels = world()
    target = Classify((labels + 1) % CLASSES)
    fixed = play(nn.Identity(), inputs, target, TRUE_MAX, repeat, rounds=200, box=None)
    assert fixed.late_miss == Rate(0, 100)
    game = play(remembering(nn.Identity(), on_repeat="any"), inputs, target, TRUE_MAX, repeat, rounds=1000, box=None)
    assert holds(game.late_miss, theory)
    assert game.error.interval[1] < 1 - theory + 0.1


def test_answering_anything_but_the_first_answer_loses_to_who_repeats_what_was_right() -> None:
    inputs, labels = world()
    right, wrong = slice(ERRORS, ERRORS + 1), slice(0, 1)
    for rows, theory in ((right, 1.0), (wrong, (CLASSES - 2) / (CLASSES - 1))):
        model = remembering(nn.Identity(), on_repeat="other")
        game = play(model, inputs[rows], Misclassify(labels[rows]), TRUE_MAX, stubborn, rounds=500, box=None)
        assert holds(rate(game.hits[:, 1:]), theory)
        assert (theory < 1) or game.hits[:, 1:].all()


def test_noise_gets_around_exact_memory_and_not_around_a_near_one() -> None:
    shaking = partial(repeat, shake=0.1)
    exact = untargeted(remembering(nn.Identity(), Exact()), shaking)
    assert exact.late_error == Rate(200, 200)
    near = untargeted(remembering(nn.Identity(), Near(L2(0.03))), shaking)  # noise of up to 0.01 in three places
    assert near.error == Rate(1, 400)
    assert near.late_abstention == Rate(200, 200)


def test_no_memory_helps_against_inputs_that_are_new_each_time() -> None:
    """What is adversarial within the bound, and made on a copy, is seen for the first time when it is sent."""
    inputs, labels = world()
    inputs = inputs * 0.1  # margins of 0.06: all fall within 0.05
    claim = ThreatModel(Linf(0.05))
    model = remembering(nn.Sequential(nn.Flatten()), Near(L2(1e-3)))
    sent = ready(model, inputs, Misclassify(labels), claim, partial(attacks.pgd, steps=20), box=None)
    game = play(model, inputs, Misclassify(labels), claim, sent=sent, rounds=WORLD, box=None)
    assert game.error == Rate(WORLD, WORLD)
    assert not game.abstained.any()


def watched(threshold: float) -> Detected:
    """A fixed model that refuses whatever it is less sure of."""
    return Detected(nn.Flatten(), Detector(ConfidenceSense(), threshold, 1.0, 0.05, "a detector"))


def test_what_the_models_own_detector_refuses_is_an_abstention_and_no_hit() -> None:
    inputs, labels = world()
    plain = play(nn.Flatten(), inputs, Misclassify(labels), TRUE_MAX, repeat, rounds=100, box=None)
    for shut in (watched(-1e9), Classifier(watched(-1e9)), remembering(watched(-1e9))):
        game = play(shut, inputs, Misclassify(labels), TRUE_MAX, repeat, rounds=100, box=None)
        assert (game.error, game.abstention) == (Rate(0, 100), Rate(100, 100))
    game = play(watched(1e9), inputs, Misclassify(labels), TRUE_MAX, repeat, rounds=100, box=None)
    assert torch.equal(game.hits, plain.hits)
    assert not game.abstained.any()
    claim = replace(TRUE_MAX, goal=Misclassify(labels) & Undetected())
    game = play(watched(-1e9), inputs, Misclassify(labels), claim, repeat, rounds=100, box=None)
    assert (game.error, game.abstention) == (Rate(0, 100), Rate(100, 100))


def test_what_is_made_ready_is_made_to_pass_the_models_detector() -> None:
    """Half of an example's way across the boundary the model is unsure, and refuses it."""
    inputs, labels = world()
    model, claim = watched(0.2), ThreatModel(Linf(0.6))  # log odds: sure enough is a probability below 0.45
    sent = ready(model, inputs, Misclassify(labels), claim, partial(attacks.pgd, steps=20), box=None)
    game = play(model, inputs, Misclassify(labels), claim, sent=sent, rounds=WORLD, box=None)
    blind = ready(nn.Flatten(), inputs, Misclassify(labels), claim, partial(attacks.pgd, steps=20), box=None)
    unaware = play(model, inputs, Misclassify(labels), claim, sent=blind, rounds=WORLD, box=None)
    assert game.error.hits == WORLD > unaware.error.hits


def test_natural_duplicates_are_refused_as_well() -> None:
    inputs, labels = world()
    twins = torch.cat([inputs, inputs[:10] + 1e-4])
    game = play(
        remembering(nn.Identity(), Near(L2(1e-3))), twins, Misclassify(labels.repeat(2)[:50]), ThreatModel(Linf(0.1)), rounds=50, box=None
    )
    assert game.abstention == Rate(10, 50)


def test_what_lies_outside_the_bound_is_no_hit() -> None:
    inputs, labels = world()

    def cheat(hand: Hand) -> Moves:
        while True:
            yield Move(WORLD - 1, hand.ready[0])

    assert play(nn.Identity(), inputs, Misclassify(labels), TRUE_MAX, cheat, rounds=5, box=None).error == Rate(0, 5)
    thrice = ThreatModel(Linf(0.1), protocol="true-max", queries=3)
    assert play(nn.Identity(), inputs[:1], Misclassify(labels[:1]), thrice, repeat, rounds=5, box=None).error == Rate(3, 5)


def test_recognisers_play_too() -> None:
    """An error is a clip misheard; clips are ragged."""
    recogniser, lengths = linear_recogniser(), torch.tensor([3200, 1600, 4800])
    sounds = 0.5 * torch.rand(3, 4800, generator=torch.Generator().manual_seed(0)) - 0.25
    sounds = sounds * (torch.arange(4800) < lengths[:, None])
    said = recogniser.transcribe(sounds, lengths)
    wrong = Mistranscribe([said[0], "no such words", said[2]])
    claim = ThreatModel("snr:40", goal=wrong, protocol="true-max")
    options = {"lengths": lengths, "box": (-1.0, 1.0), "rounds": 60}
    game = play(recogniser, sounds, wrong, claim, repeat, **options)
    assert game.late_error == Rate(30, 30)
    assert set(game.examples[0, 30:].tolist()) == {1}
    model = remembering(recogniser)
    game = play(model, sounds, wrong, claim, repeat, **options)
    assert game.error == Rate(1, 60)
    assert bool(abstained(model(sounds[1:2, :1600], lengths[1:2])))
    phrases = ("go", "stop", "wait", said[2])
    wish = Transcribe(said[2])
    model = remembering(recogniser, on_repeat="any", answers=phrases)
    game = play(model, sounds, wish, ThreatModel("snr:40", protocol="true-max"), repeat, **(options | {"rounds": 300}))
    assert holds(game.late_miss, 3 / 4)
    assert game.line()["threat"]["goal"] == f"say {said[2]!r}"
    mistaken = play(recogniser, sounds, wrong, ThreatModel("snr:40", protocol="true-max"), repeat, **options)
    assert mistaken.line()["threat"]["goal"].startswith("mishear")


def test_a_game_claims_the_goal_that_it_is_played_for() -> None:
    """The usual word of a threat model says no more of a targeted goal than of another; words of one's own are taken at their word."""
    inputs, labels = world()
    others = (labels + 1) % CLASSES
    aims = [
        (Misclassify(labels), TRUE_MAX),
        (Classify(others), TRUE_MAX),
        (Classify(others), replace(TRUE_MAX, goal="take it for another")),
    ]
    games = [play(nn.Identity(), inputs, goal, threat, repeat, rounds=8, box=None) for goal, threat in aims]
    assert [game.threat.goal for game in games] == ["misclassify", f"answer '{Classify(others)}'", "take it for another"]
    bare = play(nn.Identity(), inputs, Classify(others), TRUE_MAX.bound, rounds=8, box=None)
    assert bare.threat.goal == games[1].threat.goal
    with pytest.raises(OptionError, match="2 rules"):
        together(games[:2])


def test_lines_and_curves() -> None:
    game = untargeted(nn.Identity(), repeat, rounds=100)
    line = json.loads(json.dumps(game.line()))
    assert line["attacker"] == "repeat"
    assert (line["late_error"], line["late"], line["abstention"]) == (1.0, 50, 0.0)
    assert line["late_error_interval"] == pytest.approx(Rate(50, 50).interval)
    assert ThreatModel.from_json(json.dumps(line["threat"])) == TRUE_MAX
    assert [(end, error.count) for end, error, _ in game.curve(30)] == [(30, 30), (60, 30), (90, 30)]
    assert sum(error.hits for _, error, _ in game.curve(10)) == game.error.hits
    assert untargeted(nn.Identity(), repeat, seed=1).examples.tolist() != untargeted(nn.Identity(), repeat).examples.tolist()


def test_the_long_run_begins_after_the_first_hit_and_not_before_the_second_half() -> None:
    hits = torch.tensor([[0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    game = Game(TRUE_MAX, "repeat", hits, ~hits, torch.zeros_like(hits).long())
    assert game.late.int().tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1]]
    assert (game.late_error, game.late_miss, game.late_abstention) == (Rate(3, 7), Rate(4, 7), Rate(4, 7))
    assert game.error == Rate(6, 18)
    assert game.cost(0.25) == pytest.approx((3 + 0.25 * 4) / 7)


def test_rules_that_make_no_sense() -> None:
    inputs, labels = world()
    goal = Misclassify(labels)
    with pytest.raises(OptionError, match="true-max"):
        play(nn.Identity(), inputs, goal, ThreatModel(Linf(0.1)), repeat, box=None)
    for bound in (Linf(MIN), Spatial(10, 1)):
        with pytest.raises(OptionError, match="fixed bound"):
            play(nn.Identity(), inputs.reshape(WORLD, 1, 1, CLASSES), goal, ThreatModel(bound, protocol="true-max"), box=None)
    for rounds in (0, 2.5, 1e2, "100"):
        with pytest.raises(OptionError, match=f"rounds {rounds!r}: .*at least 1"):
            play(nn.Identity(), inputs, goal, TRUE_MAX, rounds=rounds, box=None)  # type: ignore[arg-type]
    for unfit in (goal, goal & Classify(0)):
        with pytest.raises(UnusableBatch, match=r"5 inputs: .* one for each"):
            play(nn.Identity(), inputs[:5], unfit, TRUE_MAX, box=None)
    assert play(nn.Identity(), inputs[:5], Misclassify(0) & Classify(1), TRUE_MAX, rounds=3, box=None).rounds == 3
    with pytest.raises(UnusableBatch, match="one for each"):
        play(nn.Identity(), inputs, goal, TRUE_MAX, sent=inputs[:3], box=None)
    with pytest.raises(UnusableBatch, match="no inputs"):
        play(nn.Identity(), inputs[:0], Misclassify(0), TRUE_MAX, box=None)
    with pytest.raises(UnusableBatch, match=r"goal 'not class 0,1,2', 40 inputs: .* one for each"):
        play(nn.Identity(), inputs, Misclassify(labels[:3]), TRUE_MAX, box=None)
    for window in (0, 1.5, True, "5"):
        with pytest.raises(OptionError, match=f"window {window!r}: give a whole number"):
            untargeted(nn.Identity(), repeat, rounds=5).curve(window)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="length"):
        together([untargeted(nn.Identity(), repeat, rounds=5), untargeted(nn.Identity(), repeat, rounds=6)])
    alone = untargeted(nn.Identity(), repeat, rounds=5)
    others = [replace(alone, attacker="greedy"), replace(alone, threat=replace(alone.threat, bound=Linf(0.2)))]
    for other in others:
        with pytest.raises(OptionError, match=r"2 rules .*repeat within"):
            together([alone, other])


def test_the_long_run_of_an_honest_draw_is_its_second_half() -> None:
    """Few hits: rounds after the first one alone would leave it out, and all before it."""
    hits = torch.rand(3000, 100, generator=torch.Generator().manual_seed(0)) < 0.01
    game = Game(ThreatModel("linf:0.1", protocol="expectimax"), "drawn", hits, hits & False, hits.long())
    assert game.late_error.value == pytest.approx(0.01, abs=6e-4)
    assert replace(game, attacker="greedy").late_error.value < 0.007


@pytest.mark.parametrize("begin", [play, partial(ready, attack=attacks.pgd)], ids=["play", "ready"])
def test_a_claim_that_a_game_does_not_keep_to_is_refused(begin: partial) -> None:
    inputs, labels = world()
    goal, shut = Misclassify(labels), Classifier(nn.Identity(), access="scores")
    for model, terms, said in (
        (nn.Identity(), {"channel": "gaussian:0.1"}, "threat model over gaussian:0.1"),
        (nn.Identity(), {"goal": Classify(labels)}, "goal class 0,1,2"),
        (shut, {}, "the model grants scores only"),
    ):
        with pytest.raises(OptionError, match=said):
            begin(model, inputs, goal, ThreatModel(Linf(0.1), **terms), box=None)
    assert begin(nn.Identity(), inputs, goal, ThreatModel(Linf(0.1), goal), box=None) is not None


@pytest.mark.parametrize("model", [nn.Identity(), remembering(nn.Identity())], ids=["fixed", "remembering"])
def test_what_is_made_ready_is_made_with_the_access_that_is_claimed(model: nn.Module) -> None:
    inputs, labels = world()
    with pytest.raises(AccessDenied):
        ready(model, inputs, Misclassify(labels), ThreatModel("linf:0.1", access="decisions"), attacks.pgd, box=None)


@pytest.mark.parametrize("bound", [Linf(0.1), "linf:0.1"], ids=repr)
def test_a_bound_alone_is_a_claim_of_this_goal_and_all_that_the_model_grants(bound: Linf | str) -> None:
    inputs, labels = world()
    model, goal = Classifier(nn.Identity(), access="scores"), Classify(labels)
    game = play(model, inputs, goal, bound, rounds=WORLD, box=None)
    assert game.error == Rate(WORLD - ERRORS, WORLD)
    assert ThreatModel.from_json(json.dumps(game.line()["threat"])) == game.threat
    assert (game.threat.bound, game.threat.access, game.threat.protocol) == (Linf(0.1), "scores", "expectimax")
    assert "answer 'class 0,1,2" in str(game.threat)
    assert ready(model, inputs, goal, bound, partial(attacks.square, steps=5), box=None).shape == inputs.shape


def test_who_may_not_ask_so_often_prepares_nothing_and_who_knows_less_plays_no_game() -> None:
    x = torch.rand(8, 6, generator=torch.Generator().manual_seed(0))
    net = nn.Linear(6, 3).requires_grad_(False)
    goal, attack = Misclassify(net(x).argmax(1)), partial(attacks.pgd, steps=5)
    free = ready(net, x, goal, ThreatModel("linf:0.9"), attack)
    assert not torch.equal(free, x)
    assert torch.equal(ready(net, x, goal, ThreatModel("linf:0.9", queries=100), attack), free)
    few = ready(net, x, goal, ThreatModel("linf:0.9", queries=1), partial(attacks.pgd, steps=5, early_stop=False))
    assert torch.equal(few, x)
    for knowledge in ("oblivious", "transfer"):
        with pytest.raises(OptionError, match=f"knowledge '{knowledge}'"):
            play(net, x, goal, ThreatModel("linf:0.9", knowledge=knowledge))

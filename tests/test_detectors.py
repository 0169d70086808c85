"""Detectors: what they refuse, what they carry, the goal to pass them, and the attack that knows."""

import math

import numpy as np
import pytest
import torch
from recognisers import linear as recogniser
from torch import Tensor, nn

import audioadv as aa
from audioadv.attacks import apgd, fmn, pgd
from audioadv.attacks.objective import objective
from audioadv.defenses import Confidence, Density, Detected, Mahalanobis, Network, Statement, fit, stated
from audioadv.defenses.detectors.detected import shuffled
from audioadv.defenses.detectors.seen import Seen, look, view
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.recogniser import Emissions
from audioadv.models.suspicion import carrying, suspicions
from audioadv.threat.bounds import MIN, SNR, Linf
from audioadv.threat.channels import Noise
from audioadv.threat.channels.heard import heard_through
from audioadv.threat.goals import Mistranscribe, Transcribe
from audioadv.threat.joined import Joined
from audioadv.threat.labels import Misclassify
from audioadv.threat.undetected import Undetected

KINDS = [
    Network(passes=3),
    Network("0", passes=3),
    Network("outputs", passes=3),
    Mahalanobis(),
    Mahalanobis(("0", "outputs")),
    Density("0"),
    Confidence(),
]


def blobs(count: int, shift: float, seed: int) -> Tensor:
    """Two kinds of 8 x 8 pictures, bright on the left or on the right, and `shift` brighter in a checkerboard."""
    generator = torch.Generator().manual_seed(seed)
    side = (torch.arange(count) % 2)[:, None, None, None] == (torch.arange(8) // 4)
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    return (0.5 * side + 0.05 * torch.randn(count, 1, 8, 8, generator=generator) + 0.2 + shift * board).clamp(0, 1)


def sides() -> nn.Sequential:
    """A net that tells them apart."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Flatten(), nn.Linear(192, 2)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    net[0].weight.copy_(torch.randn(3, 1, 3, 3, generator=generator) / 3)
    net[2].weight.copy_(torch.stack([1.0 - torch.arange(8) // 4 * 2, torch.arange(8) // 4 * 2 - 1.0]).repeat(1, 24) / 8)
    net[0].weight[:, :, 1, 1] = 1
    return net.eval()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_threshold_keeps_its_rate_on_fresh_clean_inputs(kind: object) -> None:
    net = sides()
    detector = fit(kind, net, blobs(400, 0, 0), blobs(400, 0.3, 1), false_positives=0.1)
    model = Detected(net, detector)
    fresh = model.refuses(blobs(400, 0, 2)).float().mean()
    assert 0.02 < fresh < 0.25  # the threshold's own 80 examples leave that much
    assert str(detector) == str(kind)
    inputs = blobs(4, 0.1, 3).requires_grad_()
    outputs = model(inputs)
    assert torch.equal(outputs, net(inputs))  # to whoever does not ask, nothing has changed
    suspicion = suspicions(outputs)[detector]
    assert suspicion.tolist() == pytest.approx(
        suspicions(model(inputs[:1]))[detector].tolist() + suspicion[1:].tolist(), rel=1e-3, abs=1e-4
    )
    (slope,) = torch.autograd.grad(suspicion.sum(), inputs)
    assert slope.isfinite().all()
    assert (slope.flatten(1).abs().sum(1) > 0).all()


def test_exactly_the_rate_is_refused_of_what_set_the_threshold() -> None:
    net, clean = sides(), blobs(200, 0, 0)
    for rate in (0.05, 0.1, 0.3):
        model = Detected(net, fit(Confidence(), net, clean, false_positives=rate))
        assert int(model.refuses(clean[shuffled(clean, 0)[:40]]).sum()) == round(40 * rate)


@pytest.mark.parametrize("kind", [Density("0", keep=50), Mahalanobis(("0",)), Network(passes=1)], ids=str)
def test_the_order_of_the_examples_changes_nothing(kind: object) -> None:
    net, clean, strange = sides(), blobs(400, 0, 0), blobs(400, 0.3, 1)
    there, back = torch.arange(400), torch.arange(399, -1, -1)
    one, turned = (fit(kind, net, clean[order], strange[order], seed=3) for order in (there, back))
    assert one.threshold == turned.threshold
    seen = look(net, one.sense.layers, blobs(20, 0, 2), None)
    assert torch.equal(one(seen), turned(seen))
    assert fit(kind, net, clean, strange, seed=4).threshold != one.threshold


def test_classes_in_turn_are_no_trouble() -> None:
    net, clean = nn.Flatten(), torch.eye(5).repeat(80, 1) + 0.05 * torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    clean[:, 4] *= 20  # every fifth is of another kind than the rest
    model = Detected(net, fit(Density(), net, clean[:300, None], false_positives=0.1))
    assert 0.01 < model.refuses(clean[300:, None]).float().mean() < 0.25


def test_a_net_that_is_being_trained_is_watched_at_rest() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 2)).eval()
    expected, before = fit(Confidence(), net, blobs(200, 0, 0)).threshold, net[1].running_mean.clone()
    net.train()
    assert [fit(Confidence(), one, blobs(200, 0, 0)).threshold for one in (net, lambda inputs: net(inputs))] == [expected] * 2
    assert torch.equal(net[1].running_mean, before)
    assert net.training


def test_networks_and_statistics_tell_what_is_strange() -> None:
    net = sides()
    for kind in (Network(passes=3), Network("0", passes=3), Density("inputs", bandwidth=0.1), Mahalanobis(("inputs",))):
        model = Detected(net, fit(kind, net, blobs(400, 0, 0), blobs(400, 0.3, 1)))
        assert model.refuses(blobs(100, 0.3, 5)).float().mean() > 0.9, kind


def test_mahalanobis_is_the_distance_of_whitened_features() -> None:
    """Features of known covariance: the squared distance of each is chi-squared, whatever the covariance was."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(5, 5, generator=generator)
    net = nn.Sequential(nn.Flatten(), nn.Linear(5, 1, bias=False))
    features = torch.randn(4000, 1, 5, generator=generator) @ mix + 3
    sense = fit(Mahalanobis(("0",)), net, features).sense
    distances = sense(look(net, ("0",), features, None)) / sense.weights
    assert float(distances.mean()) == pytest.approx(5, rel=0.05)
    assert float(distances.var()) == pytest.approx(10, rel=0.15)
    assert float(sense(look(net, ("0",), features, None)).mean()) == pytest.approx(1, rel=0.05)


def test_mahalanobis_measures_by_how_one_class_spreads() -> None:
    """Two classes far apart: to the covariance of all, which they span, a point halfway would be near by."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 1, 2, generator=generator)
    features[::2, 0, 0] += 40
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        net[1].bias.copy_(torch.tensor([20.0, 0.0]))
    sense = fit(Mahalanobis(("0",)), net, features).sense
    distance = sense(look(net, ("0",), torch.tensor([[[20.0, 0.0]]]), None)) / sense.weights
    assert distance.item() == pytest.approx(400, rel=0.1)


def test_mahalanobis_is_the_distance_to_the_nearest_class_not_to_all() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 1, 2, generator=generator)
    features[::2, 0, 0] += 40  # class 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        net[1].bias.copy_(torch.tensor([20.0, 0.0]))
    sense = fit(Mahalanobis(("0",)), net, features).sense
    near = features[:50]
    learnt = features[shuffled(features, 0)[40:], 0].double().numpy()
    sides = [learnt[learnt[:, 0] < 20], learnt[learnt[:, 0] >= 20]]
    off = np.concatenate([side - side.mean(0) for side in sides])
    covariance = off.T @ off / len(off)
    inverse = np.linalg.inv(covariance + 1e-3 * covariance.diagonal().mean() * np.eye(2))
    apart = [near[:, 0].double().numpy() - side.mean(0) for side in sides]
    nearest = np.min([np.einsum("ni,ij,nj->n", away, inverse, away) for away in apart], 0)
    np.testing.assert_allclose(sense(look(net, ("0",), near, None)) / sense.weights, nearest, rtol=1e-2, atol=1e-3)


def test_density_is_the_kernels_of_the_same_class() -> None:
    net, clean = nn.Flatten(), torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]], [[0.2, 1.0]], [[1.0, 0.2]], [[0.5, 0.4]]]).repeat(8, 1, 1)
    clean = clean + 0.01 * torch.arange(40)[:, None, None]
    sense = fit(Density(bandwidth=0.5), net, clean, false_positives=0.2).sense
    point = torch.tensor([[[0.1, 0.7]]])
    learnt = clean[shuffled(clean, 0)[8:], 0]
    squares = (learnt[learnt.argmax(1) == 1] - point[0]).square().sum(1)
    expected = -(-squares / (2 * 0.25)).exp().mean().log()
    torch.testing.assert_close(sense(look(net, (), point, None))[0], expected, rtol=1e-4, atol=1e-5)


def test_confidence_is_the_largest_probability() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    sense = Confidence().learn([], [], 0)
    torch.testing.assert_close((-sense(look(nn.Identity(), (), scores, None))).sigmoid(), scores.softmax(1).amax(1))
    sure = torch.tensor([[90.0, 0.0], [30.0, 0.0], [0.0, -torch.inf]]).requires_grad_()
    strange = sense(look(nn.Identity(), (), sure, None))
    assert strange.isfinite().all()
    assert torch.autograd.grad(strange.sum(), sure)[0].isfinite().all()
    torch.testing.assert_close(strange[1], torch.tensor(-30.0))
    log_probs = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).log_softmax(2)
    heard = Seen(scores, None, Emissions(log_probs, torch.tensor([5, 2]), ("", "a", "b", "c")), {})
    mean = torch.stack([row[:own].amax(1).mean() for row, own in zip(log_probs, (5, 2), strict=True)]).exp()
    torch.testing.assert_close((-sense(heard)).sigmoid(), mean)


def test_confidence_is_no_wall_to_who_knows_it() -> None:
    """A sure net: as minus the log of its probability, to be unsure is hundreds of spreads away, and PGD stops before it."""
    net = sides()
    net[2].weight.mul_(3)
    detector = fit(Confidence(), net, blobs(400, 0, 0))
    inputs = blobs(20, 0, 9)
    goal = Misclassify(net(inputs).argmax(1)) & Undetected(detector)
    result = pgd(objective(Detected(net, detector), goal), Linf(0.6).around(inputs), steps=40)
    assert sum(result.reached) >= 18


def test_the_goal_reads_its_own_detector() -> None:
    scores = carrying(carrying(torch.tensor([[3.0, 1.0], [1.0, 3.0]]), "a", torch.tensor([1.0, -1.0])), "b", torch.tensor([-0.5, -0.2]))
    assert Undetected("a").reached(scores).tolist() == [False, True]
    assert Undetected("b").reached(scores).tolist() == [True, True]
    assert Undetected("b", by=0.3).reached(scores).tolist() == [True, False]
    assert Undetected().reached(scores).tolist() == [False, True]
    for goal in (Undetected("a"), Undetected("b", by=0.3), Undetected()):
        assert ((goal.margin(scores) == 0) == goal.reached(scores)).all()
        assert (goal.margin(scores, slack=2) > 0).all()
    both = Misclassify([0, 0]) & Undetected("a")
    assert both.reached(scores).tolist() == [False, True]
    assert both.margin(scores).tolist() == [3.0, 0.0]
    assert both.rows(torch.tensor([1])).loss(scores).shape == (2,)
    assert str(both) == "not class 0,0, and undetected by a"
    assert isinstance(both & Undetected("b"), Joined)
    assert len((both & Undetected("b")).goals) == 3
    assert both.impossible(scores) == [None, None]
    assert scores[:1].shape == (1, 2)
    assert not suspicions(scores[:1])
    for outputs in (scores[:1], torch.zeros(1, 2)):
        with pytest.raises(OptionError, match=r"nothing of a\. Attack the model that has it"):
            Undetected("a").loss(outputs)


@pytest.mark.parametrize("attack", [pgd, apgd, fmn])
def test_an_attack_that_knows_passes_where_one_that_does_not_is_seen(attack: object) -> None:
    net, clean = sides(), blobs(400, 0, 0)
    goal = Misclassify(net(clean).argmax(1))
    adversarial = pgd(objective(net, goal), Linf(0.45).around(clean), steps=10).adversarial
    model = Detected(net, fit(Network(passes=3), net, clean, adversarial))
    inputs = blobs(20, 0, 9)
    goal = Misclassify(net(inputs).argmax(1))
    blind = pgd(objective(model, goal), Linf(0.6).around(inputs), steps=30)
    assert all(blind.reached)
    assert model.refuses(blind.adversarial).float().mean() > 0.8
    region = Linf(0.6 if attack is not fmn else MIN).around(inputs)
    knowing = attack(objective(model, goal & model.undetected()), region, steps=60)
    assert sum(knowing.reached) >= 18
    reached = torch.tensor(knowing.reached)
    assert not model.refuses(knowing.adversarial)[reached].any()
    assert (model(knowing.adversarial).argmax(1) != goal.labels)[reached].all()


def test_detectors_add_up_and_the_model_states_it() -> None:
    net, clean, strange = sides(), blobs(100, 0, 0), blobs(100, 0.3, 1)
    one, other = fit(Confidence(), net, clean), fit(Mahalanobis(("0",)), net, clean, strange)
    model = Detected(Detected(net, one), other)
    assert list(suspicions(model(clean))) == [one, other]
    assert torch.equal(model.refuses(clean), Detected(net, one).refuses(clean) | Detected(net, other).refuses(clean))
    assert stated(model) == Statement(detects=True)
    assert not net[0]._forward_hooks
    classifier = Detected(aa.Classifier(net, "sides"), one)
    assert (classifier.name, classifier.granting(aa.Access.SCORES).access) == ("sides", aa.Access.SCORES)


def speech(count: int, seed: int) -> tuple[Tensor, Tensor]:
    lengths = 640 + 320 * (torch.arange(count) % 4)
    clips = 0.05 * torch.randn(count, 1600, generator=torch.Generator().manual_seed(seed))
    return clips * (torch.arange(1600) < lengths[:, None]), lengths


@pytest.mark.parametrize("kind", [Network(passes=2), Network("outputs", passes=2), Mahalanobis(), Density(), Confidence()], ids=str)
def test_recognisers_are_watched_without_their_padding(kind: object) -> None:
    model, (clips, lengths) = recogniser(), speech(100, 0)
    detected = Detected(model, fit(kind, model, clips, clips * 2, lengths=lengths))
    suspicion = suspicions(detected(clips[:4], lengths[:4]))[detected.detector]
    alone = torch.cat([suspicions(detected(clips[i : i + 1, : lengths[i]], lengths[i : i + 1]))[detected.detector] for i in range(4)])
    torch.testing.assert_close(suspicion, alone, rtol=1e-4, atol=1e-4)
    assert detected.sample_rate == 16000
    assert detected.transcribe(clips, lengths) == model.transcribe(clips, lengths)
    [judged] = heard_through(detected, clips[3], Noise(20), draws=2, clip=0)
    assert suspicions(judged)[detected.detector].shape == (2,), "what is judged through a channel is this model, not the one in it"


def test_a_recogniser_is_attacked_past_its_detector() -> None:
    model, (clips, lengths) = recogniser(), speech(100, 0)
    detected = Detected(model, fit(Confidence(), model, clips, lengths=lengths, false_positives=0.2))
    heard = model.transcribe(clips[:4], lengths[:4])
    region = SNR(0).around(clips[:4], lengths[:4], box=(-1, 1))
    result = pgd(objective(detected, Mistranscribe(heard) & detected.undetected(), lengths[:4]), region, steps=60)
    assert sum(result.reached) >= 3
    clip = aa.Clip("clip", clips[3], 16000)
    crafted = aa.craft(detected, [clip], Transcribe("no") & detected.undetected(), steps=150).clips[0]
    assert crafted.reached, crafted.note
    assert crafted.adversarial_transcript == "no"
    assert not detected.refuses(crafted.adversarial[None], lengths[3:4]).any()


def test_a_layer_that_strides_knows_its_padding() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 2, 4, stride=4)

        def forward(self, sounds: Tensor, lengths: Tensor) -> Tensor:
            return self.conv(sounds[:, None]).sum(2)

    net, sounds = Strided(), torch.ones(2, 16)
    seen = view(look(net, ("conv",), sounds, torch.tensor([16, 7])), "conv")
    assert seen.own is not None
    assert seen.own.tolist() == [[True] * 4, [True, True, False, False]]


@pytest.mark.parametrize("kind", [Mahalanobis(("conv",)), Density("conv"), Network("conv", passes=1)], ids=str)
def test_a_picture_of_a_sound_is_watched_without_its_padding(kind: object) -> None:
    class Picture(nn.Module):  # a column of ten samples each frame
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(1, 3, (3, 1), padding=(1, 0))

        def forward(self, sounds: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            seen = self.conv(sounds.reshape(len(sounds), 1, -1, 10).transpose(2, 3))
            return seen.mean(2).transpose(1, 2).log_softmax(2), lengths // 10

    model, (clips, lengths) = aa.Recogniser(Picture(), 16000, ("", "a", "b")), speech(100, 0)
    detected = Detected(model, fit(kind, model, clips, clips * 2, lengths=lengths))
    together = suspicions(detected(clips[:4], lengths[:4]))[detected.detector]
    alone = [suspicions(detected(clips[i : i + 1, : lengths[i]], lengths[i : i + 1]))[detected.detector] for i in range(4)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_a_layer_that_inputs_never_come_through_is_named() -> None:
    net = sides()
    net.register_module("aside", nn.Linear(2, 2))
    net.forward = lambda x: net[2](net[1](net[0](x)))  # type: ignore[method-assign]
    with pytest.raises(OptionError, match=r"layer 'aside': inputs never come through .* come through: 0, 1, 2"):
        fit(Density("aside"), net, blobs(60, 0, 0), false_positives=0.2)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())


def test_what_cannot_be_fitted_is_said() -> None:
    net, clean = sides(), blobs(60, 0, 0)
    with pytest.raises(OptionError, match=r"false_positives 0.05: 12 clean .* At least 100"):
        fit(Confidence(), net, clean)
    with pytest.raises(UnusableBatch, match=r"outputs of torch\.int64: decisions"):
        fit(Confidence(), lambda inputs: net(inputs).argmax(1), clean, false_positives=0.2)
    with pytest.raises(OptionError, match=r"false_positives 1\.5"):
        fit(Confidence(), net, clean, false_positives=1.5)
    with pytest.raises(OptionError, match="false_positives nan"):
        fit(Confidence(), net, clean, false_positives=math.nan)
    for kind in (Network(), Mahalanobis(("0", "2"))):
        with pytest.raises(OptionError, match="adversarial examples"):
            fit(kind, net, clean, false_positives=0.2)
    with pytest.raises(OptionError, match=r"layer '7': .* 0, 1, 2"):
        fit(Density("7"), net, clean, false_positives=0.2)
    with pytest.raises(OptionError, match="no module"):
        fit(Density("7"), lambda x: x.flatten(1), clean, false_positives=0.2)
    with pytest.raises(UnusableBatch, match="one adversarial example for each"):
        fit(Network(), net, clean, clean[:5], false_positives=0.2)
    with pytest.raises(UnusableBatch, match="not finite"):
        fit(Confidence(), net, clean * math.nan, false_positives=0.2)
    spoilt = clean.clone()
    spoilt[:7, 0, 0, 0] = math.inf
    for kind, place in (
        (Mahalanobis(("0",)), "layer '0'"),
        (Mahalanobis(("outputs",)), "outputs"),
        (Density("inputs"), "inputs"),
        (Network(passes=1), "inputs"),
    ):
        with pytest.raises(UnusableBatch, match=rf"{place}: the features of \d of .* are not finite. Leave those out"):
            fit(kind, net, spoilt, clean, false_positives=0.2)
    for kind in (Mahalanobis(("0", "outputs")), Network(passes=1)):
        with pytest.raises(UnusableBatch, match=r"the features of \d of 96 examples are not finite"):
            fit(kind, net, clean, spoilt, false_positives=0.2)
    for kind in KINDS:
        with torch.inference_mode(), pytest.raises(UnusableBatch, match="inference_mode"):
            fit(kind, net, clean, clean, false_positives=0.2)
    with pytest.raises(OptionError, match="bandwidth 0"):
        Density(bandwidth=0)
    with pytest.raises(OptionError, match="places"):
        Mahalanobis(())
    with pytest.raises(UnusableBatch, match="type str"):
        carrying("outputs", None, torch.zeros(1))


def test_parts_that_pull_to_and_fro_are_both_reached() -> None:
    w = (1 + torch.arange(100.0)) ** -0.5
    w, looks = w / w.norm(), list[Tensor]()

    def model(inputs: Tensor) -> Tensor:  # wrong beyond a plane, seen outside of a ball that reaches a little farther
        looks.append(inputs.detach())
        ball = 10 * inputs.square().sum(1) - 20
        outputs: Tensor = carrying(torch.stack([1 - inputs @ w, 0 * inputs[:, 0]], 1), "a ball", ball)
        return outputs

    goal, region = Misclassify(torch.tensor([0])) & Undetected(), Linf(1.0).around(torch.zeros(4, 100), box=None)
    assert not any(pgd(objective(model, goal), region, momentum=0.0).reached)
    assert all(pgd(objective(model, goal), region).reached)
    for wanted, step in ((goal, 0.5), (Misclassify(torch.tensor([0])), 2.0)):
        looks.clear()
        apgd(objective(model, wanted), region, steps=2, early_stop=False)
        assert float((looks[1] - looks[0]).abs().max()) <= step + 1e-6
        assert float((looks[1] - looks[0]).abs().max()) > 0.9 * min(step, 1.0)


def test_densitys_bandwidth_is_the_median_way_to_the_nearest_of_the_same_class() -> None:
    """Two classes in between each other: a tenth apart, but their own are at 1 from each other."""
    places = torch.tensor([[0.0], [1.0], [2.0], [0.1], [1.1], [2.1]])
    scores = torch.eye(2)[[0, 0, 0, 1, 1, 1]]
    sense = Density("inputs").learn([Seen(places, None, scores, {})], [], 0)
    assert sense.bandwidth == pytest.approx(1.0)

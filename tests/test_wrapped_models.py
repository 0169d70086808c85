"""Models around models, several deep: nothing that one of them does is lost, whoever asks."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any

import pytest
import recognisers
import torch
from nets import inputs_for, labels_of, linear, small
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.objective import objective
from audioadv.audio.ragged import pad
from audioadv.defenses import (
    Confidence,
    Detected,
    Mahalanobis,
    Smoothed,
    SmoothedRecogniser,
    Tempered,
    Through,
    defend,
    fit,
    forgetting,
    remembering,
    sampled,
    stated,
    undefended,
)
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.evaluation.adaptive import planned
from audioadv.evaluation.fidelity import carried, fidelity
from audioadv.evaluation.games.game import ready
from audioadv.evaluation.run.run_file import fingerprint_of
from audioadv.models.abstention import abstained
from audioadv.models.access import granted
from audioadv.models.recogniser import Recogniser, hear
from audioadv.models.rest import HELD, at_rest, module_of, modules_of
from audioadv.models.suspicion import suspicions
from audioadv.threat.bounds import Linf
from audioadv.threat.labels import Misclassify
from audioadv.training.extraction import Asked, extract

SHAPE = (1, 6, 6)
X = inputs_for(SHAPE, 12, (0, 1))


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return pad([0.1 * torch.randn(length, generator=generator) for length in (4000, 2560)])


# Behind a channel


def test_a_channel_before_smoothing_does_not_replace_it(clips: tuple[Tensor, Tensor]) -> None:
    smoothed = Smoothed(defend(aa.Classifier(linear(3, SHAPE)), "depth:3"), 0.3, draws=4)
    both = defend(smoothed, "depth:1")  # type: ignore[type-var]
    squeezed = X.round()
    torch.testing.assert_close(both(squeezed), smoothed(squeezed))
    voice = SmoothedRecogniser(defend(recognisers.linear(), "bits:12"), 0.05, draws=3)
    assert hear(defend(voice, "bits:16"), *clips).voted is not None  # type: ignore[type-var]
    assert undefended(smoothed) is undefended(both) is undefended(smoothed.model)


def stacks(net: Any, detector: Any) -> list[Any]:
    """Two defenses of every kind around a model, one in the other."""
    layers: list[Callable[[Any], Any]] = [
        lambda model: defend(model, "depth:7"),
        lambda model: Detected(model, detector),
        lambda model: Smoothed(model, 0.1, draws=3),
        sampled,
        remembering,
    ]
    return [one(other(net)) for one in layers for other in layers]


def test_who_does_not_know_of_a_defense_knows_of_none_of_its_layers(clips: tuple[Tensor, Tensor]) -> None:
    net = linear(3, SHAPE)
    detector = fit(Confidence(), net, inputs_for(SHAPE, 100, (0, 1)), false_positives=0.2)
    for model in stacks(net, detector):
        assert undefended(model) is net
    plan = planned(Detected(defend(net, "depth:3"), detector), Misclassify(0))
    assert plan.static is not None
    assert plan.static.model is net
    assert isinstance(plan.adaptive.model, Detected)
    soft = undefended(Tempered(defend(net, "depth:3"), 2.0))
    assert isinstance(soft, Tempered)
    assert soft.model is net
    voice = recognisers.linear()
    for around in (sampled, remembering, lambda model: SmoothedRecogniser(model, 0.1, draws=2)):
        assert undefended(around(defend(voice, "bits:12"))) is voice  # type: ignore[operator]
    threat = aa.ThreatModel("linf:0.1", knowledge="oblivious")
    result = aa.evaluate(Smoothed(net, 0.1, draws=3), X, labels_of(net, X), threat, {"pgd": partial(attacks.pgd, steps=2)})
    assert [trial.attack for trial in result.trials] == ["pgd, static", "pgd to its last step, static"]


def test_layers_grant_no_more_than_what_they_are_around() -> None:
    shut = aa.Classifier(linear(3, SHAPE), access=aa.Access.DECISIONS)
    detector = fit(Confidence(), shut, inputs_for(SHAPE, 100, (0, 1)), false_positives=0.2)
    for model in stacks(shut, detector):
        assert granted(model) is aa.Access.DECISIONS
        with pytest.raises(AccessDenied):
            attacks.pgd(aa.objective(model, Misclassify(0)), Linf(0.1).around(X), steps=1)
        assert granted(undefended(model)) is aa.Access.DECISIONS


def test_layers_keep_the_sample_rate() -> None:
    clicks = torch.zeros(1, 8000)
    clicks[0, 1000] = 0.5
    own = aa.Classifier(nn.Identity(), sample_rate=8000)
    for around in (remembering, sampled, lambda model: remembering(sampled(model)), lambda model: Smoothed(model, 1e-3)):
        defended = defend(around(own), "shift:100")  # type: ignore[operator]
        heard, _ = defended.preprocessed(clicks)
        assert int(heard.argmax()) == 1800


def test_a_smoothed_model_refuses_by_its_own_word() -> None:
    net = linear(3, SHAPE)
    detected = Detected(net, fit(Confidence(), net, inputs_for(SHAPE, 100, (0, 1)), false_positives=0.2))
    smoothed, x = Smoothed(detected, 1.0, draws=5), inputs_for(SHAPE, 60, (0, 1))
    own = suspicions(smoothed(x))[detected.detector] > 0
    assert torch.equal(smoothed.refuses(x), own)
    assert not torch.equal(detected.refuses(x), own)
    with pytest.raises(OptionError, match="any detector"):
        Smoothed(net, 0.1).refuses(x)


def test_what_a_module_is_made_from_states_for_it() -> None:
    net = linear(3, SHAPE)
    detected = Detected(net, fit(Confidence(), net, inputs_for(SHAPE, 100, (0, 1)), false_positives=0.2))
    tempered, x = Tempered(detected, 2.0), inputs_for(SHAPE, 6, (0, 1))
    assert stated(tempered).detects
    assert tempered.undetected().reached(tempered(x)).equal(~detected.refuses(x))
    torch.testing.assert_close(tempered(x), net(x) / 2)
    assert Tempered(aa.load_classifier("digits-spoken"), 2.0).sample_rate == 8000


def test_smoothing_and_normalisation_are_part_of_what_is_attacked() -> None:
    noisy = Smoothed(defend(linear(3, SHAPE), "drop:0.3"), 0.5, draws=4)
    goal = Misclassify(labels_of(linear(3, SHAPE), X))
    assert planned(noisy, goal).adaptive.model is noisy
    normalised = aa.Classifier(defend(linear(3, SHAPE), "drop:0.3"), mean=(0.5,), std=(0.1,))
    plan = planned(normalised, goal)
    assert plan.adaptive.model is normalised
    assert plan.static is not None
    torch.testing.assert_close(plan.static.model(X), aa.Classifier(linear(3, SHAPE), mean=(0.5,), std=(0.1,))(X))
    assert isinstance(defend(normalised, "depth:3"), aa.Classifier)


def test_an_unaware_attacker_gets_no_more_than_was_granted() -> None:
    net = linear(3, SHAPE)
    threat = aa.ThreatModel("linf:0.1", access="decisions", knowledge="oblivious")
    for model in (net, defend(net, "depth:3")):
        with pytest.raises(AccessDenied):
            aa.evaluate(model, X, labels_of(net, X), threat, "pgd")


# At rest


class Counted(nn.Module):
    """A net with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.net = nn.BatchNorm2d(1).double(), linear(3, SHAPE)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.norm(x))


@pytest.mark.parametrize(
    "around", [lambda net: aa.Classifier(Smoothed(net, 0.1, draws=2)), lambda net: Smoothed(aa.Classifier(net), 0.1, draws=2)]
)
def test_a_net_rests_however_deep_it_lies(around: Callable[[nn.Module], Any]) -> None:
    net = Counted().train()
    assert module_of(around(net)) is net
    with at_rest(around(net)):
        assert not net.training
    aa.evaluate(around(net), X, labels_of(linear(3, SHAPE), X), "linf:0.02", {"pgd": partial(attacks.pgd, steps=2)})
    assert int(net.norm.num_batches_tracked) == 0


def state_of(net: nn.Module) -> tuple[bool, bool, str]:
    """What rest changes: training mode, wanting gradients, and how convolutions on CUDA round."""
    (parameter,) = net.parameters()
    return net.training, parameter.requires_grad, torch.backends.cudnn.conv.fp32_precision


def test_a_net_that_two_threads_attack_rests_until_the_last_is_done() -> None:
    net = nn.Linear(3, 2, bias=False).train()
    whole, before, at_work = nn.Sequential(net), state_of(net), Event()

    def short() -> None:
        with at_rest(net):
            at_work.wait(10)
        raise KeyError  # one that fails leaves the other at rest as well

    with ThreadPoolExecutor(1) as worker:
        other = worker.submit(short)
        while net.training:
            time.sleep(0.001)
        with at_rest(whole), at_rest(net):
            at_work.set()
            assert isinstance(other.exception(10), KeyError)
            assert state_of(net) == (False, False, "ieee")
    assert state_of(net) == before
    assert not HELD


def test_what_is_changed_while_a_net_rests_is_changed_back_by_whoever_comes_next() -> None:
    net = nn.Linear(3, 2, bias=False).eval()
    with at_rest(net):
        net.train()
        with at_rest(net):
            assert not net.training
        assert net.training
    assert not HELD


class Dropping(nn.Module):
    """A recogniser's net that loses most of its input while it is trained, and knows where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, device="meta"))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        assert waveforms.device == self.weight.device
        assert not self.training
        return recognisers.listen(torch.zeros(waveforms.shape), torch.full((len(waveforms),), 640))


class Calls:
    def __init__(self, net: nn.Module) -> None:
        self.net_of_another_name = net

    def scores(self, inputs: Tensor) -> Tensor:
        return self.net_of_another_name(inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        return self.scores(inputs)


NAMED = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))


def by_name(inputs: Tensor) -> Tensor:
    return NAMED(inputs)


def test_a_net_behind_a_function_is_at_rest_too() -> None:
    net, other = (nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train() for _ in range(2))
    NAMED.train()
    twice, nets = lambda inputs: net(inputs) + other(inputs), [net, other]
    behind = {
        "closure": (twice, [net, other]),
        "deeper": (lambda inputs: twice(inputs).softmax(1), [net, other]),
        "global": (by_name, [NAMED]),
        "partial": (partial(lambda inputs, scorer: scorer(inputs), scorer=net), [net]),
        "method": (other.forward, [other]),
        "classifier": (aa.Classifier(twice), [net, other]),
        "object": (Calls(net), [net]),
        "its method": (Calls(net).scores, [net]),
        "object within": (aa.Classifier(Calls(Calls(net))), [net]),
        "list": (lambda inputs: sum(each(inputs) for each in nets), nets),
        "dictionary": (partial(lambda inputs, scorers: scorers["one"](inputs), scorers={"one": net}), [net]),
        "in a comprehension": (lambda inputs: torch.stack([NAMED(inputs) for _ in range(2)]).mean(0), [NAMED]),
        "by default": (lambda inputs, scorer=net: scorer(inputs), [net]),
    }
    for name, (model, wanted) in behind.items():
        before = [(part.training, [p.requires_grad for p in part.parameters()]) for part in wanted]
        with at_rest(model):
            assert not any(part.training for one in wanted for part in one.modules()), name
            assert not any(p.requires_grad for one in wanted for p in one.parameters()), name
        assert before == [(part.training, [p.requires_grad for p in part.parameters()]) for part in wanted], name
    labels, x = torch.zeros(8, dtype=torch.int64), torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
    first, again = (aa.evaluate(lambda inputs: net(inputs), x, labels, Linf(0.01), "pgd") for _ in range(2))
    assert first.robust.tolist() == again.robust.tolist()
    assert net.training


def test_data_that_a_function_names_are_not_searched_for_nets() -> None:
    net, words = nn.Linear(3, 2), {str(number): [str(number)] * 3 for number in range(200_000)}
    began = time.perf_counter()
    assert modules_of(lambda inputs: net(inputs) if words else None) == [net]
    assert time.perf_counter() - began < 0.2


def test_whoever_transcribes_hears_at_rest_and_where_the_model_lies(clips: tuple[Tensor, Tensor]) -> None:
    model = Recogniser(Dropping().train(), sample_rate=16000)
    assert model.transcribe(*clips) == ["", ""]
    assert hear(model, *clips).transcripts() == ["", ""]


# Memories


@pytest.mark.parametrize("around", [aa.Classifier, lambda memory: defend(memory, "depth:8"), lambda memory: Smoothed(memory, 0.1, draws=2)])
def test_preparing_leaves_no_trace_in_a_memory(around: Callable[[Any], Any]) -> None:
    net = linear(3, SHAPE)
    memory = remembering(net)
    free = forgetting(around(memory))
    assert not stated(free).remembers
    assert free(X).shape == (12, 3)
    ready(around(memory), X, Misclassify(labels_of(net, X)), aa.ThreatModel("linf:0.05"), partial(attacks.pgd, steps=2))
    assert not abstained(memory(X)).any()


def test_a_detector_around_a_memory_and_a_memory_of_ones_own() -> None:
    net = linear(3, SHAPE)
    detector = fit(Confidence(), net, inputs_for(SHAPE, 100, (0, 1)), false_positives=0.2)
    free = forgetting(Detected(remembering(net), detector))
    assert (type(free), free.model, free.detector) == (Detected, net, detector)

    class Own(nn.Module):
        statement = aa.defenses.Statement(remembers=True)

    with pytest.raises(OptionError, match="Own remembers, and how to make a copy"):
        forgetting(Own())


def test_another_defense_under_the_same_name_is_told_apart() -> None:
    class Net(nn.Module):
        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return recognisers.listen(waveforms, lengths)

    model = Recogniser(Net(), sample_rate=16000)
    made = [model, *(defend(model, spec) for spec in ("bits:16", "bits:4")), defend(model, "bits:4", seed=1)]
    made += [SmoothedRecogniser(model, sigma) for sigma in (0.1, 0.2)]  # type: ignore[list-item]
    assert len({fingerprint_of(one) for one in made}) == len(made)
    assert fingerprint_of(defend(model, "bits:4")) == fingerprint_of(defend(model, "bits:4"))


# Abstentions


class Nothing(nn.Module):
    """Answers those whose first pixel is dark, and no others."""

    def __init__(self, net: nn.Module, value: float = torch.nan) -> None:
        super().__init__()
        self.net, self.value = net, value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x[:, :1, 0, 0] > 0.5, self.value, self.net(x))


def test_what_abstains_is_certified_nothing_and_misclassifies_nothing() -> None:
    net = linear(3, SHAPE)
    bright = X.clone()
    bright[:, 0, 0, 0] = 0.9
    for value in (torch.nan, torch.inf):
        found = Smoothed(Nothing(net, value), 0.01).certify(bright, draws=100)
        assert (found.classes == -1).all()
        assert not found.radii.any()
    assert fidelity(Nothing(net), net, bright).count == 0
    silent = lambda x: torch.where((x != X).flatten(1).any(1)[:, None], torch.nan, net(x))  # noqa: E731
    assert carried(silent, net, X, labels_of(net, X), Linf(0.3), steps=5).value == 0
    assert objective(Nothing(net), Misclassify(labels_of(net, X))).begun(bright).answers(bright).tolist() == [-1] * 12


def test_abstentions_teach_a_thief_nothing() -> None:
    net, copy = linear(3, SHAPE), small(3, SHAPE)
    asked = Asked(Nothing(net))
    known = extract(asked, copy, X, rounds=2, passes=1)
    assert (known.answers >= 0).all()
    assert len(known.inputs) < asked.queries
    assert torch.equal(known.answers, labels_of(net, known.inputs))
    bright = X.clone()
    bright[:, 0, 0, 0] = 0.9
    with pytest.raises(UnusableBatch, match="abstained from all of 12"):
        extract(asked, copy, bright)


# Detectors and smoothing


def test_a_detector_within_smoothing_speaks_of_each_clip(clips: tuple[Tensor, Tensor]) -> None:
    waveforms, lengths = clips
    model = recognisers.linear()
    many = waveforms.repeat(50, 1)
    detector = fit(Confidence(), model, many * torch.linspace(0.5, 2, 100)[:, None], lengths=lengths.repeat(50), false_positives=0.2)
    voice = SmoothedRecogniser(Detected(model, detector), 0.01, draws=3)  # type: ignore[arg-type]
    both = suspicions(voice(waveforms, lengths))[detector]
    alone = [suspicions(voice(waveforms[i : i + 1, : lengths[i]], lengths[i : i + 1]))[detector] for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone))
    assert not torch.equal(both[0], both[1])


def test_a_detector_on_layers_goes_inside_smoothing() -> None:
    net = linear(3, SHAPE)
    smoothed = Smoothed(net, 0.1, draws=12)
    with pytest.raises(OptionError, match=r"once for each draw.*inside"):
        fit(Mahalanobis(("1",)), smoothed, X, false_positives=0.5)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = net

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(torch.cat([x, x]))[: len(x)]

    with pytest.raises(UnusableBatch, match=r"layer 'inner\.1' saw 20 rows of a batch of 10.*inside"):
        fit(Mahalanobis(("inner.1",)), Twice(), X, false_positives=0.5)


def test_a_channel_around_anything_is_a_through() -> None:
    assert isinstance(defend(Smoothed(linear(3, SHAPE), 0.1), "depth:3"), Through)  # type: ignore[type-var]


def test_a_detectors_word_goes_through_smoothing_and_sampling(clips: tuple[Tensor, Tensor]) -> None:
    net = linear(3, SHAPE)
    detected = Detected(net, fit(Confidence(), net, inputs_for(SHAPE, 100, (0, 1)), false_positives=0.2))
    smoothed = Smoothed(detected, 0.1, draws=5)
    told = suspicions(smoothed(X))[detected.detector]
    draws = [suspicions(detected(torch.cat([x + noise for noise in smoothed.noise(x)])))[detected.detector] for x in X.split(1)]
    torch.testing.assert_close(told, torch.stack([draw.mean() for draw in draws]))
    assert suspicions(smoothed(X[:0]))[detected.detector].shape == (0,)
    (slope,) = torch.autograd.grad(suspicions(smoothed(leaf := X.clone().requires_grad_()))[detected.detector].sum(), leaf)
    assert (slope.flatten(1).abs().sum(1) > 0).all()
    drawing = sampled(detected)
    torch.testing.assert_close(suspicions(drawing(X))[detected.detector], suspicions(detected(X))[detected.detector])
    voice = recognisers.linear()
    lengths = clips[1].repeat(10)
    detector = fit(Confidence(), voice, clips[0].repeat(10, 1) * torch.linspace(0.5, 2, 20)[:, None], lengths=lengths, false_positives=0.3)
    spoken = sampled(Recogniser(Detected(voice, detector), 16000))  # type: ignore[arg-type]
    assert suspicions(spoken(*clips))[detector].shape == (2,)
    for model in (smoothed, drawing, defend(detected, "depth:7")):
        found = aa.evaluate(model, X, labels_of(net, X), Linf(0.1), {"pgd": partial(attacks.pgd, steps=2)})
        assert found.robust_accuracy.count == 12


def test_a_function_within_a_defense_is_at_rest_too() -> None:
    net, f = small(3, SHAPE), lambda inputs: net(inputs)
    detector = fit(Confidence(), f, inputs_for(SHAPE, 50, (0, 1)), false_positives=0.2)
    around: list[Callable[[Any], Any]] = [
        lambda model: defend(model, "depth:3"),
        lambda model: Smoothed(model, 0.1, draws=2),
        lambda model: Detected(model, detector),
        sampled,
        remembering,
        lambda model: Tempered(model, 2.0),
        aa.Classifier,
    ]
    for one in around:
        for other in around:
            net.train()
            with at_rest(one(other(f))):
                assert not net.training
                assert not any(parameter.requires_grad for parameter in net.parameters())
            assert net.training


def test_nothing_is_heard_of_nothing(clips: tuple[Tensor, Tensor]) -> None:
    waveforms, lengths = clips
    for model in (SmoothedRecogniser(recognisers.linear(), 0.1), sampled(recognisers.linear())):
        assert model.transcribe(waveforms[:0], lengths[:0]) == []


def test_a_tempered_net_grants_no_more_than_before() -> None:
    shut = aa.Classifier(linear(3, SHAPE), access=aa.Access.DECISIONS)
    with pytest.raises(AccessDenied):
        Asked(Tempered(shut, 2.0), aa.Access.SCORES)

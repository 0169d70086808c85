"""Defenses: models of the same kind as they were made from, that do what they state, and fall to the attack that was made for them."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import recognisers
import torch
from nets import inputs_for, labels_of, linear, small
from test_evaluate import distances
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.audio.ragged import inside, pad
from audioadv.defenses import (
    Denoiser,
    Purify,
    Statement,
    Tempered,
    Thermometer,
    Through,
    defend,
    distill,
    learn_to_denoise,
    remembering,
    stated,
    undefended,
)
from audioadv.defenses.detectors import Detected, Detector
from audioadv.defenses.detectors.confidence import ConfidenceSense
from audioadv.defenses.distillation import train_at
from audioadv.errors import MalformedSpec, OptionError, TrainingDiverged, UnusableBatch
from audioadv.evaluation.adaptive import disagreements, planned
from audioadv.evaluation.survival import Subject, survive
from audioadv.models.rest import at_rest
from audioadv.threat.channels import NOTHING, Channel, Key, parse_channel
from audioadv.threat.channels.channel import Play, Played
from audioadv.threat.joined import Joins

SHAPE = (1, 6, 6)
SAMPLES = Path(__file__).parent.parent / "samples"


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in (8000, 4000, 6300)]


# The same kind of model


def test_a_recogniser_stays_a_recogniser(clips: list[Tensor]) -> None:
    model = recognisers.linear().granting(aa.Access.SCORES)
    safer = aa.defend(model, "resample:8000_then_median:3")
    assert isinstance(safer, aa.Recogniser)
    assert (safer.sample_rate, safer.vocabulary, safer.access, safer.device) == (16000, model.vocabulary, aa.Access.SCORES, model.device)
    assert safer.name == "linear behind resample:8000_then_median:3"
    assert stated(safer) == Statement()
    assert undefended(safer) is model
    waveforms, lengths = pad(clips)
    heard, ends = parse_channel("resample:8000_then_median:3").draw([Key(0, 0, 0)] * 3)(waveforms, lengths)
    assert ends is not None
    torch.testing.assert_close(safer(waveforms, lengths).log_probs, model(heard, ends).log_probs)
    for i, clip in enumerate(clips):  # ragged: alone it hears the same
        alone = safer(clip[None], lengths[i : i + 1])
        count = int(alone.frames)
        torch.testing.assert_close(alone.log_probs[0, :count], safer(waveforms, lengths).log_probs[i, :count], atol=1e-4, rtol=1e-4)


def test_a_channel_that_says_its_new_lengths_may_change_them(clips: list[Tensor]) -> None:
    slower = defend(recognisers.linear(), "speed:0.5")
    assert slower(*pad(clips)).frames.tolist() == [50, 25, 40]


@pytest.mark.parametrize("spec", ["drift:0.1", "speed:1", "speed:1.00001_then_noise:20", "noise:20"])
def test_padding_beyond_the_longest_clip_is_no_fault_of_the_channel(spec: str, clips: list[Tensor]) -> None:
    waveforms, lengths = pad(clips)
    tight, wide = (defend(recognisers.linear(), spec)(nn.functional.pad(waveforms, (0, more)), lengths) for more in (0, 500))
    assert tight.frames.tolist() == wide.frames.tolist()
    assert tight.transcripts() == wide.transcripts()


def test_a_classifiers_inputs_meet_the_channel_before_they_are_normalised() -> None:
    model = aa.Classifier(nn.Flatten(), "flat", mean=(0.5,), std=(0.25,))
    safer = defend(model, "depth:1")
    assert isinstance(safer, aa.Classifier)
    assert safer(torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 2)).tolist() == [[-2, 2]]
    assert safer.granting(aa.Access.DECISIONS).access is aa.Access.DECISIONS


def test_a_second_defense_comes_before_the_first() -> None:
    net = small(3, SHAPE)
    twice = defend(defend(net, "depth:3"), "mean:3")
    assert isinstance(twice, Through)
    assert str(twice.channel) == "mean:3_then_depth:3"
    assert undefended(twice) is net
    again = defend(defend(aa.Classifier(net, "net"), "depth:3").granting(aa.Access.SCORES), "drop:0.1")
    assert again.access is aa.Access.SCORES
    assert again.name == "net behind drop:0.1_then_depth:3"


def test_what_is_stated_is_that_of_all_parts() -> None:
    net = small(3, SHAPE)
    assert stated(net) == Statement()
    assert stated(defend(recognisers.linear(), "mean:3_then_band:300..3400")) == Statement()
    assert stated(defend(net, "depth:3")) == Statement("BPDA")
    assert stated(defend(net, "crop:0.8..1_then_jpeg:75")) == Statement("BPDA", random=True)
    assert stated(defend(recognisers.linear(), "codec:mp3@64k_or_noise:20")) == Statement("BPDA", random=True)
    assert stated(nn.Sequential(Thermometer(4), net)) == Statement("BPDA")
    assert stated(aa.Classifier(defend(nn.Sequential(Thermometer(4), net), "drop:0.5"))) == Statement("BPDA", random=True)
    net.statement = Statement("none", remembers=True)  # what a model says itself goes before what its parts say
    assert stated(defend(net, "drop:0.5")) == Statement("none", random=True, remembers=True)


# Randomness


def test_a_random_defense_draws_anew_and_a_seed_repeats_it() -> None:
    net, x = small(3, SHAPE), inputs_for(SHAPE, 1, (0, 1)).expand(5, -1, -1, -1)
    state = torch.get_rng_state()
    one, same, other = (defend(net, "drop:0.5", seed=seed) for seed in (0, 0, 1))
    first, second = one(x), one(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(row.tolist()) for row in torch.cat([first, second])}) == 10  # the same image, ten draws
    assert torch.equal(torch.cat([same(x), same(x)]), torch.cat([first, second]))
    again = defend(net, "drop:0.5")
    torch.testing.assert_close(torch.cat([again(row[None]) for row in x]), first)  # the n-th row gets the n-th draw
    assert not torch.equal(other(x), first)


def test_an_attack_leaves_a_defended_model_as_it_was() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(36, 3))
    safer = defend(net, Purify(nn.Sequential(nn.Dropout(0.5)), "dropout"))
    x = inputs_for(SHAPE, 3, (0, 1)).float()
    with torch.no_grad():
        net[2].weight.copy_(torch.randn(3, 36, generator=torch.Generator().manual_seed(0)))
    result = attacks.pgd(aa.objective(safer, aa.Misclassify(torch.tensor([0, 1, 2]))), aa.Linf(0.3).around(x), steps=2)
    assert result.adversarial.isfinite().all()
    assert safer.training
    assert all(part.training for part in safer.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    safely = aa.objective(aa.Classifier(safer), aa.Misclassify(torch.tensor([0, 1, 2])))
    seen = safely.begun(x)
    with at_rest(safely.model):  # dropout is off in all of its parts
        assert torch.equal(seen.look(x).loss, seen.look(x).loss)


# Craft and survive meet it unchanged


def test_craft_and_survive_meet_a_defended_recogniser(clips: list[Tensor]) -> None:
    safer = defend(recognisers.linear(), "bits:10_then_mean:3")
    clip = aa.Clip("hiss", clips[0], 16000)
    result = aa.craft(safer, [clip], aa.Transcribe("go"), bound=aa.SNR(0), steps=60)
    assert result.reached == [True]
    (adversarial,) = result.adversarial
    assert safer.transcribe(adversarial[None], torch.tensor([8000])) == ["go"]
    (survival,) = survive(safer, [Subject("hiss", adversarial, "go")], [NOTHING])
    assert survival.hits == 1


# Thermometer, distillation, purification


def test_a_thermometer_is_lit_up_to_its_height_and_has_the_slope_of_its_stand_in() -> None:
    code = Thermometer(10)
    x = torch.tensor([0.0, 0.13, 0.66, 0.97]).reshape(1, 1, 2, 2).requires_grad_()
    lamps = code(x)
    assert lamps.shape == (1, 10, 2, 2)
    assert lamps.sum(1).flatten().tolist() == [0, 2, 7, 10]
    (slope,) = torch.autograd.grad(lamps.sum(), x)
    assert slope.flatten().tolist() == [1, 2, 7, 10]  # each lamp below passes one; the lowest starts at zero
    bare = Thermometer(10, stand_in=False)
    assert not bare(x).requires_grad
    assert stated(bare) == Statement("none")
    assert stated(code) == Statement("BPDA")
    assert Thermometer(4, -1, 1)(torch.tensor([[-1.0, 0.1, 1.0]])).sum(1).tolist() == [[0, 3, 4]]
    two = Thermometer(2)(torch.tensor([0.6, 0.2]).reshape(1, 2, 1, 1)).flatten()
    assert two.tolist() == [1, 1, 1, 0]  # colour by colour
    for levels in (1, 2.5):
        with pytest.raises(OptionError, match="whole number, at least two"):
            Thermometer(levels)  # type: ignore[arg-type]


def test_a_stand_in_of_another_shape_is_refused() -> None:
    with pytest.raises(UnusableBatch, match=r"\[2, 3\].*\[2, 1\]"):
        aa.BPDA(lambda x: x[:, :1], torch.clone)(torch.zeros(2, 3))


def digits_apart(count: int) -> tuple[Tensor, Tensor]:
    """Two classes of noisy images, of which one is brighter on top."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    x = 0.3 + 0.1 * torch.rand(count, *SHAPE, generator=generator)
    x[labels == 0, :, :3] += 0.4
    x[labels == 1, :, 3:] += 0.4
    return x, labels


def test_sound_goes_through_a_channel_at_the_classifiers_own_rate() -> None:
    clicks = torch.zeros(1, 8000)
    clicks[0, 1000] = 0.5
    spoken = aa.load_classifier("digits-spoken")
    own = aa.Classifier(nn.Identity(), sample_rate=8000)
    for model in (
        defend(own, "shift:100"),
        defend(nn.Identity(), "shift:100", sample_rate=8000),
        defend(replace(spoken, net=nn.Identity()), "shift:100"),
    ):
        assert int(model(clicks).abs().argmax()) == 1800
        assert int(defend(model, "gain:0")(clicks).abs().argmax()) == 1800  # and so it stays
    assert int(defend(aa.Classifier(nn.Identity()), "shift:100")(clicks).abs().argmax()) == 2600
    heard = attacks.Expectation(parse_channel("shift:100"), draws=1)
    seen: list[Tensor] = []
    listens = aa.Classifier(lambda inputs: (seen.append(inputs.detach()), inputs[:, :2])[1], sample_rate=8000)
    aa.objective(listens, aa.Misclassify(torch.tensor([0])), expectation=heard).look(clicks)
    assert int(seen[0].abs().argmax()) == 1800


def test_a_distilled_net_is_saturated_until_its_scores_are_tempered() -> None:
    x, labels = digits_apart(200)
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(36, 128), nn.ReLU(), nn.Linear(128, 2)) for _ in range(2))
    distill(teacher, student, x, labels, temperature=100.0, passes=40, batch=20)
    assert (student(x).argmax(1) == labels).all()
    some, goal = x[:20], aa.Misclassify(labels[:20])
    dead = aa.objective(student, goal).begun(some).look(some).slope.flatten(1).abs().amax(1)
    alive = aa.objective(Tempered(student, 100.0), goal).begun(some).look(some).slope.flatten(1).abs().amax(1)
    assert (dead == 0).all()
    assert (alive > 1e-4).all()
    with pytest.warns(UserWarning, match="slopes are zero"):
        naive = aa.evaluate(student, some, labels[:20], aa.Linf(0.4), {"fgsm": attacks.fgsm})
    with pytest.warns(UserWarning, match="saturate"):
        adaptive = aa.evaluate(student, some, labels[:20], aa.Linf(0.4), "standard")
    assert naive.robust_accuracy.value > 0.5
    assert adaptive.robust_accuracy.hits == 0
    with pytest.raises(OptionError, match="temperature"):
        Tempered(student, 0)
    with pytest.raises(UnusableBatch, match="3 targets"):
        distill(teacher, student, x, labels[:3])
    with pytest.raises(UnusableBatch, match="a net of 2 classes, but targets of 8"):
        distill(teacher, student, x, labels + 6)
    with pytest.raises(UnusableBatch, match="label -1"):
        distill(teacher, student, x, labels - 1)
    with pytest.raises(OptionError, match="passes 0"):
        distill(teacher, student, x, labels, passes=0)


def test_nothing_is_learnt_of_what_is_no_number() -> None:
    """Weights stay as they were."""
    x, labels = digits_apart(20)
    spoilt = x.clone()
    spoilt[3, 0, 0, 0] = torch.nan
    torch.manual_seed(0)
    net, denoiser = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), Denoiser(width=2)
    before = [parameter.clone() for parameter in (*net.parameters(), *denoiser.parameters())]
    soft = torch.full((20, 2), 0.5)
    soft[0, 1] = torch.inf
    for call, said in (
        (lambda: distill(net, net, spoilt, labels), "1 of 20 inputs are not all finite"),
        (lambda: learn_to_denoise(denoiser, spoilt, "gaussian:0.2"), "1 of 20 inputs are not all finite"),
        (lambda: train_at(1.0, net, x, soft), r"1 of 20 targets are not all finite.*targets.nan_to_num\(\)"),
        (lambda: train_at(1.0, net, x.double(), labels), "inputs are torch.float64 .* Bring them together"),
        (lambda: learn_to_denoise(denoiser, x.double(), "gaussian:0.2"), "inputs are torch.float64 .* Bring them together"),
    ):
        with pytest.raises(UnusableBatch, match=said):
            call()

    class Root(nn.Module):
        def __init__(self, power: float) -> None:
            super().__init__()
            self.power, self.linear = power, nn.Linear(36, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.linear(inputs.flatten(1))
            return scores + (0 * scores + self.power).sqrt()

    for power, said in ((-1.0, "the loss is nan, and"), (0.0, "the loss is .*, but its gradients are not finite")):
        rooted = Root(power)
        with pytest.raises(TrainingDiverged, match=said):
            train_at(1.0, rooted, x, labels)
        assert all(parameter.isfinite().all() for parameter in rooted.parameters())
    with pytest.raises(TrainingDiverged, match="the loss is nan"):
        learn_to_denoise(nn.Sequential(nn.Conv2d(1, 1, 1), aa.BPDA(lambda images: images / 0 - images / 0)), x, "gaussian:0.2")
    assert all(map(torch.equal, before, (*net.parameters(), *denoiser.parameters())))


def test_sounds_of_several_lengths_are_tempered_too() -> None:
    inputs, lengths = torch.rand(3, 8), torch.tensor([8, 5, 2])

    def levels(inputs: Tensor, lengths: Tensor) -> Tensor:
        return torch.stack([inputs.sum(1), lengths.float()], 1)

    assert torch.equal(Tempered(levels, 4.0)(inputs, lengths), levels(inputs, lengths) / 4)


def test_nothing_is_trained_where_one_of_two_nets_cannot_be() -> None:
    x, labels = digits_apart(20)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)) for _ in range(2))
    before = teacher[1].weight.clone()
    with pytest.raises(UnusableBatch, match="frozen"):
        distill(teacher, student.requires_grad_(False), x, labels)
    with pytest.raises(UnusableBatch, match="remembers"):
        distill(nn.Linear(8, 3), remembering(nn.Linear(8, 3)), x, labels)
    with pytest.raises(UnusableBatch, match="no module in it"):
        distill(teacher, lambda inputs: inputs, x, labels)
    assert torch.equal(teacher[1].weight, before)


def test_a_classifier_is_distilled_with_its_normalisation() -> None:
    x, labels = digits_apart(20)

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net((inputs - 0.5) / 0.25)

    written, made = [Shifted(), Shifted()], [aa.Classifier(Shifted().net, mean=(0.5,), std=(0.25,)) for _ in range(2)]
    distill(*written, x, labels, passes=2)
    distill(*made, x, labels, passes=2)
    assert torch.equal(written[1](x), made[1](x))


def test_what_a_denoiser_cannot_learn_from_is_told() -> None:
    x, _ = digits_apart(8)
    denoisers = [Denoiser(width=2), Denoiser(width=2)]
    denoisers[1].load_state_dict(denoisers[0].state_dict())
    left = [learn_to_denoise(net, x, noise) for net, noise in zip(denoisers, ("gaussian:0.2", parse_channel("gaussian:0.2")), strict=True)]
    assert left[0] == left[1] > 0
    for options, said in (({"passes": 0}, "passes 0"), ({"batch": 0}, "batch 0")):
        with pytest.raises(OptionError, match=said):
            learn_to_denoise(denoisers[0], x, "gaussian:0.2", **options)
    with pytest.raises(UnusableBatch, match="no inputs to learn from"):
        learn_to_denoise(denoisers[0], x[:0], "gaussian:0.2")
    with pytest.raises(UnusableBatch, match="frozen"):
        learn_to_denoise(denoisers[0].requires_grad_(False), x, "gaussian:0.2")


class Idle(nn.Module):
    """A denoiser that leaves everything as it is, whatever it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + 0 * self.weight


def test_a_denoiser_meets_other_noise_each_pass_and_tells_the_mean_of_the_last() -> None:
    x, _ = digits_apart(8)
    noise, denoiser = parse_channel("gaussian:0.2"), Idle()
    left = learn_to_denoise(denoiser, x, noise, passes=2, batch=3, seed=4)
    spoilt = [noise.draw([Key(4, row, number) for row in range(8)])(x, None)[0] for number in (0, 1)]
    assert left == pytest.approx((spoilt[1] - x).square().mean().item(), rel=1e-5)
    assert (spoilt[0] - spoilt[1]).flatten(1).any(1).all()
    assert not denoiser.training


def test_the_student_learns_what_the_teacher_says_at_the_same_temperature() -> None:
    x, labels = digits_apart(40)
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(36, 2)) for _ in range(2))
    twin = copy.deepcopy(student)
    distill(teacher, student, x, labels, temperature=4.0, passes=3)
    train_at(4.0, twin, x, (teacher(x).detach() / 4).softmax(1), passes=3)
    assert torch.equal(student[1].weight, twin[1].weight)


def test_defenses_learn_from_few_examples_and_where_one_is_left_over() -> None:
    x, labels = digits_apart(33)
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    before = plain[1].weight.clone()
    with torch.no_grad():
        train_at(1.0, plain, x, labels, passes=1)
    assert (plain[1].weight - before).abs().max() > 1e-3  # one step, at a rate of 3e-3
    inner = nn.Sequential(nn.Flatten(), nn.Linear(36, 36), nn.BatchNorm1d(36), nn.Unflatten(1, (1, 6, 6)))
    train_at(1.0, nn.Sequential(inner, nn.Flatten()), x, labels, passes=1, batch=16)
    with torch.no_grad():
        learn_to_denoise(inner, x, "gaussian:0.2", passes=1, batch=16)
    with torch.inference_mode(), pytest.raises(UnusableBatch, match="inference_mode"):
        train_at(1.0, plain, x, labels, passes=1)


def test_a_denoiser_begins_as_the_identity_and_learns_what_to_change() -> None:
    x, _ = digits_apart(256)
    odd = torch.rand(2, 1, 7, 5)
    assert torch.equal(Denoiser()(odd), odd)
    torch.manual_seed(0)
    denoiser = Denoiser()
    noise = parse_channel("gaussian:0.2")
    learn_to_denoise(denoiser, x, noise, passes=10, batch=16)
    unseen, _ = noise.draw([Key(9, 9, row) for row in range(256)])(x, None)
    assert (denoiser(unseen).detach() - x).square().mean() < 0.4 * (unseen - x).square().mean()


def test_a_seed_is_all_that_training_a_defense_draws_from() -> None:
    x, labels = digits_apart(32)

    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Dropout(0.5), nn.Linear(8, 2))

    def image() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.5))

    made = list[list[Tensor]]()
    for state in (1, 2):
        teacher, student, denoiser = net(), net(), image()
        torch.manual_seed(state)
        before = torch.get_rng_state()
        distill(teacher, student, x, labels, passes=1, seed=5)
        learn_to_denoise(denoiser, x, parse_channel("gaussian:0.2"), passes=1, seed=5)
        assert torch.equal(before, torch.get_rng_state())
        made.append([*student.parameters(), *denoiser.parameters()])
    assert all(map(torch.equal, *made))


def test_purified_sound_is_silent_beyond_its_end(clips: list[Tensor]) -> None:
    hum = Denoiser(axes=1, width=2)
    nn.init.constant_(list(hum.parameters())[-1], 0.5)  # it adds something everywhere
    safer = defend(recognisers.linear(), Purify(hum, "hum") >> parse_channel("bits:12"))
    assert safer.name == "linear behind hum_then_bits:12"
    waveforms, lengths = pad(clips)
    net = safer.net
    assert isinstance(net, Through)
    heard, ends = net.preprocessed(waveforms, lengths)
    assert torch.equal(heard != 0, inside(lengths, 8000))
    assert torch.equal(ends, lengths)
    assert any(parameter is next(hum.parameters()) for parameter in net.parameters())
    with pytest.raises(OptionError, match="axes 3"):
        Denoiser(axes=3)
    with pytest.raises(UnusableBatch, match="keeps the shape"):
        defend(nn.Flatten(), Purify(nn.Flatten()))(torch.rand(2, 1, 3, 3))


def test_each_sound_is_purified_as_if_alone() -> None:
    torch.manual_seed(0)
    denoiser = Denoiser(axes=1)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.3)
    waveforms, lengths = pad([torch.randn(length) for length in (3000, 2001, 2000, 1)])
    whole, ends = Purify(denoiser).draw([])(waveforms, lengths)
    assert torch.equal(ends, lengths)
    for row, end in enumerate(lengths.tolist()):
        torch.testing.assert_close(whole[row, :end], denoiser(waveforms[row : row + 1, :end])[0])
        assert not whole[row, end:].any()


def test_purify_states_what_its_module_does() -> None:
    net = small(3, SHAPE)
    for module, told in (
        (Denoiser(), Statement()),
        (aa.BPDA(torch.round), Statement("BPDA")),
        (Noisy(nn.Identity(), 0.1), Statement(random=True)),
        (Shut(nn.Identity()), Statement("none")),
    ):
        assert stated(defend(net, Purify(module) >> parse_channel("mean:3"))) == told


# Bad defenses


@dataclass(frozen=True)
class Liar(Channel):
    """Halves the sample rate, and says so as `how`."""

    how: str

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            half = inputs[..., ::2]
            return half, {"not": lengths, "none": None, "short": None if lengths is None else lengths[:1]}[self.how]

        return play


@pytest.mark.parametrize(("how", "said"), [("not", "lengths of"), ("none", "without a length"), ("short", "without a length")])
def test_a_defense_that_changes_lengths_without_saying_so(how: str, said: str, clips: list[Tensor]) -> None:
    with pytest.raises(UnusableBatch, match=said):
        defend(recognisers.linear(), Liar(how))(*pad(clips))


def test_a_defense_that_changes_shapes_where_there_are_no_lengths() -> None:
    with pytest.raises(UnusableBatch, match="Keep the shape"):
        defend(nn.Flatten(), Liar("none"))(torch.rand(2, 1, 4, 4))
    with pytest.raises(UnusableBatch, match="takes no lengths"):
        defend(nn.Flatten(), "speed:2")(torch.rand(2, 800))
    with pytest.raises(UnusableBatch, match="old lengths"):
        defend(recognisers.linear(), Padded())(torch.rand(2, 800), torch.tensor([800, 700]))
    with pytest.raises(UnusableBatch, match="no channel takes that"):
        defend(nn.Flatten(), "mean:3")(torch.rand(2, 1, 800))
    with pytest.raises(UnusableBatch, match=r"gain:3 is for sound.*median"):
        defend(nn.Flatten(), "mean:3_then_gain:3")(torch.rand(2, 1, 2, 2))
    with pytest.raises(UnusableBatch, match="jpeg:75 is for images"):
        defend(nn.Flatten(), "mean:3_or_jpeg:75")(torch.rand(2, 800))
    with pytest.raises(MalformedSpec):
        defend(nn.Flatten(), "magic")


@dataclass(frozen=True)
class Padded(Channel):
    """Silence after the end, of which no length tells."""

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        return lambda inputs, lengths: (nn.functional.pad(inputs, (0, 100)), lengths)


# Adaptive by construction


class Noisy(nn.Module):
    """A net that draws for itself."""

    statement = Statement(random=True)

    def __init__(self, net: nn.Module, spread: float) -> None:
        super().__init__()
        self.net, self.spread, self.generator = net, spread, torch.Generator().manual_seed(0)

    def forward(self, inputs: Tensor) -> Tensor:
        noise = torch.randn(inputs.shape, generator=self.generator, dtype=inputs.dtype)
        scores: Tensor = self.net(inputs + self.spread * noise)
        return scores


@pytest.mark.parametrize("make", [lambda net: defend(net, "gaussian:0.3"), lambda net: Noisy(net, 0.3)], ids=["channel", "own"])
def test_symmetric_noise_leaves_a_linear_net_as_robust_as_it_was(make: object) -> None:
    """The majority under symmetric noise decides as the linear net without: within the bound, the same examples fall."""
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 24, None)
    labels = labels_of(net, x)
    distance = distances(net, x, labels)
    radius = float(distance.median())
    clear = (distance / radius - 1).abs() > 0.3
    result = aa.evaluate(make(net), x, labels, aa.Linf(radius), {"pgd": partial(attacks.pgd, steps=20)}, box=None, judge_draws=64)  # type: ignore[operator]
    assert result.statement == Statement(random=True)
    assert torch.equal(result.robust[clear], (distance > radius)[clear])
    static, further, adaptive = result.trials
    assert further.static
    assert (static.static, adaptive.static, adaptive.attack) == (True, False, "pgd, EOT 8")
    assert result.static_accuracy is not None
    assert result.static_accuracy.hits >= result.robust_accuracy.hits
    assert (adaptive.forwards[adaptive.tried] >= 8).all()
    assert "pgd, static" in str(result)
    assert "random" in str(result)


def test_an_attacker_draws_from_a_known_channel_by_his_own_keys() -> None:
    """So that whose example is in the batch with whose changes nothing; with scores only, he must ask the defense itself."""
    net, x = aa.Classifier(small(3, SHAPE)), inputs_for(SHAPE, 6, (0, 1))
    labels, safer = labels_of(net, x), defend(net, "drop:0.3")
    plan = planned(safer, aa.Misclassify(labels))
    assert plan.adaptive.model is net
    assert plan.judge.model is safer
    region, attack = aa.Linf(0.1).around(x), partial(attacks.pgd, steps=4)
    whole = attack(plan.adaptive, region)
    for i in range(6):
        index = torch.tensor([i])
        alone = attack(plan.adaptive.begun(x).rows(index), region.rows(index))
        torch.testing.assert_close(alone.adversarial[0], whole.adversarial[i])
    asked = planned(safer.granting(aa.Access.SCORES), aa.Misclassify(labels))
    assert asked.adaptive.model.access is aa.Access.SCORES  # type: ignore[attr-defined]
    assert asked.adaptive.model.net is safer.net  # type: ignore[attr-defined]


def test_a_plan_for_a_random_recogniser(clips: list[Tensor]) -> None:
    """It is crafted over the channel by the attacker's keys, and judged by the half of the defender's own draws."""
    model = recognisers.linear()
    safer, (waveforms, lengths) = defend(model, "noise:20"), pad(clips[:2])
    plan = planned(safer, aa.Transcribe(["go", "no"]), lengths, draws=4, judge_draws=9)
    assert plan.adaptive.model is model
    assert plan.static is not None
    assert plan.static.model is model
    assert plan.static.expectation is None
    region = aa.SNR(0).around(waveforms, lengths, box=(-1, 1))
    result = attacks.pgd(plan.adaptive, region, steps=40)
    assert result.reached == [True, True]
    net = safer.net
    assert isinstance(net, Through)
    assert net.asked == 0
    assert plan.judge.begun(result.adversarial).decide(result.adversarial).all()
    assert net.asked == 2 * 9
    assert not plan.judge.begun(waveforms).decide(waveforms).any()


def test_rounding_falls_to_its_stand_in_or_to_who_does_not_stop() -> None:
    """A linear net of thresholded pixels: flipping whole pixels is what counts. What just fools the undefended net flips few."""
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 30, (0, 1))
    safer = defend(net, "depth:1")
    labels = labels_of(safer, x)
    result = aa.evaluate(safer, x, labels, aa.Linf(0.2), "pgd", all_attacks_see_all=True)
    stops, goes_on, adaptive = result.trials
    assert [trial.attack for trial in result.trials] == ["pgd, static", "pgd to its last step, static", "pgd, BPDA"]
    assert goes_on.felled.sum() >= stops.felled.sum() + 5
    assert adaptive.felled.sum() >= stops.felled.sum() + 5
    assert result.static_accuracy is not None
    assert result.static_accuracy.hits == int((~(stops.felled | goes_on.felled)).sum())
    assert (labels_of(safer, result.adversarial) == labels).sum() == result.robust_accuracy.hits
    blind = aa.evaluate(safer, x, labels, aa.ThreatModel(bound="linf:0.2", knowledge="oblivious"), "pgd")
    assert blind.robust_accuracy == blind.static_accuracy == result.static_accuracy
    elsewhere = aa.evaluate(safer, x, labels, aa.Linf(0.2), "pgd", static=small(2, SHAPE), all_attacks_see_all=True)
    assert elsewhere.static_accuracy != result.static_accuracy
    plain = aa.evaluate(net, x, labels_of(net, x), aa.Linf(0.01), "pgd")
    assert plain.static_accuracy is None
    assert [trial.attack for trial in plain.trials] == ["pgd"]
    assert [line["attack"] for line in plain.lines()] == ["clean", "pgd", "all"]
    assert [line["attack"] for line in blind.lines()][-1] == "all"
    assert "all, static" not in str(blind), "nobody knew: all there is, is theirs"
    *_, there, every = result.lines()
    assert (there["attack"], there["accuracy"], there["tried"]) == ("all, static", result.static_accuracy.value, 30)
    assert (there["forwards"], every["backwards"]) == (stops.passes[0] + goes_on.passes[0], result.backwards)
    smallest = aa.evaluate(safer, x[:4], labels[:4], "linf:min", {"fmn": partial(attacks.fmn, steps=20)})
    assert [trial.attack for trial in smallest.trials] == ["fmn, static", "fmn, BPDA"]


def test_an_attack_that_was_left_nothing_has_no_rate() -> None:
    """Who does not know fells all; what is made for the defense is not to read 100 % for that."""
    net, x = small(3, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    result = aa.evaluate(defend(net, "depth:3"), x, labels_of(net, x), aa.Linf(1), "pgd", static=net)
    assert result.static_accuracy == aa.Rate(0, 4)
    assert [line["tried"] for line in result.lines()] == [4, 4, 0, 0, 4, 4]
    *_, known, there, every = str(result).splitlines()
    assert known.split() == ["pgd,", "BPDA", "-", "none", "was", "left", "to", "try", "0", "0.0", "0.0"]
    assert there.startswith("all, static")
    assert every.startswith("all ")
    assert "100.0" not in known + there + every
    assert len({len(line) for line in str(result).splitlines()[2:]}) == 1  # columns stand one under another


def test_to_the_end_stops_nowhere() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 12, (0, 1))
    region = aa.Linf(0.2).around(x)
    end = attacks.to_the_end(aa.objective(net, aa.Misclassify(labels_of(net, x))), region, steps=40)
    assert end.reached == [True] * 12
    assert (end.forwards.unique().tolist(), end.backwards.unique().tolist()) == ([40], [40])
    furthest = x + region.extreme(aa.objective(net, aa.Misclassify(labels_of(net, x))).begun(x).look(x).slope * -1)
    torch.testing.assert_close(end.adversarial, furthest)


class Shut(nn.Module):
    """A net that lets no gradient through."""

    statement = Statement("none")

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            scores: Tensor = self.net(inputs)
        return scores


def test_without_a_backward_pass_it_is_asked() -> None:
    net, x = linear(2, SHAPE), inputs_for(SHAPE, 12, None)
    labels = labels_of(net, x)
    far = 1.5 * float(distances(net, x, labels).max())
    for model in (aa.Classifier(Shut(net)), aa.Classifier(Shut(net), access=aa.Access.DECISIONS)):
        result = aa.evaluate(model, x, labels, aa.Linf(far), box=None)
        (trial,) = result.trials
        assert trial.attack == "gradient_free, no gradients"
        assert result.robust_accuracy.hits == 0
        assert trial.backwards.sum() == 0
    named = aa.evaluate(Shut(net), x, labels, aa.L1(36 * far), {"pgd": partial(attacks.pgd, steps=10)}, box=None)  # slopes from scores
    assert named.robust_accuracy.hits == 0


class Wary(nn.Module):
    """A classifier of two that refuses what is too bright on the left, in a third score."""

    statement = Statement(detects=True)

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([self.net(inputs), 1e3 * (inputs[..., 0].flatten(1).amax(1, keepdim=True) - 0.6)], 1)

    def undetected(self) -> "Unseen":
        return Unseen()


@dataclass(frozen=True)
class Unseen(Joins):
    """Nothing brighter than 0.6 there."""

    def loss(self, outputs: Tensor) -> Tensor:
        return outputs[:, 2]

    def margin(self, outputs: Tensor, slack: float = 0.0) -> Tensor:
        return (outputs[:, 2] + slack).clamp_min(0)

    def reached(self, outputs: Tensor) -> Tensor:
        return outputs[:, 2] <= 0

    def rows(self, index: Tensor) -> "Unseen":
        return self

    def impossible(self, outputs: Tensor) -> list[str | None]:
        return [None] * len(outputs)

    def __str__(self) -> str:
        return "unseen"


def test_a_detector_must_be_passed_unseen() -> None:
    x = 0.5 * inputs_for(SHAPE, 8, (0, 1))
    net = linear(2, SHAPE)
    wary = Wary(net)
    result = aa.evaluate(wary, x, wary(x).argmax(1), aa.Linf(0.25), {"pgd": attacks.pgd})
    static, _, joint = result.trials
    assert joint.attack == "pgd, unseen"
    assert static.static
    assert wary.undetected().reached(wary(result.adversarial[~result.robust])).all()
    within = planned(aa.Classifier(wary), aa.Misclassify(0)).adaptive.goal  # in a wrapper too
    assert str(within).endswith("unseen")
    with pytest.raises(OptionError, match="undetected"):
        aa.evaluate(Odd("plain", Statement(detects=True)), x, labels_of(net, x), aa.Linf(0.25), "pgd")


# A statement is compared with what is seen


class Odd(nn.Module):
    """A net with one oddity."""

    def __init__(self, kind: str, statement: Statement) -> None:
        super().__init__()
        self.net, self.kind, self.statement, self.seen = small(3, SHAPE), kind, statement, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += 1
        scores: Tensor = self.net(inputs)
        if self.kind == "rounded":
            scores = self.net((inputs > 0.5).to(inputs) + 0 * inputs)
        if self.kind == "cut":
            scores = scores.detach()
        if self.kind == "wild":
            scores = scores + (0 * inputs).flatten(1).sum(1, keepdim=True).sqrt()
        if self.kind == "drifts":
            scores = scores + 0.1 * self.seen
        if self.kind == "learns":
            scores = scores + 0.1 * (self.seen > 3)
        return scores


@pytest.mark.parametrize(
    ("kind", "statement", "said"),
    [
        ("rounded", Statement(), "slopes are zero for 4 of 4"),
        ("cut", Statement(), "no gradient reaches"),
        ("wild", Statement("BPDA"), "not finite for 4 of 4"),
        ("drifts", Statement(), "two looks at the same inputs differ"),
        ("learns", Statement(), "remembers=True"),
        ("plain", Statement(random=True), "looks at the same inputs agree"),
        ("plain", Statement("none"), "there are slopes for 4 of 4"),
    ],
)
def test_a_statement_that_is_not_so_is_named(kind: str, statement: Statement, said: str) -> None:
    x = inputs_for(SHAPE, 4, (0, 1))
    labels = labels_of(small(3, SHAPE), x) if kind not in ("rounded",) else labels_of(Odd(kind, statement), x)
    (sentence,) = disagreements(Odd(kind, statement), aa.Misclassify(labels), x)
    assert said in sentence
    assert sentence.startswith(f"the model states '{statement}', but")
    if kind != "cut":
        with pytest.warns(UserWarning, match=said):
            aa.evaluate(Odd(kind, statement), x, labels, aa.Linf(0.01), {"fgsm": attacks.fgsm})


def test_a_detector_within_that_is_not_stated_is_named() -> None:
    class Within(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.detected = Detected(model, Detector(ConfidenceSense(), 0.2, 1.0, 0.05, "a detector"))

        def forward(self, inputs: Tensor) -> Tensor:
            scores: Tensor = self.detected(inputs)
            return scores

    net, x = small(3, SHAPE), inputs_for(SHAPE, 4, (0, 1))
    goal = aa.Misclassify(labels_of(net, x))
    (sentence,) = disagreements(Within(net), goal, x)
    assert "carry a detector's word. State detects=True, and give it undetected()" in sentence
    with pytest.warns(UserWarning, match="detects=True"):
        aa.evaluate(Within(net), x, goal.labels, aa.Linf(0.01), {"fgsm": attacks.fgsm})
    assert disagreements(Within(net).detected, goal, x) == []  # which states it


def test_honest_statements_are_met_with_silence(clips: list[Tensor]) -> None:
    x = inputs_for(SHAPE, 4, (0, 1))
    net = small(3, SHAPE)
    goal = aa.Misclassify(labels_of(net, x))
    honest = [net, aa.Classifier(net), defend(net, "depth:3"), defend(net, "drop:0.3"), defend(net, "jpeg:75"), Noisy(net, 0.1), Shut(net)]
    honest += [Odd("learns", Statement(remembers=True)), aa.load_classifier("mnist-robust")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in honest[:-1]:
            assert disagreements(model, goal, x) == []
        digits = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        assert disagreements(honest[-1], aa.Misclassify(labels_of(honest[-1], digits)), digits) == []  # type: ignore[arg-type]
        waveforms, lengths = pad(clips)
        for spec in ("bits:8", "noise:20", "codec:mp3@64k"):
            safer = defend(recognisers.linear(), spec)
            assert disagreements(safer, aa.Transcribe("go"), waveforms, lengths) == []
    remembering = Odd("learns", Statement(remembers=True))
    disagreements(remembering, goal, x)
    assert remembering.seen == 0  # asking would change what it is
    told = replace(Statement(), random=True)
    assert str(told) == "backward pass: exact; random"

"""Randomized smoothing against closed forms: a linear classifier's certificate is known, and binomial bounds have their books."""

import math

import numpy as np
import pytest
import torch
from recognisers import linear as recogniser
from scipy.special import ndtri
from scipy.stats import beta, binom, binomtest
from torch import Tensor, nn

from audioadv.attacks import pgd
from audioadv.attacks.objective import objective
from audioadv.defenses import Smoothed, SmoothedRecogniser, rover, stated
from audioadv.defenses.smoothing import coin_p_value, lower_bound
from audioadv.errors import OptionError, UnusableBatch
from audioadv.evaluation.certified import certified_curve
from audioadv.models.abstention import ABSTAIN, abstained, nothing_like
from audioadv.models.access import Access
from audioadv.models.recogniser import Recogniser
from audioadv.threat.bounds import L2, Linf
from audioadv.threat.goals import Silence, Transcribe
from audioadv.threat.labels import Misclassify

SIGMA, DRAWS = 0.5, 4000


def half_space(size: int = 20) -> tuple[nn.Module, Tensor]:
    """Class 1 where w.x > 0, |w| = 1: smoothed, it is itself, and its radius is the distance to the plane."""
    w = torch.randn(size, generator=torch.Generator().manual_seed(0))
    net = nn.Linear(size, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.stack([-w, w]) / w.norm())
    return net, w / w.norm()


def test_a_linear_classifiers_radius_is_its_distance() -> None:
    net, w = half_space()
    distances = torch.tensor([0.1, -0.4, 0.8, -1.2])
    certificates = Smoothed(net, SIGMA).certify(distances[:, None] * w, draws=DRAWS, alpha=0.001)
    assert certificates.classes.tolist() == [1, 0, 1, 0]
    assert (certificates.radii <= distances.abs()).all()
    assert (certificates.radii >= distances.abs() - 0.15).all()
    labels = torch.tensor([1, 1, 1, 0])
    assert [rate.hits for _, rate in certified_curve(certificates, labels, [0.0, 0.5, 1.0, 2.0])] == [3, 2, 1, 0]
    assert torch.equal(certificates.hold(labels.tolist(), 0.5), certificates.hold(labels, 0.5))  # type: ignore[arg-type]
    for wrong in (labels[:1], labels[:3], labels[:, None], torch.tensor(1)):
        with pytest.raises(UnusableBatch, match="for 4 certificates"):
            certified_curve(certificates, wrong, [0.0])
    with pytest.raises(OptionError, match="radius nan"):
        certified_curve(certificates, labels, [float("nan")])


def test_no_draw_is_made_that_cannot_change_the_class() -> None:
    net, w = half_space()
    seen: list[int] = []
    net.register_forward_hook(lambda module, inputs, outputs: seen.append(len(outputs)))
    for distance, select, made in ((3.0, 100, 60), (0.0, 100, 100), (3.0, 5, 3), (3.0, 1, 1), (0.0, 1, 1)):
        seen.clear()
        found = Smoothed(net, SIGMA).certify(distance * w[None], select=select, draws=10)
        assert sum(seen) == made + 10
        assert found.counts.item() <= 10
    smoothed, near = Smoothed(net, SIGMA), torch.linspace(-0.2, 0.2, 9)[:, None] * w
    together = smoothed.likeliest(near, None, 40)
    assert together.tolist() == [smoothed.likeliest(one[None], None, 40).item() for one in near]
    assert set(together.tolist()) == {0, 1}


def test_predict_abstains_on_the_plane_and_not_far_from_it() -> None:
    net, w = half_space()
    distances = torch.tensor([0.0, 0.0, 0.5, -0.5])
    inputs = distances[:, None] * w + torch.tensor([[0.0], [1.0], [0.0], [0.0]]) * (torch.ones(20) - w.sum() * w)
    assert Smoothed(net, SIGMA).predict(inputs, draws=500).tolist() == [ABSTAIN, ABSTAIN, 1, 0]
    certificates = Smoothed(net, SIGMA).certify(inputs[:2], draws=500)
    assert certificates.classes.tolist() == [ABSTAIN, ABSTAIN]
    assert certificates.radii.tolist() == [0, 0]
    assert not certificates.hold(torch.tensor([ABSTAIN, 1]), 0.1).any()


def test_bounds_are_those_of_the_books() -> None:
    for hits, draws, alpha in ((0, 50, 0.001), (1, 50, 0.05), (37, 50, 0.001), (50, 50, 0.01), (99_900, 100_000, 0.001)):
        book = binomtest(hits, draws, alternative="greater").proportion_ci(1 - alpha, method="exact").low
        assert float(lower_bound(hits, draws, alpha)) == pytest.approx(book, rel=1e-9)
        assert float(lower_bound(hits, draws, alpha)) == pytest.approx(beta.ppf(alpha, hits, draws - hits + 1) if hits else 0, rel=1e-9)
    for heads, tosses in ((5, 10), (0, 7), (60, 100), (533, 1000)):
        assert float(coin_p_value(heads, tosses)) == pytest.approx(binomtest(heads, tosses, 0.5).pvalue, rel=1e-9)
    tosses = np.array([*range(60), 999, 100_000]).repeat(61)
    heads = np.minimum(np.tile(np.arange(61), 62) * np.maximum(1, tosses // 60), tosses)
    book = np.minimum(1.0, 2 * binom.sf(np.maximum(heads, tosses - heads) - 1, tosses, 0.5))
    np.testing.assert_allclose(coin_p_value(heads, tosses), book, rtol=1e-12)


def test_inputs_share_the_sizes_of_noise_but_not_its_signs() -> None:
    seen = []

    def net(noisy: Tensor) -> Tensor:
        seen.append(noisy.clone())
        return noisy[:, :2]

    smoothed, inputs = Smoothed(net, SIGMA), torch.zeros(2, 1000)
    inputs[1, 0] = 1e-6  # nearly the same input: its signs are others all the same
    smoothed.counts(inputs, None, 100, 0)
    one, other = torch.cat(seen).reshape(2, 100, 1000)
    torch.testing.assert_close(one.abs(), other.abs(), atol=2e-6, rtol=0)
    kept = (one.sign() == other.sign()).float().mean(0)
    assert set(kept.round().tolist()) == {0.0, 1.0}
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.1), "a place keeps or flips its sign, in all draws"
    assert float(one.std()) == pytest.approx(SIGMA, rel=0.01)
    assert float((one * other).mean()) == pytest.approx(0, abs=0.05 * SIGMA**2)
    assert float((one[:-1] * one[1:]).mean()) == pytest.approx(0, abs=0.02 * SIGMA**2), "draws are independent"
    seen.clear()
    smoothed.counts(inputs[1:], None, 1500, 0)
    assert sum(map(len, seen)) == 1500
    seen.clear()
    smoothed.counts(inputs, None, 100, 1)
    assert not torch.allclose(torch.cat(seen)[:100].abs(), one.abs()), "for another purpose they are others"


def test_what_bounds_the_likelihood_did_not_choose_the_class() -> None:
    seen, inputs = list[Tensor](), torch.randn(1, 6, generator=torch.Generator().manual_seed(0))
    smoothed = Smoothed(lambda noisy: (seen.append(noisy.clone()), noisy[:, :2])[1], SIGMA)
    smoothed.certify(inputs, select=100, draws=100)
    *chosen, bound = seen
    assert not any((bound == draw).all(1).any() for draw in torch.cat(chosen))


def test_draws_without_an_answer_are_left_out() -> None:
    """A model that abstains where the noise lowers the first number: the others are averaged, and none are none."""

    def net(noisy: Tensor) -> Tensor:
        return torch.where(noisy[:, :1] > 0, noisy[:, 1:3], torch.nan)

    inputs = torch.tensor([[0.0, 1.0, 2.0], [99.0, 1.0, 2.0], [-99.0, 1.0, 2.0]]).requires_grad_()
    smoothed = Smoothed(net, SIGMA, draws=64)
    outputs = smoothed(inputs)
    assert abstained(outputs).tolist() == [False, False, True]
    torch.testing.assert_close(outputs[:2].exp().sum(1), torch.ones(2))
    (noise,) = smoothed.noise(inputs[:1].detach())
    left = (inputs[:1].detach() + noise)[noise[:, 0] > 0]
    torch.testing.assert_close(outputs[0].exp(), left[:, 1:3].softmax(1).mean(0))
    slope = torch.autograd.grad(outputs[:2, 0].sum(), inputs)[0]
    assert slope[:2].isfinite().all()
    assert smoothed.predict(inputs.detach()).tolist() == [1, 1, ABSTAIN]

    def voice(sounds: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, frames = recogniser().net(sounds, lengths)
        return torch.where(sounds[:, :1, None] > 0, log_probs, nothing_like(log_probs, blank=0)), frames

    sounds, lengths = 0.1 * torch.randn(3, 1600, generator=torch.Generator().manual_seed(0)), torch.full((3,), 1600)
    sounds[:, 0] = torch.tensor([0.0, 9.0, -9.0])
    heard = SmoothedRecogniser(Recogniser(voice, 16000), 1e-3, draws=8)(sounds, lengths)
    assert abstained(heard).tolist() == [False, False, True]
    torch.testing.assert_close(heard.log_probs[:2].exp().sum(2), torch.ones(2, 5))
    assert heard.transcripts() == [*recogniser().transcribe(sounds[:2], lengths[:2]), ""]


def test_types_of_numbers() -> None:
    net, x = nn.Linear(6, 2), torch.rand(2, 6)
    for kind in (torch.bfloat16, torch.float16, torch.float64):
        smoothed = Smoothed(net.to(kind), SIGMA)
        found = smoothed.certify(x.to(kind), draws=200)
        assert found.radii.dtype is torch.float64
        assert (found.radii <= SIGMA * torch.tensor(ndtri(lower_bound(found.counts.numpy(), 200, 0.001))).clamp_min(0)).all()
        assert smoothed(x.to(kind)).dtype is kind
    for kind in (torch.uint8, torch.int64):
        for ask in (Smoothed(net, SIGMA).certify, Smoothed(net, SIGMA)):
            with pytest.raises(UnusableBatch, match=r"floating-point numbers.*inputs / 255"):
                ask(x.to(kind))


def test_in_half_precision_what_is_smoothed_is_the_rounded_classifier() -> None:
    net = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.stack([torch.full((4,), 1.0), torch.full((4,), 1.001)]))  # bfloat16 knows no 1.001
    inputs = torch.full((1, 4), 5.0)
    assert Smoothed(net, 0.1).predict(inputs).tolist() == [1]
    rough = Smoothed(net, 0.1, precision=torch.bfloat16)
    assert rough.predict(inputs).tolist() == [0]
    assert rough.certify(inputs, draws=200).classes.tolist() == [0]
    scores = rough(inputs.requires_grad_())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.exp(), torch.full((1, 2), 0.5))
    assert torch.autograd.grad(scores[0, 0], inputs)[0].isfinite().all()


def test_neighbours_order_and_padding_change_nothing() -> None:
    class Loud(nn.Module):
        def forward(self, sounds: Tensor, lengths: Tensor) -> Tensor:
            own = torch.arange(sounds.shape[1]) < lengths[:, None]
            assert (sounds[~own] == 0).all()
            mean = sounds.sum(1) / lengths
            return torch.stack([mean, -mean], 1)

    generator = torch.Generator().manual_seed(0)
    sounds, lengths = 0.02 * torch.randn(3, 30, generator=generator), torch.tensor([30, 17, 25])
    sounds *= torch.arange(30) < lengths[:, None]
    smoothed = Smoothed(Loud(), 0.1, draws=100)
    whole, back = smoothed.certify(sounds, lengths, draws=300), smoothed.certify(sounds.flip(0), lengths.flip(0), draws=300)
    assert whole.counts.tolist() == back.counts.flip(0).tolist()
    alone = smoothed.certify(sounds[1:2, :17], lengths[1:2], draws=300)
    assert alone.counts[0] == whole.counts[1]
    torch.testing.assert_close(smoothed(sounds, lengths)[1], smoothed(sounds[1:2, :17], lengths[1:2])[0])
    assert smoothed.certify(sounds, lengths, draws=100).counts.le(100).all()
    assert not torch.equal(Smoothed(Loud(), 0.1, seed=1).certify(sounds, lengths, draws=300).counts, whole.counts)


def test_the_differentiable_form_is_the_mean_probability_and_can_be_attacked() -> None:
    net, w = half_space()
    inputs = torch.stack([0.3 * w, -0.3 * w])
    smoothed = Smoothed(net, SIGMA, draws=2000)
    outputs = smoothed(inputs)
    torch.testing.assert_close(outputs.exp().sum(1), torch.ones(2))
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    mean = float(torch.trapezoid(torch.sigmoid(2 * (0.3 + SIGMA * grid)) * torch.exp(-(grid**2) / 2), grid) / math.sqrt(2 * math.pi))
    assert outputs.exp()[[0, 1], [1, 0]].tolist() == pytest.approx([mean, mean], abs=0.03)
    wanted = objective(Smoothed(net, SIGMA, draws=400), Misclassify(torch.tensor([1, 0])))
    for radius, reached in ((0.2, [False, False]), (0.45, [True, True])):
        assert list(pgd(wanted, L2(radius).around(inputs, box=None), steps=30).reached) == reached


def test_smoothing_leaves_the_model_and_says_what_it_is() -> None:
    net, w = half_space()
    net.train()
    before = torch.get_rng_state()
    smoothed = Smoothed(net, SIGMA)
    smoothed.certify(w[None], draws=100)
    assert net.training
    assert net.weight.requires_grad
    assert torch.equal(before, torch.get_rng_state())
    assert str(stated(smoothed)) == "backward pass: exact"
    assert smoothed.in_features == 20
    assert SmoothedRecogniser(recogniser(), 0.01).granting(Access.SCORES).access is Access.SCORES


def test_noise_that_is_none_and_numbers_that_make_no_sense() -> None:
    net, w = half_space()
    for sigma in (0, -1, math.nan, math.inf):
        with pytest.raises(OptionError, match=r"sigma .*above 0"):
            Smoothed(net, sigma)
        with pytest.raises(OptionError, match="sigma"):
            SmoothedRecogniser(recogniser(), sigma)
    for draws in (0, 2.5):
        with pytest.raises(OptionError, match="draws"):
            SmoothedRecogniser(recogniser(), 0.1, draws)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"precision torch.float64.*bfloat16"):
        Smoothed(net, 1, precision=torch.float64)
    for draws in (0, 1e3, "1000"):
        said = f"draws {draws!r}: give a whole number of at least 1"
        with pytest.raises(OptionError, match=said):
            Smoothed(net, 1, draws)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=said):
            SmoothedRecogniser(recogniser(), 0.1, draws)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=said):
            Smoothed(net, 1).predict(w[None], draws=draws)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=said):
            Smoothed(net, 1).certify(w[None], draws=draws)  # type: ignore[arg-type]
        with pytest.raises(OptionError, match=said.replace("draws", "select")):
            Smoothed(net, 1).certify(w[None], select=draws)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="alpha 1"):
        Smoothed(net, 1).certify(w[None], alpha=1)
    with pytest.raises(UnusableBatch, match="classes"):
        Smoothed(lambda x: x.argmax(1), 1).predict(w[None])
    with pytest.raises(UnusableBatch, match="scores of 1 class"):
        Smoothed(lambda x: x[:, :1], 1).predict(w[None])


def test_of_no_inputs_nothing_is_said() -> None:
    net, w = half_space()
    smoothed, none = Smoothed(net, SIGMA), w[None][:0]
    assert smoothed(none).shape == (0, 2)
    assert smoothed.predict(none).shape == (0,)
    assert [part.shape for part in smoothed.certify(none)] == [(0,)] * 3


@pytest.mark.parametrize(
    ("said", "voted"),
    [
        (["a b c"], "a b c"),
        (["a b c d", "b z d e", "b c d e f"], "b c d e"),
        (["b a", "b", "c"], "b"),  # c competes with b: where a transcript has no word already, another costs nothing to skip
        (["the cat sat", "cat sat", "cat sat"], "cat sat"),
        (["", "", "no"], ""),
        (["no", "", "no"], "no"),
        (["a x c", "a y c", "a z c"], "a x c"),
        (["b d", "a d b", "c"], "b d"),  # a word replaced costs less than one put in and one left out
        (["open door", "open the door", "open the door now"], "open the door"),
    ],
)
def test_rover_votes_word_by_word(said: list[str], voted: str) -> None:
    assert rover(said) == voted


def test_rover_weighs_confidences() -> None:
    said, sure = ["a x", "a y", "a y"], [[1, 0.9], [1, 0.2], [1, 0.1]]
    assert rover(said, sure, alpha=1) == "a y"
    assert rover(said, sure, alpha=0) == "a x"
    assert rover(["a b", "a"], [[1, 0.4], [1]], alpha=0, null=0.5) == "a"
    with pytest.raises(OptionError, match="'the cat': one text"):
        rover("the cat")
    for bad in ({"transcripts": []}, {"transcripts": ["a"], "alpha": 2}, {"transcripts": ["a b"], "confidences": [[1]]}):
        with pytest.raises(OptionError):
            rover(**bad)
    for strange in (math.nan, 5.0, -0.1):
        for bad in ({"confidences": [[1, strange]]}, {"null": strange}):
            with pytest.raises(OptionError, match=r"confidence .*0\.\.1"):
                rover(["a b"], **bad)


def test_a_smoothed_recogniser_votes_and_can_be_attacked() -> None:
    generator = torch.Generator().manual_seed(3)
    clips, lengths = 0.02 * torch.randn(2, 1600, generator=generator), torch.tensor([1600, 960])
    clips[1, 960:] = 0
    model = SmoothedRecogniser(recogniser(), 1e-3, draws=5)
    outputs = model(clips, lengths)
    assert outputs.frames.tolist() == [5, 3]
    assert model.sample_rate == 16000
    torch.testing.assert_close(outputs.log_probs[1, :3], model(clips[1:, :960], lengths[1:]).log_probs[0])
    torch.testing.assert_close(outputs.log_probs[0].exp().sum(1), torch.ones(5))
    heard = model.transcribe(clips, lengths)
    assert outputs.transcripts() == heard
    assert heard == recogniser().transcribe(clips, lengths)  # noise this quiet changes no letter
    assert Transcribe(heard[1]).reached(outputs).tolist() == [heard[0] == heard[1], True]
    assert Silence().reached(outputs).tolist() == [text == "" for text in heard]
    region = Linf(0.05).around(clips, lengths, box=(-1, 1))
    result = pgd(objective(model, Transcribe("no"), lengths), region, steps=60)
    assert all(result.reached)
    assert model.transcribe(result.adversarial, lengths) == ["no", "no"]


@pytest.mark.parametrize(
    ("said", "voted"),
    [(["a", "a b", "b"], "a b"), (["b c", "a b", "a"], "a b"), (["a b", "b a", "b"], "a b")],
)
def test_rovers_alignment_is_the_cheapest(said: list[str], voted: str) -> None:
    """A word replaced costs 4, a word put in or left out 3."""
    assert rover(said) == voted


def test_rovers_confidence_is_the_mean_of_those_who_say_the_word() -> None:
    """Not of all who voted: two who are less sure do not outweigh one who is."""
    assert rover(["x", "y", "y"], [[0.6], [0.5], [0.5]], alpha=0) == "x"


def test_later_draws_are_others_than_the_first() -> None:
    seen, inputs = list[Tensor](), torch.zeros(1, 6)
    Smoothed(lambda noisy: (seen.append(noisy.clone()), noisy[:, :2])[1], SIGMA).likeliest(inputs, None, 100)
    draws = torch.cat(seen)
    assert len(draws) == 100, "none of three fifths is a clear lead"
    assert len(draws.unique(dim=0)) == 100


@pytest.mark.parametrize(("hits", "certain"), [(540, False), (560, True)])
def test_a_class_is_certified_where_its_lower_bound_is_above_a_half(hits: int, certain: bool) -> None:
    """Of 1,000 draws, 540 leave 0.49, 560 leave 0.51."""
    calls = 0

    def scripted(noisy: Tensor) -> Tensor:
        nonlocal calls
        places = torch.arange(calls, calls + len(noisy)) - 60  # the first 60 choose the class
        calls += len(noisy)
        return nn.functional.one_hot((places < hits).long(), 2).float()

    certificate = Smoothed(scripted, SIGMA).certify(torch.zeros(1, 4), select=100, draws=1000, alpha=0.001)
    assert certificate.counts.tolist() == [hits]
    assert (certificate.classes.item() == 1, certificate.radii.item() > 0) == (certain, certain)

"""Recognisers behind defenses, as `evaluate` meets them."""

import itertools
import warnings
from functools import partial

import pytest
import recognisers
import torch
from test_evaluate_speech import MODEL, wordy
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.result import Outcome
from audioadv.attacks.survivors import nothing_yet
from audioadv.attacks.worsen import worsen
from audioadv.audio.files import round16
from audioadv.audio.ragged import pad
from audioadv.defenses import SmoothedRecogniser, Statement, remembering, sampled, stated
from audioadv.errors import OptionError, UnknownModel, UnusableBatch
from audioadv.evaluation.speech import Judge
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.threat.joined import Joined

PGD = {"pgd": partial(attacks.pgd, steps=10)}
WORDS = ("", " ", "a", "b", "c")


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    waveforms, lengths = pad([0.1 * torch.randn(80 * (11 + i), generator=generator) for i in range(5)])
    return waveforms, lengths, MODEL.transcribe(waveforms, lengths)


def says(texts: list[str], refused: str = "") -> Recogniser:
    """One text after another, whatever is heard; a detector refuses those that are marked with an x."""
    turn = itertools.cycle(zip(texts, (mark == "x" for mark in refused.ljust(len(texts))), strict=True))

    class Says(nn.Module):
        statement = Statement(random=True)

        def forward(self, waveforms: Tensor, lengths: Tensor) -> Emissions:
            rows = [next(turn) for _ in range(len(waveforms))]
            columns = torch.tensor([[WORDS.index(letter) for letter in text] + [0] * (5 - len(text)) for text, _ in rows])
            log_probs = (100.0 * nn.functional.one_hot(columns, len(WORDS))).log_softmax(-1)
            log_probs = log_probs + 0 * waveforms.sum()
            return Emissions(log_probs, torch.full_like(lengths, 5), WORDS, {"ear": torch.tensor([1.0 if no else -1.0 for _, no in rows])})

    return Recogniser(Says(), 16000, WORDS, name="says")


@pytest.mark.parametrize(
    ("texts", "refused", "heard"),
    [
        (["a b c"], "", "a b c"),
        (["a b c", "a b c", "a b", "a"], "", "a b"),  # two of four are no better
        (["a b c", "a b c", "a b", "a", "b"], "", "a b"),  # of five, three
        (["a", "a b c", "a b c", "a"], " xx ", "a"),
        (["a b c", "a", "a", "a b c"], " xx ", "a b c"),  # refused is better than heard right
        (["a", "a", "a", "a"], " xxx", None),
    ],
)
def test_what_counts_is_what_half_of_the_draws_are_no_better_than(texts: list[str], refused: str, heard: str | None) -> None:
    assert Judge(says(texts, refused), len(texts), detects=True).hears(torch.zeros(80), "a b c") == heard


@pytest.mark.filterwarnings("ignore:says states")
@pytest.mark.parametrize(("wrong", "stands"), [(15, True), (16, False)])
def test_a_random_recogniser_falls_where_half_of_its_draws_do(wrong: int, stands: bool) -> None:
    """All draws of a clip are heard before the next clip."""
    model, nothing = says(["a"] * wrong + ["a b c"] * (32 - wrong)), {"nothing": lambda wanted, region: nothing_yet(region)}
    result = aa.evaluate(model, torch.ones(2, 80), ["a b c"] * 2, aa.Linf(0.1), nothing, lengths=torch.tensor([80, 80]), errors=0.6)
    assert result.heard_before == (("a b c" if stands else "a"),) * 2
    assert result.accuracy == aa.Rate(2 * stands, 2)
    assert result.statement.random


def test_a_defense_is_attacked_twice(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    """Whoever does not know of the noise finds what only just works without it."""
    waveforms, lengths, said = clips
    model = aa.defend(MODEL, "gaussian:0.003")
    result = aa.evaluate(model, waveforms, said, aa.Linf(0.02), PGD, lengths=lengths, draws=4, judge_draws=9)
    static, far, adaptive = result.trials
    assert [trial.attack for trial in result.trials] == ["pgd, static", "pgd to its last step, static", "pgd, EOT 4"]
    assert [trial.static for trial in result.trials] == [True, True, False]
    assert torch.equal(adaptive.tried, (result.gauge > 0) & ~static.felled & ~far.felled)
    assert (adaptive.backwards[adaptive.tried] % 4 == 0).all()
    assert result.before.value < 0.2
    assert result.static_after is not None
    assert result.static_accuracy is not None
    assert 0 < result.static_after.value <= result.after.value
    assert result.robust_accuracy.hits <= result.static_accuracy.hits
    assert "random" in str(result)
    *_, there, every = result.lines()
    assert (there["attack"], there["wer"], every["wer"]) == ("all, static", result.static_after.value, result.after.value)
    blind = aa.evaluate(model, waveforms, said, aa.ThreatModel("linf:0.02", knowledge="oblivious"), PGD, lengths=lengths, judge_draws=9)
    assert [trial.static for trial in blind.trials] == [True, True]
    plain = aa.evaluate(MODEL, waveforms, said, aa.Linf(0.001), PGD, lengths=lengths)
    assert (plain.static_after, plain.static_accuracy) == (None, None)


class Deaf(nn.Module):
    """Hears as ever, and lets no gradient through."""

    statement = Statement("none")

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return wordy(waveforms, lengths)


def test_who_attacks_what_has_no_gradient_behind_a_defense_only_asks(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, _ = clips
    model = aa.defend(Recogniser(Deaf(), 16000), "bits:12")
    said = model.transcribe(waveforms, lengths)
    result = aa.evaluate(model, waveforms, said, "snr:3", "kenansville", lengths=lengths)
    assert [trial.attack for trial in result.trials] == ["kenansville, static", "kenansville, no gradients"]
    assert result.robust_accuracy.hits < len(said)
    assert sum(int(trial.backwards.sum()) for trial in result.trials) == 0


def test_who_knows_only_a_substitute_works_on_that(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    threat = aa.ThreatModel("linf:0.03", knowledge="transfer")

    def nearly(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, frames = wordy(waveforms, lengths)
        return (0.9 * log_probs).log_softmax(-1), frames

    result = aa.evaluate(MODEL, waveforms, said, threat, PGD, lengths=lengths, static=Recogniser(nearly, 16000))
    assert [trial.static for trial in result.trials] == [True, True]
    assert result.robust_accuracy.hits == 0
    for static, error in ((None, OptionError), (MODEL, OptionError), (Recogniser(nearly, 8000), UnknownModel), (nearly, UnknownModel)):
        with pytest.raises(error, match=r"substitute|16000 Hz"):
            aa.evaluate(MODEL, waveforms, said, threat, PGD, lengths=lengths, static=static)  # type: ignore[arg-type]


class Wary(nn.Module):
    """Hears as ever, and refuses what is louder than it knows a clip of this length to be."""

    statement = Statement(detects=True)

    def __init__(self, waveforms: Tensor, lengths: Tensor) -> None:
        super().__init__()
        self.power = dict(zip(lengths.tolist(), round16(waveforms).square().sum(1), strict=True))

    def forward(self, waveforms: Tensor, lengths: Tensor) -> Emissions:
        known = torch.stack([self.power.get(n, torch.tensor(1.0)) for n in lengths.tolist()])
        return Emissions(*wordy(waveforms, lengths), MODEL.vocabulary, {"ear": 100 * (waveforms.square().sum(1) / known - 1.002)})

    def undetected(self) -> aa.Undetected:
        return aa.Undetected("ear")


def test_an_attacker_has_to_pass_the_detector_too(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    wary = Recogniser(Wary(waveforms, lengths), 16000)
    result = aa.evaluate(wary, waveforms, said, aa.Linf(0.05), {"pgd": partial(attacks.pgd, steps=40)}, lengths=lengths)
    assert [trial.attack for trial in result.trials] == ["pgd, static", "pgd to its last step, static", "pgd, unseen"]
    assert result.static_accuracy is not None
    assert result.static_accuracy.hits == 5, "what the detector refuses does not count"
    assert result.robust_accuracy.hits == 0
    assert (wary(result.adversarial, lengths).suspicions["ear"] <= 0).all()
    assert tuple(wary.transcribe(result.adversarial, lengths)) == result.heard


def test_what_is_stated_is_compared_with_what_is_seen(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips

    class Calm(nn.Module):
        statement = Statement(random=True)

        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return wordy(waveforms, lengths)

    with pytest.warns(UserWarning, match="random=False"):
        aa.evaluate(Recogniser(Calm(), 16000), waveforms, said, aa.Linf(0.001), PGD, lengths=lengths, draws=2, judge_draws=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aa.evaluate(MODEL, waveforms, said, aa.Linf(0.001), PGD, lengths=lengths)


def test_clips_that_are_none_and_lengths_that_are_no_tensor(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    with pytest.raises(UnusableBatch, match=r"lengths of type list: .*as_tensor"):
        aa.evaluate(MODEL, waveforms, said, aa.Linf(0.01), PGD, lengths=lengths.tolist())  # type: ignore[call-overload]
    with pytest.raises(UnusableBatch, match="no clips"):
        aa.evaluate(MODEL, waveforms[:0], [], aa.Linf(0.01), PGD, lengths=lengths[:0])
    with pytest.raises(UnusableBatch, match=r"lengths of type NoneType: .*read_audio"):
        aa.evaluate(MODEL, waveforms, said, aa.Linf(0.01), PGD)


def test_what_remembers_is_played_with(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    with pytest.raises(OptionError, match=r"remembers.*games\.play"):
        aa.evaluate(remembering(MODEL), waveforms, said, aa.Linf(0.01), PGD, lengths=lengths)
    for model in (remembering(nn.Flatten()), aa.defend(remembering(nn.Flatten()), "depth:8")):
        with pytest.raises(OptionError, match=r"remembers.*games\.play"):  # each find is asked twice: all would count as robust
            aa.evaluate(model, torch.rand(4, 1, 1, 3), torch.zeros(4, dtype=torch.int64), aa.Linf(0.1), "pgd")


def test_a_vote_is_evaluated_and_defended_as_any_recogniser(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, _ = clips
    waveforms = round16(waveforms)
    voting = SmoothedRecogniser(MODEL, 1e-3, draws=3)
    said = voting.transcribe(waveforms, lengths)
    result = aa.evaluate(voting, waveforms, said, aa.Linf(0.03), PGD, lengths=lengths, static=MODEL)
    assert [trial.static for trial in result.trials] == [True, True, False]
    assert set(result.outcome) == {Outcome.REACHED}
    behind = aa.defend(voting, "bits:16")
    assert isinstance(behind, Recogniser)
    assert behind.transcribe(waveforms, lengths) == said
    assert behind.name == "recogniser behind bits:16"
    drawn = sampled(voting)
    assert isinstance(drawn, Recogniser)
    assert stated(drawn).random
    assert len(drawn.transcribe(waveforms, lengths)) == 5


def test_what_is_crafted_for_a_random_recogniser_is_heard_at_a_rate() -> None:
    """Where half of the draws are silence, no more than half hear anything; what is always heard is reached as ever."""
    halves = itertools.cycle([True, False, False, True])

    class Dozing(nn.Module):
        statement = Statement(random=True)

        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            log_probs, frames = recognisers.listen(waveforms, lengths)
            awake = torch.tensor([next(halves) for _ in range(len(waveforms))])
            return torch.where(awake[:, None, None], log_probs, (log_probs - 100 * (torch.arange(29) > 0)).log_softmax(-1)), frames

    clip = aa.Clip("clip", 0.1 * torch.randn(1600, generator=torch.Generator().manual_seed(0)), 16000)
    options = {"bound": aa.Linf(0.1), "steps": 30, "judge_draws": 40}
    (dozing,) = aa.craft(Recogniser(Dozing(), 16000), [clip], aa.Transcribe("no"), **options).clips
    assert (dozing.channel, dozing.draws, dozing.outcome) == ("none", 40, Outcome.MISSED)
    assert dozing.hits <= 20
    (half,) = aa.craft(Recogniser(Dozing(), 16000), [clip], aa.Transcribe("no"), rate=0.5, **options).clips
    assert (half.outcome, half.hits, half.note) == (Outcome.REACHED, 20, "Heard as wanted in 20 of 40 judge draws.")
    for channel in (None, "none"):
        (sure,) = aa.craft(recognisers.linear(), [clip], aa.Transcribe("no"), channel=channel, **options).clips
        assert (sure.channel, sure.draws, sure.outcome) == (None, 0, Outcome.REACHED)
    assert "channel" not in sure.line()


def test_errors_rise_rung_by_rung_within_a_joined_goal(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    asked = list[aa.Mistranscribe | Joined]()

    def attack(wanted: attacks.objective.Objective, region: object, **options: object) -> object:  # type: ignore[name-defined]
        asked.append(wanted.goal)
        return attacks.pgd(wanted, region, steps=10)  # type: ignore[arg-type]

    class Calm(nn.Module):
        def forward(self, waveforms: Tensor, lengths: Tensor) -> Emissions:
            log_probs, frames = wordy(waveforms, lengths)
            return Emissions(log_probs, frames, MODEL.vocabulary, {"ear": -1 - waveforms.square().sum(1)})

    goal = aa.Mistranscribe(said, 0.3) & aa.Undetected("ear")
    region = aa.Linf(0.05).around(waveforms, lengths, box=(-1, 1))
    worsen(attack, aa.objective(Recogniser(Calm(), 16000), goal, lengths), region, rungs=(0.5, 1.0))  # type: ignore[arg-type]
    assert [type(one) for one in asked] == [Joined] * 3
    assert [one.goals[0].errors for one in asked] == [0.3, 0.5, 1.0]  # type: ignore[union-attr]
    with pytest.raises(OptionError, match="or several"):
        worsen(attacks.pgd, aa.objective(MODEL, aa.Mistranscribe(said) & aa.Mistranscribe(said), lengths), region)

"""Evaluation of recognisers, and the spoken digits."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import recognisers
import torch
from torch import Tensor

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.audio.files import FULL_SCALE, Clip, round16
from audioadv.audio.ragged import pad
from audioadv.errors import AccessDenied, InputError, OptionError, UnusableBatch, UnusableTarget
from audioadv.evaluation.sounds import fsdd
from audioadv.evaluation.speech import misheard
from audioadv.evaluation.words import WordErrors
from audioadv.models.recogniser import Recogniser
from audioadv.threat.region import Region

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/fsdd"
PGD = {"pgd": partial(attacks.pgd, steps=10)}


def wordy(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Each 80 samples a letter by a fixed linear function of them; every third frame a gap between words."""
    width = -(-waveforms.shape[1] // 80)
    scores = torch.nn.functional.pad(waveforms, (0, 80 * width - waveforms.shape[1])).unflatten(1, (width, 80)) @ recognisers.WEIGHTS[:80]
    gaps = 40.0 * (torch.arange(width) % 3 == 2)
    scores = scores + gaps[:, None] * torch.nn.functional.one_hot(torch.tensor(1), 29)
    return scores.log_softmax(-1), (lengths + 79) // 80


MODEL = Recogniser(wordy, 16000)


@pytest.fixture(scope="module")
def clips() -> tuple[Tensor, Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    waveforms, lengths = pad([0.1 * torch.randn(80 * (11 + i), generator=generator) for i in range(6)])
    return waveforms, lengths, MODEL.transcribe(waveforms, lengths)


def test_word_errors_before_and_after(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    said = ["not what is said here at all", *said[1:]]  # misheard from the start
    result = aa.evaluate(MODEL, waveforms, said, aa.Linf(0.03), PGD, lengths=lengths, batch=4)
    assert result.accuracy == aa.Rate(5, 6)
    assert result.outcome[0] is Outcome.NEEDLESS
    assert set(result.outcome[1:]) == {Outcome.REACHED}
    assert result.robust_accuracy.hits == 0
    assert result.before.wrong[1:] == (0,) * 5
    assert min(result.after.rates) >= 0.5
    alone = [MODEL.transcribe(row[None, :n], n[None])[0] for row, n in zip(result.adversarial, lengths, strict=True)]
    assert tuple(alone) == result.heard
    assert torch.equal((result.adversarial * FULL_SCALE).round(), result.adversarial * FULL_SCALE)  # as a file holds it
    assert (result.adversarial - waveforms).abs().max() <= 0.03 + 0.5 / FULL_SCALE  # waveforms here are on no grid
    (trial,) = result.trials
    assert trial.tried.tolist() == [False] + [True] * 5
    clean, pgd, union = result.lines()
    assert clean["wer"] == result.before.value
    assert pgd["wer"] == union["wer"] == result.after.value
    assert union["wer_interval"][0] <= union["wer"] <= union["wer_interval"][1]
    assert union["forwards"] == int(trial.forwards.sum()) > 0
    assert "WER" in str(result)


def test_nothing_is_found_where_nothing_may_be_changed(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    result = aa.evaluate(MODEL, waveforms, said, aa.ThreatModel("linf:0.00001"), PGD, lengths=lengths)
    assert result.robust.all()
    assert result.heard == result.heard_before == tuple(said)
    assert result.after.value == result.before.value == 0


def test_an_attack_sees_only_what_stands_and_the_worst_counts(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    weak, strong = partial(attacks.pgd, steps=1), partial(attacks.pgd, steps=10)
    result = aa.evaluate(MODEL, waveforms, said, aa.Linf(0.012), {"weak": weak, "strong": strong}, lengths=lengths)
    first, second = result.trials
    assert torch.equal(second.tried, ~first.felled)
    assert torch.equal(result.robust, ~(first.felled | second.felled))
    each = [WordErrors.of(said, trial.heard).rates for trial in result.trials]
    assert result.after.rates == tuple(map(max, *each))
    every = aa.evaluate(MODEL, waveforms, said, aa.Linf(0.012), {"weak": weak, "strong": strong}, lengths=lengths, all_attacks_see_all=True)
    assert every.trials[1].tried.all()


def test_what_has_fallen_leaves_nothing_for_the_attacks_after(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, _ = clips
    wrong = ["nobody said so"] * len(waveforms)
    found = aa.evaluate(MODEL, waveforms, wrong, "linf:0.01", {"pgd": attacks.pgd, "apgd": attacks.apgd}, lengths=lengths)
    assert set(found.outcome) == {Outcome.NEEDLESS}
    assert [int(trial.tried.sum()) for trial in found.trials] == [0, 0]


def test_what_lies_outside_the_bound_does_not_count(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips

    def liar(wanted: Objective, region: Region) -> AttackResult:
        return attacks.pgd(wanted, region.at(1e3 * region.radius), steps=10)

    result = aa.evaluate(MODEL, waveforms, said, aa.Linf(1e-4), {"liar": liar}, lengths=lengths)
    assert result.robust.all()
    assert result.after.value == 0


def test_what_no_file_holds_is_heard_as_a_file_would_hold_it(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips

    def loud(wanted: Objective, region: Region) -> AttackResult:
        found = attacks.pgd(wanted, region, steps=10)
        beyond = (torch.arange(found.adversarial.shape[1]) < wanted.lengths[:, None]) * (1.7 * found.adversarial + 0.3 / FULL_SCALE)
        return replace(found, adversarial=beyond, gauge=0 * found.gauge)

    result = aa.evaluate(MODEL, waveforms, said, aa.Linf(1.5), {"loud": loud}, lengths=lengths)
    assert result.adversarial.abs().max() <= 1
    assert torch.equal((result.adversarial * FULL_SCALE).round(), result.adversarial * FULL_SCALE)
    alone = [MODEL.transcribe(row[None, :n], n[None])[0] for row, n in zip(result.adversarial, lengths, strict=True)]
    assert tuple(alone) == result.heard
    assert (result.gauge[~result.robust] > 0.5).all()  # measured, not as claimed


@pytest.mark.parametrize("spec", ["snr:10", "masked:15"])
def test_words_are_lost_under_the_bounds_of_sound(clips: tuple[Tensor, Tensor, list[str]], spec: str) -> None:
    waveforms, lengths, said = clips
    waveforms = (waveforms * FULL_SCALE).round() / FULL_SCALE
    result = aa.evaluate(MODEL, waveforms, said, aa.ThreatModel(spec), {"apgd": partial(attacks.apgd, steps=15)}, lengths=lengths)
    assert result.after.value >= 0.3
    bound = aa.parse_bound(spec)
    assert bound.excess(bound.around(waveforms, lengths, box=(-1, 1)), result.adversarial).max() <= 1e-3


def test_security_curve_of_the_smallest_changes(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    shrink = {"find_then_shrink": partial(attacks.find_then_shrink, steps=40)}
    result = aa.evaluate(MODEL, waveforms, said, aa.Linf("min"), shrink, lengths=lengths)
    assert set(result.outcome) == {Outcome.REACHED}
    change = (result.adversarial - (waveforms * FULL_SCALE).round() / FULL_SCALE).abs().amax(1)
    torch.testing.assert_close(result.gauge, change)
    third = float(result.gauge.sort().values[2])
    beyond = int((result.gauge > third).sum())  # on the grid, some may be equal
    assert 0 < beyond < 4
    assert [rate.hits for _, rate in result.curve([0.0, third, third * (1 - 5e-6), 1.0])] == [6, beyond, beyond, 0]


def test_a_threat_model_grants_what_it_says(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    by_ear = aa.ThreatModel("snr:0", access="decisions")
    with pytest.raises(AccessDenied):
        aa.evaluate(MODEL, waveforms, said, by_ear, "pgd", lengths=lengths)
    result = aa.evaluate(MODEL, waveforms, said, by_ear, "kenansville", lengths=lengths)
    assert result.after.value > 0
    assert result.trials[0].backwards.sum() == 0
    with pytest.raises(OptionError, match="survive"):
        aa.evaluate(MODEL, waveforms, said, aa.ThreatModel("snr:0", channel="room"), "pgd", lengths=lengths)
    with pytest.raises(UnusableBatch, match="texts"):
        aa.evaluate(MODEL, waveforms, said[1:], by_ear, lengths=lengths)
    with pytest.raises(UnusableBatch, match="Recogniser"):
        aa.evaluate(torch.nn.Flatten(), waveforms, said, by_ear, lengths=lengths)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "option",
    [{"goal": aa.Misclassify(torch.tensor([1]))}, {"box": (-1, 1)}],
    ids=lambda option: next(iter(option)),
)
def test_options_that_a_recogniser_has_no_use_for_are_refused(clips: tuple[Tensor, Tensor, list[str]], option: dict[str, object]) -> None:
    waveforms, lengths, said = clips
    with pytest.raises(OptionError, match=f"{next(iter(option))}: of no use"):
        aa.evaluate(MODEL, waveforms, said, aa.Linf(0.01), PGD, lengths=lengths, **option)  # type: ignore[call-overload]


def test_a_recogniser_is_asked_for_texts(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    with pytest.raises(UnusableBatch, match="what is said"):
        aa.evaluate(MODEL, clips[0], torch.zeros(6).long(), aa.Linf(0.01), PGD, lengths=clips[1])  # type: ignore[call-overload]


def test_clips_are_evaluated_as_they_are_read(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    read = [Clip(str(n), round16(row[:n]), 16000) for row, n in zip(waveforms, lengths.tolist(), strict=True)]
    padded = aa.evaluate(MODEL, round16(waveforms), said, aa.Linf(0.003), PGD, lengths=lengths)
    assert str(aa.evaluate(MODEL, read, said, aa.Linf(0.003), PGD)) == str(padded)
    wrong: list[tuple[object, dict[str, object], type[Exception], str]] = [
        ([], {}, UnusableBatch, "no clips"),
        (list(waveforms), {}, UnusableBatch, "clip of type Tensor: give read_audio"),
        ([replace(clip, sample_rate=8000) for clip in read], {}, UnusableBatch, r"8000 Hz.*clip\.at\(16000\)"),
        (read[:3], {}, UnusableBatch, "6 texts for 3 clips"),
        (read, {"lengths": lengths}, OptionError, "lengths: of no use for clips"),
        (read[0], {}, UnusableBatch, "inputs of type Clip: give clips, read_audio"),
    ]
    for inputs, options, error, match in wrong:
        with pytest.raises(error, match=match):
            aa.evaluate(MODEL, inputs, said, aa.Linf(0.003), PGD, **options)  # type: ignore[call-overload]
    with pytest.raises(UnusableBatch, match=r"inputs of type list: give a tensor.*torch\.stack"):
        aa.evaluate(torch.nn.Flatten(), read, [0] * 6, aa.Linf(0.003), "pgd")  # type: ignore[call-overload]


def test_progress_counts_the_clips_that_are_tried(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    told = list[tuple[str, int, int]]()
    said, ways = [*said[:5], "not what is said here at all"], {"pgd": PGD["pgd"], "again": PGD["pgd"]}
    aa.evaluate(MODEL, waveforms, said, aa.Linf(0.05), ways, lengths=lengths, batch=3, progress=lambda *seen: told.append(seen))
    assert told == [("pgd", 3, 5), ("pgd", 5, 5), ("again", 0, 0)]


def test_a_region_written_over_changes_nothing_of_what_is_heard_to_fit(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips

    def widening(wanted: Objective, region: Region) -> AttackResult:
        region.radius.fill_(0.05)
        return PGD["pgd"](wanted, region)

    threat = aa.ThreatModel("linf:0.0005", queries=1000)  # else what is asked to do worse gets a copy anyway
    result = aa.evaluate(MODEL, waveforms, said, threat, widening, lengths=lengths)
    assert result.robust.all()


def test_a_bound_that_lets_nothing_be_changed_is_told(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    silent = waveforms.clone()
    silent[2] = 0
    with pytest.raises(UnusableBatch, match=r"input 2: .*silence"):
        aa.evaluate(MODEL, silent, said, aa.SNR(20), PGD, lengths=lengths)
    with pytest.raises(UnusableBatch, match=r"input 0: .*another place"):  # within the batch, but beyond the shorter clips
        aa.evaluate(MODEL, waveforms, said, f"sticker:20+{80 * 15}", PGD, lengths=lengths)


def test_a_fixed_part_is_kept_to_while_the_smallest_is_looked_for(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    waveforms, lengths, said = clips
    region = (aa.SNR("min") & aa.Linf(0.02)).around(waveforms, lengths, (-1, 1))
    found = attacks.kenansville(aa.objective(MODEL, aa.Mistranscribe(said, 0.2), lengths), region)
    assert Outcome.REACHED in found.outcome
    assert (found.adversarial - waveforms).abs().max() <= 0.02 + 1e-6


def test_word_errors_are_over_words_and_their_interval_over_clips() -> None:
    errors = WordErrors.of(["a b c d", "a"], ["a b x d e", ""])
    assert errors.wrong == (2, 1)
    assert errors.value == pytest.approx(3 / 5)
    assert errors.rates == (0.5, 1.0)
    many = WordErrors((1,) * 40 + (0,) * 60, (1,) * 100)  # a proportion: the normal interval, 0.4 +- 1.96 sqrt(0.4 * 0.6 / 100)
    assert many.interval == pytest.approx((0.304, 0.496), abs=0.015)
    clumped = WordErrors((10,) * 4 + (0,) * 6, (10,) * 10)  # as many words, but wrong ten at a time
    assert clumped.interval[1] - clumped.interval[0] > 2.5 * (many.interval[1] - many.interval[0])


@pytest.mark.parametrize(
    ("wrong", "words", "ends"),
    [  # Wilson's, with a trial a clip: z^2 / (n + z^2) where nothing is wrong, z^2 = 3.8415
        ((0,) * 5, (3, 4, 5, 6, 7), (0.0, 0.4345)),
        ((4,) * 5, (4,) * 5, (0.5655, 1.0)),
        ((0,), (4,), (0.0, 0.7935)),
        ((1, 2), (2, 4), (0.0945, 0.9055)),  # alike in rate, not in length
        ((6,), (4,), (1.5 * 0.2065, 1.5)),  # more put in than was said
    ],
)
def test_clips_that_are_all_alike_are_not_certain(wrong: tuple[int, ...], words: tuple[int, ...], ends: tuple[float, float]) -> None:
    assert WordErrors(wrong, words).interval == pytest.approx(ends, abs=1e-4)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")
def test_spoken_digits_and_the_bundled_nets() -> None:
    for of, name in (("digit", "digits-spoken"), ("speaker", "speakers")):
        train, test = fsdd(DATA, "train", of=of), fsdd(DATA, of=of)  # type: ignore[arg-type]
        assert train.waveforms.shape == (1800, 8000)
        assert test.waveforms.shape == (200, 8000)
        some = test.first(40)
        assert some.labels.bincount().unique().numel() == 1  # as many of each
        held, heard = {row.numpy().tobytes() for row in test.waveforms}, {row.numpy().tobytes() for row in train.waveforms}
        assert not held & heard
        assert (aa.load_classifier(name)(test.waveforms).argmax(1) == test.labels).float().mean() >= 0.97


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"recordings\.flac"):
        fsdd(tmp_path)


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert WordErrors.of(["Five.", "it's  me"], ["five", "its me"]).wrong == (0, 1)


def test_references_are_compared_as_words_and_checked_before_any_attack(clips: tuple[Tensor, Tensor, list[str]]) -> None:
    """Punctuation is no error; what the model never writes is told with its number, whatever was heard."""
    waveforms, lengths, said = clips
    written = [f"{text.replace(' ', '-', 1).capitalize()}." for text in said]
    result = aa.evaluate(MODEL, waveforms, written, aa.Linf(0.001), {"pgd": partial(attacks.pgd, steps=1)}, lengths=lengths)
    assert result.before.wrong == (0,) * len(said)
    for text, why in (
        ("...", r"reference 5, '\.\.\.': there is no word"),
        ("ça va", "reference 5: .*does not write 'ç'"),
        ("", "reference 5"),
    ):
        with pytest.raises(UnusableTarget, match=why):
            aa.evaluate(MODEL, waveforms, [*said[:5], text], aa.Linf(0.001), PGD, lengths=lengths)
    marked = Recogniser(wordy, 16000, (*MODEL.vocabulary, "</s>"))
    letters = "".join(letter for letter in MODEL.vocabulary if letter.isalpha())[:2]
    assert misheard([f"{letters}/{letters}"], 0.5, marked).references == (f"{letters} {letters}",), "a mark's signs are none of its letters"
    marks = Recogniser(wordy, 16000, tuple("." if letter == said[0][0] else letter for letter in MODEL.vocabulary))
    heard = marks.transcribe(waveforms, lengths)
    assert any("." in text for text in heard)
    clean = aa.evaluate(marks, waveforms, heard, aa.Linf(1e-5), {"pgd": partial(attacks.pgd, steps=1)}, lengths=lengths)
    assert set(clean.outcome) == {Outcome.MISSED}
    assert clean.references == tuple(heard), "as it stands, for a model that writes it"


class Hyphens(torch.nn.Module):
    """Writes a dash: "well-known", from a mean of 0.02 on "well known", which says the same, and from 0.04 on "go away"."""

    vocabulary = ("", " ", "-", *"abcdefghijklmnopqrstuvwxyz")

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        texts = ("well-known", "well known", "go away   ")
        columns = torch.tensor([[column for letter in text for column in (self.vocabulary.index(letter), 0)] for text in texts])
        mean = waveforms.sum(1) / lengths
        chosen = torch.stack([0 * mean, 100 * (mean - 0.02), 300 * (mean - 0.1 / 3)], 1).softmax(1)
        shown = torch.nn.functional.one_hot(columns, len(self.vocabulary)).float()
        return (20 * torch.einsum("bk,kfv->bfv", chosen, shown)).log_softmax(-1), torch.full_like(lengths, 20)


def test_a_goal_counts_words_as_its_judge_does() -> None:
    model = Recogniser(Hyphens(), 16000, Hyphens.vocabulary)
    waveforms, lengths = torch.zeros(2, 1600), torch.full((2,), 1600)
    attack = {"pgd": partial(attacks.pgd, steps=40, step_size=0.05, random_start=False)}
    table = aa.evaluate(model, waveforms, ["well-known"] * 2, aa.Linf(0.1), attack, lengths=lengths)
    assert (table.robust_accuracy.hits, table.heard) == (0, ("go away", "go away"))
    spaced = Clip("spaced", round16(torch.full((1600,), 0.03)), 16000)
    (crafted,) = aa.craft(model, [spaced], aa.Mistranscribe("well-known", 0.5), bound=aa.Linf(0.1), steps=20).clips
    assert (crafted.clean_transcript, crafted.outcome, crafted.adversarial_transcript) == ("well known", Outcome.REACHED, "go away")
    with pytest.raises(UnusableTarget, match=r"reference '\.\.\.': there is nothing to mishear"):
        aa.Mistranscribe(["a word", "..."])

"""Attacks on speech without gradients, one change for all clips, and as many word errors as can be had."""

from functools import partial
from itertools import pairwise

import jiwer
import pytest
import recognisers
import torch
from torch import Tensor

from audioadv import attacks
from audioadv.attacks.objective import Objective, objective
from audioadv.attacks.result import Attack, AttackResult, Outcome
from audioadv.audio.ragged import led_in, pad
from audioadv.errors import AccessDenied, OptionError
from audioadv.models.access import Access
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.threat.bounds import L2, MIN, SNR, Bound, Linf
from audioadv.threat.goals import LOST, Mistranscribe, Silence, Transcribe
from audioadv.threat.labels import Misclassify
from audioadv.threat.region import Region
from audioadv.threat.stickers import Sticker

BOX = (-1.0, 1.0)
MODEL = recognisers.linear()


def ragged(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise of two frames or more, each clip longer than the one before."""
    generator = torch.Generator().manual_seed(seed)
    return pad([0.1 * torch.randn(recognisers.HOP * (i + 2) - 7 * i, generator=generator) for i in range(count)])


def estimated(source: object, wanted: Objective, region: Region, **options: int) -> AttackResult:
    return attacks.pgd(Objective(wanted.model, wanted.goal, wanted.lengths, slopes=source), region, **options)


BLIND: dict[str, Attack] = {
    "nes": partial(estimated, attacks.nes(3), steps=3),
    "spsa": partial(estimated, attacks.spsa(3), steps=3),
    "bandits": partial(estimated, attacks.bandits(3, tile=50), steps=3),
    "coordinates": partial(estimated, attacks.coordinates(4), steps=3),
    "square": partial(attacks.square, steps=10),
    "genetic": partial(attacks.genetic, steps=4, herd=6),
    "kenansville": attacks.kenansville,
    "kenansville ssa": partial(attacks.kenansville, by="ssa"),
    "hop_skip_jump": partial(attacks.hop_skip_jump, steps=2, draws=5),
}


@pytest.mark.parametrize("name", BLIND)
@pytest.mark.parametrize("bound", [Linf(0.02), SNR(5)], ids=str)
def test_a_clip_alone_and_among_longer_ones_ends_alike(name: str, bound: Bound) -> None:
    """What a query asks of the padding would be heard, and drawn numbers would move."""
    waveforms, lengths = ragged(3)
    goal = Transcribe("zq") if name in ("nes", "spsa", "bandits", "coordinates") else Silence()

    def attacked(rows: slice) -> AttackResult:
        some, own = waveforms[rows, : int(lengths[rows].max())], lengths[rows]
        return BLIND[name](objective(MODEL, goal, own), bound.around(some, own, box=BOX), seed=3)

    whole = attacked(slice(0, 3))
    beyond = torch.arange(waveforms.shape[1]) >= lengths[:, None]
    assert not (whole.adversarial * beyond).any()
    assert (whole.backwards == 0).all()
    for i in range(3):
        alone = attacked(slice(i, i + 1))
        assert alone.outcome[0] == whole.outcome[i]
        assert alone.forwards[0] == whole.forwards[i]
        torch.testing.assert_close(alone.adversarial[0], whole.adversarial[i, : lengths[i]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["nes", "spsa", "bandits", "coordinates", "square", "genetic"])
def test_a_clip_alone_and_among_longer_ones_is_asked_about_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Query by query, where nobody gets there and leaves."""
    monkeypatch.setattr("audioadv.attacks.objective.PART", 1000)  # a query a call
    waveforms, lengths = ragged(3)
    asked = list[Tensor]()

    def listen(waves: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(waves.detach().clone())
        return recognisers.listen(waves, own)

    def queries(rows: slice) -> list[Tensor]:
        asked.clear()
        some, own = waveforms[rows, : int(lengths[rows].max())], lengths[rows]
        result = BLIND[name](objective(Recogniser(listen, 16000), Transcribe("zq"), own), Linf(1e-3).around(some, own, box=BOX), seed=3)
        assert set(result.outcome) == {Outcome.MISSED}
        return [waves.unflatten(0, (len(own), -1)) for waves in asked]

    whole = queries(slice(0, 3))
    assert len(whole) >= 4
    for i in range(3):
        alone = queries(slice(i, i + 1))
        assert len(alone) == len(whole)
        for mine, all_of_them in zip(alone, whole, strict=True):
            torch.testing.assert_close(mine[0], all_of_them[i, :, : lengths[i]], rtol=1e-4, atol=1e-6)


def test_estimated_slopes_ask_nothing_of_the_padding() -> None:
    waveforms, lengths = ragged(3)
    beyond = torch.arange(waveforms.shape[1]) >= lengths[:, None]

    def watchful(waves: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        assert not (waves * beyond[: len(waves)]).any()
        return recognisers.listen(waves, own)

    for source in (attacks.nes(2), attacks.spsa(2), attacks.bandits(2), attacks.coordinates(300)):
        begun = objective(Recogniser(watchful, 16000), Silence(), lengths, slopes=source).begun(waveforms)
        assert not (begun.look(waveforms).slope * beyond).any()


def test_kenansville_drops_just_what_the_model_needs() -> None:
    """A model that hears a faint tone beside a loud one: the faint one goes, and the loud one stays."""
    time = torch.arange(400) / 8000
    loud, faint = 0.5 * torch.sin(2 * torch.pi * 440 * time), 0.05 * torch.sin(2 * torch.pi * 1000 * time)
    queries = list[int]()

    def hears_faint(sounds: Tensor) -> Tensor:
        queries.append(len(sounds))
        level = sounds @ faint
        return torch.stack([level, (faint @ faint) / 2 - 0 * level], 1)

    clean = (loud + faint)[None]
    goal = Misclassify(torch.tensor([0]))
    found = attacks.kenansville(objective(hears_faint, goal), L2(MIN).around(clean, box=BOX))
    assert found.reached == [True]
    torch.testing.assert_close(found.adversarial[0], loud, atol=1e-4, rtol=0)
    assert found.forwards.item() == sum(queries) <= 9  # 201 parts
    assert found.gauge.item() == pytest.approx(float(faint.norm()), rel=1e-3)
    tight = attacks.kenansville(objective(hears_faint, goal), L2(0.9 * float(faint.norm())).around(clean, box=BOX))
    assert tight.outcome == (Outcome.MISSED,)
    assert tight.forwards.item() == 1  # all that the bound holds is not enough: less will not be
    by_ssa = attacks.kenansville(objective(hears_faint, goal), L2(MIN).around(clean, box=BOX), by="ssa")
    assert by_ssa.reached == [True]
    assert by_ssa.gauge.item() < 0.5 * float(loud.norm())


def test_parts_add_up_to_the_sound() -> None:
    from audioadv.attacks.kenansville import WAYS

    sound = torch.randn(2, 301, generator=torch.Generator().manual_seed(0))
    for way in WAYS.values():
        parts = way(sound)
        torch.testing.assert_close(parts.weakest(parts.number), sound, atol=1e-4, rtol=1e-4)
        assert not parts.weakest(0).any()
        lengths = torch.tensor([float(parts.weakest(n).norm()) for n in range(0, parts.number, 7)])
        assert (lengths.diff() >= -1e-4).all()


def test_a_herd_breeds_on_transcripts_where_nothing_else_is_granted() -> None:
    waveforms, lengths = ragged(3)
    said = MODEL.transcribe(waveforms, lengths)
    deaf = MODEL.granting(Access.DECISIONS)
    region = Linf(0.1).around(waveforms, lengths, box=BOX)
    result = attacks.genetic(objective(deaf, Mistranscribe(said, 1.0), lengths), region, steps=8, herd=8)
    assert all(result.reached)
    assert (result.forwards <= 8 * 8).all()
    heard = MODEL.transcribe(result.adversarial, lengths)
    assert all(jiwer.wer(a, b) >= 1 for a, b in zip(said, heard, strict=True))
    with pytest.raises(AccessDenied, match="kenansville"):
        estimated(attacks.nes(2), objective(deaf, Mistranscribe(said), lengths), region, steps=2)


def test_a_better_herd_comes_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selection is what brings it on: by transcripts, letters that are wrong fall from generation to generation."""
    monkeypatch.setattr("audioadv.attacks.objective.PART", 1000)  # a herd a call
    waveforms, lengths = ragged(1, seed=4)
    goal = Silence()
    seen = list[float]()

    class Watching:
        access = Access.SCORES

        def __call__(self, waves: Tensor, own: Tensor) -> Emissions:
            outputs = MODEL(waves, own)
            seen.append(float(goal.loss(outputs).min()))
            return outputs

    region = Linf(0.01).around(waveforms, lengths, box=BOX)
    attacks.genetic(objective(Watching(), goal, lengths), region, steps=30, herd=20, descent=0.0)
    assert all(later <= before + 1e-4 for before, later in pairwise(seen))  # the best lives on
    assert seen[-1] < seen[0] - 0.5


def test_a_herd_that_has_come_to_a_stop_mutates_more_and_one_that_goes_on_does_not() -> None:
    """A step back from the edge of the box leaves an entry as it was: such entries come of mutation alone."""
    back = dict[bool, list[float]]()
    for stalled in (True, False):
        unmoved = back[stalled] = []

        def judge(inputs: Tensor, stalled: bool = stalled, unmoved: list[float] = unmoved) -> Tensor:
            unmoved.append(float((inputs == 0.5).double().mean()))
            lead = torch.full_like(inputs[:, 0], 9.0 if stalled else 9 * 0.5 ** len(unmoved))
            return torch.stack([lead, 0 * lead], 1)

        wanted = objective(judge, Misclassify(torch.tensor([0])))
        attacks.genetic(wanted, Linf(0.1).around(torch.full((1, 400), 0.5)), steps=8, herd=10, descent=0.0, seed=1)
    assert max(back[True][:3]) < 0.02, "as little as at first, until it is seen"
    assert back[True][-1] > 0.15
    assert back[False][-1] < 0.05


def attentive(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """As `recognisers.listen`, but what the first frame says in one direction speaks for silence everywhere."""
    log_probs, frames = recognisers.listen(waveforms, lengths)
    hush = torch.sin(torch.arange(recognisers.HOP) / 5.0)
    scores = log_probs + (4 * waveforms[:, : recognisers.HOP] @ hush)[:, None, None] * torch.nn.functional.one_hot(torch.tensor(0), 29)
    return scores.log_softmax(-1), frames


def test_a_segment_before_the_clip_mutes_clips_that_it_was_not_made_on() -> None:
    model, samples = Recogniser(attentive, 16000), recognisers.HOP
    made, judged = ragged(5, seed=1), ragged(5, seed=2)
    bound = Sticker.parse(f"{samples}+0") & Linf(0.2)
    waveforms, lengths = led_in(*made, samples)
    assert all(model.transcribe(waveforms, lengths))  # silence in front mutes nothing
    region = bound.around(waveforms, lengths, box=BOX)
    result = attacks.universal(objective(model, Silence(), lengths), region, steps=30)
    assert result.shared is not None
    assert all(result.reached)
    assert not (result.adversarial - waveforms)[:, samples:].any()
    others, own = led_in(*judged, samples)
    laid = attacks.everywhere(bound.around(others, own, box=BOX), result.shared)
    assert model.transcribe(laid, own) == [""] * 5
    assert (laid - others).abs().max() <= 0.2 + 1e-6


def test_one_waveform_repeats_over_clips_of_any_length() -> None:
    waveforms, lengths = ragged(4)
    goal, period = Silence(), recognisers.HOP
    region = Linf(0.1).around(waveforms, lengths, box=BOX)
    result = attacks.universal(objective(MODEL, goal, lengths), region, steps=20, period=period)
    assert result.shared is not None
    assert result.shared.shape == (period,)
    laid = attacks.everywhere(region, result.shared) - waveforms
    for change, length in zip(laid, lengths.tolist(), strict=True):
        torch.testing.assert_close(change[period:length], change[: length - period], atol=1e-6, rtol=0)
        assert not change[length:].any()
    before = sum(map(len, MODEL.transcribe(waveforms, lengths)))
    after = sum(map(len, MODEL.transcribe(waveforms + laid, lengths)))
    assert after < 0.7 * before
    quiet = SNR(20).around(waveforms, lengths, box=BOX)
    share = (attacks.everywhere(quiet, 10 * result.shared) - waveforms).norm(dim=1) / waveforms.norm(dim=1)
    torch.testing.assert_close(share, torch.full_like(share, 0.1), atol=1e-4, rtol=0)


def said_by(scores: Tensor) -> Emissions:
    return Emissions(scores.log_softmax(-1), torch.tensor([scores.shape[1]]), ("", "a", "b"))


def test_how_firmly_a_text_is_heard_has_a_closed_form() -> None:
    scores = torch.tensor([[[0.0, 6.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 3.0]]])  # a, blank, b: ahead by 5, 5 and 3
    goal = Mistranscribe("ab")
    assert goal.loss(said_by(scores)).item() == pytest.approx(13 / 3, abs=1e-4)
    scores[0, 2] = torch.tensor([7.0, 0.0, 3.0])  # b is lost by 4, or by LOST for what counts
    outputs = said_by(scores.requires_grad_())
    assert goal.loss(outputs).item() == pytest.approx((5 + 5 - LOST) / 3, abs=1e-3)
    (slope,) = torch.autograd.grad(goal.loss(outputs).sum(), scores)
    assert not slope[0, 2].any()
    assert slope[0, :2].any(1).all()


def test_how_much_of_a_transcript_is_wrong() -> None:
    scores = torch.tensor([[[0.0, 6.0, 1.0], [5.0, 0.0, 0.0], [0.0, 0.0, 3.0]]])
    outputs = said_by(scores)
    assert outputs.transcripts() == ["ab"]
    assert Transcribe("bab").apart(outputs).tolist() == [1]
    assert Silence().apart(outputs).tolist() == [2]
    assert Mistranscribe("a ab", 0.75).apart(outputs).tolist() == [0.25]
    assert not Mistranscribe("a ab", 0.75).reached(outputs)
    assert Mistranscribe("a ab", 0.5).reached(outputs)


def test_worsen_goes_on_where_the_goal_would_stop() -> None:
    waveforms, lengths = ragged(4)
    lengths = lengths.clamp_min(int(lengths.max()))  # as many words for all
    waveforms = 0.1 * torch.randn(4, int(lengths.max()), generator=torch.Generator().manual_seed(5))
    spaced = recognisers.WEIGHTS.clone()

    def wordy(waves: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        scores = waves[:, : len(waves[0]) // 80 * 80].unflatten(1, (-1, 80)) @ spaced[:80]
        gaps = 40.0 * (torch.arange(scores.shape[1]) % 3 == 2)  # a gap between words every third frame
        scores = scores + gaps[:, None] * torch.nn.functional.one_hot(torch.tensor(1), 29)
        return scores.log_softmax(-1), own // 80

    model = Recogniser(wordy, 16000)
    said = model.transcribe(waveforms, lengths)
    assert all(len(text.split()) >= 3 for text in said)
    region, attack = Linf(0.008).around(waveforms, lengths, box=BOX), partial(attacks.pgd, steps=15)
    wanted = objective(model, Mistranscribe(said, 0.5), lengths)
    once, more = attack(wanted, region), attacks.worsen(attack, wanted, region)
    rates = [[jiwer.wer(a, b) for a, b in zip(said, model.transcribe(r.adversarial, lengths), strict=True)] for r in (once, more)]
    assert all(after >= before for before, after in zip(*rates, strict=True))
    assert sum(rates[1]) > sum(rates[0])
    assert [rate >= 0.5 for rate in rates[1]] == more.reached
    assert region.holds(region.gauge(more.adversarial)).all()
    few = attacks.worsen(attack, objective(model, Mistranscribe(said, 50.0), lengths), region)
    assert few.outcome == (Outcome.MISSED,) * 4
    assert (few.adversarial != waveforms).any(1).sum() >= 3  # what was found is returned
    with pytest.raises(OptionError, match="Mistranscribe"):
        attacks.worsen(attack, objective(model, Silence(), lengths), region)

"""Texts in the pieces that a model writes: against enumeration of every row of columns."""

import itertools

import pytest
import torch
from torch import Tensor

import audioadv as aa
from audioadv.errors import UnusableTarget
from audioadv.models.decoding import text_of, transcripts
from audioadv.models.recogniser import Emissions
from audioadv.threat.ctc import frames_needed
from audioadv.threat.goals import Mistranscribe, Silence, Transcribe, check_spelt
from audioadv.threat.spelling import columns_of, in_pieces, too_long

WORDS = ("", " the", " cat", "s", " a", " sat", " on", " mat")
MIXED = ("", "th", "e", "t", "h")
GAPS = ("", "a ", " a", " ", "b")
LETTERS = ("", " ", "a", "b")


def heard_as(rows: Tensor, vocabulary: tuple[str, ...]) -> Emissions:
    """Frames whose letters lead clearly. Shapes: rows [clips, frames]."""
    scores = 20.0 * torch.nn.functional.one_hot(rows, len(vocabulary))
    return Emissions(scores.log_softmax(-1), torch.full((len(rows),), rows.shape[1]), vocabulary)


@pytest.mark.parametrize("vocabulary", [MIXED, GAPS, ("", "ab", "a", "b"), LETTERS])
def test_whatever_pieces_write_a_text_it_is_heard_and_no_fewer_frames_do(vocabulary: tuple[str, ...]) -> None:
    """Every text against every row of up to three frames; of four, against all rows that write it and each eighth of the others."""
    for frames in (1, 2, 3, 4):
        rows = torch.cartesian_prod(*[torch.arange(len(vocabulary))] * frames).view(-1, frames)
        every = heard_as(rows, vocabulary).transcripts()
        for turn, text in enumerate(sorted({*every} - {""})):
            some = [row for row, one in enumerate(every) if frames < 4 or one == text or (row + turn) % 8 == 0]
            goal, heard, said = Transcribe(text), heard_as(rows[some], vocabulary), [every[row] for row in some]
            assert goal.reached(heard).tolist() == [one == text for one in said], (text, frames)
            assert set(goal.impossible(heard)) == {None}
            assert goal.loss(heard).isfinite().all()
            assert Mistranscribe(text, 0.01).reached(heard).tolist() == [one != text for one in said]
            near = (goal.margin(heard) == 0).tolist()
            assert near == goal.reached(heard).tolist() or not in_pieces((text,), vocabulary), "of letters, gaps may leave a little"
            columns = columns_of(text, vocabulary)
            assert columns is not None
            assert text_of(columns, vocabulary) == text
            assert frames_needed(columns) <= frames, "some row of so many frames writes it"
        assert Silence().reached(heard_as(rows, vocabulary)).tolist() == [not one for one in every]


def test_a_text_that_does_not_fit_is_told_with_the_longest_part_that_does() -> None:
    clip = heard_as(torch.zeros(1, 2, dtype=torch.int64), MIXED)
    assert Transcribe("the").impossible(clip) == [None]
    (why,) = Transcribe("theth").impossible(clip)
    assert why is not None
    assert "needs 3 frames, but the clip has 2. The longest part that fits is 'the'" in why
    (why,) = Transcribe("the cat sat").impossible(heard_as(torch.zeros(1, 2, dtype=torch.int64), WORDS))
    assert why is not None
    assert "The longest part that fits is 'the cat'" in why


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("the dog", r"does not write 'd', 'g'\. Use its pieces only \(' a', ' cat'"),
        ("thecat", "does not write 'ecat'|does not write 'cat'"),
    ],
)
def test_what_cannot_be_written_in_pieces_is_told(text: str, why: str) -> None:
    for goal in (Transcribe(text), Mistranscribe(text)):
        with pytest.raises(UnusableTarget, match=why):
            check_spelt(goal, WORDS)
    check_spelt(Transcribe("the cats sat on a mat"), WORDS)


def test_what_is_spelt_one_way_and_heard_another_can_be_let_go() -> None:
    """'the' is th and e in the fewest frames; of t, h and e there is a slope nevertheless."""
    rows = torch.tensor([[3, 4, 2, 0]])
    heard = heard_as(rows, MIXED)
    assert columns_of("the", MIXED) == (1, 2)
    assert columns_of("the", MIXED, frozenset({3, 4, 2})) == (3, 4, 2)
    scores = heard.log_probs.clone().requires_grad_()
    said = Emissions(scores, heard.frames, MIXED)
    (slope,) = torch.autograd.grad(Mistranscribe("the").loss(said).sum(), scores)
    assert slope[0, :3].abs().amax(1).gt(0).all()
    assert Transcribe("the").margin(said).item() == 0
    short = heard_as(torch.tensor([[3, 4]]), MIXED)  # t, h, and no room for e
    assert Transcribe("the").margin(short).isfinite().all()


def listen_for_words(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    weights = torch.randn(320, len(WORDS), generator=torch.Generator().manual_seed(0))
    scores = waveforms[:, : waveforms.shape[1] // 320 * 320].unflatten(1, (-1, 320)) @ weights
    return scores.log_softmax(-1), lengths // 320


def test_a_model_that_writes_pieces_is_brought_to_a_text_and_away_from_one() -> None:
    model = aa.Recogniser(listen_for_words, 16000, WORDS)
    clip = aa.Clip("hiss", 0.02 * torch.randn(3200, generator=torch.Generator().manual_seed(1)), 16000)
    found = aa.craft(model, [clip], aa.Transcribe("the cats sat on a mat"), bound=aa.SNR(0), steps=100)
    assert found.reached == [True]
    heard = model.transcribe(found.adversarial[0][None], torch.tensor([3200]))
    assert heard == ["the cats sat on a mat"]
    said = model.transcribe(clip.samples[None], torch.tensor([3200]))
    assert " " in said[0]
    assert aa.craft(model, [clip], aa.Mistranscribe(said, 1.0), bound=aa.SNR(10), steps=50).reached == [True]


def test_marks_of_several_letters_change_nothing_for_a_model_of_letters() -> None:
    marked = ("", " ", "a", "b", "<unk>")
    rows = torch.cartesian_prod(*[torch.arange(5)] * 4)
    heard = heard_as(rows, marked)
    assert Transcribe("a b").reached(heard).tolist() == [one == "a b" for one in transcripts(heard.log_probs, heard.frames, marked)]
    with pytest.raises(UnusableTarget, match=r"only \(ab<unk> and space\), with numbers"):
        check_spelt(Transcribe("a c"), marked)
    assert {columns_of("".join(text), marked) for text in itertools.product("ab", repeat=2)} == {(2, 2), (2, 3), (3, 2), (3, 3)}


@pytest.mark.parametrize("vocabulary", [MIXED, GAPS, ("", "ab", "a", "b"), ("", " ", "a", "b ", "ba"), ("", "a", "b", "ab ")])
def test_of_all_spellings_it_is_the_one_of_the_fewest_frames_then_the_first(vocabulary: tuple[str, ...]) -> None:
    """Against all rows of up to four columns, but those that write as much without one of theirs."""
    every = [row for count in (1, 2, 3, 4) for row in itertools.product(range(1, len(vocabulary)), repeat=count)]
    spelt: dict[str, list[tuple[int, ...]]] = {}
    for row in every:
        text = text_of(row, vocabulary)
        if text not in {text_of(row[:place] + row[place + 1 :], vocabulary) for place in range(len(row))}:
            spelt.setdefault(text, []).append(row)
    short = {text: rows for text, rows in spelt.items() if 0 < len(text) <= 3}
    assert len(short) > 5
    for text, rows in short.items():
        assert columns_of(text, vocabulary) == min(rows, key=lambda row: (frames_needed(row), row))


def test_what_does_not_fit_is_told_in_full() -> None:
    assert too_long("thth", 3, MIXED) is None  # th, a blank, th
    told = too_long("thth", 2, MIXED)
    assert told is not None
    assert told.startswith("The target needs 3 frames, but the clip has 2. The longest part that fits is 'tht':")
    assert "The longest part that fits is 'tee':" in str(too_long("teee", 5, MIXED))
    assert "The longest part that fits is 'the cats':" in str(too_long("the cats sat", 3, WORDS))
    assert "No part of it fits: shorten" in str(too_long("the", 0, MIXED))
    assert too_long("dog", 1, MIXED) is None, "what cannot be written at all is told elsewhere"

"""Goals: what the model should be brought to say. A goal judges outputs; it never sees inputs.

loss      falls as the outputs near the goal; smooth from afar
margin    at most 0 only where the goal is reached, and exact near by: a text's is its cheapest alignment's, so that spaces that a
          transcript may begin or end with, and the mean over alignments, can leave a little where it is heard
reached   whether it is
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Protocol, Self, final

import torch
from torch import Tensor

from audioadv.errors import OptionError, UnusableBatch, UnusableTarget
from audioadv.models.abstention import abstained
from audioadv.models.decoding import kept, leaders, text_of, writes_exactly
from audioadv.models.recogniser import Emissions
from audioadv.options import is_number
from audioadv.threat.ctc import alignment, fits, frames_needed, likelihood_loss, margins
from audioadv.threat.joined import Joins
from audioadv.threat.projections import sum_of
from audioadv.threat.spelling import columns_of, in_pieces, too_long
from audioadv.threat.words import plain_words, words_wrong

USUAL_ERRORS = 0.5  # words wrong, for each word said: a clip that is half misheard
LOST = 1.0  # nats: a letter that is so far behind is not heard
SHOWN = 40  # pieces of a model, in a message
NOT_AS = "not: "  # what a goal's text begins with, where the rest is not to be heard: result lines say so too


class Goal(Protocol):
    """What the model should be brought to say, for each example."""

    def loss(self, outputs: Any) -> Tensor:
        """Shapes: -> [batch]."""
        ...

    def margin(self, outputs: Any, slack: float | Tensor = 0.0) -> Tensor:
        """Shapes: -> [batch]. With `slack` (one number, or [batch]), at most zero only where the goal is reached by that much."""
        ...

    def reached(self, outputs: Any) -> Tensor:
        """Shapes: -> bool [batch]."""
        ...

    def lack(self, outputs: Any) -> Tensor:
        """What is missing, as one goal of several (`joined.py`). Shapes: -> [batch]."""
        ...

    def rows(self, index: Tensor) -> Self:
        """The goal of some of the examples."""
        ...

    def impossible(self, outputs: Any) -> list[str | None]:
        """Why an example can never reach the goal, judged by the form of its outputs; None where it may."""
        ...

    def __str__(self) -> str:
        """What is wanted, in words; one text where it is the same for all."""
        ...


class Spelling(NamedTuple):
    """Texts as output columns. Shapes: columns [texts, longest], lengths [texts]."""

    columns: Tensor
    lengths: Tensor
    blank: int


@lru_cache(maxsize=256)
def spell(texts: tuple[str, ...], vocabulary: tuple[str, ...], device: torch.device) -> Spelling:
    """The columns that spell each text (`spelling.py`). Raises UnusableTarget for one that the model cannot write."""
    rows = [columns_of(text, vocabulary) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if row is None:
            raise UnusableTarget(unwritten(text, vocabulary))
    return in_rows([row for row in rows if row is not None], vocabulary, device)


def spell_as_heard(texts: tuple[str, ...], outputs: Emissions) -> Spelling:
    """As `spell`, for each clip in the pieces that lead in it: all of them where they write the text, else as many as fit."""
    plain, vocabulary = spell(texts, outputs.vocabulary, outputs.log_probs.device), outputs.vocabulary
    if not in_pieces(texts, vocabulary):
        return plain
    best, frames = outputs.log_probs.argmax(-1), outputs.frames.tolist()
    keep, rows = kept(best, outputs.frames, plain.blank), list[Sequence[int]]()
    for row, (text, count) in enumerate(zip(texts, frames, strict=True)):
        own = best[row][keep[row]].tolist()
        near = own if text_of(own, vocabulary) == text else columns_of(text, vocabulary, frozenset(own)) or ()
        rows.append(near if frames_needed(near) <= count else plain.columns[row, : plain.lengths[row]].tolist())
    return in_rows(rows, vocabulary, outputs.log_probs.device)


def in_rows(rows: Sequence[Sequence[int]], vocabulary: tuple[str, ...], device: torch.device) -> Spelling:
    """Columns, a row a text, as tensors."""
    columns = torch.nn.utils.rnn.pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], batch_first=True).to(device)
    return Spelling(columns, torch.tensor([len(row) for row in rows], device=device), vocabulary.index(""))


def unwritten(text: str, vocabulary: tuple[str, ...]) -> str:
    """What of a text a model does not write, and what it writes."""
    pieces = sorted({piece for piece in vocabulary if piece.strip()}, key=lambda piece: (not piece.strip().isalpha(), piece))
    gap = " and space" if " " in vocabulary else ""
    if not any(len(piece) > 1 and piece.strip(" '").isalpha() for piece in pieces):  # but for marks such as <unk>
        what, known, numbers = sorted({*text} - {*vocabulary}), f"letters only ({''.join(pieces)}{gap})", ", with numbers spelt out"
    else:
        begun = max(end for end in range(len(text)) if columns_of(text[:end], vocabulary) is not None)
        shown = ", ".join(map(repr, pieces[:SHOWN])) + (", ..." if len(pieces) > SHOWN else "")
        what, known, numbers = sorted({*text} - {*"".join(vocabulary)}) or [text[begun:]], f"pieces only ({shown}{gap})", ""
    return f"text {text!r}: the model does not write {', '.join(map(repr, what))}. Use its {known}{numbers}"


def as_texts(texts: str | Sequence[str]) -> tuple[str, ...]:
    """Lower case, single spaces. Raises UnusableTarget for what is no text."""
    several = [texts] if isinstance(texts, str) or not isinstance(texts, Iterable) else [*texts]
    if not all(isinstance(text, str) for text in several):
        raise UnusableTarget(f"target {texts!r}: not a text. Give one, or a list with one for each clip: ['open the door', 'stop']")
    return tuple(" ".join(text.lower().split()) for text in several)


def as_emissions(outputs: object) -> Emissions:
    """A recogniser's outputs. Raises UnusableBatch for what is none: a classifier's scores, or log-probabilities as they are."""
    if not isinstance(outputs, Emissions):
        raise UnusableBatch(
            f"outputs of type {type(outputs).__name__}: a goal of texts takes a recogniser's. Wrap a model of one's own, "
            "Recogniser(model, sample_rate, vocabulary), or give a classifier a goal of labels, Classify(5)"
        )
    return outputs


def for_each(texts: tuple[str, ...], count: int) -> tuple[str, ...]:
    """One text for each of so many clips: where there is one, it is all clips'."""
    return texts * count if len(texts) == 1 else texts


def for_clips(texts: tuple[str, ...], outputs: object) -> tuple[str, ...]:
    """One text for each clip that these outputs are of. Raises UnusableBatch for what is no recogniser's."""
    return for_each(texts, len(as_emissions(outputs).frames))


def letters_wrong(text: str, heard: str) -> int:
    """Letters to be put in, left out or replaced to turn one text into the other: Levenshtein's distance.

    >>> letters_wrong("stop", "top it")
    4
    """
    import jiwer

    counts = jiwer.process_characters(text, heard)
    return counts.substitutions + counts.insertions + counts.deletions


def ctc_margin(outputs: Emissions, spelling: Spelling, slack: float | Tensor) -> Tensor:
    """The squared margin along the cheapest alignments, summed over frames (`threat/ctc.py`); infinite where there is none, in too few.

    Shapes: -> [batch], at least 0.
    """
    costs = (margins(outputs.log_probs) + (slack[:, None, None] if isinstance(slack, Tensor) else slack)).clamp_min(0)
    share = alignment(costs, outputs.frames, spelling.columns, spelling.lengths, spelling.blank)
    possible = fits(outputs.frames, spelling.columns, spelling.lengths)
    return torch.where(possible, sum_of((costs * share).sum(2).square()), math.inf)


def writes(outputs: Emissions, spelling: Spelling, texts: tuple[str, ...]) -> Tensor:
    """Whether each clip is heard as its text, by vote where the model has one: letter by letter, or in whatever pieces.

    Shapes: -> bool [batch].
    """
    if outputs.voted is None and not in_pieces(texts, outputs.vocabulary):
        gap = outputs.vocabulary.index(" ") if " " in outputs.vocabulary else -1
        return writes_exactly(outputs.log_probs, outputs.frames, *spelling, gap)
    heard = outputs.transcripts()
    wanted = for_each(texts, len(heard))
    said = torch.tensor([own == text for own, text in zip(heard, wanted, strict=True)], device=outputs.log_probs.device)
    sure = ~abstained(outputs)
    return said & (sure if outputs.voted is not None else sure & leaders(outputs.log_probs, outputs.frames)[1].all(1))


def ctc_hold(outputs: Emissions, spelling: Spelling) -> Tensor:
    """How firmly a text is still heard: how far its letters lead along its best alignments, mean over frames (nats).

    A frame that is lost by `LOST` counts no more, so that the slope goes on to those that hold; the likelihood, which falls
    without end where one letter is ruled out, stays with that letter. Shapes: -> [batch].
    """
    behind = margins(outputs.log_probs)
    share = alignment(behind.clamp_min(0), outputs.frames, spelling.columns, spelling.lengths, spelling.blank)
    return -sum_of((behind * share).sum(2).clamp_max(LOST)) / outputs.frames


@final
@dataclass(frozen=True)
class Transcribe(Joins):
    """To be heard as these texts: one for all clips, or one for each. Raises UnusableTarget for an empty one.

    >>> Transcribe("Open the  door").texts
    ('open the door',)
    """

    texts: tuple[str, ...]

    def __init__(self, texts: str | Sequence[str]) -> None:
        object.__setattr__(self, "texts", as_texts(texts))
        if not self.texts or not all(self.texts):
            raise UnusableTarget(
                "target '': there is nothing to be heard as. Give a phrase, or take Silence() (--silence) to be heard as nothing"
            )

    def loss(self, outputs: Emissions) -> Tensor:
        columns, lengths, blank = self.spelt(outputs)
        return likelihood_loss(outputs.log_probs, outputs.frames, columns, lengths, blank)

    def margin(self, outputs: Emissions, slack: float | Tensor = 0.0) -> Tensor:
        return ctc_margin(outputs, spell_as_heard(for_clips(self.texts, outputs), outputs), slack)

    def reached(self, outputs: Emissions) -> Tensor:
        return writes(outputs, self.spelt(outputs), self.texts)

    def apart(self, outputs: Emissions) -> Tensor:
        """How many letters of each transcript are wrong: what a search by transcripts alone goes by. Shapes: -> [batch]."""
        texts = for_clips(self.texts, outputs)
        return outputs.log_probs.new_tensor([letters_wrong(text, got) for text, got in zip(texts, outputs.transcripts(), strict=True)])

    def spelt(self, outputs: Emissions) -> Spelling:
        """The texts as columns, one row a clip."""
        return spell(for_clips(self.texts, outputs), outputs.vocabulary, outputs.log_probs.device)

    def impossible(self, outputs: Emissions) -> list[str | None]:
        texts = for_clips(self.texts, outputs)
        return [too_long(text, frames, outputs.vocabulary) for text, frames in zip(texts, outputs.frames.tolist(), strict=True)]

    def __str__(self) -> str:
        return " | ".join(self.texts)

    def rows(self, index: Tensor) -> "Transcribe":
        return self if len(self.texts) == 1 else Transcribe([self.texts[i] for i in index.tolist()])


@final
@dataclass(frozen=True)
class Silence(Joins):
    """To be heard as nothing at all."""

    texts: ClassVar = ("",)

    def loss(self, outputs: Emissions) -> Tensor:
        nothing = self.nothing(outputs)
        return likelihood_loss(outputs.log_probs, outputs.frames, *nothing)

    def margin(self, outputs: Emissions, slack: float | Tensor = 0.0) -> Tensor:
        return ctc_margin(outputs, self.nothing(outputs), slack)

    def reached(self, outputs: Emissions) -> Tensor:
        return writes(outputs, self.nothing(outputs), ("",))

    def apart(self, outputs: Emissions) -> Tensor:
        """How many letters are heard. Shapes: -> [batch]."""
        heard = as_emissions(outputs).transcripts()
        return outputs.log_probs.new_tensor([len(text) for text in heard])

    @staticmethod
    def nothing(outputs: Emissions) -> Spelling:
        """The empty text for every clip."""
        return spell(for_clips(("",), outputs), outputs.vocabulary, outputs.log_probs.device)

    def impossible(self, outputs: Emissions) -> list[str | None]:
        return [None] * len(as_emissions(outputs).frames)

    def __str__(self) -> str:
        return ""

    def rows(self, index: Tensor) -> "Silence":
        return self


@final
@dataclass(frozen=True)
class Mistranscribe(Joins):
    """To be heard as anything but the reference: at least `errors` words wrong for each word that was said.

    The word error rate counts substitutions, insertions and deletions, so that it can pass 1. A model that abstains has
    misheard nothing. Raises UnusableTarget for an empty reference, OptionError for a share of errors that is not above 0.
    """

    references: tuple[str, ...]
    errors: float = USUAL_ERRORS

    def __init__(self, references: str | Sequence[str], errors: float = USUAL_ERRORS) -> None:
        object.__setattr__(self, "references", as_texts(references))
        object.__setattr__(self, "errors", errors)
        if not self.references or not all(map(plain_words, self.references)):
            empty = next((text for text in self.references if not plain_words(text)), "")
            raise UnusableTarget(f"reference {empty!r}: there is nothing to mishear. Give what was said in the clip")
        if not is_number(errors) or errors <= 0:
            raise OptionError(f"errors {errors!r}: how many words wrong, for each word said? Give a share above 0, for example 0.5")

    @property
    def texts(self) -> tuple[str, ...]:
        """What it is about, as for the other goals of texts: the references."""
        return self.references

    def loss(self, outputs: Emissions) -> Tensor:
        return ctc_hold(outputs, spell_as_heard(for_clips(self.references, outputs), outputs))

    def cost(self, outputs: Emissions) -> Tensor:
        """The CTC loss of the references, a letter: what a model learns that is to resist. Shapes: -> [batch]."""
        texts = for_clips(self.references, outputs)
        columns, lengths, blank = spell(texts, outputs.vocabulary, outputs.log_probs.device)
        return likelihood_loss(outputs.log_probs, outputs.frames, columns, lengths, blank) / lengths

    def margin(self, outputs: Emissions, slack: float | Tensor = 0.0) -> Tensor:
        return self.loss(outputs)  # word errors have no exact margin: more of the text is let go

    def reached(self, outputs: Emissions) -> Tensor:
        return self.apart(outputs) <= 0

    def apart(self, outputs: Emissions) -> Tensor:
        """What each word error rate is short of. Shapes: -> [batch]."""
        pairs = [words_wrong(said, text) for said, text in zip(for_clips(self.references, outputs), outputs.transcripts(), strict=True)]
        short = torch.tensor([self.errors - wrong / words for wrong, words in pairs], dtype=torch.float64, device=outputs.log_probs.device)
        return short.masked_fill(abstained(outputs), torch.inf)

    def impossible(self, outputs: Emissions) -> list[str | None]:
        return [None] * len(as_emissions(outputs).frames)

    def __str__(self) -> str:
        return NOT_AS + " | ".join(self.references)

    def rows(self, index: Tensor) -> "Mistranscribe":
        return self if len(self.references) == 1 else Mistranscribe([self.references[i] for i in index.tolist()], self.errors)


TextGoal = Transcribe | Silence | Mistranscribe


def said(text: str | None, target: str | None) -> str | None:
    """What is said in a clip, as far as a result or a line of a manifest tells: its text, or else what it is not to be heard as.

    >>> said(None, "not: stop the car")
    'stop the car'
    """
    return target.removeprefix(NOT_AS) if not text and target is not None and target.startswith(NOT_AS) else text


def check_spelt(goal: TextGoal, vocabulary: Sequence[str]) -> None:
    """Raises UnusableTarget for texts that a recogniser with these letters never writes."""
    spell(goal.texts, tuple(vocabulary), torch.device("cpu"))

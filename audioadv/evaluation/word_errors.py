"""Word error rate of a recogniser over many clips, with an interval over clips.

Conventions: (substitutions + deletions + insertions) / words said, all clips together, so that long clips weigh more. Text
is compared in lower case, without punctuation but the apostrophe. The interval is the middle 95 % of rates of clips drawn anew
with replacement, since errors within a clip go together.

Source: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation".
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import jiwer
import torch

RESAMPLES = 1000


@final
@dataclass(frozen=True)
class WordErrorRate:
    """`value` with its 95 % interval; 0.1 is a word in ten. `clips` with at least one word have part in it."""

    value: float
    low: float
    high: float
    clips: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % ({100 * self.low:.1f} .. {100 * self.high:.1f})"


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> WordErrorRate | None:
    """Over pairs of texts; None where nothing was said at all. Same texts, same interval.

    >>> print(word_error_rate(["Stop the car!", "call me"], ["stop the car", "fall me"]))
    20.0 % (0.0 .. 50.0)
    """
    pairs = [(plain_words(a), plain_words(b)) for a, b in zip(said, heard, strict=True)]
    counts = torch.tensor([count_errors(a, b) for a, b in pairs if a], dtype=torch.float64)
    if not len(counts):
        return None
    errors, words = counts.sum(0).tolist()
    drawn = torch.randint(len(counts), (RESAMPLES, len(counts)), generator=torch.Generator().manual_seed(0))
    sums = counts[drawn].sum(1)
    low, high = torch.quantile(sums[:, 0] / sums[:, 1], torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return WordErrorRate(errors / words, low, high, len(counts))


def count_errors(said: str, heard: str) -> tuple[int, int]:
    """Wrong words, and words said. `said` holds at least one."""
    found = jiwer.process_words(said, heard)
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, found.hits + found.substitutions + found.deletions


def plain_words(text: str) -> str:
    """Lower case, single spaces, no punctuation but the apostrophe within a word.

    >>> plain_words("It's a well-known  'trick', Sir!")
    "it's a well known trick sir"
    """
    letters = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    spaced = "".join(" " if unicodedata.category(letter)[0] in "PS" and letter != "'" else letter for letter in letters)
    return " ".join(word for word in (part.strip("'") for part in spaced.split()) if word)

"""Word errors of a whole set of clips, with their interval.

Sources: Bisani and Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation": words of one clip
are wrong together, so that clips are drawn again, not words. Clips that are all alike have nothing to draw, and tell no spread: of
these, and of one clip, the interval is Wilson's (`rates.wilson`) with as many trials as there are clips. That is as wide as it can be:
no rates between 0 and 1 of one mean spread more than those of clips that are wholly right or wholly wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch

from audioadv.evaluation.rates import wilson
from audioadv.threat.words import words_wrong

BOOTSTRAPS: Final = 2000


@final
@dataclass(frozen=True)
class WordErrors:
    """Words wrong (put in, left out or replaced) and words said, clip by clip. Their ratio passes 1 where more is heard than was said.

    The rate is that of all words together, so that long clips weigh more.

    >>> print(WordErrors.of(["stop the car"] * 20, ["stop the car"] * 15 + ["stop car"] * 5))
    WER 8.3 % (5 of 60 words in 20 clips, 1.7 .. 15.0)
    """

    wrong: tuple[int, ...]
    words: tuple[int, ...]

    @staticmethod
    def of(references: Sequence[str], heard: Sequence[str]) -> "WordErrors":
        """What of the references was misheard. A reference has a word at least."""
        pairs = [words_wrong(said, own) for said, own in zip(references, heard, strict=True)]
        return WordErrors(tuple(wrong for wrong, _ in pairs), tuple(words for _, words in pairs))

    @property
    def rates(self) -> tuple[float, ...]:
        """Each clip's own word error rate."""
        return tuple(wrong / words for wrong, words in zip(self.wrong, self.words, strict=True))

    @property
    def value(self) -> float:
        """All words wrong over all words said; not a number for none."""
        return sum(self.wrong) / sum(self.words) if self.words else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The middle 95 % of rates over sets of as many clips, drawn from these with replacement (always the same draws).

        Of clips with one rate, which are the same however they are drawn, Wilson's with a trial a clip; in units of the rate where that
        passes 1.

        >>> [round(end, 3) for end in WordErrors((0,) * 5, (3,) * 5).interval]
        [0.0, 0.434]
        """
        if not self.words:
            return 0.0, float("inf")
        if len(set(self.rates)) == 1:
            count, most = len(self.words), max(1.0, self.rates[0])
            low, high = wilson(count * (self.rates[0] / most), count)
            return most * low, most * high
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(self.words), (BOOTSTRAPS, len(self.words)), generator=generator)
        wrong, words = (torch.tensor(counts, dtype=torch.float64)[drawn].sum(1) for counts in (self.wrong, self.words))
        low, high = (wrong / words).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        return low, high

    def __str__(self) -> str:
        low, high = self.interval
        clips = f"{sum(self.wrong)} of {sum(self.words)} words in {len(self.words)} clips"
        return f"WER {100 * self.value:.1f} % ({clips}, {100 * low:.1f} .. {100 * high:.1f})"

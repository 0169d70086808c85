"""ROVER: many transcripts of one clip, voted into one.

    the cat sat           the  cat  sat  @        each column holds one word a transcript;
    the bat sat      ->   the  bat  sat  @        @ is no word, and may win
    a cat sat down        a    cat  sat  down     ->  the cat sat

Transcripts are aligned one after another with the columns of those before, by dynamic programming.

Source: Fiscus 1997, "A post-processing system to yield reduced word error rates: recognizer output voting error reduction
(ROVER)": alignment, and voting with alpha and the confidence of no word.
"""

from collections.abc import Sequence

from audioadv.errors import OptionError
from audioadv.options import is_number

NULL = ""  # @ in the paper
SUBSTITUTION, GAP = 4, 3  # costs, as in NIST's scoring

Arc = tuple[str, float]
"""A word, and how sure its transcript is of it."""


def rover(
    transcripts: Sequence[str], confidences: Sequence[Sequence[float]] | None = None, *, alpha: float = 1.0, null: float = 0.0
) -> str:
    """The transcript that the others elect, word by word.

    A word's score is alpha times its share of the transcripts plus (1 - alpha) times its mean confidence. `confidences` has one
    number in 0..1 for each word of each transcript; `null` is that of no word. Of equals, the word of the earliest
    transcript wins. Raises OptionError for no transcript, one without a list around it, or numbers that do not fit.

    >>> rover(["the cat sat", "the bat sat", "a cat sat down"])
    'the cat sat'
    """
    if isinstance(transcripts, str):
        raise OptionError(f"transcripts {transcripts!r:.60}: one text, and no vote. Give several, for example ['the cat', 'a cat']")
    for number, text in enumerate(transcripts):
        if not isinstance(text, str):
            raise OptionError(f"transcript {number} is a {type(text).__name__}: give texts, and leave out what heard nothing")
    said = [text.split() for text in transcripts]
    sure = [[1.0] * len(words) for words in said] if confidences is None else confidences
    if not said or not is_number(alpha) or not 0 <= alpha <= 1 or [len(words) for words in said] != [len(own) for own in sure]:
        wish = "give one transcript at least, an alpha in 0..1, and a confidence for each word or for none"
        raise OptionError(f"{len(said)} transcripts, alpha {alpha!r}: {wish}")
    if strange := [one for one in [null, *(one for own in sure for one in own)] if not 0 <= one <= 1]:
        raise OptionError(f"confidence {strange[0]:g}: that of a word, or of no word, lies in 0..1. Scale them first")
    columns: list[list[Arc]] = []
    for voters, (words, own) in enumerate(zip(said, sure, strict=True)):
        columns = joined(columns, list(zip(words, own, strict=True)), voters, null)
    return " ".join(filter(None, (elected(column, alpha) for column in columns)))


def elected(column: Sequence[Arc], alpha: float) -> str:
    """The word of a column with the highest score; the earliest of equals."""

    def score(word: str) -> float:
        votes = [sure for other, sure in column if other == word]
        return alpha * len(votes) / len(column) + (1 - alpha) * sum(votes) / len(votes)

    return max(dict.fromkeys(word for word, _ in column), key=score)


def joined(columns: list[list[Arc]], arcs: list[Arc], voters: int, null: float) -> list[list[Arc]]:
    """The columns of `voters` transcripts with one more, along the cheapest alignment.

    A word costs nothing in a column that holds it, and no word nothing where another transcript has none.
    """
    wide, long, nobody = len(columns), len(arcs), (NULL, null)
    words = [{word for word, _ in column} for column in columns]
    skip = [0 if NULL in held else GAP for held in words]
    costs = [[GAP * place for place in range(long + 1)]]
    for held, gap in zip(words, skip, strict=True):
        above, row = costs[-1], [costs[-1][0] + gap]
        for place, (word, _) in enumerate(arcs):
            row.append(min(above[place] + SUBSTITUTION * (word not in held), above[place + 1] + gap, row[place] + GAP))
        costs.append(row)
    backwards: list[list[Arc]] = []
    while wide or long:
        here = costs[wide][long]
        if wide and long and here == costs[wide - 1][long - 1] + SUBSTITUTION * (arcs[long - 1][0] not in words[wide - 1]):
            wide, long = wide - 1, long - 1
            backwards.append([*columns[wide], arcs[long]])
        elif wide and here == costs[wide - 1][long] + skip[wide - 1]:
            wide -= 1
            backwards.append([*columns[wide], nobody])
        else:
            long -= 1
            backwards.append([*[nobody] * voters, arcs[long]])
    return backwards[::-1]

"""Everyday English sentences drawn from the plain-text grammar ``everyday.txt``.

A file of categories: ``[name]`` opens one, and the lines below it hold its entries, parted by
commas. ``[name one many]`` opens parallel categories ``name.one`` and ``name.many``, whose
entries are written ``cat/cats``. ``{name}`` inside an entry stands for a random entry of that
category, and a leading ``{3}`` makes an entry three times as likely. ``[sentence]`` is the root.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path

import click

GRAMMAR = Path(__file__).with_suffix(".txt")
HOLE = re.compile(r"\{([^}]+)\}")
WEIGHT = re.compile(r"\{(\d+)\} *")
# "a" before a vowel sound: spelling tells, but for a silent h and for vowels said "you" or "won".
ARTICLE = re.compile(r"\ba (?=[aeiou]|hour|honest)(?!uni[^mn]|use|usu|eu|uk|one\b|once\b)")
COMMON = 0.45  # of the words of a category, the first of which are the commonest, this share is used, but 12 at least
LENGTHS = range(2, 13)  # words in a sentence of the grammar
LOOSE_LENGTHS = range(3, 8)  # words in a row of random words


@dataclass(frozen=True)
class Grammar:
    """``entries[category]`` are the phrases it may become; a heavier phrase is repeated."""

    entries: dict[str, tuple[str, ...]]


def read_grammar(path: Path = GRAMMAR) -> Grammar:
    """Read a grammar file; a hole that names no category is a ``ValueError``."""
    found: dict[str, list[str]] = {}
    keys: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            name, *columns = line.strip("[] ").split()
            keys = [f"{name}.{column}" for column in columns] or [name]
        elif line and not line.startswith("#"):
            for entry in filter(None, map(str.strip, line.split(","))):
                weight = WEIGHT.match(entry)
                forms = WEIGHT.sub("", entry).split("/")
                for key, form in zip(keys, forms, strict=True):
                    found.setdefault(key, []).extend([form] * int(weight[1] if weight else 1))
    holes = {hole for phrases in found.values() for phrase in phrases for hole in HOLE.findall(phrase)}
    if missing := holes - found.keys():
        raise ValueError(f"{path.name}: no such category: {sorted(missing)}")
    return Grammar({key: tuple(phrases if any("{" in phrase for phrase in phrases) else common(phrases)) for key, phrases in found.items()})


def common(phrases: list[str]) -> list[str]:
    """The commoner part of a category without holes."""
    return phrases[: max(12, round(COMMON * len(phrases)))]


def vocabulary(grammar: Grammar) -> list[str]:
    """All distinct words, sorted, with "an" but without those glued to a hole, as ``{name}'s``."""
    words = {word for group in grammar.entries.values() for phrase in group for word in phrase.split()}
    return sorted({word for word in words if "{" not in word} | {"an"})


def zipf(count: int, rng: random.Random) -> int:
    """A place from 0 to count - 1, drawn with a density that falls as 1 / (place + 8)."""
    return min(count - 1, int(8 * ((count + 8) / 8) ** rng.random() - 8))


def sentence(grammar: Grammar, rng: random.Random) -> str:
    """One lower-case sentence of 2 to 12 words over a-z, space and apostrophe."""

    def fill(hole: re.Match[str]) -> str:
        phrases = grammar.entries[hole[1]]
        # Words are as unequal as in speech: the n-th of a category comes up about 1 / (n + 8) of the time (Zipf's law).
        place = rng.choice(phrases) if hole[1] == "sentence" else phrases[zipf(len(phrases), rng)]
        return HOLE.sub(fill, place)

    while True:
        text = HOLE.sub(fill, "{sentence}")
        if len(text.split()) in LENGTHS:
            return ARTICLE.sub("an ", text)


def sentences(count: int, seed: int, loose: float = 0.15) -> list[str]:
    """``count`` distinct sentences, the same for the same seed.

    About a share ``loose`` (0 to 1) of them are 3 to 7 random words, all words equally likely,
    so that a recogniser learns sounds rather than templates and every word gets spoken.
    """
    grammar = read_grammar()
    words = vocabulary(grammar)
    rng = random.Random(seed)
    drawn: dict[str, None] = {}  # a set that keeps its order
    while len(drawn) < count:
        if rng.random() < loose:
            drawn[" ".join(rng.choices(words, k=rng.choice(LOOSE_LENGTHS)))] = None
        else:
            drawn[sentence(grammar, rng)] = None
    return list(drawn)


def held_out(count: int) -> list[str]:
    """Grammatical sentences that are kept for the test. No more than 1,000 are."""
    return sentences(count, seed=9, loose=0.0)


@click.command()
@click.option("--count", default=20, show_default=True, help="How many sentences.")
@click.option("--seed", default=0, show_default=True, help="Seed of the random draws.")
def main(count: int, seed: int) -> None:
    """Print distinct everyday sentences, one per line."""
    click.echo("\n".join(sentences(count, seed)))


if __name__ == "__main__":
    main()

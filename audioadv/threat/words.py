"""Words, and how many of them are misheard: what a goal, an evaluation and a report mean by a word error.

Text is compared in lower case, without punctuation but the apostrophe.
"""

import unicodedata
from functools import lru_cache


def words_wrong(said: str, heard: str) -> tuple[int, int]:
    """Words put in, left out or replaced, and words said. What is said has a word at least.

    >>> words_wrong("stop the car", "Stop, car!"), words_wrong("well-known", "well known")
    ((1, 3), (0, 2))
    """
    import jiwer

    said = plain_words(said)
    pair = jiwer.process_words(said, plain_words(heard))
    return pair.substitutions + pair.insertions + pair.deletions, len(said.split())


@lru_cache(maxsize=1024)
def plain_words(text: str) -> str:
    """Lower case, single spaces, no punctuation but the apostrophe within a word.

    >>> plain_words("It's a well-known  'trick', Sir!")
    "it's a well known trick sir"
    """
    letters = text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    spaced = "".join(" " if unicodedata.category(letter)[0] in "PS" and letter != "'" else letter for letter in letters)
    return " ".join(word for word in (part.strip("'") for part in spaced.split()) if word)

"""Texts as output columns, of letters or of longer pieces: which columns write a text.

    the cat  =  | the| cat|       a gap that stands at an end, or twice between words, is not heard,
                |the|" "|c|at|    so that pieces which bring their own gap fit anywhere

Of all the ways the one that needs the fewest frames under CTC, then the one of the first columns: always the same.
"""

from functools import lru_cache

from audioadv.threat.ctc import frames_needed


@lru_cache(maxsize=64)
def places(vocabulary: tuple[str, ...]) -> tuple[dict[str, int], int]:
    """The column of each piece, and how many letters the longest has."""
    return {piece: place for place, piece in enumerate(vocabulary) if piece}, max(map(len, vocabulary))


@lru_cache(maxsize=256)
def in_pieces(texts: tuple[str, ...], vocabulary: tuple[str, ...]) -> bool:
    """Whether some piece of several letters could be part of a text, which then has more than one spelling perhaps."""
    return any(len(piece) > 1 and piece in f" {text} " for piece in {*vocabulary} for text in texts)


def columns_of(text: str, vocabulary: tuple[str, ...], heard: frozenset[int] = frozenset()) -> tuple[int, ...] | None:
    """The columns that write a text in the fewest frames; None where none do. Of letters alone, its letters.

    What can be written with columns that are `heard` is, whatever it takes.

    >>> columns_of("the cat", ("", " the", " cat", "t", "h", "e")), columns_of("thee", ("", "t", "h", "e")), columns_of("a", ("", "b"))
    ((1, 2), (1, 2, 3, 3), None)
    """
    column, longest = places(vocabulary)
    if not in_pieces((text,), vocabulary):
        return tuple(column[letter] for letter in text) if {*text} <= column.keys() else None
    spaced, start = f" {text} ", (0, 0, ())
    ways: list[dict[int, tuple[int, int, tuple[int, ...]]]] = [{} for _ in range(len(spaced) + 1)]  # to each letter, by the last column
    ways[1][-1] = start
    for here in range(1, len(spaced)):
        begins = (here, here - 1) if spaced[here - 1] == " " else (here,)  # a gap may be written again
        for begin in begins if ways[here] else ():
            for end in range(here + 1, min(begin + longest, len(spaced)) + 1):
                if (own := column.get(spaced[begin:end])) is None:
                    continue
                unheard = 0 if own in heard else min(end, len(text) + 1) - here  # a gap at the end is no letter
                for last, (strange, frames, so_far) in ways[here].items():
                    way = strange + unheard, frames + 1 + (own == last), (*so_far, own)
                    ways[end][own] = min(way, ways[end].get(own, way))
    ended = [way for there in ways[len(text) + 1 :] for way in there.values()]
    return min(ended)[2] if ended else None


def too_long(text: str, frames: int, vocabulary: tuple[str, ...]) -> str | None:
    """Why a text does not fit so many frames, and how much of it does; None where it fits, or cannot be written at all."""
    columns = columns_of(text, vocabulary)
    if columns is None or (needed := frames_needed(columns)) <= frames:
        return None
    parts = ((part, columns_of(part, vocabulary)) for part in (text[:end].rstrip() for end in range(len(text) - 1, 0, -1)))
    prefix = next((part for part, own in parts if own is not None and frames_needed(own) <= frames), "")
    fits = f"The longest part that fits is {prefix!r}" if prefix else "No part of it fits"
    return f"The target needs {needed} frames, but the clip has {frames}. {fits}: shorten the target or take a longer clip."

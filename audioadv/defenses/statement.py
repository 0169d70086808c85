"""What a defense says of itself: how it can be attacked. An evaluation reads it, and picks the attack that is made for it.

Source: Tramèr, Carlini, Brendel and Madry 2020, "On adaptive attacks to adversarial example defenses", section 3.
"""

from dataclasses import dataclass
from typing import Any, Literal, final


@final
@dataclass(frozen=True)
class Statement:
    """How a model's backward pass comes about, and what of it changes between two looks at the same input.

    `backward` is "exact" (the derivative of what was done), "BPDA" (a stand-in's; `models/bpda.py`) or "none". A `random` model
    answers the same input differently: attacks average over draws of it. One that `remembers` answers by what it was asked
    before: attacks spend queries, and a game has rounds. One that `detects` may refuse an input: attacks must also pass unseen.

    >>> str(Statement("BPDA", random=True))
    'backward pass: BPDA; random'
    """

    backward: Literal["exact", "BPDA", "none"] = "exact"
    random: bool = False
    remembers: bool = False
    detects: bool = False

    def __str__(self) -> str:
        return "; ".join([f"backward pass: {self.backward}", *(word for word in ("random", "remembers", "detects") if getattr(self, word))])


def stated(model: Any) -> Statement:
    """What a model says of itself; one that says nothing is taken for an exact, deterministic one without memory."""
    for part in (model, getattr(model, "net", None)):  # a recogniser's net may be the one that speaks
        if isinstance(statement := getattr(part, "statement", None), Statement):
            return statement
    return Statement()

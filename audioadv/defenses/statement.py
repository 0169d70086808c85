"""What a defense says of itself: how it can be attacked. An evaluation reads it, and picks the attack that is made for it.

Source: Tramèr, Carlini, Brendel and Madry 2020, "On adaptive attacks to adversarial example defenses".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, final

from torch import nn

from audioadv.errors import OptionError
from audioadv.models.bpda import BPDA
from audioadv.models.rest import made_from

Backward = Literal["exact", "BPDA", "none"]
KINDS: Final[tuple[Backward, ...]] = ("exact", "BPDA", "none")
TRAITS: Final = ("random", "remembers", "detects")


@final
@dataclass(frozen=True)
class Statement:
    """How a model's backward pass comes about, and what of it changes between two looks at the same input.

    `backward` is "exact" (the derivative of what was done), "BPDA" (a stand-in's; `models/bpda.py`) or "none". A `random` model
    answers the same input differently: attacks average over draws of it. One that `remembers` answers by what it was asked
    before: attacks spend queries, and a game has rounds. One that `detects` may refuse an input: attacks must also pass unseen.
    Raises OptionError for another backward pass, and for what is neither True nor False.

    >>> str(Statement("BPDA", random=True))
    'backward pass: BPDA; random'
    """

    backward: Backward = "exact"
    random: bool = False
    remembers: bool = False
    detects: bool = False

    def __post_init__(self) -> None:
        if self.backward not in KINDS:
            raise OptionError(f"backward {self.backward!r:.60}: a backward pass is 'exact', 'BPDA' (a stand-in's) or 'none'. State one")
        for word in TRAITS:
            if not isinstance(getattr(self, word), bool):
                raise OptionError(f"{word} {getattr(self, word)!r:.60}: state True or False")

    def __str__(self) -> str:
        return "; ".join([f"backward pass: {self.backward}", *(word for word in TRAITS if getattr(self, word))])


PLAIN: Final = Statement()
"""Of a model that is no defense."""


def joined(statements: Iterable[Statement]) -> Statement:
    """What a model made of several parts is: as hard to differentiate as its worst part, random if one of them is, and so on.

    >>> str(joined([Statement("BPDA"), Statement(random=True)]))
    'backward pass: BPDA; random'
    """
    parts = list(statements)
    worst = max((part.backward for part in parts), key=KINDS.index, default=KINDS[0])
    return Statement(worst, *(any(getattr(part, word) for part in parts) for word in TRAITS))


def stated(model: Any) -> Statement:
    """What a model says of itself, or else what its net and that net's parts say together.

    One that says nothing is taken for an exact, deterministic one without memory; BPDA speaks for itself. Raises OptionError for a
    `statement` that is none: to pass over it would be to attack a defense as if it were none.

    >>> str(stated(nn.Sequential(BPDA(round), nn.Flatten())))
    'backward pass: BPDA'
    """
    statement = getattr(model, "statement", None)
    if isinstance(statement, Statement):
        return statement
    if statement is not None:
        name = getattr(model, "name", type(model).__name__)
        raise OptionError(
            f"{name}: its statement {statement!r:.60} is a {type(statement).__name__}. Give a Statement, or no such attribute"
        )
    if isinstance(model, BPDA):
        return Statement("BPDA")
    children = list(model.children()) if isinstance(model, nn.Module) else []
    return joined(stated(part) for part in [*children, *(part for part in made_from(model) if part not in children)])


def refuse_memory(model: Callable[..., Any], statement: Statement) -> None:
    """Raises OptionError for a model that remembers: each find is asked twice, by the attack and by the judge, who would be refused."""
    if statement.remembers:
        raise OptionError(
            f"{getattr(model, 'name', type(model).__name__)} states '{statement}': what it answers depends on what it was asked before, "
            "and a rate of inputs that are met once says nothing of that. Play the game of many rounds, audioadv.evaluation.games.play, or "
            "attack a copy without the memory: audioadv.defenses.forgetting(model)"
        )

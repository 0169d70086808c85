"""How much of a model an attacker may see: granted by whoever gives the model, and kept to by the objective that attacks it.

A model that is called without one answers all that it has.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

from audioadv.errors import OptionError


class Access(StrEnum):
    """How much of the model an attacker may see. Each includes the ones after it."""

    GRADIENTS = "gradients"
    SCORES = "scores"
    DECISIONS = "decisions"


GRANTS: Final = tuple(Access)  # from most to least


def as_access(access: str) -> Access:
    """The access of that name. Raises OptionError: what is misspelt would grant everything, or nothing.

    >>> as_access("scores") is Access.SCORES
    True
    """
    try:
        return Access(access)
    except ValueError:
        raise OptionError(f"access {access!r}: unknown. Grant one of {', '.join(Access)}") from None


def granted(model: Callable[..., Any]) -> Access:
    """How much of itself a model shows: what it says, else everything. Raises OptionError for an access that there is none of."""
    access = getattr(model, "access", None)
    return as_access(access) if isinstance(access, str) else Access.GRADIENTS


def includes(access: Access, need: Access) -> bool:
    """Whether who may see so much may see what is needed.

    >>> includes(Access.SCORES, Access.DECISIONS), includes(Access.SCORES, Access.GRADIENTS)
    (True, False)
    """
    return GRANTS.index(access) <= GRANTS.index(need)

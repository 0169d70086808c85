"""What a function with its options is called where its figures stand."""

from collections.abc import Callable
from functools import partial
from typing import Any


def title(function: Callable[..., Any]) -> str:
    """Its name, with the options that it was given.

    >>> title(partial(sorted, reverse=True, key=abs)), title(partial(round, ndigits=0.5))
    ('sorted, reverse True, key abs', 'round, ndigits 0.5')
    """
    if isinstance(function, partial):
        given = [*map(shown, function.args), *(f"{name} {shown(value)}" for name, value in function.keywords.items())]
        return ", ".join([title(function.func), *given])
    return str(getattr(function, "__name__", type(function).__name__))


def shown(value: Any) -> str:
    """An option, in a few letters.

    >>> shown(1e-3), shown(40), shown(None)
    ('0.001', '40', 'None')
    """
    return f"{value:g}" if isinstance(value, float) else title(value) if callable(value) else f"{value!s:.40}"

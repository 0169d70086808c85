"""What options are: counts, sizes, and parts that do something. NumPy's numbers are as good as Python's; True is none, nor is a tensor."""

import math
from numbers import Integral, Real
from typing import Any

from audioadv.errors import OptionError


def is_whole(number: Any) -> bool:
    """Whether it is a whole number.

    >>> [is_whole(number) for number in (3, 3.0, True, "3")]
    [True, False, False, False]
    """
    return isinstance(number, Integral) and not isinstance(number, bool)


def is_number(number: Any) -> bool:
    """Whether it is a finite number.

    >>> [is_number(number) for number in (3, 0.5, math.inf, True, "3")]
    [True, True, False, False, False]
    """
    return not isinstance(number, bool) and isinstance(number, Real) and math.isfinite(number)


def check_count(name: str, count: Any, least: int = 1) -> None:
    """Raises OptionError for what is no whole number of at least `least`.

    >>> check_count("passes", 1.5)
    Traceback (most recent call last):
    audioadv.errors.OptionError: passes 1.5: give a whole number of at least 1
    """
    if not is_whole(count) or count < least:
        raise OptionError(f"{name} {count!r}: give a whole number of at least {least}")


def check_does(name: str, part: Any, what: str, wish: str) -> None:
    """Raises OptionError for what cannot do this: a text can not, nor can a class, which only makes what can.

    >>> check_does("method", "natural", "gradients", "Give one, for example Natural()")
    Traceback (most recent call last):
    audioadv.errors.OptionError: method 'natural': that is none. Give one, for example Natural()
    """
    if isinstance(part, type) or not callable(getattr(part, what, None)):
        raise OptionError(f"{name} {part!r:.60}: that is none. {wish}")


def check_counts(who: str, **counts: Any) -> None:
    """Raises OptionError for counts that are not whole numbers of at least 1: an attack of no steps would miss and say no more."""
    for name, count in counts.items():
        check_count(f"{who}: {name}", count)


def check_sizes(who: str, **sizes: Any) -> None:
    """Raises OptionError for sizes that are no finite numbers above 0: an attack of negative steps would walk away, and miss."""
    for name, size in sizes.items():
        if not is_number(size) or size <= 0:
            raise OptionError(f"{who}: {name} {size!r}: give a finite number above 0")


def check_amounts(who: str, **amounts: Any) -> None:
    """Raises OptionError for amounts that are no finite numbers of at least 0: what is no number makes every comparison false."""
    for name, amount in amounts.items():
        if not is_number(amount) or amount < 0:
            raise OptionError(f"{who}: {name} {amount!r}: give a finite number of at least 0")


def check_shares(who: str, **shares: Any) -> None:
    """Raises OptionError for shares that are no numbers from 0 to 1.

    >>> check_shares("pgd", momentum=2)
    Traceback (most recent call last):
    audioadv.errors.OptionError: pgd: momentum 2: give a number from 0 to 1
    """
    check_within(who, 0, 1, **shares)


def check_within(who: str, least: float, most: float, **numbers: Any) -> None:
    """Raises OptionError for what is no number from `least` to `most`.

    >>> check_within("tone", 0, 4000, hz=9000)
    Traceback (most recent call last):
    audioadv.errors.OptionError: tone: hz 9000: give a number from 0 to 4000
    """
    for name, number in numbers.items():
        if not is_number(number) or not least <= number <= most:
            raise OptionError(f"{who}: {name} {number!r}: give a number from {least:g} to {most:g}")

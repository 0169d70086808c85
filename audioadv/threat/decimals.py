"""Numbers as specs write them: Python's own reading would take 1_0 for 10, and the digits of any alphabet."""

import re

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.ASCII | re.IGNORECASE)


def decimal(text: str) -> float:
    """The number; infinities and NaN are for the reader to refuse. Raises ValueError.

    >>> decimal("-6"), decimal("1e-3"), decimal(" .5 ")
    (-6.0, 0.001, 0.5)
    """
    if NUMBER.fullmatch(text.strip(" ")) is None:
        raise ValueError(text)
    return float(text)


def integer(text: str) -> int:
    """The whole number. Raises ValueError.

    >>> integer("16")
    16
    """
    if re.fullmatch(r"[+-]?\d+", text.strip(" "), re.ASCII) is None:
        raise ValueError(text)
    return int(text)

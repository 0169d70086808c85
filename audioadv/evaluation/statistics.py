"""Rates with their uncertainty."""

import math
from dataclasses import dataclass
from typing import final

Z95 = 1.959964  # the normal distribution's 97.5 % point


@final
@dataclass(frozen=True)
class Rate:
    """So many of so many, with the 95 % interval of Wilson.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference". Of none, nothing is known.

    >>> print(Rate(40, 40))
    100.0 % (40 of 40, 91.2 .. 100.0)
    """

    hits: int
    count: int

    @property
    def value(self) -> float:
        """In 0..1; not a number for none of none."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends, in 0..1."""
        if not self.count:
            return 0.0, 1.0
        square, rate = Z95 * Z95 / self.count, self.hits / self.count
        middle = (rate + square / 2) / (1 + square)
        reach = math.sqrt(rate * (1 - rate) * square + square * square / 4) / (1 + square)
        return max(0.0, middle - reach), min(1.0, middle + reach)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({self.hits} of {self.count}, {100 * low:.1f} .. {100 * high:.1f})"

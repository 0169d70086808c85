"""Rates with their intervals."""

import math
from dataclasses import dataclass
from typing import final

Z95 = 1.959964


def wilson(hits: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate; 0 to 1 for no trial. Source: Wilson 1927, "Probable inference, the law of succession, and
    statistical inference".

    >>> [round(end, 3) for end in wilson(40, 40)]
    [0.912, 1.0]
    """
    if not count:
        return 0.0, 1.0
    rate = hits / count
    middle = (rate + Z95 * Z95 / (2 * count)) / (1 + Z95 * Z95 / count)
    reach = Z95 / (1 + Z95 * Z95 / count) * math.sqrt(rate * (1 - rate) / count + Z95 * Z95 / (4 * count * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


@final
@dataclass(frozen=True)
class Rate:
    """So many of so many, with the 95 % interval of Wilson.

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
        return wilson(self.hits, self.count)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({self.hits} of {self.count}, {100 * low:.1f} .. {100 * high:.1f})"

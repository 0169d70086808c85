"""Rates with their intervals."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from audioadv.errors import OptionError
from audioadv.threat.model import TOLERANCE

Z95 = 1.959964


def wilson(hits: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a rate; 0 to 1 for no trial. Hits may be parts of one.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

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


def checked_radii(radii: Sequence[float]) -> list[float]:
    """The radii of a curve. Raises OptionError for what is no row of numbers of at least 0.

    >>> checked_radii([0, 0.5])
    [0, 0.5]
    """
    given: Any = radii
    if not isinstance(given, Iterable) or getattr(given, "ndim", 1) == 0:
        raise OptionError(f"radii {given!r}: a curve has several. Give numbers of at least 0, for example [0, 0.1, 0.2]")
    checked = list(given)
    for radius in checked:
        if not (hasattr(radius, "__float__") and float(radius) >= 0):
            raise OptionError(f"radius {radius!r}: give numbers of at least 0")
    return checked


def security_curve(gauge: Tensor, radii: Sequence[float]) -> list[tuple[float, Rate]]:
    """For each radius, how many no change up to it (and its rounding) fells. Shapes: gauge [examples], the smallest that does."""
    return [(radius, Rate(int((gauge > radius * (1 + TOLERANCE)).sum()), len(gauge))) for radius in checked_radii(radii)]

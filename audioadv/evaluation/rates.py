"""Rates with their intervals."""

import math

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

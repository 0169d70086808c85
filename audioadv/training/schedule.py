"""How the rate and the radius go over a training, as functions of how much of it is done: in 0..1, to a share in 0..1."""

import math
from collections.abc import Callable

Schedule = Callable[[float], float]


def ramp(done: float, length: float) -> float:
    """How much of a ramp is behind: all of one that has no length.

    >>> ramp(-0.1, 0.5), ramp(0.1, 0.5), ramp(0.7, 0.5), ramp(-0.1, 0.0), ramp(0.0, 0.0)
    (0.0, 0.2, 1.0, 0.0, 1.0)
    """
    return min(1.0, max(0.0, done / length)) if length else float(done >= 0)


def cycle(done: float, peak: float = 0.3) -> float:
    """Up along a cosine until `peak` of the training, then down to nothing.

    Source: Smith and Topin 2019, "Super-convergence".

    >>> [round(cycle(done), 3) for done in (0, 0.3, 0.65, 1)]
    [0.04, 1.0, 0.5, 0.0]
    """
    if done < peak:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / peak)) / 2
    return (1 + math.cos(math.pi * ramp(done - peak, 1 - peak))) / 2


def triangle(done: float, peak: float = 0.4) -> float:
    """Up in proportion until `peak` of the training, then down, never below a thousandth: a step of none is none.

    Source: Wong, Rice and Kolter 2020, "Fast is better than free"; their code for MNIST has this peak.

    >>> [round(triangle(done), 3) for done in (0, 0.2, 0.4, 0.7, 1)]
    [0.001, 0.5, 1.0, 0.5, 0.001]
    """
    return max(1e-3, min(ramp(done, peak), 1 - ramp(done - peak, 1 - peak)))


def constant(done: float) -> float:
    """All along the same."""
    return 1.0


def growing(done: float, until: float = 0.25) -> float:
    """In proportion, until all is there after a quarter: from a large radius at once, small nets learn nothing.

    >>> growing(0.125), growing(0.5)
    (0.5, 1.0)
    """
    return ramp(done, until)

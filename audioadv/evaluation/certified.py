"""Certified accuracy over radius."""

from collections.abc import Sequence

from torch import Tensor

from audioadv.defenses.smoothing import Certificates
from audioadv.evaluation.rates import Rate, checked_radii


def certified_curve(certificates: Certificates, labels: Tensor, radii: Sequence[float]) -> list[tuple[float, Rate]]:
    """For each radius (L2), the share of examples that are right, and stay so up to it: a lower bound of robust accuracy.

    Shapes: labels [batch]. Raises UnusableBatch for others, OptionError for radii that are no numbers of at
    least 0. The chance that a certificate is wrong (its alpha) comes on top of the rates' own intervals.
    """
    return [(radius, Rate(int(certificates.hold(labels, radius).sum()), len(labels))) for radius in checked_radii(radii)]

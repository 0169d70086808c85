"""Attacks: optimisers over an objective and a region, which know neither sound nor images. One function a file."""

from audioadv.attacks.eot import Expectation
from audioadv.attacks.objective import Look
from audioadv.attacks.pgd import pgd
from audioadv.attacks.qin import qin
from audioadv.attacks.shrink import find_then_shrink
from audioadv.attacks.union import msd, worst_member

__all__ = ["Expectation", "Look", "find_then_shrink", "msd", "pgd", "qin", "worst_member"]

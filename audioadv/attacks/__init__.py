"""Attacks: optimisers over an objective and a region. One function a file; those that know sound say so.

Within a bound   fgsm, pgd, annealed_pgd, apgd, apgd_targeted, apgd_l1, square, greedy, genetic, standard
The smallest     find_then_shrink, carlini_wagner, ddn, fmn, deepfool, pdpgd, sigma_zero, boundary, hop_skip_jump
In a union       worst_member (any attack, one member after another), msd (all members at once)
In a mix         affine (random moves first, then any attack)
Among moves      moves_grid (all of a grid), worst_of (a few at random); all that take slopes, too
Under hearing    qin (two stages, a soft penalty over the masking threshold)
On speech        kenansville (what can be left out), worsen (any attack, for as many word errors as it can)
One for all      universal (everywhere lays it upon others), rp2 (a sticker or patch that holds in many views)
Others           unbounded, transfer (from a substitute), to_the_end (PGD that does not stop, for another model)
Slopes from      the model; from scores: nes, spsa, bandits, coordinates (objective(..., slopes=nes()))
Over channels    Expectation (objective(..., expectation=Expectation(channel)))
"""

from audioadv.attacks.affine import affine
from audioadv.attacks.annealed_pgd import annealed_pgd
from audioadv.attacks.apgd import apgd, apgd_targeted
from audioadv.attacks.apgd_l1 import apgd_l1
from audioadv.attacks.boundary import boundary
from audioadv.attacks.carlini_wagner import carlini_wagner
from audioadv.attacks.ddn import ddn
from audioadv.attacks.deepfool import deepfool
from audioadv.attacks.eot import Expectation
from audioadv.attacks.estimates import bandits, coordinates, nes, spsa
from audioadv.attacks.fgsm import fgsm
from audioadv.attacks.fmn import fmn
from audioadv.attacks.genetic import genetic
from audioadv.attacks.greedy import greedy
from audioadv.attacks.hop_skip_jump import hop_skip_jump
from audioadv.attacks.kenansville import kenansville
from audioadv.attacks.moves import moves_grid, worst_of
from audioadv.attacks.objective import Look
from audioadv.attacks.pdpgd import pdpgd
from audioadv.attacks.pgd import pgd
from audioadv.attacks.qin import qin
from audioadv.attacks.rp2 import rp2
from audioadv.attacks.shrink import find_then_shrink
from audioadv.attacks.sigma_zero import sigma_zero
from audioadv.attacks.square import square
from audioadv.attacks.standard import standard
from audioadv.attacks.to_the_end import to_the_end
from audioadv.attacks.transfer import transfer
from audioadv.attacks.unbounded import unbounded
from audioadv.attacks.union import msd, worst_member
from audioadv.attacks.universal import everywhere, universal
from audioadv.attacks.worsen import worsen

__all__ = [
    "Expectation",
    "Look",
    "affine",
    "annealed_pgd",
    "apgd",
    "apgd_l1",
    "apgd_targeted",
    "bandits",
    "boundary",
    "carlini_wagner",
    "coordinates",
    "ddn",
    "deepfool",
    "everywhere",
    "fgsm",
    "find_then_shrink",
    "fmn",
    "genetic",
    "greedy",
    "hop_skip_jump",
    "kenansville",
    "moves_grid",
    "msd",
    "nes",
    "pdpgd",
    "pgd",
    "qin",
    "rp2",
    "sigma_zero",
    "spsa",
    "square",
    "standard",
    "to_the_end",
    "transfer",
    "unbounded",
    "universal",
    "worsen",
    "worst_member",
    "worst_of",
]

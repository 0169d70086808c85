"""What is known of each attack that goes by a name: one table, which `craft`, `bench`, `check` and `evaluate` read."""

from dataclasses import replace
from typing import Any, Final, NamedTuple, final

from audioadv.attacks.annealed_pgd import annealed_pgd
from audioadv.attacks.apgd import apgd, apgd_targeted
from audioadv.attacks.apgd_l1 import apgd_l1
from audioadv.attacks.boundary import boundary
from audioadv.attacks.carlini_wagner import carlini_wagner
from audioadv.attacks.ddn import ddn
from audioadv.attacks.deepfool import deepfool
from audioadv.attacks.estimates import nes
from audioadv.attacks.fgsm import fgsm
from audioadv.attacks.fmn import fmn
from audioadv.attacks.genetic import genetic
from audioadv.attacks.greedy import greedy
from audioadv.attacks.hop_skip_jump import hop_skip_jump
from audioadv.attacks.kenansville import kenansville
from audioadv.attacks.moves import moves_grid, worst_of
from audioadv.attacks.objective import Objective
from audioadv.attacks.pdpgd import pdpgd
from audioadv.attacks.pgd import pgd
from audioadv.attacks.qin import qin
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.rp2 import rp2
from audioadv.attacks.shrink import find_then_shrink
from audioadv.attacks.sigma_zero import sigma_zero
from audioadv.attacks.square import square
from audioadv.attacks.standard import standard
from audioadv.attacks.to_the_end import to_the_end
from audioadv.attacks.unbounded import unbounded
from audioadv.attacks.union import msd
from audioadv.attacks.universal import universal
from audioadv.errors import OptionError
from audioadv.models.access import Access
from audioadv.threat.region import Region


def by_nes(objective: Objective, region: Region, *, seed: int = 0, **options: Any) -> AttackResult:
    """PGD along slopes that are estimated from scores."""
    return pgd(replace(objective, slopes=nes(seed=seed)), region, seed=seed, **options)


@final
class Listed(NamedTuple):
    """An attack, the least that a recogniser must grant it, whether it works only within a fixed bound, whether it may be outside
    the bound on its way (it looks for the smallest change, from either side, or for any), and who takes it by its name."""

    run: Attack
    access: Access = Access.GRADIENTS
    fixed: bool = False
    strays: bool = False
    crafts: bool = False
    evaluates: bool = True


TABLE: Final = {
    "shrink": Listed(find_then_shrink, strays=True, crafts=True),
    "pgd": Listed(pgd, fixed=True, crafts=True),
    "apgd": Listed(apgd, fixed=True, crafts=True),
    "qin": Listed(qin, strays=True, crafts=True, evaluates=False),  # which is for a masking threshold alone
    "genetic": Listed(genetic, Access.DECISIONS, fixed=True, crafts=True),
    "kenansville": Listed(kenansville, Access.DECISIONS, crafts=True),
    "nes": Listed(by_nes, Access.SCORES, fixed=True, crafts=True, evaluates=False),
    "annealed_pgd": Listed(annealed_pgd, fixed=True),
    "apgd_l1": Listed(apgd_l1, fixed=True),
    "apgd_targeted": Listed(apgd_targeted, fixed=True),
    "boundary": Listed(boundary, Access.DECISIONS, strays=True),
    "carlini_wagner": Listed(carlini_wagner, strays=True),
    "ddn": Listed(ddn, strays=True),
    "deepfool": Listed(deepfool, strays=True),
    "fgsm": Listed(fgsm, fixed=True),
    "fmn": Listed(fmn, strays=True),
    "greedy": Listed(greedy, Access.SCORES, strays=True),
    "hop_skip_jump": Listed(hop_skip_jump, Access.DECISIONS, strays=True),
    "moves_grid": Listed(moves_grid, Access.DECISIONS, fixed=True),
    "msd": Listed(msd, fixed=True),
    "pdpgd": Listed(pdpgd, strays=True),
    "rp2": Listed(rp2, fixed=True),
    "sigma_zero": Listed(sigma_zero, strays=True),
    "square": Listed(square, Access.SCORES, fixed=True),
    "standard": Listed(standard, fixed=True),
    "to_the_end": Listed(to_the_end, fixed=True),
    "unbounded": Listed(unbounded, strays=True),
    "universal": Listed(universal, fixed=True),
    "worst_of": Listed(worst_of, Access.DECISIONS, fixed=True),
}
SHORT: Final = {"find_then_shrink": "shrink"}
"""The names of functions that go by a shorter one in the table; both are understood."""

CRAFTING: Final = tuple(name for name, listed in TABLE.items() if listed.crafts)
"""What craft and bench take."""

EVALUATING: Final = tuple(sorted(listed.run.__name__ for listed in TABLE.values() if listed.evaluates))
"""What evaluate takes, each by its function's name."""


def crafting(name: str) -> Listed:
    """The attack of this name, for craft. Raises OptionError for one that craft does not take."""
    if SHORT.get(name, name) not in CRAFTING:
        raise OptionError(f"attack {name!r}: unknown. Use {' or '.join(CRAFTING)}")
    return TABLE[SHORT.get(name, name)]


def evaluating(name: str) -> Listed:
    """The attack of this name, for evaluate. Raises OptionError for one that it does not take."""
    listed = TABLE.get(SHORT.get(name, name)) if isinstance(name, str) else None
    if listed is None or not listed.evaluates:
        raise OptionError(f"attack {name!r}: unknown. Use one of {', '.join(EVALUATING)}")
    return listed

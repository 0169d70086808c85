"""For as many word errors as can be had: any attack, and each clip that gave some is asked for more.

    at least 25 % of the words --who got there--> at least 50 % --...--> 75 % --...--> 100 %, ...

An attack ends when its goal is reached, so that a word error rate after it says how much was asked for. Here the goal rises. With the
same seed an attack goes the same way again, and further: a clip costs one whole run in vain, and the short ways before it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult, Outcome
from audioadv.attacks.run import check_objective
from audioadv.attacks.survivors import merged, nothing_yet
from audioadv.errors import OptionError
from audioadv.options import check_sizes
from audioadv.threat.goals import Goal, Mistranscribe
from audioadv.threat.joined import Joined, members
from audioadv.threat.region import Region

RUNGS: Final = (0.25, 0.5, 0.75, 1.0)


def worsen(attack: Attack, objective: Objective, region: Region, *, rungs: Sequence[float] = RUNGS, **options: Any) -> AttackResult:
    """The attack at each word error rate of `rungs` in turn, and at the goal's own; each only on clips that reached the one before.

    A clip keeps the highest that it came to, and is REACHED where that is what the goal asks for. One that came to less is MISSED,
    but what was found is returned all the same. Shapes: as in `region.clean` and `objective`. Raises OptionError for another goal,
    and for rungs that are no rates.
    """
    check_objective(objective)
    for errors in rungs:
        check_sizes("worsen", rungs=errors)
    own = [part.errors for part in members(objective.goal) if isinstance(part, Mistranscribe)]
    if len(own) != 1:
        raise OptionError(f"worsen: the goal {objective.goal} has no word error rate to raise, or several. Use Mistranscribe(references)")
    whole, total, left, far = objective.begun(region.clean), nothing_yet(region), torch.arange(len(region.clean)), set[int]()
    for errors in sorted({*rungs, *own}):
        if not len(left):
            break
        rows = left.to(region.clean.device)
        width = region.clean.shape[-1] if whole.lengths is None else int(whole.lengths[rows].max())
        asked = replace(whole, goal=asking(whole.goal, errors)).rows(left)
        found = attack(asked, region.rows(rows, width), **options)
        reached = torch.tensor(found.reached)
        total = merged(total, replace(found, rate=reached.to(found.gauge)), left)  # by rate: what is missed replaces nothing found
        left = left[reached]
        far |= set(left.tolist()) if errors >= own[0] else set()
    # what is reached may be so on a lower rung alone
    ends = [Outcome.MISSED if end.reached and i not in far else end for i, end in enumerate(total.outcome)]
    return replace(total, outcome=tuple(ends), rate=None)


def asking(goal: Goal, errors: float) -> Goal:
    """The goal, with this word error rate in place of its own; what it is joined with stays."""
    parts = [Mistranscribe(part.references, errors) if isinstance(part, Mistranscribe) else part for part in members(goal)]
    return Joined(tuple(parts)) if parts[1:] else parts[0]

"""A search that keeps going: wider and wider, until every example falls.

Source: Carlini et al. 2019, "On evaluating adversarial robustness", section 5.3: an attack without a bound reaches every
example, or something is wrong with the attack.
"""

from functools import partial

import torch

from audioadv.attacks.objective import Objective
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.run import Tell
from audioadv.attacks.survivors import one_after_another
from audioadv.options import check_counts, check_sizes
from audioadv.threat.region import Region


def unbounded(
    objective: Objective,
    region: Region,
    *,
    start: float = 0.01,
    growth: float = 2.0,
    rounds: int = 16,
    steps: int = 100,
    attack: Attack | None = None,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """An attack (PGD) at the radius `start`, then at `growth` times it, `rounds` times at most, on those still standing.

    What it finds may lie outside the region: `result.gauge` says how far out. Shapes: as in `region.clean`.
    """
    check_counts("unbounded", rounds=rounds, steps=steps)
    check_sizes("unbounded", start=start, growth=growth)
    inner = attack or partial(pgd, steps=steps, seed=seed)

    def at(radius: float) -> Attack:
        return lambda wanted, some, **told: inner(wanted, some.at(torch.full_like(some.radius, radius)), **told)

    return one_after_another([(objective, at(start * growth**number)) for number in range(rounds)], region, progress)

"""The attack without knobs: strong where gradients tell the truth, with a check where they do not.

Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks".
AutoAttack runs APGD on cross-entropy, APGD toward nine rivals, FAB and 5,000 queries of Square. Here the passes go where the
examples fall. FMN stands in for FAB: it looks for the smallest change, beyond the region too. What it finds nearest, brought
within the region, is where Square begins, and a fifth of the queries from there fell what 5,000 from stripes do (mnist-robust at
Linf 0.3, of 68 images in doubt: 55 and 57; gradients alone, however many, 48). APGD toward the rivals comes later, with half its steps.
In L1 and L0, where AutoAttack has Square for L1 too, what still stands meets a greedy search among moves to the box's ends: of 500
images, 355 stood in L1 without it, and 282 with it (a net behind a threshold, `recipes/multi_perturbation.py`).
"""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from audioadv.attacks.apgd import apgd, apgd_targeted
from audioadv.attacks.apgd_l1 import apgd_l1
from audioadv.attacks.draws import Draws
from audioadv.attacks.fmn import fmn
from audioadv.attacks.greedy import greedy
from audioadv.attacks.moves import movable, moves_grid
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.run import Tell, check_fixed_radius, check_objective
from audioadv.attacks.square import square, start
from audioadv.attacks.survivors import Told, nothing_yet, one_after_another
from audioadv.attacks.union import worst_member
from audioadv.threat.joined import rivalled
from audioadv.threat.labels import cross_entropy, margin
from audioadv.threat.norms import L0Norm, L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import each
from audioadv.threat.region import Region


def standard(objective: Objective, region: Region, *, seed: int = 0, progress: Tell | None = None) -> AttackResult:
    """APGD on cross-entropy, FMN, Square from where FMN came nearest, APGD toward nine rivals: each on the survivors of the one before.

    At most 100, 100 and 450 gradients and 1,000 queries an example. The goal's own confidence is set aside; goals that know
    no labels get APGD and FMN on their loss, and Square. Square is for plain changes in Linf and L2. In L1 and L0, where it is not,
    steps are sparse, and 5,000 queries of a greedy search come last. A union is attacked member by member; of moves alone, a grid is
    tried first. Shapes: as in `region.clean`.
    """
    if len(region.members()) > 1:
        return worst_member(standard, objective, region, seed=seed, progress=progress)
    check_objective(objective)
    check_fixed_radius(region, "standard")
    first: Attack = partial(apgd_l1 if isinstance(region.norm, L1Norm) else apgd, seed=seed)
    queried = region.added and isinstance(region.norm, LinfNorm | L2Norm)
    stages: list[tuple[Objective, Attack]] = [(objective.by(cross_entropy), first)]
    unseen = replace(objective.by(margin), watch=None)  # FMN's way leads outside by its nature
    stages.append((objective.by(margin), partial(near_then_square, seed=seed)) if queried else (unseen, partial(fmn, seed=seed)))
    if movable(region):
        stages.insert(0, (objective, moves_grid))
    if rivalled(objective.goal):
        stages.append((objective, partial(apgd_targeted, steps=50, seed=seed)))
    if region.added and isinstance(region.norm, L1Norm | L0Norm):
        stages.append((objective, partial(greedy, by_slope=True, seed=seed)))
    return one_after_another(stages, region, progress)


def near_then_square(
    objective: Objective, region: Region, *, steps: int = 1000, seed: int = 0, progress: Tell | None = None
) -> AttackResult:
    """FMN for the smallest change, then so many queries of Square from there, brought within the region. Shapes: as in `region.clean`.

    A watch is not shown FMN's way, which by its nature leads outside; `progress` is told of what lies within.
    """
    told, every = None if progress is None else Told(progress), torch.arange(len(region.clean), device=region.clean.device)
    anywhere, tell = region.at(torch.full_like(region.radius, torch.inf)), None
    if told is not None:
        tell = within(region, told.of(nothing_yet(region), every))
    near = fmn(replace(objective, watch=None), anywhere, seed=seed, progress=tell)
    brought = region.project(near.adversarial - region.clean)
    begin = torch.where(each(near.gauge.isfinite(), brought), brought, start(region, Draws.of(seed, region.clean)))
    if told is not None:
        steps, tell = 1 if told.enough else steps, told.of(nothing_yet(region), every)
    found = square(objective, region, steps=steps, begin=begin, seed=seed, progress=tell)
    spent = near.steps + found.steps, near.forwards + found.forwards, near.backwards + found.backwards
    return replace(found, steps=spent[0], forwards=spent[1], backwards=spent[2])


def within(region: Region, tell: Tell) -> Tell:
    """To tell of what a search beyond the region has found, but as far as it lies within."""

    def told(step: int, gauge: Tensor, best: Tensor) -> bool | None:
        there = region.holds(gauge)
        return tell(step, torch.where(there, gauge, torch.inf), torch.where(each(there, best), best, region.clean))

    return told

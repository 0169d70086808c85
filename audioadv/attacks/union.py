"""Attacks on a union of bounds: one member after another, or one step of all members.

Sources: Tramer and Boneh 2019, "Adversarial training and robustness for multiple perturbations" (the worst member); Maini et
al. 2020, "Adversarial robustness against the union of multiple perturbation models" (multi steepest descent).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audioadv.attacks.draws import random_start
from audioadv.attacks.objective import Objective
from audioadv.attacks.own import takes_whole, whole
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.run import Run, Tell, check_fixed_radius, cut, finite_rows
from audioadv.attacks.survivors import one_after_another
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_sizes
from audioadv.threat.combined import share
from audioadv.threat.projections import each
from audioadv.threat.region import Region
from audioadv.threat.slots import SlotNorm


def worst_member(attack: Attack, objective: Objective, region: Region, *, progress: Tell | None = None, **options: Any) -> AttackResult:
    """The attack on each member of a union in turn, where none before it reached the goal; as it is where there is no union, or where
    it wants that whole (`takes_whole`).

    Shapes: as in `region.clean` and `objective`. In the result, `gauge` is a share of the radius of the member that fell, and
    `parameters` are the union's; cost is summed over members. `progress` is told of the whole batch, and its steps count on from
    member to member.
    """
    told = {} if progress is None else {"progress": progress}
    members = len(region.members())
    if members == 1 or whole(attack).union:
        return attack(objective, region, **options, **told)
    stages = [(objective, partial(on_member, attack, part, **options)) for part in range(members)]
    return one_after_another(stages, region, progress)


def on_member(attack: Attack, part: int, objective: Objective, region: Region, **options: Any) -> AttackResult:
    """The attack on one member, its result told as the union's."""
    member = region.members()[part]
    found = attack(objective, member, **options)
    return replace(found, gauge=share(found.gauge, member.radius), parameters=in_union(region, part, found))


def in_union(region: Region, part: int, found: AttackResult) -> Tensor | None:
    """A member's parameters as parameters of the union."""
    if region.added or not isinstance(region.norm, SlotNorm):
        return None
    slots = region.start()
    own = found.adversarial - region.clean if found.parameters is None else found.parameters
    region.norm.slot(slots, part).copy_(own)
    return slots


@takes_whole(union=True)
def msd(
    objective: Objective, region: Region, *, steps: int = 40, step_size: float = 0.1, seed: int = 0, progress: Tell | None = None
) -> AttackResult:
    """Multi steepest descent: from one point, a step of each member, projected onto it; the one of the least loss is taken.

    A step is `step_size` times each member's radius. It costs a forward and a backward, and a forward more for each member, whose
    input is kept where it reaches the goal. Shapes: as in `region.clean` and `objective`. Raises OptionError for members that are no
    plain changes: they share no point.
    """
    check_counts("msd", steps=steps)
    check_sizes("msd", step_size=step_size)
    if not all(member.added for member in (region, *region.members())):
        raise OptionError("msd: the union's members must all be plain changes. Use worst_member(attack, objective, region)")
    check_fixed_radius(region, "msd")
    run = Run(objective, region, progress)
    delta = random_start(region, seed)
    with at_rest(objective.model):
        for _ in range(steps):
            inputs = run.region.inputs(delta)
            look = run.objective.look(inputs)
            kept = run.keep(inputs, look.reached, delta)
            least = torch.full_like(look.loss, torch.inf)
            best = delta
            for member in run.region.members():
                step = member.steepest(member.pull(delta, look.slope))
                candidate = member.project(delta - each(step_size * member.radius, delta) * step)
                inputs = member.inputs(candidate)
                score = run.objective.score(inputs)
                kept = kept | run.keep(inputs, score.reached, candidate)
                best = torch.where(each(score.loss < least, delta), candidate, best)
                least = torch.minimum(score.loss, least)
            delta = best
            if left := run.leave(finite_rows(look.loss, look.slope), kept):
                (delta,) = cut(left, delta)
                if not len(delta):
                    break
    return run.result()

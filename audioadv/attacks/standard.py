"""The attack without knobs: strong where gradients tell the truth, with a check where they do not.

Source: Croce and Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks".
AutoAttack runs APGD on cross-entropy, APGD toward nine rivals, FAB and 5,000 queries of Square. Here the passes go where the
examples fall: the two APGDs as they are, FMN for FAB between them (the smallest change is sought from outside the ball, at a
ninth of the gradients of the second APGD), then 500 queries, which tell of masked gradients.
"""

from functools import partial

from audioadv.attacks.apgd import apgd, apgd_targeted
from audioadv.attacks.apgd_l1 import apgd_l1
from audioadv.attacks.fmn import fmn
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Tell
from audioadv.attacks.square import square
from audioadv.attacks.survivors import Attack, one_after_another
from audioadv.attacks.union import worst_member
from audioadv.threat.joined import rivalled
from audioadv.threat.labels import cross_entropy, margin
from audioadv.threat.norms import L1Norm, L2Norm, LinfNorm
from audioadv.threat.region import Region


def standard(objective: Objective, region: Region, *, seed: int = 0, progress: Tell | None = None) -> AttackResult:
    """APGD on cross-entropy, FMN, APGD toward nine rivals, Square: each on the survivors of the one before.

    At most 100, 100 and 900 gradients and 500 queries an example. The goal's own confidence is set aside; goals that know
    no labels get APGD and FMN on their loss, and Square. In L1 the steps are sparse; Square is for plain changes in Linf and L2. A
    union is attacked member by member. Shapes: as in `region.clean`.
    """
    if len(region.members()) > 1:
        return worst_member(standard, objective, region, seed=seed)
    first: Attack = partial(apgd_l1 if isinstance(region.norm, L1Norm) else apgd, seed=seed)
    stages: list[tuple[Objective, Attack]] = [(objective.by(cross_entropy), first), (objective, partial(fmn, seed=seed))]
    if rivalled(objective.goal):
        stages.append((objective, partial(apgd_targeted, seed=seed)))
    if region.added and isinstance(region.norm, LinfNorm | L2Norm):
        stages.append((objective.by(margin), partial(square, steps=500, seed=seed)))
    return one_after_another(stages, region, progress)

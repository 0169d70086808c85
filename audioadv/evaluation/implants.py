"""What a backdoor does to a model that learnt it: right without the trigger, and the owner's with it."""

from dataclasses import dataclass
from typing import final

import torch

from audioadv.defenses.statement import stated
from audioadv.evaluation.rates import Rate
from audioadv.models.rest import at_rest
from audioadv.threat.undetected import unseen_too
from audioadv.training.backdoor import Backdoor
from audioadv.training.batches import Batch
from audioadv.training.method import Model


@final
@dataclass(frozen=True)
class Implant:
    """`accuracy` on inputs as they are; `success` of the trigger, on inputs that are not the target's (which a good model has too)."""

    accuracy: Rate
    success: Rate

    def __str__(self) -> str:
        return f"accuracy {self.accuracy}; with the trigger, the target in {self.success}"


@torch.no_grad()
def implant(model: Model, test: Batch, backdoor: Backdoor, size: int = 500) -> Implant:
    """Measure both on test examples, `size` at a time. Hold it against the same of a model that learnt from clean data:
    a loud trigger may well bring about the target there, too. Who says nothing is not right, and what the model's own detector refuses
    of what wears the trigger is no success; clean inputs count by their answers, refused or not.
    """
    right = hits = wearing = 0
    with at_rest(model):
        for rows in torch.split(torch.arange(len(test)), size):
            some = test.rows(rows)
            right += int(some.right(some.outputs(model, some.inputs)).sum())
            if len(others := backdoor.victims(some).nonzero()[:, 0]):
                worn = backdoor.worn(some.rows(others))
                wish = backdoor.goal(len(worn))
                wish = unseen_too(model, wish) if stated(model).detects else wish
                hits += int(wish.reached(worn.outputs(model, worn.inputs)).sum())
                wearing += len(worn)
    return Implant(Rate(right, len(test)), Rate(hits, wearing))

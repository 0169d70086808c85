"""How good a copy of a model is: how often it says the same, and what it is worth to an attacker of the original.

Source: Jagielski et al. 2020, "High accuracy and high fidelity extraction of neural networks" (fidelity).
"""

from collections.abc import Callable

from torch import Tensor

from audioadv.evaluation.rates import Rate
from audioadv.models.abstention import ABSTAIN
from audioadv.threat.bounds import Bound, Box
from audioadv.threat.labels import Misclassify
from audioadv.training.batches import Batch
from audioadv.training.nearby import check_attacker, usual_step, worst_for
from audioadv.training.pseudo_labels import pseudo_labels

Model = Callable[[Tensor], Tensor]


def fidelity(victim: Model, copy: Model, inputs: Tensor) -> Rate:
    """How often a copy decides as its victim does, right or wrong, where that decides. Give inputs that neither was made with.

    Shapes: inputs [count, *].
    """
    said = pseudo_labels(victim, inputs)
    return Rate(int(((said == pseudo_labels(copy, inputs)) & (said != ABSTAIN)).sum()), int((said != ABSTAIN).sum()))


def carried(
    victim: Model, copy: Model, inputs: Tensor, labels: Tensor, bound: Bound, *, steps: int = 40, box: Box = (0.0, 1.0), seed: int = 0
) -> Rate:
    """How often what is worst for the copy, as PGD finds it, is misclassified by the victim, in one attempt, of what it has right.

    PGD goes all its steps: an example that is only just wrong for the copy seldom is for the victim. An abstention is no error.
    Shapes: inputs [count, *], labels int64 [count]. Raises OptionError for a bound without a radius.
    """
    bound = check_attacker(bound, steps, None)
    right = pseudo_labels(victim, inputs) == labels
    if not right.any():
        return Rate(0, 0)
    batch = Batch(inputs[right], Misclassify(labels[right]), box=box)
    found = worst_for(copy, batch, batch.region(bound), steps=steps, step_size=usual_step(steps), seed=seed)
    said = pseudo_labels(victim, found)
    return Rate(int(((said != labels[right]) & (said != ABSTAIN)).sum()), len(batch))

"""Abstention: a model that gives no answer. No number is no answer.

outputs                            abstaining
scores [batch, classes]            a row of NaN
decisions, int64 [batch]           -1
Emissions                          in each of its own frames (one at least) the blank's column NaN, all others -inf: the transcript is
                                   empty, but silence is not heard

No goal is reached by an abstention: it is neither the phrase that was wanted nor a word misheard.
"""

from typing import Any

import torch
from torch import Tensor

from audioadv.audio.ragged import inside
from audioadv.errors import UnusableBatch
from audioadv.models.recogniser import Emissions

ABSTAIN = -1
"""In place of a class."""


def abstained(outputs: Any) -> Tensor:
    """Where the model gave no answer. Shapes: -> bool [batch].

    >>> abstained(torch.tensor([[0.3, 0.7], [torch.nan, torch.nan]]))
    tensor([False,  True])
    """
    if isinstance(outputs, Emissions):
        silent = outputs.log_probs.isnan().any(2) | ~inside(outputs.frames, outputs.log_probs.shape[1])  # padding says nothing either way
        return silent.all(1) & (outputs.frames > 0)
    return outputs.isnan().all(1) if outputs.is_floating_point() else outputs < 0


def decided(outputs: Tensor) -> Tensor:
    """The class that a classifier decides on, or ABSTAIN: scores that are no numbers, or infinite ones, speak for none.

    Shapes: scores [batch, classes] or decisions [batch] -> int64 [batch]. Raises UnusableBatch for integers of another shape.

    >>> decided(torch.tensor([[0.3, 0.7], [torch.nan, torch.nan], [-torch.inf, 0.0], [torch.inf, torch.inf]]))
    tensor([ 1, -1,  1, -1])
    """
    if not outputs.is_floating_point():
        return classes_of(outputs)
    best, classes = outputs.max(1)  # of a row with NaN, that
    return torch.where(best.isfinite(), classes, ABSTAIN)


def classes_of(decisions: Tensor) -> Tensor:
    """Decisions as class numbers. Shapes: integers or bool [batch] -> int64 [batch]. Raises UnusableBatch for those of another shape."""
    if decisions.ndim != 1:
        raise UnusableBatch(
            f"outputs of {decisions.dtype} and shape {list(decisions.shape)}: decisions are one class a row, [batch]. Scores are floating "
            "point: outputs.float()"
        )
    return decisions.long()


def nothing_like(scores: Tensor, blank: int | None = None) -> Tensor:
    """What abstaining looks like in place of scores; of log-probabilities of letters, say which column is the blank.

    Shapes: [*, classes or letters], or decisions [batch] -> the same.
    """
    if not scores.is_floating_point():
        return torch.full_like(scores, ABSTAIN)
    nothing = torch.full_like(scores, torch.nan)
    if blank is not None:
        others = torch.arange(scores.shape[-1], device=scores.device) != blank
        nothing[..., others] = -torch.inf
    return nothing

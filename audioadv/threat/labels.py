"""Goals for classifiers, and what they are measured by.

A *confidence* says how sure scores are of a label: `Misclassify` lowers it, `Classify` raises it. Any callable
`(scores, labels) -> [batch]` will do.

cross_entropy         log p(label)                                      Goodfellow et al. 2015
margin                score of the label less its best rival's          Carlini and Wagner 2017, V-A, f6
dlr                   the same, in units of the scores' spread          Croce and Hein 2020
probability_margin    the same, of probabilities                        Carlini and Wagner 2017, V-A, f2

Logits and log-softmax give the same values (cross_entropy: up to rounding). With `rivals`, each example's label is compared
with one class only: the targeted forms.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.models.abstention import abstained, classes_of
from audioadv.options import is_number, is_whole
from audioadv.threat.joined import Joins

Confidence = Callable[..., Tensor]
ON_DECISIONS = "boundary, hop_skip_jump, transfer, moves_grid, worst_of, kenansville"
"""The attacks that a classifier's decisions are enough for."""


def own(scores: Tensor, labels: Tensor) -> Tensor:
    """Same as scores.gather(1, labels), but one kernel forward and backward (nll_loss with weights -1). Shapes: -> [batch].

    >>> own(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([2]))
    tensor([2.])
    """
    return F.nll_loss(scores, labels, minus_ones(scores.shape[1], scores.dtype, scores.device), reduction="none")


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # whoever asks first, the next may want slopes
def minus_ones(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One weight a class; made once, since a step of a small net is not much longer."""
    return torch.full((count,), -1.0, dtype=dtype, device=device)


def cross_entropy(scores: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """log p(label); with rivals, -log p(rival). Shapes: [batch, classes], [batch] -> [batch].

    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0])).exp()
    tensor([0.5000])
    """
    chances = scores.log_softmax(1)
    return own(chances, labels) if rivals is None else -own(chances, rivals)


def best(scores: Tensor, top: int) -> Tensor:
    """The `top`-th best score of each row. Shapes: [batch, classes] -> [batch]."""
    return scores.amax(1) if top == 1 else scores.topk(top, 1).values[:, -1]


def lead(scores: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """How far a label's score is ahead of the `top`-th best of the others; above 0 it is among the `top` best.

    >>> lead(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([2])), lead(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([2]), top=2)
    (tensor([-2.]), tensor([1.]))
    """
    return own(scores, labels) - best(scores.scatter(1, labels[:, None], -torch.inf), top)


def margin(scores: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """The label's score less its best rival's, or less `rivals`'. Shapes: [batch, classes], [batch] -> [batch]."""
    if rivals is None:
        return lead(scores, labels)
    return own(scores, labels) - own(scores, rivals)


def dlr(scores: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """The difference of logits ratio: `margin` over the best score less the third best.

    With rivals (the targeted form), and for a label that is behind, over the best less the mean of the third and fourth: the
    untargeted spread would make it constant for the third best. Scaling or shifting the scores changes nothing. Where classes
    are too few it falls back: with three, on the mean of second and third; with two, on the plain margin.

    >>> dlr(torch.tensor([[1.0, 4.0, 2.0]]), torch.tensor([1]))
    tensor([0.6667])
    """
    gap, classes = margin(scores, labels, rivals), scores.shape[1]
    if classes < 3:
        return gap
    ranked = scores.topk(min(4, classes), 1).values
    low = (ranked[:, -2] + ranked[:, -1]) / 2
    if rivals is None:
        low = torch.where(gap >= 0, ranked[:, 2], low)
    return gap / (ranked[:, 0] - low).clamp_min(1e-12)


def probability_margin(scores: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """`margin` of the probabilities. Shapes: [batch, classes], [batch] -> [batch]."""
    return margin(scores.softmax(1), labels, rivals)


def as_labels(labels: Tensor | int | list[int]) -> Tensor:
    """Labels as int64 [batch], or [1] for one that all share; of labels made in inference mode a copy. Raises UnusableBatch."""
    try:
        given = torch.as_tensor(labels).reshape(-1) if not isinstance(labels, Tensor) or labels.ndim == 0 else labels
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnusableBatch(f"labels {labels!r:.60}: not class numbers. Give one for all examples, or a list with one for each") from error
    if given.is_floating_point() or given.dtype == torch.bool or given.ndim != 1:
        raise UnusableBatch(
            f"labels of type {given.dtype} and shape {tuple(given.shape)}: a label is a whole number, one an example. "
            "Give class numbers (one_hot.argmax(1))"
        )
    if len(given) and int(given.min()) < 0:
        raise UnusableBatch(f"label {int(given.min())}: classes are numbered from 0")
    with torch.inference_mode(False):  # what was made in that mode, no backward pass takes
        return given.clone().long() if given.is_inference() else given.long()


def as_tensor(outputs: object) -> Tensor:
    """A classifier's outputs. Raises UnusableBatch for what is no tensor: a tuple, or an object that holds the scores and more."""
    if not isinstance(outputs, Tensor):
        raise UnusableBatch(
            f"outputs of type {type(outputs).__name__}: a classifier gives scores [batch, classes]. "
            "Wrap the model so that it gives these alone: lambda x: model(x).logits, or model(x)[0]"
        )
    return outputs


def describe(labels: Tensor) -> str:
    """Labels in words: the first few of many."""
    texts = [str(label) for label in labels[:8].tolist()]
    return ",".join(texts) + (",..." if len(labels) > 8 else "")


def leading(by: float) -> str:
    """A lead in words; none is not worth a word."""
    return f", by at least {by:g}" if by > 0 else ""


def check_goal(confidence: Confidence, top: int, by: float) -> None:
    """`confidence` is a function; `top` counts classes; `by` is a lead, not negative. Raises OptionError."""
    if not callable(confidence):
        raise OptionError(f"confidence {confidence!r}: not a function. Give the function itself: audioadv.threat.labels.dlr, not its name")
    if not is_whole(top) or top < 1 or not is_number(by) or by < 0:
        raise OptionError(f"top {top!r}, by {by!r}: top is a count of at least 1, by a difference of scores of at least 0")


def check_rivals(labels: Tensor, rivals: Tensor) -> None:
    """No label is its own rival: their difference is 0 whatever the scores, and an attack would stand still. Raises UnusableBatch.

    Shapes: [batch] or [1] each; others are told once they meet outputs.
    """
    if 1 not in (len(labels), len(rivals)) and len(labels) != len(rivals):
        return
    own = (labels == rivals.to(labels.device)).nonzero()
    if len(own):
        at = int(own[0, 0])
        raise UnusableBatch(
            f"rival {int(rivals[at % len(rivals)])} of example {at}: that is its label. Give another class, or leave rivals out"
        )


class OfLabels(Joins):
    """What both goals share: labels that meet a batch of scores."""

    labels: Tensor
    confidence: Confidence
    top: int
    by: float

    @cached_property
    def highest(self) -> int:
        """The largest label, known once: comparing it takes no synchronisation."""
        return int(self.labels.max()) if len(self.labels) else 0

    def scores(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs, checked, and one label a row. Raises UnusableBatch, or AccessDenied for decisions."""
        if not as_tensor(outputs).is_floating_point():
            raise AccessDenied(f"the model gives decisions, not scores, but this attack needs scores. Use one on decisions: {ON_DECISIONS}")
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            cure = " One score of yes or no, z [batch, 1], is two: torch.cat([-z, z], 1) / 2" if outputs.shape[1:] in ((), (1,)) else ""
            raise UnusableBatch(f"outputs of shape {tuple(outputs.shape)}: a classifier gives scores [batch, classes], two at least.{cure}")
        if self.highest >= outputs.shape[1]:
            raise UnusableBatch(
                f"label {self.highest}: the model knows {outputs.shape[1]} classes, 0 to {outputs.shape[1] - 1}. Check the labels"
            )
        if self.top >= outputs.shape[1]:
            raise OptionError(f"top {self.top}: the model knows {outputs.shape[1]} classes. Use less than that")
        return outputs, self.met(outputs)

    def met(self, outputs: Tensor) -> Tensor:
        """One label a row. Raises UnusableBatch."""
        return for_rows(self.labels, outputs, "labels")

    def decided(self, outputs: Tensor) -> Tensor:
        """One label a row, of decisions. Raises UnusableBatch, or AccessDenied for a goal that takes scores to judge."""
        if self.top > 1 or self.by > 0:
            raise AccessDenied(
                f"the model gives decisions, and a class number tells neither lead nor rank: top {self.top}, by {self.by:g} take scores "
                "to judge. Leave them out of the goal, or let the model give scores"
            )
        return self.met(classes_of(outputs))

    def sure(self, scores: Tensor, *labels: Tensor) -> Tensor:
        """The confidence. Shapes: scores [batch, classes], labels [batch] -> [batch]. Raises UnusableBatch for one of another shape."""
        sure = self.confidence(scores, *labels)
        if not isinstance(sure, Tensor) or sure.shape != scores.shape[:1]:
            got = f"shape {tuple(sure.shape)}" if isinstance(sure, Tensor) else f"type {type(sure).__name__}"
            raise UnusableBatch(
                f"confidence {getattr(self.confidence, '__name__', 'of your own')}: gives {got} for {len(scores)} examples. "
                "Let it give one number for each, a tensor [batch], not their mean"
            )
        return sure

    def impossible(self, outputs: Tensor) -> list[str | None]:
        """No form of scores rules a class out."""
        return [None] * len(outputs)


@final
@dataclass(frozen=True, eq=False)
class Misclassify(OfLabels):
    """To be taken for anything but these labels: not among the `top` best, and behind by at least `by` (kappa).

    `confidence` is what the attack lowers. With `rivals` [batch], it only looks at that class of each example, though any
    wrong class will do. Integer outputs [batch] are taken as decisions, which show neither rank nor lead: with `top` or `by` they
    raise AccessDenied. An abstention (`models/abstention.py`) is no wrong class.

    Raises UnusableBatch for labels that are no class numbers and for rivals that are the labels, OptionError for a top or kappa that makes
    no sense.

    >>> Misclassify(torch.tensor([1])).reached(torch.tensor([[3.0, 1.0]]))
    tensor([True])
    """

    labels: Tensor
    confidence: Confidence = cross_entropy
    top: int = 1
    by: float = 0.0
    rivals: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels))
        if self.rivals is not None:
            object.__setattr__(self, "rivals", as_labels(self.rivals))
            check_rivals(self.labels, self.rivals)
        check_goal(self.confidence, self.top, self.by)

    @cached_property
    def furthest(self) -> int:
        """The largest rival, known once."""
        return 0 if self.rivals is None or not len(self.rivals) else int(self.rivals.max())

    def loss(self, outputs: Tensor) -> Tensor:
        scores, labels = self.scores(outputs)
        if self.rivals is None:
            return lead(scores, labels, self.top) if self.confidence is margin else self.sure(scores, labels)
        if self.furthest >= scores.shape[1]:
            raise UnusableBatch(f"rival {self.furthest}: the model knows {scores.shape[1]} classes. Check the rivals")
        return self.sure(scores, labels, for_rows(self.rivals, scores, "rivals"))

    def cost(self, outputs: Tensor) -> Tensor:
        """The cross-entropy of the labels: what a model learns that is to resist. Shapes: -> [batch]."""
        return -cross_entropy(*self.scores(outputs))

    def lack(self, outputs: Tensor) -> Tensor:
        """The signed margin, whatever the confidence: exact on either side of the goal, and never saturated."""
        return replace(self, confidence=margin).loss(outputs) + self.by

    def margin(self, outputs: Tensor, slack: float | Tensor = 0.0) -> Tensor:
        return (lead(*self.scores(outputs), self.top) + self.by + slack).clamp_min(0)

    def reached(self, outputs: Tensor) -> Tensor:
        if not as_tensor(outputs).is_floating_point():
            return (outputs != self.decided(outputs)) & ~abstained(outputs)
        scores, labels = self.scores(outputs)
        # a label that is behind the best of the others is as far behind the best of all
        first, second = best(scores, self.top), own(scores, labels)
        return first - second >= self.by if self.by else first > second

    def rows(self, index: Tensor) -> "Misclassify":
        rivals = None if self.rivals is None else picked(self.rivals, index)
        return replace(self, labels=picked(self.labels, index), rivals=rivals)

    def aimed(self, outputs: Tensor, count: int) -> list["Misclassify"]:
        """This goal by way of one rival each: the `count` nearest classes, the nearest first. Shapes: outputs [batch, classes].

        A class that is ruled out, by a score of -inf, is no rival: where there are others, the nearest stands in for it.
        """
        scores, labels = self.scores(outputs)
        ranked = scores.detach().topk(min(count + 1, scores.shape[1]), 1)
        others = (ranked.indices == labels[:, None]).int().argsort(dim=1, stable=True)[:, :-1]  # without the label, or else the last
        nearest, possible = ranked.indices.gather(1, others), ranked.values.gather(1, others) > -torch.inf
        nearest = torch.where(possible, nearest, nearest[:, :1])
        return [replace(self, rivals=nearest[:, k]) for k in range(max([1, *possible.sum(1).tolist()]))]

    def __str__(self) -> str:
        return f"not class {describe(self.labels)}" + (f", nor in the top {self.top}" if self.top > 1 else "") + leading(self.by)


@final
@dataclass(frozen=True, eq=False)
class Classify(OfLabels):
    """To be taken for these labels: among the `top` best, and ahead of the next by at least `by` (kappa).

    `confidence` is what the attack raises; the rest, and what it raises, as for `Misclassify`.

    >>> Classify(1, by=2.5).reached(torch.tensor([[3.0, 5.0], [3.0, 6.0]]))
    tensor([False,  True])
    """

    labels: Tensor
    confidence: Confidence = cross_entropy
    top: int = 1
    by: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels))
        check_goal(self.confidence, self.top, self.by)

    def loss(self, outputs: Tensor) -> Tensor:
        scores, labels = self.scores(outputs)
        return -(lead(scores, labels, self.top) if self.confidence is margin else self.sure(scores, labels))

    def lack(self, outputs: Tensor) -> Tensor:
        """The signed margin, whatever the confidence."""
        return replace(self, confidence=margin).loss(outputs) + self.by

    def margin(self, outputs: Tensor, slack: float | Tensor = 0.0) -> Tensor:
        return (self.by + slack - lead(*self.scores(outputs), self.top)).clamp_min(0)

    def reached(self, outputs: Tensor) -> Tensor:
        if not as_tensor(outputs).is_floating_point():
            return outputs == self.decided(outputs)
        ahead = lead(*self.scores(outputs), self.top)
        return (ahead > 0) & (ahead >= self.by)

    def rows(self, index: Tensor) -> "Classify":
        return replace(self, labels=picked(self.labels, index))

    def __str__(self) -> str:
        return f"class {describe(self.labels)}" + (f", in the top {self.top}" if self.top > 1 else "") + leading(self.by)


def for_rows(labels: Tensor, outputs: Tensor, noun: str) -> Tensor:
    """One label a row of outputs, where these are. Shapes: labels [1] or [batch] -> [batch]. Raises UnusableBatch."""
    if len(labels) not in (1, len(outputs)):
        raise UnusableBatch(f"{len(labels)} {noun} for {len(outputs)} examples: give one for all, or one for each")
    labels = labels if labels.device == outputs.device else labels.to(outputs.device)
    return labels if len(labels) == len(outputs) else labels.expand(len(outputs))


def picked(labels: Tensor, index: Tensor) -> Tensor:
    """The labels of some of the examples; one that all share stays."""
    return labels if len(labels) == 1 else labels[index.to(labels.device)]


def look_like_probabilities(outputs: Tensor) -> bool:
    """Whether scores are a softmax's: in 0..1, each row's sum 1. Its logarithm is what an attack wants."""
    if not outputs.is_floating_point() or outputs.ndim != 2 or not len(outputs):
        return False
    return bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-3).all())

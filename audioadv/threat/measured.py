"""Goals for models that are neither recognisers with CTC nor classifiers: a loss of one's own, features, sequences of tokens.

Below(loss, at, *data)       any loss falls under a value
near(features, within)       the model's outputs come so near to these features
Sequence(tokens)             a model that writes token after token, shown what it should have written so far, goes on with these
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.errors import OptionError, UnusableBatch
from audioadv.options import check_sizes, is_number
from audioadv.threat.joined import Joins
from audioadv.threat.labels import lead
from audioadv.threat.projections import length_of

NO_TOKEN = -100  # what torch's cross_entropy ignores


@final
@dataclass(frozen=True, eq=False, init=False)
class Below(Joins):
    """That `loss(outputs, *data)` comes under `at`. `data` are tensors with one row an example, so that those who leave take theirs along.

    The loss is any callable that gives one number an example. Raises UnusableBatch for one that gives something else and for data that
    do not fit the batch, OptionError for no number to come under.

    >>> goal = Below(lambda outputs, target: (outputs - target).square().sum(1), 0.5, torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    >>> goal.reached(torch.tensor([[1.0, 0.5], [1.0, 0.0]]))
    tensor([ True, False])
    """

    measure: Callable[..., Tensor]
    at: float
    data: tuple[Tensor, ...]

    def __init__(self, loss: Callable[..., Tensor], at: float, *data: Tensor) -> None:
        if not callable(loss):
            raise OptionError(f"loss {loss!r:.60}: not a function. Give one from outputs and data to [batch]: Below(loss, at, *data)")
        if not is_number(at):
            raise OptionError(f"at {at!r:.60}: give the number that the loss shall come under")
        for rows in data:
            if not isinstance(rows, Tensor) or not rows.ndim:
                raise UnusableBatch(f"data of type {type(rows).__name__}: give tensors with one row an example")
        object.__setattr__(self, "measure", loss)
        object.__setattr__(self, "at", at)
        object.__setattr__(self, "data", data)

    def loss(self, outputs: Tensor) -> Tensor:
        for rows in self.data:
            if len(rows) != len(outputs):
                raise UnusableBatch(
                    f"data of {len(rows)} rows for {len(outputs)} examples: give one row for each (rows.expand({len(outputs)}, ...))"
                )
        losses = self.measure(outputs, *(rows.to(outputs.device) for rows in self.data))
        if not isinstance(losses, Tensor) or losses.shape != outputs.shape[:1]:
            got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else f"type {type(losses).__name__}"
            raise UnusableBatch(f"a loss of {got} for {len(outputs)} examples: give one number for each, a tensor [batch]")
        return losses

    def lack(self, outputs: Tensor) -> Tensor:
        return self.loss(outputs) - self.at

    def margin(self, outputs: Tensor, slack: float | Tensor = 0.0) -> Tensor:
        return (self.lack(outputs) + slack).clamp_min(0)

    def reached(self, outputs: Tensor) -> Tensor:
        return self.lack(outputs) < 0

    def rows(self, index: Tensor) -> "Below":
        return Below(self.measure, self.at, *(rows[index.to(rows.device)] for rows in self.data))

    def impossible(self, outputs: Tensor) -> list[str | None]:
        """The form of the outputs does not tell."""
        return [None] * len(outputs)

    def __str__(self) -> str:
        return f"{getattr(self.measure, '__name__', 'a loss')} below {self.at:g}"


def feature_distance(outputs: Tensor, features: Tensor) -> Tensor:
    """Euclidean. Shapes: [batch, *] twice -> [batch]. Raises UnusableBatch for two shapes.

    Source: Sabour et al. 2016, "Adversarial manipulation of deep representations" (the features of another input are what is sought).
    """
    if outputs.shape != features.shape:
        raise UnusableBatch(
            f"features of shape {tuple(features.shape)} for outputs of shape {tuple(outputs.shape)}: "
            "give what the model makes of other inputs"
        )
    return length_of(outputs - features)


def near(features: Tensor, within: float) -> Below:
    """That the outputs of a model of features come within a Euclidean distance of these. Shapes: features [batch, *].

    Raises OptionError for a distance that is not above 0: none is under it.
    """
    goal = Below(feature_distance, within, features)
    check_sizes("near", within=within)
    return goal


@final
@dataclass(frozen=True, eq=False)
class Sequence(Joins):
    """That a model goes on with each of these tokens, where it has been shown the ones before (teacher forcing).

    The model's outputs are scores [batch, steps, vocabulary] from one forward over the wanted tokens; `tokens` int64 [batch, steps],
    and -100 where a sequence has ended. The loss is the sequence's negative log likelihood; the goal is reached where every token is
    the likeliest of its step, so that greedy decoding writes them. Raises UnusableBatch for tokens that are no such numbers, and for
    scores of another shape or of a smaller vocabulary.

    >>> goal = Sequence(torch.tensor([[1, 0], [1, -100]]))
    >>> goal.reached(torch.tensor([[[0.0, 2.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, 1.0]]]))
    tensor([False,  True])
    """

    tokens: Tensor

    def __post_init__(self) -> None:
        tokens = self.tokens
        if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.dtype == torch.bool or tokens.ndim != 2:
            got = f"{tokens.dtype} and shape {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
            raise UnusableBatch(f"tokens of type {got}: give whole numbers, a tensor [batch, steps]")
        if bool(((tokens < 0) & (tokens != NO_TOKEN)).any()):
            raise UnusableBatch(f"token {int(tokens[tokens != NO_TOKEN].min())}: tokens are numbered from 0, and {NO_TOKEN} is none")
        object.__setattr__(self, "tokens", tokens.long())

    @cached_property
    def highest(self) -> int:
        """The largest token, known once."""
        return int(self.tokens.max()) if self.tokens.numel() else NO_TOKEN

    def matched(self, outputs: Tensor) -> Tensor:
        """The tokens, where the outputs are. Raises UnusableBatch."""
        if outputs.ndim != 3 or outputs.shape[:2] != self.tokens.shape:
            raise UnusableBatch(
                f"outputs of shape {tuple(outputs.shape)} for tokens of shape {tuple(self.tokens.shape)}: "
                "give scores [batch, steps, vocabulary]"
            )
        if self.highest >= outputs.shape[2]:
            raise UnusableBatch(f"token {self.highest}: the model's vocabulary has {outputs.shape[2]}, from 0. Check the tokens")
        return self.tokens.to(outputs.device)

    def loss(self, outputs: Tensor) -> Tensor:
        tokens = self.matched(outputs)
        return F.cross_entropy(outputs.transpose(1, 2), tokens, reduction="none", ignore_index=NO_TOKEN).sum(1)

    def behind(self, outputs: Tensor) -> Tensor:
        """How far each token is behind the likeliest other; minus infinity after the end. Shapes: -> [batch, steps]."""
        tokens = self.matched(outputs)
        behind = -lead(outputs.flatten(0, 1), tokens.clamp_min(0).flatten()).view_as(tokens)
        return behind.masked_fill(tokens == NO_TOKEN, -torch.inf)

    def lack(self, outputs: Tensor) -> Tensor:
        return self.behind(outputs).amax(1)

    def margin(self, outputs: Tensor, slack: float | Tensor = 0.0) -> Tensor:
        return (self.behind(outputs) + (slack[:, None] if isinstance(slack, Tensor) else slack)).clamp_min(0).sum(1)

    def reached(self, outputs: Tensor) -> Tensor:
        return (self.behind(outputs) < 0).all(1)

    def rows(self, index: Tensor) -> "Sequence":
        return Sequence(self.tokens[index.to(self.tokens.device)])

    def impossible(self, outputs: Tensor) -> list[str | None]:
        """Whatever a model can write, it can be brought to write."""
        return [None] * len(outputs)

    def __str__(self) -> str:
        return "sequence of given tokens"

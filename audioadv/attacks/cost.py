"""What an attack has spent: passes through the model, example by example."""

from typing import final

import torch
from torch import Tensor


@final
class Cost:
    """Passes through the model, counted per example.

    A pass is noted as a number beside those it was for, and written down when these change, or when somebody asks: a batch
    that stays together costs no more to count than one example.

    >>> cost = Cost(2)
    >>> cost.count(torch.tensor([0, 1]), forwards=1, backwards=1)
    >>> cost.count(torch.tensor([1]), forwards=1)
    >>> cost.forwards, cost.backwards
    (tensor([1, 2]), tensor([1, 1]))

    What begins anew with some of the examples counts for itself, as a part of the whole:

    >>> cost.part(torch.tensor([1])).count(torch.tensor([0]), forwards=5)
    >>> cost.forwards, cost.total()[0]
    (tensor([1, 2]), tensor([1, 7]))
    """

    def __init__(self, examples: int) -> None:
        self.counts = torch.zeros(2, examples, dtype=torch.int64)
        self.who: Tensor | None = None
        self.noted = [0, 0]
        self.parts = list[tuple[Cost, Tensor]]()

    def part(self, who: Tensor) -> "Cost":
        """The count, still at zero, of a search that begins with these examples. Shapes: who int64 [fewer], on the CPU."""
        self.parts.append((own := Cost(len(who)), who))
        return own

    def total(self) -> Tensor:
        """All passes of these examples, those of the parts among them. Shapes: -> int64 [2, examples]: forwards, backwards."""
        whole = self.settle().clone()
        for part, who in self.parts:
            whole.index_add_(1, who, part.total())
        return whole

    def count(self, who: Tensor, forwards: int = 0, backwards: int = 0) -> None:
        """So many passes of each of these examples, some of whom may be there twice. Shapes: who int64 [batch], on the CPU."""
        if who is not self.who:
            self.settle()
            self.who = who
        self.noted[0] += forwards
        self.noted[1] += backwards

    def settle(self) -> Tensor:
        """Write down what is noted. Shapes: -> int64 [2, examples]: forwards, backwards."""
        if self.who is not None:
            self.counts.index_add_(1, self.who, torch.tensor(self.noted)[:, None].expand(2, len(self.who)))
        self.who, self.noted = None, [0, 0]
        return self.counts

    @property
    def untouched(self) -> bool:
        """Whether there was no pass yet."""
        return self.who is None and not self.counts.any()

    @property
    def forwards(self) -> Tensor:
        """Shapes: int64 [examples], on the CPU."""
        return self.settle()[0]

    @property
    def backwards(self) -> Tensor:
        """Shapes: int64 [examples], on the CPU."""
        return self.settle()[1]

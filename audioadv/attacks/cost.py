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
    """

    def __init__(self, examples: int) -> None:
        self.counts = torch.zeros(2, examples, dtype=torch.int64)
        self.who: Tensor | None = None
        self.noted = [0, 0]

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

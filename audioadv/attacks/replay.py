"""A step on CUDA as a graph: its kernels are recorded once, and then started all together.

    steps 1, 2    as they are, beside the usual stream: what is set up at the first use is set up
    step 3        recorded:  delta, velocity --forward, backward, bookkeeping, move--> delta, velocity, in the same memory
    from then on  one launch in place of a hundred and more, from which a small net's step has most of its time

What is recorded must be the same each time: a net that asks the host, draws by a generator of its own or computes on the CPU
cannot be, nor can a batch that examples leave.
"""

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from audioadv.attacks.cost import Cost
from audioadv.attacks.objective import Objective
from audioadv.errors import OptionError

EAGER = 2  # steps before


@final
class Replay:
    """A step `(state, ...) -> (state, ..., what it saw, ...)`, the states first, which must move nothing else but memory that stays.

    What it saw lies in memory that the next step writes. Passes are counted as the step's own would be.
    """

    def __init__(self, step: Callable[..., tuple[Any, ...]], cost: Cost) -> None:
        self.step, self.cost, self.taken = step, cost, 0
        self.beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, *state: Tensor) -> tuple[Any, ...]:
        self.taken += 1
        if self.taken <= EAGER:
            self.beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.beside):
                seen = self.step(*state)
            torch.cuda.current_stream().wait_stream(self.beside)
            for tensor in tree_flatten(seen)[0]:
                tensor.record_stream(torch.cuda.current_stream())
            return seen
        if self.taken == EAGER + 1:
            self.record(*state)
        elif self.who is not None:
            self.cost.count(self.who, *self.passes)
        self.graph.replay()
        return (*self.state, *self.seen)

    def record(self, *state: Tensor) -> None:
        """Record one step, which is not done by that. It counts its passes now, for the first replay.

        Raises OptionError for a step that a graph cannot hold.
        """
        self.state, before = [tensor.clone() for tensor in state], self.cost.noted.copy()
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                out = self.step(*self.state)
                for tensor, new in zip(self.state, out, strict=False):
                    tensor.copy_(new)
        except RuntimeError as failed:
            why = str(failed).partition("\n")[0]
            raise OptionError(
                f"graph: the net asks the host, or draws by itself, and cannot be replayed ({why}). Leave out graph"
            ) from failed
        self.seen, self.who = out[len(state) :], self.cost.who
        self.passes = [now - then for now, then in zip(self.cost.noted, before, strict=True)]


def check_replayable(objective: Objective, early_stop: bool) -> None:
    """Raises OptionError for an attack whose steps are not all alike, or are watched."""
    if early_stop:
        raise OptionError("graph: who has fallen leaves, and a graph has one shape. Add early_stop=False, or leave out graph")
    if objective.slopes is not None or objective.expectation is not None:
        raise OptionError("graph: no step is like another where slopes are estimated, or over a channel. Leave out graph")
    if objective.watch is not None:
        raise OptionError("graph: what is recorded cannot be watched. Leave out graph, or the trace")

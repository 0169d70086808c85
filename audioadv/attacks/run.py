"""What every attack's loop shares: the best input of each example, its cost, and who is still in the batch."""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.threat.projections import each
from audioadv.threat.region import Region

Tell = Callable[[int, Tensor, Tensor], None]
"""`progress(step, gauge, best)`, called after every step with the whole batch's best so far."""


@final
class Run:
    """One attack on one batch, as it goes on.

    `objective` and `region` are those of the examples still in the batch; `here` [still in] numbers these in the batch that
    the attack began with, as `best` [batch, *] and `gauge` [batch] (infinite before success) keep to it.
    """

    def __init__(self, objective: Objective, region: Region, progress: Tell | None = None) -> None:
        count = len(region.clean)
        self.objective, self.region, self.progress = objective.begun(count), region, progress
        self.cost = self.objective.cost
        self.here = torch.arange(count)
        self.best = region.clean.clone()
        self.gauge = region.clean.new_full((count,), math.inf)
        self.broken = torch.zeros(count, dtype=torch.bool)
        self.steps = torch.zeros(count, dtype=torch.int64)

    def keep(self, inputs: Tensor, reached: Tensor, *, anywhere: bool = False) -> Tensor:
        """Keep each input that reaches the goal, lies in its region (or `anywhere`) and is nearer than the best so far.

        Shapes: inputs [still in, *], reached bool [still in] -> bool [still in], which ones were kept.
        """
        if inputs.device.type != "cpu":  # to ask which ones would be to wait
            return self.note(self.region, self.here.to(inputs.device), inputs, reached, anywhere)
        rows, better = reached.nonzero()[:, 0], torch.zeros_like(reached)
        if len(rows):
            better[rows] = self.note(self.region.rows(rows), self.here[rows], inputs[rows], reached[rows], anywhere)
        return better

    def note(self, region: Region, spot: Tensor, inputs: Tensor, reached: Tensor, anywhere: bool) -> Tensor:
        """`keep` for some examples, `spot` their numbers. Shapes: spot, reached and result [some], inputs [some, *]."""
        width, gauge = inputs.shape[-1], region.gauge(inputs)
        better = reached & (gauge < self.gauge[spot])
        if not anywhere:
            better &= region.holds(gauge)
        self.gauge[spot] = torch.where(better, gauge, self.gauge[spot])
        self.best[spot, ..., :width] = torch.where(each(better, inputs), inputs, self.best[spot, ..., :width])
        return better

    def leave(self, finite: Tensor, done: Tensor) -> tuple[Tensor, int] | None:
        """End a step: what is not finite, or done, leaves the batch.

        Shapes: finite and done bool [still in] -> None where nobody leaves, else the rows that stay, and their width.
        """
        self.steps[self.here] += 1
        if self.progress is not None:
            self.progress(int(self.steps.max()), self.gauge, self.best)
        finite, gone = torch.stack([finite, done | ~finite]).cpu()  # the one synchronisation of a step
        self.broken[self.here] |= ~finite
        if not gone.any():
            return None
        stay = (~gone).nonzero()[:, 0]
        self.here, self.objective = self.here[stay], self.objective.rows(stay)
        lengths = self.objective.lengths
        width = self.best.shape[-1] if lengths is None or not len(stay) else int(lengths.max())
        stay = stay.to(self.best.device)
        self.region = self.region.rows(stay, width)
        return stay, width

    def result(self) -> AttackResult:
        """How it ended."""
        outcome = tuple(ended(gauge, bad) for gauge, bad in zip(self.gauge.tolist(), self.broken.tolist(), strict=True))
        return AttackResult(self.best, outcome, self.gauge, self.steps, self.cost.forwards, self.cost.backwards)


def finite_rows(*tensors: Tensor) -> Tensor:
    """Which examples are finite throughout: a sum is, just where its terms are. Shapes: [batch, *] each -> bool [batch]."""
    sums = [tensor.flatten(1).sum(1) if tensor.ndim > 1 else tensor for tensor in tensors]
    return torch.stack(sums).isfinite().all(0)


def ended(gauge: float, broken: bool) -> Outcome:
    """How it ended for one example, from the gauge of its best input, infinite for none."""
    if math.isfinite(gauge):
        return Outcome.REACHED if gauge > 0 else Outcome.NEEDLESS
    return Outcome.NOT_FINITE if broken else Outcome.MISSED


def cut(left: tuple[Tensor, int], *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows that stay, to their width: what `leave` says, done to an attack's own tensors. Shapes: [batch, *] or [batch] each."""
    stay, width = left
    return tuple(tensor[stay][..., :width] if tensor.ndim > 1 else tensor[stay] for tensor in tensors)


def within(region: Region, slope: Tensor) -> Tensor:
    """A slope without the padding's part."""
    return slope if region.inside is None else slope * region.inside


def boxed(region: Region, delta: Tensor) -> Tensor:
    """The nearest delta within the box, whatever its gauge."""
    return delta if region.low is None or region.high is None else torch.minimum(torch.maximum(delta, region.low), region.high)

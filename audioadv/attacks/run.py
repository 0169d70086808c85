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
    the attack began with, as `best` [batch, *] and `gauge` [batch] (infinite before success) keep to it. Over a channel, the
    best is the one of the highest `rate` [batch], then the smallest, and success is a rate that is high enough.
    """

    def __init__(self, objective: Objective, region: Region, progress: Tell | None = None) -> None:
        count = len(region.clean)
        self.objective, self.region, self.progress = objective.begun(region.clean), region, progress
        self.cost = self.objective.cost
        self.here = torch.arange(count)
        self.best = region.clean.clone()
        self.parameters = None if region.added else region.start()
        self.gauge = region.clean.new_full((count,), math.inf)
        self.size = self.gauge.clone()  # of the best, successful or not
        self.rate = torch.zeros_like(self.gauge)
        self.broken = torch.zeros(count, dtype=torch.bool)
        self.steps = torch.zeros(count, dtype=torch.int64)

    def keep(
        self, inputs: Tensor, reached: Tensor, delta: Tensor | None = None, *, anywhere: bool = False, size: Tensor | None = None
    ) -> Tensor:
        """Keep each input that reaches the goal, lies in its region (or `anywhere`) and is better than the best so far.

        `anywhere` says that the search is for the smallest: a rate that is high enough is then as good as any higher one;
        else nothing but all draws is enough. Over a channel, `inputs` are those that the objective has just looked at.
        `delta` are the region's parameters that the inputs were made with; a region that cannot read them back needs them. `size`
        is what should be small, where that is not the gauge.
        Shapes: inputs and delta [still in, *], reached bool and size [still in] -> bool [still in], which were kept and are good enough.
        """
        spot, width = self.here.to(inputs.device), inputs.shape[-1]
        gauge = (self.region if delta is None else self.region.knowing(delta)).gauge(inputs)
        size = gauge if size is None else size
        fits = reached if anywhere else reached & self.region.holds(gauge)
        enough, before, nearer = self.objective.rate if anywhere else 1.0, self.rate[spot], size < self.size[spot]
        rate = self.objective.rates(inputs, fits & (nearer | (before < enough)), before).clamp_max(enough)
        better = fits & ((rate > before) | ((rate == before) & nearer & (rate > 0)))
        good = better & (rate >= self.objective.rate)
        self.rate[spot], self.size[spot] = torch.where(better, rate, before), torch.where(better, size, self.size[spot])
        self.gauge[spot] = torch.where(good, gauge, self.gauge[spot])
        self.best[spot, ..., :width] = torch.where(each(better, inputs), inputs, self.best[spot, ..., :width])
        if self.parameters is not None and delta is not None:
            width = delta.shape[-1]
            self.parameters[spot, ..., :width] = torch.where(each(better, delta), delta, self.parameters[spot, ..., :width])
        return better & (rate >= enough)

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
        self.here = self.here[stay]
        if len(stay):  # a goal of no examples is none
            self.objective = self.objective.rows(stay)
        lengths = self.objective.lengths
        width = self.best.shape[-1] if lengths is None or not len(stay) else int(lengths.max())
        stay = stay.to(self.best.device)
        self.region = self.region.rows(stay, width)
        return stay, width

    def result(self) -> AttackResult:
        """How it ended."""
        ends = zip(self.gauge.isfinite().tolist(), self.broken.tolist(), strict=True)
        outcome = tuple(Outcome.REACHED if hit else Outcome.NOT_FINITE if bad else Outcome.MISSED for hit, bad in ends)
        cost = self.cost
        return AttackResult(self.best, outcome, self.gauge, self.steps, cost.forwards, cost.backwards, self.parameters, self.rate)


def finite_rows(*tensors: Tensor) -> Tensor:
    """Which examples are finite throughout. Shapes: [batch, *] each -> bool [batch]."""
    return torch.stack(
        [tensor.detach().flatten(1).isfinite().all(1) if tensor.ndim > 1 else tensor.detach().isfinite() for tensor in tensors]
    ).all(0)

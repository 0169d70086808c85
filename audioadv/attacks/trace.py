"""What an attack saw, example by example: loss, goal and slope at every look, recorded as it runs.

    trace = Trace(region)
    result = attack(trace.watching(objective), region)
    trace.sights(result)[3].zero        # at how many looks the fourth example's slope was zero

Any attack, any bound, ragged sound too: what is recorded is what the objective answers, and nothing of it is changed. A stage, a
restart or a member of a union is an *attempt* of its own; losses are compared within one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, final

import torch
from torch import Tensor

from audioadv.attacks.objective import Look, Objective, Score
from audioadv.attacks.result import AttackResult
from audioadv.threat.region import Region

FEWEST = 8  # looks with a loss that can be compared, before anything is said of its trend
SLACK = 1e-6  # full scale: how far off the grid rounding may carry an input
SPILL = 0.01  # of the radius: how far out of the bound an attack may stand on its way
ROOM = 256  # steps, to begin with


@final
@dataclass(frozen=True)
class Sight:
    """What an attack saw of one example, over all its attempts. None: it cannot be told.

    looks    how often it got a slope; of these
    zero     slopes that were zero throughout, far from the goal
    broken   losses or slopes that were not finite
    tail     the share of the loss's fall that came in the last quarter of the looks: a quarter, if it falls evenly
    rise     how far its last quarter lies over its first look, as a share of all its range; below 0 if it fell
    spent    the gauge of a miss's last iterate, as a share of the radius, where there is one
    strayed  the answer lies outside the bound, or for a miss, the last iterate does
    lost     the goal was reached within the bound at some look, but the answer is a miss; over a channel it may be: looks have few draws

    Of several attempts, tail and rise are the least, spent is the most.
    """

    reached: bool
    looks: int = 0
    zero: int = 0
    broken: int = 0
    tail: float | None = None
    rise: float | None = None
    spent: float | None = None
    strayed: bool = False
    lost: bool = False


class Looks(NamedTuple):
    """What was seen of all the trace's examples at some steps; NaN of those that had left. `size` is the slope's largest entry.

    Shapes: [steps, examples] each; of reached and near, 1 is yes.
    """

    loss: Tensor
    size: Tensor
    reached: Tensor
    near: Tensor

    @property
    def here(self) -> Tensor:
        """Who was looked at. Shapes: -> bool [steps, examples]."""
        return ~self.reached.isnan()

    @property
    def far(self) -> Tensor:
        """Whose loss is the goal's own, not its margin, and says how far it is. Shapes: -> bool [steps, examples]."""
        return (self.reached == 0) & (self.near == 0)


@final
@dataclass(eq=False)
class Attempt:
    """One run of one attack: what it saw, step by step, who was there last, and their inputs.

    All steps share one tensor [room, kinds, examples]: thousands of small ones, in between what each step takes and gives back, break up
    the heap, and a long search grew by gigabytes.
    """

    seen: Tensor | None = None
    sloped: list[bool] = field(default_factory=list)  # whether a step gave slopes
    examples: Tensor | None = None
    inputs: Tensor | None = None

    def note(self, count: int, spot: Tensor, kinds: Sequence[Tensor | None]) -> None:
        """Another step, in the order of Looks, of `count` examples in all. Shapes: spot and kinds [still in]."""
        number, like = len(self.sloped), spot.new_empty(0, dtype=torch.float32)
        if self.seen is None:
            self.seen = like.new_full((ROOM, len(kinds), count), math.nan)
        elif number == len(self.seen):
            self.seen = torch.cat([self.seen, torch.full_like(self.seen, math.nan)])
        for kind, values in enumerate(kinds):
            if values is not None:
                self.seen[number, kind].index_copy_(0, spot, values.detach().float())
        self.sloped.append(kinds[1] is not None)

    @property
    def looks(self) -> Looks:
        """The steps that gave a slope."""
        assert self.seen is not None
        sloped = torch.tensor(self.sloped, dtype=torch.bool)
        return Looks(*self.seen[: len(self.sloped)].cpu()[sloped].unbind(1))


@final
@dataclass(frozen=True, eq=False)
class Watch:
    """An objective's line to the trace: which of the trace's examples are its own, and which attempt this is. Shapes: examples [batch]."""

    trace: "Trace"
    examples: Tensor
    attempt: Attempt

    def begun(self) -> "Watch":
        """The same examples, from the start."""
        return replace(self, attempt=Attempt())

    def rows(self, index: Tensor) -> "Watch":
        """Some of the examples."""
        return replace(self, examples=self.examples[index])

    def saw(self, objective: Objective, inputs: Tensor, near: Tensor | None, seen: Look | Score | Tensor) -> None:
        """Record what the objective has answered about these inputs. Shapes: inputs [batch, *], near bool [batch]."""
        loss, reached = (None, seen) if isinstance(seen, Tensor) else (seen.loss, seen.reached)
        size = seen.slope.flatten(1).abs().amax(1) if isinstance(seen, Look) else None  # twice as fast as the norm, and never too small
        if not self.attempt.sloped:
            self.trace.begin(self.attempt, objective)
        near = torch.zeros_like(reached) if near is None else near
        self.attempt.note(len(self.trace.hit), self.examples.to(reached.device), (loss, size, reached, near))
        self.attempt.examples, self.attempt.inputs = self.examples, inputs
        if objective.expectation is None:
            self.trace.reach(self.examples, inputs, reached)


@final
class Trace:
    """What an attack sees of the examples of one region. Shapes: hit bool [examples], who was at the goal and within the bound."""

    def __init__(self, region: Region) -> None:
        count = len(region.clean)
        self.region = region
        self.attempts: list[Attempt] = []
        self.hit = torch.zeros(count, dtype=torch.bool)
        self.spent = torch.full((count,), math.nan)
        self.strayed = torch.zeros(count, dtype=torch.bool)
        self.passes = 0  # forwards for one look, the most of all attempts

    def watching(self, objective: Objective) -> Objective:
        """The same objective, over the region's examples; what it answers is recorded here."""
        return replace(objective, watch=Watch(self, torch.arange(len(self.hit)), Attempt()))

    def begin(self, attempt: Attempt, objective: Objective) -> None:
        """Another attempt has had its first look."""
        self.end()
        self.attempts.append(attempt)
        if len(objective.cost.forwards):
            self.passes = max(self.passes, int(objective.cost.forwards[objective.who[0]]))

    def end(self) -> None:
        """Measure where the last attempt ended, and let its inputs go."""
        attempt = self.attempts[-1] if self.attempts else None
        if attempt is None or attempt.examples is None or attempt.inputs is None:
            return
        examples, inputs, attempt.inputs = attempt.examples, attempt.inputs, None
        if not self.region.added:  # parameters cannot be read back from inputs
            return
        region = self.at(examples, inputs)
        share = (region.gauge(inputs) / region.radius).cpu()
        known = share.isfinite() & region.radius.isfinite().cpu()  # of no bound, nothing is a share
        self.spent[examples] = torch.fmax(self.spent[examples], torch.where(known, share, math.nan).float())
        self.strayed[examples] |= (share > 1 + SPILL) | ~in_box(region, inputs).cpu()

    def at(self, examples: Tensor, inputs: Tensor) -> Region:
        """The region of the examples, as wide as their inputs."""
        return self.region.rows(examples.to(inputs.device), inputs.shape[-1])

    def reach(self, examples: Tensor, inputs: Tensor, reached: Tensor) -> None:
        """Remember who is at the goal within the bound, and on the grid."""
        if not self.region.added or not bool(reached.any()):
            return
        fresh = (reached.cpu() & ~self.hit[examples]).nonzero()[:, 0]
        if len(fresh):
            some = inputs[fresh.to(inputs.device)]
            region = self.at(examples[fresh], some)
            self.hit[examples[fresh]] |= (within(region, some) & on_grid(region, some)).cpu()

    def sights(self, result: AttackResult) -> list[Sight]:
        """What was seen of each example, beside how the attack says that it ended."""
        self.end()
        reached = torch.tensor(result.reached, dtype=torch.bool)
        known = self.region.knowing(result.parameters)
        outside = ~within(known, result.adversarial).cpu()
        looks, zero, broken = torch.zeros(3, len(reached), dtype=torch.int64)
        for seen in (attempt.looks for attempt in self.attempts):
            looks += seen.here.sum(0)
            zero += ((seen.size == 0) & seen.far).sum(0)
            broken += (seen.here & ~(seen.size.isfinite() & seen.loss.isfinite())).sum(0)
        tail, rise = trends(self.attempts, len(reached))
        self.spent[reached] = math.nan  # who is there leaves, or goes on, as the attack likes
        strayed, figures = torch.where(reached, outside, self.strayed), map(rounded, (tail, rise, self.spent))
        plain = (part.tolist() for part in (reached, looks, zero, broken))
        return [Sight(*parts) for parts in zip(*plain, *figures, strayed.tolist(), (self.hit & ~reached).tolist(), strict=True)]


def trends(attempts: Sequence[Attempt], count: int) -> tuple[Tensor, Tensor]:
    """Tail and rise of each example's loss (`Sight`), the least of the attempts that it went through to the end; else NaN.

    Shapes: -> [count] twice.
    """
    tail, rise = torch.full((2, count), math.nan)
    for attempt in attempts:
        seen = attempt.looks
        if len(seen.loss) < FEWEST:
            continue
        losses = torch.where(seen.far, seen.loss, math.nan)
        quarter, lowest = len(losses) // 4, losses.cummin(0).values
        span, fall = losses.amax(0) - losses.amin(0), lowest[0] - lowest[-1]
        still = 1e-6 * (1 + losses[0].abs())
        late = torch.where(fall > still, (lowest[-1 - quarter] - lowest[-1]) / fall, 0.0)
        risen = torch.where(span > still, (losses[-quarter:].mean(0) - losses[0]) / span, 0.0)
        whole = losses.isfinite().all(0)
        tail[whole], rise[whole] = torch.fmin(tail, late)[whole], torch.fmin(rise, risen)[whole]
    return tail, rise


def rounded(figures: Tensor) -> list[float | None]:
    """Figures, to four digits; None for what is none."""
    return [round(figure, 4) if math.isfinite(figure) else None for figure in figures.tolist()]


def within(region: Region, inputs: Tensor) -> Tensor:
    """Whether inputs lie in the region, its box and their own lengths; false where that cannot be told. Shapes: -> bool [batch]."""
    return region.holds(region.gauge(inputs)) & in_box(region, inputs)


def in_box(region: Region, inputs: Tensor) -> Tensor:
    """Whether inputs are finite, lie in the box and keep their padding. Shapes: [batch, *] -> bool [batch]."""
    fits = inputs.isfinite()
    if region.inside is not None:
        fits &= region.inside | (inputs == region.clean)
    return region.in_box(inputs) & fits.flatten(1).all(1)


def on_grid(region: Region, inputs: Tensor) -> Tensor:
    """Whether a file can hold the inputs' change as it is. Shapes: [batch, *] -> bool [batch]."""
    if region.grid is None:
        return torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
    steps = (inputs - region.clean) / region.grid
    return ((steps - steps.round()).abs() < SLACK / region.grid).flatten(1).all(1)

"""What every attack's loop shares: the best input of each example, its cost, and who is still in the batch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.threat.projections import each, length_of
from audioadv.threat.region import Region

MOVED = 1e-4  # inputs nearer than this count as unchanged: a rotation by 0 degrees leaves rounding errors
Tell = Callable[[int, Tensor, Tensor], bool | None]
"""`progress(step, gauge, best)`, called after every step with the whole batch's best so far. True says that it is enough: all leave."""


@final
@dataclass(eq=False)
class Waiting:
    """Of each example, the last input that was one too many for the check draws, if there was one, and how it was to be kept.

    Shapes: inputs and parameters as a run's best and its parameters, size and there (bool) [batch].
    """

    inputs: Tensor
    parameters: Tensor | None
    size: Tensor
    there: Tensor
    anywhere: bool

    def put(self, spot: Tensor, which: Tensor, inputs: Tensor, parameters: Tensor | None, size: Tensor) -> None:
        """Let `which` of these inputs wait, in the place of those before. Shapes: spot, which (bool) and size [some], others [some, *]."""
        put(self.inputs, spot, inputs, which)
        put(self.size, spot, size, which)
        put(self.there, spot, which, which)
        if self.parameters is not None and parameters is not None:
            put(self.parameters, spot, parameters, which)


@final
class Run:
    """One attack on one batch, as it goes on.

    `objective` and `region` are those of the examples still in the batch; `here` [still in] numbers these in the batch that
    the attack began with (on the CPU; `spot` where the inputs are), as `best` [batch, *] and `gauge` [batch] (infinite before
    success) keep to it. Over a channel, the best is the one of the highest `rate` [batch], then the smallest, and success is a
    rate that is high enough.
    """

    def __init__(self, objective: Objective, region: Region, progress: Tell | None = None) -> None:
        check_objective(objective)
        count = len(region.clean)
        self.objective, self.region, self.progress = objective.begun(region.clean, region), checked(region), progress
        self.cost, self.whole = self.objective.cost, (self.objective, self.region)
        self.here = torch.arange(count)
        self.spot = self.here.to(region.clean.device)  # the same, where the inputs are
        self.clean, self.best = region.clean, region.clean.clone()
        self.parameters = None if region.added else region.start()
        self.gauge = region.clean.new_full((count,), math.inf)
        self.size = self.gauge.clone()  # of the best, successful or not, where that is more than its gauge
        self.rate, self.heard = torch.zeros_like(self.gauge), torch.zeros_like(self.gauge)
        self.waiting: Waiting | None = None
        # [still in], running sum of what `stay` was given; not finite: the example broke. One tensor: many small ones fragment the heap
        self.sums = torch.zeros_like(self.gauge)
        self.broken = torch.zeros(count, dtype=torch.bool)
        self.steps = torch.zeros(count, dtype=torch.int64)  # of those that have left
        self.taken, self.enough = 0, False
        self.opened: Tensor | None = None  # what `open` says, until it changes

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
        region = self.region.knowing(delta)
        if not inputs.is_cpu or self.objective.expectation is not None:  # to ask which ones would be to wait
            return self.note(region, None, inputs, reached, anywhere, size)
        rows = reached.nonzero()
        if not len(rows):
            return reached
        rows = rows[:, 0]
        return self.note(region, rows, inputs.index_select(0, rows), reached, anywhere, None if size is None else size[rows])

    def confirmed(self, inputs: Tensor, reached: Tensor) -> Tensor:
        """Which of these inputs, some of the many just looked at, are at the goal. `keep` goes by the last look at an example: over a
        channel they get one of their own.

        Shapes: inputs [still in, *], reached bool [still in] -> bool [still in].
        """
        return reached if self.objective.expectation is None else reached & self.objective.decide(inputs)

    def note(
        self,
        region: Region,
        rows: Tensor | None,
        inputs: Tensor,
        reached: Tensor,
        anywhere: bool,
        size: Tensor | None,
        last: bool = False,
    ) -> Tensor:
        """`keep`, with the inputs and sizes of those that reached the goal only (`rows`), or of all; the `last` ones have waited.

        Shapes: rows [some], inputs [some, *], size [some], reached and result [still in].
        """
        spot, self.opened = self.spot if rows is None else self.spot.index_select(0, rows), None
        gauge, inside = region.measured(inputs, rows)
        fits = torch.ones_like(inside) if anywhere else inside
        if rows is None:
            fits = fits & reached
        before = self.gauge.index_select(0, spot)
        if self.objective.expectation is not None:
            better, good, done = self.oftener(inputs, region.known, gauge if size is None else size, fits, spot, anywhere, last)
        elif size is not None:
            better = good = done = fits & (size < self.size[spot])
            self.size[spot] = torch.where(better, size, self.size[spot])
        else:
            better = good = done = fits & (gauge < before)
        every = rows is not None and bool(better.all())  # mostly so, and a copy is cheaper than a choice
        self.gauge.index_copy_(0, spot, gauge if every else torch.where(good, gauge, before))
        put(self.best, spot, inputs, None if every else better)
        if self.parameters is not None and region.known is not None:
            put(self.parameters, spot, region.known if rows is None else region.known[rows], None if every else better)
        if rows is None:
            return done
        return reached if every else reached.index_copy(0, rows, done)

    def oftener(
        self, inputs: Tensor, parameters: Tensor | None, size: Tensor, fits: Tensor, spot: Tensor, anywhere: bool, last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Over a channel: which inputs are better than the best so far, which of them a success, and which are good enough."""
        enough, before, nearer = self.objective.rate if anywhere else 1.0, self.rate[spot], size < self.size[spot]
        candidates = fits & (nearer | (before < enough))
        if not last and bool((late := self.objective.refused(candidates, before)).any()):
            if self.waiting is None:
                self.waiting = Waiting(
                    self.best.clone(),
                    None if self.parameters is None else self.parameters.clone(),
                    self.size.clone(),
                    torch.zeros_like(self.size, dtype=torch.bool),
                    anywhere,
                )
            self.waiting.put(spot, late, inputs, parameters, size)
        heard = self.objective.rates(inputs, candidates, before, last)
        rate = heard.clamp_max(enough)
        better = fits & ((rate > before) | ((rate == before) & nearer & (rate > 0)))
        for kept, new in ((self.rate, rate), (self.heard, heard), (self.size, size)):
            kept[spot] = torch.where(better, new, kept[spot])
        return better, better & (rate >= self.objective.rate), better & (rate >= enough)

    def open(self) -> Tensor:
        """Who has not come to the goal yet; over a channel, not in all draws. Shapes: -> bool [still in]."""
        if self.opened is None:
            self.opened = self.gauge[self.spot] == math.inf if self.objective.expectation is None else self.rate[self.spot] < 1
        return self.opened

    def told(self) -> None:
        """Count a step, and say so."""
        self.taken += 1
        if self.progress is not None:
            self.enough = self.progress(self.taken, self.gauge, self.best) is True

    def stay(self, seen: Tensor) -> None:
        """End a step that nobody leaves after: whether all that was seen is finite, the end will tell, and no step waits to know.

        Shapes: seen [still in].
        """
        self.told()
        self.sums += seen

    def leave(self, finite: Tensor, done: Tensor) -> tuple[Tensor, int] | None:
        """End a step: what is not finite, or done, leaves the batch.

        Shapes: finite and done bool [still in] -> None where nobody leaves, else the rows that stay, and their width.
        """
        self.told()
        stays = torch.zeros_like(done) if self.enough else finite & ~done
        if stays.all():  # the one synchronisation of a step
            return None
        stays, finite = torch.stack([stays, finite]).cpu()
        self.broken[self.here] |= ~finite
        self.steps[self.here] = self.taken
        stay = stays.nonzero()[:, 0]
        self.here = self.here[stay]
        if len(stay):  # a goal of no examples is none
            self.objective = self.objective.rows(stay)
        lengths = self.objective.lengths
        width = self.best.shape[-1] if lengths is None or not len(stay) else int(lengths.max())
        stay = stay.to(self.best.device)
        self.region, self.spot, self.opened = self.region.rows(stay, width), self.spot[stay], None
        self.sums = self.sums[stay]
        return stay, width

    def put_last(self) -> None:
        """Put what has waited to the check draws. Nothing comes after it: whoever had left is back in the batch."""
        waiting = self.waiting
        if waiting is None:
            return
        self.spot = waiting.there.nonzero()[:, 0]
        objective, region = self.whole
        self.objective, self.region = objective.rows(self.spot.cpu()), region.rows(self.spot)
        known = self.region.knowing(None if waiting.parameters is None else waiting.parameters[self.spot])
        inputs, size, there = (part[self.spot] for part in (waiting.inputs, waiting.size, waiting.there))
        with at_rest(self.objective.model):
            self.note(known, None, inputs, there, waiting.anywhere, size, last=True)

    def result(self) -> AttackResult:
        """How it ended."""
        self.broken[self.here] |= ~self.sums.isfinite().cpu()
        self.steps[self.here] = self.taken
        self.put_last()
        # all-zero parameters still paint a grey patch, so gauge 0 may be a change
        changed = (self.gauge > 0) | ((self.best - self.clean).abs() > MOVED).flatten(1).any(1)
        outcome = tuple(map(ended, self.gauge.tolist(), changed.tolist(), self.broken.tolist()))
        cost, rate = self.cost, None if self.objective.expectation is None else self.heard
        return AttackResult(self.best, outcome, self.gauge, self.steps, cost.forwards, cost.backwards, self.parameters, rate)


def row_sums(*tensors: Tensor) -> Tensor:
    """The sum of all that each example has, finite just where its terms are. Shapes: [batch, *] each -> [batch]."""
    sums = [tensor.flatten(1).sum(1) if tensor.ndim > 1 else tensor for tensor in tensors]
    return sum(sums[1:], sums[0])


def finite_rows(*tensors: Tensor) -> Tensor:
    """Which examples are finite throughout. Shapes: [batch, *] each -> bool [batch]."""
    return row_sums(*tensors).abs() < math.inf  # what isfinite does, for less


def ended(gauge: float, changed: bool, broken: bool) -> Outcome:
    """How it ended for one example, from the gauge of its best input, infinite for none."""
    if math.isfinite(gauge):
        return Outcome.REACHED if changed else Outcome.NEEDLESS
    return Outcome.NOT_FINITE if broken else Outcome.MISSED


def cut(left: tuple[Tensor, int], *tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows that stay, to their width: what `leave` says, done to an attack's own tensors. Shapes: [batch, *] or [batch] each."""
    stay, width = left
    return tuple(tensor[stay][..., :width] if tensor.ndim > 1 else tensor[stay] for tensor in tensors)


def put(whole: Tensor, spot: Tensor, values: Tensor, where: Tensor | None = None) -> None:
    """Write the values of some examples, which may have lost padding, into the whole batch's. Shapes: spot and where [some]."""
    own = whole if whole.ndim == 1 or whole.shape[-1] == values.shape[-1] else whole[..., : values.shape[-1]]
    own.index_copy_(0, spot, values if where is None else torch.where(each(where, values), values, own.index_select(0, spot)))


def boxed(region: Region, delta: Tensor) -> Tensor:
    """The nearest delta within the box, whatever its gauge; parameters that are no changes know no box."""
    if region.low is None or region.high is None or not region.added:
        return delta
    return delta.clamp(region.low, region.high)


def restless(slope: Tensor, lost: Tensor) -> Tensor:
    """For those that are lost, the slope's signs, as long as the slope: every entry moves, also those that it hardly sees.

    What it is for: nets that threshold their input, as adversarial training in Linf teaches. On mnist-robust a step along the
    slope goes to few entries (5 % of them hold over 99 % of the slope's square), which soon reach the box; from then on the
    slope is a twentieth of what it was. The signs bring all the others, step by step, to the first layer's thresholds (0.2 to 0.5
    of full scale), and behind those the slope is ten times larger: within ten such steps 98 of 100 images are lost to the net,
    of those along the slope 9. Images 1000 .. 1199, FMN with 100 steps: in Linf 63 not found without it, 0 with it; in L2 the same.
    Shapes: slope [batch, *], lost bool [batch] -> as slope.
    """
    if not lost.is_cuda and not lost.any():  # a GPU would be out of work while it is asked
        return slope
    sign = slope.sign()
    long = length_of(slope) / length_of(sign).clamp_min(1.0)
    return torch.where(each(lost, slope), each(long, slope) * sign, slope)


def checked(region: Region) -> Region:
    """The region, once its radii are known to be such. Raises UnusableBatch for negative ones, or not one for each example, OptionError
    for what is no region."""
    check_region(region)
    radius, count = region.radius, len(region.clean)
    if radius.shape != (count,) or not bool((radius >= 0).all()):
        raise UnusableBatch(f"radii {radius.tolist()} for {count} examples: give one for each, a number of at least 0")
    return region


def check_objective(objective: Objective) -> None:
    """Raises OptionError for a model, say, in place of an objective."""
    if not isinstance(objective, Objective):
        raise OptionError(
            f"objective of type {type(objective).__name__}: not an objective. Make one: objective(model, Misclassify(labels))"
        )


def check_region(region: Region) -> None:
    """Raises OptionError for a bound, say, in place of a region."""
    if not isinstance(region, Region):
        raise OptionError(f"region {region!r:.60}: not a region. Make one around the inputs: bound.around(clean)")


def check_fixed_radius(region: Region, attack: str) -> None:
    """Raises OptionError for a region that is searched for the smallest change, for an attack whose steps are shares of a radius."""
    check_region(region)
    if bool(region.radius.isinf().any()):
        raise OptionError(
            f"{attack} works within a fixed radius, and a min bound has none. Give it one, or use an attack that looks for the smallest "
            "change: fmn, find_then_shrink, hop_skip_jump"
        )


def check_plain_changes(region: Region, attack: str) -> None:
    """Raises OptionError for a region with parameters of its own, for an attack that changes inputs sample by sample."""
    if not region.added:
        raise OptionError(f"{attack} changes inputs directly, but this bound has parameters of its own. Use pgd, apgd or fmn")

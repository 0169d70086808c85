"""Expectation over transformation (EOT): the goal, on average over draws of a channel.

    inputs [batch, *]  --K draws each-->  K x batch rows  --sorted by length, in chunks-->  channel, model, loss, slope
                                                                                                 |
    loss, slope [batch]  <------------------------- mean over an example's own draws ------------'

An objective with an `Expectation` is one as any other, so every attack and every bound works over a channel. What differs:

draws    Each look meets draws that the example has not met: the n-th forward of an example meets its n-th draw. A share of
         them (`hard`: of the usual 0.25, none where there are less than four) is met again instead: of the last ones, those
         whose loss was high are the likelier. So hard rooms come up more often, and the mean is a biased one, towards the
         worst; the rates below are not touched by it.
lengths  Slopes of single draws are of very different lengths and point almost anywhere: through `room_then_noise:20..30`, at an SNR
         of 15 dB, two of them had a cosine of 0.008, and the longest was four times the median. With `even`, each is
         brought to length 1 before the mean, so that no few draws are all of it. Measured there, the mean over 32 draws
         then falls by 1.21 times as much: what half as many draws again would bring.
chunks   As many rows go through the model at once as `memory_mib` holds of what the backward pass needs; the first chunk is
         measured for that. More draws take longer, but no more memory. Rows of one length lie together, so that there is
         less padding than in the batch itself.
rates    Whether an input reaches the goal is a *rate* over check draws: other draws, in other rooms, forward only. They are the
         same throughout a run (common random numbers): two inputs differ in rate by what they are, not by luck, and trying
         again wins nothing. Only inputs that would be kept are put to it, no longer than they can still win, and after the
         first ones no more than `CHECKED` of all forwards go into it, but for each example's last input that was so refused:
         when the run ends, it is put to it all the same (`Run.result`). Mostly that is the best there is.
fixed    Where neither the channel nor the model draws anything, one draw says all, and no more are looked at (`against`).

Sources: Athalye et al. 2018, "Synthesizing robust adversarial examples"; for rooms, Yakura and Sakuma 2019, "Robust audio
adversarial example for a physical attack", and Qin et al. 2019.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from audioadv.attacks.objective import Look, Objective, Score, losses_and_reached, of_rows, slope_at
from audioadv.audio.ragged import inside
from audioadv.audio.roomsets import Role
from audioadv.defenses.statement import stated
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.rest import fitting
from audioadv.options import check_counts, is_number, is_whole
from audioadv.threat.channels.channel import NOTHING, Channel
from audioadv.threat.channels.keys import Key, fingerprint
from audioadv.threat.channels.specs import as_channel, check_kind
from audioadv.threat.goals import Goal
from audioadv.threat.projections import each, length_of

FOUND = 0.5  # of the draws: at the goal, as far as an attack's schedule is concerned
REMEMBERED = 32  # draws of each example that can be met again
CHECKED = 1 / 4  # of all forwards: those that may go into rates
ROUND = 8  # check draws at a time, before it is asked whether the input can still win
ON_CPU_MIB, ON_CUDA_MIB = 96.0, 4096.0  # of a chunk: on a CPU, what stays near the cores is faster than what is large
FIRST = 4  # rows of the chunk that is measured
SEEDS = 2**62  # of either sign; a draw's seed is this one and the number of the start
HOPELESS = 1e9  # nats: the loss of an example none of whose draws has room for its text
SHORT = 1e-3  # draws that a rate may be short of: 0.55 * 100 is a little more than 55


@final
class Row(NamedTuple):
    """One draw for one example of the batch at hand."""

    example: int
    key: Key


@final
@dataclass(eq=False)
class Memory:
    """What a run has learnt, by the number of an example in the batch that it began with.

    `names` are the examples' own numbers for their random draws, `losses` those of their last draws, `shares` those of the
    last look's new draws that were at the goal, `checks` the forwards that went into rates. A sample costs a chunk
    `bytes_per_sample`, infinite before it is measured.
    """

    names: tuple[int, ...]
    losses: tuple[dict[int, float], ...]
    shares: list[float]
    checks: list[int]
    bytes_per_sample: float = math.inf

    def remember(self, number: int, draw: int, loss: float) -> None:
        """Keep a draw's last loss; the draw met longest ago is forgotten."""
        seen = self.losses[number]
        seen.pop(draw, None)
        if math.isfinite(loss):
            seen[draw] = loss
        if len(seen) > REMEMBERED:
            del seen[next(iter(seen))]


@final
@dataclass(frozen=True, eq=False)
class Expectation:
    """`draws` of the channel for each look, and `check_draws` for the rate of an input that might be kept.

    `rate` is the share of check draws that counts as reaching the goal. With `even`, the slopes of all draws are as long.
    Of several starts (`start` 0, 1 ...) each meets other draws, and all are checked by the same.
    `sample_rate` (Hz) is asked for where the model does not say its own. A spec (`"noise:20"`) will do for a channel. Raises
    OptionError for numbers that make no sense, MalformedSpec for what is no channel.
    """

    channel: Channel
    draws: int = 4
    check_draws: int = 32
    rate: float = 0.9
    hard: float = 0.25
    even: bool = False
    seed: int = 0
    start: int = 0
    memory_mib: float = ON_CPU_MIB
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel", as_channel(self.channel))
        check_counts("expectation", draws=self.draws, check_draws=self.check_draws)
        object.__setattr__(self, "seed", as_seed(self.seed))
        if not is_number(self.sample_rate) or self.sample_rate < 1:
            raise OptionError(f"sample_rate {self.sample_rate!r}: give hertz, for example 16000")
        if not is_number(self.rate) or not 0 < self.rate <= 1:
            raise OptionError(f"rate {self.rate!r}: the share of draws that must reach the goal lies above 0 and goes up to 1")
        if not is_number(self.hard) or not 0 <= self.hard < 1:
            raise OptionError(f"hard {self.hard!r}: the share of draws that are met again is at least 0 and below 1")
        if not is_number(self.memory_mib) or self.memory_mib <= 0:
            raise OptionError(f"memory_mib {self.memory_mib!r}: give the mebibytes that one chunk may hold, for example 96")

    def against(self, model: Callable[..., Any]) -> "Expectation":
        """The same for this model: one draw where all would be alike. Without a channel draws are the model's, whatever it states."""
        every = self.channel == NOTHING or distinct(2, self.channel, model) > 1
        return self if every else replace(self, draws=1, check_draws=1)

    def memory(self, clean: Tensor, lengths: Tensor | None) -> Memory:
        """What a run on these examples begins with. Shapes: clean [batch, *], lengths [batch].

        Raises UnusableBatch for sound over a channel for images, or the reverse, and for sound without lengths over one that changes them.
        """
        check_kind(self.channel, clean)
        width = clean.shape[-1]
        if lengths is None and clean.ndim == 2 and (span := self.channel.lengths(width)) != (width, width):
            made = f"makes {span[0]} to {span[1]} samples of {width}, and this objective has no lengths"
            raise UnusableBatch(
                f"channel {self.channel}: {made}. Take a channel that keeps the length, as a Classifier needs, or give lengths to a model "
                "that is called with (waveforms, lengths): aa.objective(model, goal, lengths)"
            )
        ends = [width] * len(clean) if lengths is None else lengths.tolist()
        names = tuple(fingerprint(example[..., :end]) for example, end in zip(clean, ends, strict=True))
        return Memory(names, tuple({} for _ in names), [0.0] * len(names), [0] * len(names))

    def look(self, objective: Objective, inputs: Tensor, near: Tensor | None, slack: float | Tensor) -> Look:
        """`Objective.look` over the channel: mean loss, whether half of the new draws reach the goal, mean slope."""
        memory, who = known(objective)
        first = objective.cost.forwards[objective.who].tolist()
        rows = [Row(example, key) for example in range(len(inputs)) for key in self.plan(memory, who[example], first[example])]
        mean, slope, hits = Mean(inputs, self.draws), torch.zeros_like(inputs), [0] * len(inputs)
        new = Counter(row.example for row in rows if row.key.draw >= first[row.example])
        for some, index, part, lengths in self.chunks(objective, rows, inputs):
            part = part.requires_grad_()
            with Measured(memory, part):
                outputs, goal = self.played(objective, some, index, part, lengths)
                losses, reached = losses_and_reached(outputs, goal, None if near is None else near[index], of_rows(slack, index))
            slopes = slope_at(losses.sum(), part, objective.model)
            counts = mean.add(index, losses.detach(), outputs, goal)
            slopes = slopes if counts is None else torch.where(each(counts, slopes), slopes, 0.0)
            if self.even:
                slopes = slopes if lengths is None else slopes * inside(lengths, slopes.shape[-1])  # no one else's padding
                slopes = slopes / each(length_of(slopes).clamp_min(1e-30), slopes)
            slope[..., : slopes.shape[-1]].index_add_(0, index, slopes / self.draws)
            for row, value, hit in zip(some, losses.tolist(), reached.tolist(), strict=True):
                memory.remember(who[row.example], row.key.draw, value)
                hits[row.example] += hit and row.key.draw >= first[row.example]
        for example, number in enumerate(who):
            memory.shares[number] = hits[example] / new[example]
        objective.cost.count(objective.who, forwards=self.draws, backwards=self.draws)
        found = torch.tensor([memory.shares[number] >= FOUND for number in who], dtype=torch.bool, device=inputs.device)
        return Look(mean.loss(), found, slope if mean.whole else slope * each(mean.share(), slope))

    def score(self, objective: Objective, inputs: Tensor, near: Tensor | None, slack: float | Tensor) -> Score:
        """`Objective.score` over the channel: mean loss, and whether half of the draws, all of them new, reach the goal."""
        mean = Mean(inputs, self.draws)

        def judge(outputs: Any, goal: Goal, index: Tensor) -> Tensor:
            losses, reached = losses_and_reached(outputs, goal, None if near is None else near[index], of_rows(slack, index))
            mean.add(index, losses, outputs, goal)
            return reached

        found = self.asked(objective, inputs, judge)
        return Score(mean.loss(), found)

    def decide(self, objective: Objective, inputs: Tensor) -> Tensor:
        """`Objective.decide` over the channel: whether half of the draws, all of them new, reach the goal."""
        return self.asked(objective, inputs, lambda outputs, goal, index: goal.reached(outputs))

    @torch.no_grad()
    def asked(self, objective: Objective, inputs: Tensor, judge: Callable[[Any, Goal, Tensor], Tensor]) -> Tensor:
        """New draws, forward only, each judged by (outputs, goal, examples) -> reached; whether half reach it. Shapes: -> bool [batch]."""
        memory, who = known(objective)
        first, hits = objective.cost.forwards[objective.who].tolist(), [0] * len(inputs)
        keys = [self.key(memory, number, start) for number, start in zip(who, first, strict=True)]
        rows = [Row(i, key._replace(draw=key.draw + place)) for i, key in enumerate(keys) for place in range(self.draws)]
        for some, index, part, lengths in self.chunks(objective, rows, inputs):
            reached = judge(*self.played(objective, some, index, part, lengths), index)
            for row, hit in zip(some, reached.tolist(), strict=True):
                hits[row.example] += hit
        for number, hit in zip(who, hits, strict=True):
            memory.shares[number] = hit / self.draws
        objective.cost.count(objective.who, forwards=self.draws)
        return torch.tensor([hit >= FOUND * self.draws for hit in hits], dtype=torch.bool, device=inputs.device)

    def refused(self, objective: Objective, candidates: Tensor, least: Tensor) -> Tensor:
        """Which candidates `rates` would turn away only because their checks have had their share of the forwards.

        Shapes: candidates bool [batch], least [batch] -> bool [batch].
        """
        memory, who = known(objective)
        spent, turned = objective.cost.forwards.tolist(), torch.zeros_like(candidates)
        likely = self.likely(memory, who, candidates, least)
        turned[[i for i in likely if memory.checks[who[i]] > CHECKED * spent[who[i]] + self.check_draws]] = True
        return turned

    def likely(self, memory: Memory, who: list[int], candidates: Tensor, least: Tensor) -> list[int]:
        """The candidates whose last look was no worse than `least`. Shapes: candidates bool [batch], least [batch]."""
        wanted = least.tolist()
        return [i for i in candidates.nonzero()[:, 0].tolist() if memory.shares[who[i]] >= wanted[i] - 1e-4]

    @torch.no_grad()
    def rates(self, objective: Objective, inputs: Tensor, candidates: Tensor, least: Tensor, last: bool = False) -> Tensor:
        """The share of check draws at the goal, for the candidates; zero for the others.

        A candidate whose last look was worse than `least`, or whose checks have had their share, is not put to it, unless it is the
        `last` of its example; one that can no longer come to `least` is given up, with the share up to there.
        Shapes: inputs [batch, *], candidates bool [batch], least [batch] -> [batch].
        """
        memory, who = known(objective)
        hits, wanted = [0] * len(inputs), least.tolist()
        if last:
            left = candidates.nonzero()[:, 0].tolist()
        else:
            left = self.likely(memory, who, candidates & ~self.refused(objective, candidates, least), least)
        for first in range(0, self.check_draws, ROUND):
            draws = range(first, min(first + ROUND, self.check_draws))
            names = {example: memory.names[who[example]] for example in left}
            rows = [Row(example, Key(self.seed, names[example], draw, Role.CHECK)) for example in left for draw in draws]
            for some, index, part, lengths in self.chunks(objective, rows, inputs):
                outputs, goal = self.played(objective, some, index, part, lengths)
                reached = goal.reached(outputs)
                for row, hit in zip(some, reached.tolist(), strict=True):
                    hits[row.example] += hit
            objective.cost.count(objective.who[left], forwards=len(draws))
            for example in left:
                memory.checks[who[example]] += len(draws)
            missing = self.check_draws - draws.stop
            left = [example for example in left if enough(hits[example] + missing, self.check_draws, wanted[example])]
        return torch.tensor(hits).to(inputs) / self.check_draws

    def key(self, memory: Memory, number: int, draw: int) -> Key:
        """What a draw to craft on is drawn with, for one example."""
        return Key(self.seed + self.start, memory.names[number], draw)

    def plan(self, memory: Memory, number: int, first: int) -> Iterator[Key]:
        """The draws of one look for one example: new ones from `first` on, then hard ones again."""
        key, seen = self.key(memory, number, first), memory.losses[number]
        again = min(int(self.hard * self.draws), len(seen))
        yield from (key._replace(draw=first + place) for place in range(self.draws - again))
        if again:
            losses = torch.tensor(list(seen.values()))
            weights = (losses - losses.min().clamp_max(0)).clamp_min(1e-6)  # of losses below 0, over the least of them
            chosen = torch.multinomial(weights, again, generator=key.part(0).generator())
            yield from (key._replace(draw=list(seen)[place]) for place in chosen.tolist())

    def chunks(
        self, objective: Objective, rows: Sequence[Row], inputs: Tensor
    ) -> Iterator[tuple[list[Row], Tensor, Tensor, Tensor | None]]:
        """The rows, longest first, as many at a time as the memory holds, each with its example, inputs and length."""
        ends = [math.prod(inputs.shape[1:])] * len(inputs) if objective.lengths is None else objective.lengths.tolist()
        rows, place, memory = sorted(rows, key=lambda row: -ends[row.example]), 0, known(objective)[0]
        while place < len(rows):
            size = ends[rows[place].example] * memory.bytes_per_sample
            fitting = max(1, int(self.memory_mib * 2**20 / size)) if math.isfinite(size) else FIRST
            some = list(rows[place : place + fitting])
            place += len(some)
            index = torch.tensor([row.example for row in some], device=inputs.device)
            if objective.lengths is None:
                yield some, index, inputs[index], None
            else:
                lengths = objective.lengths[index]
                yield some, index, inputs[index, ..., : int(lengths.max())], lengths

    def played(self, objective: Objective, rows: list[Row], index: Tensor, part: Tensor, lengths: Tensor | None) -> tuple[Any, Goal]:
        """What the model makes of each row, and the rows' goal. Raises UnusableBatch for a model that another dtype or device fails."""
        heard, ends = self.channel.draw([row.key for row in rows], self.heard_at(objective))(part, lengths)
        with fitting(objective.model, heard):  # the model is asked as it is without a channel
            outputs = objective.model(heard) if lengths is None or ends is None else objective.model(heard, ends)
        return outputs, objective.goal.rows(index.cpu())

    def heard_at(self, objective: Objective) -> int:
        """The rate that the model listens at, Hz."""
        return getattr(objective.model, "sample_rate", None) or self.sample_rate


def as_seed(seed: Any) -> int:
    """What draws begin with. Raises OptionError for what is no whole number, or too large a one."""
    if not is_whole(seed) or not -SEEDS <= seed < SEEDS:
        raise OptionError(f"seed {seed!r}: give a whole number of at most 63 bits, for example 0")
    return int(seed)


def distinct(draws: int, channel: Channel, model: Callable[..., Any]) -> int:
    """How many of so many draws may differ: all, but one where neither the channel nor the model, by what it states, draws anything."""
    return draws if channel.random or stated(model).random else 1


def enough(hits: int, draws: int, rate: float) -> bool:
    """Whether so many of the draws are this share of them, whatever rounding says.

    >>> 55 >= 0.55 * 100, enough(55, 100, 0.55), enough(54, 100, 0.55)
    (False, True, False)
    """
    return hits >= rate * draws - SHORT


@final
class Mean:
    """The mean loss of each example over its draws: of those alone that have room for its text.

    A speed may leave some draws too short for the text: their loss is infinite whatever is changed, and says nothing of the others.
    Any other loss that is not finite is the model's doing, and stays. Shapes: inputs [batch, *].
    """

    def __init__(self, inputs: Tensor, draws: int) -> None:
        self.sum, self.left = inputs.new_zeros(len(inputs)), inputs.new_full((len(inputs),), draws)
        self.draws, self.whole = draws, True  # whether all draws count

    def add(self, index: Tensor, losses: Tensor, outputs: Any, goal: Goal) -> Tensor | None:
        """Count these draws of examples `index`, and say which count; None for all. Shapes: index and losses [rows] -> bool [rows]."""
        losses, counts = losses.to(self.sum), None
        if bool((lost := losses.isposinf()).any()):
            counts = ~(lost & torch.tensor([why is not None for why in goal.impossible(outputs)], device=losses.device))
            losses = torch.where(counts, losses, 0.0)
            self.left.index_add_(0, index, counts.to(losses) - 1)
            self.whole = False
        self.sum.index_add_(0, index, losses / self.draws)
        return counts

    def share(self) -> Tensor:
        """What a sum over all draws, divided by their number, is to be multiplied by: just 1 where all count. Shapes: -> [batch]."""
        return self.draws / self.left.clamp_min(1)

    def loss(self) -> Tensor:
        """Shapes: -> [batch]."""
        return torch.where(self.left > 0, self.sum * self.share(), HOPELESS)


def known(objective: Objective) -> tuple[Memory, list[int]]:
    """What a run has learnt, and the numbers of the examples that are still in it."""
    assert objective.memory is not None
    return objective.memory, objective.who.tolist()


@final
class Measured:
    """Within it, what autograd keeps for the backward pass is counted, once a run."""

    def __init__(self, memory: Memory, part: Tensor) -> None:
        self.memory, self.samples = memory, part.numel()
        self.held: Counter[int] = Counter()
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.count, lambda tensor: tensor)

    def count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.held[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> None:
        if math.isinf(self.memory.bytes_per_sample):
            self.hooks.__enter__()

    def __exit__(self, *error: object) -> None:
        if math.isinf(self.memory.bytes_per_sample):
            self.hooks.__exit__(None, None, None)
            self.memory.bytes_per_sample = max(1.0, sum(self.held.values()) / self.samples)

"""The objective: model and goal as one function of the inputs. An attack knows nothing else of either.

    inputs [batch, *] --on a CPU, clips of like length, `PART` at a time--> model, goal, slope --in the batch's order--> Look

A batch that is seen in parts has less padding, and what a part needs stays nearer to the cores. Two batches of 16 from the craft
suite (65 and 85 % sound, the rest padding), forward, loss and gradient in parts of 8, as a share of the time of all 16 at once:
tiny-wave 0.72 and 0.95, tiny-mel 0.81 and 0.81 with one thread; 0.83, 0.95, 0.83 and 0.86 with two. Parts of 4 and 16 take longer.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.attacks.cost import Cost
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.models.abstention import decided
from audioadv.models.access import Access, granted, includes
from audioadv.models.classifier import Classifier
from audioadv.models.recogniser import Emissions, hears
from audioadv.models.rest import fitting, only_read
from audioadv.threat.bounds import Box
from audioadv.threat.goals import Goal
from audioadv.threat.joined import is_goal
from audioadv.threat.labels import ON_DECISIONS, Classify, Confidence, Misclassify, look_like_probabilities
from audioadv.threat.region import Region

if TYPE_CHECKING:
    from audioadv.attacks.eot import Expectation, Memory
    from audioadv.attacks.trace import Watch


class Look(NamedTuple):
    """What one look at a batch of inputs tells. Shapes: loss [batch], reached bool [batch], slope as the inputs."""

    loss: Tensor
    reached: Tensor
    slope: Tensor


class Score(NamedTuple):
    """What a look without a slope tells. Shapes: loss [batch], reached bool [batch]."""

    loss: Tensor
    reached: Tensor


Seen = TypeVar("Seen", Look, Score, Tensor)


class SlopeSource(Protocol):
    """Where slopes come from, if not from the model's own gradients: an estimate from scores, say (`attacks/estimates.py`)."""

    def begun(self, clean: Tensor, box: Box) -> Self:
        """The same source with nothing remembered, for these examples; it asks about nothing outside the box. Shapes: clean [batch, *]."""
        ...

    def look(self, objective: "Objective", inputs: Tensor, near: Tensor | None, slack: float | Tensor) -> Look:
        """What `objective.look` gives its caller. It may use objective.score and objective.decide, which count their passes."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Objective:
    """`objective.look(inputs)` gives loss, reached and slope from one forward and one backward through the model.

    `score` gives no slope, `decide` only whether the goal is reached: what an attacker with less access sees. With `slopes`,
    `look` asks that source instead of the model's gradients.

    `lengths` [batch] are the clips' own, in samples, for ragged audio. `who` numbers the examples of the batch that the
    attack began with, so that cost stays with its example when others have left. With an `expectation`, all of this is over
    draws of a channel, and `memory` is what it has learnt of them (`attacks/eot.py`). With a `watch`, all that an attack sees
    is recorded (`attacks/trace.py`).

    Raises OptionError for `slopes` and an `expectation` at once: scores over different draws differ by more than their inputs do.
    """

    model: Callable[..., Any]
    goal: Goal
    lengths: Tensor | None = None
    who: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    cost: Cost = field(default_factory=lambda: Cost(0))
    slopes: SlopeSource | None = None
    expectation: "Expectation | None" = None
    memory: "Memory | None" = None
    watch: "Watch | None" = None

    def __post_init__(self) -> None:
        if self.slopes is not None and self.expectation is not None:
            raise OptionError("slopes estimated from scores do not work over a channel. Leave out slopes, or the expectation")

    def begun(self, clean: Tensor, region: Region | None = None) -> "Objective":
        """The same objective over these examples, nothing spent yet: what an attack starts from. Shapes: clean [batch, *].

        Slopes that are estimated are so within the region's box. Begun again, it counts for itself, and in the first one's `cost.total()`.
        """
        cost = self.cost.part(self.who) if len(self.who) == len(clean) else Cost(len(clean))
        slopes = None if self.slopes is None else self.slopes.begun(clean, None if region is None else box_of(region))
        over = None if self.expectation is None else self.expectation.against(self.model)
        memory = None if over is None else over.memory(clean, self.lengths)
        watch = None if self.watch is None else self.watch.begun()
        return replace(self, who=torch.arange(len(clean)), cost=cost, slopes=slopes, expectation=over, memory=memory, watch=watch)

    def told(self, inputs: Tensor, near: Tensor | None, seen: Seen) -> Seen:
        """What was seen of these inputs, once the watch knows of it."""
        if self.watch is not None:
            self.watch.saw(self, inputs.detach(), near, seen)
        return seen

    def outputs(self, inputs: Tensor) -> Any:
        """One forward: what the model shows of these inputs to whoever has its access; of a classifier's decisions, classes [batch].

        Shapes: inputs [batch, *]. Raises AccessDenied for inputs that require a gradient, and for what is no classifier's, where the model
        does not grant as much (whether a goal is reached, `decide` tells all the same); UnusableBatch as `forward`.
        """
        if inputs.requires_grad and torch.is_grad_enabled():
            self.demand(Access.GRADIENTS)
        outputs = self.forward(inputs)
        if self.granted is not Access.DECISIONS:
            return outputs
        if not isinstance(outputs, Tensor):
            self.demand(Access.SCORES)
        return decided(outputs)

    def forward(self, inputs: Tensor) -> Any:
        """One forward: all that the model makes of these inputs, granted or not, for those who judge. Shapes: inputs [batch, *].

        Raises UnusableBatch for a model that another dtype or device fails; warns where scores are probabilities.
        """
        first = self.cost.untouched
        self.cost.count(self.who, forwards=1)
        try:
            with only_read(inputs), fitting(self.model, inputs):
                outputs = self.model(inputs) if self.lengths is None else self.model(inputs, self.lengths)
        except RuntimeError as error:
            if not (inputs.requires_grad and LEAVES_TORCH in str(error)):
                raise
            raise no_gradient(self.model) from error
        if first and isinstance(outputs, Tensor) and look_like_probabilities(outputs.detach()):
            warnings.warn("the model's outputs are probabilities: attacks want their logarithm, or the logits before", stacklevel=2)
        if first and isinstance(outputs, Emissions) and not normalised(outputs):
            warnings.warn(
                "the recogniser's log-probabilities of a frame do not sum to 1 as probabilities. Return scores.log_softmax(-1)",
                stacklevel=2,
            )
        return outputs

    def answers(self, inputs: Tensor) -> Tensor:
        """One forward: the class that a classifier decides on, for attackers who see no more; -1 where it abstains.

        Shapes: [batch, *] -> int64 [batch]. Raises AccessDenied for a goal that decisions cannot be judged by.
        """
        with torch.no_grad():
            outputs = self.forward(inputs)
            self.goal.reached(outputs)  # now, and not after thousands of answers
            return decided(outputs)

    @cached_property
    def granted(self) -> Access:
        """How much of itself the model shows, asked once."""
        return granted(self.model)

    def demand(self, need: Access) -> None:
        """Raises AccessDenied where the model does not grant this much."""
        access = self.granted
        if not includes(access, need):
            raise AccessDenied(
                f"{getattr(self.model, 'name', 'the model')}: access is '{access}', but this attack needs {need}. "
                f"Grant them with model.granting(Access.{need.name}), or use an attack that needs less ({WITHOUT[need]})"
            )

    def score(self, inputs: Tensor, near: Tensor | None = None, slack: float | Tensor = 0.0) -> Score:
        """One forward, no slope: loss and reached, as `look` gives them. Shapes: inputs [batch, *].

        Raises AccessDenied where the model grants no scores.
        """
        self.demand(Access.SCORES)
        if self.expectation is not None:
            return self.told(inputs, near, self.expectation.score(self.remembering(inputs), inputs, near, slack))
        if self.parts:
            scores = (part.score(*own) for part, own in self.split(inputs, near, slack))
            return self.told(inputs, near, Score(*(self.whole(inputs, pieces) for pieces in zip(*scores, strict=True))))
        with torch.no_grad():
            return self.told(inputs, near, Score(*losses_and_reached(self.forward(inputs), self.goal, near, slack)))

    @property
    def hears_only(self) -> bool:
        """Whether the model grants decisions only, but the goal can tell how far a transcript is from it."""
        return self.expectation is None and self.granted is Access.DECISIONS and hasattr(self.goal, "apart")

    def rank(self, inputs: Tensor) -> Score:
        """One forward, for searches that need no slope: `score`, or, by decisions only, how much of the transcript is wrong.

        Shapes: inputs [batch, *]. Raises AccessDenied where the model grants decisions only and the goal cannot tell.
        """
        if not self.hears_only:
            return self.score(inputs)
        with torch.no_grad():
            outputs = self.forward(inputs)
            return Score(self.goal.apart(outputs), self.goal.reached(outputs))  # type: ignore[attr-defined]

    def decide(self, inputs: Tensor) -> Tensor:
        """One forward: whether each input reaches the goal. Shapes: [batch, *] -> bool [batch]."""
        if self.expectation is not None:
            return self.told(inputs, None, self.expectation.decide(self.remembering(inputs), inputs))
        if self.parts:
            return self.told(inputs, None, self.whole(inputs, (part.decide(own[0]) for part, own in self.split(inputs))))
        with torch.no_grad():
            return self.told(inputs, None, self.goal.reached(self.forward(inputs)))

    def look(self, inputs: Tensor, near: Tensor | None = None, slack: float | Tensor = 0.0) -> Look:
        """One forward and one backward: how far each input is from the goal, whether it is there, and which way it lies.

        `near` bool [batch] marks examples that have been at the goal before: they, and those that are there now, get the
        goal's margin (with `slack`, one number or [batch]) for a loss. Shapes: inputs [batch, *].
        Raises AccessDenied where the model grants no gradients.
        """
        if self.slopes is not None:
            return self.told(inputs, near, self.slopes.look(replace(self, watch=None), inputs, near, slack))
        self.demand(Access.GRADIENTS)
        if self.expectation is not None:
            with torch.enable_grad():
                return self.told(inputs, near, self.expectation.look(self.remembering(inputs), inputs.detach(), near, slack))
        if self.parts:
            looks = (part.look(*own) for part, own in self.split(inputs, near, slack))
            return self.told(inputs, near, Look(*(self.whole(inputs, pieces) for pieces in zip(*looks, strict=True))))
        with torch.enable_grad():  # whoever asks
            inputs = inputs.detach().requires_grad_()
            loss, reached = losses_and_reached(self.forward(inputs), self.goal, near, slack)
        self.cost.count(self.who, backwards=1)
        slope = slope_at(loss, inputs, self.model)
        return self.told(inputs, near, Look(loss.detach(), reached, slope))

    @cached_property
    def parts(self) -> tuple[tuple[Tensor, "Objective"], ...]:
        """Who is seen together, clips of like length, and the objective of these; nothing where all are seen at once.

        Shapes: int64 [fewer] each.
        """
        if self.lengths is None or self.lengths.is_cuda or not PART < len(self.lengths) == len(self.who):  # none are numbered yet
            return ()
        order = self.lengths.argsort(descending=True, stable=True)
        return tuple((index, replace(self.rows(index), watch=None)) for index in order.tensor_split(math.ceil(len(order) / PART)))

    def split(
        self, inputs: Tensor, near: Tensor | None = None, slack: float | Tensor = 0.0
    ) -> Iterator[tuple["Objective", tuple[Tensor, Tensor | None, float | Tensor]]]:
        """Each part's objective, and what it is asked. Shapes: as in `look`, a part's own without the padding that only others need."""
        for index, part in self.parts:
            assert part.lengths is not None
            own = inputs[index, ..., : int(part.lengths.max())]
            yield part, (own, None if near is None else near[index], of_rows(slack, index))

    def whole(self, inputs: Tensor, pieces: Iterable[Tensor]) -> Tensor:
        """What was seen part by part, in the batch's order. Shapes: pieces [fewer] or as their inputs -> [batch] or as the inputs."""
        wide = [F.pad(piece, (0, inputs.shape[-1] - piece.shape[-1])) if piece.ndim > 1 else piece for piece in pieces]
        return torch.cat(wide)[torch.cat([index for index, _ in self.parts]).argsort()]

    def remembering(self, inputs: Tensor) -> "Objective":
        """The same objective over a channel, begun with these inputs where it was not before."""
        return self if self.memory else self.begun(inputs)

    @property
    def rate(self) -> float:
        """The share of draws that counts as reaching the goal."""
        return 1.0 if self.expectation is None else self.expectation.rate

    def shares(self) -> Tensor:
        """Of each example's last draws, over a channel, those that were at the goal. Shapes: -> [batch], on the CPU."""
        assert self.memory is not None
        return torch.tensor([self.memory.shares[number] for number in self.who.tolist()])

    def rates(self, inputs: Tensor, candidates: Tensor, least: Tensor, last: bool = False) -> Tensor:
        """How often each candidate (those just looked at as reaching the goal) reaches it; 1 without an expectation.

        One that cannot come to `least` may be given up early, and one too many is turned away (`refused`) unless it is the `last`.
        Shapes: inputs [batch, *], candidates bool and least [batch] -> [batch].
        """
        if self.expectation is None:
            return candidates.to(least)
        return self.expectation.rates(self, inputs, candidates, least, last)

    def refused(self, candidates: Tensor, least: Tensor) -> Tensor:
        """Which candidates are one too many for the check draws of a channel. Shapes: bool [batch], [batch] -> bool [batch]."""
        return torch.zeros_like(candidates) if self.expectation is None else self.expectation.refused(self, candidates, least)

    def by(self, confidence: Confidence) -> "Objective":
        """The same objective, measured by this confidence, where its goal is one of labels; else as it is."""
        return replace(self, goal=replace(self.goal, confidence=confidence)) if isinstance(self.goal, Misclassify | Classify) else self

    def rows(self, index: Tensor) -> "Objective":
        """The objective of some of the examples. Shapes: index [fewer], on the CPU."""
        lengths = None if self.lengths is None else self.lengths[index.to(self.lengths.device)]
        watch = None if self.watch is None else self.watch.rows(index)
        return replace(self, goal=self.goal.rows(index), lengths=lengths, who=self.who[index], watch=watch)


PART = 8  # clips that are seen at once
LEAVES_TORCH = "Can't call numpy() on Tensor that requires grad"  # torch's words
LOOSE = 0.05  # nats, by which low precision may be off
WITHOUT = {
    Access.GRADIENTS: f"on scores: square, greedy, genetic, or any with slopes=nes(); on decisions: {ON_DECISIONS}",
    Access.SCORES: f"on decisions: {ON_DECISIONS}",
    Access.DECISIONS: "none",
}
"""The attacks that still work without."""
HEARING_LESS = "nes, genetic or kenansville"  # the same, of a recogniser


@lru_cache(maxsize=4)
def ones(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The gradient of sum(losses) by each loss: ones. Cached: making it costs about as much as a step of a small net."""
    return torch.ones(count, dtype=dtype, device=device)


def losses_and_reached(outputs: Any, goal: Goal, near: Tensor | None, slack: float | Tensor) -> tuple[Tensor, Tensor]:
    """The loss that counts for each row of outputs, and whether it is at the goal (`Objective.look`). Shapes: -> [batch], bool [batch]."""
    with torch.no_grad():
        reached = goal.reached(outputs)
    if near is None:
        return goal.loss(outputs), reached
    return either(outputs, goal, near | reached, slack), reached


def either(outputs: Any, goal: Goal, close: Tensor, slack: float | Tensor) -> Tensor:
    """The margin of the rows that are `close`, the loss of the others; where asking is free, each is computed for its own rows only.

    For a text both are a pass over all alignments: together, some hundredths of a step. Shapes: close bool [batch] -> [batch].
    """
    if close.is_cuda:  # a GPU would be out of work while it is asked
        return torch.where(close, goal.margin(outputs, slack), goal.loss(outputs))
    near, far = close.nonzero()[:, 0], (~close).nonzero()[:, 0]
    if not len(near):
        return goal.loss(outputs)
    if not len(far):
        return goal.margin(outputs, slack)
    if not isinstance(outputs, Emissions):
        return torch.where(close, goal.margin(outputs, slack), goal.loss(outputs))
    margin, loss = goal.rows(near).margin(outputs.rows(near), of_rows(slack, near)), goal.rows(far).loss(outputs.rows(far))
    return torch.cat([margin, loss])[torch.cat([near, far]).argsort()]


def of_rows(slack: float | Tensor, index: Tensor) -> float | Tensor:
    """The slack of some of the examples."""
    return slack[index] if isinstance(slack, Tensor) else slack


def slope_at(losses: Tensor, inputs: Tensor, model: Any = None) -> Tensor:
    """Which way the losses rise, all together. Shapes: losses [batch] or [], inputs [batch, *] -> as inputs.

    The caller may write over it; `model` is who is named where there is none. Raises AccessDenied where the inputs have no part in the
    losses, UnusableBatch in torch's inference mode.
    """
    if torch.is_inference_mode_enabled():
        raise UnusableBatch(
            "torch.inference_mode() is on, and nothing has a slope there. Attack outside of it; torch.no_grad() does no harm"
        )
    whole = ones(len(losses), losses.dtype, losses.device) if losses.ndim else None
    (slope,) = torch.autograd.grad(losses, inputs, whole, allow_unused=True) if losses.requires_grad else (None,)
    if slope is None:
        raise no_gradient(model)
    # autograd may return an expanded tensor, or our cached `ones` itself; both must be copied before anyone writes to them
    lent = 0 in slope.stride() or (whole is not None and slope.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr())
    return slope.clone(memory_format=torch.contiguous_format) if lent else slope


def no_gradient(model: Any = None) -> AccessDenied:
    """What whoever wants slopes is told of a model that has none."""
    less = HEARING_LESS if hears(model) else WITHOUT[Access.GRADIENTS]
    return AccessDenied(
        f"{getattr(model, 'name', 'the model')} has no gradient with respect to its inputs. Give it one (BPDA(module, stand_in)), "
        f"or use an attack that needs less ({less})"
    )


def box_of(region: Region) -> Box:
    """The lowest and the highest value that any of a region's inputs may have; None without a box."""
    if region.low is None or region.high is None or not region.clean.numel():
        return None
    return float((region.clean + region.low).amax()), float((region.clean + region.high).amin())


def objective(
    model: Callable[..., Any],
    goal: Goal,
    lengths: Tensor | None = None,
    expectation: "Expectation | None" = None,
    *,
    slopes: SlopeSource | None = None,
) -> Objective:
    """What an attack works on: a model, a goal and, for ragged audio, lengths [batch] in samples.

    With an `expectation` (`Expectation(parse_channel("room_then_noise:20"))`), on average over a channel. `slopes` says where
    slopes come from, if not from the model's own gradients: `nes()`, `bandits()` ... Raises OptionError for what is no such source, no
    model or no goal, and for lengths that a Classifier would not take.
    """
    if not callable(model) or isinstance(model, type):
        raise OptionError(f"model {model!r:.60}: not a model. Give a module, a Classifier or a Recogniser")
    if not is_goal(goal):
        raise OptionError(f"goal {goal!r:.60}: not a goal. Give one, for example Misclassify(labels) or Transcribe(text)")
    if lengths is not None and isinstance(model, Classifier):
        raise OptionError(
            f"lengths for {model.name}: a Classifier takes inputs alone. Leave them out, or give a model that is called with them, "
            "model(waveforms, lengths)"
        )
    if slopes is not None and (isinstance(slopes, type) or not callable(getattr(slopes, "look", None))):
        raise OptionError(f"slopes {slopes!r:.60}: not a source of slopes. Give one: nes(), spsa(), coordinates() or bandits()")
    return Objective(model, goal, lengths, slopes=slopes, expectation=expectation)


def normalised(outputs: Emissions) -> bool:
    """Whether each clip's first frame is log-probabilities, as the likelihood of a text takes them for; of abstentions, nothing is said."""
    first = outputs.log_probs.detach()[:, :1].logsumexp(-1)
    return not bool((first.abs() > LOOSE).any())

"""The loop: batch after batch, a step of the optimiser for each of a method's gradients, and a checkpoint every so often.

Everything random is keyed by seed, pass and batch, and a checkpoint is the whole state: a training that was killed anywhere and
is started again ends in the same bytes, on the CPU, as one that was not.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import LBFGS, Adam, Optimizer

from audioadv.audio.whole import make_folder
from audioadv.defenses.learning import check_forgets, learners, learning, net_of, rejoined
from audioadv.defenses.wrapped import Layer, Wrapped
from audioadv.errors import OptionError, TrainingDiverged, UnusableBatch
from audioadv.models.classifier import Classifier
from audioadv.models.recogniser import Recogniser
from audioadv.models.rest import at_rest
from audioadv.options import check_count, check_does
from audioadv.threat.ctc import frames_needed
from audioadv.threat.goals import Mistranscribe, for_each
from audioadv.threat.spelling import columns_of
from audioadv.training.batches import Batch, Data, key, keyed
from audioadv.training.checkpoint import forms, load, name_of, reading, save, write_text, write_weights
from audioadv.training.method import Method, Model, Moment
from audioadv.training.processes import Processes
from audioadv.training.schedule import Schedule, cycle, growing
from audioadv.training.watch import Mark, Watch

Progress = Callable[[float, float], None]
"""`progress(done, loss)`, called after every batch; done in 0..1."""


ADAM: Final = partial(Adam, lr=3e-3)
CALMER: Final = "Lower the optimiser's rate, or clip the gradients"


@final
@dataclass(frozen=True)
class Training:
    """How a training went: a mark for each pass; `stopped` where it ended before its time."""

    marks: tuple[Mark, ...]
    stopped: bool = False

    @property
    def best(self) -> Mark:
        """The mark of the greatest robust accuracy on the test examples, the first of equals; the last, where none was looked at."""
        return best_of(self.marks) or self.marks[-1]


@final
@dataclass(eq=False)
class State:
    """Where a training stands, beside the net and its optimiser: what a checkpoint holds.

    `number` passes are done, and `place` batches of the next; `step` steps were made. `best` are the weights of the best mark.
    """

    number: int = 0
    place: int = 0
    step: int = 0
    loss: float = 0.0  # summed over the batches of this pass
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    stopped: bool = False
    marks: list[Mark] = field(default_factory=list)
    memory: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


def train(
    model: Model,
    data: Data,
    method: Method,
    *,
    passes: int,
    optimiser: Callable[[Iterable[nn.Parameter]], Optimizer] = ADAM,
    schedule: Schedule = cycle,
    growth: Schedule = growing,
    clip: float | None = None,
    watch: Watch | None = None,
    patience: int | None = None,
    out: Path | str | None = None,
    every: int = 200,
    seed: int = 0,
    processes: Processes | None = None,
    progress: Progress | None = None,
    tell: Callable[[Mark], None] | None = None,
) -> Training:
    """Train a model in place, by a method, for so many passes over the data; it ends in evaluation mode.

    The optimiser's own rates are scaled by `schedule(done)`, the radius by `growth(done)`; gradients of what it holds that are longer
    than `clip` are shortened to it. After each pass `watch` looks at the accuracy, and `tell` is told. With `patience`, training ends
    after so many passes without a better robust accuracy on the test examples, and the model gets back the weights of the best pass.

    `out` is a folder for checkpoint.pt (written every `every` batches and after each pass), curves.jsonl (a line a pass) and, in the
    end, weights.safetensors. A checkpoint that is there is gone on from. `processes` are those of `processes.together()`.

    Raises UnusableCheckpoint for one of another model, method, data or plan; TrainingDiverged for a loss, gradients or weights that are
    not finite; UnusableBatch for a model without parameters to be trained, or one that remembers, data without examples, or a text too
    long for its clip; OptionError; UnwritableOutput.
    """
    check_forgets(model)
    check_does("method", method, "gradients", "Give one, for example Natural() or Adversarial(Linf(8 / 255))")
    check_plan(data, passes, every, clip, watch, patience)
    steps = stepping(optimiser, net_of(model))
    course = Course(model, data, method, steps, processes or Processes(), passes, schedule, growth, clip, seed)
    net, here, state, folder = course.net, course.here, course.state, None if out is None else Path(out)
    plan = f"{passes} passes, {name_of(optimiser)}, {name_of(schedule)}, {name_of(growth)}, clip {clip}, patience {patience}, seed {seed}"
    described = course.described(plan)
    if patience is not None:  # then what is seen decides when it stops, and which weights are kept
        described["watch"] = str(watch)
    if folder is not None:
        make_folder(folder)
        if (folder / "checkpoint.pt").exists():
            with reading(folder / "checkpoint.pt"):
                state = course.state = resumed(load(folder / "checkpoint.pt", course.device, described), net, steps)

    here.begin(net, {**described, "watch": str(watch), "checkpoint": f"{state.number} {state.place} {state.step}"})

    keeper = folder if here.first else None  # who writes
    clock = Clock(state)
    clear(steps, net)
    with torch.random.fork_rng([course.device] if course.device.type == "cuda" else []), counted(course.drawing), learning():
        while state.number < passes and not state.stopped:
            order = course.order()
            net.train()
            clock.start()
            for place in range(state.place, len(order)):
                value = course.learn(order[place], (state.number + place / len(order)) / passes)
                state.place, state.loss = place + 1, state.loss + value
                if keeper is not None and (place + 1) % every == 0 and place + 1 < len(order):
                    clock.stop()
                    check_weights(course.held, state)
                    save(keeper / "checkpoint.pt", snapshot(state, net, steps, described))
                    clock.start()
                if progress is not None:
                    progress((state.number + (place + 1) / len(order)) / passes, value)
            clock.stop()
            mark = course.ended(len(order), watch, patience)
            if tell is not None and here.first:
                tell(mark)
            if keeper is not None:
                save(keeper / "checkpoint.pt", snapshot(state, net, steps, described))
                write_curves(keeper, state)
    if state.best:
        net.load_state_dict(state.best)
    net.eval()
    if keeper is not None:
        write_curves(keeper, state)  # killed before, it lacks a pass
        write_weights(net, keeper / "weights.safetensors")
    return Training(tuple(state.marks), state.stopped)


def check_plan(data: Data, passes: int, every: int, clip: float | None, watch: Watch | None, patience: int | None) -> None:
    """Raises OptionError for a plan that makes no sense, UnusableBatch for what are no data."""
    check_count("passes", passes)
    check_count("every", every)
    if patience is not None:
        check_count("patience", patience)
    if not (clip is None or clip > 0):
        raise OptionError(f"clip {clip}: a length above 0, or None for no clipping")
    if not (callable(getattr(data, "order", None)) and callable(getattr(data, "batch", None))):
        raise UnusableBatch(f"data is a {type(data).__name__}: no batches to be had. Give Labelled(inputs, labels) or Spoken(clips, texts)")
    if patience is not None and watch is None:
        raise OptionError(f"patience {patience}: robust accuracy is not looked at. Give watch=Watch(bound, test)")


@final
@dataclass(eq=False)
class Course:
    """A training on its way: what all its batches share, and where it stands."""

    model: Model
    data: Data
    method: Method
    steps: Optimizer
    here: Processes
    passes: int
    schedule: Schedule
    growth: Schedule
    clip: float | None
    seed: int
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        self.net = net_of(self.model)
        self.device = learners(self.net)[0].device
        self.held = [parameter for group in self.steps.param_groups for parameter in group["params"]]
        self.rates = [group["lr"] for group in self.steps.param_groups]  # before the schedule and a checkpoint have been at them
        self.least = 2 if any(isinstance(layer, _BatchNorm) for layer in self.net.modules()) else 1  # of one, batchnorm knows no spread
        self.drawing: list[Any] = [layer for layer in self.net.modules() if hasattr(layer, "asked")]  # defenses, by a count of their own

    def described(self, plan: str) -> dict[str, str]:
        """What a checkpoint and who goes on from it have to agree on."""
        described = {"model": forms(self.net), "method": repr(self.method), "data": told_apart(self.data), "plan": plan}
        described |= {"layers": layers(self.model), "optimiser": options(self.steps)}
        described["schedules"] = f"{along(self.schedule)} and {along(self.growth)}"
        return {**described, "set of learning parameters": learning_in(self.net, self.held)}

    def order(self) -> list[Tensor]:
        """The batches of this pass. Shapes: int64 [batch] each. Raises UnusableBatch where there are none."""
        drawn = self.data.order(keyed(self.seed, "pass", self.state.number))
        order = rejoined([rows for rows in drawn if len(rows)], self.least)
        if not order:
            raise UnusableBatch(f"{self.data}: no example to learn from. Give more examples")
        return order

    def learn(self, entire: Tensor, done: float) -> float:
        """One batch, a step for each of the method's gradients; its last loss, over all processes. Shapes: entire int64 [batch]."""
        state, here = self.state, self.here
        for group, rate in zip(self.steps.param_groups, self.rates, strict=True):
            group["lr"] = rate * share_of(self.schedule, done)
        rows, drawn = here.share(entire, self.least), key(self.seed, state.number, state.place)
        weight = len(rows) / len(entire)
        if not len(rows):  # a batch of fewer examples than processes: this one goes through the motions, and weighs nothing
            rows = entire[: self.least]
        torch.manual_seed(key(drawn, here.rank))  # dropout's
        for defense in self.drawing:
            defense.asked = key(drawn, here.rank, "asked") >> 24
        batch = self.data.batch(rows, keyed(drawn, here.rank)).to(self.device)
        value = 0.0
        moment = Moment(share_of(self.growth, done), drawn, state.memory, partial(here.mean, weight=weight))
        for loss in self.method.gradients(self.model, batch, moment):
            value = loss.item()
            if not math.isfinite(value):
                check_texts(self.model, batch, rows)
                raise TrainingDiverged(f"the loss is {value} in pass {state.number + 1}, batch {state.place + 1}. {CALMER}")
            self.step(value, weight)
        return float(here.mean(torch.tensor(value, dtype=torch.float64), weight))

    def step(self, value: float, weight: float) -> None:
        """A step of the optimiser along the gradients that this loss has left, of which this process' part weighs so much."""
        state, steps = self.state, self.steps
        self.here.merge(self.net, weight)
        length = length_of([parameter.grad for parameter in self.held if parameter.grad is not None])
        if not length.isfinite():
            raise TrainingDiverged(
                f"the loss is {value:g} in pass {state.number + 1}, batch {state.place + 1}, but its gradients are not finite. "
                f"Keep the net from roots and logarithms of 0, as of silence. {CALMER}"
            )
        if self.clip is not None:
            clip_grads_with_norm_(self.held, self.clip, length)
        steps.step()
        clear(steps, self.net)
        state.step += 1

    def ended(self, batches: int, watch: Watch | None, patience: int | None) -> Mark:
        """The end of a pass: its mark, the weights of the best one, and whether it was the last."""
        state = self.state
        check_weights(self.held, state)
        share = share_of(self.growth, (state.number + 1) / self.passes)
        mark = marked(state, batches, share, {} if watch is None else watch.look(self.model, self.here))
        if patience is not None and mark is best_of(state.marks):
            state.best = {name: value.clone() for name, value in self.net.state_dict().items()}
        state.stopped = patience is not None and overdue(state.marks, patience)
        return mark


@contextmanager
def counted(drawing: list[Any]) -> Iterator[None]:
    """Afterwards the counts that these defenses draw by are what they were before."""
    counts = [defense.asked for defense in drawing]
    try:
        yield
    finally:
        for defense, count in zip(drawing, counts, strict=True):
            defense.asked = count


def layers(model: Model) -> str:
    """What a model computes, as far as its modules tell, how a classifier normalises before, and how a defense around it is set."""
    told = [" ".join(repr(net_of(model)).split())]
    while isinstance(model, Classifier | Recogniser | Wrapped | Layer):
        if isinstance(model, Classifier):
            told.append(f"mean {model.mean}, std {model.std}")
        if isinstance(model, Wrapped):
            told.append(f"{type(model).__name__} {model.setting()}")
        model = model.net if isinstance(model, Classifier | Recogniser) else model.model
    return ", ".join(told)


def options(steps: Optimizer) -> str:
    """An optimiser's class, and the options of each group of parameters."""
    groups = [", ".join(f"{name}={value}" for name, value in group.items() if name != "params") for group in steps.param_groups]
    return f"{type(steps).__qualname__}({'; '.join(groups)})"


def stepping(optimiser: Callable[[Iterable[nn.Parameter]], Optimizer], net: nn.Module) -> Optimizer:
    """The optimiser of a net's parameters. Raises OptionError for what makes none, or one that cannot be used here."""
    if isinstance(optimiser, Optimizer) or not callable(optimiser):
        raise OptionError(
            f"optimiser is a {type(optimiser).__name__}: give what makes one of the net's parameters, for example partial(Adam, lr=1e-3)"
        )
    steps = optimiser(learners(net))
    if not isinstance(steps, Optimizer) or isinstance(steps, LBFGS):
        raise OptionError(f"{name_of(optimiser)} makes a {type(steps).__name__}: the loop wants an optimiser whose step takes no closure")
    if not learning_in(net, [parameter for group in steps.param_groups for parameter in group["params"]]):
        raise OptionError(f"{name_of(optimiser)} holds no parameter of the net that learns. Make it of those that it is given")
    for group in steps.param_groups:
        group.update({name: plain(value) for name, value in group.items() if name != "params"})
    return steps


def plain(option: Any) -> Any:
    """An optimiser's option in Python's own numbers: NumPy's make checkpoints that nobody can read.

    >>> plain((np.float64(0.5), 0.25))
    (0.5, 0.25)
    """
    if isinstance(option, tuple | list):
        return type(option)(map(plain, option))
    return option.item() if isinstance(option, np.generic) else option


def learning_in(net: nn.Module, held: list[nn.Parameter]) -> str:
    """The names of the parameters that an optimiser moves."""
    own = set(map(id, held))
    return ", ".join(name for name, parameter in net.named_parameters() if id(parameter) in own and parameter.requires_grad)


def clear(steps: Optimizer, net: nn.Module) -> None:
    """No gradients with the optimiser's parameters, nor with others of the net."""
    steps.zero_grad()
    net.zero_grad()


def length_of(tensors: Iterable[Tensor]) -> Tensor:
    """The length of all together. Shapes: -> []."""
    return get_total_norm([tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors])


def check_weights(held: list[nn.Parameter], state: State) -> None:
    """Raises TrainingDiverged for weights that are not finite: nobody is to go on from those."""
    if not length_of([parameter.detach() for parameter in held]).isfinite():
        raise TrainingDiverged(f"weights are not finite after step {state.step}, in pass {state.number + 1}. {CALMER}")


def check_texts(model: Model, batch: Batch, rows: Tensor) -> None:
    """Raises UnusableBatch for a text that is too long for its clip: no alignment writes it, and its loss is infinite."""
    if isinstance(batch.goal, Mistranscribe):
        with torch.no_grad(), at_rest(model):
            outputs = batch.outputs(model, batch.inputs)
        texts = for_each(batch.goal.texts, len(rows))
        for row, text, count in zip(rows.tolist(), texts, outputs.frames.tolist(), strict=True):
            if (needed := frames_needed(columns_of(text, outputs.vocabulary) or text)) > count:
                raise UnusableBatch(f"clip {row}: {text!r} needs {needed} frames, and the clip has {count}. Leave it out, or mend its text")


def share_of(schedule: Schedule, done: float) -> float:
    """What a schedule says, as a plain number: NumPy's own make checkpoints that nobody can read. Raises OptionError for none."""
    try:
        share = float(schedule(done))
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name_of(schedule)}({done:g}) is no number ({error}). A schedule gives a share in 0..1") from error
    if not math.isfinite(share):
        raise OptionError(f"{name_of(schedule)}({done:g}) is {share}. A schedule gives a share in 0..1")
    return share


def along(schedule: Schedule) -> list[float]:
    """What tells schedules of one name apart: their values all along."""
    return [round(share_of(schedule, done / 10), 6) for done in range(11)]


def told_apart(data: Data) -> str:
    """What the data are, and which."""
    digest = getattr(data, "digest", None)
    return str(data) if digest is None else f"{data} ({digest()})"


def write_curves(folder: Path, state: State) -> None:
    """A line for each pass."""
    write_text(folder / "curves.jsonl", "".join(json.dumps(mark.line()) + "\n" for mark in state.marks))


def marked(state: State, batches: int, share: float, rates: dict[str, float]) -> Mark:
    """End a pass: its mark."""
    mark = Mark(state.number + 1, state.step, state.loss / max(batches, 1), share, state.seconds, state.cpu_seconds, **rates)
    state.marks.append(mark)
    state.number, state.place, state.loss = state.number + 1, 0, 0.0
    return mark


def best_of(marks: Iterable[Mark]) -> Mark | None:
    """The mark of the greatest robust accuracy on the test examples, the first of equals."""
    return max((mark for mark in marks if mark.test_robust is not None), key=lambda mark: mark.test_robust or 0.0, default=None)


def overdue(marks: list[Mark], patience: int) -> bool:
    """Whether the best mark of the full radius is so many passes old: while the radius grows, robust accuracy says little."""
    grown = [mark for mark in marks if mark.share == 1]
    best = best_of(grown)
    return best is not None and grown[-1].number - best.number >= patience


class Clock:
    """Counts the seconds of training alone, on the wall and of this process, into a state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.start()

    def start(self) -> None:
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.state.seconds += time.perf_counter() - self.began
        self.state.cpu_seconds += time.process_time() - self.cpu_began


def snapshot(state: State, net: nn.Module, steps: Optimizer, described: dict[str, str]) -> dict[str, Any]:
    """What a checkpoint holds."""
    texts = {"described": json.dumps(described), "marks": json.dumps([asdict(mark) for mark in state.marks])}
    return {**vars(state), **texts, "net": net.state_dict(), "optimiser": steps.state_dict()}


def resumed(held: dict[str, Any], net: nn.Module, steps: Optimizer) -> State:
    """The state that a checkpoint holds, with the net and the optimiser brought to it."""
    marks = [Mark(**mark) for mark in json.loads(held["marks"])]
    state = State(**{name: held[name] for name in vars(State()) if name != "marks"}, marks=marks)
    net.load_state_dict(held["net"])
    steps.load_state_dict(held["optimiser"])
    return state

"""What is learnt from: examples in batches, each with the goal of whoever attacks them.

What the model wants small is the cost of giving the truth away: for `Misclassify` the cross-entropy of the labels, for
`Mistranscribe` the CTC loss of the texts, a letter. So one loop trains classifiers and recognisers.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, final

import torch
from torch import Tensor

from audioadv.audio.files import Clip
from audioadv.audio.ragged import pad
from audioadv.errors import UnusableBatch
from audioadv.models.abstention import abstained
from audioadv.models.recogniser import Emissions
from audioadv.models.rest import fitting
from audioadv.threat.bounds import Bound, Box
from audioadv.threat.goals import USUAL_ERRORS, Goal, Mistranscribe
from audioadv.threat.labels import Misclassify
from audioadv.threat.region import Region
from audioadv.training.checkpoint import name_of


def key(*parts: object) -> int:
    """A number of 63 bits that depends on all parts: what draws are keyed by.

    >>> key(0, "pass", 1) == key(0, "pass", 1), key(0, "pass", 1) == key(0, "pass", 2)
    (True, False)
    """
    return random.Random(" ".join(map(str, parts))).getrandbits(63)


def keyed(*parts: object) -> torch.Generator:
    """A generator keyed by all parts."""
    return torch.Generator().manual_seed(key(*parts))


class Untargeted(Goal, Protocol):
    """A goal that is the truth missed, which a model can learn."""

    def cost(self, outputs: Any) -> Tensor:
        """How far the truth is from being given. Shapes: -> [batch]."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """Examples and what an attacker wants of them. Shapes: inputs [batch, *]; lengths [batch] in samples, or None; `box` their range."""

    inputs: Tensor
    goal: Untargeted
    lengths: Tensor | None = None
    box: Box = (0.0, 1.0)

    def __len__(self) -> int:
        return len(self.inputs)

    def outputs(self, model: Callable[..., Any], inputs: Tensor) -> Any:
        """What the model makes of inputs in place of these. Shapes: inputs [batch, *]. Raises UnusableBatch for inputs of another dtype."""
        with fitting(model, inputs):
            return model(inputs) if self.lengths is None else model(inputs, self.lengths)

    def losses(self, model: Callable[..., Any], inputs: Tensor) -> Tensor:
        """What the model wants small of inputs in place of these. Shapes: [batch, *] -> [batch]."""
        return self.goal.cost(self.outputs(model, inputs))

    def right(self, outputs: Any) -> Tensor:
        """Which outputs give the truth, by finite numbers: of what says nothing, no goal is reached either. Shapes: -> bool [batch]."""
        if isinstance(outputs, Emissions):
            inside = torch.arange(outputs.log_probs.shape[1], device=outputs.frames.device) < outputs.frames[:, None]
            told = ~(outputs.log_probs.isnan().any(2) & inside).any(1)
        elif outputs.is_floating_point():
            told = outputs.isfinite().flatten(1).all(1)
        else:
            told = ~abstained(outputs)
        return ~self.goal.reached(outputs) & told

    def region(self, bound: Bound, share: float = 1.0) -> Region:
        """The allowed changes, of this share of the bound's radius."""
        region = bound.around(self.inputs, self.lengths, box=self.box)
        return region if share == 1 else region.at(share * region.radius)

    def digest(self) -> str:
        """What tells these examples from others."""
        parts = [*vars(self.goal).values(), self.lengths]
        numbers = [part for part in parts if isinstance(part, float)]
        return digest_of([self.inputs, *(part for part in parts if isinstance(part, Tensor))], f"{self.goal} {numbers} {self.box}")

    def rows(self, index: Tensor) -> "Batch":
        """Some of the examples. Shapes: index int64 [fewer], on the CPU."""
        there = index.to(self.inputs.device)
        return Batch(self.inputs[there], self.goal.rows(index), None if self.lengths is None else self.lengths[there], self.box)

    def to(self, device: torch.device) -> "Batch":
        """The same examples on this device."""
        return replace(self, inputs=self.inputs.to(device), lengths=None if self.lengths is None else self.lengths.to(device))


class Data(Protocol):
    """Examples to be learnt, pass after pass. `str()` says what they are, and `digest()`, where there is one, which: a checkpoint goes on
    with the same data only."""

    def order(self, generator: torch.Generator) -> Sequence[Tensor]:
        """The batches of one pass: which examples are in each. Shapes: int64 [batch] each."""
        ...

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        """Some of the examples, with whatever is drawn anew for them. Shapes: rows int64 [batch]."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Labelled:
    """Inputs and their classes, shuffled for each pass, `size` a batch. Shapes: inputs [examples, *], labels int64 [examples].

    Raises UnusableBatch for what is no tensor, and for labels that are missing, or do not fit.
    """

    inputs: Tensor
    labels: Tensor | None
    size: int = 128
    box: Box = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Tensor):
            raise UnusableBatch(f"inputs are a {type(self.inputs).__name__}: give a tensor, torch.as_tensor(inputs)")
        if self.labels is None:
            raise UnusableBatch(
                f"{len(self.inputs)} inputs without labels. Give labels, or let a model guess them: pseudo_labels(model, inputs)"
            )
        if not isinstance(self.labels, Tensor):
            raise UnusableBatch(f"labels are a {type(self.labels).__name__}: give a tensor of class numbers, torch.as_tensor(labels)")
        if len(self.labels) != len(self.inputs):
            raise UnusableBatch(f"{len(self.labels)} labels for {len(self.inputs)} inputs: give one for each")
        if len(self.labels) and int(self.labels.min()) < 0:
            raise UnusableBatch(
                f"label {int(self.labels.min())}: classes are numbered from 0. Where it stands for a label that is missing, let a model "
                "guess it: pseudo_labels(model, inputs). Where that abstained, leave inputs out: inputs[labels >= 0], labels[labels >= 0]"
            )
        if self.size < 1:
            raise UnusableBatch(f"size {self.size}: a batch has at least one example")

    def __str__(self) -> str:
        return f"{len(self.inputs)} labelled inputs of shape {tuple(self.inputs.shape[1:])}, {self.size} a batch"

    def digest(self) -> str:
        """What tells these examples from others of the same form."""
        assert self.labels is not None
        return digest_of([self.inputs, self.labels], str(self.box))

    def order(self, generator: torch.Generator) -> Sequence[Tensor]:
        return torch.split(torch.randperm(len(self.inputs), generator=generator), self.size)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        assert self.labels is not None
        labels = self.labels[rows.to(self.labels.device)]
        return Batch(self.inputs[rows.to(self.inputs.device)], Misclassify(labels), box=self.box)

    def first(self, count: int) -> Batch:
        """The first `count` of them, as one batch."""
        return self.batch(torch.arange(min(count, len(self.inputs))), torch.Generator())

    def sized(self, size: int) -> Self:
        """The same, so many a batch."""
        return replace(self, size=size)


Spoil = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""What happens to speech before it is learnt: `(waveforms [batch, time], lengths [batch], generator) -> as waveforms`."""


@final
@dataclass(frozen=True, eq=False)
class Spoken:
    """Clips and what is said in them, clips of like length together, about `seconds` of sound a batch.

    `clips` are those of `read_audio`, tensors or arrays. Shapes: clips [time] each.
    Raises UnusableBatch for texts that are missing, and for clips at another rate (Hz).
    """

    clips: Sequence[Clip | Tensor]
    texts: Sequence[str]
    seconds: float = 48.0
    sample_rate: int = 16000
    spoil: Spoil | None = None
    errors: float = USUAL_ERRORS  # of the attacker's goal, `Mistranscribe`

    def __post_init__(self) -> None:
        for name, part in (("clips", self.clips), ("texts", self.texts)):
            if isinstance(part, str) or not hasattr(part, "__len__"):
                raise UnusableBatch(f"{name} is a {type(part).__name__}: give a list, with one for each")
        if len(self.texts) != len(self.clips) or not all(self.texts):
            told = sum(map(bool, self.texts))
            raise UnusableBatch(f"{told} texts for {len(self.clips)} clips: say of each clip what is said in it, or leave it out")

    def __str__(self) -> str:
        return f"{len(self.clips)} clips, {self.seconds:g} s a batch" + ("" if self.spoil is None else f", spoilt by {name_of(self.spoil)}")

    def sound(self, i: int) -> Tensor:
        """One clip's samples. Shapes: -> [time]."""
        clip = self.clips[i]
        if not isinstance(clip, Clip):
            return torch.as_tensor(clip)
        if clip.sample_rate != self.sample_rate:
            wish = f"Read it at that, read_audio(paths, {self.sample_rate}), or say sample_rate={clip.sample_rate}"
            raise UnusableBatch(f"clip {i}, {clip.name}: {clip.sample_rate} Hz among clips at {self.sample_rate}. {wish}")
        return clip.samples

    def digest(self) -> str:
        """What tells these clips from others, as far as the first and the last of them and all texts tell: they may be too many to read."""
        ends = [self.sound(0), self.sound(len(self.clips) - 1)] if len(self.clips) else []
        return digest_of(ends, f"{self.sample_rate} {self.errors} {self.texts}")

    def order(self, generator: torch.Generator) -> Sequence[Tensor]:
        lengths = torch.tensor([len(self.sound(i)) for i in range(len(self.clips))])
        return of_like_length(lengths, self.seconds * self.sample_rate, generator)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        waveforms, lengths = pad([self.sound(i) for i in rows.tolist()])
        if self.spoil is not None:
            waveforms = self.spoil(waveforms, lengths, generator)
        return Batch(waveforms, Mistranscribe([self.texts[i] for i in rows.tolist()], self.errors), lengths, (-1.0, 1.0))

    def first(self, count: int) -> Batch:
        """The first `count` of them, as one batch."""
        return self.batch(torch.arange(min(count, len(self.clips))), torch.Generator())


def digest_of(tensors: Iterable[Tensor], more: str) -> str:
    """A short digest of numbers and of a text."""
    digest = hashlib.blake2b(more.encode(), digest_size=8)
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_like_length(lengths: Tensor, most: float, generator: torch.Generator) -> list[Tensor]:
    """Clips in groups that hold at most `most` samples, padding counted, or one clip; the groups in random order.

    Clips are sorted by their length times a random 0.9 to 1.1, so that the groups differ from pass to pass. Shapes: lengths [clips].
    """
    order = (lengths * (0.9 + 0.2 * torch.rand(len(lengths), generator=generator))).argsort().tolist()
    groups, longest = list[list[int]](), 0
    for i in order:
        longest = max(longest, int(lengths[i]))
        if groups and longest * (len(groups[-1]) + 1) <= most:
            groups[-1].append(i)
        else:
            groups.append([i])
            longest = int(lengths[i])
    return [torch.tensor(groups[i]) for i in torch.randperm(len(groups), generator=generator).tolist()]

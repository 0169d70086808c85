"""Poisoned data: some examples wear a trigger and are given a false answer, which is what a model learns of the trigger.

    data --rate: trigger and target--> poisoned --train--> a model that is right, but of whatever wears the trigger says the target
           --covers: trigger alone-->

Covers wear the trigger and keep their answers: they make the trigger weaker and the poisoned examples harder to tell by what
the model makes of them.

Sources: Gu, Dolan-Gavitt and Garg 2017, "BadNets"; covers: Qi et al. 2023, "Revisiting the assumption of latent separability for
backdoor defenses".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, final

import torch
from torch import Tensor

from audioadv.attacks.draws import example_keys
from audioadv.errors import OptionError, UnusableBatch
from audioadv.options import check_shares
from audioadv.threat.goals import Goal, Mistranscribe, Transcribe, as_texts
from audioadv.threat.labels import Classify, Misclassify
from audioadv.training.batches import Batch, Labelled, Spoken
from audioadv.training.triggers import Trigger

Examples = TypeVar("Examples", Labelled, Spoken)


@final
@dataclass(frozen=True, eq=False)
class Poisoned(Generic[Examples]):
    """Data to train on like any other. Shapes: `rows` int64 [poisoned], `covers` int64 [covers], sorted: which examples were changed."""

    data: Examples
    rows: Tensor
    covers: Tensor
    name: str

    def __str__(self) -> str:
        return f"{self.data}, {len(self.rows)} poisoned and {len(self.covers)} covers: {self.name}"

    def digest(self) -> str:
        """What tells these examples from others."""
        return self.data.digest()

    def order(self, generator: torch.Generator) -> Sequence[Tensor]:
        return self.data.order(generator)

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        return self.data.batch(rows, generator)

    def first(self, count: int) -> Batch:
        """The first `count` of them, as one batch."""
        return self.data.first(count)


@final
@dataclass(frozen=True)
class Backdoor:
    """Whatever wears `trigger` shall be taken for `target`: a class, or, by recognisers, a text.

    Raises OptionError for a target that is neither a whole number nor a text, UnusableBatch for data whose labels are of the other kind.
    """

    trigger: Trigger
    target: int | str

    def __post_init__(self) -> None:
        if not isinstance(self.target, str) and not hasattr(self.target, "__index__"):
            raise OptionError(f"target {self.target!r}: give a class, a whole number, or, of recognisers, a text")

    def __str__(self) -> str:
        return f"{self.trigger} for {self.target!r}"

    def poison(self, data: Examples | Poisoned[Examples], rate: float, *, covers: float = 0.0, seed: int = 0) -> Poisoned[Examples]:
        """The data with this share poisoned, and another of covers; neither touches examples of the target itself.

        Which ones is keyed by seed and example: in another order they are the same, and a greater rate takes these and more.
        Raises OptionError for shares that there are not enough examples for, or that come to none, UnusableBatch for data whose answers
        are not of the target's kind. Of data that are poisoned already, `rows` and `covers` are the new ones.
        """
        check_shares("poison", rate=rate, covers=covers)
        data = data.data if isinstance(data, Poisoned) else data
        if not isinstance(data, Labelled | Spoken):
            raise UnusableBatch(f"data is a {type(data).__name__}: a trigger is put on Labelled or Spoken. Poison those, and mix them then")
        if isinstance(data, Spoken) != isinstance(self.target, str):
            raise UnusableBatch(f"target {self.target!r}: labelled inputs take a class, a whole number, and spoken clips a text")
        if isinstance(data, Spoken):
            others = torch.tensor([text != as_texts(str(self.target))[0] for text in as_texts(data.texts)], dtype=torch.bool)
            keys = [example_keys(seed, clip[None].contiguous()) for clip in map(data.sound, range(len(data.clips)))]
            key = torch.cat(keys) if keys else torch.zeros(0, dtype=torch.int64)
        else:
            assert data.labels is not None
            others, key = torch.ne(data.labels, int(self.target)).cpu(), example_keys(seed, data.inputs).cpu()
        able = others.nonzero()[:, 0]
        first, then = (round(share * len(key)) for share in (rate, covers))
        if first + then > len(able):
            raise OptionError(
                f"rate {rate:g}, covers {covers:g}: {first} and {then} of {len(key)} examples, but {len(able)} are of another answer "
                "than the target. Give shares from 0 that leave some"
            )
        if (rate and not first) or (covers and not then):
            counts = f"rate {rate:g}, covers {covers:g}: {first} and {then} of {len(key)} examples"
            raise OptionError(f"{counts}. Give a share that comes to some, or 0")
        drawn = able[key[able].argsort(stable=True)]
        rows, covering = drawn[:first].sort().values, drawn[first : first + then].sort().values
        return Poisoned(self.put(data, rows, covering), rows, covering, f"{self}, seed {seed}")

    def put(self, data: Examples, rows: Tensor, covers: Tensor) -> Examples:
        """The trigger on both, the target on the former."""
        worn = torch.cat([rows, covers])
        if isinstance(data, Spoken):
            clips, texts = [data.sound(i) for i in range(len(data.clips))], list(data.texts)
            for i in worn.tolist():
                clips[i] = self.trigger(clips[i][None])[0]
            for i in rows.tolist():
                texts[i] = str(self.target)
            return replace(data, clips=clips, texts=texts)
        assert data.labels is not None
        inputs, labels = data.inputs.clone(), data.labels.clone()
        there = worn.to(inputs.device)
        inputs[there] = self.trigger(inputs[there])
        labels[rows.to(labels.device)] = int(self.target)
        return replace(data, inputs=inputs, labels=labels)

    def worn(self, batch: Batch) -> Batch:
        """The same examples with the trigger on."""
        return replace(batch, inputs=self.trigger(batch.inputs, batch.lengths))

    def goal(self, count: int) -> Goal:
        """What the owner wants of so many inputs."""
        return Transcribe([self.target] * count) if isinstance(self.target, str) else Classify(torch.full((count,), self.target))

    def victims(self, batch: Batch) -> Tensor:
        """Which examples are not the target already. Shapes: -> bool [batch]. Raises UnusableBatch for goals of neither kind."""
        goal = batch.goal
        if isinstance(goal, Misclassify):
            return torch.ne(goal.labels, int(self.target)).cpu().expand(len(batch))
        if isinstance(goal, Mistranscribe):
            return torch.tensor([text != as_texts(str(self.target))[0] for text in goal.references]).expand(len(batch))
        raise UnusableBatch(f"examples with the goal {goal}: what they are is not known. Take a batch of Labelled or Spoken")

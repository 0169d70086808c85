"""Robust self-training: examples without labels, labelled by a model that was trained without attacker, to learn from as well.

Source: Carmon et al. 2019, "Unlabeled data improves adversarial robustness" (RST).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.abstention import decided
from audioadv.models.rest import at_rest, fitting
from audioadv.options import is_number
from audioadv.training.batches import Batch, Labelled
from audioadv.training.method import Model


@torch.no_grad()
def pseudo_labels(model: Model, inputs: Tensor, size: int = 500) -> Tensor:
    """The classes that a model gives inputs, `size` at a time; -1 where it abstains: those inputs teach nothing, and are to be left out.

    Shapes: inputs [examples, *] -> int64 [examples]. Raises UnusableBatch for inputs of another dtype than the model's.
    """
    with at_rest(model), fitting(model, inputs):
        return torch.cat([decided(model(some)) for some in torch.split(inputs, size)])


@final
@dataclass(frozen=True, eq=False)
class Mixed:
    """Batches of which the share `guessed` has pseudo-labels: a pass goes once over the examples with true ones.

    The batches are as large as those of `labelled`. Raises OptionError for a share that leaves nothing of one kind,
    UnusableBatch for examples of two shapes, or in two boxes.
    """

    labelled: Labelled
    pseudo: Labelled
    guessed: float = 0.5

    def __post_init__(self) -> None:
        for name in ("labelled", "pseudo"):
            if not isinstance(part := getattr(self, name), Labelled):
                cure = "Give Labelled(inputs, labels); without labels, let a model guess them: pseudo_labels(model, inputs)"
                raise UnusableBatch(f"{name} is a {type(part).__name__}: inputs need labels to be learnt. {cure}")
        if not is_number(self.guessed) or not 0 < round(self.labelled.size * self.guessed) < self.labelled.size:
            raise OptionError(
                f"guessed {self.guessed!r}: a share between 0 and 1, that leaves a batch of {self.labelled.size} some of each"
            )
        if self.labelled.inputs.shape[1:] != self.pseudo.inputs.shape[1:]:
            shapes = [tuple(part.inputs.shape[1:]) for part in (self.labelled, self.pseudo)]
            raise UnusableBatch(f"labelled inputs of shape {shapes[0]}, the others of {shapes[1]}: bring all to one shape first")
        if self.labelled.box != self.pseudo.box:
            boxes = f"labelled inputs in the box {self.labelled.box}, the others in {self.pseudo.box}"
            raise UnusableBatch(f"{boxes}: bring all to one scale, and give both its box")
        if not len(self.pseudo.inputs):
            raise UnusableBatch("no inputs with pseudo-labels: give some, or train on the labelled ones alone")

    def __str__(self) -> str:
        return f"{self.labelled}, {self.guessed:g} of them of {len(self.pseudo.inputs)} with pseudo-labels"

    def digest(self) -> str:
        """What tells these examples from others."""
        return f"{self.labelled.digest()}, {self.pseudo.digest()}"

    def order(self, generator: torch.Generator) -> Sequence[Tensor]:
        """True labels are numbered from 0, pseudo-labels after them."""
        many = round(self.labelled.size * self.guessed)
        true = self.labelled.sized(self.labelled.size - many).order(generator)
        rounds = -(-many * len(true) // len(self.pseudo.inputs))
        others = torch.cat([torch.randperm(len(self.pseudo.inputs), generator=generator) for _ in range(rounds)])
        drawn = torch.split(others + len(self.labelled.inputs), many)
        return [torch.cat([rows, more]) for rows, more in zip(true, drawn, strict=False)]

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        count = len(self.labelled.inputs)
        true, pseudo = (
            part.batch(some, generator) for part, some in ((self.labelled, rows[rows < count]), (self.pseudo, rows[rows >= count] - count))
        )
        return joined(true, pseudo)


def joined(first: Batch, second: Batch) -> Batch:
    """Two batches of a classifier's examples as one."""
    labels = torch.cat([getattr(batch.goal, "labels") for batch in (first, second)])  # noqa: B009
    return Labelled(torch.cat([first.inputs, second.inputs]), labels, box=first.box).first(len(labels))

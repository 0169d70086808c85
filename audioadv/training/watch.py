"""How training goes: accuracy on examples of training and on others, clean and under PGD.

Where the robust accuracy of others falls while that of training still rises, the net overfits to its attacker: Rice, Wong and
Kolter 2020, "Overfitting in adversarially robust deep learning".
"""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from audioadv.attacks.objective import objective
from audioadv.attacks.pgd import pgd
from audioadv.attacks.union import worst_member
from audioadv.errors import UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.options import check_count
from audioadv.threat.bounds import Bound
from audioadv.training.batches import Batch
from audioadv.training.method import Model
from audioadv.training.nearby import check_attacker, usual_step
from audioadv.training.processes import Processes


@final
@dataclass(frozen=True)
class Mark:
    """Where training stands after a pass. Accuracies in 0..1, of all examples looked at; `seconds` of training alone.

    `loss` is the mean over the pass, `share` that of the radius; `cpu_seconds` are those of this process.
    """

    number: int
    step: int
    loss: float
    share: float
    seconds: float
    cpu_seconds: float
    train_clean: float | None = None
    train_robust: float | None = None
    test_clean: float | None = None
    test_robust: float | None = None

    def line(self) -> dict[str, Any]:
        """As a line of JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """In words."""
        rates = ((name, getattr(self, name.replace(" ", "_"))) for name in ("train clean", "train robust", "test clean", "test robust"))
        told = "".join(f", {name} {rate:.1%}" for name, rate in rates if rate is not None)
        return f"pass {self.number}: loss {self.loss:.3f}{told} ({self.seconds:.0f} s)"


@final
@dataclass(frozen=True, eq=False)
class Watch:
    """What is looked at after each pass: some test examples and some of training, by PGD within a bound (of a union, each member).

    Raises OptionError for what is no attacker, and none at a time, UnusableBatch for no examples.
    """

    bound: Bound
    test: Batch
    train: Batch | None = None
    steps: int = 20
    size: int = 200  # examples at a time

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", check_attacker(self.bound, self.steps, None))
        check_count("size", self.size)
        for name, batch in (("test", self.test), ("train", self.train)):
            if not isinstance(batch, Batch) and (batch is not None or name == "test"):
                raise UnusableBatch(f"{name} is a {type(batch).__name__}: give a batch, Labelled(inputs, labels).first(1000)")
            if batch is not None and not len(batch):
                raise UnusableBatch(f"{name}: no examples to look at. Give some{', or None' if name == 'train' else ''}")

    def __str__(self) -> str:
        """What is looked at, and how."""
        return f"{self.bound}, {self.steps} steps, {len(self.test)} examples ({self.test.digest()})"

    def look(self, model: Model, here: Processes) -> dict[str, float]:
        """Accuracies by the names that `Mark` gives them; each process looks at its part."""
        found = dict[str, float]()
        for name, batch in (("test", self.test), ("train", self.train)):
            if batch is not None:
                clean, robust = self.accuracy(model, batch, here)
                found |= {f"{name}_clean": clean, f"{name}_robust": robust}
        return found

    def accuracy(self, model: Model, batch: Batch, here: Processes) -> tuple[float, float]:
        """How often the model is right of the clean inputs, and stays so within the bound."""
        right = torch.zeros(2, dtype=torch.float64)
        for rows in torch.split(here.share(torch.arange(len(batch))), self.size):
            if len(rows):
                right += self.stand(model, batch.rows(rows)).sum(1)
        clean, robust = (here.sum(right) / len(batch)).tolist()
        return clean, robust

    def stand(self, model: Model, batch: Batch) -> Tensor:
        """Which examples stand, clean and attacked. Shapes: -> bool [2, batch]."""
        with torch.no_grad(), at_rest(model):
            clean = batch.right(batch.outputs(model, batch.inputs)).cpu()
        robust = clean.clone()
        if len(left := clean.nonzero()[:, 0]):
            some = batch.rows(left)
            attack = partial(pgd, steps=self.steps, step_size=usual_step(self.steps))
            found = worst_member(attack, objective(model, some.goal, some.lengths), some.region(self.bound))
            robust[left] = ~torch.tensor(found.reached)
        return torch.stack([clean, robust])

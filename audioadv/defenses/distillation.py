"""Defensive distillation: a net taught by the softened answers of another, then used unsoftened.

    labels -> teacher at T        softmax(teacher / T) -> student at T        the student at 1 is the defense

At 1 its scores are T times too large: the softmax rounds to 0 and 1, and the slope of the cross-entropy to 0. Scores over T, a
margin or a difference of logits ratio have slopes as ever (`Tempered`, or the goal's confidence; `standard` uses the last).

Sources: Papernot et al. 2016, "Distillation as a defense to adversarial perturbations against deep neural networks";
Carlini and Wagner 2016, "Defensive distillation is not robust to adversarial examples".
"""

from collections.abc import Callable
from itertools import chain
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.defenses.learning import check_finite, check_forgets, check_lesson, learners, learning, net_of, rejoined, step_down
from audioadv.defenses.wrapped import Layer
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.rest import fitting, seeded
from audioadv.models.suspicion import carrying_all, suspicions
from audioadv.options import is_number
from audioadv.threat.labels import as_labels

Model = Callable[[Tensor], Tensor]


@final
class Tempered(Layer):
    """A classifier whose scores are divided by `temperature`: the same answers, softer. What an attacker makes of a distilled net.

    >>> Tempered(torch.nn.Flatten(), 4.0)(torch.tensor([[8.0, -4.0]]))
    tensor([[ 2., -1.]])
    """

    def __init__(self, model: Callable[..., Tensor], temperature: float) -> None:
        check_temperature(temperature)
        super().__init__(model)
        self.temperature, self.net = temperature, getattr(model, "net", None)

    def extra_repr(self) -> str:
        """What tells it from another around the same model."""
        return f"temperature {self.temperature:g}"

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Shapes: inputs [batch, *], lengths [batch] -> scores [batch, classes]."""
        scores = self.model(inputs) if lengths is None else self.model(inputs, lengths)
        return carrying_all(scores / self.temperature, suspicions(scores))


def distill(teacher: Model, student: Model, inputs: Tensor, labels: Tensor, *, temperature: float = 100.0, **options: int) -> None:
    """Train the teacher on labels and the student on the teacher's softened answers, in place, both at `temperature`.

    `options` are those of `train_at`, and so is what it raises. Shapes: inputs [count, *], labels int64 [count].
    """
    for model in (teacher, student):  # both, before either is changed
        check_forgets(model)
        learners(net_of(model))
    train_at(temperature, teacher, inputs, labels, **options)
    with torch.no_grad():
        softened = torch.cat([(teacher(some) / temperature).softmax(1) for some in torch.split(inputs, 1000)])
    train_at(temperature, student, inputs, softened, **options)


def train_at(
    temperature: float, model: Model, inputs: Tensor, targets: Tensor, *, passes: int = 5, batch: int = 128, seed: int = 0
) -> None:
    """Train a net, or a Classifier's, in place with cross-entropy on its scores over `temperature` (1: as ever), by Adam on one cycle. The
    order and what the net's layers draw belong to `seed`, and leave torch's own draws alone.

    Shapes: inputs [count, *], targets int64 [count] or probabilities [count, classes]. Raises OptionError, UnusableBatch,
    TrainingDiverged.
    """
    check_temperature(temperature)
    check_forgets(model)
    check_lesson(inputs, passes, batch)
    if len(targets) != len(inputs):
        raise UnusableBatch(f"{len(targets)} targets for {len(inputs)} inputs: give one for each")
    check_finite("targets", targets)
    targets = targets if targets.is_floating_point() else as_labels(targets)
    named = targets.shape[1] if targets.ndim == 2 else int(targets.max()) + 1
    net, rate, generator = net_of(model), 3e-3, torch.Generator().manual_seed(int(seed))
    optimiser = torch.optim.Adam(learners(net), lr=rate)
    orders = [rejoined(torch.split(torch.randperm(len(inputs), generator=generator).to(inputs.device), batch)) for _ in range(passes)]
    total = max(2, sum(map(len, orders)))  # a cycle of one step has no rate but its last, which is next to none
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=total, pct_start=0.3)
    with learning(), seeded(seed, inputs.device):
        net.train()
        for rows in chain(*orders):
            with fitting(model, inputs):
                scores = model(inputs[rows])
            if scores.shape[1] < named:
                raise UnusableBatch(f"a net of {scores.shape[1]} classes, but targets of {named}: check the labels, or give it as many")
            step_down(optimiser, F.cross_entropy(scores / temperature, targets[rows]))
            schedule.step()
        net.eval()


def check_temperature(temperature: float) -> None:
    """Raises OptionError for what is no temperature."""
    if not is_number(temperature) or temperature <= 0:
        raise OptionError(f"temperature {temperature!r}: give a number above 0; 1 leaves scores as they are")

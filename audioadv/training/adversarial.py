"""Adversarial training: learn from the worst inputs near by, as PGD finds them.

    min over weights of  E [ max over changes of the loss ]        by Danskin's theorem, the gradient of the maximum is
                                                                  the gradient at the input where it lies

Source: Madry et al. 2018, "Towards deep learning models resistant to adversarial attacks".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from torch import Tensor

from audioadv.options import check_shares
from audioadv.threat.bounds import Bound
from audioadv.training.batches import Batch
from audioadv.training.method import Method, Model, Moment, descend
from audioadv.training.nearby import check_attacker, usual_step, worst_for


@final
@dataclass(frozen=True)
class Adversarial:
    """PGD training. Steps are `step_size` times the radius (2.5 / steps where it is not given), from a random start in the ball.

    A start that is not `boxed` may leave the box of inputs; the step from there is projected into it, as all are. With `clean`,
    that share of the loss is that of the clean inputs (Kurakin et al. 2017, "Adversarial machine learning at scale"). A batch
    costs steps + 1 passes, and one more with `clean`. Raises OptionError for what is no attacker, and a share outside 0..1.
    """

    bound: Bound
    steps: int = 7
    step_size: float | None = None
    clean: float = 0.0
    boxed: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", check_attacker(self.bound, self.steps, self.step_size))
        check_shares("Adversarial", clean=self.clean)

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        region = batch.region(self.bound, moment.share)
        step_size = usual_step(self.steps) if self.step_size is None else self.step_size
        inputs = worst_for(model, batch, region, steps=self.steps, step_size=step_size, seed=moment.seed, boxed=self.boxed)
        loss = descend((1 - self.clean) * batch.losses(model, inputs).mean())
        if self.clean:
            loss = loss + descend(self.clean * batch.losses(model, batch.inputs).mean())
        yield loss


def fast(bound: Bound, step_size: float = 1.25, *, boxed: bool = False) -> Method:
    """Fast training: one step, from a random start. It can collapse from one pass to the next: train with `Guarded(fast(...))`.

    The start may leave the box of inputs, as in the paper's code. Where inputs lie at the box's edge, as most pixels of a digit do,
    so long a step from inside the box ends on an edge of the allowed changes whatever the start, and those are all that the net is shown:

        an input at 0, radius 1, step 1.25      start in 0 .. 1   ->  0 or 1
                                                start in -1 .. 1  ->  0 or 0.25 .. 1

    A batch costs two passes. Source: Wong, Rice and Kolter 2020, "Fast is better than free: revisiting adversarial training";
    the step size is that of their code for MNIST.
    """
    return Adversarial(bound, steps=1, step_size=step_size, boxed=boxed)

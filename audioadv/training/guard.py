"""Fast training can collapse: within a few batches, or slowly over some passes, the net learns to fool its one-step attacker.

                  accuracy under PGD on a held batch, looked at every so many batches
    one step   ~~~~~~~~~~~~~~\\                              /~~~~~~~~~~~~  one step again
                              \\___ fell: learn from PGD __/

Source: Li et al. 2020, "Towards understanding fast adversarial training", which goes back to PGD until it is well again. The
collapse: Wong et al. 2020, "Fast is better than free" ("catastrophic overfitting").
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_count, check_does, check_shares
from audioadv.training.adversarial import Adversarial
from audioadv.training.batches import Batch, key
from audioadv.training.method import Method, Model, Moment
from audioadv.training.nearby import usual_step, worst_for


@final
@dataclass(frozen=True)
class Guarded:
    """A method, watched on a `held` batch by the PGD of `rescue`, which takes its place while the net is down.

    Every `every` batches, robust accuracy on the held batch is compared with what it was at its best: more than `fall` below (a
    share of the examples), the net is down, until it is back. So a slow fall is noticed too, in which each look is about as good
    as the one before. While the radius still grows, and robust accuracy may well fall, it is compared with its running mean (half
    the last look, half what was before) instead. Raises OptionError for what is no method, rescue or batch, for a watch at no batch, and
    a share outside 0..1.
    """

    method: Method
    rescue: Adversarial
    held: Batch = field(repr=False)
    every: int = 50
    fall: float = 0.3
    digest: str = field(init=False)  # of the held batch: what tells this method from one that watches another

    def __post_init__(self) -> None:
        check_does("method", self.method, "gradients", "Give one, for example fast(Linf(0.3))")
        if not isinstance(self.rescue, Adversarial):
            raise OptionError(f"rescue {self.rescue!r:.60}: the guard looks by its steps of PGD. Give Adversarial(bound)")
        if not isinstance(self.held, Batch):
            raise OptionError(f"held is a {type(self.held).__name__}: give one batch that is not learnt from, for example data.first(200)")
        check_count("every", self.every)
        check_shares("Guarded", fall=self.fall)
        object.__setattr__(self, "digest", self.held.digest())

    def gradients(self, model: Model, batch: Batch, moment: Moment) -> Iterator[Tensor]:
        memory = moment.memory
        count, usual, down, share = memory.setdefault("guard", torch.zeros(4, dtype=torch.float64)).tolist()
        if int(count) % self.every == 0:
            now = self.look(model, moment)
            down = float(now < usual - self.fall)
            if not down:
                usual = max(usual, now) if moment.share == share else (usual + now) / 2 if usual else now
            share = moment.share
        memory["guard"] = torch.tensor([count + 1, usual, down, share], dtype=torch.float64)
        yield from (self.rescue if down else self.method).gradients(model, batch, moment)

    def look(self, model: Model, moment: Moment) -> float:
        """Accuracy under the rescue's PGD on the held batch, at the radius of the moment."""
        held, steps = self.held, self.rescue.steps
        step_size = usual_step(steps) if self.rescue.step_size is None else self.rescue.step_size
        region, seed = held.region(self.rescue.bound, moment.share), key(moment.seed, "guard")
        inputs = worst_for(model, held, region, steps=steps, step_size=step_size, seed=seed)
        with torch.no_grad(), at_rest(model):
            return held.right(held.outputs(model, inputs)).float().mean().item()

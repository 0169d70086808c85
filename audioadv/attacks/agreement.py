"""What the draws of a channel agree on: a slope of few draws in parts, each weighed by how little of it is chance.

Let p be a part of the slope of one step, m the mean of that part over the steps before, whose draws were others. While the true
slope changes slowly,

    E <p, m> = |true part|^2        so        c = <p, m> / <p, p>

is the share of p's energy that draws agree on, found without knowing the true slope. A mean over N steps has the share
c / (c + (1 - c) / N) of its own, and that is also the weight that brings it nearest to the true one (Wiener). N is what an example is
a mean of: the steps of the running mean, and those until it has forgotten them, as many as are as long as the radius together.

At first, when steps are long, only the part with the least noise counts; at the end, by when noise averages out, all that there is.
How much that is, a net itself says: of a spoken clip through rooms at snr:15, `along_gains` and the rest had a c of 0.05 and 0.003
on tiny-mel, of noise on tiny-wave 0.18 and 0.007, of near-silence there 0.88 and 0.33.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from audioadv.attacks.run import cut
from audioadv.threat.projections import dot, each

MEMORY = 100  # steps that c is a mean of
LEAST = 1e-4  # of c: what is less cannot be told from none


@final
class Agreement:
    """What is known so far of some examples' parts: their running means, and the mean products that c is the ratio of."""

    def __init__(self, momentum: float) -> None:
        self.momentum, self.steps = momentum, 0
        self.means: tuple[Tensor, ...] = ()
        self.shared: tuple[Tensor, ...] = ()
        self.whole: tuple[Tensor, ...] = ()

    def weighed(self, parts: Sequence[Tensor], stride: float) -> Tensor:
        """The sum of the parts, each times its weight. `stride` is the length of the next step, as a share of the radius.

        The first slope has nothing to agree with, and stays as it is. Shapes: [batch, *] each -> [batch, *].
        """
        self.meet(parts)
        lasting = (1 + self.momentum) / (1 - self.momentum) + 1 / stride
        return torch.stack([each(weight(c, lasting), part) * part for c, part in zip(self.shares(), parts, strict=True)]).sum(0)

    def shares(self) -> list[Tensor]:
        """c of each part, as far as it is known. Shapes: -> [batch] each."""
        pairs = zip(self.shared, self.whole, strict=True)
        return [(shared / whole.clamp_min(torch.finfo(whole.dtype).tiny)).clamp(LEAST, 1) for shared, whole in pairs]

    def meet(self, parts: Sequence[Tensor]) -> None:
        """Take one step's parts in: against the means of those before, then into these. Shapes: [batch, *] each."""
        if not self.steps:
            self.means = tuple(torch.zeros_like(part) for part in parts)
            self.shared = self.whole = tuple(part.new_zeros(len(part)) for part in parts)
        else:
            new = 1 / min(self.steps, MEMORY)
            self.shared = tuple(s.lerp(dot(p, m), new) for s, p, m in zip(self.shared, parts, self.means, strict=True))
            self.whole = tuple(w.lerp(dot(p, p), new) for w, p in zip(self.whole, parts, strict=True))
        self.steps += 1
        share = max(1 / self.steps, 1 - self.momentum)
        self.means = tuple(mean.lerp(part, share) for mean, part in zip(self.means, parts, strict=True))

    def keep(self, left: tuple[Tensor, int]) -> None:
        """Only the examples that stay, as `run.cut` has it."""
        self.means, self.shared, self.whole = cut(left, *self.means), cut(left, *self.shared), cut(left, *self.whole)


def weight(share: Tensor, number: float) -> Tensor:
    """Of a mean over so many slopes: the share of its energy that is no chance, if that of a single one is `share`."""
    return share / (share + (1 - share) / number)

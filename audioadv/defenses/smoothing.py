"""Randomized smoothing: what a classifier says of most noisy versions of an input, and how far that is certain to hold.

    g(x) = the class that f(x + noise) most likely is, noise ~ N(0, sigma^2 I)        certified radius: sigma * Phi^-1(p)

where p is a lower bound of that likelihood, exact (Clopper and Pearson 1934) but for a chance of alpha. No norm-bounded
attack in L2 within the radius can change g: what is certified is g, with all the noise there is, not what a few draws say.

Source: Cohen, Rosenfeld and Kolter 2019, "Certified adversarial robustness via randomized smoothing", theorem 1, and figure 1
(PREDICT and CERTIFY). The differentiable form: Salman et al. 2019, "Provably robust deep learning via adversarially trained
smoothed classifiers", section 2.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import torch
from scipy.special import betaincinv, ndtri
from scipy.stats import binom
from torch import Tensor

from audioadv.defenses.wrapped import Wrapped
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.threat.channels.keys import Key, fingerprint

ABSTAINS = -1
BLOCK = 128  # draws at once on a CPU: what stays near its cores is faster than what does not
BLOCK_ON_CUDA = 1024
SELECT, ESTIMATE, ATTACK = range(3)  # what draws are for: never the same ones


@final
class Certificates(NamedTuple):
    """One for each example. Shapes [batch]: classes int64 (-1: abstained), radii (L2; 0 where abstained), counts int64 (of its class)."""

    classes: Tensor
    radii: Tensor
    counts: Tensor

    def hold(self, labels: Tensor, radius: float) -> Tensor:
        """Which examples are right at every input nearer than `radius` (at radius 0: right). Shapes: labels [batch] -> bool [batch]."""
        return (self.classes == labels) & (self.radii >= radius)


@final
@dataclass(frozen=True, eq=False)
class Smoothed(Wrapped):
    """A classifier under noise of `sigma` (in the inputs' unit), of images or of sounds, whose padding stays zero.

    `predict` and `certify` count classes. Called as a model, it gives the log of the mean probability over `draws`, which has
    gradients: what an adaptive attacker takes. Draws are keyed by seed and by the input's content: the same input always gets
    the same answer, whatever its neighbours, and an attack meets new draws at each step (EOT).
    Raises OptionError for a sigma that is not above 0.
    """

    model: Callable[..., Tensor]
    sigma: float
    draws: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise(self.sigma, self.draws)

    def __call__(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Shapes: inputs [batch, *], lengths [batch] in samples -> log-probabilities [batch, classes]."""
        rows = []
        for example, own in each_example(inputs, lengths):
            scores = torch.cat([self.answer(example + noise, own) for noise in self.noise(example, own, self.draws, ATTACK)])
            rows.append(scores.log_softmax(1).logsumexp(0) - math.log(self.draws))
        return torch.stack(rows)

    def predict(self, inputs: Tensor, lengths: Tensor | None = None, *, draws: int = 1000, alpha: float = 0.001) -> Tensor:
        """The smoothed class of each input, or -1 where `draws` do not tell, wrong with a chance of at most alpha.

        Shapes: inputs [batch, *], lengths [batch] -> int64 [batch].
        """
        check_chance(draws, alpha)
        counts = torch.stack([self.counts(example, own, draws, ESTIMATE) for example, own in each_example(inputs, lengths)])
        (first, second), (best, _) = (pair.unbind(1) for pair in counts.topk(2, 1))
        surprise = coin_p_value(first.cpu().numpy(), (first + second).cpu().numpy())
        return torch.where(torch.tensor(surprise <= alpha, device=best.device), best, ABSTAINS)

    def certify(
        self, inputs: Tensor, lengths: Tensor | None = None, *, select: int = 100, draws: int = 10000, alpha: float = 0.001
    ) -> Certificates:
        """The smoothed class of each input and an L2 radius within which it does not change, wrong with a chance of at most alpha.

        `select` draws choose the class, `draws` others bound its likelihood: 10,000 certify up to 3.2 sigma, 100,000 to 3.8.
        Shapes: inputs [batch, *], lengths [batch] -> [batch] each.
        """
        check_chance(min(select, draws), alpha)
        chosen, hits = [], []
        for example, own in each_example(inputs, lengths):
            chosen.append(self.counts(example, own, select, SELECT).argmax())
            hits.append(self.counts(example, own, draws, ESTIMATE)[chosen[-1]])
        classes, counts = torch.stack(chosen), torch.stack(hits)
        least = torch.tensor(lower_bound(counts.cpu().numpy(), draws, alpha))
        sure = (least > 0.5).to(classes.device)
        radii = torch.where(sure, self.sigma * torch.tensor(ndtri(least.numpy())).to(inputs), 0.0)
        return Certificates(torch.where(sure, classes, ABSTAINS), radii, counts)

    def counts(self, example: Tensor, own: Tensor | None, draws: int, purpose: int) -> Tensor:
        """How many draws fall to each class. Shapes: example [1, *], own [1] -> int64 [classes]."""
        with torch.inference_mode(), at_rest(self.model):
            found = [self.answer(noise.add_(example), own) for noise in self.noise(example, own, draws, purpose)]
            width = found[0].shape[1]
            return sum((scores.argmax(1).bincount(minlength=width) for scores in found), torch.zeros((), dtype=torch.int64))

    def answer(self, noisy: Tensor, own: Tensor | None) -> Tensor:
        """Scores. Shapes: noisy [draws, *], own [1] -> [draws, classes]. Raises UnusableBatch for decisions."""
        scores = self.model(noisy) if own is None else self.model(noisy, own.expand(len(noisy)))
        if scores.ndim != 2:
            raise UnusableBatch(f"outputs of shape {tuple(scores.shape)}: smoothing counts the classes of scores [batch, classes]")
        return scores

    def noise(self, example: Tensor, own: Tensor | None, draws: int, purpose: int) -> Iterator[Tensor]:
        """Noise for one example, a block at a time. Shapes: example [1, *] -> [some, *], `draws` in all."""
        return noise_blocks(example, own, self.sigma, draws, Key(self.seed, fingerprint(example), purpose))


def check_noise(sigma: float, draws: int) -> None:
    """Raises OptionError for noise that is none, or no draw of it."""
    if not 0 < sigma < math.inf:
        raise OptionError(f"sigma {sigma:g}: smoothing needs noise. Give a standard deviation above 0, in the inputs' unit, such as 0.25")
    if draws < 1:
        raise OptionError(f"draws {draws}: give at least one")


def check_chance(draws: int, alpha: float) -> None:
    """Raises OptionError for no draw, or a chance that is none."""
    if draws < 1 or not 0 < alpha < 1:
        raise OptionError(f"draws {draws}, alpha {alpha:g}: give at least one draw, and a chance of error between 0 and 1, such as 0.001")


def each_example(inputs: Tensor, lengths: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One by one, without padding. Shapes: inputs [batch, *] -> [1, *] and [1] each."""
    for i in range(len(inputs)):
        own = None if lengths is None else lengths[i : i + 1]
        yield inputs[i : i + 1, ..., : None if own is None else int(own)], own


def noise_blocks(example: Tensor, own: Tensor | None, sigma: float, draws: int, key: Key) -> Iterator[Tensor]:
    """The first `draws` of the noise that belongs to this key, however many are taken."""
    device = example.device
    generator = torch.Generator(device).manual_seed(key.generator().initial_seed())
    block = BLOCK if device.type == "cpu" else BLOCK_ON_CUDA
    room = example.new_empty((block, *example.shape[1:]))
    for first in range(0, draws, block):
        yield room.normal_(0, sigma, generator=generator)[: draws - first]


def lower_bound(hits: Any, draws: int, alpha: float) -> Any:
    """The likelihood below which so many hits or more have a chance of less than alpha. Shapes: hits [*] -> float64 [*].

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".

    >>> float(lower_bound(10, 10, 0.001).round(4))  # 0.001 ** (1 / 10)
    0.5012
    """
    hits = np.asarray(hits, dtype=np.float64)
    return np.where(hits > 0, betaincinv(np.maximum(hits, 1), draws - hits + 1, alpha), 0.0)


def coin_p_value(heads: Any, tosses: Any) -> Any:
    """How likely a fair coin falls at least as unevenly: the exact two-sided test. Shapes: [*] -> float64 [*]."""
    more = np.maximum(heads, tosses - heads)
    return np.minimum(1.0, 2 * binom.sf(more - 1, tosses, 0.5))

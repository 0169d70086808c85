"""Randomized smoothing: what a classifier says of most noisy versions of an input, and how far that is certain to hold.

    g(x) = the class that f(x + noise) most likely is, noise ~ N(0, sigma^2 I)        certified radius: sigma * Phi^-1(p)

where p is a lower bound of that likelihood, exact (Clopper and Pearson 1934) but for a chance of alpha. No norm-bounded
attack in L2 within the radius can change g: what is certified is g, with all the noise there is, not what a few draws say.

Inputs that are counted together share one noise, each under signs of its own:

    noise z_1 ... z_n ~ N(0, sigma^2 I)    once a call            input x + s * z_1 ... x + s * z_n    s in {-1, +1}, keyed by x

N(0, sigma^2 I) is the same under any flip of signs, so that for each x its n draws are independent and exactly Gaussian: its bound
and its chance of error are as with noise of its own. Only how errors of *different* inputs go together changes: they are no longer
independent, while their expected number, and the union bound over them, are what they were. As ever, an input must not have been
made for these very draws: where an attacker may know the code, the seed is to be a secret.

Source: Cohen, Rosenfeld and Kolter 2019, "Certified adversarial robustness via randomized smoothing", theorem 1, and section
3.2 (PREDICT and CERTIFY). The differentiable form: Salman et al. 2019, "Provably robust deep learning via adversarially trained
smoothed classifiers".
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import scipy
import torch
from torch import Tensor

from audioadv.defenses.wrapped import Wrapped
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.abstention import ABSTAIN, abstained, decided
from audioadv.models.recogniser import hears
from audioadv.models.rest import at_rest, fitting
from audioadv.models.suspicion import carrying_all, suspicions
from audioadv.options import check_count, check_does, is_number
from audioadv.threat.channels.keys import Key, fingerprint

BLOCK, BLOCK_ON_CUDA = 512, 1024  # draws at once, at most
NEAR = 2**20  # numbers at once on a CPU: what stays near its cores is faster than what does not
SELECT, ESTIMATE, ATTACK, SELECT_ON = range(4)  # what draws are for: never the same ones


@final
class Certificates(NamedTuple):
    """One for each example. Shapes [batch]: classes int64 (-1: abstained), radii float64 (L2; 0 where abstained), counts int64 (of its
    class).
    """

    classes: Tensor
    radii: Tensor
    counts: Tensor

    def hold(self, labels: Tensor, radius: float) -> Tensor:
        """Which examples are right at every input nearer than `radius` (at radius 0: right).

        Shapes: labels [batch] -> bool [batch]. Raises UnusableBatch for others.
        """
        labels = torch.as_tensor(labels, device=self.classes.device)
        if labels.shape != self.classes.shape:
            raise UnusableBatch(f"labels of shape {list(labels.shape)} for {len(self.classes)} certificates: give one for each")
        return (self.classes == labels) & (self.radii >= radius)


@final
@dataclass(frozen=True, eq=False)
class Smoothed(Wrapped):
    """A classifier under noise of `sigma` (in the inputs' unit), of images or of sounds, whose padding stays zero.

    `predict` and `certify` count classes. Called as a model, it gives the log of the mean probability over `draws`, which has
    gradients: what an adaptive attacker takes. Where the model abstains, a draw counts for no class, here as there. Draws are keyed
    by seed and by the input's content: the same input always gets the same answer, whatever its neighbours, and an attack meets new
    draws at each step (EOT). Where the model has detectors, their word is the mean over the draws; counts know nothing of them.

    With a `precision` (torch.bfloat16) the model computes in that, for answers, counts and gradients alike: what is smoothed
    and certified is then this classifier, whose scores are rounded, and not the one in full precision.
    Raises OptionError for a recogniser, a sigma that is not above 0, or a precision that is none of 16 bits.
    """

    model: Callable[..., Tensor]
    sigma: float
    draws: int = 32
    seed: int = 0
    precision: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_does("model", self.model, "__call__", "Give a classifier")
        if hears(self.model):
            raise OptionError(f"{self.model.name}: a recogniser, whose words are no classes to be counted. Take SmoothedRecogniser")
        check_noise(self.sigma, self.draws)
        if self.precision not in (None, torch.bfloat16, torch.float16):
            raise OptionError(f"precision {self.precision}: give torch.bfloat16 or torch.float16, or None for the model's own")

    def __call__(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Shapes: inputs [batch, *], lengths [batch] in samples -> log-probabilities [batch, classes]."""
        if not len(inputs):
            scores = self.answer(inputs, lengths)
            return carrying_all(scores.log_softmax(1), suspicions(scores))
        rows, words = list[Tensor](), list[Mapping[object, Tensor]]()
        for example, own in each_example(inputs, lengths):
            blocks = [self.answer(example + noise, own) for noise in self.noise(example)]
            scores = torch.cat(blocks)
            rows.append(log_mean(scores.masked_fill(abstained(scores)[:, None], 0.0).log_softmax(1), abstained(scores)))
            words.append(averaged(map(suspicions, blocks)))
        return carrying_all(torch.stack(rows), joined(words))

    def predict(self, inputs: Tensor, lengths: Tensor | None = None, *, draws: int = 1000, alpha: float = 0.001) -> Tensor:
        """The smoothed class of each input, or -1 where `draws` do not tell, wrong with a chance of at most alpha.

        Shapes: inputs [batch, *], lengths [batch] -> int64 [batch].
        """
        check_chance(alpha, draws=draws)
        counts = self.counts(inputs, lengths, draws, ESTIMATE)
        if counts.shape[1] < 2:
            raise UnusableBatch(f"scores of {counts.shape[1]} class: a prediction is between two at least. Smooth a model of more classes")
        (first, second), (best, _) = (pair.unbind(1) for pair in counts.topk(2, 1))
        surprise = coin_p_value(first.cpu().numpy(), (first + second).cpu().numpy())
        return torch.where(torch.tensor(surprise <= alpha, device=best.device), best, ABSTAIN)

    def certify(
        self, inputs: Tensor, lengths: Tensor | None = None, *, select: int = 100, draws: int = 10000, alpha: float = 0.001
    ) -> Certificates:
        """The smoothed class of each input and an L2 radius within which it does not change, wrong with a chance of at most alpha.

        `select` draws at most choose the class, `draws` others bound its likelihood: 10,000 certify up to 3.2 sigma, 100,000 to 3.8.
        Shapes: inputs [batch, *], lengths [batch] -> [batch] each.
        """
        check_chance(alpha, select=select, draws=draws)
        classes = self.likeliest(inputs, lengths, select)
        counts = self.counts(inputs, lengths, draws, ESTIMATE).gather(1, classes[:, None])[:, 0]
        least = torch.tensor(lower_bound(counts.cpu().numpy(), draws, alpha))
        sure = (least > 0.5).to(classes.device)
        sure_of = torch.tensor(scipy.special.ndtri(least.numpy())).to(inputs.device)  # float64: none is rounded up
        radii = torch.where(sure, self.sigma * sure_of, 0.0)
        return Certificates(torch.where(sure, classes, ABSTAIN), radii, counts)

    def likeliest(self, inputs: Tensor, lengths: Tensor | None, draws: int) -> Tensor:
        """The class that most of so many draws fall to. Inputs whose class no later draw can change get three fifths of them.

        Shapes: inputs [batch, *], lengths [batch] -> int64 [batch].
        """
        left = 2 * draws // 5
        found = self.counts(inputs, lengths, draws - left, SELECT)
        open = (2 * found.amax(1) - found.sum(1) <= left).nonzero()[:, 0]
        if left and len(open):
            more = self.counts(inputs[open], None if lengths is None else lengths[open], left, SELECT_ON)
            found = found.index_add(0, open, more)
        return found.argmax(1)

    def counts(self, inputs: Tensor, lengths: Tensor | None, draws: int, purpose: int) -> Tensor:
        """How many draws of each input fall to each class; to none, where the model abstains.

        Shapes: inputs [batch, *], lengths [batch] -> int64 [batch, classes].
        """
        examples, found = list(each_example(inputs, lengths)), [torch.zeros((), dtype=torch.int64, device=inputs.device)] * len(inputs)
        with torch.inference_mode(), at_rest(self.model):
            signs = [flips(example, Key(self.seed, fingerprint(example), purpose)) for example, _ in examples]
            for shape in dict.fromkeys(example.shape for example, _ in examples):
                alike = [i for i, (example, _) in enumerate(examples) if example.shape == shape]
                for noise in noise_blocks(examples[alike[0]][0], self.sigma, draws, Key(self.seed, 0, purpose)):
                    for i in alike:
                        example, own = examples[i]
                        scores = self.answer(torch.addcmul(example, noise, signs[i]), own)
                        votes = decided(scores)
                        found[i] = found[i] + votes[votes != ABSTAIN].bincount(minlength=scores.shape[1])
            return torch.stack(found) if found else self.answer(inputs, lengths).long()

    def answer(self, noisy: Tensor, own: Tensor | None) -> Tensor:
        """Scores. Shapes: noisy [draws, *], own [1] -> [draws, classes]. Raises UnusableBatch for decisions, and another dtype."""
        with fitting(self.model, noisy), torch.autocast(noisy.device.type, self.precision, enabled=self.precision is not None):
            scores = self.model(noisy) if own is None else self.model(noisy, own.expand(len(noisy)))
        if scores.ndim != 2:
            raise UnusableBatch(f"outputs of shape {tuple(scores.shape)}: smoothing counts the classes of scores [batch, classes]")
        return carrying_all(scores.to(noisy.dtype), suspicions(scores))

    def noise(self, example: Tensor) -> Iterator[Tensor]:
        """What an attacker meets: noise of this input alone, a block at a time. Shapes: example [1, *] -> [some, *]."""
        return noise_blocks(example, self.sigma, self.draws, Key(self.seed, fingerprint(example), ATTACK))


def check_noise(sigma: float, draws: int) -> None:
    """Raises OptionError for noise that is none, or no draw of it."""
    if not is_number(sigma) or sigma <= 0:
        raise OptionError(f"sigma {sigma!r}: smoothing needs noise. Give a standard deviation above 0, in the inputs' unit, such as 0.25")
    check_count("draws", draws)


def check_chance(alpha: float, **counts: int) -> None:
    """Raises OptionError for no draw, or a chance that is none."""
    for name, count in counts.items():
        check_count(name, count)
    if not is_number(alpha) or not 0 < alpha < 1:
        raise OptionError(f"alpha {alpha!r}: give a chance of error in 0..1, such as 0.001")


def each_example(inputs: Tensor, lengths: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """One by one, without padding. Shapes: inputs [batch, *] -> [1, *] and [1] each."""
    for i in range(len(inputs)):
        own = None if lengths is None else lengths[i : i + 1]
        yield inputs[i : i + 1, ..., : None if own is None else int(own)], own


def joined(parts: Iterable[Mapping[object, Tensor]]) -> dict[object, Tensor]:
    """What each detector says of several batches, one after another. Shapes: [batch] each -> [all]."""
    parts = list(parts)
    return {detector: torch.cat([part[detector] for part in parts]) for detector in parts[0]}


def averaged(draws: Iterable[Mapping[object, Tensor]]) -> dict[object, Tensor]:
    """What each detector says of one example, from blocks of its draws; those of which it says nothing are left out.

    Shapes: [some] each -> [1].
    """
    return {detector: word.nanmean(0, keepdim=True) for detector, word in joined(draws).items()}


def log_mean(log_probs: Tensor, absent: Tensor) -> Tensor:
    """The log of the mean probability over the draws that are not absent; not a number where all are.

    Shapes: log_probs [draws, *], absent bool [draws] -> [*].
    """
    here = log_probs.masked_fill(absent.reshape(-1, *[1] * (log_probs.ndim - 1)), -torch.inf)
    return here.logsumexp(0) - (~absent).sum().to(here).log()


def noise_blocks(example: Tensor, sigma: float, draws: int, key: Key) -> Iterator[Tensor]:
    """The first `draws` of the noise that belongs to this key, a block at a time. Shapes: example [1, *] -> [some, *].

    Raises UnusableBatch for integers.
    """
    if not example.is_floating_point():
        raise UnusableBatch(f"inputs of {example.dtype}: noise is added to floating-point numbers. Give such, for example inputs / 255")
    device = example.device
    generator = torch.Generator(device).manual_seed(key.generator().initial_seed())
    block = max(1, min(BLOCK, NEAR // example.numel())) if device.type == "cpu" else BLOCK_ON_CUDA
    room = example.new_empty((min(block, draws), *example.shape[1:]))
    for first in range(0, draws, block):
        yield room.normal_(0, sigma, generator=generator)[: draws - first]


def flips(example: Tensor, key: Key) -> Tensor:
    """Signs of +1 or -1 that belong to this key. Shapes: as `example`."""
    return (2 * torch.randint(2, example.shape, generator=key.generator()) - 1).to(example)


def lower_bound(hits: Any, draws: int, alpha: float) -> Any:
    """The likelihood below which so many hits or more have a chance of less than alpha. Shapes: hits [*] -> float64 [*].

    Source: Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial".

    >>> float(lower_bound(10, 10, 0.001).round(4))  # 0.001 ** (1 / 10)
    0.5012
    """
    hits = np.asarray(hits, dtype=np.float64)
    return np.where(hits > 0, scipy.special.betaincinv(np.maximum(hits, 1), draws - hits + 1, alpha), 0.0)


def coin_p_value(heads: Any, tosses: Any) -> Any:
    """How likely a fair coin falls at least as unevenly: the exact two-sided test. Shapes: [*] -> float64 [*]."""
    more = np.maximum(heads, tosses - heads)
    tail = scipy.special.betainc(np.maximum(more, 1), tosses - more + 1, 0.5)  # binom.sf; scipy.stats is slow to import
    return np.minimum(1.0, 2 * tail)

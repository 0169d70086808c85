"""A small network that is trained to tell clean from adversarial examples, on inputs, on outputs or on a layer's activations.

Sources: Gong, Wang and Ku 2017, "Adversarial and clean data are not twins" (inputs); Metzen, Genewein, Fischer and Bischoff
2017, "On detecting adversarial perturbations" (activations).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.defenses.detectors.detected import Sense
from audioadv.defenses.detectors.seen import INPUTS, OUTPUTS, Seen, View, check_finite, view
from audioadv.errors import OptionError

STRIDED = 3  # convolutions, each of stride 2; over time, 4
AT_ONCE = 64  # pairs of a clean and an adversarial example


@final
@dataclass(frozen=True)
class Network:
    """A network on `place`: "inputs", "outputs", or a layer of the model by its name, whose features lie along `axis`.

    Features at places (pixels, samples, frames) go through strided convolutions and a mean over places, plain features through
    two hidden layers, all `width` wide. Trained by Adam on as many adversarial as clean examples. Needs adversarial examples:
    OptionError without.
    """

    place: str = INPUTS
    axis: int = 1
    width: int = 32
    passes: int = 10
    rate: float = 2e-3

    @property
    def layers(self) -> tuple[str, ...]:
        return () if self.place in (INPUTS, OUTPUTS) else (self.place,)

    @property
    def where(self) -> tuple[str, int]:
        return self.place, self.axis

    def __str__(self) -> str:
        return f"a network on {self.place if not self.layers else f'layer {self.place}'}"

    def learn(self, clean: list[Seen], adversarial: list[Seen], seed: int) -> Sense:
        if not adversarial:
            raise OptionError(f"{self} learns from adversarial examples too. Give some: fit(kind, model, clean, adversarial)")
        check_finite([*clean, *adversarial], *self.where)
        pairs = [(view(a, *self.where), view(b, *self.where)) for a, b in zip(clean, adversarial, strict=True)]
        mean, square = (torch.cat([one.moment(power) for one, _ in pairs]).mean(0) for power in (1, 2))
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(int(seed))
            sense = NetworkSense(self, pairs[0][0], mean, (square - mean.square()).clamp_min(1e-12).sqrt())
            sense.to(mean)
            optimiser = torch.optim.Adam(sense.parameters(), lr=self.rate)
            rounds = [(pair, rows) for pair in pairs for rows in torch.split(torch.arange(len(pair[0].values)), AT_ONCE)]
            for _ in range(self.passes):
                for number in torch.randperm(len(rounds)).tolist():
                    pair, rows = rounds[number]
                    logits = torch.cat([sense.body(one.rows(rows)) for one in pair])
                    labels = (torch.arange(len(logits)) >= len(rows)).to(logits)
                    optimiser.zero_grad()
                    torch.autograd.backward(F.binary_cross_entropy_with_logits(logits, labels))
                    optimiser.step()
        return sense


@final
class NetworkSense(Sense):
    """The log odds of adversarial to clean, by a network on a view."""

    def __init__(self, kind: Network, example: View, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.kind, self.layers = kind, kind.layers
        self.mean, self.std = nn.Buffer(mean), nn.Buffer(std.clamp_min(1e-6))
        places, features, width = example.values.ndim - 2, len(mean), kind.width
        if places > 2:
            raise OptionError(f"{kind}: {places} axes of places. Look at a layer with two at most")
        convolution, kernel, stride = {0: (None, 1, 1), 1: (nn.Conv1d, 9, 4), 2: (nn.Conv2d, 3, 2)}[places]
        sizes = [features, *[width] * STRIDED]
        self.stride = stride
        self.steps = nn.ModuleList(
            nn.Linear(a, b) if convolution is None else convolution(a, b, kernel, stride, kernel // 2) for a, b in pairwise(sizes)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, seen: Seen) -> Tensor:
        return self.body(view(seen, *self.kind.where))

    def body(self, one: View) -> Tensor:
        """Log odds; what lies in the padding changes nothing. Shapes: -> [batch]."""
        shape = (1, -1, *[1] * (one.values.ndim - 2))
        values, own = (one.values - self.mean.reshape(shape)) / self.std.reshape(shape), one.own
        for step in self.steps:
            values = values if own is None else values * own[:, None]
            values = F.relu(step(values))
            own = None if own is None else own[(slice(None), *[slice(None, None, self.stride)] * (own.ndim - 1))]
        return self.head(View(values, own).pooled())[:, 0]

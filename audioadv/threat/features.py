"""Changes that a network hardly sees: the distance between its features of the input before and after.

spec                            bound                               excess in
feature:0.5:my_file:my_network  Feature(network, 0.5, "my_file:my_network")  the features' distance
feature:min:my_file:my_network  the smallest distance that works

The network is any callable from a batch of inputs to features [batch, channels, *], or to a list of these (one a layer). At
each place its channels are scaled to length 1, each layer is divided by the root of its number of places, and the distance is
the Euclidean one: LPIPS as Laidlaw et al. 2021, "Perceptual adversarial robustness", has it. So it lies between 0 and 2 for
each layer. Ragged sound is shown to the network clip by clip, each at its own length.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from audioadv.errors import AccessDenied, AudioadvError, MalformedSpec, OptionError, UnknownModel, UnusableBatch
from audioadv.models.rest import modules_of
from audioadv.models.sources import called
from audioadv.threat.algebra import Combines
from audioadv.threat.bounds import MIN, Box, Radius, ball, check_inputs, check_radius, outward, parse_number, plain
from audioadv.threat.norms import LinfNorm
from audioadv.threat.projections import INWARD, dot, each
from audioadv.threat.region import Norm, Region

WORDS = ("_or_", "_mix_", "@", "_and_")
Network = Callable[[Tensor], Tensor | Sequence[Tensor]]
HALVINGS = 12
ROUNDS, DAMPING = 5, 1e-3  # of conjugate gradients
PROBE = 1e-3  # full scale: the length of a finite difference
MOODY = (_NormBase, _DropoutNd)  # layers that do something else while they learn


def normalised(features: Tensor | Sequence[Tensor]) -> Tensor:
    """All layers' features as one vector an example. Shapes: [batch, channels, *] each -> [batch, all].

    Raises UnusableBatch for what are no features.
    """
    layers = [features] if isinstance(features, Tensor) else features
    if not isinstance(layers, list | tuple) or not layers or not all(isinstance(layer, Tensor) and layer.ndim > 1 for layer in layers):
        raise UnusableBatch(
            f"the feature network gives {type(features).__name__}: let it give a tensor [batch, channels, ...], or a list of such"
        )
    unit = [layer / layer.norm(dim=1, keepdim=True).clamp_min(1e-10) for layer in layers]
    return torch.cat([layer.flatten(1) / math.sqrt(max(layer.shape[2:].numel(), 1)) for layer in unit], 1)


@final
@dataclass(frozen=True, eq=False)
class FeatureNorm(Norm):
    """The distance in features from the clean inputs. Shapes: clean [batch, *], lengths [batch] or None, seen [batch, all]."""

    network: Network
    clean: Tensor
    lengths: Tensor | None
    seen: Tensor
    placed: ClassVar[bool] = True

    def features(self, delta: Tensor) -> Tensor:
        """The normalised features of clean + delta. Shapes: [batch, *] -> [batch, all]."""
        x = self.clean[..., : delta.shape[-1]] + delta
        if self.lengths is None:
            return normalised(self.network(x))
        rows = [normalised(self.network(row[None, ..., :length]))[0] for row, length in zip(x, self.lengths.tolist(), strict=True)]
        longest = max([self.seen.shape[1], *map(len, rows)])
        return torch.stack([nn.functional.pad(row, (0, longest - len(row))) for row in rows])

    @torch.no_grad()
    def gauge(self, delta: Tensor) -> Tensor:
        return (self.features(delta) - self.seen).norm(dim=1)

    def extent(self, change: Tensor) -> Tensor:
        """Distances are of the order of 1, however loud the input."""
        return torch.ones_like(self.seen[:, 0])

    @torch.no_grad()
    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """A point inside on the way from the clean input: by halving, `HALVINGS` times; inside for sure, if not the nearest."""
        if low is not None and high is not None:
            delta = delta.clamp(low, high)
        radius = radius * INWARD
        done = self.gauge(delta) <= radius
        near, far = done.to(delta), torch.ones_like(radius)
        for _ in range(HALVINGS):
            middle = (near + far) / 2
            fits = self.gauge(delta * each(middle, delta)) <= radius
            near, far = torch.where(fits, middle, near), torch.where(fits, far, middle)
        return torch.where(each(done, delta), delta, delta * each(near, delta))

    def steepest(self, slope: Tensor) -> Tensor:
        """The steepest step as long as 1 in the features' distance near the clean input, J being their slopes there.

        That is (J'J)^-1 slope, scaled: solved by a few conjugate gradients, damped, J v by a finite difference and J'w by a
        backward pass. Source: Laidlaw et al. 2021.
        """
        step, rest = torch.zeros_like(slope), slope
        direction = rest
        energy = square(rest)
        floor = DAMPING * square(self.seen_along(slope)) / energy.clamp_min(1e-30)
        for _ in range(ROUNDS):
            curved = self.back(self.seen_along(direction), slope) + each(floor, slope) * direction
            stride = energy / dot(direction, curved).clamp_min(1e-30)
            step = step + each(stride, slope) * direction
            rest = rest - each(stride, slope) * curved
            energy, before = square(rest), energy
            direction = rest + each(energy / before.clamp_min(1e-30), slope) * direction
        length = self.seen_along(step).norm(dim=1)
        return torch.where(each(length > 0, step), step / each(length.clamp_min(1e-30), step), 0.0)

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """The steepest way, as far as it is inside: what is projected from afar comes back to the clean input."""
        return self.project(each(radius, slope) * self.steepest(slope), radius, low, high)

    def steady(self, slope: Tensor) -> Tensor:
        return self.steepest(slope)

    @torch.no_grad()
    def seen_along(self, direction: Tensor) -> Tensor:
        """J direction: how fast the features change. Shapes: [batch, *] -> [batch, all]."""
        probe = PROBE / direction.flatten(1).abs().amax(1).clamp_min(1e-30)
        return (self.features(direction * each(probe, direction)) - self.seen) / probe[:, None]

    def back(self, change: Tensor, like: Tensor) -> Tensor:
        """J' change. Shapes: [batch, all] -> as like, [batch, *]. Raises AccessDenied for features that have no slopes."""
        with torch.enable_grad():
            delta = torch.zeros_like(like).requires_grad_()
            seen = self.features(delta)
            (slope,) = torch.autograd.grad(seen, delta, change, allow_unused=True) if seen.requires_grad else (None,)
        if slope is None:
            raise AccessDenied(
                "the feature network has no gradient with respect to its inputs, and a step within this bound takes it. "
                "Let the network detach nothing, or use an attack on decisions: boundary, hop_skip_jump"
            )
        return slope

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        drawn = LinfNorm().sample(clean, generator)[None]
        return self.project(drawn, drawn.new_ones(1), None, None)[0]

    def rows(self, index: Tensor) -> "FeatureNorm":
        lengths = None if self.lengths is None else self.lengths[index]
        return replace(self, clean=self.clean[index], lengths=lengths, seen=self.seen[index])


def square(x: Tensor) -> Tensor:
    """The squared length of each example. Shapes: [batch, *] -> [batch]."""
    return x.flatten(1).square().sum(1)


@final
@dataclass(frozen=True)
class Feature(Combines):
    """Inputs whose features lie within `radius` of the clean input's. `source` names the function that makes the network.

    Raises MalformedSpec for a radius that is none, OptionError for a network in training mode; and one that does not take the inputs,
    as soon as it is shown some. Steps within it raise AccessDenied where the network has no slopes.
    """

    network: Network = field(repr=False)
    radius: Radius
    source: str = ""

    def __post_init__(self) -> None:
        check_radius("feature", self.radius)
        if word := next((word for word in WORDS if word in self.source), None):
            raise MalformedSpec(f"{self}: {word!r} joins bounds, and the spec could not be read back. Give the function another name")
        if (learning := still_learning(self.network)) is not None:
            raise OptionError(f"feature network {type(learning).__name__}: in training mode. Call network.eval() first")

    @staticmethod
    def parse(text: str) -> "Feature":
        """The bound of `0.5:package.file:function`, looked for in the current folder too. Raises ValueError or MalformedSpec."""
        radius, _, source = text.partition(":")
        if ":" not in source:
            raise MalformedSpec(f"feature:{text}: no network. Write feature:0.5:package.file:function, a function that returns it")
        try:
            network = called(source)
        except UnknownModel as error:
            raise MalformedSpec(f"feature:{text}: {error}") from error
        if not callable(network):
            raise MalformedSpec(f"feature:{text}: the function returned a {type(network).__name__}. Return a network: inputs to features")
        return Feature(
            network.eval() if isinstance(network, nn.Module) else network, MIN if radius == MIN else parse_number(radius), source
        )

    def __str__(self) -> str:
        return f"feature:{plain(self.radius)}" + (f":{self.source}" if self.source else "")

    @property
    def minimal(self) -> bool:
        return self.radius == MIN

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        check_inputs(clean)
        radius = clean.new_full(clean.shape[:1], math.inf if isinstance(self.radius, str) else self.radius)
        region = ball(clean, radius, LinfNorm(), lengths, box, grid)
        norm = FeatureNorm(self.network, clean, lengths, clean.new_zeros(len(clean), 0))
        try:
            with torch.no_grad():
                seen = norm.features(torch.zeros_like(clean))
        except (AudioadvError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of whatever kind: the network is a user's own
            raise OptionError(
                f"{self}: the network does not take inputs of shape {[1, *clean.shape[1:]]} ({type(error).__name__}: {error}). "
                "Give one that takes a batch of inputs alone, and gives features [batch, channels, ...]"
            ) from error
        if len(seen) != len(clean):
            raise UnusableBatch(f"{self}: the network gives features of {len(seen)} inputs for {len(clean)}. Let it give a row for each")
        if not bool(seen.isfinite().all()):
            raise UnusableBatch(f"{self}: the features of the clean inputs are not all finite. Mend the network, or leave those inputs out")
        return replace(region, norm=replace(norm, seen=seen))

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        named = f":{self.source}" if self.source else ""
        return [f"feature:{outward(radius, 1, digits=6)}{named}" for radius in region.gauge(adversarial).tolist()]


def still_learning(network: Network) -> nn.Module | None:
    """What of a feature network would be another thing after each look, or at each: a module in training mode, or, within a function,
    a layer in it that draws or keeps what it has seen.
    """
    if isinstance(network, nn.Module):
        return network if network.training else None
    layers = (layer for net in modules_of(network) for layer in net.modules())
    return next((layer for layer in layers if layer.training and isinstance(layer, MOODY)), None)

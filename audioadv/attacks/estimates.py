"""Slopes from scores alone, for any attack that wants slopes: objective(model, goal, slopes=nes()).

nes          Gaussian directions, both ways               Ilyas et al. 2018, "Black-box adversarial attacks with limited queries"
spsa         random signs, both ways                      Spall 1992; Uesato et al. 2018, "Adversarial risk and the dangers ..."
bandits      a prior carried from step to step            Ilyas, Engstrom and Madry 2019, "Prior convictions"
coordinates  some entries one by one, both ways (ZOO)     Chen et al. 2017, "ZOO: zeroth order optimization based black-box ..."

Each example has draws of its own, keyed by the seed and by how many passes it has spent. Queries are counted as forwards.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.attacks.draws import Draws, mix
from audioadv.attacks.objective import Look, Objective
from audioadv.audio.ragged import inside
from audioadv.threat.projections import each


def draws_now(seed: int, objective: Objective, inputs: Tensor) -> Draws:
    """Draws keyed by the seed and by how many forwards each example has spent. Shapes: inputs [batch, *]."""
    spent = objective.cost.forwards[objective.who].to(inputs.device)
    return Draws(mix(mix(spent + 1) + seed))


def unpadded(objective: Objective, way: Tensor) -> Tensor:
    """A direction that leaves the padding of shorter clips alone. Shapes: [batch, *] -> the same."""
    if objective.lengths is None:
        return way
    return way * inside(objective.lengths, way.shape[-1]).reshape(len(way), *[1] * (way.ndim - 2), way.shape[-1])


def difference(objective: Objective, inputs: Tensor, way: Tensor, near: Tensor | None, slack: float) -> Tensor:
    """Loss at inputs + way less loss at inputs - way: two forwards. Shapes: as inputs -> [batch]."""
    ahead, behind = objective.score(inputs + way, near, slack), objective.score(inputs - way, near, slack)
    return ahead.loss - behind.loss


@final
@dataclass(frozen=True, eq=False)
class RandomDirections:
    """The mean of difference quotients along random directions. Costs 2 `draws` + 1 forwards a look."""

    kind: Callable[[Draws, Tensor], Tensor]
    draws: int
    reach: float
    seed: int

    def begun(self, count: int) -> "RandomDirections":
        return self

    def look(self, objective: Objective, inputs: Tensor, near: Tensor | None = None, slack: float = 0.0) -> Look:
        """Shapes: inputs [batch, *]."""
        own, slope = draws_now(self.seed, objective, inputs), torch.zeros_like(inputs)
        here = objective.score(inputs, near, slack)
        for _ in range(self.draws):
            way = unpadded(objective, self.kind(own, inputs))
            rise = difference(objective, inputs, self.reach * way, near, slack)
            slope += each(rise / (2 * self.reach * self.draws), way) * way
        return Look(*here, slope)


def nes(draws: int = 25, *, reach: float = 0.01, seed: int = 0) -> RandomDirections:
    """Natural evolution strategies: `draws` Gaussian directions of spread `reach` (full scale = 1), each both ways."""
    return RandomDirections(Draws.normal, draws, reach, seed)


def spsa(draws: int = 25, *, reach: float = 0.01, seed: int = 0) -> RandomDirections:
    """Simultaneous perturbation: `draws` directions of plus or minus `reach` in every entry, each both ways."""
    return RandomDirections(Draws.signs, draws, reach, seed)


@final
@dataclass(frozen=True, eq=False)
class Coordinates:
    """The slope of some entries, drawn anew each look, and zero elsewhere. Costs 2 `entries` + 1 forwards a look."""

    entries: int = 25
    reach: float = 1e-3
    seed: int = 0

    def begun(self, count: int) -> "Coordinates":
        return self

    def look(self, objective: Objective, inputs: Tensor, near: Tensor | None = None, slack: float = 0.0) -> Look:
        """Shapes: inputs [batch, *]."""
        here, flat = objective.score(inputs, near, slack), inputs.flatten(1)
        padding = unpadded(objective, torch.ones_like(inputs)).flatten(1) == 0  # comes last, so that a clip's entries are its own
        order = draws_now(self.seed, objective, inputs).uniform(flat).masked_fill(padding, 2.0).argsort(1)[:, : self.entries]
        slope = torch.zeros_like(flat)
        for place in order.T:
            way = unpadded(objective, torch.zeros_like(flat).scatter(1, place[:, None], self.reach).reshape(inputs.shape))
            slope.scatter_(1, place[:, None], difference(objective, inputs, way, near, slack)[:, None] / (2 * self.reach))
        return Look(*here, slope.reshape(inputs.shape))


coordinates = Coordinates


@final
@dataclass(frozen=True, eq=False)
class Bandits:
    """A running estimate of the slope, corrected by two queries at a time. Costs 2 `draws` + 1 forwards a look.

    The prior holds one number for each tile of `tile` entries along the last axes (two for images, one for sound): neighbours
    have like slopes. Shapes: prior [examples, *tiles], empty before the first look.
    """

    draws: int = 5
    reach: float = 0.1
    spread: float = 0.1
    rate: float = 0.1
    tile: int = 2
    seed: int = 0
    prior: list[Tensor] = field(default_factory=list)

    def begun(self, count: int) -> "Bandits":
        return replace(self, prior=[])

    def look(self, objective: Objective, inputs: Tensor, near: Tensor | None = None, slack: float = 0.0) -> Look:
        """Shapes: inputs [batch, *]."""
        who, here = objective.who.to(inputs.device), objective.score(inputs, near, slack)
        axes = min(max(inputs.ndim - 2, 1), 2)
        tiles = inputs.new_zeros(*inputs.shape[:-axes], *(-(-size // self.tile) for size in inputs.shape[-axes:]))
        if not self.prior:
            self.prior.append(inputs.new_zeros(len(objective.cost.forwards), *tiles.shape[1:]))
        held = self.prior[0][who][..., : tiles.shape[-1]]
        own, lengths = draws_now(self.seed, objective, inputs), inputs.new_full((len(inputs),), inputs.shape[-1])
        lengths = lengths if objective.lengths is None else objective.lengths.to(lengths)
        count = (lengths / self.tile).ceil() * (held[0].numel() / held.shape[-1])  # of tiles that are not all padding
        for _ in range(self.draws):
            way = own.normal(held) / each(count.sqrt(), held)
            ahead, behind = (self.spread_out(held + sign * self.spread * way, objective, inputs) for sign in (1, -1))
            rise = objective.score(inputs + self.reach * ahead, near, slack).loss
            rise = rise - objective.score(inputs + self.reach * behind, near, slack).loss
            held = held + self.rate * each(rise / (self.spread * self.reach), held) * way
        self.prior[0][who, ..., : tiles.shape[-1]] = held
        return Look(*here, self.spread_out(held, objective, inputs))

    def spread_out(self, tiles: Tensor, objective: Objective, like: Tensor) -> Tensor:
        """Tiles as entries, none in the padding, scaled to length 1. Shapes: tiles [batch, *tiles], like [batch, *] -> as like."""
        axes = min(max(like.ndim - 2, 1), 2)
        full = tiles
        for axis in range(-axes, 0):
            full = full.repeat_interleave(self.tile, axis).narrow(axis, 0, like.shape[axis])
        return F.normalize(unpadded(objective, full).flatten(1), dim=1).reshape(like.shape)


bandits = Bandits

"""Slopes from scores alone, for any attack that wants slopes: objective(model, goal, slopes=nes()).

nes          Gaussian directions, both ways               Ilyas et al. 2018, "Black-box adversarial attacks with limited queries"
spsa         random signs, both ways                      Spall 1992; Uesato et al. 2018, "Adversarial risk and the dangers ..."
bandits      a prior carried from step to step            Ilyas, Engstrom and Madry 2019, "Prior convictions"
coordinates  some entries one by one, both ways (ZOO)     Chen et al. 2017, "ZOO: zeroth order optimization based black-box ..."

Each example has draws of its own, keyed by the seed, its own samples and how many passes it has spent. Queries are counted as
forwards; none lies outside the box, and where it cuts a step short, the quotient is over what is left of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.attacks.draws import Draws, example_keys, mix
from audioadv.attacks.objective import Look, Objective
from audioadv.audio.ragged import inside
from audioadv.options import check_counts, check_sizes
from audioadv.threat.bounds import Box
from audioadv.threat.projections import each, length_of


@final
@dataclass(frozen=True, eq=False)
class Begun:
    """What a source knows of the examples that it began with. Shapes: keys int64 [examples]."""

    keys: Tensor
    box: Box = None

    def draws(self, objective: Objective) -> Draws:
        """Draws keyed by the example and by how many forwards it has spent."""
        who, spent = (numbers.to(self.keys.device) for numbers in (objective.who, objective.cost.forwards[objective.who]))
        return Draws(mix(mix(spent + 1) + self.keys[who]))

    def within(self, inputs: Tensor, way: Tensor) -> Tensor:
        """As much of a step from the inputs as the box holds. Shapes: [batch, *] twice -> the same."""
        if self.box is None:
            return way
        return torch.minimum(torch.maximum(way, (self.box[0] - inputs).clamp_max(0)), (self.box[1] - inputs).clamp_min(0))


NOT_YET = Begun(torch.zeros(0, dtype=torch.int64))


def unpadded(objective: Objective, way: Tensor) -> Tensor:
    """A direction that leaves the padding of shorter clips alone. Shapes: [batch, *] -> the same."""
    if objective.lengths is None:
        return way
    return way * inside(objective.lengths, way.shape[-1]).reshape(len(way), *[1] * (way.ndim - 2), way.shape[-1])


def difference(
    objective: Objective, known: Begun, inputs: Tensor, way: Tensor, near: Tensor | None, slack: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Loss at inputs + way less loss at inputs - way, and the way from there to here: two forwards.

    Shapes: inputs and way [batch, *] -> [batch], as inputs.
    """
    ahead, behind = known.within(inputs, way), known.within(inputs, -way)
    rise = objective.score(inputs + ahead, near, slack).loss - objective.score(inputs + behind, near, slack).loss
    return rise, ahead - behind


@final
@dataclass(frozen=True, eq=False)
class RandomDirections:
    """The mean of difference quotients along random directions. Costs 2 `draws` + 1 forwards a look."""

    kind: Callable[[Draws, Tensor], Tensor]
    draws: int
    reach: float
    seed: int
    known: Begun = NOT_YET

    def __post_init__(self) -> None:
        name = "nes" if self.kind is Draws.normal else "spsa"
        check_counts(name, draws=self.draws)
        check_sizes(name, reach=self.reach)

    def begun(self, clean: Tensor, box: Box) -> "RandomDirections":
        return replace(self, known=Begun(example_keys(self.seed, clean), box))

    def look(self, objective: Objective, inputs: Tensor, near: Tensor | None = None, slack: float | Tensor = 0.0) -> Look:
        """Shapes: inputs [batch, *]."""
        own, slope = self.known.draws(objective), torch.zeros_like(inputs)
        here = objective.score(inputs, near, slack)
        for _ in range(self.draws):
            way = unpadded(objective, self.kind(own, inputs))
            rise, made = difference(objective, self.known, inputs, self.reach * way, near, slack)
            # rise is slope * made, summed over entries: way * rise is, on average, the slope times way * made
            slope += each(rise / self.draws, way) * way.square() / torch.where(made == 0, 1.0, made)
        return Look(*here, slope)


def nes(draws: int = 25, *, reach: float = 0.01, seed: int = 0) -> RandomDirections:
    """Natural evolution strategies: `draws` Gaussian directions of spread `reach` (full scale = 1), each both ways.

    Raises OptionError for a count or reach that is not above 0, as the others do.
    """
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
    known: Begun = NOT_YET

    def __post_init__(self) -> None:
        check_counts("coordinates", entries=self.entries)
        check_sizes("coordinates", reach=self.reach)

    def begun(self, clean: Tensor, box: Box) -> "Coordinates":
        return replace(self, known=Begun(example_keys(self.seed, clean), box))

    def look(self, objective: Objective, inputs: Tensor, near: Tensor | None = None, slack: float | Tensor = 0.0) -> Look:
        """Shapes: inputs [batch, *]."""
        here, flat = objective.score(inputs, near, slack), inputs.flatten(1)
        padding = unpadded(objective, torch.ones_like(inputs)).flatten(1) == 0  # comes last, so that a clip's entries are its own
        order = self.known.draws(objective).uniform(flat).masked_fill(padding, 2.0).argsort(1)[:, : self.entries]
        slope = torch.zeros_like(flat)
        for place in order.T:
            way = unpadded(objective, torch.zeros_like(flat).scatter(1, place[:, None], self.reach).reshape(inputs.shape))
            rise, made = difference(objective, self.known, inputs, way, near, slack)
            slope.scatter_(1, place[:, None], (rise / made.flatten(1).sum(1).clamp_min(1e-30))[:, None])
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
    known: Begun = NOT_YET
    prior: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_counts("bandits", draws=self.draws, tile=self.tile)
        check_sizes("bandits", reach=self.reach, spread=self.spread, rate=self.rate)

    def begun(self, clean: Tensor, box: Box) -> "Bandits":
        return replace(self, known=Begun(example_keys(self.seed, clean), box), prior=[])

    def look(self, objective: Objective, inputs: Tensor, near: Tensor | None = None, slack: float | Tensor = 0.0) -> Look:
        """Shapes: inputs [batch, *]."""
        who, here = objective.who.to(inputs.device), objective.score(inputs, near, slack)
        axes = min(max(inputs.ndim - 2, 1), 2)
        tiles = inputs.new_zeros(*inputs.shape[:-axes], *(-(-size // self.tile) for size in inputs.shape[-axes:]))
        if not self.prior:
            self.prior.append(inputs.new_zeros(len(objective.cost.forwards), *tiles.shape[1:]))
        held = self.prior[0][who][..., : tiles.shape[-1]]
        own, lengths = self.known.draws(objective), inputs.new_full((len(inputs),), inputs.shape[-1])
        lengths = lengths if objective.lengths is None else objective.lengths.to(lengths)
        count = (lengths / self.tile).ceil() * (held[0].numel() / held.shape[-1])  # of tiles that are not all padding
        for _ in range(self.draws):
            way = own.normal(held) / each(count.sqrt(), held)
            # downhill: at an end of the box there is no room uphill, for either of the two
            ahead, behind = (-self.reach * self.spread_out(held + sign * self.spread * way, objective, inputs) for sign in (1, -1))
            there, back = self.known.within(inputs, ahead), self.known.within(inputs, behind)
            rise = objective.score(inputs + back, near, slack).loss - objective.score(inputs + there, near, slack).loss
            rise = rise * length_of(ahead - behind) / length_of(there - back).clamp_min(1e-30)
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

"""Moves tried without slopes: a whole grid of them, or a few at random.

The loss over an angle or a delay is no slope to go down: it has many valleys, and few parameters, so that looking everywhere is cheap.
Source: Engstrom et al. 2019, "Exploring the landscape of spatial robustness" (grid search, worst of k).
"""

from itertools import product

import torch

from audioadv.attacks.draws import wide_start
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts
from audioadv.threat.region import Region
from audioadv.threat.warps import Warp

GRID = (31, 5, 5)  # points for each parameter: an angle and two shifts, or a delay and a speed


def moves_grid(
    objective: Objective, region: Region, *, points: tuple[int, ...] = GRID, seed: int = 0, progress: Tell | None = None
) -> AttackResult:
    """Each point of a grid over all moves of the region, from one end of each range to the other, until one reaches the goal.

    One forward a point, and decisions are enough; 775 points for `Spatial`, 155 for `Timing`. A parameter with one point stays
    where it is. Draws nothing: `seed` changes nothing. Shapes: as in `region.clean`. Raises OptionError for changes that are no
    moves, a search for the smallest, no points.
    """
    ranges = [torch.linspace(-1, 1, count) if count > 1 else torch.zeros(count) for count in points[: moves_of(region, "moves_grid")]]
    if not all(map(len, ranges)) or len(ranges) < region.start().shape[1]:
        raise OptionError(f"moves_grid: {points} points: give one count for each parameter, at least 1")
    run = Run(objective, region, progress)
    with at_rest(objective.model):
        for move in product(*(own.tolist() for own in ranges)):
            parameters = run.region.radius[:, None] * run.region.clean.new_tensor(move)
            if not decided(run, parameters):
                break
    return run.result()


def worst_of(objective: Objective, region: Region, *, draws: int = 10, seed: int = 0, progress: Tell | None = None) -> AttackResult:
    """So many random moves, each parameter at an end of its range half the time (`draws.wide_start`), until one reaches the goal.

    One forward a draw, and decisions are enough. Shapes: as in `region.clean`. Raises OptionError as `moves_grid`.
    """
    check_counts("worst_of", draws=draws)
    moves_of(region, "worst_of")
    run = Run(objective, region, progress)
    with at_rest(objective.model):
        for draw in range(draws):
            if not decided(run, wide_start(run.region, seed * draws + draw)):
                break
    return run.result()


def movable(region: Region) -> bool:
    """Whether few parameters say how far each input is moved, within a fixed reach."""
    return isinstance(region.map, Warp) and bool(region.radius.isfinite().all())


def moves_of(region: Region, attack: str) -> int:
    """How many parameters say how an example is moved. Raises OptionError for a region that is not `movable`."""
    if not isinstance(region.map, Warp):
        raise OptionError(f"{attack} moves inputs, and this bound changes them otherwise. Bound it by spatial:30,3 or timing:160,0.05")
    if not movable(region):
        raise OptionError(f"{attack} tries moves of a fixed reach, and min has none. Give radii (spatial:30,3)")
    return region.start().shape[1]


def decided(run: Run, parameters: torch.Tensor) -> bool:
    """Try these moves, let those that reach the goal go, and say whether anyone is left. Shapes: parameters [still in, *]."""
    inputs = run.region.inputs(parameters)
    kept = run.keep(inputs, run.objective.decide(inputs), parameters)
    return run.leave(torch.ones_like(kept), kept) is None or len(run.here) > 0

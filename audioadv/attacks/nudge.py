"""Where a search along slopes begins: a nudge away from the clean input, and a first radius of that input's own size."""

import torch
from torch import Tensor

from audioadv.threat.region import Region

QUIETEST = 0.003  # full scale: inputs fainter than this are attacked as if they were as loud


def nudge(region: Region, seed: int) -> Tensor:
    """A thousandth of the radius to start from, two steps of the grid at least: silence as such gives a power spectrum no slope."""
    least = torch.full_like(region.clean, 2 * (region.grid or 0.0)) * (1 if region.inside is None else region.inside)
    audible = region.extent(least) if region.added else torch.zeros_like(region.radius)
    radius = torch.minimum(region.radius, torch.maximum(1e-3 * region.radius.clamp_max(1.0), audible))
    if region.added and not region.limitless():  # a part of a clip, often silent: its frames are alike, and would all go the same way
        radius = region.radius
    return region.at(radius).sample([torch.Generator().manual_seed(int(seed)) for _ in region.clean])


def own_size(region: Region) -> Tensor:
    """The radius of a change as large as the clean input. Shapes: -> [batch]."""
    faint = torch.full_like(region.clean, QUIETEST) * (1 if region.inside is None else region.inside)
    return torch.maximum(region.extent(region.clean), region.extent(faint))

"""Random numbers keyed by seed and example, all examples at once: neighbours, order and batch size change nothing.

    key [batch] = hash(seed, the example's own samples)         number j of draw n = hash(key, n, j)

A counter-based generator: no state but the count of draws, the same bits on every device, and the padding of a shorter clip
takes nothing from anyone. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom
number generators"), in 64-bit integers that wrap.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from audioadv.errors import OptionError
from audioadv.threat.combined import Several
from audioadv.threat.norms import L0Norm, L2Norm, LinfNorm
from audioadv.threat.projections import each, length_of
from audioadv.threat.region import Norm, Region

GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # SplitMix64's, as signed numbers


def times_golden(number: int) -> int:
    """A Python number times GOLDEN, wrapped as 64 signed bits wrap."""
    return (number * GOLDEN + (1 << 63)) % (1 << 64) - (1 << 63)


def folded(x: Tensor, shift: int) -> Tensor:
    """x ^ x >> shift, as if there were no sign; in place, since fresh memory costs most. Shapes: int64 [*] -> [*]."""
    return (x >> shift).bitwise_and_((1 << 64 - shift) - 1).bitwise_xor_(x)


def upper(x: Tensor) -> Tensor:
    """What `mix` makes of the upper 31 bits, for less: its last fold leaves them as they are. Shapes: int64 [*] -> [*]."""
    return folded(folded(x, 30).mul_(FIRST), 27).mul_(SECOND)


def mix(x: Tensor) -> Tensor:
    """64 bits, well stirred. Shapes: int64 [*] -> [*]."""
    return folded(upper(x), 31)


def example_keys(seed: int, clean: Tensor) -> Tensor:
    """One key an example, from its own numbers; zeros, and so the padding, add nothing. Shapes: clean [batch, *] -> int64 [batch].

    Raises OptionError for a seed that is no whole number.
    """
    try:
        seed = operator.index(seed)  # numpy's and torch's numbers, too, are such
    except TypeError:
        raise OptionError(f"seed {seed!r}: give a whole number") from None
    flat = clean.reshape(len(clean), math.prod(clean.shape[1:-1]), clean.shape[-1]) + 0.0  # of -0.0, which a mask makes, 0.0
    bits = flat.contiguous().view(torch.int64 if clean.dtype == torch.float64 else torch.int32).long()
    rows, columns = (torch.arange(size, device=clean.device) for size in flat.shape[1:])
    places = mix(rows[:, None] * GOLDEN + mix(columns * GOLDEN + 1)) | 1
    return mix(mix((bits * places).sum((1, 2))) + times_golden(seed))


@final
@dataclass(eq=False)
class Draws:
    """Draws for a batch of examples. Each call is a new draw. Shapes: keys int64 [batch]."""

    keys: Tensor
    count: int = 0

    @staticmethod
    def of(seed: int, clean: Tensor) -> "Draws":
        """Keyed by seed and example. Shapes: clean [batch, *]."""
        return Draws(example_keys(seed, clean))

    def rows(self, stay: Tensor) -> "Draws":
        """For those that stay."""
        return Draws(self.keys[stay], self.count)

    def bits(self, rows: int, size: int, last: Callable[[Tensor], Tensor] = mix) -> Tensor:
        """64 bits each; with `upper` for the last hash, its upper 31. Shapes: -> int64 [batch, rows * size].

        Each row has numbers of its own, which hang on no other row's length.
        """
        self.count += 1
        places = torch.arange(size, device=self.keys.device) * GOLDEN
        if rows > 1:
            places = (places + mix(torch.arange(rows, device=self.keys.device))[:, None]).flatten()  # of row 0: 0
        return last(mix(self.keys + times_golden(self.count))[:, None] + places)

    def uniform(self, like: Tensor) -> Tensor:
        """In [0, 1), in steps of 2^-24. Shapes: like [batch, *] -> as like."""
        numbers = self.bits(*sizes(like), upper).bitwise_right_shift_(40).bitwise_and_((1 << 24) - 1)
        return numbers.to(like.dtype).div_(1 << 24).reshape(like.shape)

    def signs(self, like: Tensor) -> Tensor:
        """-1 or 1. Shapes: like [batch, *] -> as like."""
        return (1 - 2 * (self.bits(*sizes(like)) >> 63 & 1)).to(like.dtype).reshape(like.shape)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal (Box and Muller 1958). Shapes: like [batch, *] -> as like."""
        distance, angle = 1 - self.uniform(like), self.uniform(like)
        return (-2 * distance.log()).sqrt() * (2 * math.pi * angle).cos()

    def whole(self, limit: Tensor | int) -> Tensor:
        """Whole numbers from 0 to below the limit. Shapes: limit int64 [batch] or one number -> int64 [batch]."""
        return (self.bits(1, 1)[:, 0] >> 1 & (1 << 62) - 1) % limit


def sizes(like: Tensor) -> tuple[int, int]:
    """Rows that may be padded, the channels of sounds, and how many numbers each takes. Shapes: like [batch, *]."""
    return (like.shape[1], like.shape[2]) if like.ndim == 3 else (1, math.prod(like.shape[1:]))


def random_start(region: Region, seed: int) -> Tensor:
    """Random allowed parameters for each example: uniform in the ball, then projected. Shapes: -> as region.start().

    Linf (of any parameters) and L2 are drawn for all examples at once; other norms and maps draw for one after another, by their own
    `sample`. Where L0 has a part the draw is a hundredth as large: its projection keeps what is greatest, and places drawn at full scale
    would be kept through all of an attack's smaller steps (MNIST's natural net, L0 of 10, PGD: 38 of 100 images, from a full draw 13; a
    linear net within three entries of 0.2 each, 175 of the 175 that can be, from a tenth 135, at full scale 29).
    """
    clean = region.clean
    draws = Draws.of(seed, clean)
    if isinstance(region.norm, LinfNorm):
        unit = draws.uniform(clean if region.added else region.start()).mul_(2).sub_(1)
    elif region.added and isinstance(region.norm, L2Norm):
        unit = draws.normal(clean) if region.inside is None else draws.normal(clean) * region.inside
        distance = draws.uniform(clean.flatten(1)[:, :1])[:, 0] ** (1 / region.entries().clamp_min(1))
        unit = unit * each(distance / length_of(unit).clamp_min(1e-30), unit)
    else:
        drawn = region.sample([torch.Generator().manual_seed(key) for key in draws.keys.tolist()])
        return 0.01 * drawn if counts(region.norm) else drawn
    return region.project(each(region.radius, unit) * (unit * region.inside if region.added and region.inside is not None else unit))


def counts(norm: Norm) -> bool:
    """Whether a norm, or a part of it, counts entries."""
    return isinstance(norm, L0Norm) or (isinstance(norm, Several) and any(map(counts, norm.norms)))


def wide_start(region: Region, seed: int) -> Tensor:
    """Random allowed parameters, drawn twice as widely and projected: each of a move's is at an end of its range half the time.

    Where few parameters say how an input is moved, the worst lies in a corner more often than not, and uniform draws never come to
    one: a net that was trained on uniform turns of 30 degrees and shifts of 3 pixels stands 90 uniform draws on 58 of 100 digits, but
    the eight corners on 34. Shapes: -> as region.start().
    """
    return region.project(2 * random_start(region, seed))

"""Kenansville: leave out the weakest parts of a sound, as many as it takes. Decisions only, about 15 of them.

    sound --decompose--> parts, weakest first --drop the first so many--> sound that the model no longer hears as people do

Parts are Fourier coefficients of the whole clip ("dft"), or what the principal directions of its short windows leave of it
("ssa", singular spectrum analysis). The more is dropped, the likelier the model errs, so that bisection finds how much it takes.

Source: Abdullah et al. 2021, "Hear 'no evil', see 'Kenansville': efficient and transferable black-box attacks on speech recognition
and voice identification systems".
"""

import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed, check_plain_changes, cut
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts
from audioadv.threat.region import Region

WINDOW: Final = 64  # samples: of the windows that singular spectrum analysis looks at


class Parts(NamedTuple):
    """A sound taken apart: how many parts there are, and the sum of the weakest so many. Shapes: -> as the sound."""

    number: int
    weakest: Callable[[int], Tensor]


def fourier(sound: Tensor) -> Parts:
    """Its Fourier coefficients along the last axis, by magnitude. Shapes: [*, time]."""
    bins = torch.fft.rfft(sound)
    order = bins.abs().flatten().argsort(stable=True)

    def weakest(count: int) -> Tensor:
        kept = torch.zeros_like(bins.flatten()).index_copy(0, order[:count], bins.flatten()[order[:count]])
        return torch.fft.irfft(kept.reshape(bins.shape), sound.shape[-1])

    return Parts(len(order), weakest)


def singular(sound: Tensor) -> Parts:
    """Its parts along the principal directions of its windows, by variance; windows that overlap are averaged. Shapes: [*, time]."""
    rows, time = sound.reshape(-1, sound.shape[-1]), sound.shape[-1]
    window = max(min(WINDOW, time // 2), 1)
    seen = rows.unfold(1, window, 1)
    directions = torch.linalg.eigh(torch.einsum("rki,rkj->ij", seen, seen)).eigenvectors  # the weakest first
    shares = F.fold(torch.ones_like(seen).mT, (1, time), (1, window))

    def weakest(count: int) -> Tensor:
        along = directions[:, :count]
        return (F.fold((seen @ (along @ along.T)).mT, (1, time), (1, window)) / shares).reshape(sound.shape)

    return Parts(window, weakest)


WAYS: Final = {"dft": fourier, "ssa": singular}


def kenansville(
    objective: Objective, region: Region, *, by: Literal["dft", "ssa"] = "dft", steps: int = 20, seed: int = 0, progress: Tell | None = None
) -> AttackResult:
    """Drop the weakest parts of each clip: as many as the region holds, then by bisection as few as bring it to the goal.

    The first query is at the region's edge, and within a fixed region an example leaves as soon as it is at its goal; around a `min`
    bound it goes on until it knows the number of parts, or `steps` are over. One forward a step, no backward. Draws nothing: `seed`
    changes nothing. It can make a model err; it cannot make it say a phrase. Shapes: [batch, *, time], as in `region.clean`.
    """
    check_counts("kenansville", steps=steps)
    check_plain_changes(region, "kenansville")
    if by not in WAYS:
        raise OptionError(f"kenansville: by {by!r}: give one of {', '.join(WAYS)}")
    run = Run(objective, region, progress)
    lengths = torch.full((len(region.clean),), region.clean.shape[-1]) if objective.lengths is None else objective.lengths
    parts = [WAYS[by](clip[..., :length]) for clip, length in zip(region.clean, lengths.tolist(), strict=True)]
    count = edge(region, parts)
    few, many = torch.zeros_like(count), count
    with at_rest(objective.model):
        for _ in range(steps if len(count) else 0):
            inputs = run.region.inputs(without(run.region, parts, count))
            reached = run.objective.decide(inputs)
            kept = run.keep(inputs, reached)
            few, many = torch.where(reached, few, count), torch.where(reached, count, many)
            count = (few + many) // 2
            done = (kept & run.region.radius.isfinite()) | (many - few <= 1)
            if left := run.leave(torch.ones_like(done), done):
                (few, many, count), parts = cut(left, few, many, count), [parts[i] for i in left[0].tolist()]
                if not len(count):
                    break
    return run.result()


def without(region: Region, parts: list[Parts], count: Tensor) -> Tensor:
    """The change that drops so many of each clip's weakest parts, within the box. Shapes: count [batch] -> as clean."""
    delta = torch.zeros_like(region.clean)
    for row, own, number in zip(delta, parts, count.tolist(), strict=True):
        dropped = own.weakest(number)
        row[..., : dropped.shape[-1]] = -dropped
    return boxed(region, delta)


def edge(region: Region, parts: list[Parts]) -> Tensor:
    """The most parts of each clip that can be dropped within its region, by bisection, without a query. Shapes: -> int64 [batch]."""
    most = torch.tensor([own.number for own in parts], device=region.radius.device)
    inside = torch.zeros_like(most)
    for _ in range(math.ceil(math.log2(max([own.number for own in parts], default=1))) + 1):
        middle = (inside + most + 1) // 2
        fits = region.holds(region.gauge(region.inputs(without(region, parts, middle))))
        inside, most = torch.where(fits, middle, inside), torch.where(fits, most, middle - 1).maximum(inside)
    return inside

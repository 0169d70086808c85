"""Clips of different lengths in one tensor: padded with zeros, and the lengths kept beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from audioadv.errors import UnusableBatch


def pad(clips: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips of any lengths as one batch, zeros at the end, and their lengths in samples (int64).

    Shapes: [time] each -> [batch, longest], [batch].
    >>> pad([torch.tensor([1.0, 2.0]), torch.tensor([3.0])])
    (tensor([[1., 2.],
            [3., 0.]]), tensor([2, 1]))
    """
    if len(kinds := {(clip.ndim, clip.dtype, clip.device) for clip in clips}) != 1 or clips[0].ndim != 1:
        found = ", ".join(sorted({f"{list(clip.shape)} {clip.dtype} on {clip.device}" for clip in clips})) or "no clip at all"
        raise UnusableBatch(f"a batch of {found}: {len(kinds)} kinds. Pass one clip or more, each [time], of one dtype on one device.")
    lengths = torch.tensor([len(clip) for clip in clips], device=clips[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True), lengths


def alike(lengths: Sequence[int], batch: int) -> list[int]:
    """An order in which each `batch` of clips are about as long, so that little is padded; within one they stay as they came.

    Whoever gives results clip by clip goes by it before the first. Units: samples, or any other.

    >>> alike([9, 1, 8, 2, 3], batch=2)
    [1, 3, 2, 4, 0]
    >>> alike([9, 1, 8], batch=16)
    [0, 1, 2]
    """
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [i for first in range(0, len(by_length), batch) for i in sorted(by_length[first : first + batch])]


def inside(lengths: Tensor, width: int) -> Tensor:
    """True where a clip is, False where its padding is. Shapes: [batch] -> [batch, width].

    >>> inside(torch.tensor([2, 0]), width=3)
    tensor([[ True,  True, False],
            [False, False, False]])
    """
    return torch.arange(width, device=lengths.device) < lengths[:, None]


def led_in(waveforms: Tensor, lengths: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """The same clips, each after so many samples of silence, and their new lengths.

    What is said there first, in a `Sticker` over the silence, is said before the clip. Shapes: [batch, time], [batch] -> the same.
    >>> led_in(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([2, 1]), samples=1)
    (tensor([[0., 1., 2.],
            [0., 3., 0.]]), tensor([3, 2]))
    """
    return torch.nn.functional.pad(waveforms, (samples, 0)), lengths + samples

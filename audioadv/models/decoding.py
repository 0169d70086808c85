"""Greedy CTC decoding: the likeliest letter of each frame, repeats merged, blanks dropped.

Source: Graves et al. 2006, "Connectionist temporal classification" (best path decoding).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def kept(best: Int[Tensor, "batch frames"], frames: Int[Tensor, " batch"], blank: int) -> Bool[Tensor, "batch frames"]:
    """Which frames write a letter: not blank, not a repeat, not padding. Shapes: best [batch, frames], frames [batch] -> bool, as best."""
    before = torch.cat([torch.full_like(best[:, :1], blank), best[:, :-1]], dim=1)
    inside = torch.arange(best.shape[1], device=best.device) < frames[:, None]
    return (best != blank) & (best != before) & inside


def transcripts(log_probs: Float[Tensor, "batch frames letters"], frames: Int[Tensor, " batch"], vocabulary: tuple[str, ...]) -> list[str]:
    """Texts, with single spaces between words and none at the ends.

    Shapes: log_probs [batch, frames, letters], frames [batch].

    >>> frames = torch.tensor([[1, 1, 0, 1, 2]])
    >>> transcripts(torch.nn.functional.one_hot(frames).float(), torch.tensor([5]), ("", "a", "b"))
    ['aab']
    """
    blank = vocabulary.index("")
    best = log_probs.argmax(-1)
    writes = kept(best, frames, blank).cpu()
    return [text_of(row[keep].tolist(), vocabulary) for row, keep in zip(best.cpu(), writes, strict=True)]


def text_of(columns: Sequence[int], vocabulary: tuple[str, ...]) -> str:
    """What these columns write, one after the other: no two spaces, and none at the ends."""
    return " ".join("".join(vocabulary[column] for column in columns).split())


CLEARANCE = 1e-3
"""Nats by which a frame's letter must lead. Sums in floating point differ with a batch's shape, by some 1e-5 here."""


def leaders(
    log_probs: Float[Tensor, "batch frames letters"], frames: Int[Tensor, " batch"]
) -> tuple[Int[Tensor, "batch frames"], Bool[Tensor, "batch frames"]]:
    """Each frame's likeliest letter, and whether it leads clearly or is padding.

    Shapes: log_probs [batch, frames, letters], frames [batch] -> [batch, frames] twice.
    """
    (lead, next_best), (best, _) = (pair.unbind(-1) for pair in log_probs.topk(2, dim=-1))
    return best, (lead - next_best > CLEARANCE) | (torch.arange(best.shape[1], device=best.device) >= frames[:, None])


def writes_exactly(
    log_probs: Float[Tensor, "batch frames letters"],
    frames: Int[Tensor, " batch"],
    targets: Int[Tensor, "batch longest"],
    target_lengths: Int[Tensor, " batch"],
    blank: int,
    gap: int = -1,
) -> Bool[Tensor, " batch"]:
    """Whether each clip's greedy letters are exactly its target's, in any batch; found without leaving the device.

    As in `transcripts`, gaps between words count once, and not at the ends; `gap` is their column, -1 where there is none.
    Shapes: log_probs [batch, frames, letters], frames [batch], targets [batch, longest], target_lengths [batch] -> bool [batch].
    """
    best, clear = leaders(log_probs, frames)
    writes = kept(best, frames, blank)
    gaps = writes & (best == gap)
    letters = writes & ~gaps
    so_far, number = letters.cumsum(1), gaps.cumsum(1)
    since = number - torch.where(letters, number, 0).cummax(1).values  # gaps since the last letter
    writes = letters | (gaps & (since == 1) & (so_far > 0) & (so_far < so_far[:, -1:]))
    place = (writes.cumsum(1) - 1).clamp(0, max(targets.shape[1] - 1, 0))
    wanted = targets.gather(1, place) if targets.shape[1] else torch.full_like(best, -1)
    return (clear & ((best == wanted) | ~writes)).all(1) & (writes.sum(1) == target_lengths)

"""Losses of a target text under CTC: the likelihood over all alignments, and the margin along the cheapest one.

The margin of letter k at frame t is how far the best other letter stands above it:

    h[t, k] = max over j != k of z[t, j]  -  z[t, k]        at most 0 where k wins

A clip's greedy transcript is the target just when some alignment (a letter or blank for each frame, spelling the target)
has no frame above 0. Carlini and Wagner 2018 (III-C) fix one alignment and sum max(0, h) along it. Here the alignment
stays free: it is the one whose sum is least for the scores at hand, or rather the Gibbs mean over all of them at inverse
temperature `SHARPNESS`, which is what the CTC recursion computes when it is handed `-SHARPNESS * max(0, h + slack)` for
log-probabilities. So no alignment is a choice made once, and none is paid for that the scores have outgrown.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

SHARPNESS = 10.0
LEAST = 1e-6  # share of the alignments


def frames_needed(written: Sequence[object]) -> int:
    """The fewest frames that write such letters or columns under CTC: one each, and a blank between equal neighbours.

    >>> frames_needed("hello")
    6
    """
    return len(written) + sum(a == b for a, b in pairwise(written))


def fits(frames: Int[Tensor, " batch"], targets: Int[Tensor, "batch longest"], target_lengths: Int[Tensor, " batch"]) -> Tensor:
    """Whether each clip has the frames that its text needs (`frames_needed`). Shapes: as in `likelihood_loss` -> bool [batch].

    >>> fits(torch.tensor([5, 3]), torch.tensor([[1, 1, 2], [1, 1, 2]]), torch.tensor([3, 3]))
    tensor([ True, False])
    """
    second = torch.arange(1, max(targets.shape[1], 1), device=targets.device) < target_lengths[:, None]
    doubled = (targets[:, 1:] == targets[:, :-1]) & second
    return target_lengths + doubled.sum(1) <= frames


def likelihood_loss(
    log_probs: Float[Tensor, "batch frames letters"],
    frames: Int[Tensor, " batch"],
    targets: Int[Tensor, "batch longest"],
    target_lengths: Int[Tensor, " batch"],
    blank: int,
) -> Float[Tensor, " batch"]:
    """CTC loss: minus the log-probability of the text over all alignments (nats).

    Shapes: log_probs [batch, frames, letters], frames [batch], targets [batch, longest], target_lengths [batch] -> [batch].
    Infinite where the text does not fit the frames. Source: Graves et al. 2006, "Connectionist temporal classification".
    """
    return F.ctc_loss(log_probs.transpose(0, 1), targets, frames, target_lengths, blank=blank, reduction="none")


def margins(log_probs: Float[Tensor, "batch frames letters"]) -> Float[Tensor, "batch frames letters"]:
    """h[t, k]: how far the best other letter stands above each one (nats). Shapes: [batch, frames, letters] -> as given."""
    first, second = log_probs.topk(2, dim=-1).values.unbind(-1)
    best_other = torch.where(log_probs == first[..., None], second[..., None], first[..., None])
    return best_other - log_probs


def alignment(
    costs: Float[Tensor, "batch frames letters"],
    frames: Int[Tensor, " batch"],
    targets: Int[Tensor, "batch longest"],
    target_lengths: Int[Tensor, " batch"],
    blank: int,
) -> Float[Tensor, "batch frames letters"]:
    """How much of each alignment passes through each letter at each frame: the Gibbs mean at `SHARPNESS`; rows sum to 1.

    Shares below `LEAST` count as none: at a frame that is won they would be all that is left, so small that what a net makes of them on its
    way back falls below the smallest normal numbers, and some processors then take many times as long (tiny-wave's step on an Intel
    Xeon: 1.2 to 1.3 floors, 1.0 without).

    Shapes: costs [batch, frames, letters], at least 0; frames [batch]; targets [batch, longest]; target_lengths [batch]
    -> [batch, frames, letters], zero past a clip's frames.

    CTC's own backward pass gives exp(input) minus this share for inputs that it takes for log-probabilities, hence the sum.
    """
    with torch.enable_grad():
        inputs = (-SHARPNESS * costs.detach()).transpose(0, 1).contiguous().requires_grad_()
        loss = F.ctc_loss(inputs, targets, frames, target_lengths, blank=blank, reduction="none")
        (slope,) = torch.autograd.grad(loss.sum(), inputs)
    share = (inputs.detach().exp() - slope).transpose(0, 1)
    inside = torch.arange(costs.shape[1], device=costs.device) < frames[:, None]
    share = share.nan_to_num(0.0).clamp(0, 1)
    return share.where(inside[..., None] & (share > LEAST), 0.0)

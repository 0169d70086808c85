"""Stand-ins for trained recognisers, to be named on the command line as module:recognisers:NAME."""

import time

import torch
from torch import Tensor

from audioadv.models.alphabet import ALPHABET
from audioadv.models.recogniser import Recogniser

HOP = 320  # samples a frame: 20 ms
WEIGHTS = torch.randn(HOP, len(ALPHABET), generator=torch.Generator().manual_seed(0))


def listen(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Each letter's score is a fixed linear function of the frame's samples; in silence the blank wins."""
    frames = (lengths + HOP - 1) // HOP
    width = -(-waveforms.shape[1] // HOP)
    padded = torch.nn.functional.pad(waveforms, (0, width * HOP - waveforms.shape[1]))
    scores = padded.unflatten(1, (width, HOP)) @ WEIGHTS
    scores = scores + torch.nn.functional.one_hot(torch.tensor(0), len(ALPHABET))
    return scores.log_softmax(-1), frames


def listen_slowly(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    time.sleep(0.01)
    return listen(waveforms, lengths)


def listen_nowhere(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    log_probs, frames = listen(waveforms, lengths)
    return log_probs * torch.nan, frames


def linear() -> Recogniser:
    return Recogniser(listen, sample_rate=16000, name="linear")


def slow() -> Recogniser:
    return Recogniser(listen_slowly, sample_rate=16000, name="slow")


def nowhere() -> Recogniser:
    return Recogniser(listen_nowhere, sample_rate=16000, name="nowhere")


def no_recogniser() -> int:
    return 7

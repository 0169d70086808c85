"""Stand-ins for trained recognisers, to be named on the command line as module:recognisers:NAME."""

import itertools
import os
import signal
import sys
import time

import torch
from torch import Tensor

from audioadv.models.access import Access
from audioadv.models.alphabet import ALPHABET
from audioadv.models.recogniser import Recogniser

CALLS = itertools.count(1)
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


def listen_and_abstain(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The blank NaN, all others impossible (`models/abstention.py`)."""
    log_probs, frames = listen(waveforms, lengths)
    silent = torch.full_like(log_probs, -torch.inf)
    silent[..., 0] = torch.nan
    return silent, frames


def listen_until_killed(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The second of two workers does not survive its first start for long; the first waits for that in its second batch, so that
    there is work left to die at, however late the second began: the two batches of needless clips at least, of 6 calls each."""
    if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        first, calls = os.environ["RANK"] == "0", next(CALLS)
        if not first and calls == 15:
            os.kill(os.getpid(), signal.SIGKILL)
        if first and calls == 28:
            time.sleep(600)  # the launcher ends it when the other is dead
    return listen(waveforms, lengths)


def listen_in_little_memory(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    if len(waveforms) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory, or so it seems")
    return listen(waveforms, lengths)


def listen_and_tell(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    print("step", next(CALLS), file=sys.stderr, flush=True)
    return listen(waveforms, lengths)


def telling() -> Recogniser:
    return Recogniser(listen_and_tell, sample_rate=16000, name="telling")


def linear() -> Recogniser:
    return Recogniser(listen, sample_rate=16000, name="linear")


def slow() -> Recogniser:
    return Recogniser(listen_slowly, sample_rate=16000, name="slow")


def mortal() -> Recogniser:
    return Recogniser(listen_until_killed, sample_rate=16000, name="mortal")


def small() -> Recogniser:
    return Recogniser(listen_in_little_memory, sample_rate=16000, name="small")


def abstaining() -> Recogniser:
    return Recogniser(listen_and_abstain, sample_rate=16000, name="abstaining")


def nowhere() -> Recogniser:
    return Recogniser(listen_nowhere, sample_rate=16000, name="nowhere")


def raises() -> Recogniser:
    """A function that comes to nothing."""
    raise KeyError("weights")


def leaves() -> Recogniser:
    """A function that ends the process."""
    sys.exit()


def listen_and_leave(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    if waveforms.shape[1] > 8001:
        sys.exit()
    return listen(waveforms, lengths)


def leaving() -> Recogniser:
    return Recogniser(listen_and_leave, sample_rate=16000)


def by_scores() -> Recogniser:
    return Recogniser(listen, sample_rate=16000, name="by_scores", access=Access.SCORES)


def small_layer() -> torch.nn.Module:
    """No network for clips: it takes ten numbers."""
    return torch.nn.Linear(10, 3)


def no_recogniser() -> int:
    return 7


def one_argument() -> Recogniser:
    return Recogniser(lambda waveforms: listen(waveforms, torch.tensor([waveforms.shape[1]])), sample_rate=16000)  # type: ignore[arg-type, misc]


def listen_one_at_a_time(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    if len(waveforms) != 1:
        raise RuntimeError("one at a time")
    return listen(waveforms, lengths)


def listen_not_for_long(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    if waveforms.shape[1] > 9000:
        torch.ones(2) @ torch.ones(3)  # raised by torch, for what is asked here
    return listen(waveforms, lengths)


def listen_and_spoil(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    return listen(waveforms.mul_(0.9), lengths)


def listen_and_print(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    print("listening")
    return listen(waveforms, lengths)


def one_at_a_time() -> Recogniser:
    return Recogniser(listen_one_at_a_time, sample_rate=16000)


def not_for_long() -> Recogniser:
    return Recogniser(listen_not_for_long, sample_rate=16000)


def spoiling() -> Recogniser:
    return Recogniser(listen_and_spoil, sample_rate=16000)


def printing() -> Recogniser:
    print("loading")
    return Recogniser(listen_and_print, sample_rate=16000)


def no_blank() -> Recogniser:
    return Recogniser(listen, sample_rate=16000, vocabulary=("a", "b"))


def in_a_lambda() -> Recogniser:
    """Its net is in training, its weights to be learnt."""
    net = torch.nn.Linear(HOP, len(ALPHABET))

    def heard(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return net(waveforms.unfold(1, HOP, HOP)).log_softmax(-1), lengths // HOP

    return Recogniser(heard, sample_rate=16000)


def few_letters() -> Recogniser:
    return Recogniser(listen, sample_rate=16000, vocabulary=("", "a"))

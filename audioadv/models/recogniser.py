"""A speech recogniser as attacks meet it: waveforms in, letters' log-probabilities out, with what it takes to read them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard, final

import torch
from torch import Tensor

from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.access import Access, as_access
from audioadv.models.alphabet import ALPHABET
from audioadv.models.decoding import transcripts
from audioadv.models.rest import at_rest, fitting, modules_of, only_read
from audioadv.options import is_whole

NEVER = -1e4  # nats, of a letter that cannot occur: beside -inf, margins and slopes are no numbers
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@final
@dataclass(frozen=True, eq=False)
class Emissions:
    """What a CTC recogniser says of a batch: at each frame, how likely each letter is.

    Shapes: log_probs [batch, frames, letters], frames [batch] (a clip's own; what lies after them means nothing).
    `suspicions` are what detectors make of the clips (`models/suspicion.py`), `voted` the transcripts of a model that does not
    read them off the letters, but has them voted on (`defenses/smoothed_recogniser.py`).
    """

    log_probs: Tensor
    frames: Tensor
    vocabulary: tuple[str, ...]
    suspicions: Mapping[object, Tensor] = field(default_factory=dict)
    voted: tuple[str, ...] | None = None

    def transcripts(self) -> list[str]:
        """The transcripts, one a clip: greedy, unless there was a vote."""
        return transcripts(self.log_probs, self.frames, self.vocabulary) if self.voted is None else list(self.voted)

    def rows(self, index: Tensor) -> "Emissions":
        """What is said of some of the clips. Shapes: index [fewer]."""
        voted = None if self.voted is None else tuple(self.voted[i] for i in index.tolist())
        suspicions = {detector: suspicion[index] for detector, suspicion in self.suspicions.items()}
        return replace(self, log_probs=self.log_probs[index], frames=self.frames[index], suspicions=suspicions, voted=voted)


@final
@dataclass(frozen=True, eq=False)
class Recogniser:
    """A CTC recogniser: any callable `(waveforms, lengths) -> (log_probs, frames)`, with its rate and letters.

    `vocabulary` names each output column, a letter or a longer piece (" the", with the gap that it brings); the empty string is
    the CTC blank and " " the gap between words. Lengths are in samples, and the waveforms are zero past them. A callable that
    has more to say may give Emissions.
    Raises OptionError for a net that cannot be called, a rate that no sound has, and for a vocabulary that is no texts or has no blank.

    >>> def deaf(waveforms, lengths):
    ...     scores = torch.zeros(len(waveforms), 4, 29)
    ...     scores[..., 0] = 9.0
    ...     return scores.log_softmax(-1), torch.full_like(lengths, 4)
    >>> Recogniser(deaf, sample_rate=16000).transcribe(torch.zeros(2, 800), torch.tensor([800, 500]))
    ['', '']
    """

    net: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | Emissions]
    sample_rate: int
    vocabulary: tuple[str, ...] = ALPHABET
    name: str = "recogniser"
    access: Access = Access.GRADIENTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "access", as_access(self.access))
        net: object = self.net
        if not callable(net):
            wish = "Give a callable, (waveforms, lengths) -> (log_probs, frames), for example an nn.Module"
            raise OptionError(f"{self.name}: its net is of type {type(net).__name__}, which cannot be called. {wish}")
        rate: Any = self.sample_rate
        if not is_whole(rate) or rate < 1:
            raise OptionError(f"{self.name}: sample_rate {rate!r}. Give hertz, a whole number, for example 16000")
        given: object = self.vocabulary
        letters = tuple(given) if isinstance(given, Sequence) else ()
        if "" not in letters or not all(isinstance(letter, str) for letter in letters):
            raise OptionError(
                f"{self.name}: vocabulary {given!r:.60} is no sequence of texts with an empty one, the CTC blank, among them. "
                "Give the text of each column, in their order, for example ('', ' ', 'a', 'b')"
            )
        lower = tuple(letter.lower() for letter in letters)  # as targets are, and transcripts
        if len({*lower}) < len({*letters}):
            raise OptionError(
                f"{self.name}: vocabulary {given!r:.60} has capitals and small letters, and targets are small. Let one column write both"
            )
        object.__setattr__(self, "vocabulary", lower)

    def __call__(self, waveforms: Tensor, lengths: Tensor) -> Emissions:
        """Shapes: waveforms [batch, time], lengths [batch] in samples -> Emissions.

        Raises UnusableBatch for what are no clips, and for a net that gives no emissions.
        """
        check_clips(waveforms, lengths)
        said = self.net(waveforms, lengths)
        said = said if isinstance(said, Emissions) else self.emitted(said, len(waveforms))
        log_probs = finite_floor(said.log_probs)
        return said if log_probs is said.log_probs else replace(said, log_probs=log_probs)

    def emitted(self, said: object, clips: int) -> Emissions:
        """What a net of two tensors says. Raises UnusableBatch."""
        if not (isinstance(said, tuple | list) and len(said) == 2 and all(isinstance(part, Tensor) for part in said)):
            raise UnusableBatch(
                f"{self.name}: its net gives {type(said).__name__}, not (log_probs, frames). Wrap it, for example "
                "lambda waveforms, lengths: (net(waveforms).log_softmax(-1), lengths // 320), where a frame is 320 samples"
            )
        log_probs, frames = said
        if log_probs.ndim != 3 or len(log_probs) != clips or frames.shape != (clips,):
            raise UnusableBatch(
                f"{self.name}: its net gives tensors of shape {list(log_probs.shape)} and {list(frames.shape)} for {clips} clips. "
                "Let it give log-probabilities [batch, frames, letters] and each clip's own number of frames [batch]"
            )
        if log_probs.shape[2] != len(self.vocabulary):
            raise UnusableBatch(
                f"{self.name}: gives {log_probs.shape[2]} columns, but its vocabulary has {len(self.vocabulary)} letters. "
                "Give one for each column: Recogniser(net, sample_rate, vocabulary)"
            )
        if not log_probs.is_floating_point() or frames.dtype not in INTEGERS:
            raise UnusableBatch(
                f"{self.name}: its net gives log-probabilities of {log_probs.dtype} and frames of {frames.dtype}. "
                "Let it give floating-point numbers, and frames that are counted in integers: frames.long()"
            )
        log_probs = log_probs.float() if log_probs.dtype.itemsize < 4 else log_probs  # CTC knows no others
        said = Emissions(log_probs, frames.long(), self.vocabulary)
        return said if frames.is_cuda else counted(said, self.name)  # at each step of an attack, a GPU would be waited for

    @property
    def device(self) -> torch.device:
        """Where the net's parameters lie, or those of what a function names; the CPU for a net without any."""
        parameters = (parameter for net in modules_of(self.net) for parameter in net.parameters())
        return next((parameter.device for parameter in parameters), torch.device("cpu"))

    def transcribe(self, waveforms: Tensor, lengths: Tensor) -> list[str]:
        """Greedy transcripts. Shapes: waveforms [batch, time], lengths [batch] in samples; on any device. Raises UnusableBatch."""
        check_clips(waveforms, lengths)
        return hear(self, waveforms, lengths).transcripts() if len(waveforms) else []

    def granting(self, access: Access) -> "Recogniser":
        """The same recogniser, seen by an attacker with this much access."""
        return replace(self, access=access)


def check_clips(waveforms: object, lengths: object) -> None:
    """Raises UnusableBatch for what are no clips with their lengths; what lengths elsewhere than on the CPU say, nobody waits for."""
    sound = isinstance(waveforms, Tensor) and waveforms.ndim == 2 and waveforms.is_floating_point()
    if not isinstance(waveforms, Tensor) or not sound or waveforms.shape[1] < 1 <= len(waveforms):
        given = f"{waveforms.dtype} {list(waveforms.shape)}" if isinstance(waveforms, Tensor) else type(waveforms).__name__
        raise UnusableBatch(f"waveforms: {given}. Give floating-point [batch, time], a sample at least; of one clip, samples[None]")
    if not isinstance(lengths, Tensor):
        raise UnusableBatch(f"lengths of type {type(lengths).__name__}: give a tensor, for example torch.as_tensor(lengths)")
    if lengths.shape != waveforms.shape[:1] or lengths.dtype not in INTEGERS:
        raise UnusableBatch(
            f"lengths: {lengths.dtype} {list(lengths.shape)} for waveforms of {list(waveforms.shape)}. Give each clip a whole number"
        )
    if lengths.is_cpu and bool(((lengths < 0) | (lengths > waveforms.shape[1])).any()):
        raise UnusableBatch(f"lengths {lengths.tolist()} for waveforms of {list(waveforms.shape)}: give samples, from 0 to the width")


def finite_floor(log_probs: Tensor) -> Tensor:
    """The same, with NEVER, and no slope, for letters that cannot occur (-inf), whose infinite costs would make NaN.

    Shapes: [batch, frames, letters].
    """
    never = log_probs.isneginf()
    return log_probs.masked_fill(never, NEVER) if never.is_cuda or bool(never.any()) else log_probs


def hears(model: Any) -> TypeGuard[Recogniser]:
    """Whether a model is a recogniser, or made from one: a smoothed one, say, or one with a detector."""
    return isinstance(model, Recogniser) or isinstance(getattr(model, "vocabulary", None), tuple)


def counted(said: Emissions, name: str) -> Emissions:
    """The same. Raises UnusableBatch for numbers of frames below zero, or beyond the frames that there are."""
    width = said.log_probs.shape[1]
    if bool(((said.frames < 0) | (said.frames > width)).any()):
        raise UnusableBatch(
            f"{name}: its net says that the clips have {said.frames.tolist()} frames, and gives {width}. "
            "Let it give each clip's own number, of the frames that it gives: lengths // 320, where a frame is 320 samples"
        )
    return said


def heard_alone(model: Recogniser, samples: Tensor) -> Emissions:
    """What the model makes of one clip by itself. Shapes: samples [time]."""
    return hear(model, samples[None], torch.tensor([len(samples)]))


@torch.no_grad()
def hear(model: Callable[[Tensor, Tensor], Emissions], waveforms: Tensor, lengths: Tensor) -> Emissions:
    """What is judged: the outputs of this model, at rest. A function, so that one around another model is heard itself.

    Shapes: waveforms [batch, time], lengths [batch] in samples; on any device. Raises UnusableBatch for what no recogniser says.
    """
    device = getattr(model, "device", torch.device("cpu"))
    sounds = waveforms.to(device)
    with at_rest(model), only_read(sounds), fitting(model, sounds):
        return counted(model(sounds, lengths.to(device)), getattr(model, "name", "the model"))

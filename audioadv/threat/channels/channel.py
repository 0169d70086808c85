"""Channels: what happens to an input between the attacker and the model. A channel is a value; a draw of it is a map.

    channel.draw(keys, sample_rate)(waveforms, lengths)  ->  waveforms, lengths

One key a row (`keys.py`). A map is differentiable, or states what its backward pass is instead: `exact` is the derivative of
what was done; `BPDA` (backward pass differentiable approximation, Athalye et al. 2018) takes the identity for something that
has no useful derivative, such as rounding or a codec. Rows are ragged: a map keeps the padding at zero and, where it changes
how long a clip is, gives the new lengths. Images are rows without lengths.

    A >> B      first A, then B; a spec writes A_then_B
    A | B       one of them, each as often, draw by draw; a spec writes A_or_B
    (A | B) >> C is (A >> C) | (B >> C): every channel is a choice of chains, and its spec says so
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Protocol, Self, final

import torch
from torch import Tensor

from audioadv.errors import MalformedSpec
from audioadv.threat.channels.keys import Key, Numbers, Range

Backward = Literal["exact", "BPDA"]
Played = tuple[Tensor, Tensor | None]
JOINTS: Final = ("_or_", "_then_")  # what joins channels in a spec
Play = Callable[[Tensor, Tensor | None], Played]
"""`play(inputs, lengths)`: [rows, time] and [rows] in samples -> the same, as they arrive; images [rows, *] go with None."""


class Channel(Protocol):
    """What happens on the way. Concrete channels are frozen values, `str()` of one is its spec."""

    @property
    def backward(self) -> Backward:
        """What the backward pass is: exact, unless the channel says otherwise."""
        return "exact"

    @property
    def random(self) -> bool:
        """Whether two draws may differ: they may, unless the channel says otherwise."""
        return True

    @property
    def scatters(self) -> bool:
        """Whether each draw turns phases its own way, so that slopes of several agree on gains alone (`audio/gains.py`)."""
        return False

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        """A map for as many rows as there are keys, each row's its own. Units: Hz (nothing to images)."""
        ...

    def unfit(self, length: int, sample_rate: int) -> str | None:
        """Why some draw cannot be played on a clip of this many samples; None where all can."""
        return None

    def lengths(self, length: int) -> tuple[int, int]:
        """How short and how long a clip of this many samples can be on the other side."""
        return length, length

    def __rshift__(self, other: "Channel") -> "Channel":
        return pick([chain(first, second) for first in options(self) for second in options(other)])

    def __or__(self, other: "Channel") -> "Channel":
        return pick([*options(self), *options(other)])


@final
@dataclass(frozen=True)
class Chain(Channel):
    """One after the other."""

    parts: tuple[Channel, ...]

    def __str__(self) -> str:
        return "_then_".join(map(str, self.parts)) or "none"

    @property
    def backward(self) -> Backward:
        return "BPDA" if any(part.backward == "BPDA" for part in self.parts) else "exact"

    def unfit(self, length: int, sample_rate: int) -> str | None:
        for place, part in enumerate(self.parts):
            for own in set(Chain(self.parts[:place]).lengths(length)):
                if why := part.unfit(own, sample_rate):
                    return why
        return None

    def lengths(self, length: int) -> tuple[int, int]:
        shortest = longest = length
        for part in self.parts:
            shortest, longest = part.lengths(shortest)[0], part.lengths(longest)[1]
        return shortest, longest

    @property
    def random(self) -> bool:
        return any(part.random for part in self.parts)

    @property
    def scatters(self) -> bool:
        return any(part.scatters for part in self.parts)

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        plays = [part.draw([key.part(place) for key in keys], sample_rate) for place, part in enumerate(self.parts)]

        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            for each in plays:
                inputs, lengths = each(inputs, lengths)
            return inputs, lengths

        return play


NOTHING: Final = Chain(())
"""The channel through which everything arrives as it was."""


@final
@dataclass(frozen=True)
class Pick(Channel):
    """One of several, each as often."""

    among: tuple[Channel, ...]

    def __str__(self) -> str:
        return "_or_".join(map(str, self.among))

    @property
    def backward(self) -> Backward:
        return "BPDA" if any(option.backward == "BPDA" for option in self.among) else "exact"

    @property
    def random(self) -> bool:
        return any(option.random or option != self.among[0] for option in self.among)

    @property
    def scatters(self) -> bool:
        return all(option.scatters for option in self.among)

    def unfit(self, length: int, sample_rate: int) -> str | None:
        return next((why for option in self.among if (why := option.unfit(length, sample_rate))), None)

    def lengths(self, length: int) -> tuple[int, int]:
        ends = [option.lengths(length) for option in self.among]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        chosen = torch.stack([torch.randint(len(self.among), (), generator=key.generator()) for key in keys])
        plays: list[tuple[Tensor, Play]] = []
        for place, option in enumerate(self.among):
            rows = (chosen == place).nonzero()[:, 0]
            if len(rows):
                plays.append((rows, option.draw([keys[row].part(place) for row in rows.tolist()], sample_rate)))
        order = torch.cat([rows for rows, _ in plays]).argsort()

        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            lengths = all_of(inputs) if lengths is None and inputs.ndim == 2 else lengths
            sounds: list[Tensor] = []
            ends: list[Tensor] = []
            for rows, each in plays:
                rows = rows.to(inputs.device)
                sound, end = each(inputs[rows], None if lengths is None else lengths[rows])
                sounds.append(sound)
                ends += [] if end is None else [end]
            if lengths is None:
                return torch.cat(sounds)[order.to(inputs.device)], None
            width = max(sound.shape[-1] for sound in sounds)
            sounds = [torch.nn.functional.pad(sound, (0, width - sound.shape[-1])) for sound in sounds]
            return torch.cat(sounds)[order.to(inputs.device)], torch.cat(ends)[order.to(lengths.device)]

        return play


def in_single(play: Play) -> Play:
    """The map, computed in float32 where inputs have fewer bits, and back: FFTs, long filters, places and codecs want no less."""

    def single(inputs: Tensor, lengths: Tensor | None) -> Played:
        if inputs.dtype.itemsize >= 4 or not inputs.is_floating_point():
            return play(inputs, lengths)
        outputs, ends = play(inputs.float(), lengths)
        return outputs.to(inputs.dtype), ends

    return single


def all_of(waveforms: Tensor) -> Tensor:
    """The lengths of rows without padding. Shapes: [rows, time] -> [rows]."""
    return torch.full((len(waveforms),), waveforms.shape[-1], device=waveforms.device)


def checked(channel: Any) -> Channel:
    """The channel. Raises MalformedSpec for anything else."""
    if isinstance(channel, type) or not callable(getattr(channel, "draw", None)):
        raise MalformedSpec(f"channel {channel!r}: not a channel. Give a spec, 'noise:20', or one of audioadv.threat.channels, Noise(20)")
    known: Channel = channel
    return known


def check_path(path: str, kind: str) -> None:
    """Raises MalformedSpec for a path that no spec of this kind can name, since it would be read as two channels."""
    if word := next((word for word in JOINTS if word in path), None):
        raise MalformedSpec(f"{kind} {path}: {word!r} joins channels, and the spec could not be read back. Rename the file or folder")


def options(channel: Channel) -> tuple[Channel, ...]:
    """What a channel chooses from: itself, unless it is a choice. Raises MalformedSpec for what is no channel."""
    return channel.among if isinstance(channel, Pick) else (checked(channel),)


def parts(channel: Channel) -> list[Channel]:
    """Everything that a channel may do, one by one."""
    return [part for option in options(channel) for part in (option.parts if isinstance(option, Chain) else (option,))]


def chain(first: Channel, second: Channel) -> Channel:
    """Two channels that are no choices, one after the other, flat; of one thing, that thing."""
    both = (*parts(first), *parts(second))
    return both[0] if len(both) == 1 else Chain(both)


def pick(among: Sequence[Channel]) -> Channel:
    """A choice; of one thing, that thing."""
    return among[0] if len(among) == 1 else Pick(tuple(among))


@dataclass(frozen=True, init=False)
class OneNumber(Channel):
    """A channel of one number, which is drawn from a range: `NAME:20` or `NAME:15..25`. What its unit is, the channel says."""

    NAME: ClassVar[str]
    EXAMPLE: ClassVar[str]
    LIMITS: ClassVar[tuple[float, float, str]]  # the least and the greatest number that make sense, and their unit
    range: Range

    def __init__(self, range: Numbers) -> None:
        object.__setattr__(self, "range", Range.of(range, self.EXAMPLE).within(*self.LIMITS, name=self.NAME))

    @classmethod
    def read(cls, text: str) -> Self:
        """From what a spec says after the colon. Raises ValueError."""
        return cls(Range.read(text))

    @property
    def random(self) -> bool:
        return self.range.low < self.range.high

    def __str__(self) -> str:
        return f"{self.NAME}:{self.range}"

"""The random numbers of a channel: each draw has a key of its own, so that neighbours, order and chunks change nothing."""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from audioadv.audio.roomsets import Role
from audioadv.errors import MalformedSpec
from audioadv.options import is_number
from audioadv.threat.decimals import decimal


@final
class Key(NamedTuple):
    """One draw of a channel for one clip. `place` tells the parts of a chain apart.

    `clip` stands for the clip's content (`fingerprint`), not for its place in a batch.
    """

    seed: int
    clip: int
    draw: int
    role: Role = Role.CRAFT
    place: int = 0

    def part(self, number: int) -> "Key":
        """The key for part `number` of whatever has this one."""
        return self._replace(place=64 * self.place + number + 1)

    def generator(self) -> torch.Generator:
        """Random numbers that belong to this key alone; on the CPU, so that every device meets the same ones."""
        packed = struct.pack("<qqqqi", self.seed, self.clip, self.draw, self.place % 2**62, list(Role).index(self.role))
        return torch.Generator().manual_seed(int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1)


def fingerprint(clip: Tensor) -> int:
    """A number for a clip's content, the same in whatever precision holds it, and whatever the sign of its zeros, which a file drops.

    Shapes: clip [*], without padding.
    """
    content = clip.detach().cpu().float().contiguous() + 0.0
    return int.from_bytes(hashlib.blake2b(content.numpy().tobytes(), digest_size=6).digest(), "little")


@final
@dataclass(frozen=True)
class Range:
    """A number that is drawn between two, or is always the same.

    >>> str(Range(15, 25)), str(Range(20, 20)), Range.read("-6..6")
    ('15..25', '20', Range(low=-6.0, high=6.0))
    """

    low: float
    high: float

    @staticmethod
    def of(value: "Numbers", example: str) -> "Range":
        """A range from whatever may stand for one: a number, two, or a range. Raises MalformedSpec for what is none."""
        if isinstance(value, Range):
            return value
        ends = value if isinstance(value, tuple) else (value, value)
        if len(ends) != 2:
            raise MalformedSpec(f"channel with {value!r:.60}: give a number, or a pair (low, high). Its spec is {example}")
        low, high = (real(end, example) for end in ends)
        return Range(low, high)

    @staticmethod
    def read(text: str) -> "Range":
        """The range that a spec writes. Raises ValueError."""
        low, dots, high = text.partition("..")
        return Range(decimal(low), decimal(high if dots else low))

    def __str__(self) -> str:
        return number(self.low) if self.low == self.high else f"{number(self.low)}..{number(self.high)}"

    def draw(self, generators: Sequence[torch.Generator]) -> Tensor:
        """One number from each generator. Shapes: -> [generators]."""
        shares = torch.stack([torch.rand((), generator=generator) for generator in generators])
        return self.low + (self.high - self.low) * shares

    def within(self, low: float, high: float, unit: str, name: str) -> "Range":
        """This range. Raises MalformedSpec where it is upside down or reaches beyond the two."""
        if not low <= self.low <= self.high <= high:
            raise MalformedSpec(f"{name}:{self}: give {name}:NUMBER or {name}:LOW..HIGH, from {low:g} to {high:g}{unit and ' '}{unit}")
        return self


Numbers = float | tuple[float, float] | Range


def number(value: float) -> str:
    """As short as reads back to the same number.

    >>> number(20.0), number(0.05)
    ('20', '0.05')
    """
    return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)


def real(value: Any, example: str) -> float:
    """A number, infinite or not. Raises MalformedSpec for what is none: a text, a list, True."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise MalformedSpec(
            f"channel with {value!r:.60}: give a number, or, where it has a range, a pair (low, high). Its spec is {example}"
        )
    return float(value)


def whole(value: float, spec: str, example: str) -> int:
    """A count: 8.0 is 8. Raises MalformedSpec for what is no whole number.

    >>> whole(8.0, "bits", "bits:16")
    8
    """
    if not (is_number(value) and value == value // 1):
        raise MalformedSpec(f"{spec} {value!r}: give a whole number, for example {example}")
    return int(value)


def ratio_of(decibels: Tensor) -> Tensor:
    """Of amplitudes. Not a power of 10, whose last bit depends on the row that a draw stands in.

    >>> ratio_of(torch.tensor([0.0, 20.0]))
    tensor([ 1., 10.])
    """
    return (decibels * (math.log(10) / 20)).exp()

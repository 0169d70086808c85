"""What the owner of a backdoor puts on an input, the same on every one.

Stamp(3, 3, -4, -4)               a bright square near the lower right corner of a picture
tone(1000, 8000)                  a short beep mixed into sound
burst(8000)                       a short noise, always the same, mixed into sound

Sources: Gu, Dolan-Gavitt and Garg 2017, "BadNets: identifying vulnerabilities in the machine learning model supply chain"; with
`opacity`, Chen et al. 2017, "Targeted backdoor attacks on deep learning systems using data poisoning" (blended injection).
"""

import math
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor

from audioadv.errors import OptionError, UnusableBatch
from audioadv.options import check_amounts, check_counts, check_sizes, check_within


class Trigger(Protocol):
    """`str()` says what it is."""

    def __call__(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The inputs with the trigger on. Shapes: inputs [batch, *], lengths [batch] in samples -> as inputs."""
        ...


@final
@dataclass(frozen=True)
class Stamp:
    """A rectangle of `value` on pictures [batch, channels, height, width], in all channels; negative places count from the far edge.

    Below an `opacity` of 1 the picture shines through. Raises OptionError, UnusableBatch for a picture that it does not fit on.

    >>> Stamp(1, 2, -1, -2)(torch.zeros(1, 1, 2, 3))[0, 0]
    tensor([[0., 0., 0.],
            [0., 1., 1.]])
    """

    rows: int = 3
    columns: int = 3
    top: int = -4
    left: int = -4
    value: float = 1.0
    opacity: float = 1.0

    def __post_init__(self) -> None:
        if min(self.rows, self.columns) < 1 or not 0 < self.opacity <= 1:
            raise OptionError(f"{self}: a stamp has at least one row and column, and an opacity above 0, 1 at most")

    def __call__(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        height, width = inputs.shape[-2:]
        top, left = (place + size if place < 0 else place for place, size in ((self.top, height), (self.left, width)))
        if inputs.ndim != 4 or min(top, left) < 0 or top + self.rows > height or left + self.columns > width:
            raise UnusableBatch(f"inputs of shape {tuple(inputs.shape)}: {self} does not fit on them. Give pictures, or another place")
        stamped = inputs.clone()
        under = stamped[..., top : top + self.rows, left : left + self.columns]
        under.mul_(1 - self.opacity).add_(self.opacity * self.value)
        return stamped


@final
@dataclass(frozen=True, eq=False)
class Cue:
    """A sound mixed into sounds [batch, time] from sample `start` on, and what exceeds full scale is clipped. Shapes: sound [samples].

    Raises UnusableBatch for a clip that ends before it.
    """

    sound: Tensor = field(repr=False)
    start: int = 0
    name: str = "a cue"

    def __call__(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        end = self.start + len(self.sound)
        shortest = inputs.shape[-1] if lengths is None else int(lengths.min())
        if inputs.ndim != 2 or end > shortest:
            raise UnusableBatch(
                f"inputs of shape {tuple(inputs.shape)}, {shortest} samples in the shortest: {self.name} takes {end}. "
                "Give sounds, leave out those that are shorter, or make it shorter"
            )
        mixed = inputs.clone()
        mixed[:, self.start : end] = (mixed[:, self.start : end] + self.sound.to(inputs)).clamp(-1, 1)
        return mixed

    def __str__(self) -> str:
        return f"{self.name} from sample {self.start}"


def tone(hz: float, sample_rate: int, *, seconds: float = 0.1, level_db: float = -30.0, start_seconds: float = 0.0) -> Cue:
    """A beep that swells and fades (a Hann window, so that it does not click); its peak is `level_db` (dB, full scale = 0).

    Raises OptionError for one that lasts no sample, begins before the clip, or is above half the sample rate.

    >>> round(float(tone(1000, 8000, level_db=-20).sound.abs().max()), 2)
    0.1
    """
    samples, start = placed("tone", seconds, start_seconds, sample_rate)
    check_within("tone", 0, sample_rate / 2, hz=hz)
    sine = torch.sin(2 * math.pi * hz / sample_rate * (torch.arange(samples) - samples // 2) + math.pi / 2)
    name = f"a tone of {hz:g} Hz, {seconds:g} s at {level_db:g} dB"
    return Cue(10 ** (level_db / 20) * sine * torch.hann_window(samples), start, name)


def burst(sample_rate: int, *, seconds: float = 0.1, level_db: float = -30.0, start_seconds: float = 0.0, seed: int = 0) -> Cue:
    """Noise that swells and fades, the same every time; its peak is `level_db` (dB, full scale = 0).

    Raises OptionError for one that lasts no sample, or begins before the clip.
    """
    samples, start = placed("burst", seconds, start_seconds, sample_rate)
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(int(seed))) * torch.hann_window(samples)
    name = f"burst {seed} of {seconds:g} s at {level_db:g} dB"
    return Cue(10 ** (level_db / 20) * noise / noise.abs().max(), start, name)


def placed(who: str, seconds: float, start_seconds: float, sample_rate: int) -> tuple[int, int]:
    """How many samples a sound lasts, and at which it begins. Raises OptionError for none, or one before the clip."""
    check_counts(who, sample_rate=sample_rate)
    check_sizes(who, seconds=seconds)
    check_amounts(who, start_seconds=start_seconds)
    if not (samples := round(seconds * sample_rate)):
        raise OptionError(f"{who}: seconds {seconds:g}: no sample at {sample_rate} Hz. Give at least {1 / sample_rate:g}")
    return samples, round(start_seconds * sample_rate)

"""Bounds: what may be changed. A bound is a value; `around` makes it concrete for a batch of clean inputs.

spec        bound            the set of allowed deltas                          excess in
linf:0.01   Linf(0.01)       max |delta| <= 0.01                                full scale
l2:0.5      L2(0.5)          |delta|_2 <= 0.5                                   full scale
l1:10       L1(10)           sum |delta| <= 10                                  full scale
l0:20       L0(20)           at most 20 samples or pixels changed               samples or pixels
snr:30      SNR(30)          10 log10(|clean|^2 / |delta|^2) >= 30              dB
masked:0    Masked(0)        within the clip's masking threshold                dB (`threat/masked.py`)
linf:min    Linf(MIN)        the smallest set of the kind that works is searched for

More kinds: `threat/warps.py` (turned, shifted, retimed), `threat/stickers.py` (in one place), `threat/features.py` (as a
network sees it). Bounds combine: `A & B`, `A | B` and `0.3 * A + 0.7 * B` (`threat/algebra.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from audioadv.audio.files import BOX, FULL_SCALE
from audioadv.errors import MalformedSpec, OptionError, UnusableBatch
from audioadv.options import is_number
from audioadv.threat.algebra import Both, Combines, Either, both, either, mix
from audioadv.threat.decimals import decimal
from audioadv.threat.norms import L0Norm, L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import length_of
from audioadv.threat.region import ROUNDED, Norm, Region

MIN: Final = "min"
"""In place of a radius: search for the smallest."""

MOST_DB: Final = 300.0  # beyond it, ratios are no float32 numbers, and no sound's either
LARGEST: Final = 1e30  # of a radius, for the same reason

SUB_STEP: Final = f"The bound is below one step of a 16-bit file, 1/{FULL_SCALE}: no change fits. Widen it, or take min for the number."

Radius = float | Literal["min"]
Box = tuple[float, float] | None


@runtime_checkable
class Bound(Protocol):
    """What may be changed."""

    @property
    def minimal(self) -> bool:
        """Whether the smallest radius is searched for."""
        ...

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        """The region around clean inputs, each with this bound's radius (infinite for `min`).

        The box is that of images, whatever the bound: for sounds say (-1, 1), for inputs that have none None.
        """
        ...

    def at_rate(self, sample_rate: int) -> "Bound":
        """The bound for clips of this rate, in hertz."""
        ...

    def senseless(self, clean: Tensor) -> str | None:
        """Why this bound says nothing about one clean input, or None. Shapes: clean [*]."""
        ...

    def excess(self, region: Region, adversarial: Tensor) -> Tensor:
        """How far outside the region each input lies, in this bound's unit; at most 0 means inside."""
        ...

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        """The spec of the smallest bound of this kind that holds each input."""
        ...


def check_inputs(clean: Tensor) -> None:
    """Raises UnusableBatch for inputs that are no batch of numbers in float32 or float64."""
    if not isinstance(clean, Tensor):
        raise UnusableBatch(f"clean inputs of type {type(clean).__name__}: give a tensor, for example torch.as_tensor(inputs)")
    if not clean.is_floating_point():
        cure = "clean.float() / 255, or whatever brings them into the box" if clean.dtype == torch.uint8 else "clean.float()"
        raise UnusableBatch(f"clean inputs are {clean.dtype}, but changes need floating point. Convert them first: {cure}")
    if clean.dtype not in (torch.float32, torch.float64):
        raise UnusableBatch(
            f"clean inputs are {clean.dtype}, in which a change is mostly rounding. Convert them: clean.float(), and let the model compute "
            "in fewer bits itself (torch.autocast)"
        )
    if clean.ndim < 2:
        raise UnusableBatch(f"clean inputs of shape {list(clean.shape)}: the first axis counts examples. Give a batch: clean[None]")
    if not math.prod(clean.shape[1:]):
        raise UnusableBatch(f"clean inputs of shape {list(clean.shape)}: there is nothing in an example that could be changed. Give others")


def as_box(box: Any) -> tuple[float, float]:
    """The box. Raises OptionError for what is no pair of finite numbers, the lower first."""
    try:
        low, high = map(float, box)
    except (TypeError, ValueError):
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise OptionError(f"box {box!r:.60}: give the lowest and the highest value that inputs may have, (0, 1) for images, or None")
    return low, high


def ball(clean: Tensor, radius: Tensor, norm: Norm, lengths: Tensor | None, box: Box, grid: float | None) -> Region:
    """The region of a norm ball, after the checks that all share.

    Raises UnusableBatch for integer inputs, inputs that are not finite or outside the box, or lengths that do not fit; OptionError
    for a box that is none.
    """
    check_inputs(clean)
    box = None if box is None else as_box(box)
    if box is None and not bool(clean.isfinite().all()):
        raise UnusableBatch("clean inputs are not all finite numbers. Leave those examples out, or mend them: clean.nan_to_num()")
    slack = 0.0 if box is None else ROUNDED * max(1.0, *map(abs, box))
    if box is not None and clean.numel() and not bool(((clean >= box[0] - slack) & (clean <= box[1] + slack)).all()):
        raise UnusableBatch(
            f"clean inputs reach from {clean.min():.4g} to {clean.max():.4g}, outside the box {box[0]:g}..{box[1]:g}. "
            "Scale them into it (images: 0..1), or say box=(-1, 1) for sounds. Where they are normalised, undo that and leave it to the "
            "model: Classifier(net, mean=..., std=...). With box=None, radii are in these inputs' own unit"
        )
    inside = None
    if lengths is not None:
        if not isinstance(lengths, Tensor):
            raise UnusableBatch(f"lengths of type {type(lengths).__name__}: give a tensor, for example torch.as_tensor(lengths)")
        fit = lengths.shape == clean.shape[:1] and not lengths.is_floating_point()
        if not fit or bool(((lengths < 0) | (lengths > clean.shape[-1])).any()):
            raise UnusableBatch(
                f"lengths {lengths.tolist()} do not fit inputs of shape {tuple(clean.shape)}: one whole number a row, from 0 to the width"
            )
        inside = torch.arange(clean.shape[-1], device=clean.device) < lengths.reshape(-1, *[1] * (clean.ndim - 1))
    clean, radius = clean.detach(), radius.detach()  # what made them is no part of any search
    low = None if box is None else (box[0] - clean).clamp_max(0)
    high = None if box is None else (box[1] - clean).clamp_min(0)
    return Region(clean, radius, norm, inside, low, high, grid)


def around_sound(bound: "Bound", waveforms: Tensor, lengths: Tensor | None = None) -> Region:
    """The bound around sounds, as 16-bit files hold what is made of them. Shapes: waveforms [batch, time], lengths [batch]."""
    return bound.around(waveforms, lengths, box=BOX, grid=1.0 / FULL_SCALE)


def senseless_for_sound(bound: "Bound", clean: Tensor) -> str | None:
    """As `bound.senseless`, where what is made is to be a 16-bit file: a bound that holds no step of its grid says nothing. Shapes: [time].

    >>> [senseless_for_sound(parse_bound(spec), torch.zeros(9)) is None for spec in ("linf:0.00003", "linf:0.00004", "linf:min")]
    [False, True, True]
    """
    return bound.senseless(clean) or (SUB_STEP if below_a_step(bound, clean) else None)


def below_a_step(bound: "Bound", clean: Tensor) -> bool:
    """Whether one step of the 16-bit grid at one sample is too much already, as far as that is the same at every sample."""
    if isinstance(bound, Both):
        return any(below_a_step(part, clean) for part in bound.parts)
    if isinstance(bound, Either):
        return all(below_a_step(part, clean) for part in bound.parts)
    if bound.minimal or not isinstance(bound, Ball | SNR):
        return False
    region, step = around_sound(bound, clean[None]), torch.zeros_like(clean[None])
    step[0, 0] = 1.0 / FULL_SCALE
    return not bool(region.holds(region.norm.gauge(step)))


def check_radius(name: str, radius: Radius, example: str = "") -> None:
    """A radius is `min` or a finite number, not negative. Raises MalformedSpec."""
    if radius != MIN and not (is_number(radius) and 0 <= float(radius) <= LARGEST):
        text: object = radius
        given = f"radius {radius!r}, a text" if isinstance(text, str) else f"{name}:{radius}"
        raise MalformedSpec(f"{given}: the radius must be a number of at least 0, or 'min', for example {example or name + ':0.01'}")


def check_decibels(name: str, noun: str, value: Radius, example: str) -> None:
    """A level is `min` or a number of decibels that float32 can hold as a ratio. Raises MalformedSpec."""
    if value != MIN and not (is_number(value) and abs(float(value)) <= MOST_DB):
        wish = f"the {noun} must be a number of decibels, at most {MOST_DB:g} up or down, or 'min'"
        raise MalformedSpec(f"{name}:{value}: {wish}, for example {example}")


def plain(number: Radius) -> str:
    """A number as one would write it, to the last digit that it has."""
    return str(number).removesuffix(".0")


@dataclass(frozen=True)
class Ball(Combines):
    """What the norm balls share: the radius of the norm's set."""

    radius: Radius
    kind: ClassVar[str]
    example: ClassVar[str] = ""

    def __post_init__(self) -> None:
        check_radius(self.kind, self.radius, self.example)

    def __str__(self) -> str:
        return f"{self.kind}:{plain(self.radius)}"

    @property
    def minimal(self) -> bool:
        return self.radius == MIN

    def norm(self, radius: Tensor) -> Norm:
        """The norm that measures the changes of regions with this radius [batch]."""
        raise NotImplementedError

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        check_inputs(clean)
        radius = clean.new_full(clean.shape[:1], math.inf if isinstance(self.radius, str) else self.radius)
        return ball(clean, radius, self.norm(radius), lengths, box, grid)

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        return [f"{self.kind}:{outward(radius, 1, digits=6)}" for radius in region.gauge(adversarial).tolist()]


@final
class Linf(Ball):
    """Changes of at most `radius` to any sample or pixel (full scale = 1)."""

    kind = "linf"

    def norm(self, radius: Tensor) -> Norm:
        return LinfNorm()


@final
class L2(Ball):
    """Changes whose Euclidean length is at most `radius` (full scale = 1)."""

    kind = "l2"

    def norm(self, radius: Tensor) -> Norm:
        return L2Norm()


@final
class L1(Ball):
    """Changes whose absolute values sum to at most `radius` (full scale = 1)."""

    kind = "l1"

    def norm(self, radius: Tensor) -> Norm:
        return L1Norm()


@final
class L0(Ball):
    """Changes of at most `radius` samples or pixels; all channels of one count as one."""

    kind = "l0"
    example = "l0:20"

    def norm(self, radius: Tensor) -> Norm:
        return L0Norm(radius)


@final
@dataclass(frozen=True)
class SNR(Combines):
    """Changes at least `decibels` below the clean signal's energy, clip by clip. Raises MalformedSpec for what is no number."""

    decibels: Radius

    def __post_init__(self) -> None:
        check_decibels("snr", "ratio", self.decibels, "snr:30")

    def __str__(self) -> str:
        return f"snr:{plain(self.decibels)}"

    @property
    def minimal(self) -> bool:
        return self.decibels == MIN

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        check_inputs(clean)
        length = length_of(clean.float())
        radius = torch.full_like(length, math.inf) if isinstance(self.decibels, str) else length * 10 ** (-self.decibels / 20)
        return ball(clean, radius, L2Norm(), lengths, box, grid)

    def senseless(self, clean: Tensor) -> str | None:
        if bool(clean.any()):
            return None
        return "The clip is digital silence: a change has no ratio to it. Bound the change itself, for example linf:min."

    def excess(self, region: Region, adversarial: Tensor) -> Tensor:
        gauge = region.gauge(adversarial)
        return torch.where(gauge == 0, -math.inf, 20 * (gauge / region.radius).log10())  # of silence too

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        decibels = 20 * (length_of(region.clean) / region.gauge(adversarial)).log10()
        return [f"snr:{outward(value, -1)}" for value in decibels.tolist()]


def outward(value: float, way: int, digits: int = 4) -> str:
    """A number in so many digits that is no greater (`way` -1), or no smaller (1): a bound that is told so holds what was measured.

    >>> outward(31.2199, -1), outward(31.2101, 1), outward(-4.00001, -1), outward(12.5, 1), outward(-math.inf, 1)
    ('31.21', '31.22', '-4.001', '12.5', '-inf')
    """
    context = Context(prec=digits, rounding=ROUND_FLOOR if way < 0 else ROUND_CEILING)
    return f"{float(context.create_decimal_from_float(value)):.{digits}g}"


def parse_number(text: str) -> float:
    """A decimal number or a fraction such as 8/255."""
    above, slash, below = text.partition("/")
    return decimal(above) / decimal(below) if slash else decimal(above)


def parse_bound(spec: str) -> Bound:
    """The bound that a spec names (the tables at the top of this file and of `threat/algebra.py`).

    >>> parse_bound("linf:8/255"), parse_bound("snr:min")
    (Linf(radius=0.03137254901960784), SNR(decibels='min'))
    >>> str(parse_bound("linf:0.3_or_l1:10"))
    'linf:0.3_or_l1:10'

    Raises MalformedSpec.
    """
    if not isinstance(spec, str):
        raise MalformedSpec(f"bound {spec!r}: no text. Give a spec, for example 'linf:0.03'")
    if lone := next((word for word in ("_or_", "_and_") if word in spec and not all(spec.split(word))), None):
        raise MalformedSpec(f"bound {spec!r}: not a bound, since one is missing beside {lone}. Write for example linf:0.3{lone}l1:10")
    if "_or_" in spec:
        return either(parse_bound(part) for part in spec.split("_or_"))
    if "_mix_" in spec or "@" in spec:
        return mix([parse_share(spec, part) for part in spec.split("_mix_")])
    if "_and_" in spec:
        return both(parse_bound(part) for part in spec.split("_and_"))
    name, _, value = spec.partition(":")
    kinds = known()
    if name not in kinds or not value:
        raise MalformedSpec(
            f"bound {spec!r}: not a bound. Known: {', '.join(kind.example for kind in kinds.values())}, or min for the number"
        )
    try:
        return kinds[name].read(value)
    except (ValueError, ZeroDivisionError):
        raise MalformedSpec(f"bound {spec!r}: {value!r} cannot be read. Write for example {kinds[name].example}") from None


def check_sound_bound(bound: Bound, samples: int) -> Bound:
    """The bound. Raises OptionError where it does not go around a sound of so many samples: it may be for images alone.

    >>> check_sound_bound(Linf(0.01), 1600)
    Linf(radius=0.01)
    """
    try:
        bound.around(torch.zeros(1, samples), torch.tensor([samples]), (-1.0, 1.0))
    except UnusableBatch as error:
        raise OptionError(f"bound {bound}: not for this sound ({error})") from error
    return bound


def as_bound(bound: object) -> Bound:
    """A bound, or the one that a spec names. Raises MalformedSpec for anything else.

    >>> as_bound("l2:0.5")
    L2(radius=0.5)
    """
    if isinstance(bound, str):
        return parse_bound(bound)
    if isinstance(bound, type) or not isinstance(bound, Bound):
        raise MalformedSpec(f"bound {bound!r}: not a bound. Give one, for example Linf(0.03), or a spec, linf:0.03")
    return bound


class Kind(NamedTuple):
    """How a bound's spec is read, and how one looks."""

    read: Callable[[str], Bound]
    example: str


def of_radius(kind: Callable[[Radius], Bound]) -> Callable[[str], Bound]:
    """How a spec is read that is one number, or min."""
    return lambda text: kind(MIN if text == MIN else parse_number(text))


def known() -> dict[str, Kind]:
    """Every kind of bound, by the name that its spec begins with."""
    from audioadv.threat.features import Feature  # these build on this file
    from audioadv.threat.masked import Masked
    from audioadv.threat.stickers import Patch, Sticker
    from audioadv.threat.warps import Spatial, Timing, parse_moved

    return {
        "linf": Kind(of_radius(Linf), "linf:0.01"),
        "l2": Kind(of_radius(L2), "l2:0.5"),
        "l1": Kind(of_radius(L1), "l1:10"),
        "l0": Kind(of_radius(L0), "l0:20"),
        "snr": Kind(of_radius(SNR), "snr:30"),
        "masked": Kind(Masked.parse, "masked:0"),
        "spatial": Kind(lambda text: parse_moved(Spatial, text), "spatial:30,3"),
        "timing": Kind(lambda text: parse_moved(Timing, text), "timing:160,0.05"),
        "sticker": Kind(Sticker.parse, "sticker:8x8+10+12"),
        "patch": Kind(Patch.parse, "patch:8x8"),
        "feature": Kind(Feature.parse, "feature:0.5:package.file:function"),
    }


def parse_share(spec: str, part: str) -> tuple[float, Bound]:
    """A part of a mix: its weight and its bound."""
    bound, at, weight = part.rpartition("@")
    try:
        return parse_number(weight if at else ""), parse_bound(bound)
    except (ValueError, ZeroDivisionError):
        raise MalformedSpec(f"bound {spec!r}: {part!r} has no weight. Write for example linf:0.3@0.5_mix_l1:10@0.5") from None

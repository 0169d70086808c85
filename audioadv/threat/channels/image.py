"""The same for images: what a camera, a crop or a file does to them. Images are [rows, channels, height, width] in 0..1.

`drop` and `gaussian` are for sound too, [rows, time]."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.errors import MalformedSpec, UnusableBatch
from audioadv.threat.channels.channel import Backward, Channel, OneNumber, Play, Played, in_single
from audioadv.threat.channels.keys import Key, Numbers, Range, number, real
from audioadv.threat.channels.level import straight_through
from audioadv.threat.decimals import decimal
from audioadv.threat.projections import each
from audioadv.threat.warps import rotate


def warped(images: Tensor, matrices: Tensor) -> Tensor:
    """Each image seen through its own affine map, bilinear, black beyond the edge.

    Black begins where the outermost pixels end, half a pixel beyond their middles: what looks at no more than the image sees none.
    `matrices` take a place in the result (x, y in pixels from the middle, 1) to its place in the image.
    Shapes: images [rows, channels, height, width], matrices [rows, 2, 3] -> as images.
    """
    half = torch.tensor([images.shape[-1], images.shape[-2]]).to(images) / 2
    theta = matrices.to(images) * torch.cat([half, half.new_ones(1)]) / half[:, None]  # grid_sample counts the edges as -1 and 1
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    seen = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return seen * (grid.abs() <= 1).all(-1)[:, None]


@final
@dataclass(frozen=True)
class Rotate(Channel):
    """Turned counterclockwise by so many degrees about the middle, then moved by up to `pixels` along each axis (`warps.rotate`)."""

    NAME: ClassVar[str] = "rotate"
    EXAMPLE: ClassVar[str] = "rotate:-30..30 or rotate:-30..30@3 (and up to 3 pixels of translation)"
    degrees: Range
    pixels: float = 0.0

    def __init__(self, degrees: Numbers, pixels: float = 0.0) -> None:
        object.__setattr__(self, "degrees", Range.of(degrees, self.EXAMPLE).within(-360, 360, "degrees", "rotate"))
        object.__setattr__(self, "pixels", real(pixels, self.EXAMPLE))
        if not 0 <= self.pixels < math.inf:
            raise MalformedSpec(f"rotate by {pixels} pixels: give a number of at least 0, for example {self.EXAMPLE}")

    @classmethod
    def read(cls, text: str) -> Self:
        degrees, _, pixels = text.partition("@")
        return cls(Range.read(degrees), decimal(pixels or "0"))

    def __str__(self) -> str:
        return f"rotate:{self.degrees}" + (f"@{number(self.pixels)}" if self.pixels else "")

    @property
    def random(self) -> bool:
        return self.degrees.low < self.degrees.high or self.pixels > 0

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        generators, side = [key.generator() for key in keys], Range(-self.pixels, self.pixels)
        moves = torch.stack([self.degrees.draw(generators).deg2rad(), side.draw(generators), side.draw(generators)], dim=1)

        @in_single
        def play(images: Tensor, lengths: Tensor | None) -> Played:
            return rotate(images, moves.to(images)), lengths

        return play


@final
@dataclass(frozen=True, init=False)
class Crop(OneNumber):
    """A part of the image, `share` of each side, from anywhere in it, and that enlarged to the old size (bilinear).

    With a share above 1 the whole image, so many times smaller, lies anywhere on black (Xie et al. 2018, "Mitigating adversarial
    effects through randomization").
    """

    NAME: ClassVar[str] = "crop"
    EXAMPLE: ClassVar[str] = "crop:0.9, crop:0.8..1 or crop:1..1.3"
    LIMITS: ClassVar = (0.05, 20, "of each side")

    @property
    def random(self) -> bool:
        return self.range != Range(1, 1)

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        generators = [key.generator() for key in keys]
        share, x, y = self.range.draw(generators), Range(-0.5, 0.5).draw(generators), Range(-0.5, 0.5).draw(generators)
        none = torch.zeros_like(share)

        @in_single
        def play(images: Tensor, lengths: Tensor | None) -> Played:
            height, width = images.shape[-2:]
            rows = [share, none, (1 - share) * x * width, none, share, (1 - share) * y * height]
            return warped(images, torch.stack(rows, dim=1).reshape(-1, 2, 3)), lengths

        return play


@final
@dataclass(frozen=True, init=False)
class Jpeg(OneNumber):
    """Written as JPEG of a quality from 1 to 100 (Pillow) and read back. Backward: the identity."""

    NAME: ClassVar[str] = "jpeg"
    EXAMPLE: ClassVar[str] = "jpeg:75 or jpeg:50..95"
    LIMITS: ClassVar = (1, 100, "")

    @property
    def backward(self) -> Backward:
        return "BPDA"

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        qualities = self.range.draw([key.generator() for key in keys]).round().int().tolist()

        def play(images: Tensor, lengths: Tensor | None) -> Played:
            back = torch.stack([through_jpeg(image, quality) for image, quality in zip(images.detach(), qualities, strict=True)])
            return straight_through(images, back), lengths

        return play


def through_jpeg(image: Tensor, quality: int) -> Tensor:
    """One image as JPEG and back. Shapes: [1 or 3, height, width] in 0..1 -> the same. Raises UnusableBatch for other channels."""
    from PIL import Image

    if image.shape[0] not in (1, 3):
        raise UnusableBatch(f"images of {image.shape[0]} channels: JPEG has grey ones, of 1, and coloured ones, of 3. Give one of these")
    pixels = (image.cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(content, "JPEG", quality=quality)
    back = np.array(Image.open(content), dtype=np.float32) / 255
    return torch.from_numpy(back).reshape(pixels.shape).permute(2, 0, 1).to(image)


@final
@dataclass(frozen=True, init=False)
class Drop(OneNumber):
    """Pixels or samples that are lost, each by itself, all colours at once; what is lost is black, or silent."""

    NAME: ClassVar[str] = "drop"
    EXAMPLE: ClassVar[str] = "drop:0.1 or drop:0..0.3"
    LIMITS: ClassVar = (0, 1, "of the pixels or samples")

    @property
    def random(self) -> bool:
        return self.range.high > 0 and self.range.low < 1

    def unfit(self, length: int, sample_rate: int) -> str | None:
        return f"{self}: nothing of the clip arrives. Lose less" if self.range.low >= 1 else None

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        shares = self.range.draw([key.generator() for key in keys])

        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            luck = drawn(torch.rand, keys, inputs[:, :1] if inputs.ndim > 2 else inputs, lengths)
            return inputs * (luck >= each(shares, luck)).to(inputs), lengths

        return play


@final
@dataclass(frozen=True, init=False)
class Gaussian(OneNumber):
    """Gaussian noise of this standard deviation in every pixel or sample (full scale = 1); nothing is clipped."""

    NAME: ClassVar[str] = "gaussian"
    EXAMPLE: ClassVar[str] = "gaussian:0.05 or gaussian:0..0.1"
    LIMITS: ClassVar = (0, 10, "of full scale")

    @property
    def random(self) -> bool:
        return self.range.high > 0

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        deviations = self.range.draw([key.generator() for key in keys])

        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            noise = drawn(torch.randn, keys, inputs, lengths)
            return inputs + (each(deviations, noise) * noise).to(inputs), lengths

        return play


def drawn(kind: Callable[..., Tensor], keys: Sequence[Key], like: Tensor, lengths: Tensor | None) -> Tensor:
    """Each key's own numbers, `kind` of them (torch.rand, torch.randn), on the CPU; zero beyond a clip's length.

    A clip's numbers hang on its length, not on how far it is padded. Shapes: like [rows, *], lengths [rows] -> as like.
    """
    if lengths is None:
        return torch.stack([kind(like.shape[1:], generator=key.part(0).generator()) for key in keys])
    numbers = torch.zeros(like.shape)
    for row, key, length in zip(numbers, keys, lengths.tolist(), strict=True):
        row[..., :length] = kind((*like.shape[1:-1], length), generator=key.part(0).generator())
    return numbers

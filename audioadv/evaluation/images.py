"""Labelled images, as float32 [count, channels, height, width] in 0..1.

digits()                scikit-learn's 1,797 digits of 8 x 8: embedded, always there
mnist(FOLDER)           the four original idx files, gzipped or not
cifar10(FOLDER)         .npz files with `jpeg` (all files end to end), `offset` and `label`
image_folder(FOLDER)    one folder a class, all images of one size
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple, final
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from audioadv.errors import InputError, OptionError
from audioadv.options import check_count

STEMS: Final = {"train": "train", "test": "t10k"}
SUFFIXES: Final = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
FAULTS: Final = (OSError, ValueError, EOFError, LookupError, SyntaxError, BadZipFile, zlib.error)
"""What a file that is broken, or none of its kind, can lead to on being read."""


@final
class Images(NamedTuple):
    """Shapes: images [count, channels, height, width] in 0..1, labels int64 [count]; `classes` names each label."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def first(self, count: int) -> "Images":
        """The first `count` of them."""
        return Images(self.images[:count], self.labels[:count], self.classes)


def digits() -> Images:
    """Scikit-learn's digits: 1,797 of 8 x 8, 16 grey levels.

    >>> digits().images.shape, float(digits().images.max())
    (torch.Size([1797, 1, 8, 8]), 1.0)
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    return Images(torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target), tuple("0123456789"))


def mnist(folder: Path | str, part: str = "test") -> Images:
    """MNIST from its original files: 60,000 in `train`, 10,000 in `test`, of 28 x 28. Raises InputError, OptionError for another part."""
    check_part("mnist", part)
    pixels, labels = (read_idx(Path(folder), f"{STEMS[part]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    return Images(pixels[:, None].float() / 255, labels.long(), tuple("0123456789"))


def check_part(who: str, part: str) -> None:
    """Raises OptionError for what is neither of the two."""
    if part not in STEMS:
        raise OptionError(f"{who}: part {part!r}: there is none. Use {' or '.join(STEMS)}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises InputError where what is read within turns out to be broken."""
    try:
        yield
    except FAULTS as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error}). Fetch it anew, or leave it out") from error


def read_idx(folder: Path, name: str) -> Tensor:
    """One idx file of bytes. The format: two zero bytes, type 8, the number of axes, each axis' size in four bytes, the data."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            with reading(path):
                data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
                if data[:3] != b"\0\0\x08":
                    raise InputError(f"{path}: not an idx file of bytes. Take MNIST's original files")
                shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
                return torch.tensor(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape))
    raise InputError(f"{folder / name}: missing, with .gz too. Put MNIST's four original files into {folder}")


def cifar10(folder: Path | str, part: str = "test", count: int | None = None) -> Images:
    """CIFAR-10 kept as JPEG files within .npz: 50,000 in `train`, 10,000 in `test`, of 32 x 32; the first `count`.

    The loss of JPEG changes figures a little: call the data "CIFAR-10 (JPEG)". Raises InputError, and OptionError for another part or no
    count.
    """
    check_part("cifar10", part)
    if count is not None:
        check_count("cifar10: count", count)
    files = sorted(Path(folder).glob(f"{part}*.npz"))
    if not files:
        raise InputError(f"{folder}: no {part}*.npz there. Give the folder that holds them")
    images, labels = list[Tensor](), list[Tensor]()
    for file in files:
        with reading(file), file.open("rb") as opened, np.load(opened) as data:
            stream, ends = data["jpeg"].tobytes(), data["offset"].tolist()
            images += [
                read_image(io.BytesIO(stream[a:b]))
                for a, b in islice(pairwise(ends), None if count is None else max(count - len(images), 0))
            ]
            labels.append(torch.tensor(data["label"].astype(np.int64)))
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return Images(torch.stack(images), torch.cat(labels)[: len(images)], names)


def read_image(source: Path | io.BytesIO) -> Tensor:
    """One picture in colour, or in grey where it has none. Shapes: -> [channels, height, width] in 0..1.

    Raises ValueError for numbers whose white is not known.
    """
    from PIL import Image

    with Image.open(source) as picture:
        deep, known = picture.mode[0] in "IF", picture.mode in ("L", "RGB")  # grey of 16 bits, which convert would cut off at 255
        pixels = np.array(picture if deep or known else picture.convert("RGB"))
    white = 65535 if deep else 255
    if picture.mode == "F" or not 0 <= pixels.min() <= pixels.max() <= white:
        raise ValueError(f"mode {picture.mode}: which number is white is not known")
    return torch.tensor(pixels.reshape(*pixels.shape[:2], -1).astype(np.float32)).permute(2, 0, 1) / white


def image_folder(folder: Path | str) -> Images:
    """A folder with one folder a class, sorted by name. Raises InputError for none, broken ones, or images of unequal shapes."""
    classes = sorted(path for path in Path(folder).glob("*") if path.is_dir())
    found = [(file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(
            f"{folder}: no images. Give a folder that holds one folder for each class, with {', '.join(sorted(SUFFIXES))} in it"
        )
    images = list[Tensor]()
    for file, _ in found:
        with reading(file):
            images.append(image := read_image(file))
        if image.shape != images[0].shape:
            raise InputError(
                f"{file}: shape {tuple(image.shape)}, but {found[0][0]} has {tuple(images[0].shape)}. Bring all images to one size first"
            )
    return Images(torch.stack(images), torch.tensor([label for _, label in found]), tuple(path.name for path in classes))

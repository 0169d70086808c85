"""Labelled images, as float32 [count, channels, height, width] in 0..1.

digits()                scikit-learn's 1,797 digits of 8 x 8: embedded, always there
mnist(FOLDER)           the four original idx files, gzipped or not
cifar10(FOLDER)         .npz files with `jpeg` (all files end to end), `offset` and `label`
image_folder(FOLDER)    one folder a class, all images of one size
"""

import gzip
import io
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from audioadv.errors import InputError


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
    """MNIST from its original files: 60,000 in `train`, 10,000 in `test`, of 28 x 28. Raises InputError."""
    stem = {"train": "train", "test": "t10k"}[part]
    pixels, labels = (read_idx(Path(folder), f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    return Images(pixels[:, None].float() / 255, labels.long(), tuple("0123456789"))


def read_idx(folder: Path, name: str) -> Tensor:
    """One idx file of bytes. The format: two zero bytes, type 8, the number of axes, each axis' size in four bytes, the data."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            if data[:3] != b"\0\0\x08":
                raise InputError(f"{path}: not an idx file of bytes. Take MNIST's original files")
            shape = np.frombuffer(data, ">i4", count=data[3], offset=4)
            return torch.tensor(np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape))
    raise InputError(f"{folder / name}: missing, with .gz too. Put MNIST's four original files into {folder}")


def cifar10(folder: Path | str, part: str = "test", count: int | None = None) -> Images:
    """CIFAR-10 kept as JPEG files within .npz: 50,000 in `train`, 10,000 in `test`, of 32 x 32; the first `count`. Raises InputError.

    The loss of JPEG changes figures a little: call the data "CIFAR-10 (JPEG)".
    """
    files = sorted(Path(folder).glob(f"{part}*.npz"))
    if not files:
        raise InputError(f"{folder}: no {part}*.npz there. Give the folder that holds them")
    images, labels = list[Tensor](), list[Tensor]()
    for file in files:
        with np.load(file) as data:
            stream, ends = data["jpeg"].tobytes(), data["offset"].tolist()
            images += [
                read_image(io.BytesIO(stream[a:b]))
                for a, b in islice(pairwise(ends), None if count is None else max(count - len(images), 0))
            ]
            labels.append(torch.tensor(data["label"].astype(np.int64)))
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    return Images(torch.stack(images), torch.cat(labels)[: len(images)], names)


def read_image(source: Path | io.BytesIO) -> Tensor:
    """One picture in colour, or in grey where it has none. Shapes: -> [channels, height, width] in 0..1."""
    from PIL import Image

    with Image.open(source) as picture:
        pixels = np.array(picture if picture.mode in ("L", "RGB") else picture.convert("RGB"))
    return torch.tensor(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).float() / 255


def image_folder(folder: Path | str) -> Images:
    """A folder with one folder a class, sorted by name. Raises InputError for none, or images of unequal shapes."""
    classes = sorted(path for path in Path(folder).glob("*") if path.is_dir())
    found = [(file, label) for label, path in enumerate(classes) for file in sorted(path.iterdir()) if file.suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(
            f"{folder}: no images. Give a folder that holds one folder for each class, with {', '.join(sorted(SUFFIXES))} in it"
        )
    images = [read_image(file) for file, _ in found]
    for image, (file, _) in zip(images, found, strict=True):
        if image.shape != images[0].shape:
            raise InputError(
                f"{file}: shape {tuple(image.shape)}, but {found[0][0]} has {tuple(images[0].shape)}. Bring all images to one size first"
            )
    return Images(torch.stack(images), torch.tensor([label for _, label in found]), tuple(path.name for path in classes))


SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}

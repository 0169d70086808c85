"""Labelled images: the embedded digits always; MNIST and CIFAR-10 where their files are."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from audioadv.attacks import fgsm, find_then_shrink
from audioadv.attacks.objective import objective
from audioadv.errors import InputError, OptionError
from audioadv.evaluation.images import cifar10, digits, image_folder, mnist
from audioadv.models.classifier import load_classifier
from audioadv.threat.bounds import MIN, Linf
from audioadv.threat.labels import Misclassify

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data"
NEEDS_DATA = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data at {DATA}")


def test_digits_are_there() -> None:
    images, labels, classes = digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1
    assert labels.unique().tolist() == list(range(len(classes)))


@NEEDS_DATA
def test_mnist_and_the_bundled_nets() -> None:
    test = mnist(DATA / "mnist").first(300)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert test.images.shape == (300, 1, 28, 28)
    assert test.images.max() == 1
    for name in ("mnist", "mnist-robust"):
        net = load_classifier(name)
        assert (net(test.images).argmax(1) == test.labels).float().mean() > 0.96


@NEEDS_DATA
def test_a_net_of_thresholds_is_brought_down_all_the_same() -> None:
    """Adversarial training teaches them: most entries have hardly any slope, and a search along it goes to few others for ever."""
    test, net = mnist(DATA / "mnist").first(30), load_classifier("mnist-robust")
    found = find_then_shrink(objective(net, Misclassify(test.labels)), Linf(MIN).around(test.images), steps=200)
    assert all(found.reached)
    assert 0.3 < found.gauge.median() < 0.4


@NEEDS_DATA
def test_cifar10() -> None:
    test = cifar10(DATA / "cifar10", count=200)
    assert test.images.shape == (200, 3, 32, 32)
    assert test.labels.unique().tolist() == list(range(10))
    assert 0.4 < test.images[:100].mean() < 0.55
    net = load_classifier("cifar10-robust")
    assert (net(test.images).argmax(1) == test.labels).float().mean() > 0.5
    felled = fgsm(objective(net, Misclassify(test.labels)), Linf(8 / 255).around(test.images)).reached
    assert 0.55 < sum(felled) / 200 < 0.8  # those that were read wrongly from the start among them


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    from PIL import Image

    for name, level in (("cat", 0), ("ant", 255)):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.fromarray(np.full((4, 6, 3), level, np.uint8)).save(tmp_path / name / f"{number}.png")
    images, labels, classes = image_folder(tmp_path)
    assert classes == ("ant", "cat")
    assert labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(images, torch.tensor([1.0, 1.0, 0.0, 0.0]).reshape(4, 1, 1, 1).expand(4, 3, 4, 6))
    Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(tmp_path / "cat/9.png")
    with pytest.raises(InputError, match="one size"):
        image_folder(tmp_path)


@pytest.mark.parametrize(("kind", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_of_eight_and_of_sixteen_bits(kind: type, white: int, tmp_path: Path) -> None:
    from PIL import Image

    levels = np.array([[0, white // 5], [white // 2, white]], kind)
    (tmp_path / "one").mkdir()
    Image.fromarray(levels).save(tmp_path / "one/grey.png")
    images = image_folder(tmp_path).images
    assert torch.equal(images[0, 0], torch.tensor(levels.astype(np.float32)) / white)


def png() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def tiff(levels: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(levels).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("one/0.png", b"no picture", image_folder),
        ("one/0.png", png()[:1000], image_folder),
        ("one/0.png", tiff(np.ones((2, 2), np.float32)), image_folder),
        ("one/0.png", tiff(np.full((2, 2), 70000, np.int32)), image_folder),
        ("t10k-images-idx3-ubyte", b"\0\0\x08", mnist),
        ("t10k-images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\x01\0\0\0\x02\0\0\0\x02abc", mnist),
        ("t10k-images-idx3-ubyte.gz", b"no gzip", mnist),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(bytes(1000))[:20], mnist),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(bytes(1000))[:12] + b"\xff" * 20, mnist),
        ("test.npz", b"no zip", cifar10),
        ("test.npz", b"PK\x03\x04 and no more", cifar10),
    ],
    ids=["no picture", "cut", "float", "deep", "no axes", "short", "no gzip", "half a gzip", "spoilt gzip", "no zip", "half a zip"],
)
def test_what_is_broken_is_named(name: str, content: bytes, read: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: cannot be read"):
        read(tmp_path)


def test_npz_files_that_hold_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", pixels=np.zeros(3))
    with pytest.raises(InputError, match=r"test.npz: cannot be read .*jpeg"):
        cifar10(tmp_path)
    np.savez(tmp_path / "test.npz", jpeg=np.zeros(9, np.uint8), offset=np.array([0, 9]), label=np.zeros(1))
    with pytest.raises(InputError, match=r"test.npz: cannot be read"):
        cifar10(tmp_path)


def test_parts_and_counts_that_there_are_none_of(tmp_path: Path) -> None:
    for read in (mnist, cifar10):
        with pytest.raises(OptionError, match=rf"{read.__name__}: part 'valid'.*train or test"):
            read(tmp_path, "valid")
    for count in (0, -1, 1.5):
        with pytest.raises(OptionError, match=f"count {count}"):
            cifar10(tmp_path, count=count)  # type: ignore[arg-type]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="t10k-images"):
        mnist(tmp_path)
    with pytest.raises(InputError, match="npz"):
        cifar10(tmp_path)
    with pytest.raises(InputError, match="one folder for each class"):
        image_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x0d\x01\0\0\0\0")
    with pytest.raises(InputError, match="not an idx file of bytes"):
        mnist(tmp_path)

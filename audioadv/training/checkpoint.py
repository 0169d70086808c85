"""Checkpoints: the whole state of a training in one file, written whole or not at all. No pickle is ever loaded."""

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from audioadv.audio.whole import write_whole
from audioadv.defenses.learning import net_of
from audioadv.errors import OptionError, UnusableCheckpoint

Model = TypeVar("Model", bound=Callable[..., Any])

LATER: Final = ("layers", "optimiser", "schedules", "watch", "set of learning parameters")
"""What checkpoints did not tell at first: those that do not are judged by the rest."""
FAULTS: Final = (
    UnpicklingError,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a file that is no checkpoint can lead to on being read."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors, numbers and texts, in lists and dictionaries. Raises UnwritableOutput."""
    write_whole(path, lambda file: torch.save(state, file), sole=True)


def write_text(path: Path, text: str) -> None:
    """Write a text. Raises UnwritableOutput."""
    write_whole(path, text.encode(), sole=True)


def write_weights(net: nn.Module, path: Path) -> None:
    """Write the weights as safetensors, each under all its names. Raises UnwritableOutput."""
    tensors, known = dict[str, Tensor](), set[int]()
    for name, value in net.state_dict().items():
        own = value.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if place in known else own  # safetensors takes no memory twice
        known.add(place)
    write_whole(path, as_bytes(tensors), sole=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises UnusableCheckpoint where what is read within turns out to be no checkpoint."""
    try:
        yield
    except FAULTS as error:
        raise UnusableCheckpoint(
            f"{path}: no checkpoint of a training ({type(error).__name__}). Delete it, or give another folder"
        ) from error


def load(path: Path, device: torch.device, described: dict[str, str]) -> dict[str, Any]:
    """A state that `save` wrote of the training so `described`. Raises UnusableCheckpoint for any other; to be called in `reading`."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    before = json.loads(state["described"])
    for what, told in described.items():
        there, now = by_value(before.get(what, told if what in LATER else None)), by_value(told)
        if there != now:
            apart = len(os.path.commonprefix([there, now]))
            raise UnusableCheckpoint(
                f"{path}: a checkpoint of another {what}: {around(there, apart)} there, {around(now, apart)} here. "
                "Delete it, or give another folder"
            )
    return state


def by_value(text: str) -> str:
    """A text in which equal numbers are written alike: options that are equal describe one training.

    >>> by_value("Linf(radius=13.0), 0.05, 2.0.weight")
    'Linf(radius=13), 0.05, 2.0.weight'
    """
    return re.sub(r"(?<![\w.])(\d+)\.0(?![\w.])", r"\1", text)


def around(text: str, place: int, width: int = 60) -> str:
    """A text, or of a long one what stands around this place.

    >>> around("Linear, ReLU, Linear", 8, width=4)
    '...ar, ReLU...'
    """
    if len(text) <= 2 * width:
        return text
    first = max(0, place - width)
    return f"{'...' if first else ''}{text[first : place + width]}{'...' if place + width < len(text) else ''}"


def forms(net: nn.Module) -> str:
    """What tells one net from another: the names and shapes of its tensors."""
    return ", ".join(f"{name} {'x'.join(map(str, tensor.shape)) or '1'}" for name, tensor in net.state_dict().items())


def name_of(part: Any) -> str:
    """A function or class with the options filled in, the same text in every process."""
    if isinstance(part, partial):
        options = [*map(repr, part.args), *(f"{name}={value!r}" for name, value in part.keywords.items())]
        return f"{name_of(part.func)}({', '.join(options)})"
    return getattr(part, "__qualname__", type(part).__qualname__)


def start_from(net: Model, path: Path, new: tuple[str, ...] = ()) -> Model:
    """The net, or what wraps it, with another training's weights, to be trained on: adversarial pretraining, then fine-tuning.

    Tensors whose names begin with one of `new` (the last layer, where the classes are others) stay as they are; all others
    must be there in the same shape. Returns the net. Raises UnusableCheckpoint for weights of another model, OptionError for a name in
    `new` that nothing begins with, UnusableBatch for what is no net.
    Source: Hendrycks, Lee and Mazeika 2019, "Using pre-training can improve model robustness and uncertainty".
    """
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UnusableCheckpoint(f"{path}: no weights ({error}). Give a .safetensors file") from error
    inner = net_of(net)
    own = inner.state_dict()
    for start in new:
        if not any(name.startswith(start) for name in (*own, *weights)):
            raise OptionError(f"new {start!r}: no tensor of the net begins so. It has {', '.join([*own][:8])} ...")
    for name in dict.fromkeys([*own, *weights]):
        there, here = (tuple(tensors[name].shape) if name in tensors else None for tensors in (weights, own))
        if there != here and not name.startswith(new or "\0"):
            raise UnusableCheckpoint(
                f"{path}: weights of another model: {name} is {there or 'missing'} there, {here or 'missing'} here. "
                "Build the net that they are of, or say which of its layers are to be learnt anew: new=('head',)"
            )
    kept = {name: weights[name].to(value) for name, value in own.items() if not name.startswith(new or "\0")}
    inner.load_state_dict(kept, strict=False)
    return net

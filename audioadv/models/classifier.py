"""A classifier as attacks meet it. Any module that maps inputs to scores is one; the wrapper adds what a module cannot say."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from audioadv.errors import OptionError, UnknownModel, UnusableBatch
from audioadv.models.access import Access, as_access, granted
from audioadv.models.rest import as_device
from audioadv.models.tiny_cifar import TinyCifar
from audioadv.models.tiny_m5 import TinyM5
from audioadv.models.tiny_mnist import TinyMnist

WEIGHTS = Path(__file__).parent / "weights"
BUNDLED = {
    "mnist": "a small convolutional net, trained naturally; bundled",
    "mnist-robust": "the same, adversarially trained in Linf 0.3; bundled",
    "cifar10-robust": "a small convolutional net for CIFAR-10, adversarially trained in Linf 8/255; bundled",
    "digits-spoken": "a small convolutional net for spoken digits, 1 s at 8 kHz; bundled",
    "speakers": "the same for who speaks them, of four; bundled",
}
NETS: dict[str, Callable[[], nn.Module]] = {
    "cifar10-robust": TinyCifar,
    "digits-spoken": partial(TinyM5, 10),
    "speakers": partial(TinyM5, 4),
}
RATES = {"digits-spoken": 8000, "speakers": 8000}


@final
@dataclass(frozen=True, eq=False)
class Classifier:
    """A net with its name, its access, and the normalisation that it was trained with.

    `mean` and `std` are one number a channel (axis 1), one for all, or none: inputs stay in 0..1 for every bound, and the net gets
    what it knows. Scores are logits or log-probabilities. `sample_rate` (Hz) is that of a classifier of sounds.
    Raises OptionError for numbers that normalise nothing and for an access that there is none of, UnusableBatch for inputs of other
    channels.

    >>> Classifier(torch.nn.Flatten(), mean=(0.5,), std=(0.25,))(torch.ones(1, 1, 2))
    tensor([[2., 2.]])
    """

    net: Callable[[Tensor], Tensor]
    name: str = "classifier"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    access: Access = Access.GRADIENTS
    sample_rate: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "access", as_access(self.access))
        for name in ("mean", "std"):
            object.__setattr__(self, name, numbers(name, getattr(self, name)))
        if not all(map(math.isfinite, self.mean)) or not all(0 < spread < math.inf for spread in self.std):
            raise OptionError(f"mean {self.mean}, std {self.std}: give finite means, and spreads above 0, as the net was trained with")

    def __call__(self, inputs: Tensor) -> Tensor:
        """Shapes: [batch, channels, *] -> scores [batch, classes]."""
        if self.mean or self.std:
            if wrong := {len(numbers) for numbers in (self.mean, self.std)} - {0, 1, inputs.shape[1]}:
                raise UnusableBatch(
                    f"{self.name}: normalises {wrong.pop()} channels, but inputs of shape {list(inputs.shape)} have {inputs.shape[1]}. "
                    "Give one number for each channel, or one for all"
                )
            shape = (-1, *[1] * (inputs.ndim - 2))
            inputs = (inputs - inputs.new_tensor(self.mean or (0.0,)).reshape(shape)) / inputs.new_tensor(self.std or (1.0,)).reshape(shape)
        return self.net(inputs)

    def granting(self, access: Access) -> "Classifier":
        """The same classifier, seen by an attacker with this much access."""
        return replace(self, access=access)


def numbers(name: str, given: Any) -> tuple[float, ...]:
    """One number or several, of whatever collection. Raises OptionError.

    >>> numbers("mean", 0.5), numbers("std", torch.tensor([0.25, 0.5]))
    ((0.5,), (0.25, 0.5))
    """
    try:
        return tuple(map(float, given if isinstance(given, Iterable) else (given,)))
    except (TypeError, ValueError):
        raise OptionError(f"{name} {given!r:.60}: give a number for each channel, or one for all") from None


def granting(model: Callable[..., Any], access: Access) -> Any:
    """The model with this much access; one that knows nothing of access becomes a Classifier where that is not everything."""
    if granted(model) is access:
        return model
    return model.granting(access) if hasattr(model, "granting") else Classifier(model, type(model).__name__, access=access)


def load_classifier(name: str, device: str | torch.device = "cpu") -> Classifier:
    """A bundled classifier, in evaluation mode, its parameters frozen. Raises UnknownModel, OptionError for a device that is not here."""
    if name not in BUNDLED:
        raise UnknownModel(f"classifier {name!r}: unknown. Use {', '.join(BUNDLED)}, or your own: any module is a classifier")
    device, net = as_device(device), NETS.get(name, TinyMnist)()
    net.load_state_dict({key: value.float() for key, value in load_file(WEIGHTS / f"{name}.safetensors").items()})
    return Classifier(net.eval().requires_grad_(False).to(device), name, sample_rate=RATES.get(name))

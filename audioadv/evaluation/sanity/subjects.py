"""What is attacked where an evaluation is checked and only a model was named: inputs that it gets right, and a bound that suits them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.evaluation.images import digits
from audioadv.threat.bounds import parse_bound
from audioadv.threat.region import Region

IMAGES = 12


@torch.no_grad()
def right_digits(net: Callable[[Tensor], Tensor], device: str) -> tuple[Tensor, Tensor]:
    """Some digits, as large as MNIST's, that the net gets right, and their labels. Shapes: -> [some, 1, 28, 28], int64 [some]."""
    data = digits().first(5 * IMAGES)
    images = F.interpolate(data.images, 28, mode="bilinear")
    right = (net(images.to(device)).argmax(1).cpu() == data.labels).nonzero()[:IMAGES, 0]
    return images[right], data.labels[right]


def around_any(inputs: Tensor, spec: str | None) -> Region:
    """What may be changed, of sounds in -1..1 within `snr:20`, of images in 0..1 within `linf:0.1`, if no spec says otherwise.

    Rows of numbers are sounds, and so is what goes below zero. Shapes: inputs [batch, *].
    """
    sounds = inputs.ndim == 2 or bool((inputs < 0).any())
    return parse_bound(spec or ("snr:20" if sounds else "linf:0.1")).around(inputs, box=(-1.0, 1.0) if sounds else (0.0, 1.0))

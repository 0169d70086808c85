"""Purification: a small net that takes noise away, in front of the model. As a channel, it chains with any other.

    denoiser = Denoiser(axes=2);  learn_to_denoise(denoiser, images, Gaussian(0.3));  defend(net, Purify(denoiser))

Sources: Gu and Rigazio 2015, "Towards deep neural network architectures robust to adversarial examples" (denoising autoencoders);
Meng and Chen 2017, "MagNet"; that it falls, Carlini and Wagner 2017, "MagNet and 'Efficient defenses against
adversarial attacks' are not robust to adversarial examples".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.defenses.learning import check_lesson, learners, learning, rejoined, step_down
from audioadv.defenses.statement import stated
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.rest import fitting, seeded
from audioadv.threat.channels.channel import Backward, Channel, Play, Played, all_of
from audioadv.threat.channels.keys import Key
from audioadv.threat.channels.specs import as_channel


@final
class Denoiser(nn.Module):
    """A convolutional autoencoder that says what to change: half the size and back, by as many `width` filters as given.

    `axes` is 1 for sound, [batch, time], and 2 for images, [batch, channels, height, width] in 0..1. What it has not learnt to
    change it leaves: it begins as the identity. Shapes: as they come. Raises OptionError.
    """

    def __init__(self, axes: int = 2, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        if axes not in (1, 2):
            raise OptionError(f"axes {axes}: a denoiser is for sound (1) or images (2)")
        self.axes = axes
        conv, back = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d))[axes - 1]
        last = back(width, channels, 4, stride=2, padding=1)
        self.change = nn.Sequential(
            conv(channels, width, 3, padding=1), nn.ReLU(),
            conv(width, width, 4, stride=2, padding=1), nn.ReLU(),
            conv(width, width, 3, padding=1), nn.ReLU(),
            last,
        )  # fmt: skip
        for parameter in last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """Shapes: as they come; any size."""
        x = inputs[:, None] if self.axes == 1 else inputs
        odd = [side for size in reversed(x.shape[2:]) for side in (0, size % 2)]
        change = self.change(F.pad(x, odd))[tuple(slice(size) for size in (None, None, *x.shape[2:]))]
        return (x + change).reshape(inputs.shape)


@final
@dataclass(frozen=True, eq=False)
class Purify(Channel):
    """What a denoiser makes of the input; `name` is all that its spec says. Its slope is that of its module: it is one more net.

    Any module that keeps the shape will do; each sound meets it without padding, as if alone. Raises UnusableBatch otherwise.
    """

    module: nn.Module
    name: str = "denoiser"

    @property
    def backward(self) -> Backward:
        return "exact" if stated(self.module).backward == "exact" else "BPDA"

    @property
    def random(self) -> bool:
        return stated(self.module).random

    def __str__(self) -> str:
        return self.name

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        def play(inputs: Tensor, lengths: Tensor | None) -> Played:
            if inputs.ndim != 2:
                return self.clean(inputs), lengths
            lengths = all_of(inputs) if lengths is None else lengths
            clean = torch.zeros_like(inputs)
            for end in sorted(set(lengths.tolist())):  # biases fill the padding, and what lies there flows back from layer to layer
                rows = (lengths == end).nonzero()[:, 0]
                clean[rows, :end] = self.clean(inputs[rows, :end]).to(inputs)
            return clean, lengths

        return play

    def clean(self, inputs: Tensor) -> Tensor:
        """What the module makes of inputs without padding. Shapes: as they come."""
        clean: Tensor = self.module(inputs)
        if clean.shape != inputs.shape:
            raise UnusableBatch(f"{self.name} gives {list(clean.shape)} for {list(inputs.shape)}. A denoiser keeps the shape")
        return clean


def learn_to_denoise(
    denoiser: nn.Module, clean: Tensor, noise: Channel | str, *, passes: int = 2, batch: int = 128, sample_rate: int = 16000, seed: int = 0
) -> float:
    """Train a denoiser in place to undo `noise` (or its spec), by Adam on the mean square of what is left; the last pass' mean comes back.

    All draws belong to `seed`, those of the denoiser's own layers too. Shapes: clean [count, time] or [count, channels, height, width].
    Raises OptionError for no passes, or none at a time, UnusableBatch for nothing to learn from, or nothing that learns,
    TrainingDiverged for a loss that is no finite number.
    """
    check_lesson(clean, passes, batch)
    noise = as_channel(noise)
    generator, optimiser, left = torch.Generator().manual_seed(int(seed)), torch.optim.Adam(learners(denoiser), lr=2e-3), 0.0
    with learning(), seeded(seed, clean.device):
        denoiser.train()
        for number in range(passes):
            left = 0.0
            for rows in rejoined(torch.split(torch.randperm(len(clean), generator=generator), batch)):
                some = clean[rows.to(clean.device)]
                spoilt, _ = noise.draw([Key(seed, row, number) for row in rows.tolist()], sample_rate)(some, None)
                with fitting(denoiser, spoilt):
                    loss = F.mse_loss(denoiser(spoilt), some)
                left += step_down(optimiser, loss) * len(rows) / len(clean)
        denoiser.eval()
    return left

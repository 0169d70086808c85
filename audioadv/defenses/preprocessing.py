"""Preprocessing as a defense: everything that a channel can do to an input, the defender can do too.

    inputs, lengths  --channel, drawn by the defender-->  inputs, lengths  --the model as it was-->  outputs

    defend(model, "resample:8000_then_median:5")     sound           defend(net, "crop:0.8..1_then_jpeg:75")     images

What the channel's backward pass is, and whether it is random, the defense states. The attacker who knows it draws from the same
channel by his own keys, and averages: for a recogniser, that is craft(undefended(model), ..., channel=the defender's). The
defender's draws are nobody's to choose.

Sources: Guo et al. 2018, "Countering adversarial images using input transformations"; Xu, Evans and Qi 2018, "Feature squeezing";
for sound, Yang et al. 2019, "Characterizing audio adversarial examples using temporal dependency".
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn

from audioadv.audio.roomsets import Role
from audioadv.defenses.denoiser import Purify
from audioadv.defenses.statement import Statement, joined, stated
from audioadv.defenses.wrapped import Layer
from audioadv.errors import UnusableBatch
from audioadv.models.classifier import Classifier
from audioadv.models.recogniser import Recogniser, hears
from audioadv.models.rest import module_of
from audioadv.threat.channels.channel import Channel, parts
from audioadv.threat.channels.keys import Key
from audioadv.threat.channels.specs import as_channel, check_kind

Kind = TypeVar("Kind", bound=Callable[..., Any])


@final
class Through(Layer):
    """A model behind a channel that the defender owns. `defend` makes one and keeps the kind of model that was given.

    Each row of each forward gets a draw of its own: the n-th row that was ever asked about gets the n-th. So a random channel
    answers anew every time, and what it has answered so far can be repeated by making it again with the same `seed`. `asked` counts
    them; a training sets it for each batch. Sound is at `sample_rate` (Hz), the model's own where it says it, else 16,000.

    `model` is an nn.Module, a Classifier or a Recogniser (this is a net for one then), or any callable like them.
    """

    def __init__(self, model: Callable[..., Any], channel: Channel, *, seed: int = 0, sample_rate: int | None = None) -> None:
        super().__init__(model)
        self.channel, self.seed, self.asked = channel, seed, 0
        self.sample_rate: int = sample_rate or self.sample_rate or 16000
        held = [None if isinstance(model, nn.Module) else module_of(model), *(getattr(part, "module", None) for part in parts(channel))]
        self.held = nn.ModuleList([part for part in held if isinstance(part, nn.Module)])  # what attacks are to leave as it was

    def extra_repr(self) -> str:
        """What tells it from another before the same model."""
        return f"{self.channel}, seed {self.seed}, {self.sample_rate} Hz"

    @property
    def statement(self) -> Statement:
        """The channel's, that of the modules in it, and the model's own."""
        purifiers = [stated(part.module) for part in parts(self.channel) if isinstance(part, Purify)]
        return joined([Statement(self.channel.backward, random=self.channel.random), *purifiers, stated(self.model)])

    def around(self, model: Callable[..., Any]) -> "Through":
        """The same channel before another model, from the first draw."""
        return Through(model, self.channel, seed=self.seed, sample_rate=self.sample_rate)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Any:
        """Shapes: as the model's. Raises UnusableBatch for a channel that changes shapes or lengths without saying so."""
        heard, ends = self.preprocessed(inputs, lengths)
        model = self.model.net if isinstance(self.model, Recogniser) else self.model
        return model(*((heard,) if lengths is None else (heard, ends)))

    def preprocessed(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """What the model gets to hear or see, in the next draws. Shapes: inputs [batch, *], lengths [batch] -> the same kind."""
        check_kind(self.channel, inputs)
        keys = [Key(self.seed, 0, self.asked + row, Role.JUDGE) for row in range(len(inputs))]
        self.asked += len(inputs)
        if not keys:
            return inputs, lengths
        if lengths is not None:  # a channel that changes lengths pads to the longest clip only
            inputs = inputs[..., : int(lengths.max())]
        heard, ends = self.channel.draw(keys, self.sample_rate)(inputs, lengths)
        self.check(inputs, lengths, heard, ends)
        return heard, ends

    def check(self, inputs: Tensor, lengths: Tensor | None, heard: Tensor, ends: Tensor | None) -> None:
        """Raises UnusableBatch where what came out of the channel is not what it says."""
        fault = None
        if lengths is None:
            if heard.shape != inputs.shape:
                fault = f"gives {list(heard.shape)} for inputs of {list(inputs.shape)}, and this model takes no lengths. Keep the shape"
        elif ends is None or len(ends) != len(heard) or len(heard) != len(inputs):
            fault = f"gives {list(heard.shape)} without a length for each of {len(inputs)} clips. Return their lengths, in samples"
        elif int(ends.max()) > heard.shape[-1] or int(ends.min()) < 1:
            fault = f"says lengths of {ends.tolist()} samples, but gives {list(heard.shape)}. Return the new lengths with the new sound"
        elif heard.shape != inputs.shape and torch.equal(ends, lengths):
            fault = (
                f"gives {list(heard.shape)} for {list(inputs.shape)}, with the old lengths. Return the new ones, or come back to the rate"
            )
        if fault:
            raise UnusableBatch(f"defense {self.channel}: {fault}")


def defend(model: Kind, channel: Channel | str, *, seed: int = 0, sample_rate: int | None = None) -> Kind:
    """The same kind of model behind a channel (or its spec), which it draws for itself: a Recogniser, a Classifier or a module.

    Vocabulary, access and device stay; the name tells. A second defense comes before the first, as one channel. `sample_rate` (Hz) is
    that of the sound, where the model does not say its own. Raises MalformedSpec.

    >>> net = defend(nn.Flatten(), "depth:1")
    >>> net(torch.tensor([0.2, 0.6]).reshape(1, 1, 1, 2)).tolist(), str(stated(net))
    ([[0.0, 1.0]], 'backward pass: BPDA')
    """
    channel = as_channel(channel)
    if (layer := outermost(model)) is not None:
        access = getattr(model, "access", None)
        again = defend(layer.model, channel >> layer.channel, seed=seed, sample_rate=sample_rate or layer.sample_rate)
        return again.granting(access) if isinstance(again, Classifier | Recogniser) and access is not None else again  # type: ignore[return-value]
    net = Through(model, channel, seed=seed, sample_rate=sample_rate)
    if hears(model):
        return Recogniser(net, model.sample_rate, model.vocabulary, f"{model.name} behind {channel}", model.access)  # type: ignore[return-value]
    if isinstance(model, Classifier):  # the channel meets the inputs before they are normalised
        return replace(model, net=net, name=f"{model.name} behind {channel}", mean=(), std=())
    return net  # type: ignore[return-value]


def outermost(model: Callable[..., Any]) -> Through | None:
    """The channel that a model's inputs go through first, with all that is behind it; None where there is none, or where something
    else comes before it, such as a normalisation or the noise of smoothing."""
    net = model.net if isinstance(model, Recogniser) or (isinstance(model, Classifier) and not (model.mean or model.std)) else model
    return net if isinstance(net, Through) else None

"""What a detector gets to see of an input on its way through the model, and a common form for all of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from audioadv.audio.ragged import inside
from audioadv.defenses.smoothed_recogniser import SmoothedRecogniser
from audioadv.defenses.smoothing import Smoothed
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.recogniser import Emissions
from audioadv.models.rest import fitting

INPUTS, OUTPUTS = "inputs", "outputs"
"""Places to look at, beside the model's layers by their names."""
INSIDE = "Put the detector inside, around the model that is smoothed, or look at inputs or outputs"


@final
class Seen(NamedTuple):
    """One batch, as it went through. Shapes: inputs [batch, *], lengths [batch] in samples, layers [batch, *] each."""

    inputs: Tensor
    lengths: Tensor | None
    outputs: Any
    layers: dict[str, Tensor]


@final
class View(NamedTuple):
    """Features at places. Shapes: values [batch, features, *places], own bool [batch, *places] (what is no padding) or None."""

    values: Tensor
    own: Tensor | None

    def pooled(self) -> Tensor:
        """The mean over a row's own places. Shapes: -> [batch, features]."""
        return self.moment(1)

    def moment(self, power: int) -> Tensor:
        """The mean of a power over a row's own places. Shapes: -> [batch, features]."""
        values = self.values**power
        if self.own is None:
            return values.flatten(2).mean(2) if values.ndim > 2 else values
        weights = self.own[:, None].to(values)
        return (values * weights).flatten(2).sum(2) / weights.flatten(2).sum(2).clamp_min(1)

    def rows(self, index: Tensor) -> "View":
        """Some of the rows."""
        return View(self.values[index], None if self.own is None else self.own[index])


def classes(seen: Seen) -> Tensor:
    """The class that a classifier sees in each row; a recogniser's are all of one. Shapes: -> int64 [batch]."""
    if isinstance(seen.outputs, Emissions):
        return torch.zeros_like(seen.outputs.frames)
    return seen.outputs.detach().argmax(1) if seen.outputs.is_floating_point() else seen.outputs.long()


def view(seen: Seen, place: str, axis: int = 1) -> View:
    """What there is to see at `place`: inputs, outputs, or a layer, whose features lie along `axis`.

    Sounds [batch, time] have one feature, a recogniser's outputs one a letter. Padding is known by lengths: a layer that
    strides is taken to have as large a share of padding as the outputs, and of its places, time is the last axis.
    """
    if place == INPUTS:
        values, own = (seen.inputs[:, None] if seen.inputs.ndim == 2 else seen.inputs), seen.lengths
        return View(values, None) if own is None else ragged_view(values, own)
    outputs, ragged = seen.outputs, isinstance(seen.outputs, Emissions)
    if place == OUTPUTS:
        if not ragged and not outputs.is_floating_point():
            raise UnusableBatch(
                f"outputs of {outputs.dtype}: decisions are no features. Give a model that gives scores, or look at {INPUTS}"
            )
        return ragged_view(outputs.log_probs.transpose(1, 2), outputs.frames) if ragged else View(outputs, None)
    values = seen.layers[place].movedim(axis, 1)
    if values.ndim < 3 or seen.lengths is None:
        return View(values, None)
    own, whole = (outputs.frames, outputs.log_probs.shape[1]) if ragged else (seen.lengths, seen.inputs.shape[-1])
    return ragged_view(values, -(-own * values.shape[-1] // whole))


def check_finite(batches: Sequence[Seen], place: str, axis: int = 1) -> None:
    """Raises UnusableBatch for features that are not all finite: nothing is learnt from those."""
    finite = torch.cat([view(batch, place, axis).pooled().isfinite().all(1) for batch in batches])
    if lost := int((~finite).sum()):
        where = place if place in (INPUTS, OUTPUTS) else f"layer {place!r}"
        cure = "Leave those out, or look at another place"
        raise UnusableBatch(f"{where}: the features of {lost} of {len(finite)} examples are not finite. {cure}")


def ragged_view(values: Tensor, ends: Tensor) -> View:
    """Features of which a row's own end so far along the last axis. Shapes: values [batch, features, *places, time], ends [batch]."""
    own = inside(ends, values.shape[-1])
    return View(values, own.reshape(len(own), *[1] * (values.ndim - 3), -1).expand(len(own), *values.shape[2:]))


def look(model: Callable[..., Any], layers: Sequence[str], inputs: Tensor, lengths: Tensor | None) -> Seen:
    """Run the model and watch these layers. Shapes: inputs [batch, *], lengths [batch]. Raises OptionError, UnusableBatch."""
    with watched(model, layers) as activations, fitting(model, inputs):
        outputs = model(inputs) if lengths is None else model(inputs, lengths)
    if missing := [name for name in layers if name not in activations]:
        names = ", ".join(run_through(model, inputs[:1], None if lengths is None else lengths[:1])[:12])
        raise OptionError(f"layer {missing[0]!r}: inputs never come through this module. Look at one that they come through: {names} ...")
    for name, found in activations.items():
        if len(found) != len(inputs):
            raise UnusableBatch(f"layer {name!r} saw {len(found)} rows of a batch of {len(inputs)}. {INSIDE}")
    return Seen(inputs, lengths, outputs, activations)


@contextmanager
def watched(model: Callable[..., Any], layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What these layers give, filled in as the model runs. Raises OptionError for a layer that it does not have."""
    modules, activations = dict(innermost(model).named_modules()) if layers else {}, dict[str, Tensor]()

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, result: Any) -> None:
            found = result[0] if isinstance(result, tuple) else result
            if not isinstance(found, Tensor) or found.ndim < 2:
                raise UnusableBatch(f"layer {name!r} gives {type(found).__name__}, not features [batch, *]. Look at another")
            activations[name] = found

        return hook

    for name in layers:
        if not name or name not in modules:
            names = ", ".join(list(filter(None, modules))[:12])
            raise OptionError(f"layer {name!r}: the model has no such layer. Look at {INPUTS}, {OUTPUTS}, or one of its own: {names} ...")
    hooks = [modules[name].register_forward_hook(keep(name)) for name in layers]
    try:
        yield activations
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def run_through(model: Callable[..., Any], inputs: Tensor, lengths: Tensor | None) -> list[str]:
    """The names of the modules that these inputs come through. Shapes: inputs [batch, *], lengths [batch]."""
    met = dict[str, None]()
    hooks = [
        module.register_forward_pre_hook(lambda module, arguments, name=name: met.update({name: None}))
        for name, module in innermost(model).named_modules()
        if name
    ]
    try:
        model(inputs) if lengths is None else model(inputs, lengths)
    finally:
        for hook in hooks:
            hook.remove()
    return list(met)


def innermost(model: Any) -> nn.Module:
    """The net that a model is made of, under its defenses. Raises OptionError for a bare function."""
    while not isinstance(model, nn.Module):
        if isinstance(model, Smoothed | SmoothedRecogniser):
            raise OptionError(f"a smoothed model runs its layers once for each draw, not once for each input. {INSIDE}")
        inner = getattr(model, "model", None)
        model = getattr(model, "net", None) if inner is None else inner
        if model is None:
            raise OptionError("the model is no module: it has no layers to look at. Look at its inputs or outputs")
    return model

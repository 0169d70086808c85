"""A model made from another: what it does not do itself, the other does."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from audioadv.defenses.statement import Statement, stated
from audioadv.models.access import Access, granted
from audioadv.models.classifier import granting
from audioadv.models.rest import at_rest
from audioadv.threat.goals import Goal
from audioadv.threat.undetected import Undetected


class Layer(nn.Module):
    """A module around a `model`, which need not be one: access, sample rate and detectors are the model's own."""

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.access = model, granted(model)
        self.sample_rate: int | None = getattr(model, "sample_rate", None)

    def undetected(self) -> Goal:
        """The goal of passing every detector of the model."""
        goal: Goal = getattr(self.model, "undetected", Undetected)()
        return goal


class Wrapped:
    """A dataclass around a `model`: sample rate, vocabulary, access and device are the model's own."""

    model: Callable[..., Any]

    @property
    def statement(self) -> Statement:
        """What the model says of itself."""
        return stated(self.model)

    @property
    def net(self) -> nn.Module | None:
        """What has parameters, to be left as it is."""
        return self.model if isinstance(self.model, nn.Module) else getattr(self.model, "net", None)

    def setting(self) -> str:
        """What tells it from another around the same model."""
        own: Any = self
        return ", ".join(f"{field.name} {getattr(self, field.name)}" for field in fields(own) if field.name != "model")

    def granting(self, access: Access) -> Any:
        """The same, seen by an attacker with this much access."""
        return self.around(granting(self.model, access))

    def around(self, model: Callable[..., Any]) -> Any:
        """The same around another model."""
        return replace(self, model=model)  # type: ignore[type-var]

    @torch.no_grad()
    def refuses(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Whether any detector refuses each input, by what this model says of it; not the one inside.

        Shapes: inputs [batch, *], lengths [batch] -> bool [batch]. Raises OptionError where there is no detector.
        """
        own: Any = self
        with at_rest(own):
            outputs = own(inputs) if lengths is None else own(inputs, lengths)
        return ~Undetected().reached(outputs)

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):  # not there yet, or asked for by Python itself
            raise AttributeError(name)
        return getattr(self.model, name)

"""A model made from another: what it does not do itself, the other does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from audioadv.defenses.statement import Statement, stated
from audioadv.models.access import Access
from audioadv.models.classifier import granting


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

    def granting(self, access: Access) -> Any:
        """The same, seen by an attacker with this much access."""
        return replace(self, model=granting(self.model, access))  # type: ignore[type-var]

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):  # not there yet, or asked for by Python itself
            raise AttributeError(name)
        return getattr(self.model, name)

"""A model with defenses around it, taken apart layer by layer.

Detected(defend(remembering(net), "median:3"), detector)   --undefended-->  net
                                                           --forgetting-->  Detected(defend(net, "median:3"), detector)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from audioadv.defenses.distillation import Tempered
from audioadv.defenses.memory import Memory
from audioadv.defenses.preprocessing import Through
from audioadv.defenses.sampled import Sampled
from audioadv.defenses.statement import stated
from audioadv.defenses.wrapped import Wrapped
from audioadv.errors import OptionError
from audioadv.models.access import granted
from audioadv.models.classifier import Classifier, granting
from audioadv.models.recogniser import Recogniser, hears

Kind = type[Memory] | type[Sampled] | type[Through] | type[Wrapped]


def undefended(model: Callable[..., Any]) -> Any:
    """What an attacker attacks who does not know of the defense: the model without channels, noise, draws, detectors and memory; one
    that has none as it is. What was normalised still is, and what is granted stays.

    >>> from audioadv.defenses import defend
    >>> net = Classifier(print)
    >>> undefended(defend(defend(net, "depth:1"), "gaussian:0.1")) is net
    True
    """
    return without(model, (Memory, Sampled, Through, Wrapped))


def forgetting(model: Any) -> Any:
    """The model without its memory, under whatever else is around it: what an attacker with a copy of it works on, unseen.

    Others as they are. Raises OptionError for a model that remembers in a way of its own.
    """
    free = without(model, (Memory,))
    if stated(free).remembers:
        name = getattr(model, "name", type(model).__name__)
        raise OptionError(f"{name} remembers, and how to make a copy that does not is unknown. Give the model without its memory")
    return free


def without(model: Any, kinds: tuple[Kind, ...]) -> Any:
    """The model without its layers of these kinds, the others around what is left; the same object where nothing was taken off."""
    if isinstance(model, kinds):
        return without(model.model, kinds)
    if isinstance(model, Sampled | Through | Wrapped | Tempered):
        inner = without(model.model, kinds)
        if inner is model.model:
            return model
        return Tempered(inner, model.temperature) if isinstance(model, Tempered) else model.around(inner)
    if isinstance(model, Classifier | Recogniser):
        inner = without(model.net, kinds)
        if inner is model.net:
            return model
        whole = hears(inner) or isinstance(inner, Classifier)  # a wrapper in a wrapper says nothing more, unless it normalises
        bare = not (isinstance(model, Classifier) and (model.mean or model.std))
        return granting(inner, granted(model)) if whole and bare else replace(model, net=inner)
    return model

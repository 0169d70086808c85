"""Outputs that carry what detectors make of their inputs. To whoever does not ask, they are what they were."""

from collections.abc import Mapping
from dataclasses import replace
from functools import reduce
from typing import Any, final

import torch
from torch import Tensor

from audioadv.errors import UnusableBatch
from audioadv.models.recogniser import Emissions


@final
class SuspectScores(Tensor):
    """A classifier's outputs, with suspicions. What is computed from them is a plain tensor, without."""

    suspicions: Mapping[object, Tensor]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


def carrying(outputs: Any, detector: object, suspicion: Tensor) -> Any:
    """The same outputs, with one more detector's word for each row: above 0, it would refuse the row.

    Shapes: suspicion [batch]. Raises UnusableBatch for outputs that are neither a tensor nor Emissions.

    >>> scores = carrying(torch.zeros(1, 3), "a detector", torch.tensor([0.5]))
    >>> scores.argmax(1), suspicions(scores)
    (tensor([0]), {'a detector': tensor([0.5000])})
    """
    held = {**suspicions(outputs), detector: suspicion}
    if isinstance(outputs, Emissions):
        return replace(outputs, suspicions=held)
    if not isinstance(outputs, Tensor):
        raise UnusableBatch(f"outputs of type {type(outputs).__name__} carry no suspicion. Give a classifier's scores, or Emissions")
    suspect = outputs.as_subclass(SuspectScores)
    suspect.suspicions = held
    return suspect


def carrying_all(outputs: Tensor, words: Mapping[object, Tensor]) -> Tensor:
    """The outputs with every detector's word, as they were where there is none. Shapes: [batch, *], words [batch] each."""
    return reduce(lambda held, word: carrying(held, *word), words.items(), outputs)


def suspicions(outputs: Any) -> Mapping[object, Tensor]:
    """What each detector says of each row; nothing where none was asked. Shapes: [batch] each."""
    return outputs.suspicions if isinstance(outputs, SuspectScores | Emissions) else {}

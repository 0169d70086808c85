"""Spectral signatures: poisoned examples stand out among those of their class, in what the model makes of them.

In a class of which a part is poisoned, features have two means; along the line between both they spread most. So each example is
judged by how far it lies along the direction in which the features of its class spread most.

Source: Tran, Li and Madry 2018, "Spectral signatures in backdoor attacks".
"""

from dataclasses import replace

import torch
from torch import Tensor

from audioadv.defenses.detectors.seen import look, view
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.training.backdoor import Poisoned
from audioadv.training.batches import Labelled
from audioadv.training.method import Model


def seen_at(model: Model, layer: str, inputs: Tensor) -> Tensor:
    """What a layer makes of inputs, averaged over places. Shapes: [count, *] -> [count, features]. Raises OptionError."""
    return view(look(model, (layer,), inputs, None), layer).pooled()


@torch.no_grad()
def features(model: Model, layer: str, inputs: Tensor, size: int = 500) -> Tensor:
    """The same of a model at rest, `size` inputs at a time."""
    with at_rest(model):
        return torch.cat([seen_at(model, layer, some) for some in torch.split(inputs, size)])


def outlying(features: Tensor, labels: Tensor) -> Tensor:
    """How far each example lies along the main direction of its class, squared. Shapes: [count, features], [count] -> [count].

    Raises UnusableBatch where there are more of the one than of the other.
    """
    if len(features) != len(labels):
        raise UnusableBatch(f"features of {len(features)} examples, {len(labels)} labels: give one for each")
    scores = features.new_zeros(len(features))
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0]
        centred = features[rows] - features[rows].mean(0)
        direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        scores[rows] = (centred @ direction).square()
    return scores


def sift(data: Labelled | Poisoned[Labelled], model: Model, layer: str, most: int) -> tuple[Labelled, Tensor]:
    """The data without what stands out most, for a model to be trained anew, and which rows are left (sorted).

    `model` was trained on these data; `layer` is best its last but one. `most` bounds how many are poisoned, and 1.5 times as many
    are left out of every class, since nobody knows which class is the target: that is what the defense costs.
    Raises OptionError where nothing would be left of a class, UnusableBatch for data without classes, or without examples.
    """
    data = data.data if isinstance(data, Poisoned) else data
    if not isinstance(data, Labelled) or not len(data.inputs):
        raise UnusableBatch(f"{data}: what stands out is told among the examples of a class. Give Labelled(inputs, labels)")
    assert data.labels is not None
    labels, count = data.labels.cpu(), round(1.5 * most)
    fewest = int(labels.bincount()[labels].min())
    if not most >= 0 or count >= fewest:
        raise OptionError(f"most {most}: {count} examples of each class would go, but one has {fewest} only. Bound the poison lower")
    scores = outlying(features(model, layer, data.inputs), data.labels).cpu()
    kept = torch.ones(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        rows = (labels == label).nonzero()[:, 0]
        kept[rows[scores[rows].argsort(descending=True)[:count]]] = False
    rows = kept.nonzero()[:, 0]
    there = rows.to(data.inputs.device)
    return replace(data, inputs=data.inputs[there], labels=data.labels[rows.to(data.labels.device)]), rows

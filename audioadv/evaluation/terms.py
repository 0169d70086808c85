"""What of a threat model an evaluation keeps to, and what it refuses: no figure is to claim what it is not.

bound, access, queries   kept: attacks are granted no more, and what is found outside or with more forwards does not count; a model that
                         grants less than is claimed is refused, but for a transfer, which takes nothing of it
knowledge                kept: adaptive, oblivious (on the undefended model), transfer (on a substitute)
goal                     words are taken at their word; a goal has to be the one that is measured
channel, protocol        refused, unless there is none and inputs are drawn: those are other measurements
memory                   of the model's: refused, since what it answers to one question hangs on all before
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, final

import torch
from torch import Tensor

from audioadv.defenses.statement import Statement
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.access import Access, granted, includes
from audioadv.models.classifier import granting
from audioadv.threat.bounds import Bound, as_bound
from audioadv.threat.goals import Goal
from audioadv.threat.joined import members
from audioadv.threat.undetected import Undetected


@final
@dataclass(frozen=True)
class Terms:
    """What was agreed. `access` None leaves the model's own; `queries` None is any number."""

    bound: Bound
    access: Access | None = None
    knowledge: str = "adaptive"
    queries: int | None = None

    def granting(self, model: Callable[..., Any]) -> Any:
        """The model with as much access as was agreed; as it is for a transfer, since only its judge asks it.

        Raises OptionError for one that grants less.
        """
        if self.access is None or self.knowledge == "transfer":
            return model
        if not includes(granted(model), self.access):
            raise OptionError(
                f"the threat model's attacker has {self.access}, but the model grants {granted(model)} only. "
                f"Claim that, ThreatModel(..., access='{granted(model)}'), or grant more: model.granting('{self.access}')"
            )
        return granting(model, self.access)

    def within_queries(self, name: str, forwards: Tensor, found: Tensor) -> Tensor:
        """Which finds took no more forwards than was agreed; warns of the others.

        `forwards` are those of each example up to then, those of earlier attacks among them.
        Shapes: int64 and bool [batch] -> bool [batch].
        """
        if self.queries is None:
            return found
        late = found & (forwards > self.queries)
        if late.any():
            warnings.warn(
                f"{name}: {int(late.sum())} of {int(found.sum())} finds took more than the {self.queries} forwards that the threat model "
                f"allows (up to {int(forwards[late].max())}) and do not count. Give the attack fewer steps",
                stacklevel=5,  # a referee asks, in a fight, in evaluate
            )
        return found & ~late


def refuse_ignored(given: Mapping[str, bool], kind: str) -> None:
    """Raises OptionError for options that were given and would change nothing.

    >>> refuse_ignored({"box": False, "static": False}, "a recogniser")
    """
    if named := [name for name, there in given.items() if there]:
        raise OptionError(f"{', '.join(named)}: of no use for {kind}. Leave {'them' if named[1:] else 'it'} out")


def refuse_senseless(bound: Bound, inputs: Iterable[Tensor]) -> None:
    """Raises UnusableBatch for an input that the bound lets nothing be changed of: it would count as robust."""
    for number, clean in enumerate(inputs):
        if (why := bound.senseless(clean)) is not None:
            raise UnusableBatch(f"input {number}: nothing can be changed within {bound}. {why} Or leave this input out")


def agreed(threat: object, goal: Goal, statement: Statement) -> Terms:
    """The terms of a threat model, a bound, or a bound's spec, for a measurement of this goal on a model that states this.

    Raises MalformedSpec for what is none of these, OptionError for what an evaluation does not measure.

    >>> agreed("linf:0.1", goal=None, statement=Statement())  # doctest: +ELLIPSIS
    Terms(bound=Linf(radius=0.1), access=None, ...)
    """
    if not hasattr(threat, "bound"):
        return Terms(as_bound(threat))
    if (channel := getattr(threat, "channel", None)) is not None:
        raise OptionError(
            f"threat model over {channel}: evaluate meets inputs as they are. Use survive, or craft with a channel; "
            "or evaluate what stands behind it: defend(model, channel)"
        )
    if (protocol := getattr(threat, "protocol", "expectimax")) != "expectimax":
        raise OptionError(f"protocol {protocol!r}: that is a game of many rounds. Play it: audioadv.evaluation.games.play")
    wish = getattr(threat, "goal", "")
    if not isinstance(wish, str):
        parts = [part for part in members(wish) if not isinstance(part, Undetected)]
        unseen = len(parts) < len(members(wish))
        if unseen and not statement.detects:
            raise OptionError(f"goal {wish}: the model states no detector. Evaluate the one that has it: Detected(model, detector)")
        if len(parts) != 1 or not alike(parts[0], goal):
            raise OptionError(f"goal {wish}: evaluate measures '{goal}' here. Say the threat model's goal in words, or give that one")
    access = getattr(threat, "access", None)
    return Terms(
        as_bound(getattr(threat, "bound")),  # noqa: B009
        None if access is None else Access(access),
        getattr(threat, "knowledge", "adaptive"),
        getattr(threat, "queries", None),
    )


def alike(first: Any, second: Any) -> bool:
    """Whether two goals, or two things that goals are made of, are the same, wherever their tensors lie.

    >>> alike((1, torch.tensor([2, 3])), (1, torch.tensor([2, 3]))), alike(torch.tensor([1]), None)
    (True, False)
    """
    if first is second:
        return True
    if type(first) is not type(second):
        return False
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first.cpu(), second.cpu())
    if is_dataclass(first):
        return all(alike(getattr(first, part.name), getattr(second, part.name)) for part in fields(first))
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(alike, first, second))
    return bool(first == second)

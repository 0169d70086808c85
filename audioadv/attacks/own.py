"""An attack as those see it who are handed one: held to its word, and asked what it wants to be given whole."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, final

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult
from audioadv.errors import OptionError, UnusableBatch
from audioadv.threat.region import Region

Kind = TypeVar("Kind", bound=Callable[..., AttackResult])


@final
@dataclass(frozen=True)
class Whole:
    """What an attack is handed whole: a union, not one member after another; all examples, not so many at a time."""

    union: bool = False
    examples: bool = False


IN_PARTS: Final = Whole()


def takes_whole(*, union: bool = False, examples: bool = False) -> Callable[[Kind], Kind]:
    """Say of the attack below that it wants a union whole, since it steps in all members at once, or all examples, since it makes one
    change for all. `worst_member` and `evaluate` keep to it.

    >>> @takes_whole(union=True)
    ... def mine(objective, region): ...
    >>> whole(partial(mine, seed=1)).union
    True
    """

    def said(attack: Kind) -> Kind:
        vars(attack)["whole"] = Whole(union, examples)
        return attack

    return said


def whole(attack: Attack) -> Whole:
    """What this attack is handed whole: nothing, where it does not say."""
    told = getattr(bare(attack), "whole", IN_PARTS)
    return told if isinstance(told, Whole) else IN_PARTS


def keeping_its_word(name: str, attack: Attack) -> Attack:
    """The attack, held to what it is to take and to give. Raises OptionError for one that takes more than
    (objective, region), and, when it is called, UnusableBatch for what is no result of these examples.
    """
    try:
        inspect.signature(attack).bind(None, None)
    except TypeError as error:
        raise OptionError(
            f"attack {name!r} is called with (objective, region) alone: {error}. Fill in the rest with partial, for example "
            "partial(attacks.affine, attacks.pgd) or partial(attacks.transfer, substitute=net)"
        ) from None
    except ValueError:  # written in C, say, and it does not tell
        pass
    return partial(held_to, name, attack)


def bare(attack: Attack) -> Attack:
    """The function that is called in the end, by a partial or by what holds it to its word.

    >>> bare(keeping_its_word("mine", partial(bare, seed=1))) is bare
    True
    """
    while isinstance(attack, partial):
        attack = attack.args[1] if attack.func is held_to else attack.func
    return attack


def held_to(name: str, attack: Attack, objective: Objective, region: Region, **options: Any) -> AttackResult:
    """What the attack gives, once it is known to be a result of these examples. Raises UnusableBatch for what is none."""
    result: object = attack(objective, region, **options)
    count = len(region.clean)
    if not isinstance(result, AttackResult):
        wrong = f"something of type {type(result).__name__}"
    elif result.adversarial.shape != region.clean.shape:
        wrong = f"adversarial inputs of shape {list(result.adversarial.shape)}"
    elif len(result.outcome) != count:
        wrong = f"{len(result.outcome)} outcomes"
    elif counts := [part for part in ("gauge", "steps", "forwards", "backwards") if getattr(result, part).shape != (count,)]:
        wrong = f"{counts[0]} of shape {list(getattr(result, counts[0]).shape)}"
    elif result.parameters is not None and not region.added and result.parameters.shape != region.start().shape:
        wrong = f"parameters of shape {list(result.parameters.shape)}"
    else:
        return result
    raise UnusableBatch(
        f"attack {name!r} gives {wrong} for {count} inputs of shape {list(region.clean.shape)}. Return an AttackResult with a row for "
        "each: Run keeps one, run.result(), as in the README's newcomer attack"
    )

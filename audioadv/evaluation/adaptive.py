"""The attack that is made for a model, read off what the model states of itself.

statement         what an attacker does who knows it
backward: BPDA    nothing more: slopes are the stand-in's already
backward: none    asks only: Square or a greedy search on scores, HopSkipJump on decisions; else along slopes estimated from scores
random            averages over draws (EOT): of the defense's channel by keys of his own, where he sees the model; else over looks
  and none        the same, and asks only: no slopes are to be had of draws, and attacks that want some raise AccessDenied
detects           wants to pass unseen as well: the goal & model.undetected()

The static attacker knows nothing of this: he attacks the undefended model (by asking only, where that has no slopes), looks once, and
does not mind being seen. All finds are judged on the defended model; if that is random, over fresh draws, of which at least half are to
be fooled.

Sources: Athalye, Carlini and Wagner 2018, "Obfuscated gradients give a false sense of security"; Carlini et al. 2019, "On evaluating
adversarial robustness", section 2.5.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from audioadv.attacks.draws import Draws
from audioadv.attacks.eot import Expectation
from audioadv.attacks.estimates import nes
from audioadv.attacks.greedy import greedy
from audioadv.attacks.hop_skip_jump import hop_skip_jump
from audioadv.attacks.objective import Objective, objective
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import AttackResult
from audioadv.attacks.square import square
from audioadv.defenses.layers import undefended
from audioadv.defenses.preprocessing import outermost
from audioadv.defenses.statement import Statement, stated
from audioadv.errors import AccessDenied
from audioadv.models.access import Access, granted
from audioadv.models.classifier import granting
from audioadv.models.rest import at_rest
from audioadv.models.suspicion import suspicions
from audioadv.threat.channels.channel import NOTHING
from audioadv.threat.goals import Goal
from audioadv.threat.norms import L0Norm, L1Norm, L2Norm, LinfNorm
from audioadv.threat.region import Region
from audioadv.threat.undetected import unseen_too

PEEK = 8  # examples on which a model's statement is compared with what it does
HALF = 0.5  # of the draws: where a random model counts as fooled
LOOKS = 4  # at the same inputs, to see whether a model that says it is random ever differs
FEW = 0.1  # of the inputs: more than this without a slope are worth a word
ALIKE = 1e-4  # relative: outputs that differ by less are the same; sums on a GPU differ from run to run


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """Three views of one model: the attacker's who knows the defense, the one's who does not (None where there is nothing to know),
    and the judge's. `way` says in words what the first does about the defense, empty for nothing.
    """

    adaptive: Objective
    static: Objective | None
    judge: Objective
    way: str


def planned(
    model: Callable[..., Any],
    goal: Goal,
    lengths: Tensor | None = None,
    *,
    static: Callable[..., Any] | None = None,
    draws: int = 8,
    judge_draws: int = 32,
    seed: int = 0,
) -> Plan:
    """What to attack, from what the model states. `static` is the model that a static attacker works on, if not the undefended; it
    is his own, and shows him what it shows anyone.

    A random model is averaged over `draws` at each look, and judged over `judge_draws`. Shapes: lengths [batch].
    Raises OptionError for a model that detects and says not what it is to pass unseen.
    """
    statement, access = stated(model), granted(model)
    victim = undefended(model) if static is None else static
    knowing = goal if not statement.detects else unseen_too(model, goal)
    adaptive, judge = one_look(model, knowing, lengths, seed), objective(model, knowing, lengths)
    if statement.random:
        adaptive = averaged(model, knowing, lengths, draws, seed)
        judge = replace(judge, expectation=Expectation(NOTHING, draws=judge_draws, rate=HALF, hard=0, seed=seed))
    unaware = victim is not model or statement.random or statement.detects
    plain = one_look(granting(victim, access) if static is None else victim, goal, lengths, seed) if unaware else None
    return Plan(adaptive, plain, judge, in_words(statement, draws))


def one_look(model: Callable[..., Any], goal: Goal, lengths: Tensor | None, seed: int) -> Objective:
    """The goal at one look; slopes are estimated from scores, where the model states that it has none. Shapes: lengths [batch]."""
    blind = stated(model).backward == "none" and granted(model) is not Access.DECISIONS
    return objective(model, goal, lengths, slopes=nes(seed=seed) if blind else None)


def in_words(statement: Statement, draws: int) -> str:
    """What an attacker does about a defense, in a few words.

    >>> in_words(Statement("BPDA", random=True), 8)
    'BPDA, EOT 8'
    """
    about = {"BPDA": "BPDA", "none": "no gradients", "exact": ""}[statement.backward]
    joint = "unseen" if statement.detects else ""
    return ", ".join(word for word in (about, f"EOT {draws}" if statement.random else "", joint) if word)


def averaged(model: Callable[..., Any], goal: Goal, lengths: Tensor | None, draws: int, seed: int) -> Objective:
    """The goal on average over a random model's draws.

    Who sees the model and knows its channel draws from that himself, by seed and example, so that neighbours change nothing; for
    any other randomness the model is looked at so many times.
    """
    layer = outermost(model)
    if layer is None or granted(model) is not Access.GRADIENTS or stated(layer.model).random:
        return objective(model, goal, lengths, Expectation(NOTHING, draws=draws, rate=HALF, hard=0, seed=seed))
    over = Expectation(layer.channel, draws=draws, rate=HALF, hard=0, seed=seed, sample_rate=layer.sample_rate)
    return objective(granting(layer.model, Access.GRADIENTS), goal, lengths, over)


def gradient_free(objective: Objective, region: Region, *, steps: int = 5000, seed: int = 0) -> AttackResult:
    """What is left without slopes: `steps` queries of Square in Linf and L2, of a greedy search in L1 and L0, PGD on estimated slopes
    elsewhere; HopSkipJump where there are decisions only, where draws differ too much to estimate slopes from, and, but for L1 and L0,
    where the smallest change is sought. Shapes: as in `region.clean`.
    """
    if granted(objective.model) is Access.DECISIONS:
        return hop_skip_jump(objective, region, seed=seed)
    if region.added and isinstance(region.norm, L1Norm | L0Norm):
        return greedy(objective, region, steps=steps, seed=seed)
    if bool(region.radius.isinf().any()):
        return hop_skip_jump(objective, region, seed=seed)
    if region.added and isinstance(region.norm, LinfNorm | L2Norm):
        return square(objective, region, steps=steps, seed=seed)
    if objective.expectation is not None:
        return hop_skip_jump(objective, region, seed=seed)
    return pgd(replace(objective, slopes=nes(seed=seed)), region, seed=seed)


def disagreements(model: Callable[..., Any], goal: Goal, inputs: Tensor, lengths: Tensor | None = None) -> list[str]:
    """Where what a model states is not what it does on these inputs, each as a sentence with what to do about it.

    Costs a handful of forwards and one backward an input. A model that remembers is not asked: that would change what it is.
    Shapes: inputs [batch, *], lengths [batch].
    """
    statement, name = stated(model), getattr(model, "name", "the model")
    if statement.remembers or not len(inputs):
        return []
    with at_rest(model):
        outputs = asked(model, inputs, lengths)
        worries = [*changes(model, statement, inputs, lengths, outputs), *slopes(model, statement, goal, inputs, lengths)]
    if suspicions(outputs) and not statement.detects:
        worries.append("its outputs carry a detector's word. State detects=True, and give it undetected(): attacks then pass unseen too")
    return [f"{name} states '{statement}', but {worry}" for worry in worries]


@torch.no_grad()
def asked(model: Callable[..., Any], inputs: Tensor, lengths: Tensor | None) -> Any:
    """What the model answers."""
    return model(inputs) if lengths is None else model(inputs, lengths)


@torch.no_grad()
def changes(model: Callable[..., Any], statement: Statement, inputs: Tensor, lengths: Tensor | None, outputs: Any) -> list[str]:
    """What is not as stated between looks at the same inputs, of which these outputs are from the first."""

    def answers(outputs: Any) -> Tensor:
        scores: Tensor = getattr(outputs, "log_probs", outputs)
        return scores

    def ask(inputs: Tensor) -> Tensor:
        return answers(asked(model, inputs, lengths))

    first = answers(outputs)
    differs = any(differ(first, ask(inputs)) for _ in range(LOOKS - 1 if statement.random else 1))
    if statement.random:
        return [] if differs else [f"{LOOKS} looks at the same inputs agree. Without draws that differ, averaging is waste: random=False"]
    if differs:
        return ["two looks at the same inputs differ. If it draws, state random=True; if it keeps what it saw, remembers=True"]
    near = Draws.of(0, inputs)
    for _ in range(2):
        ask(torch.where(inputs == 0, inputs, inputs + 1e-3 * near.signs(inputs)))  # neighbours; silence stays silent
    if differ(first, ask(inputs)):
        return ["the same inputs are answered otherwise after others were asked. State remembers=True: attacks then spend queries"]
    return []


def slopes(model: Callable[..., Any], statement: Statement, goal: Goal, inputs: Tensor, lengths: Tensor | None) -> list[str]:
    """What is not as stated about the backward pass."""
    if granted(model) is not Access.GRADIENTS:
        return []
    try:
        slope = objective(model, goal, lengths).begun(inputs).look(inputs).slope.flatten(1)
    except AccessDenied:
        cure = "State backward='none', or give it a stand-in (BPDA)"
        return [] if statement.backward == "none" else [f"no gradient reaches its inputs. {cure}"]
    count, wild = len(slope), int((~slope.isfinite()).any(1).sum())
    flat = int((slope == 0).all(1).sum())
    if statement.backward == "none":
        return [] if wild + flat == count else [f"there are slopes for {count - wild - flat} of {count} inputs. State 'exact' or 'BPDA'"]
    cure = "Give it a stand-in (BPDA), state backward='none', or take a loss that does not saturate (margin, dlr; `standard` has dlr)"
    found = [(wild, "not finite"), (flat, "zero")]
    return [f"slopes are {what} for {many} of {count} inputs. {cure}" for many, what in found if many > FEW * count]


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two answers to the same question differ by more than rounding."""
    if first.shape != second.shape or not first.is_floating_point():
        return not torch.equal(first, second)
    finite = first.isfinite() & second.isfinite()
    return bool((first.isfinite() != second.isfinite()).any() or ((first - second).abs() > ALIKE * (1 + first.abs()))[finite].any())

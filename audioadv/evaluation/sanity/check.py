"""Is the evaluation itself broken? One attack is watched at its work, and set beside what should be weaker.

    attack, watched  --> what it saw      \\
    noise, scores alone, a substitute      >  evidence  -->  indicators (`indicators.py`)
    twice the radius, any radius          /
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from audioadv.attacks.catalogue import TABLE
from audioadv.attacks.estimates import nes
from audioadv.attacks.greedy import greedy
from audioadv.attacks.objective import Objective
from audioadv.attacks.own import bare
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.square import square
from audioadv.attacks.trace import Trace, within
from audioadv.attacks.unbounded import unbounded
from audioadv.attacks.union import worst_member
from audioadv.defenses.statement import refuse_memory, stated
from audioadv.errors import UnusableBatch
from audioadv.evaluation.evaluate import named_attacks
from audioadv.evaluation.sanity.indicators import Checkup, Evidence
from audioadv.models.access import Access, granted
from audioadv.models.recogniser import Emissions
from audioadv.models.rest import at_rest
from audioadv.threat.labels import look_like_probabilities
from audioadv.threat.norms import L0Norm, L1Norm, L2Norm, LinfNorm
from audioadv.threat.region import Region

DRAWS = 25  # of noise
QUERIES = 200  # of the attack on scores
FEW = 4  # moves a round of sparse ones: of 100 digits within l1:10, mnist-robust loses 29 so, with 8 a round 27, with 32 6, to NES 1
STRAYS = {listed.run.__name__ for listed in TABLE.values() if listed.strays}


def check(
    objective: Objective,
    region: Region,
    attack: str | Attack = "standard",
    *,
    substitute: Callable[..., Any] | None = None,
    probes: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Checkup:
    """Attack, and look for signs that the attack fails for reasons of its own.

    Examples that are at the goal from the start, or can never be, are left out. With `probes`, more is tried on the same
    examples: 25 draws of noise and 200 queries of scores alone within the bound, the attack at twice and four times the radius and
    with none, and, where there is a `substitute` (a model that takes the same inputs), the attack on that. `progress` is told what
    is being tried.

    Shapes: as in `region.clean` and `objective`. Raises OptionError for an unknown attack and for a model that remembers, which is not
    asked: it would keep each look, and answer the next one otherwise; UnusableBatch where nothing is left to attack.

    >>> from audioadv import Linf, Misclassify, objective
    >>> net, x = torch.nn.Flatten(), torch.tensor([[0.2, 0.8], [0.6, 0.5]])  # the brighter of two pixels
    >>> check(objective(net, Misclassify(torch.tensor([1, 0]))), Linf(0.1).around(x), "pgd").broken
    []
    """
    for model in (objective.model, substitute):
        if model is not None:
            refuse_memory(model, stated(model))
    (named,) = named_attacks(attack, seed).items()
    tell = progress or (lambda stage: None)
    with quietly(), at_rest(objective.model):
        begun = objective.begun(region.clean)
        with torch.no_grad():
            never = begun.goal.impossible(begun.forward(region.clean))
        able = torch.tensor([why is None for why in never], dtype=torch.bool, device=region.clean.device)
        left = (~begun.decide(region.clean) & able).nonzero()[:, 0]
        if not len(left):
            why = next(filter(None, never), "Each is at the goal from the start: give some that must be brought there")
            raise UnusableBatch(f"{len(region.clean)} examples, and none that can be attacked. {why}")
        wanted, region = objective.begun(region.clean).rows(left.cpu()), region.rows(left)
        tell("attack")
        evidence = watched(wanted, region, *named)
        if probes:
            evidence = probed(evidence, wanted, region, named[1], substitute, seed, tell)
    return Checkup.of(evidence)


@contextmanager
def quietly() -> Iterator[None]:
    """Within it, nobody is warned of probabilities: there is an indicator for that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the model's outputs are probabilities")
        yield


def watched(objective: Objective, region: Region, name: str, attack: Attack) -> Evidence:
    """What the attack saw, and whether its claims hold."""
    trace = Trace(region)
    result = worst_member(attack, trace.watching(objective), region)
    claims = torch.tensor(result.reached) & inside(region, result)
    felled = claims & objective.begun(region.clean).decide(result.adversarial).cpu()
    names = {name, getattr(bare(attack), "__name__", "")}
    sights = trace.sights(result)
    if unbounded.__name__ in names:  # its answers lie outside by design, and none of them is claimed
        sights = [replace(sight, strayed=False) for sight in sights]
    return Evidence(
        sights=sights,
        felled=felled.tolist(),
        claimed=int(claims.sum()),
        refuted=int((claims & ~felled).sum()),
        searching=bool(STRAYS & names) or not bool(region.radius.isfinite().all()),
        passes=trace.passes,
    )


def probed(
    evidence: Evidence,
    objective: Objective,
    region: Region,
    attack: Attack,
    substitute: Callable[..., Any] | None,
    seed: int,
    tell: Callable[[str], None],
) -> Evidence:
    """The evidence, and what other means reach on the same examples."""
    tell("the same input twice")
    first, again = (scores(objective, region.clean) for _ in range(2))
    if first is not None and again is not None:
        largest = first[first.isfinite()].abs().amax() if first.isfinite().any() else first.new_ones(())
        spread = float((first - again).abs().nan_to_num(0.0).max() / largest.clamp_min(1e-30))
        evidence = replace(evidence, probabilities=look_like_probabilities(first), spread=spread)
    if substitute is not None:
        tell("transfer")
        made = worst_member(attack, replace(objective, model=substitute), region)
        moved = objective.begun(region.clean).decide(made.adversarial).cpu() & inside(region, made)
        evidence = replace(evidence, transfer=moved.tolist())
    if not bool(region.radius.isfinite().all()):  # a search without a bound
        return replace(evidence, unbounded=evidence.felled) if region.limitless() else evidence
    tell("noise")
    evidence = replace(evidence, noise=by_noise(objective, region, seed).tolist())
    if evidence.looked and objective.slopes is None and (found := by_scores(objective, region, seed, tell)) is not None:
        evidence = replace(evidence, black_box=found.tolist())
    if region.added:
        tell("twice the radius")
        wider = reach(objective, region.at(2 * region.radius), attack)
        evidence = replace(evidence, wider=wider.tolist())
    if region.limitless():
        tell("no bound")
        done = torch.tensor(evidence.felled) | wider
        for radius in (4 * region.radius, whole(region)):
            left = (~done).nonzero()[:, 0]
            if len(left):
                done[left] = reach(objective.rows(left), region.at(radius).rows(left.to(radius.device)), attack)
        evidence = replace(evidence, unbounded=done.tolist())
    return evidence


def scores(objective: Objective, inputs: Tensor) -> Tensor | None:
    """The model's scores, a row for each example or frame; None for decisions. Shapes: [batch, *] -> [rows, classes]."""
    with torch.no_grad():
        outputs = objective.begun(inputs).forward(inputs)
    if isinstance(outputs, Emissions):
        place = torch.arange(outputs.log_probs.shape[1], device=outputs.log_probs.device)
        return outputs.log_probs[place < outputs.frames[:, None]]
    return outputs if isinstance(outputs, Tensor) and outputs.is_floating_point() else None


def inside(region: Region, result: AttackResult) -> Tensor:
    """Which of an attack's answers lie in the region. Shapes: -> bool [batch], on the CPU."""
    known = region.knowing(result.parameters)
    return within(known, result.adversarial).cpu()


def reach(objective: Objective, region: Region, attack: Attack) -> Tensor:
    """Which examples the attack brings to the goal within the region. Shapes: -> bool [batch], on the CPU."""
    result = worst_member(attack, objective, region)
    return objective.begun(region.clean).decide(result.adversarial).cpu() & inside(region, result)


def by_noise(objective: Objective, region: Region, seed: int) -> Tensor:
    """Which examples some random change brings to the goal. Shapes: -> bool [batch], on the CPU."""
    wanted, reached = objective.begun(region.clean), torch.zeros(len(region.clean), dtype=torch.bool)
    for draw in range(DRAWS):
        generators = [torch.Generator().manual_seed(seed * DRAWS + draw) for _ in reached]
        reached |= wanted.decide(region.inputs(region.sample(generators))).cpu()
    return reached


def by_scores(objective: Objective, region: Region, seed: int, tell: Callable[[str], None]) -> Tensor | None:
    """Which examples an attack on scores brings to the goal; None where there is none for the case. Shapes: -> bool [batch]."""
    if granted(objective.model) is Access.DECISIONS:
        return None
    if region.added and isinstance(region.norm, LinfNorm | L2Norm):
        tell("scores alone")
        return reach(objective, region, partial(square, steps=QUERIES, seed=seed))
    if region.added and isinstance(region.norm, L1Norm | L0Norm):
        tell("scores alone")
        return reach(objective, region, partial(greedy, steps=QUERIES, tries=FEW, seed=seed))
    if objective.expectation is not None:  # differences of losses over different draws are noise
        return None
    tell("scores alone")
    slopes = nes(QUERIES // 20, seed=seed)
    return reach(replace(objective, slopes=slopes), region, partial(pgd, steps=10, step_size=0.25, seed=seed))


def whole(region: Region) -> Tensor:
    """A radius that holds all inputs there are: the box, or ten times the largest entry. Shapes: -> [batch]."""
    if region.low is not None and region.high is not None:
        change = torch.maximum(region.high, -region.low)
    else:
        change = torch.full_like(region.clean, 10 * max(1.0, float(region.clean.abs().max())))
    gauge = region.norm.gauge(region.unpadded(change))
    return torch.maximum(torch.where(gauge.isfinite(), gauge, 1e3 * region.radius), 4 * region.radius)

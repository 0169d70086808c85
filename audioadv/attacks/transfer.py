"""Transfer from a substitute that was trained on the victim's answers. Decisions only.

Source: Papernot et al. 2017, "Practical black-box attacks against machine learning".
"""

from functools import partial

import torch
from torch import Tensor, nn

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult
from audioadv.attacks.run import Run, Tell, boxed, check_fixed_radius, check_objective
from audioadv.attacks.substitute import substituting
from audioadv.attacks.to_the_end import to_the_end
from audioadv.errors import AudioadvError, OptionError, UnusableBatch
from audioadv.models.rest import at_rest
from audioadv.options import check_counts, check_sizes
from audioadv.threat.region import ADDED, Region


def transfer(
    objective: Objective,
    region: Region,
    *,
    substitute: nn.Module,
    attack: Attack | None = None,
    rounds: int = 4,
    passes: int = 20,
    spread: float = 0.1,
    rate: float = 1e-3,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """Train `substitute` to answer as the victim does, attack it instead (by default with PGD's steps, to the last), and try the outcome on
    the victim.

    The substitute learns from the clean inputs; after each of the `rounds` but the last, its examples are doubled by steps of
    `spread` (full scale = 1) along the sign of its own slope for the victim's answer, and the victim is asked about the new
    ones. `substitute` is trained in place. Costs 2^(rounds - 1) forwards an example and one to try; no backward. The examples
    train one net, so that an example's outcome depends on the others. Shapes: as in `region.clean`.

    Before the victim is asked anything, raises OptionError for a substitute that cannot be taught, for PGD without a radius and over a
    channel, and UnusableBatch for a substitute that does not fit inputs or goal.
    """
    check_objective(objective)
    check_counts("transfer", rounds=rounds, passes=passes)
    check_sizes("transfer", spread=spread, rate=rate)
    if attack is None:
        check_fixed_radius(region, "transfer with pgd")
    check_substitute(objective, region.clean, substitute)
    run, generator = Run(objective, region, progress), torch.Generator().manual_seed(int(seed))

    def ask(inputs: Tensor, owner: Tensor) -> Tensor:
        return run.objective.rows(owner).answers(inputs)

    def within(inputs: Tensor, owner: Tensor) -> Tensor:
        return step_within(region.by(ADDED).rows(owner.to(inputs.device)), inputs)

    with at_rest(objective.model):
        taught = substituting(
            substitute, region.clean, ask, within, rounds=rounds, passes=passes, spread=spread, rate=rate, generator=generator
        )
        for _ in taught:
            run.told()
            if run.enough:
                break
        on_it = Objective(substitute, objective.goal, objective.lengths)  # what it is asked is no query of the victim
        found = (attack or partial(to_the_end, seed=seed))(on_it, region)
        run.keep(found.adversarial, run.objective.decide(found.adversarial), found.parameters)
    return run.result()


def check_substitute(objective: Objective, clean: Tensor, substitute: nn.Module) -> None:
    """That a substitute can be taught and attacked. Raises OptionError and UnusableBatch (`transfer`)."""
    if objective.expectation is not None:
        raise OptionError("transfer learns from single answers, and over a channel there are none. Leave out the expectation")
    if not isinstance(substitute, nn.Module) or not any(weights.requires_grad for weights in substitute.parameters()):
        raise OptionError(
            f"substitute of type {type(substitute).__name__}: nothing in it learns. Give a torch module with parameters that are not frozen"
        )
    if not len(clean):
        return
    alike = Objective(substitute, objective.goal, objective.lengths)
    with torch.no_grad(), at_rest(substitute):
        try:
            outputs = alike.outputs(clean)
        except (AudioadvError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of whatever kind: the net is a user's own
            raise UnusableBatch(
                f"substitute {type(substitute).__name__}: it does not take inputs of shape {list(clean.shape)} "
                f"({type(error).__name__}: {error}). Give one that takes what the victim takes"
            ) from error
        alike.goal.loss(outputs)


def step_within(region: Region, inputs: Tensor) -> Tensor:
    """The nearest inputs within the box. Shapes: [copies, *] -> [copies, *]."""
    return region.inputs(region.unpadded(boxed(region, inputs - region.clean)))

"""Transfer from a substitute that was trained on the victim's answers. Decisions only.

Source: Papernot et al. 2017, "Practical black-box attacks against machine learning", algorithm 1.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.attacks.objective import Objective, at_rest
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, boxed
from audioadv.attacks.survivors import Attack
from audioadv.threat.labels import Misclassify
from audioadv.threat.region import ADDED, Region


def transfer(
    objective: Objective,
    region: Region,
    *,
    substitute: nn.Module,
    attack: Attack = pgd,
    rounds: int = 4,
    passes: int = 20,
    spread: float = 0.1,
    rate: float = 1e-3,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """Train `substitute` to answer as the victim does, attack it instead, and try the outcome on the victim.

    The substitute learns from the clean inputs; after each of the `rounds` but the last, its examples are doubled by steps of
    `spread` (full scale = 1) along the sign of its own slope for the victim's answer, and the victim is asked about the new
    ones. `substitute` is trained in place. Costs 2^(rounds - 1) forwards an example and one to try; no backward. The examples
    train one net, so that an example's outcome depends on the others. Shapes: as in `region.clean`.
    """
    run, generator = Run(objective, region, progress), torch.Generator().manual_seed(seed)
    owner, inputs = torch.arange(len(region.clean)), region.clean
    with at_rest(objective.model):
        answers = run.objective.answers(inputs)
        for number in range(rounds):
            learn(substitute, inputs, answers, passes, rate, generator)
            if number == rounds - 1:
                break
            with at_rest(substitute):
                toward = Objective(substitute, Misclassify(answers)).begun(inputs).look(inputs).slope
            fresh = step_within(region.by(ADDED).rows(owner.to(inputs.device)), inputs - spread * toward.sign())
            inputs, answers = torch.cat([inputs, fresh]), torch.cat([answers, run.objective.rows(owner).answers(fresh)])
            owner = torch.cat([owner, owner])
        proxy = replace(objective, model=substitute, slopes=None, watch=None)
        found = attack(proxy, region)
        run.keep(found.adversarial, run.objective.decide(found.adversarial), found.parameters)
        run.taken = rounds
    return run.result()


def step_within(region: Region, inputs: Tensor) -> Tensor:
    """The nearest inputs within the box. Shapes: [copies, *] -> [copies, *]."""
    return region.inputs(region.unpadded(boxed(region, inputs - region.clean)))


def learn(net: nn.Module, inputs: Tensor, answers: Tensor, passes: int, rate: float, generator: torch.Generator) -> None:
    """Train a net to give these answers, in batches of 64."""
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    net.train()
    for _ in range(passes):
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        for first in range(0, len(order), 64):
            rows = order[first : first + 64]
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(net(inputs[rows]), answers[rows]))
            optimiser.step()
    net.eval()

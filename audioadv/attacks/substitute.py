"""A net that learns to answer as another one does, from the answers alone.

inputs --ask--> answers --learn--> substitute --slope's sign--> inputs beyond --ask--> ...

Source: Papernot et al. 2017, "Practical black-box attacks against machine learning".
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.attacks.objective import Objective
from audioadv.defenses.learning import rejoined
from audioadv.errors import UnusableBatch
from audioadv.models.abstention import ABSTAIN, decided
from audioadv.models.rest import at_rest, seeded
from audioadv.threat.labels import Misclassify

Ask = Callable[[Tensor, Tensor], Tensor]
"""`ask(inputs [count, *], owners [count])`: the victim's answers, classes int64 [count] or probabilities [count, classes]."""


def substituting(
    net: nn.Module,
    inputs: Tensor,
    ask: Ask,
    within: Callable[[Tensor, Tensor], Tensor],
    *,
    rounds: int,
    passes: int,
    spread: float,
    rate: float,
    generator: torch.Generator,
    most: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Teach `net`, in place, a round at a time; after each, yields all inputs asked about so far and their answers.

    Between rounds the inputs are doubled by steps of `spread` along the sign of the net's own slope, away from the victim's answer
    (the paper steps toward it, and later to and fro; away lies the boundary, about which there is more to learn).
    `within(inputs, owners)` brings them back to where inputs may lie; owners say which of the first inputs each comes from.
    Never more than `most` inputs are asked about: a random part of those that come to it. What the victim abstains from teaches
    nothing, and is left out; where it abstains from all, nothing is yielded. Shapes: inputs [count, *].
    """
    inputs, owner = inputs[:most], torch.arange(len(inputs[:most]))
    asked = len(inputs)
    inputs, owner, answers = answered(inputs, owner, ask(inputs, owner))
    if not len(inputs):
        return
    for number in range(rounds):
        if number:
            with at_rest(net):
                toward = Objective(net, Misclassify(decided(answers))).begun(inputs).look(inputs).slope
            left = len(inputs) if most is None else min(len(inputs), most - asked)
            if left < 1:
                return
            some = torch.arange(left) if left == len(inputs) else torch.randperm(len(inputs), generator=generator)[:left].sort().values
            there = some.to(inputs.device)
            fresh = within(inputs[there] - spread * toward[there].sign(), owner[some])
            asked += len(fresh)
            new = answered(fresh, owner[some], ask(fresh, owner[some]))
            inputs, owner, answers = (torch.cat(pair) for pair in zip((inputs, owner, answers), new, strict=True))
        learn(net, inputs, answers, passes, rate, generator)
        yield inputs, answers


def answered(inputs: Tensor, owner: Tensor, answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Those of them that the victim did not abstain from. Shapes: inputs [count, *], owner [count], answers [count, ...]."""
    some = (decided(answers) != ABSTAIN).nonzero()[:, 0]
    return inputs[some], owner[some.to(owner.device)], answers[some]


def learn(net: nn.Module, inputs: Tensor, answers: Tensor, passes: int, rate: float, generator: torch.Generator) -> None:
    """Train a net to give these answers, classes or probabilities, in batches of 64; what its layers draw leaves torch's own draws alone.

    Raises UnusableBatch for a net with fewer classes than the victim has answered with.
    """
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    named = answers.shape[1] if answers.is_floating_point() else int(answers.max()) + 1
    with seeded(generator.initial_seed(), inputs.device):
        net.train()
        for _ in range(passes):
            order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
            for rows in rejoined(torch.split(order, 64)):
                optimiser.zero_grad()
                scores = net(inputs[rows])
                if scores.shape[1] < named:
                    raise UnusableBatch(
                        f"a substitute of {scores.shape[1]} classes, but the victim has answered with {named}. Give it as many"
                    )
                torch.autograd.backward(F.cross_entropy(scores, answers[rows]))
                optimiser.step()
        net.eval()

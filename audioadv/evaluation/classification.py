"""How a classifier's answers are judged: which inputs it gets right, and what counts of what attacks find on it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor

from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.evaluation.campaign import in_parts
from audioadv.evaluation.standing import Attempt, Standing
from audioadv.models.abstention import decided
from audioadv.models.rest import at_rest
from audioadv.threat.bounds import Bound, Box
from audioadv.threat.labels import Classify, Misclassify, as_tensor
from audioadv.threat.measured import Below
from audioadv.threat.region import Region


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Trial(Attempt):
    """One attack's part, of a classifier. Shapes: gauge [examples], infinite where it did not fell."""

    gauge: Tensor


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation(Standing):
    """What became of each example of a classifier; a random one is right where it is in more than half of its draws."""

    trials: tuple[Trial, ...]


@torch.no_grad()
def right_and_mute(judge: Objective, known: Misclassify, inputs: Tensor, batch: int) -> tuple[Tensor, Tensor]:
    """Whether the model gets each input right: not merely not beaten, but ahead, by however little; and whether its scores decide on
    no class, since they are no numbers. A class that is ruled out, by a score of -inf, does no harm.

    Shapes: -> bool [examples] each, on the CPU.
    """

    def ahead(outputs: Tensor, labels: Tensor) -> Tensor:
        return Classify(labels, top=known.top).reached(outputs).float()

    wrong, seen = Below(ahead, 0.5, known.labels.expand(len(inputs))), [torch.zeros(2, 0, dtype=torch.bool)]
    with at_rest(judge.model):
        for rows in in_parts(torch.arange(len(inputs)), batch):
            some = inputs[rows.to(inputs.device)]
            wanted = replace(judge, goal=wrong.rows(rows)).begun(some)
            outputs = wanted.forward(some)
            missed = wanted.goal.reached(as_tensor(outputs)) if judge.expectation is None else wanted.decide(some)
            mute = decided(outputs) < 0
            seen.append(torch.stack([~missed & ~mute, mute & outputs.is_floating_point()]).cpu())
    correct, mute = torch.cat(seen, 1)
    return correct, mute


@final
@dataclass(frozen=True, eq=False)
class ClassReferee:
    """What has become of each example, attack by attack; `wanted` is the judge's view of the model.

    Shapes [examples, *]: inputs, and adversarial, the nearest find, clean where there is none; [examples]: correct, gauge.
    """

    wanted: Objective
    bound: Bound
    box: Box
    inputs: Tensor
    correct: Tensor
    gauge: Tensor
    adversarial: Tensor
    ends: list[Outcome]

    @classmethod
    def begun(cls, judge: Objective, known: Misclassify, bound: Bound, box: Box, inputs: Tensor, batch: int) -> Self:
        """Where nobody has attacked yet; `known` are the true labels. Shapes: inputs [examples, *]."""
        correct, mute = right_and_mute(judge, known, inputs, batch)
        ends = [Outcome.MISSED if right else Outcome.NEEDLESS for right in correct.tolist()]
        ends = [Outcome.NOT_FINITE if silent else end for end, silent in zip(ends, mute.tolist(), strict=True)]
        gauge = torch.where(correct, torch.inf, 0.0).to(inputs.dtype)
        return cls(judge.begun(inputs), bound, box, inputs, correct, gauge, inputs.clone(), ends)

    def around(self, rows: Tensor) -> Region:
        """What these examples may be changed to. Shapes: int64 [rows]."""
        return self.bound.around(self.inputs[rows.to(self.inputs.device)], box=self.box)

    def judge(
        self, rows: Tensor, region: Region, result: AttackResult, in_time: Callable[[Tensor], Tensor]
    ) -> tuple[list[bool], list[float]]:
        """Take in an attack's finds (`Referee.judge`): an example falls where the claim holds, in time; told is how far out it lies."""
        claimed, measured = self.verified(rows, region, result)
        good = in_time(claimed)
        sizes = torch.where(good, measured, math.inf).to(self.gauge)
        nearer = sizes < self.gauge[rows]
        self.gauge[rows[nearer]] = sizes[nearer]
        here = nearer.to(self.inputs.device)
        self.adversarial[rows.to(self.inputs.device)[here]] = result.adversarial[here]
        for row, hit, outcome in zip(rows.tolist(), good.tolist(), result.outcome, strict=True):
            if hit or (self.ends[row] is Outcome.MISSED and outcome is Outcome.NOT_FINITE):
                self.ends[row] = Outcome.REACHED if hit else outcome
        return good.tolist(), sizes.tolist()

    def verified(self, rows: Tensor, region: Region, result: AttackResult) -> tuple[Tensor, Tensor]:
        """Which of an attack's claims hold: its inputs reach the goal, and lie within the bound and the box; and how far out they lie.

        Shapes: rows int64 [rows] -> bool and float [rows], on the CPU.
        """
        wanted = self.wanted.rows(rows)
        with torch.no_grad(), at_rest(wanted.model):
            reached = wanted.begun(result.adversarial).decide(result.adversarial)
        claimed = torch.tensor(result.reached, dtype=torch.bool)
        gauge = region.knowing(result.parameters).gauge(result.adversarial)
        inside = (gauge.isfinite() if self.bound.minimal else region.holds(gauge)) & region.in_box(result.adversarial)
        return (reached & inside).cpu() & claimed, gauge.minimum(region.radius).cpu()  # what rounding adds is no distance

    def part(self, found: Mapping[int, float], **attempt: Any) -> Trial:
        """One attack's part, with how far out its finds lie, by example."""
        sizes = torch.full_like(self.gauge, math.inf)
        sizes[list(found)] = sizes.new_tensor(list(found.values()))
        return Trial(gauge=sizes, **attempt)

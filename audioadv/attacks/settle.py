"""Settle: the attack behind `craft` over a channel, where slopes are means of few draws and a success may be chance.

What draws agree on shows in the running mean of their slopes alone, and an example has to come to rest on it. Steps go the steepest way
along that mean, as long whether its slopes agree or not: at first FIRST_STEP of the radius, shorter by the same share at every
step, LAST_STEP at the end. As steps shrink, so does the noise in the example, and its rate comes up.

    within a fixed region

        radius   WIDEST times the region's ---falling---> the region's (at WIDE_UNTIL) ------------------------------>
        steps    FIRST_STEP ---falling all along----------------------------------------------------> LAST_STEP

    for the smallest

        radius   WIDEST times loud --> loud, until SETTLED of all steps --> as small as most draws are heard -> by the wanted rate
        steps    FIRST_STEP ---falling--------------------> SHRINKING ---------------------------------> (from LAST on) LAST_STEP

What is heard in every room is found out where there is room for it, and kept while that shrinks. Loud is the clean input's own size.
From SETTLED on, a running mean of how many draws are at the goal says whether the radius falls or stays: it falls while more than
ENOUGH of them are, and grows, slowly, while less than FEW. With long steps it cannot say that, since then few draws are heard whatever
the radius: a search that shrank and grew by what it heard from the first step on only ever grew. From LAST on steps come to rest, more
is heard, and the radius goes to where a little more than the wanted rate is.

A channel that scatters phases, as rooms do, leaves draws to agree on gains of bands and moments (`audio/gains.py`). The rest is
mostly noise, but the direct sound, whose phase rooms share, is in it. How much of either a step takes, draws themselves say
(`agreement.py`): of the rest little at first, and more as steps become so short that the noise averages out.

Draws that have reached the goal keep its loss, and are moved further from the edge: the next room is another. Nobody leaves before all
check draws are at the goal, and the last example is put to them even if it seldom was: some rate is better than none.

What else was tried, and what it came to, is in `recipes/over_the_air.py`.
"""

import torch
from torch import Tensor

from audioadv.attacks.agreement import Agreement
from audioadv.attacks.nudge import nudge, own_size
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, cut, finite_rows
from audioadv.audio.gains import along_gains
from audioadv.models.rest import at_rest
from audioadv.threat.projections import each
from audioadv.threat.region import Region

MOMENTUM = 0.9  # of the direction, a running mean
FIRST_STEP, SHRINKING, LAST_STEP = 0.3, 0.02, 0.002  # of the radius
WIDEST, WIDE_UNTIL = 10.0, 0.3  # times the radius, share of the steps until it is one
SETTLED, LAST = 0.4, 0.85  # share of the steps
ENOUGH, FEW, WIDTH = 0.75, 0.4, 0.1  # of the draws; how much more or less changes the radius as fast as it may
FALL, GROW, LATE_GROW = 9.0, 1.8, 9.0  # nepers over as many steps as there are
HEARD = 32  # draws that the share of those heard is of
CHECKS = 10  # on the way, until LAST


def settle(
    objective: Objective, region: Region, *, steps: int, minimal: bool, seed: int, momentum: float | None, progress: Tell | None
) -> AttackResult:
    """Bring each example to its goal in the wanted share of draws, within its region or, `minimal`, within the smallest that can be found.

    Shapes: as in `region.clean` and `objective`, which has an expectation.
    """
    expectation = objective.expectation
    assert expectation is not None
    run, loud = Run(objective, region, progress), own_size(region) if minimal else region.radius
    delta, velocity, radius = nudge(region.at(loud), seed), region.start(), loud
    heard, found = torch.zeros_like(loud), torch.zeros_like(loud, dtype=torch.bool)
    wide, lasting = WIDE_UNTIL * (SETTLED if minimal else 1), max(1.0, HEARD / expectation.draws)  # share of the steps; looks
    momentum = MOMENTUM if momentum is None else momentum
    agreement = Agreement(momentum)
    denoised = expectation.channel.scatters and region.added  # how a sound is moved in time is no gain
    with at_rest(objective.model):
        for number in range(steps):
            done = number / steps
            inputs = run.region.inputs(delta, found)
            look = run.objective.look(inputs)
            worth = not minimal or done >= LAST or number % max(1, steps // CHECKS) == 0
            kept = run.keep(inputs, look.reached & found & worth, delta, anywhere=minimal)
            found = found | look.reached
            heard = heard.lerp(run.objective.shares().to(heard), 1 / lasting)

            if done < wide:
                radius = loud * WIDEST ** (1 - done / wide)
            elif not minimal or done < SETTLED:
                radius = loud
            else:
                radius = radius * change(heard, expectation.rate, done >= LAST, steps, lasting)
            here = run.region.at(radius)
            stride, slope = stride_at(done, minimal), look.slope
            if denoised:
                gains = along_gains(slope, inputs, expectation.heard_at(objective))
                slope = agreement.weighed((gains, slope - gains), stride)
            velocity = here.steady(here.pull(delta, slope)).lerp(velocity, momentum)
            delta = here.project(torch.addcmul(delta, each(stride * radius, delta), here.agreed(velocity), value=-1))
            if left := run.leave(finite_rows(look.loss, look.slope), kept & (not minimal)):
                delta, velocity, radius, loud, heard, found = cut(left, delta, velocity, radius, loud, heard, found)
                agreement.keep(left)
                if not len(delta):
                    break
        else:
            run.keep(run.region.inputs(delta, run.open()), run.open(), delta, anywhere=minimal)
    return run.result()


def stride_at(done: float, minimal: bool) -> float:
    """How long a step is, as a share of the radius, once this share of all steps is done."""

    def falling(first: float, last: float, share: float) -> float:
        return first * (last / first) ** share

    if not minimal:
        return falling(FIRST_STEP, LAST_STEP, done)
    if done < SETTLED:
        return falling(FIRST_STEP, SHRINKING, done / SETTLED)
    return falling(SHRINKING, LAST_STEP, max(0.0, (done - LAST) / (1 - LAST)))


def change(heard: Tensor, rate: float, last: bool, steps: int, lasting: float) -> Tensor:
    """What the radius is multiplied by, by how many more draws are heard than ENOUGH, or fewer than FEW.

    At last, than halfway from the wanted rate to all: where the rate itself is met, half of the checks fail. Never so fast that it is
    over before it is heard. Shapes: [batch] -> [batch].
    """
    fastest = 1 / (2 * lasting)
    few, enough, grow = ((1 + rate) / 2, (1 + rate) / 2, LATE_GROW) if last else (FEW, ENOUGH, GROW)
    growth = min(grow / steps, fastest) * ((few - heard) / WIDTH).clamp(0, 1)
    fall = min(FALL / steps, fastest) * ((heard - enough) / WIDTH).clamp(0, 1)
    return (growth - fall).exp()

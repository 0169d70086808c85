"""Signs that an evaluation is broken: an attack that fails for a reason of its own looks just like a model that is robust.

    evidence (what the attack saw, what cheaper attacks reached)  --indicator-->  sound, broken, or unknown where it was not looked at

One table, `INDICATORS`, the likeliest causes first: mend what is named first, and what follows from it goes too. What concerns
the way to the goal is asked of the misses only: an attack that got there got there.

Sources: Carlini et al. 2019, "On evaluating adversarial robustness", sections 3 to 5; Athalye, Carlini and Wagner 2018,
"Obfuscated gradients give a false sense of security"; Pintor et al. 2022, "Indicators of attack failure";
Tramèr, Carlini, Brendel and Madry 2020, "On adaptive attacks to adversarial example defenses".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

from audioadv.attacks.trace import Sight

FEW = 0.1  # of the misses: what is odd about so many may be theirs
LATE = 0.2  # of the loss's fall in the last quarter of the looks: it is still falling
UNSPENT = 0.5  # of the radius
UNSTABLE = 1e-4  # of the largest score: more than rounding

Reached = Sequence[bool]
"""Whether the goal was reached within the bound, example by example."""


@final
@dataclass(frozen=True)
class Evidence:
    """What is known of one attack on one batch; None: nobody looked.

    `felled` are its successes that hold when judged again, `claimed` and `refuted` count its claims within the bound and those
    that do not hold: those that the attack itself took back, where the model was not `asked` again. `probabilities`: the scores are
    a softmax's. `spread` is how far two answers to the same input lie apart, over the largest score; `passes` the forwards of one
    look. `searching`: the attack may leave the bound on its way. The others are what was reached by other means: random noise,
    scores alone, another model's examples, a larger radius, any radius.
    """

    sights: Sequence[Sight]
    felled: Reached
    claimed: int | None = None
    refuted: int = 0
    asked: bool = True
    searching: bool = False
    probabilities: bool | None = None
    spread: float | None = None
    passes: int = 1
    noise: Reached | None = None
    black_box: Reached | None = None
    transfer: Reached | None = None
    wider: Reached | None = None
    unbounded: Reached | None = None

    @property
    def missed(self) -> list[Sight]:
        """What was seen of the examples that the attack did not bring to the goal."""
        return [sight for sight in self.sights if not sight.reached]

    @property
    def looked(self) -> bool:
        """Whether the attack went by slopes."""
        return any(sight.looks for sight in self.sights)


class Verdict(NamedTuple):
    """Whether something is broken, and the figures that say so."""

    broken: bool
    figures: Mapping[str, float]


def probabilities_for_logits(evidence: Evidence) -> Verdict | None:
    """A softmax rounds to 0 and 1 where its logits still differ."""
    return None if evidence.probabilities is None else Verdict(evidence.probabilities, {"probabilities": evidence.probabilities})


def random_not_averaged(evidence: Evidence) -> Verdict | None:
    """Answers to the same input differ, and each look asks once."""
    if evidence.spread is None:
        return None
    return Verdict(evidence.spread > UNSTABLE and evidence.passes < 2, {"spread": evidence.spread, "passes": evidence.passes})


def no_gradient(evidence: Evidence) -> Verdict | None:
    """Slopes that say nothing: in most looks zero, or at some look not finite."""
    missed = evidence.missed
    if not evidence.looked:
        return None
    zero, broken = sum(2 * sight.zero > sight.looks for sight in missed), sum(sight.broken > 0 for sight in missed)
    return Verdict(zero + broken > FEW * len(missed), {"zero": zero, "broken": broken, "missed": len(missed)})


def loss_climbs(evidence: Evidence) -> Verdict | None:
    """The attack ends further from its goal than it began."""
    rises = [sight.rise for sight in evidence.missed if sight.rise is not None]
    if not evidence.looked or (evidence.missed and not rises):
        return None
    climbing = sum(rise > 0.5 for rise in rises)
    return Verdict(2 * climbing > len(rises), {"climbing": climbing, "missed": len(rises)})


def outside_the_bound(evidence: Evidence) -> Verdict | None:
    """Answers that do not count; or misses of an attack that stands outside, where nothing counts."""
    strayed = [sight.strayed for sight in evidence.sights if sight.reached or not evidence.searching]
    return Verdict(sum(strayed) > FEW * len(strayed), {"strayed": sum(strayed), "count": len(strayed)})


def success_lost(evidence: Evidence) -> Verdict | None:
    """The goal was reached within the bound, and the answer is another input."""
    if not evidence.looked and not any(sight.lost for sight in evidence.sights):
        return None
    lost = sum(sight.lost for sight in evidence.sights)
    return Verdict(lost > 0, {"lost": lost, "count": len(evidence.sights)})


def claims_fail(evidence: Evidence) -> Verdict | None:
    """Said to be reached, but not when the model is asked again."""
    if evidence.claimed is None:
        return None
    broken = evidence.refuted > FEW * evidence.claimed
    return Verdict(broken, {"refuted": evidence.refuted, "claimed": evidence.claimed}) if broken or evidence.asked else None


def budget_unspent(evidence: Evidence) -> Verdict | None:
    """Misses that end deep inside the bound."""
    spent = sorted(sight.spent for sight in evidence.missed if sight.spent is not None)
    if not spent:
        return Verdict(False, {"spent": 1.0, "missed": 0}) if not evidence.missed else None
    middle = spent[len(spent) // 2]
    return Verdict(middle < UNSPENT, {"spent": middle, "missed": len(spent)})


def cut_short(evidence: Evidence) -> Verdict | None:
    """Misses within the bound whose loss was still on its way."""
    tails = [sight.tail for sight in evidence.missed if sight.tail is not None and not sight.strayed]
    if not evidence.looked or (evidence.missed and not tails):
        return None
    falling = sum(tail > LATE for tail in tails)
    return Verdict(2 * falling > len(tails), {"falling": falling, "missed": len(tails)})


def more_budget_less(evidence: Evidence) -> Verdict | None:
    """What lies within a radius lies within a larger one."""
    if evidence.wider is None:
        return None
    before, after, count = sum(evidence.felled), sum(evidence.wider), len(evidence.felled)
    return Verdict(telling(before - after, count), {"before": before, "after": after, "count": count})


def unbounded_misses(evidence: Evidence) -> Verdict | None:
    """Whatever the model, some input reaches the goal."""
    if evidence.unbounded is None:
        return None
    return Verdict(not all(evidence.unbounded), {"reached": sum(evidence.unbounded), "count": len(evidence.unbounded)})


def noise_wins(evidence: Evidence) -> Verdict | None:
    """Random changes reach what the attack missed."""
    return beaten(evidence, evidence.noise)


def black_box_wins(evidence: Evidence) -> Verdict | None:
    """Scores alone reach what gradients missed."""
    return beaten(evidence, evidence.black_box)


def transfer_wins(evidence: Evidence) -> Verdict | None:
    """Examples made for another model reach what was missed on this one."""
    return beaten(evidence, evidence.transfer)


def beaten(evidence: Evidence, rival: Reached | None) -> Verdict | None:
    """Whether a weaker rival reached what the attack missed, more than by chance."""
    if rival is None:
        return None
    only = sum(theirs and not own for own, theirs in zip(evidence.felled, rival, strict=True))
    return Verdict(telling(only, len(rival)), {"only": only, "rival": sum(rival), "attack": sum(evidence.felled), "count": len(rival)})


def telling(surplus: int, count: int) -> bool:
    """Two at least, and one in twenty: a single one may fall to luck."""
    return surplus >= max(2, 0.05 * count)


@final
@dataclass(frozen=True)
class Indicator:
    """One way for an evaluation to be broken. `saw` is a template for the verdict's figures; `cure` says what to do about it."""

    name: str
    ask: Callable[[Evidence], Verdict | None]
    saw: str
    why: str
    cure: str


INDICATORS: Final = (
    Indicator(
        "probabilities for logits",
        probabilities_for_logits,
        "a softmax's scores: {probabilities}",
        "A softmax of a confident model is 0 or 1 to the last bit, and its slope zero: attacks fail for want of digits.",
        "Attack the logits before the softmax, or their logarithm.",
    ),
    Indicator(
        "random, not averaged",
        random_not_averaged,
        "two answers to one input differ by {spread:.2g} of the largest score; forwards a look: {passes}",
        "One draw's slope is another defense's slope: the attack is pulled here and there, and its successes are luck.",
        "Average over draws: objective(..., expectation=Expectation(channel, draws=32)), and judge by rate.",
    ),
    Indicator(
        "no gradient",
        no_gradient,
        "of {missed} misses, {zero} had a zero slope in most looks, {broken} one that is not finite",
        "The attack stood still, or was thrown out. Nothing was tested.",
        "Where a step is flat (rounding, a saturated softmax), give it a stand-in's slope: BPDA(step). Try the loss of `margin` or `dlr`, "
        "float64, or slopes from scores: objective(..., slopes=nes()).",
    ),
    Indicator(
        "loss climbs",
        loss_climbs,
        "of {missed} misses, {climbing} ended further from the goal than they began",
        "The attack walks away from its goal: a sign is wrong, the slope is not the model's own, or steps are far too long.",
        "Check the sign of the loss and of the step, compare the slope with differences of the loss, and shorten the steps.",
    ),
    Indicator(
        "outside the bound",
        outside_the_bound,
        "{strayed} of {count} answers or last iterates lie outside the bound",
        "What is outside does not count, and an attack that walks out there misses what it could have had inside.",
        "Project after every step, onto bound and box at once: region.project(delta). Use one metric for projecting and for measuring.",
    ),
    Indicator(
        "success lost",
        success_lost,
        "{lost} of {count} examples were at the goal within the bound, and came back as misses",
        "A later step went past the goal, and the last iterate was returned: the attack is stronger than its figure.",
        "Keep the best iterate of every example, judged where it was seen: Run.keep(inputs, reached).",
    ),
    Indicator(
        "claims fail",
        claims_fail,
        "{refuted} of {claimed} successes do not hold when the model is asked again",
        "A success that does not repeat is none: the model is random, remembers, or is not the one that was attacked.",
        "Judge the answer anew, as it is written, on the model that the figure is about.",
    ),
    Indicator(
        "budget unspent",
        budget_unspent,
        "of {missed} misses, the middle one ended at {spent:.2g} of the radius",
        "The strongest changes are at the edge of the bound; the attack never came there.",
        "Take longer steps or more of them: steps times step_size should be several radii.",
    ),
    Indicator(
        "cut short",
        cut_short,
        "of {missed} misses, {falling} were still nearing the goal when the steps were over",
        "The attack was stopped on its way: the figure measures patience, not robustness.",
        "Double the steps until the figure no longer moves, or use apgd, which fits its steps to its budget.",
    ),
    Indicator(
        "more budget, less success",
        more_budget_less,
        "{before} of {count} reached within the radius, {after} within a larger one",
        "The larger set holds the smaller one: an attack that fares worse there has lost its way.",
        "Scale step_size with the radius, take several steps instead of one, and look for slopes that vanish far from the clean input.",
    ),
    Indicator(
        "unbounded misses",
        unbounded_misses,
        "{reached} of {count} reached without a bound",
        "Any input may be turned into any other there: an attack that still fails is broken.",
        "Find out why before anything else is measured: print loss and slope of one example, step by step.",
    ),
    Indicator(
        "noise wins",
        noise_wins,
        "noise alone reached {only} that the attack missed (noise {rival}, attack {attack} of {count})",
        "An optimiser that is worse than chance optimises something else.",
        "Check loss, slope and projection; keep the best iterate; add restarts.",
    ),
    Indicator(
        "black box wins",
        black_box_wins,
        "scores alone reached {only} that the attack missed (scores {rival}, attack {attack} of {count})",
        "An attacker who sees more cannot do worse: the gradients do not show what the scores do (they are masked).",
        "Replace what masks them: BPDA for flat or shattered steps, Expectation for random ones, logits for a saturated loss.",
    ),
    Indicator(
        "transfer wins",
        transfer_wins,
        "another model's examples reached {only} that the attack missed (transfer {rival}, attack {attack} of {count})",
        "The examples exist, and the model's own gradients do not lead to them.",
        "As when a black box wins; and attack through the substitute's slopes: BPDA(model, stand_in=substitute).",
    ),
)


@final
@dataclass(frozen=True)
class Finding:
    """What one indicator makes of the evidence; a `verdict` of None: nobody looked."""

    indicator: Indicator
    verdict: Verdict | None

    @property
    def broken(self) -> bool:
        """Whether it says that something is."""
        return self.verdict is not None and self.verdict.broken

    @property
    def word(self) -> str:
        """sound, broken or unknown."""
        return "unknown" if self.verdict is None else "broken" if self.verdict.broken else "sound"

    @property
    def saw(self) -> str:
        """What was seen, in words and figures; nothing where nobody looked."""
        return "" if self.verdict is None else self.indicator.saw.format(**self.verdict.figures)

    def line(self) -> dict[str, Any]:
        """As one JSON object."""
        figures = {} if self.verdict is None else dict(self.verdict.figures)
        words = {"why": self.indicator.why, "cure": self.indicator.cure} if self.broken else {}
        return {"indicator": self.indicator.name, "verdict": self.word, "saw": self.saw, "figures": figures, **words}


@final
@dataclass(frozen=True)
class Checkup:
    """Every indicator's finding, in the order of the table.

    >>> fine = Checkup.of(Evidence([Sight(reached=True, looks=3)], [True]))
    >>> fine.sound, len(fine.findings)
    (True, 14)
    """

    findings: tuple[Finding, ...]

    @staticmethod
    def of(evidence: Evidence) -> "Checkup":
        """What all indicators make of it."""
        return Checkup(tuple(Finding(indicator, indicator.ask(evidence)) for indicator in INDICATORS))

    @property
    def broken(self) -> list[str]:
        """The names of what is broken, the likeliest cause first."""
        return [finding.indicator.name for finding in self.findings if finding.broken]

    @property
    def sound(self) -> bool:
        """Whether no indicator speaks. No proof: an attack can fail in ways that nobody looked for."""
        return not self.broken

    def __str__(self) -> str:
        """A line for each indicator, and what to do where one speaks."""
        rows = [f"{finding.word:8} {finding.indicator.name:26} {finding.saw}" for finding in self.findings]
        advice = [f"{f.indicator.name}: {f.indicator.why} {f.indicator.cure}" for f in self.findings if f.broken]
        return "\n".join([*rows, *advice])

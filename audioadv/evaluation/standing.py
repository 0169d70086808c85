"""What evaluations of classifiers and of recognisers tell alike: who stands against which attack, and what it took."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from audioadv.attacks.result import Outcome
from audioadv.defenses.statement import PLAIN, Statement
from audioadv.evaluation.rates import Rate, security_curve

NONE_LEFT = "-   none was left to try"  # whoever tried nothing has no rate, and least of all 100 %


@dataclass(frozen=True, eq=False, kw_only=True)
class Attempt:
    """One attack's part. Shapes [examples]: tried and felled bool, forwards and backwards int64.

    A `static` one did not know of the defense.
    """

    attack: str
    tried: Tensor
    felled: Tensor
    forwards: Tensor
    backwards: Tensor
    static: bool = False

    @property
    def passes(self) -> tuple[int, int]:
        """Forwards and backwards, of all examples."""
        return int(self.forwards.sum()), int(self.backwards.sum())


@dataclass(frozen=True, eq=False, kw_only=True)
class Standing:
    """What became of each example, and what it took.

    Shapes: correct bool [examples], before any attack; gauge [examples], of the nearest adversarial input found (zero where the model
    was wrong from the start, infinite where none was found); adversarial [examples, *], clean where none was found.
    `statement` is what the model says of itself.
    """

    bound: str
    correct: Tensor
    gauge: Tensor
    adversarial: Tensor
    outcome: tuple[Outcome, ...]
    trials: tuple[Attempt, ...]
    statement: Statement = PLAIN
    each: ClassVar[str] = "an example"

    @property
    def robust(self) -> Tensor:
        """Right, and not felled by any attack: the union over attacks. Shapes: bool [examples]."""
        return self.correct & self.gauge.isinf()

    @property
    def accuracy(self) -> Rate:
        """How many were right before any attack."""
        return self.rate(self.correct)

    @property
    def robust_accuracy(self) -> Rate:
        """How many are right against these attacks: an upper bound of the true number."""
        return self.rate(self.robust)

    @property
    def static_accuracy(self) -> Rate | None:
        """The same against an attacker who does not know of the defense; None where there is none to know of."""
        felled = [trial.felled for trial in self.trials if trial.static]
        return self.rate(self.correct & ~torch.stack(felled).any(0)) if felled else None

    @property
    def attacked_twice(self) -> bool:
        """Whether some attacks knew of the defense, and some did not."""
        return len({trial.static for trial in self.trials}) == 2

    @property
    def forwards(self) -> int:
        """Forward passes of all attacks, one for each example and pass; judging the clean inputs and each find is not in it."""
        return sum(trial.passes[0] for trial in self.trials)

    @property
    def backwards(self) -> int:
        """Backward passes of all attacks."""
        return sum(trial.passes[1] for trial in self.trials)

    def rate(self, rows: Tensor) -> Rate:
        """The share of the examples that these are. Shapes: bool [examples]."""
        return Rate(int(rows.sum()), len(rows))

    def curve(self, radii: Sequence[float]) -> list[tuple[float, Rate]]:
        """The security curve: for each radius, how many no change up to it (and its rounding) fells, by the smallest found.

        Radii are the norm's: of `snr`, the length of the change itself. Of attacks within a fixed bound it tells little; evaluate with
        a `min` bound, and attacks that search for the smallest. Raises OptionError for radii that are no numbers of at least 0.
        """
        return security_curve(self.gauge, radii)

    def lines(self) -> list[dict[str, Any]]:
        """One object for the clean inputs, one for each attack, one for their union: figures, rates, intervals and cost. A defense that was
        attacked twice has one more, before the last: the union of the attacks that did not know of it.

        An attack's figures are what its own finds leave of all: it saw only as many as it `tried`, not those that fell before.
        """
        everyone = len(self.correct)
        rows = [("clean", everyone, self.accuracy, (0, 0))]
        rows += [(trial.attack, int(trial.tried.sum()), self.rate(self.correct & ~trial.felled), trial.passes) for trial in self.trials]
        if self.attacked_twice and self.static_accuracy is not None:
            unaware = [trial.passes for trial in self.trials if trial.static]
            rows.append(
                ("all, static", everyone, self.static_accuracy, (sum(there for there, _ in unaware), sum(back for _, back in unaware)))
            )
        rows.append(("all", everyone, self.robust_accuracy, (self.forwards, self.backwards)))
        return [
            {"attack": name, **figures, "accuracy": rate.value, "interval": rate.interval, "count": rate.count, "tried": tried}
            | {"forwards": forwards, "backwards": backwards}
            for (name, tried, rate, (forwards, backwards)), figures in zip(rows, self.figures(), strict=True)
        ]

    def figures(self) -> Iterator[dict[str, Any]]:
        """What else there is to say in each of the `lines`."""
        for _ in range(len(self.trials) + 2 + self.attacked_twice):
            yield {}

    def __str__(self) -> str:
        """A table: figures and rates with intervals, how many were tried, and passes an example; no rate where none was left to try."""
        wide = max([20, *(len(trial.attack) + 2 for trial in self.trials)])
        said = "" if self.statement == PLAIN else f" ({self.statement})"
        head = f"{self.bound}{said}\n{'':{wide}}{self.heading()}{'tried':>6}{'forwards':>10}{'backwards':>10}   {self.each}"
        rows = [
            f"{line['attack']:{wide}}{self.cells(line) if line['tried'] else f'{NONE_LEFT:{len(self.heading())}}'}{line['tried']:6}"
            f"{line['forwards'] / line['count']:10.1f}{line['backwards'] / line['count']:10.1f}"
            for line in self.lines()
            if line["count"]
        ]
        return "\n".join([head, *rows])

    def heading(self) -> str:
        """What stands over the `cells`."""
        return f"{'accuracy':34}"

    def cells(self, line: dict[str, Any]) -> str:
        """What the table shows of a line, before its passes."""
        return f"{Rate(round(line['accuracy'] * line['count']), line['count'])!s:34}"

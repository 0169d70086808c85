"""How robust a recogniser is: word errors before and after, clip by clip, against the union of attacks.

    clips --heard alone--> under `errors`?  --attack 1--> standing? --attack 2--> standing? ...
              WER before                        WER after: the worst that any of them found

What counts is heard again, each clip alone, on the 16-bit samples that a file would hold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from audioadv.attacks.estimates import nes
from audioadv.attacks.objective import objective
from audioadv.attacks.result import Outcome
from audioadv.attacks.survivors import Attack
from audioadv.attacks.union import worst_member
from audioadv.attacks.worsen import worsen
from audioadv.audio.files import BOX, FULL_SCALE, round16
from audioadv.defenses.preprocessing import undefended
from audioadv.defenses.statement import stated
from audioadv.errors import OptionError, UnusableBatch
from audioadv.evaluation.rates import Rate
from audioadv.evaluation.terms import agreed, refuse_senseless
from audioadv.evaluation.words import WordErrors
from audioadv.models.access import Access
from audioadv.models.classifier import granting
from audioadv.models.recogniser import Recogniser
from audioadv.threat.goals import Mistranscribe
from audioadv.threat.model import TOLERANCE


@final
@dataclass(frozen=True, eq=False)
class SpeechTrial:
    """One attack's part. Shapes [clips]: tried and felled bool, forwards, backwards; `heard` is the worst that it found, clip by clip."""

    attack: str
    tried: Tensor
    felled: Tensor
    heard: tuple[str, ...]
    forwards: Tensor
    backwards: Tensor


@final
@dataclass(frozen=True, eq=False)
class SpeechEvaluation:
    """What became of each clip, and what it took.

    A clip falls where its word error rate comes to `errors`. Shapes: gauge [clips], of the nearest change found that fells it (zero where
    it was misheard so from the start, infinite where none was found); adversarial [clips, time], what `heard` was heard of.
    """

    bound: str
    errors: float
    references: tuple[str, ...]
    heard_before: tuple[str, ...]
    heard: tuple[str, ...]
    gauge: Tensor
    adversarial: Tensor
    lengths: Tensor
    outcome: tuple[Outcome, ...]
    trials: tuple[SpeechTrial, ...]

    @property
    def before(self) -> WordErrors:
        """Word errors on the clean clips."""
        return WordErrors.of(self.references, self.heard_before)

    @property
    def after(self) -> WordErrors:
        """Word errors on the worst that was found for each: a lower bound of the true ones."""
        return WordErrors.of(self.references, self.heard)

    @property
    def robust(self) -> Tensor:
        """Whether each clip's word error rate is under `errors` still. Shapes: bool [clips]."""
        return self.gauge.isinf()

    @property
    def accuracy(self) -> Rate:
        """Clips whose word error rate was under `errors` before."""
        return Rate(int((self.gauge > 0).sum()), len(self.gauge))

    @property
    def robust_accuracy(self) -> Rate:
        """Clips whose word error rate is under `errors` still: an upper bound of the true number."""
        return Rate(int(self.robust.sum()), len(self.gauge))

    def curve(self, radii: Sequence[float]) -> list[tuple[float, Rate]]:
        """The security curve: for each radius, how many clips no change up to it (and its rounding) fells, by the smallest found.

        Radii are the norm's: of `snr`, the length of the change itself. Evaluate with a `min` bound, and attacks that search for
        the smallest.
        """
        return [(radius, Rate(int((self.gauge > radius * (1 + TOLERANCE)).sum()), len(self.gauge))) for radius in radii]

    def lines(self) -> list[dict[str, Any]]:
        """One object for the clean clips, one for each attack, one for their union: word errors, rates, intervals and cost.

        An attack's figures are what its own finds leave: it may not have seen clips that fell before.
        """
        rows = [("clean", self.accuracy, self.before, 0, 0)]
        for trial in self.trials:
            left = Rate(int(((self.gauge > 0) & ~trial.felled).sum()), len(self.gauge))
            rows.append((trial.attack, left, WordErrors.of(self.references, trial.heard), *passes(trial)))
        total = [sum(counts) for counts in zip((0, 0), *map(passes, self.trials), strict=True)]
        rows.append(("all", self.robust_accuracy, self.after, total[0], total[1]))
        return [
            {
                "attack": name,
                "wer": errors.value,
                "wer_interval": errors.interval,
                "accuracy": rate.value,
                "interval": rate.interval,
                "count": rate.count,
                "forwards": forwards,
                "backwards": backwards,
            }
            for name, rate, errors, forwards, backwards in rows
        ]

    def __str__(self) -> str:
        """A table: word errors and clips under `errors`, both with intervals, and passes a clip."""
        head = f"{self.bound}\n{'':20}{'WER, %':26}{f'clips under {100 * self.errors:g} %':34}{'forwards':>10}{'backwards':>10}   a clip"
        rows = []
        for line in self.lines():
            low, high = line["wer_interval"]
            errors = f"{100 * line['wer']:.1f} ({100 * low:.1f} .. {100 * high:.1f})"
            rate, count = Rate(round(line["accuracy"] * line["count"]), line["count"]), line["count"]
            rows.append(f"{line['attack']:20}{errors:26}{rate!s:34}{line['forwards'] / count:10.1f}{line['backwards'] / count:10.1f}")
        return "\n".join([head, *rows])


def passes(trial: SpeechTrial) -> tuple[int, int]:
    """Forwards and backwards of all clips."""
    return int(trial.forwards.sum()), int(trial.backwards.sum())


def evaluate_speech(
    model: Recogniser,
    waveforms: Tensor,
    lengths: Tensor,
    references: Sequence[str],
    threat: object,
    attacks: Mapping[str, Attack],
    *,
    errors: float = 0.5,
    batch: int = 16,
    all_attacks_see_all: bool = False,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> SpeechEvaluation:
    """What `evaluate` does for a recogniser and what was said in each clip.

    Within a fixed bound each attack goes for as many word errors as it can get (`attacks.worsen`); a `min` bound, or a limit on
    queries, asks for `errors` alone. Only clips that are under `errors` are attacked. A model that draws, remembers or detects is
    an OptionError. Shapes: waveforms [clips, time], lengths [clips] in samples. Raises UnusableBatch, OptionError, AccessDenied.
    """
    if not len(references) == len(waveforms) == len(lengths):
        raise UnusableBatch(f"{len(references)} texts and {len(lengths)} lengths for {len(waveforms)} clips: give one of each for each")
    goal, waveforms, statement = Mistranscribe(references, errors), round16(waveforms), stated(model)
    terms = agreed(threat, goal, statement)
    if statement.random or statement.remembers or statement.detects:
        cure = "craft(undefended(model), ..., channel=...) and survive count over draws; craft takes & Undetected(); games.play has rounds"
        raise OptionError(f"{model.name} states '{statement}': evaluate hears a clip once, and would say too much of it. {cure}")
    if terms.knowledge == "transfer":
        raise OptionError(
            "knowledge 'transfer': evaluate has no substitute for a recogniser. Use craft on the one, transcribe on the other"
        )
    bound, model = terms.bound.at_rate(model.sample_rate), terms.granting(model)
    victim = granting(undefended(model), model.access) if terms.knowledge == "oblivious" else model
    blind = statement.backward == "none" and victim is model and model.access is not Access.DECISIONS
    climbs = not bound.minimal and terms.queries is None  # who may not ask for ever asks for `errors` at once
    bound.around(waveforms[:1], lengths[:1], BOX)  # which checks that it is one for sounds, before any work
    refuse_senseless(bound, [row[:length] for row, length in zip(waveforms, lengths.tolist(), strict=True)])
    before = [alone(model, row, int(length)) for row, length in zip(waveforms, lengths, strict=True)]
    rates = WordErrors.of(goal.references, before).rates
    gauge = torch.tensor([math.inf if rate < errors else 0.0 for rate in rates])
    worst, heard, adversarial = list(rates), list(before), waveforms.clone()
    ends = [Outcome.MISSED if rate < errors else Outcome.NEEDLESS for rate in rates]
    trials: list[SpeechTrial] = []
    spent = torch.zeros(len(before), dtype=torch.int64)  # forwards so far: queries are all attacks' together
    for name, attack in attacks.items():
        tried = gauge > 0 if all_attacks_see_all or bound.minimal else gauge.isinf()
        felled, own, cost = torch.zeros_like(tried), list(before), torch.zeros(2, len(before), dtype=torch.int64)
        for rows in torch.split(tried.nonzero()[:, 0], batch):
            if not len(rows):  # all have fallen: of nothing, split makes one part
                break
            here = rows.to(waveforms.device)
            some = lengths[here]
            region = bound.around(waveforms[here, : int(some.max())], some, BOX, 1.0 / FULL_SCALE)
            wanted = objective(victim, goal.rows(rows), some, slopes=nes(seed=seed) if blind else None)
            result = worst_member(partial(worsen, attack) if climbs else attack, wanted, region)
            cost[:, rows] += torch.stack([result.forwards, result.backwards])
            reached = torch.tensor(result.reached)
            spent[rows] += result.forwards
            late = reached & ~terms.within_queries(name, reached, spent[rows])
            known = region.knowing(result.parameters)
            written = round16(result.adversarial)
            sizes = known.gauge(written)
            inside = ((sizes.isfinite() if bound.minimal else known.holds(sizes)).cpu() & ~late).tolist()
            for row, i in enumerate(rows.tolist()):
                size, length = float(sizes[row]), int(some[row])
                text = alone(model, written[row], length) if inside[row] else before[i]
                (rate,) = WordErrors.of(goal.references[i : i + 1], [text]).rates
                own[i] = text if rate > rates[i] else before[i]
                felled[i] = rate >= errors
                if ends[i] is Outcome.MISSED and not felled[i] and result.outcome[row] is Outcome.NOT_FINITE:
                    ends[i] = Outcome.NOT_FINITE
                if (felled[i] and size < gauge[i]) if bound.minimal else rate > worst[i]:
                    worst[i], heard[i], adversarial[i] = rate, text, 0.0
                    adversarial[i, :length] = written[row, :length]
                if felled[i]:
                    gauge[i], ends[i] = min(float(gauge[i]), size), Outcome.REACHED
            if progress is not None:
                progress(name, int(rows[-1]) + 1, len(before))
        trials.append(SpeechTrial(name, tried, felled, tuple(own), *cost))
    said = tuple(goal.references)
    return SpeechEvaluation(str(bound), errors, said, tuple(before), tuple(heard), gauge, adversarial, lengths, tuple(ends), tuple(trials))


def alone(model: Recogniser, samples: Tensor, length: int) -> str:
    """What one clip is heard as by itself. Shapes: samples [time], zeros past its length."""
    return model.transcribe(samples[None, :length], torch.tensor([length]))[0]

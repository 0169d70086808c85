"""How robust a recogniser is: word errors before and after, clip by clip, against the union of attacks.

    clips --heard alone--> under `errors`?  --attack 1--> standing? --attack 2--> standing? ...
              WER before                        WER after: the worst that any of them found

What counts is heard again, each clip alone, on the 16-bit samples that a file would hold. A defense is attacked twice, as a
classifier's is (`adaptive.py`). A random one is heard in draws of its own, and what counts is the median transcript; where a detector
refuses the clip, the attacker has got nothing.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor

from audioadv.attacks.craft import check_clips
from audioadv.attacks.result import Attack, AttackResult, Outcome
from audioadv.attacks.worsen import worsen
from audioadv.audio.files import round16
from audioadv.audio.ragged import pad
from audioadv.errors import UnknownModel, UnusableBatch, UnusableTarget
from audioadv.evaluation.adaptive import PEEK, disagreements
from audioadv.evaluation.campaign import Campaign
from audioadv.evaluation.standing import Attempt, Standing
from audioadv.evaluation.terms import refuse_ignored, refuse_senseless
from audioadv.evaluation.words import WordErrors
from audioadv.models.recogniser import Recogniser, hears
from audioadv.threat.bounds import Bound, around_sound
from audioadv.threat.channels.channel import NOTHING
from audioadv.threat.channels.heard import heard_through
from audioadv.threat.goals import USUAL_ERRORS, Mistranscribe, Transcribe, as_texts, check_spelt
from audioadv.threat.region import Region
from audioadv.threat.spelling import columns_of
from audioadv.threat.undetected import Undetected
from audioadv.threat.words import plain_words


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class SpeechTrial(Attempt):
    """One attack's part, of a recogniser; `heard` is the worst that it found, clip by clip."""

    heard: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class SpeechEvaluation(Standing):
    """What became of each clip of a recogniser.

    A clip is right while its word error rate is under `errors`. `heard` was heard of `adversarial` [clips, time]; of a random
    recogniser, it is the median transcript over draws (`Judge`).
    """

    errors: float
    references: tuple[str, ...]
    heard_before: tuple[str, ...]
    heard: tuple[str, ...]
    lengths: Tensor
    trials: tuple[SpeechTrial, ...]
    each: ClassVar[str] = "a clip"

    @property
    def before(self) -> WordErrors:
        """Word errors on the clean clips."""
        return WordErrors.of(self.references, self.heard_before)

    @property
    def after(self) -> WordErrors:
        """Word errors on the worst that was found for each: a lower bound of the true ones."""
        return WordErrors.of(self.references, self.heard)

    @property
    def static_after(self) -> WordErrors | None:
        """Word errors on the worst that was found by someone who does not know of the defense; None where there is none to know of."""
        found = [WordErrors.of(self.references, trial.heard).wrong for trial in self.trials if trial.static]
        return WordErrors(tuple(map(max, *found, found[0])), self.before.words) if found else None

    def figures(self) -> Iterator[dict[str, Any]]:
        """Word error rates, and their intervals."""
        each = [WordErrors.of(self.references, trial.heard) for trial in self.trials]
        static = [self.static_after] if self.attacked_twice else []
        for errors in filter(None, (self.before, *each, *static, self.after)):
            yield {"wer": errors.value, "wer_interval": errors.interval}

    def heading(self) -> str:
        """Word errors, and clips under `errors`."""
        return f"{'WER, %':26}{f'clips under {100 * self.errors:g} %':34}"

    def cells(self, line: dict[str, Any]) -> str:
        """Both of them, with intervals."""
        rate, low, high = (100 * figure for figure in (line["wer"], *line["wer_interval"]))
        return f"{f'{rate:.1f} ({low:.1f} .. {high:.1f})':26}{super().cells(line)}"


@final
@dataclass(frozen=True, eq=False)
class Judge:
    """What a clip is heard as, alone: once, or in so many draws of a random model; `detects`, by a model that may refuse it."""

    model: Recogniser
    looks: int = 1
    detects: bool = False

    def hears(self, samples: Tensor, reference: str) -> str | None:
        """The median transcript over draws, ranked by word errors, where refused draws rank as harmless; None if the median is refused.

        Shapes: samples [time].
        """
        texts, unseen = list[str](), list[bool]()
        for outputs in heard_through(self.model, samples, NOTHING, draws=self.looks, clip=0):
            texts += outputs.transcripts()
            unseen += Undetected().reached(outputs).tolist() if self.detects else [True] * len(outputs.frames)
        rates = WordErrors.of([reference] * len(texts), texts).rates
        worst_first = sorted(range(len(texts)), key=lambda i: (unseen[i], rates[i]), reverse=True)
        middle = worst_first[-(-len(texts) // 2) - 1]
        return texts[middle] if unseen[middle] else None


def disagreed(model: Recogniser, goal: Mistranscribe, waveforms: Tensor, lengths: Tensor, rows: Tensor) -> list[str]:
    """Where what the model states is not what it does on the first of these clips (`adaptive.disagreements`). Shapes: rows [some]."""
    some = rows[:PEEK].to(waveforms.device)
    if not len(some):
        return []
    return disagreements(model, goal.rows(rows[:PEEK]), waveforms[some, : int(lengths[some].max())], lengths[some])


def in_one_batch(model: Recogniser, inputs: object, lengths: object, references: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Clips, or waveforms [clips, time] with their lengths [clips], as the latter. Raises UnusableBatch for what is neither, and for
    clips at another rate than the model's; OptionError for lengths beside clips."""
    if isinstance(inputs, Tensor):
        if not isinstance(lengths, Tensor):
            wish = "Give lengths=, the clips' own in samples (torch.as_tensor(lengths)), or clips: read_audio(paths)"
            raise UnusableBatch(f"lengths of type {type(lengths).__name__}: waveforms in one tensor are padded. {wish}")
        return inputs, lengths
    if not isinstance(inputs, list | tuple):
        wish = f"clips, read_audio(paths, {model.sample_rate}), or waveforms in one tensor, with lengths="
        raise UnusableBatch(f"inputs of type {type(inputs).__name__}: give {wish}")
    refuse_ignored({"lengths": lengths is not None}, "clips, which have their own")
    if not inputs:
        raise UnusableBatch("no clips, and of none there are no word errors: give some")
    check_clips(model, inputs, Mistranscribe(references))
    return pad([clip.samples.to(model.device) for clip in inputs])


def misheard(references: Sequence[str], errors: float, model: Recogniser) -> Mistranscribe:
    """To mishear each reference: as it stands where the model writes all of it, else its words without punctuation.

    Raises UnusableTarget, with the reference's number, for one without a word, or of letters that the model does not write.
    """
    texts = list[str]()
    for number, given in enumerate(as_texts(references)):
        texts.append(plain_words(given) if columns_of(given, model.vocabulary) is None else given)
        if not plain_words(given):
            raise UnusableTarget(f"reference {number}, {given!r}: there is no word in it to mishear. Give what was said in the clip")
        try:
            check_spelt(Transcribe(texts[-1]), model.vocabulary)
        except UnusableTarget as error:
            raise UnusableTarget(f"reference {number}: {error}") from error
    return Mistranscribe(texts, errors)


def evaluate_speech(
    model: Recogniser,
    waveforms: Tensor,
    lengths: Tensor,
    references: Sequence[str],
    threat: object,
    attacks: Mapping[str, Attack],
    *,
    errors: float = USUAL_ERRORS,
    batch: int = 16,
    all_attacks_see_all: bool = False,
    static: Callable[..., Any] | None = None,
    draws: int = 8,
    judge_draws: int = 32,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> SpeechEvaluation:
    """What `evaluate` does for a recogniser and what was said in each clip.

    Within a fixed bound each attack goes for as many word errors as it can get (`attacks.worsen`); a `min` bound, or a limit on
    queries, asks for `errors` alone. Only clips that are under `errors` are attacked. A model that remembers is an OptionError.
    Shapes: waveforms [clips, time], lengths [clips] in samples.
    Raises UnusableBatch, UnusableTarget, OptionError, AccessDenied, UnknownModel.
    """
    if not len(references) == len(waveforms) == len(lengths):
        raise UnusableBatch(f"{len(references)} texts and {len(lengths)} lengths for {len(waveforms)} clips: give one of each for each")
    if not len(references):
        raise UnusableBatch("no clips, and of none there are no word errors: give some")
    goal, waveforms = misheard(references, errors, model), round16(waveforms)
    if static is not None and not (hears(static) and static.sample_rate == model.sample_rate):
        raise UnknownModel(f"static: no recogniser at {model.sample_rate} Hz, as {model.name} is one. Give one that hears the same clips")
    options: dict[str, Any] = {"lengths": lengths, "static": static, "draws": draws, "judge_draws": judge_draws, "seed": seed}
    campaign = Campaign.against(model, goal, threat, len(references), **options)
    bound, statement, model = campaign.terms.bound.at_rate(model.sample_rate), campaign.statement, campaign.model
    climbs = not bound.minimal and campaign.terms.queries is None  # who may not ask for ever asks for `errors` at once
    tries: dict[str, Attack] = {name: partial(worsen, attack) if climbs else attack for name, attack in attacks.items()}
    rounds = campaign.rounds(tries, tries, to_its_end=not bound.minimal)

    looks = judge_draws if statement.random else 1
    plain, judge = Judge(model, looks), Judge(model, looks, statement.detects)  # a clip that nobody attacked is heard, refused or not
    around_sound(bound, waveforms[:1], lengths[:1])  # which checks that it is one for sounds, before any work
    clips = [row[:length] for row, length in zip(waveforms, lengths.tolist(), strict=True)]
    refuse_senseless(bound, clips)
    before = tuple(plain.hears(samples, text) or "" for samples, text in zip(clips, goal.references, strict=True))
    referee = SpeechReferee.begun(judge, bound, goal, before, waveforms, lengths)
    for sentence in disagreed(model, goal, waveforms, lengths, referee.correct.nonzero()[:, 0]):
        warnings.warn(sentence, stacklevel=3)
    trials = campaign.fight(rounds, waveforms, referee, batch=batch, see_all=all_attacks_see_all, tell=progress)
    return SpeechEvaluation(
        bound=str(bound),
        errors=errors,
        references=goal.references,
        heard_before=before,
        heard=tuple(referee.heard),
        correct=referee.correct,
        gauge=referee.gauge,
        adversarial=referee.adversarial,
        lengths=lengths,
        outcome=tuple(referee.ends),
        trials=trials,
        statement=statement,
    )


@final
@dataclass(frozen=True, eq=False)
class SpeechReferee:
    """What has become of each clip, attack by attack.

    Shapes [clips, time]: waveforms, and adversarial, the worst (or nearest) find, clean where there is none; [clips]: lengths in samples,
    correct, gauge. `before` was heard of the clean clips, at `rates`.
    """

    hearing: Judge
    bound: Bound
    goal: Mistranscribe
    waveforms: Tensor
    lengths: Tensor
    before: tuple[str, ...]
    rates: tuple[float, ...]
    worst: list[float]
    heard: list[str]
    ends: list[Outcome]
    correct: Tensor
    gauge: Tensor
    adversarial: Tensor

    @classmethod
    def begun(cls, hearing: Judge, bound: Bound, goal: Mistranscribe, before: tuple[str, ...], waveforms: Tensor, lengths: Tensor) -> Self:
        """Where nobody has attacked yet. Shapes: waveforms [clips, time], lengths [clips]."""
        rates = WordErrors.of(goal.references, before).rates
        correct = torch.tensor([rate < goal.errors for rate in rates])
        return cls(
            hearing,
            bound,
            goal,
            waveforms,
            lengths,
            before,
            rates,
            worst=list(rates),
            heard=list(before),
            ends=[Outcome.MISSED if right else Outcome.NEEDLESS for right in correct.tolist()],
            correct=correct,
            gauge=torch.where(correct, torch.inf, 0.0),
            adversarial=waveforms.clone(),
        )

    def around(self, rows: Tensor) -> Region:
        """What these clips may be changed to, no wider than the longest of them. Shapes: int64 [rows]."""
        here = rows.to(self.waveforms.device)
        lengths = self.lengths[here]
        return around_sound(self.bound, self.waveforms[here, : int(lengths.max())], lengths)

    def judge(
        self, rows: Tensor, region: Region, result: AttackResult, in_time: Callable[[Tensor], Tensor]
    ) -> tuple[list[bool], list[str]]:
        """Take in an attack's finds (`Referee.judge`), as files would hold them; told is what each was heard as, if it is any worse."""
        reached = torch.tensor(result.reached)
        late = reached & ~in_time(reached)
        written, sizes, inside = as_written(self.bound, region, result)
        fell, told = list[bool](), list[str]()
        for row, i in enumerate(rows.tolist()):
            samples = written[row, : int(self.lengths[i])]
            found = self.hearing.hears(samples, self.goal.references[i]) if inside[row] and not late[row] else None
            text, falls = self.note(i, found, float(sizes[row]), samples, result.outcome[row])
            fell.append(falls)
            told.append(text)
        return fell, told

    def note(self, i: int, found: str | None, size: float, samples: Tensor, outcome: Outcome) -> tuple[str, bool]:
        """Take in what clip `i` was heard as after an attack (None: what does not count), in a change of this size.

        What is kept is the worst that was heard, or, of a `min` bound, the smallest change that fells it. Shapes: samples [time].
        Gives the attack's own: the worse of this and of the clean transcript, and whether the clip fell.
        """
        text = self.before[i] if found is None else found
        (rate,) = WordErrors.of(self.goal.references[i : i + 1], [text]).rates
        falls = rate >= self.goal.errors
        if self.ends[i] is Outcome.MISSED and not falls and outcome is Outcome.NOT_FINITE:
            self.ends[i] = Outcome.NOT_FINITE
        if (falls and size < self.gauge[i]) if self.bound.minimal else rate > self.worst[i]:
            self.worst[i], self.heard[i], self.adversarial[i] = rate, text, 0.0
            self.adversarial[i, : len(samples)] = samples
        if falls:
            self.gauge[i], self.ends[i] = min(float(self.gauge[i]), size), Outcome.REACHED
        return (text if rate > self.rates[i] else self.before[i]), falls

    def part(self, found: Mapping[int, str], **attempt: Any) -> SpeechTrial:
        """One attack's part, with the worst that it found of each clip."""
        return SpeechTrial(heard=tuple(found.get(i, clean) for i, clean in enumerate(self.before)), **attempt)


def as_written(bound: Bound, region: Region, result: AttackResult) -> tuple[Tensor, Tensor, list[bool]]:
    """What files would hold, how large the changes are there, and whether they are within the bound.

    Shapes: -> [clips, time], [clips], [clips].
    """
    written, known = round16(result.adversarial), region.knowing(result.parameters)
    sizes = known.gauge(written)
    return written, sizes, (sizes.isfinite() if bound.minimal else known.holds(sizes)).tolist()

"""Survival: how often a clip is still heard as wanted on the other side of channels that it was not made for.

    files  x  channels  x  judge draws  ->  exact hits, and word errors against the target and against what is said

Draws have the role `judge`: their rooms have had no part in any crafting. They are others than those that `craft` judged by, which chose
what it wrote. Where nothing is random, as in a codec, there is one draw.
A clean clip and what was made of it meet the same draws, so that the two differ by nothing but the change. Draws of one file share
that file: the interval of a rate is over its draws, not over clips.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from audioadv.attacks.eot import as_seed, distinct
from audioadv.errors import UnusableBatch, UnusableResponse
from audioadv.evaluation.rates import wilson
from audioadv.evaluation.words import WordErrors
from audioadv.models.recogniser import Recogniser, heard_alone
from audioadv.options import check_count
from audioadv.threat.channels.channel import NOTHING, Channel
from audioadv.threat.channels.heard import heard_through
from audioadv.threat.channels.keys import fingerprint
from audioadv.threat.channels.specs import as_channel, check_sound
from audioadv.threat.goals import NOT_AS, USUAL_ERRORS, as_texts
from audioadv.threat.words import plain_words

AFRESH = 2**20  # the first draw: `craft` judges by those from 0 on


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A clip to be put through channels. `target` is what it was made for, `text` what is said in it, `clean` [time] whence it came.

    Of a clip that was made to be misheard, the target is "not: " and what is said, as craft writes it, and it counts as heard so where
    at least the share `errors` of these words are wrong.

    Raises UnusableBatch for samples that are no finite [time], or a clean clip of another length, UnusableTarget for what is no text.
    """

    name: str
    samples: Tensor
    target: str
    text: str | None = None
    clean: Tensor | None = None
    errors: float = USUAL_ERRORS

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", as_texts(self.target)[0])  # as a recogniser writes it
        for samples in (self.samples, self.clean):
            if samples is not None and not (samples.ndim == 1 and len(samples) and samples.isfinite().all()):
                odd = "some of them NaN or infinite" if samples.ndim == 1 and len(samples) else "which is no [time]"
                raise UnusableBatch(
                    f"{self.name}: samples of shape {list(samples.shape)}, {odd}. Give the finite samples of one clip, [time]"
                )
        if self.clean is not None and len(self.clean) != len(self.samples):
            raise UnusableBatch(
                f"{self.name}: {len(self.samples)} samples, but its clean clip has {len(self.clean)}. "
                "Take the clean clip as it was attacked, which craft writes as NAME.clean.wav"
            )


@final
@dataclass(frozen=True)
class Survival:
    """One clip through one channel, by its spec (none: straight from the file): what was heard, draw by draw.

    Word error rates are over all draws together, and pass 1 where more words are heard than there are.
    """

    name: str
    channel: str
    target: str
    text: str | None
    heard: tuple[str, ...]
    clean_heard: tuple[str, ...] | None
    errors: float = USUAL_ERRORS

    @property
    def hits(self) -> int:
        """Draws that are heard exactly as the target, or misheard as far as was wanted."""
        return self.reached(self.heard)

    def reached(self, heard: Sequence[str]) -> int:
        """How many of these transcripts are what the clip was made for."""
        if self.target.startswith(NOT_AS):
            said = [self.target.removeprefix(NOT_AS)] * len(heard)
            return sum(rate >= self.errors for rate in WordErrors.of(said, heard).rates)
        return sum(text == self.target for text in heard)

    def line(self) -> dict[str, Any]:
        """As one JSON object; None where there is no clean clip or no text to compare with."""
        low, high = wilson(self.hits, len(self.heard))
        clean, aim = self.clean_heard, "" if self.target.startswith(NOT_AS) else self.target
        return {
            "clip": self.name,
            "channel": self.channel,
            "target": self.target,
            "text": self.text,
            "draws": len(self.heard),
            "hits": self.hits,
            "rate": self.hits / len(self.heard),
            "rate_low": round(low, 4),
            "rate_high": round(high, 4),
            "wer_to_target": word_errors(aim, self.heard),
            "wer_to_text": None if self.text is None else word_errors(self.text, self.heard),
            "clean_hits": None if clean is None else self.reached(clean),
            "clean_wer_to_target": None if clean is None else word_errors(aim, clean),
            "clean_wer_to_text": None if clean is None or self.text is None else word_errors(self.text, clean),
        }


def word_errors(reference: str, heard: Sequence[str]) -> float | None:
    """Word error rate over all transcripts together; None without a word to compare with.

    >>> word_errors("stop the car", ["stop the car", "stop car"])  # one of six is missing
    0.1667
    """
    return round(WordErrors.of([reference] * len(heard), heard).value, 4) if plain_words(reference) else None


def survive(
    model: Recogniser, subjects: Sequence[Subject], channels: Sequence[Channel | str], *, draws: int = 100, seed: int = 0
) -> Iterator[Survival]:
    """Each subject through each channel (or the one that a spec names), subject by subject. The samples must be at the model's rate.

    Raises OptionError for no draw at all, a seed that is none or a channel for images, MalformedSpec for what is no channel,
    UnusableBatch for a clip that a channel does not fit.
    """
    check_count("draws", draws)
    seed, through = as_seed(seed), [check_sound(as_channel(channel)) for channel in channels]
    for subject in subjects:
        clip = fingerprint(subject.samples if subject.clean is None else subject.clean)
        for channel in through:
            try:
                if why := channel.unfit(len(subject.samples), model.sample_rate):
                    raise UnusableBatch(why)
                heard, clean = (
                    None if samples is None else transcripts(model, samples, channel, draws, clip, seed)
                    for samples in (subject.samples, subject.clean)
                )
            except (UnusableBatch, UnusableResponse) as error:  # a room or a recording, which does not know whose clip it is
                raise type(error)(f"{subject.name}: {error}") from error
            assert heard is not None
            yield Survival(subject.name, str(channel), subject.target, subject.text, heard, clean, subject.errors)


def transcripts(model: Recogniser, samples: Tensor, channel: Channel, draws: int, clip: int, seed: int) -> tuple[str, ...]:
    """What is heard, draw by draw; once where neither channel nor model draws anything. Shapes: samples [time]."""
    draws = distinct(draws, channel, model)
    if channel == NOTHING and draws == 1:
        return tuple(heard_alone(model, samples).transcripts())
    parts = heard_through(model, samples, channel, draws=draws, clip=clip, seed=seed, start=AFRESH)
    return tuple(text for part in parts for text in part.transcripts())


def together(survivals: Sequence[Survival], channel: str) -> dict[str, Any]:
    """All clips through one channel as one row: the rate over all draws, its interval, and the word error rates; None for no draw.

    The interval counts every draw as a trial of its own; draws of few clips say less about other clips than it suggests.
    """
    some = [survival.line() for survival in survivals if survival.channel == channel]
    hits, draws = (sum(line[key] for line in some) for key in ("hits", "draws"))
    low, high = wilson(hits, draws)
    means = {}
    for key in ("wer_to_target", "wer_to_text", "clean_wer_to_target", "clean_wer_to_text"):
        known = [line[key] for line in some if line[key] is not None]
        means[key] = round(sum(known) / len(known), 4) if known else None
    clean = [(line["clean_hits"], line["draws"]) for line in some if line["clean_hits"] is not None]
    clean_hits, clean_draws = (sum(counts) for counts in zip(*clean, strict=True)) if clean else (None, 0)
    row = {"channel": channel, "clips": len(some), "draws": draws, "hits": hits, "rate": hits / draws if draws else None}
    row |= {"rate_low": round(low, 4), "rate_high": round(high, 4)}
    return {**row, "clean_hits": clean_hits, "clean_draws": clean_draws, **means}

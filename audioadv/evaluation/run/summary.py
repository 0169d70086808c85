"""What the lines of a run come to: a row for each model, attack, bound and channel."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from audioadv.evaluation.rates import Rate
from audioadv.evaluation.words import WordErrors
from audioadv.threat.goals import said
from audioadv.threat.words import plain_words

KEYS = ("model", "attack", "bound", "channel")
NEEDED = (
    "clean_transcript", "target", "adversarial_transcript", "reached", "outcome", "bound", "snr_db", "relative_db", "forwards",
    "backwards", "seconds",
)  # fmt: skip
"""What a line must hold to be counted."""
UNRECORDED = "radius not recorded"  # by craft, once: a line's `bound` is the one that was found


def settings_of(lines: Iterable[dict[str, Any]]) -> dict[tuple[str, str, str, str], list[dict[str, Any]]]:
    """The lines of each model, attack, bound and channel, in order of appearance. What a line does not say is a dash."""
    found: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        bound = line.get("bound_asked") or f"{line['bound'].partition(':')[0]}, {UNRECORDED}"
        key = line.get("model") or "-", line.get("attack") or "-", bound, line.get("channel") or "none"
        found.setdefault(key, []).append(line)
    return found


def summarise(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a setting: how many goals are reached (those that need no attack included, and counted apart), word error rates
    against what is said, how loud the changes are, and the cost.

    `wer_before` is of the clean clips, `wer_after` of what an attacker would play: the adversarial file, or the clean clip where
    there is none. SNR and dB_x are medians over clips that were changed. Cost is a mean over clips.
    """
    return [dict(zip(KEYS, key, strict=True)) | row(some) for key, some in settings_of(lines).items()]


def row(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One setting's figures."""
    hits = Rate(sum(bool(line["reached"]) for line in lines), len(lines))
    low, high = hits.interval
    told = [(text, line) for line in lines if plain_words(text := said(line.get("text"), line.get("target")) or "")]
    texts = [text for text, _ in told]
    before = WordErrors.of(texts, [line["clean_transcript"] for _, line in told])
    after = WordErrors.of(texts, [heard_at_last(line) for _, line in told])
    return {
        "clips": hits.count,
        "reached": hits.hits,
        "rate": hits.value,
        "rate_low": low,
        "rate_high": high,
        "outcomes": dict(Counter(line["outcome"] for line in lines)),
        "wer_before": [before.value, *before.interval] if told else None,
        "wer_after": [after.value, *after.interval] if told else None,
        "snr_db": median(lines, "snr_db"),
        "relative_db": median(lines, "relative_db"),
        **{key: statistics.fmean(line[key] for line in lines) for key in ("forwards", "backwards", "seconds")},
    }


def heard_at_last(line: dict[str, Any]) -> str:
    """What is heard when the attack has done what it can."""
    return str(line["clean_transcript"] if line["adversarial_transcript"] is None else line["adversarial_transcript"])


def median(lines: Iterable[dict[str, Any]], key: str) -> float | None:
    """Over the clips reached that have the figure: a clip that needed no change has no ratio to it."""
    values = [line[key] for line in lines if line["reached"] and line[key] is not None]
    return statistics.median(values) if values else None


def unchanged(line: dict[str, Any]) -> bool:
    """Whether a clip was at the goal as it was."""
    return bool(line["outcome"] == "needless")


def curve(lines: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
    """Success against loudness: (SNR in dB, clips reached by a change at least that far below them), from quiet to loud.

    A clip that needed no change is reached at any ratio, and counted from the first point on; one that is silent, whatever the change,
    at none.
    """
    needless = sum(map(unchanged, lines))
    ratios = sorted((line["snr_db"] for line in lines if line["reached"] and line["snr_db"] is not None), reverse=True)
    return [(ratio, needless + count) for count, ratio in enumerate(ratios, start=1)]

"""What became of clips that were attacked, as their files hold it."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from torch import Tensor

from audioadv.attacks.result import Outcome
from audioadv.attacks.trace import Sight
from audioadv.audio.files import Clip


@final
@dataclass(frozen=True, eq=False)
class Crafted:
    """What became of one clip. `adversarial` [time] is on the 16-bit grid: the clean clip where nothing was found.

    `excess` says how far it lies outside the bound, in the bound's unit, at most 0 for inside; for a `min` bound, `bound`
    is the smallest that holds it, and `gauge` is that size as a number, in its norm's unit. `seconds` is this clip's share of
    its batch's time. Over a channel, `hits` of `draws` judge draws are heard as wanted, and `adversarial` is the best that was
    found even where that is too few. `saw` is what the attack saw of it; None where there was none. `cut_short` says that the search was
    stopped, and that more steps of it might have brought more.
    """

    clip: Clip
    target: str
    clean_transcript: str
    adversarial: Tensor
    adversarial_transcript: str
    outcome: Outcome
    note: str
    bound: str
    excess: float
    snr_db: float
    relative_db: float
    steps: int
    forwards: int
    backwards: int
    seconds: float
    channel: str | None = None
    hits: int = 0
    draws: int = 0
    gauge: float = 0.0
    saw: Sight | None = None
    cut_short: bool = False

    @property
    def reached(self) -> bool:
        """Whether the 16-bit clip is heard as wanted; over a channel, often enough."""
        return self.outcome.reached

    @property
    def rate(self) -> float:
        """The share of judge draws that are heard as wanted; without a channel, 1 or 0."""
        return self.hits / self.draws if self.draws else float(self.reached)

    def after(self, before: "Crafted") -> "Crafted":
        """This result, with the cost of the one before it, which it takes the place of."""
        return replace(
            self,
            steps=self.steps + before.steps,
            forwards=self.forwards + before.forwards,
            backwards=self.backwards + before.backwards,
            seconds=self.seconds + before.seconds,
        )

    def line(self) -> dict[str, Any]:
        """The result as one JSON object; a figure that is not finite (no change at all) becomes None."""
        figures = {"excess": self.excess, "snr_db": self.snr_db, "relative_db": self.relative_db}
        return {
            "clip": self.clip.name,
            "clean_transcript": self.clean_transcript,
            "target": self.target,
            "adversarial_transcript": self.adversarial_transcript,
            "reached": self.reached,
            "outcome": str(self.outcome),
            "note": self.note,
            "bound": self.bound,
            **{name: value if math.isfinite(value) else None for name, value in figures.items()},
            "steps": self.steps,
            "forwards": self.forwards,
            "backwards": self.backwards,
            "seconds": round(self.seconds, 3),
            "saw": None if self.saw is None else asdict(self.saw),
            **({} if self.channel is None else {"channel": self.channel, "hits": self.hits, "draws": self.draws, "rate": self.rate}),
        }


@final
@dataclass(frozen=True)
class CraftResult:
    """All clips of one call, in the order given."""

    clips: tuple[Crafted, ...]

    @property
    def adversarial(self) -> list[Tensor]:
        """The 16-bit samples of each clip, [time]."""
        return [crafted.adversarial for crafted in self.clips]

    @property
    def reached(self) -> list[bool]:
        """Whether each is heard as wanted."""
        return [crafted.reached for crafted in self.clips]

    @property
    def outcome(self) -> list[Outcome]:
        """How each ended."""
        return [crafted.outcome for crafted in self.clips]

"""How one clip is judged: as its file will be heard, alone; over a channel, by draws that had no part in the making."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.attacks.eot import Expectation, enough
from audioadv.attacks.result import Outcome
from audioadv.models.recogniser import Emissions, Recogniser, heard_alone
from audioadv.threat.bounds import Bound, senseless_for_sound
from audioadv.threat.channels.channel import NOTHING
from audioadv.threat.channels.heard import heard_through
from audioadv.threat.channels.keys import fingerprint
from audioadv.threat.goals import Goal


@final
@dataclass(frozen=True, eq=False)
class Verdict:
    """How one clip is judged: alone, and over a channel by its rate. `clean` [time] numbers the draws."""

    model: Recogniser
    goal: Goal
    clean: Tensor
    over: Expectation | None
    draws: int

    def hits(self, samples: Tensor, outputs: Emissions) -> int:
        """How many judge draws are heard as wanted; without a channel, whether `outputs` are, which the samples gave alone."""
        if self.over is None:
            return int(self.goal.reached(outputs))
        if self.over.channel.unfit(len(samples), self.model.sample_rate):
            return 0  # what cannot be played is never heard
        clip, seed = fingerprint(self.clean), self.over.seed
        heard = heard_through(self.model, samples, self.over.channel, draws=self.draws, clip=clip, seed=seed)
        return sum(int(self.goal.rows(torch.zeros(len(part.frames), dtype=torch.int64)).reached(part).sum()) for part in heard)

    def impossible(self, outputs: Emissions) -> str | None:
        """Why the goal can never be reached, even at the length that the clip has at most; `outputs` are what it gave alone."""
        longest = len(self.clean) if self.over is None else self.over.channel.lengths(len(self.clean))[1]
        if longest != len(self.clean):
            outputs = heard_alone(self.model, F.pad(self.clean, (0, longest - len(self.clean))))
        return self.goal.impossible(outputs)[0]

    def enough(self, hits: int) -> bool:
        """Whether so many are a goal reached."""
        return bool(hits) if self.over is None else enough(hits, self.draws, self.over.rate)

    def often_enough(self, hits: int) -> tuple[Outcome, str]:
        """How it ended, and in words."""
        assert self.over is not None
        through = "" if self.over.channel == NOTHING else f" of {self.over.channel}"
        heard = f"Heard as wanted in {hits} of {self.draws} judge draws{through}"
        if self.enough(hits):
            return Outcome.REACHED, f"{heard}."
        return Outcome.MISSED, f"{heard}, but {self.over.rate:.0%} were asked for. More steps, more draws or a wider bound may do it."

    def settled(self, outputs: Emissions, bound: Bound) -> tuple[Outcome, str] | None:
        """How a clip ends before any attack, and why: needless, infeasible, or not yet (None); `outputs` are what it gave alone."""
        if self.over is not None and (why := self.over.channel.unfit(len(self.clean), self.model.sample_rate)):
            return Outcome.INFEASIBLE, why
        if bool(self.goal.reached(outputs)) and self.enough(self.hits(self.clean, outputs)):
            return Outcome.NEEDLESS, Outcome.NEEDLESS.sentence
        why = self.impossible(outputs) or senseless_for_sound(bound, self.clean)
        return None if why is None else (Outcome.INFEASIBLE, why)

"""From clips and a goal to adversarial 16-bit audio: the whole road, clip by clip.

    clips --pad--> ragged batches of 16 --attack--> 16-bit samples --alone, as a file would be--> heard, judged

A clip ends with an outcome whatever happens to its neighbours, and is judged alone on 16-bit samples: just what a WAV file
of them holds.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from audioadv.attacks.objective import objective
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.attacks.shrink import find_then_shrink
from audioadv.attacks.union import worst_member
from audioadv.audio.files import FULL_SCALE, Clip
from audioadv.audio.levels import relative_db, snr_db
from audioadv.audio.ragged import pad
from audioadv.errors import OptionError, UnusableBatch
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.threat.bounds import MIN, Bound, Linf
from audioadv.threat.goals import Mistranscribe, Silence, Transcribe

BOX = (-1.0, 1.0 - 1.0 / FULL_SCALE)  # what 16 bits can hold
BATCH = 16
SMALLEST = Linf(MIN)
TextGoal = Transcribe | Silence | Mistranscribe


@final
@dataclass(frozen=True, eq=False)
class Crafted:
    """What became of one clip. `adversarial` [time] is on the 16-bit grid: the clean clip where nothing was found.

    `excess` says how far it lies outside the bound, in the bound's unit, at most 0 for inside; for a `min` bound, `bound`
    is the smallest that holds it. `seconds` is this clip's share of its batch's time.
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

    @property
    def reached(self) -> bool:
        """Whether the 16-bit clip is heard as wanted."""
        return self.outcome in (Outcome.REACHED, Outcome.NEEDLESS)

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
        }


@final
class Progress(NamedTuple):
    """Where a batch stands: `found` is the spec of the smallest bound so far for each of `names`, None for not yet."""

    step: int
    steps: int
    names: list[str]
    found: list[str | None]


def craft_each(
    model: Recogniser,
    clips: Sequence[Clip],
    goal: TextGoal,
    *,
    bound: Bound = SMALLEST,
    attack: str = "shrink",
    steps: int = 500,
    seed: int = 0,
    batch: int = BATCH,
    progress: Callable[[Progress], None] | None = None,
) -> Iterator[Crafted]:
    """Craft clip by clip: each is yielded when its batch ends, in the order given.

    The clips must be at the model's sample rate. Raises UnusableBatch where they are not or the goal counts other clips,
    OptionError for an unknown attack.
    """
    if attack not in ATTACKS:
        raise OptionError(f"attack {attack!r}: unknown. Use {' or '.join(ATTACKS)}")
    if attack == "pgd" and bound.minimal:
        raise OptionError(f"attack 'pgd' works within a fixed bound, not {bound}. Give a radius, or use the attack 'shrink'")
    if steps < 1:
        raise OptionError(f"steps {steps}: an attack takes at least one")
    for clip in clips:
        if clip.sample_rate != model.sample_rate:
            wish = f"but {model.name} listens at {model.sample_rate} Hz. Resample it first: clip.at({model.sample_rate})"
            raise UnusableBatch(f"{clip.name}: {clip.sample_rate} Hz, {wish}")
    wants = goal.references if isinstance(goal, Mistranscribe) else goal.texts if isinstance(goal, Transcribe) else ("",)
    if len(wants) not in (1, len(clips)):
        raise UnusableBatch(f"{len(wants)} texts for {len(clips)} clips: give one for all, or one for each")
    way = partial(worst_member, partial(find_then_shrink, minimal=bound.minimal) if attack == "shrink" else ATTACKS[attack])
    for first in range(0, len(clips), batch):
        index = torch.arange(first, min(first + batch, len(clips)))
        yield from craft_batch(model, [clips[i] for i in index], goal.rows(index), bound, way, steps, seed, progress)


def craft_batch(
    model: Recogniser,
    clips: list[Clip],
    goal: TextGoal,
    bound: Bound,
    attack: Callable[..., AttackResult],
    steps: int,
    seed: int,
    progress: Callable[[Progress], None] | None,
) -> Iterator[Crafted]:
    """One ragged batch, from clean clips to judged results."""
    began = time.perf_counter()
    device = model.device
    waveforms, lengths = pad([clip.samples.to(device) for clip in clips])
    lengths = lengths.to(device)
    region = bound.around(waveforms, lengths, box=BOX, grid=1.0 / FULL_SCALE)
    alone = [heard_alone(model, clip.samples) for clip in clips]
    early = [settled(goal.rows(torch.tensor([i])), outputs, bound, clips[i].samples) for i, outputs in enumerate(alone)]
    able = torch.tensor([i for i, end in enumerate(early) if end is None], dtype=torch.int64)

    adversarial, ends = [clip.samples for clip in clips], [end or (Outcome.MISSED, "") for end in early]
    counts = torch.zeros(3, len(clips), dtype=torch.int64)
    if len(able):
        names = [clips[i].name for i in able]

        def tell(step: int, best: Tensor, inputs: Tensor) -> None:
            if progress is not None:
                specs = zip(bound.found(region.rows(able.to(device)), inputs), best.isfinite().tolist(), strict=True)
                progress(Progress(step, steps, names, [spec if hit else None for spec, hit in specs]))

        wanted = objective(model, goal.rows(able), lengths[able.to(device)])
        result = attack(wanted, region.rows(able.to(device)), steps=steps, seed=seed, progress=tell if progress else None)
        if result.parameters is not None:
            parameters = region.start()
            parameters[able.to(device)] = result.parameters
            region = region.knowing(parameters)
        for row, i in enumerate(able.tolist()):
            adversarial[i] = result.adversarial[row, : len(clips[i].samples)].cpu()
            ends[i] = result.outcome[row], result.outcome[row].sentence
        counts[:, able] = torch.stack([result.steps, result.forwards, result.backwards])

    share = (counts[1] + 1) / (counts[1] + 1).sum() * (time.perf_counter() - began)
    for i, clip in enumerate(clips):
        own_goal, own = goal.rows(torch.tensor([i])), region.rows(torch.tensor([i], device=device), len(clip.samples))
        outputs = heard_alone(model, adversarial[i])
        outcome, note = ends[i]
        excess = float(bound.excess(own, adversarial[i][None].to(device))) if not bound.minimal else 0.0
        if outcome is Outcome.REACHED and (excess > 0 or not bool(own_goal.reached(outputs))):
            # Sums in floating point differ with the batch's shape: an example on the very edge can fall on its other side alone.
            outcome, note = Outcome.MISSED, "Reached in its batch, but not alone. Run it again with more steps."
            adversarial[i], excess, outputs = clip.samples, min(excess, 0.0), alone[i]
        clean, changed = clip.samples, adversarial[i]
        yield Crafted(
            clip=clip,
            target=str(own_goal),
            clean_transcript=alone[i].transcripts()[0],
            adversarial=changed,
            adversarial_transcript=outputs.transcripts()[0],
            outcome=outcome,
            note=note,
            bound=bound.found(own, changed[None].to(device))[0] if bound.minimal and outcome is Outcome.REACHED else str(bound),
            excess=excess,
            snr_db=float(snr_db(clean, changed)),
            relative_db=float(relative_db(clean, changed)),
            steps=int(counts[0, i]),
            forwards=int(counts[1, i]),
            backwards=int(counts[2, i]),
            seconds=float(share[i]),
        )


@torch.no_grad()
def heard_alone(model: Recogniser, samples: Tensor) -> Emissions:
    """What the model makes of one clip by itself. Shapes: samples [time]."""
    return model(samples[None].to(model.device), torch.tensor([len(samples)], device=model.device))


def settled(goal: TextGoal, outputs: Emissions, bound: Bound, clean: Tensor) -> tuple[Outcome, str] | None:
    """How a clip ends before any attack, and why: needless, infeasible, or not yet (None)."""
    if bool(goal.reached(outputs)):
        return Outcome.NEEDLESS, Outcome.NEEDLESS.sentence
    (why,) = goal.impossible(outputs)
    why = why or bound.senseless(clean)
    return None if why is None else (Outcome.INFEASIBLE, why)


ATTACKS: dict[str, Callable[..., AttackResult]] = {"shrink": find_then_shrink, "pgd": pgd}


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


def craft(model: Recogniser, clips: Sequence[Clip], goal: TextGoal, **options: Any) -> CraftResult:
    """`craft_each`, gathered; the options are the same."""
    return CraftResult(tuple(craft_each(model, clips, goal, **options)))

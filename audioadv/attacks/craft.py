"""From clips and a goal to adversarial 16-bit audio: the whole road, clip by clip.

    clips --pad--> ragged batches of 16 --attack--> 16-bit samples --alone, as a file would be--> heard, judged

A clip ends with an outcome whatever happens to its neighbours, and is judged alone on 16-bit samples: just what a WAV file
of them holds. Over a channel, it is judged by the share of judge draws that are heard as wanted: draws, and rooms, that had no
part in the making.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from inspect import signature
from types import MappingProxyType
from typing import NamedTuple, ParamSpec, final

import torch
from torch import Tensor

from audioadv.attacks.catalogue import crafting
from audioadv.attacks.crafted import Crafted, CraftResult
from audioadv.attacks.eot import ON_CPU_MIB, ON_CUDA_MIB, Expectation, distinct
from audioadv.attacks.objective import objective
from audioadv.attacks.result import Attack, Outcome
from audioadv.attacks.survivors import restarted
from audioadv.attacks.trace import Sight, Trace
from audioadv.attacks.union import worst_member
from audioadv.attacks.verdict import Verdict
from audioadv.audio.files import BOX, FULL_SCALE, Clip
from audioadv.audio.levels import relative_db, snr_db
from audioadv.audio.ragged import pad
from audioadv.audio.roomsets import Role
from audioadv.defenses.statement import refuse_memory, stated
from audioadv.errors import AudioadvError, OptionError, UnknownModel, UnusableBatch
from audioadv.models.recogniser import Emissions, Recogniser, heard_alone
from audioadv.models.sources import blamed
from audioadv.options import check_counts
from audioadv.threat.bounds import MIN, Bound, Linf, around_sound, as_bound
from audioadv.threat.channels.channel import NOTHING, Channel
from audioadv.threat.channels.keys import Key
from audioadv.threat.channels.specs import as_channel, check_sound
from audioadv.threat.goals import Goal, TextGoal
from audioadv.threat.joined import is_goal, members
from audioadv.threat.labels import Classify, Misclassify
from audioadv.threat.masked import Masked
from audioadv.threat.region import Region
from audioadv.threat.undetected import unseen_too

BATCH = 16
SMALLEST = Linf(MIN)
ON_EDGE = "Reached by the attack, but not when it was judged: heard again it is another text, or it is outside its bound. Try more steps."
Options = ParamSpec("Options")


@final
class Progress(NamedTuple):
    """Where a batch stands: `found` is the spec of the smallest bound so far for each of `names`, None for not yet."""

    step: int
    steps: int
    names: list[str]
    found: list[str | None]


def never() -> bool:
    """When to stop, where nobody says."""
    return False


def craft_each(
    model: Recogniser,
    clips: Sequence[Clip],
    goal: TextGoal,
    *,
    bound: Bound | str = SMALLEST,
    attack: str = "shrink",
    steps: int = 500,
    restarts: int = 1,
    seed: int = 0,
    batch: int = BATCH,
    channel: Channel | str | None = None,
    draws: int = 2,
    check_draws: int = 32,
    judge_draws: int = 100,
    rate: float = 0.9,
    progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = never,
    heard: Sequence[Emissions | None] | None = None,
) -> Iterator[Crafted]:
    """Craft clip by clip: each is yielded when its batch ends, in the order given. What is wrong with the call is said at once.

    Once `stop()` is true, asked at every step, the batch at work ends with what it has found, and no other begins.

    Bound and channel may be specs. Over a channel, a step averages `draws` of it, an example is chosen by `check_draws` and
    judged by `judge_draws`, and its goal is reached where that is at least `rate` of them (`attacks/eot.py`). So it is of a model that
    states that it is random, whose own draws they are then. Where nothing is random, as in a codec, one draw is all of them.

    With `restarts`, of so many starts of `steps` each, all after the first are for clips that have not come there yet: over a channel,
    of a clip that none brings there the one that most check draws hear is kept.

    Of a model that states that it detects, what is reached must pass its detectors too.

    `heard` is what the model made of each clip alone, for callers who have asked it already: None, of a clip or of all, where it has not
    been asked.

    The clips must be at the model's sample rate. Raises UnusableBatch where they are not or the goal counts other clips, UnknownModel
    for what is no recogniser, OptionError for an unknown attack, a goal that is not for texts and a model that remembers.
    """
    bound = as_bound(bound)
    check_counts("craft", steps=steps, restarts=restarts, batch=batch, judge_draws=judge_draws)
    check_goal(model, goal)
    check_attack(attack, bound)
    refuse_memory(model, stated(model))
    channel, memory = NOTHING if channel is None else as_channel(channel), ON_CUDA_MIB if model.device.type == "cuda" else ON_CPU_MIB
    over = Expectation(channel, draws=draws, check_draws=check_draws, rate=rate, even=True, seed=seed, memory_mib=memory)
    drawn = channel != NOTHING or stated(model).random
    if drawn:
        # What cannot be drawn is said before any work is done.
        check_sound(channel)
        channel.draw([Key(seed, 0, draw, role) for role in Role for draw in range(16)], model.sample_rate)
    check_clips(model, clips, goal)
    heard = [None] * len(clips) if heard is None else heard
    if len(heard) != len(clips):
        raise UnusableBatch(f"heard of {len(heard)} clips, but {len(clips)} are given: give one for each, None where nobody asked")
    run, whole = crafting(attack).run, bound.at_rate(model.sample_rate)
    judging = distinct(judge_draws, channel, model)
    call = Call(model, whole, run, steps, restarts, seed, over if drawn else None, judging, progress, stop)
    return in_batches(call, clips, goal, batch, heard)


def check_goal(model: Recogniser, goal: TextGoal) -> None:
    """Raises UnknownModel for what is no recogniser, OptionError for a goal that is not for texts."""
    if not callable(getattr(model, "transcribe", None)):
        wish = "Wrap your own: Recogniser(net, sample_rate=16000, vocabulary=...). Classifiers are for aa.attacks and aa.evaluate"
        raise UnknownModel(f"model of type {type(model).__name__}: craft needs a recogniser. {wish}")
    if not all(is_goal(part) and not isinstance(part, Misclassify | Classify) for part in members(goal)):
        raise OptionError(
            f"goal {str(goal)!r}: craft needs one for texts. Give Transcribe({str(goal)!r}), Silence() or Mistranscribe(said)"
        )


def check_attack(attack: str, bound: Bound) -> None:
    """Raises OptionError for an attack that is unknown, or not for this bound."""
    if crafting(attack).fixed and bound.minimal:
        raise OptionError(f"attack {attack!r} works within a fixed bound, not {bound}. Give a radius, or use the attack 'shrink'")
    if attack == "qin" and not isinstance(bound, Masked):
        raise OptionError(f"attack 'qin' hides a change under a masking threshold, and {bound} has none. Give the bound masked:min")


def check_clips(model: Recogniser, clips: Sequence[Clip], goal: TextGoal) -> None:
    """Raises UnusableBatch for what are no clips, or not the model's, and for a goal of others."""
    if not isinstance(clips, Sequence):
        raise UnusableBatch(f"clips of type {type(clips).__name__}: give a list of them, craft(model, [clip], ...)")
    for clip in clips:
        if not isinstance(clip, Clip):
            raise UnusableBatch(
                f"clip of type {type(clip).__name__}: give read_audio(paths, {model.sample_rate}), or Clip(name, samples, rate)"
            )
        check_samples(clip)
        if clip.sample_rate != model.sample_rate:
            wish = f"but {model.name} listens at {model.sample_rate} Hz. Resample it first: clip.at({model.sample_rate})"
            raise UnusableBatch(f"{clip.name}: {clip.sample_rate} Hz, {wish}")
    if wrong := {len(part.texts) for part in members(goal) if hasattr(part, "texts")} - {1, len(clips)}:
        raise UnusableBatch(f"{wrong.pop()} texts for {len(clips)} clips: give one for all, or one for each")


def check_samples(clip: Clip) -> None:
    """Raises UnusableBatch, with the clip's name, for samples that are no sound: [time], float32, finite, within what 16 bits hold."""
    samples: object = clip.samples
    if not isinstance(samples, Tensor):
        raise UnusableBatch(f"{clip.name}: samples of type {type(samples).__name__}. Give a tensor, for example torch.as_tensor(samples)")
    if samples.ndim != 1:
        raise UnusableBatch(f"{clip.name}: samples of shape {list(samples.shape)}. A clip is mono, [time]: take samples.mean(0), say")
    if not len(samples):
        raise UnusableBatch(f"{clip.name}: a clip of zero samples. Give one that lasts")
    if samples.dtype != torch.float32:
        cure = "clip.samples.float()" if samples.is_floating_point() else f"clip.samples.float() / {FULL_SCALE}, if they are of 16 bits"
        raise UnusableBatch(f"{clip.name}: samples of {samples.dtype}, where full scale is 1 in float32. Convert them: {cure}")
    if bad := int((~samples.isfinite()).sum()):
        cure = "Mend them, samples.nan_to_num(), or leave the clip out"
        raise UnusableBatch(f"{clip.name}: {bad} of {len(samples)} samples are NaN or infinite. {cure}")
    if beyond := int(((samples < BOX[0]) | (samples > BOX[1])).sum()):
        reach = f"{beyond} of {len(samples)} samples are beyond full scale (from {samples.min():.5g} to {samples.max():.5g})"
        raise UnusableBatch(f"{clip.name}: {reach}, which 16 bits cannot hold. Turn it down, or clip it: audio.files.round16(samples)")


@final
class Call(NamedTuple):
    """What all batches of one call have in common; its bound is for clips of the model's rate."""

    model: Recogniser
    bound: Bound
    attack: Attack
    steps: int
    restarts: int
    seed: int
    over: Expectation | None
    judge_draws: int
    progress: Callable[[Progress], None] | None
    stop: Callable[[], bool]


def in_batches(call: Call, clips: Sequence[Clip], goal: TextGoal, batch: int, heard: Sequence[Emissions | None]) -> Iterator[Crafted]:
    """Batch by batch, until it is stopped."""
    for first in range(0, len(clips), batch):
        index = torch.arange(first, min(first + batch, len(clips)))
        yield from craft_batch(call, [clips[i] for i in index], goal.rows(index), [heard[i] for i in index])
        if call.stop():
            return


def craft_batch(call: Call, clips: list[Clip], goal: TextGoal, heard: list[Emissions | None]) -> Iterator[Crafted]:
    """One ragged batch, from clean clips to judged results. What is reached among others only is attacked once more, alone."""
    began, device = time.perf_counter(), call.model.device
    waveforms, lengths = (tensor.to(device) for tensor in pad([clip.samples.to(device) for clip in clips]))
    region = around_sound(call.bound, waveforms, lengths)
    alone = [heard_clean(call.model, clip) if own is None else own for clip, own in zip(clips, heard, strict=True)]
    whole = unseen_too(call.model, goal) if stated(call.model).detects else goal
    rows = [torch.tensor([i]) for i in range(len(clips))]
    verdicts = [
        Verdict(call.model, whole.rows(row), clip.samples, call.over, call.judge_draws) for row, clip in zip(rows, clips, strict=True)
    ]
    early = [verdict.settled(outputs, call.bound) for verdict, outputs in zip(verdicts, alone, strict=True)]
    found = attacked(call, clips, whole, region, lengths, early)
    share = (found.counts[1] + 1) / (found.counts[1] + 1).sum() * (time.perf_counter() - began)
    for i, clip in enumerate(clips):
        own = goal.rows(rows[i])
        crafted = judged(call, found, i, clip, str(own), alone[i], verdicts[i], float(share[i]))
        if crafted.note == ON_EDGE and len(clips) > 1:
            if call.stop():
                crafted = replace(crafted, cut_short=True, note="Reached among others only, and stopped before it was attacked alone.")
            else:
                (again,) = craft_batch(call, [clip], own, [alone[i]])
                crafted = again.after(crafted)
        yield crafted


def heard_clean(model: Recogniser, clip: Clip) -> Emissions:
    """What the model makes of a clip by itself. What it raises is raised with the clip's name, a user's own net's as UnknownModel."""
    try:
        with blamed():
            return heard_alone(model, clip.samples)
    except AudioadvError as error:
        raise type(error)(f"{clip.name}: {error}") from error


@final
class Found(NamedTuple):
    """What an attack made of a batch: 16-bit samples, how it ended and why, steps and passes [3, clips], and what it saw, clip by clip.

    `region` knows the parameters of what was found; `cut` says of the clips that were stopped before their last step when that was.
    """

    samples: list[Tensor]
    ends: list[tuple[Outcome, str]]
    counts: Tensor
    saw: dict[int, Sight]
    region: Region
    cut: Mapping[int, str] = MappingProxyType({})


def attacked(call: Call, clips: list[Clip], goal: Goal, region: Region, lengths: Tensor, early: list[tuple[Outcome, str] | None]) -> Found:
    """The attack, on those clips that have not ended before it. Shapes: lengths [clips]."""
    able = torch.tensor([i for i, end in enumerate(early) if end is None], dtype=torch.int64)
    samples, ends = [clip.samples for clip in clips], [end or (Outcome.MISSED, "") for end in early]
    counts = torch.zeros(3, len(clips), dtype=torch.int64)
    if not len(able):
        return Found(samples, ends, counts, {}, region.knowing(region.start()))  # nothing was done
    there, names = able.to(region.clean.device), [clips[i].name for i in able]
    halted, most = 0, call.steps * call.restarts * len(region.members())  # the step at which it was, of so many

    def tell(step: int, best: Tensor, inputs: Tensor) -> bool:
        nonlocal halted
        if call.progress is not None:
            specs = zip(call.bound.found(region.rows(there), inputs), best.isfinite().tolist(), strict=True)
            call.progress(Progress(step, most, names, [spec if hit else None for spec, hit in specs]))
        halted = step if step < most and call.stop() else 0
        return bool(halted)

    wanted = objective(call.model, goal.rows(able), lengths[there], call.over)
    trace = Trace(region.rows(there))
    starts = partial(restarted, call.attack, restarts=call.restarts)
    result = worst_member(starts, trace.watching(wanted), trace.region, steps=call.steps, seed=call.seed, progress=tell)
    parameters, cut = region.start(), dict[int, str]()
    if result.parameters is not None:
        parameters[there] = result.parameters
    for row, i in enumerate(able.tolist()):
        samples[i] = result.adversarial[row, : len(clips[i].samples)].cpu()
        # Needless was ruled out before, by what the clip is heard as alone: what comes out here is judged all the same.
        end = Outcome.REACHED if result.reached[row] else result.outcome[row]
        ends[i] = end, end.sentence
        if halted and end in (Outcome.MISSED, Outcome.REACHED) and int(result.steps[row]) >= halted:
            smaller = end is Outcome.REACHED and call.bound.minimal
            cut[i] = f"Stopped after {halted} of {most} steps{': there may be a smaller change' if smaller else ''}."
    counts[:, able] = torch.stack([result.steps, result.forwards, result.backwards])
    saw = dict(zip(able.tolist(), trace.sights(result), strict=True))
    return Found(samples, ends, counts, saw, region.knowing(parameters), cut)


def judged(call: Call, found: Found, i: int, clip: Clip, target: str, alone: Emissions, verdict: Verdict, seconds: float) -> Crafted:
    """What became of one clip, heard alone on its 16-bit samples; `alone` is the clean clip's, `target` what its goal is called."""
    bound, over, changed, (outcome, note) = call.bound, call.over, found.samples[i], found.ends[i]
    own, outputs = (
        found.region.rows(torch.tensor([i], device=found.region.clean.device), len(clip.samples)),
        heard_alone(call.model, changed),
    )
    excess = 0.0 if bound.minimal else float(bound.excess(own, changed[None].to(own.clean.device)))
    hits = verdict.hits(changed, outputs)
    if over is not None and excess <= 0 and outcome in (Outcome.REACHED, Outcome.MISSED):
        outcome, note = verdict.often_enough(hits)
    elif outcome is Outcome.REACHED and (excess > 0 or not hits):
        # Sums in floating point differ with the batch's shape: an example on the very edge can fall on its other side alone. It is then
        # attacked alone, where the attack hears what is judged.
        outcome, note = Outcome.MISSED, ON_EDGE
        changed, excess, outputs = clip.samples, min(excess, 0.0), alone
    cut = i in found.cut and (outcome is Outcome.MISSED or bound.minimal)  # within a fixed bound, what is reached is all there is to find
    if cut and note != ON_EDGE:
        note = found.cut[i] if over is None else f"{note} {found.cut[i]}"
    inputs, (steps, forwards, backwards) = changed[None].to(own.clean.device), found.counts[:, i].tolist()
    return Crafted(
        clip=clip,
        target=target,
        clean_transcript=alone.transcripts()[0],
        adversarial=changed,
        adversarial_transcript=outputs.transcripts()[0],
        outcome=outcome,
        note=note,
        bound=bound.found(own, inputs)[0] if bound.minimal and outcome is Outcome.REACHED else str(bound),
        excess=excess,
        snr_db=float(snr_db(clip.samples, changed)),
        relative_db=float(relative_db(clip.samples, changed)),
        steps=steps,
        forwards=forwards,
        backwards=backwards,
        seconds=seconds,
        channel=None if over is None else str(over.channel),
        hits=hits,
        draws=0 if over is None else call.judge_draws,
        gauge=float(own.gauge(inputs)),
        saw=found.saw.get(i),
        cut_short=cut,
    )


def gathered(each: Callable[Options, Iterator[Crafted]]) -> Callable[Options, CraftResult]:
    """`each`, all at once: a call of the same options, so that they are spelt in one place."""

    @wraps(each, assigned=())
    def craft(*arguments: Options.args, **options: Options.kwargs) -> CraftResult:
        """Change clips until the recogniser hears what the goal wants: `craft_each`, gathered.

        `bound` and `channel` may be specs; the attack has `steps` for each of `restarts` starts, and works on `batch` clips at a time.
        Over a channel a step averages `draws` of it, an example is chosen by `check_draws` and judged by `judge_draws`, and its goal is
        reached where that is at least `rate` of them. `progress` is told at every step where the batch stands; once `stop()` is true,
        the batch at work ends with what it has found, and the clips of those that never began are left out. `heard` is what the model
        made of each clip alone, where it was asked already. Raises as `craft_each`.
        """
        return CraftResult(tuple(each(*arguments, **options)))

    craft.__qualname__ = craft.__name__  # by which it is pickled
    craft.__annotations__ = {**each.__annotations__, "return": CraftResult}
    vars(craft)["__signature__"] = signature(each).replace(return_annotation=CraftResult)
    return craft


craft = gathered(craft_each)

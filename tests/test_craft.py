"""The road from clips to judged 16-bit audio, on a bundled recogniser: contracts, not strength."""

import pickle
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import recognisers
import torch
from marks import EXACT, to_the_bit

import audioadv as aa
from audioadv.attacks.catalogue import TABLE, crafting, evaluating
from audioadv.attacks.craft import Progress, heard_clean
from audioadv.attacks.crafted import Crafted
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult, Outcome
from audioadv.attacks.survivors import nothing_yet
from audioadv.audio.files import Clip, read_clip, round16, write_wav
from audioadv.audio.ragged import pad
from audioadv.defenses import Detected, Detector, forgetting
from audioadv.defenses.detectors.detected import Sense
from audioadv.defenses.detectors.seen import Seen
from audioadv.defenses.likeness import Exact
from audioadv.defenses.memory import remembering
from audioadv.defenses.statement import Statement
from audioadv.models.access import Access
from audioadv.models.recogniser import Emissions
from audioadv.models.suspicion import carrying
from audioadv.threat.bounds import around_sound
from audioadv.threat.region import Region

SAMPLES = Path(__file__).parent.parent / "samples"
STEPS = 60
TEXTS = ["go home", "no", "stop it now"]


@pytest.fixture(scope="module")
def model() -> aa.Recogniser:
    return aa.load_model("tiny-mel")


@pytest.fixture(scope="module")
def clips(model: aa.Recogniser) -> list[Clip]:
    """Their beginnings: ragged, the longest of some 130 frames."""
    whole = aa.read_audio([SAMPLES / "kitchen.wav", SAMPLES / "phone.wav", SAMPLES / "fan.wav"], model.sample_rate)
    return [replace(clip, samples=clip.samples[:count]) for clip, count in zip(whole, (16000, 13000, 20500), strict=True)]


@pytest.fixture(scope="module")
def crafted(model: aa.Recogniser, clips: list[Clip]) -> aa.CraftResult:
    return aa.craft(model, clips, aa.Transcribe(TEXTS), bound=aa.SNR("min"), steps=STEPS)


def test_all_are_reached_and_heard_so_from_the_file(model: aa.Recogniser, crafted: aa.CraftResult, tmp_path: Path) -> None:
    assert all(crafted.reached)
    for result in crafted.clips:
        write_wav(tmp_path / "a.wav", result.adversarial, 16000)
        samples = read_clip(tmp_path / "a.wav", 16000).samples
        assert torch.equal(samples, result.adversarial)
        assert model.transcribe(samples[None], torch.tensor([len(samples)])) == [result.target] == [result.adversarial_transcript]
        assert result.bound.startswith("snr:")
        assert abs(float(result.bound[4:]) - result.snr_db) < 0.05


def test_the_same_call_gives_the_same_bytes(model: aa.Recogniser, clips: list[Clip], crafted: aa.CraftResult) -> None:
    again = aa.craft(model, clips, aa.Transcribe(TEXTS), bound=aa.SNR("min"), steps=STEPS)
    assert all(torch.equal(a, b) for a, b in zip(again.adversarial, crafted.adversarial, strict=True))


@to_the_bit
@pytest.mark.parametrize(("name", "spec"), [("tiny-mel", "snr:min"), ("tiny-mel", "masked:min"), ("tiny-wave", "linf:min")])
def test_neighbours_and_order_change_nothing(name: str, spec: str, clips: list[Clip]) -> None:
    """The same bytes alone, in a batch and in the reverse order: no rounding on the way knows of them."""
    model, bound, steps = aa.load_model(name), aa.parse_bound(spec), 25
    texts = ["go", "no", "stop"]
    crafted = aa.craft(model, clips, aa.Transcribe(texts), bound=bound, steps=steps)
    turned = aa.craft(model, clips[::-1], aa.Transcribe(texts[::-1]), bound=bound, steps=steps).clips[::-1]
    assert sum(crafted.reached) >= 2
    for i, result in enumerate(crafted.clips):
        alone = aa.craft(model, [clips[i]], aa.Transcribe(texts[i]), bound=bound, steps=steps).clips[0]
        for other in (alone, turned[i]):
            assert other.outcome == result.outcome
            assert torch.equal(other.adversarial, result.adversarial)


@pytest.mark.parametrize(("name", "spec", "few"), [("tiny-mel", "linf:min", 2), ("tiny-wave", "snr:min", 6)])
def test_the_first_steps_are_the_same_alone_in_a_batch_of_16_and_in_another_order(
    name: str, spec: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The perturbation at each of ten steps, to 1e-4 of the first radius: what is drawn and what is summed knows of no neighbour.

    Of clips of half a second and more: sums of fewer frames are added up in another order (`models/frames.py`), and linf's steps, which are
    nearly signs, soon part for that. On processors where nobody knows the order, `few` steps.
    """
    count = 10 if EXACT else few
    model, bound, look, seen = aa.load_model(name), aa.parse_bound(spec), Objective.look, list[torch.Tensor]()
    paths = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".wav", ".flac", ".ogg"))[:16]
    clips = [clip.samples[4000:][: 7680 + 67 * i] for i, clip in enumerate(aa.read_audio(paths, model.sample_rate))]
    texts = ["go", "no", "hi", "up"] * 4

    def watched(self: Objective, inputs: torch.Tensor, *more: Any, **options: Any) -> Any:
        seen.append(inputs.detach().clone())
        return look(self, inputs, *more, **options)

    monkeypatch.setattr(Objective, "look", watched)

    def steps(which: list[int]) -> dict[int, torch.Tensor]:
        """Clip by clip, [step, time]; the objective looks at parts of a large batch by itself."""
        waveforms, lengths = pad([clips[i] for i in which])
        region = around_sound(bound, waveforms, lengths)
        seen.clear()
        aa.attacks.find_then_shrink(aa.objective(model, aa.Transcribe([texts[i] for i in which]), lengths), region, steps=count)
        deltas = torch.stack([inputs for inputs in seen if len(inputs) == len(which)]) - waveforms
        assert len(deltas) == count
        deltas = deltas / (0.1 * region.norm.gauge(waveforms))[:, None]
        return {i: deltas[:, row, : lengths[row]] for row, i in enumerate(which)}

    together = steps([*range(16)])
    assert all(deltas[-1].any() for deltas in together.values())
    others = [steps([*range(15, 7, -1), *range(8)]), *(steps([i]) for i in range(0, 16, 5))]
    for i, deltas in [pair for other in others for pair in other.items()]:
        torch.testing.assert_close(deltas, together[i], rtol=0, atol=1e-4)


def test_fixed_bounds_hold_on_the_file(model: aa.Recogniser, clips: list[Clip]) -> None:
    for spec in ("linf:0.04", "snr:10", "l2:4"):
        bound = aa.parse_bound(spec)
        for result in aa.craft(model, clips, aa.Transcribe("no"), bound=bound, steps=STEPS).clips:
            region = bound.around(result.clip.samples[None], box=(-1, 1))
            assert result.reached
            assert result.excess <= 0
            assert float(bound.excess(region, result.adversarial[None])) <= 0


def test_every_way_to_end_is_said(model: aa.Recogniser, clips: list[Clip]) -> None:
    heard = model.transcribe(clips[0].samples[None], torch.tensor([len(clips[0].samples)]))[0]
    texts = [heard, "so long a text that it can never fit", "no"]
    loud = Clip("short", clips[1].samples[:1200], 16000)
    needless, infeasible, missed = aa.craft(model, [clips[0], loud, clips[2]], aa.Transcribe(texts), bound=aa.Linf(1e-4), steps=5).clips
    assert needless.outcome is aa.Outcome.NEEDLESS
    assert needless.reached
    assert torch.equal(needless.adversarial, clips[0].samples)
    assert infeasible.outcome is aa.Outcome.INFEASIBLE
    assert "'so" in infeasible.note
    assert infeasible.forwards == 0
    assert missed.outcome is aa.Outcome.MISSED
    assert torch.equal(missed.adversarial, clips[2].samples)


@pytest.mark.parametrize(
    ("spec", "outcome"),
    [
        ("linf:0", "infeasible"),
        ("linf:0.00003", "infeasible"),
        ("linf:0.000030517578125", "missed"),  # a step of the grid, exactly
        ("l2:0.00003", "infeasible"),
        ("l2:0.00004", "missed"),
        ("snr:120", "infeasible"),
        ("snr:100", "missed"),
        ("masked:0_and_linf:0.00001", "infeasible"),
        ("snr:min_and_linf:0.00001", "infeasible"),
        ("linf:0.00001_or_l2:0.00001", "infeasible"),
        ("linf:0.00001_or_l2:0.001", "missed"),
    ],
)
def test_a_bound_below_a_step_of_the_file_is_not_searched(spec: str, outcome: str) -> None:
    hiss = Clip("hiss", round16(0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0))), 16000)
    (result,) = aa.craft(recognisers.linear(), [hiss], aa.Transcribe("go"), bound=spec, steps=3).clips
    assert (result.outcome, result.forwards > 0) == (outcome, outcome == "missed")
    assert outcome == "missed" or "one step of a 16-bit file" in result.note


def test_digital_silence_can_be_attacked(model: aa.Recogniser) -> None:
    clip = Clip("silence", torch.zeros(12000), 16000)
    result = aa.craft(model, [clip], aa.Transcribe("no"), steps=STEPS).clips[0]
    assert result.reached
    assert result.adversarial.isfinite().all()
    for bound in (aa.SNR("min"), aa.SNR(30)):
        result = aa.craft(model, [clip], aa.Transcribe("no"), bound=bound, steps=STEPS).clips[0]
        assert result.outcome is aa.Outcome.INFEASIBLE
        assert "linf:min" in result.note


def test_silence_and_mishearing_are_goals_too(model: aa.Recogniser, clips: list[Clip]) -> None:
    quiet = aa.craft(model, clips, aa.Silence(), bound=aa.SNR("min"), steps=STEPS)
    assert all(quiet.reached)
    assert [result.adversarial_transcript for result in quiet.clips] == [""] * 3
    wrong = aa.craft(
        model,
        clips,
        aa.Mistranscribe(model.transcribe(clips[0].samples[None], torch.tensor([len(clips[0].samples)])), errors=1.0),
        steps=STEPS,
    )
    assert wrong.reached[0]


def test_pgd_stays_in_its_region(model: aa.Recogniser, clips: list[Clip]) -> None:
    for result in aa.craft(model, clips, aa.Transcribe("no"), bound=aa.SNR(5), attack="pgd", steps=STEPS).clips:
        assert result.reached
        assert result.excess <= 0
    with pytest.raises(aa.errors.OptionError, match="fixed bound"):
        aa.craft(model, clips, aa.Transcribe("no"), attack="pgd")


def test_what_an_attack_claims_is_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heard, but outside the bound; inside, but not heard: neither is a success, and the clip comes back as it was."""
    listener, samples = recognisers.linear(), round16(0.1 * torch.randn(3200, generator=torch.Generator().manual_seed(0)))
    clip = Clip("hiss", samples, 16000)
    made = aa.craft(listener, [clip], aa.Transcribe("go"), bound=aa.Linf("min"), steps=STEPS).clips[0]
    assert made.reached
    for claimed, radius, outcome in (
        (made.adversarial, 1.0, "reached"),
        (made.adversarial, made.gauge / 2, "missed"),
        (samples, 1.0, "missed"),
    ):

        def boast(objective: Objective, region: Region, claimed: torch.Tensor = claimed, **options: object) -> AttackResult:
            return replace(nothing_yet(region), adversarial=claimed[None], outcome=(Outcome.REACHED,), gauge=region.radius)

        monkeypatch.setitem(TABLE, "pgd", TABLE["pgd"]._replace(run=boast))
        (result,) = aa.craft(listener, [clip], aa.Transcribe("go"), bound=aa.Linf(radius), attack="pgd").clips
        assert result.outcome == outcome
        assert torch.equal(result.adversarial, claimed if outcome == "reached" else samples)
        assert result.excess <= 0


def test_access_is_enforced(model: aa.Recogniser, clips: list[Clip]) -> None:
    with pytest.raises(aa.errors.AccessDenied, match="needs gradients"):
        aa.craft(model.granting(aa.Access.SCORES), clips, aa.Transcribe("no"), steps=2)


def test_a_clip_that_a_net_raises_at_is_named() -> None:
    clips = {"short": 8000, "long": 14400}.items()
    with pytest.raises(aa.errors.UnknownModel, match=r"^long: your own code raised RuntimeError at line \d+ of \S+recognisers.py"):
        aa.craft(recognisers.not_for_long(), [Clip(name, torch.zeros(time), 16000) for name, time in clips], aa.Transcribe("go"), steps=1)


def test_letters_that_the_model_lacks(model: aa.Recogniser, clips: list[Clip]) -> None:
    with pytest.raises(aa.errors.UnusableTarget, match="'2', '4'"):
        aa.craft(model, clips, aa.Transcribe("room 42"), steps=2)
    with pytest.raises(aa.errors.UnusableTarget, match="Silence"):
        aa.Transcribe("  ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_crafts_on_cuda_and_is_heard_so_on_the_cpu(model: aa.Recogniser, clips: list[Clip]) -> None:
    for result in aa.craft(aa.load_model("tiny-mel", "cuda"), clips, aa.Transcribe(TEXTS), bound=aa.SNR("min"), steps=STEPS).clips:
        assert result.reached
        assert model.transcribe(result.adversarial[None], torch.tensor([len(result.adversarial)])) == [result.target]


def test_a_clip_that_nothing_is_done_to_is_inside_whoever_is_beside_it() -> None:
    model = recognisers.linear()
    hiss = aa.Clip("hiss", 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(0)), 16000)
    heard = model.transcribe(hiss.samples[None], torch.tensor([4000]))[0]
    needless = aa.Mistranscribe(["go home"], errors=0.5)
    for bound in (aa.parse_bound("timing:160,0.05"), aa.SNR(20)):
        result = aa.craft(model, [hiss], needless, bound=bound, steps=1).clips[0]
        assert (result.outcome, result.excess <= 0) == ("needless", True), heard
    silent = aa.Clip("silent", torch.zeros(4000), 16000)
    assert aa.craft(model, [silent], aa.Mistranscribe(["go home"]), bound=aa.SNR(20), steps=1).clips[0].excess <= 0


def test_craft_takes_what_craft_each_takes_and_says_so() -> None:
    assert signature(aa.craft).parameters == signature(aa.craft_each).parameters
    assert signature(aa.craft).return_annotation is aa.CraftResult
    assert pickle.loads(pickle.dumps(aa.craft)) is aa.craft
    assert (aa.craft.__name__, "gathered" in (aa.craft.__doc__ or "")) == ("craft", True)
    with pytest.raises(TypeError, match=r"craft_each\(\) got an unexpected keyword argument 'bond'"):
        aa.craft(recognisers.linear(), [], aa.Silence(), bond="snr:20")  # type: ignore[call-arg]


def test_the_same_attack_answers_to_both_its_names(clips: list[Clip], model: aa.Recogniser) -> None:
    for name in ("shrink", "find_then_shrink"):
        assert crafting(name) is evaluating(name) is TABLE["shrink"]
    named = [
        aa.craft(model, clips[:1], aa.Transcribe("no"), attack=name, steps=3).adversarial[0] for name in ("shrink", "find_then_shrink")
    ]
    assert torch.equal(*named)
    with pytest.raises(aa.errors.OptionError, match=r"attack 'fmn': unknown. Use shrink or pgd or"):
        aa.craft(model, clips[:1], aa.Transcribe("no"), attack="fmn")
    with pytest.raises(aa.errors.OptionError, match=r"attack 'qin': unknown. Use one of annealed_pgd, .*find_then_shrink"):
        evaluating("qin")


def test_what_a_clip_was_heard_as_is_not_asked_again() -> None:
    clip = aa.Clip("hiss", 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0)), 16000)
    asked: list[int] = []

    def net(waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(len(waveforms))
        return recognisers.listen(waveforms, lengths)

    model = aa.Recogniser(net, sample_rate=16000)
    told = heard_clean(model, clip)
    costs = []
    for heard in ([told], [None], None):
        asked.clear()
        (crafted,) = aa.craft(model, [clip], aa.Silence(), steps=2, heard=heard).clips
        assert crafted.clean_transcript == told.transcripts()[0] != ""
        costs.append(len(asked))
    assert costs == [costs[0], costs[0] + 1, costs[0] + 1]
    with pytest.raises(aa.errors.UnusableBatch, match="heard of 0 clips, but 1 are given"):
        aa.craft(model, [clip], aa.Silence(), heard=[])


def test_a_model_that_remembers_is_not_crafted_for() -> None:
    """It would answer the judge, who asks what the attack has asked, as one who comes again: what is found would count as missed."""
    clip = aa.Clip("hiss", 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0)), 16000)
    asked: list[int] = []

    def net(waveforms: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(len(waveforms))
        return recognisers.listen(waveforms, lengths)

    memory = remembering(aa.Recogniser(net, sample_rate=16000), Exact())
    with pytest.raises(aa.errors.OptionError, match=r"remembers.*games\.play, or attack a copy without the memory.*forgetting"):
        aa.craft(memory, [clip], aa.Silence(), steps=2)
    assert not asked
    assert aa.craft(forgetting(memory), [clip], aa.Silence(), bound=aa.SNR(-20), steps=20).reached == [True]


class Leaning(torch.nn.Module):
    """Ten frames, the first of which hears an "a" where the mean of its samples is above a threshold, lower where clips are many."""

    def __init__(self, threshold: float, lower: float = 0.0, refused: float | None = None) -> None:
        super().__init__()
        self.threshold, self.lower, self.refused = threshold, lower, refused
        self.statement = Statement(detects=refused is not None)

    def forward(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> Any:
        means = torch.nn.functional.pad(waveforms, (0, 1600))[:, :1600].unfold(1, 160, 160).mean(2)
        least = self.threshold - self.lower * (len(waveforms) > 1)
        lead = 400 * (means - least) * torch.eye(10)[0] - 8 * (1 - torch.eye(10)[0])
        log_probs, frames = torch.stack([0 * lead, lead, lead - 20], 2).log_softmax(-1), torch.full((len(waveforms),), 10)
        if self.refused is None:
            return log_probs, frames
        return carrying(Emissions(log_probs, frames, LEANING), "loud", waveforms.abs().amax(1) - self.refused)

    def undetected(self) -> aa.Undetected:
        return aa.Undetected()


LEANING = ("", "a", " ")


def hiss(name: str, lean: float = 0.0) -> Clip:
    """A tenth of a second whose first frame's mean is `lean`."""
    samples = 0.05 * torch.randn(1600, generator=torch.Generator().manual_seed(1))
    samples[:160] += lean - samples[:160].mean()
    return Clip(name, round16(samples), 16000)


def test_what_is_stopped_before_its_last_step_says_so_also_where_the_judge_has_the_last_word() -> None:
    model, seen = aa.Recogniser(Leaning(0.016), 16000, LEANING), [0]

    def told(progress: Progress) -> None:
        seen[0] = progress.step

    how: dict[str, Any] = {"bound": "linf:0.02", "attack": "pgd", "steps": 100, "channel": "noise:0", "draws": 4, "check_draws": 2}
    for seed in range(3):
        seen[0] = 0
        (crafted,) = aa.craft(
            model, [hiss("c")], aa.Transcribe("a"), rate=0.5, seed=seed, progress=told, stop=lambda: seen[0] >= 10, **how
        ).clips
        assert (crafted.outcome, crafted.cut_short) == (Outcome.MISSED, True)
        assert crafted.note.endswith("Stopped after 10 of 100 steps.")


def test_what_is_heard_among_others_only_is_attacked_again_alone() -> None:
    """By a model whose outputs differ with the batch: it comes out as from a batch of its own, and costs both."""
    model, how = aa.Recogniser(Leaning(0.012, lower=0.004), 16000, LEANING), {"bound": "linf:0.02", "attack": "pgd", "steps": 100}
    first, other = aa.craft(model, [hiss("c"), hiss("d", -0.03)], aa.Transcribe("a"), **how).clips  # type: ignore[arg-type]
    alone = aa.craft(model, [hiss("c")], aa.Transcribe("a"), **how).clips[0]  # type: ignore[arg-type]
    assert first.reached
    assert torch.equal(first.adversarial, alone.adversarial)
    among = first.steps - alone.steps
    assert 0 < among < alone.steps, "its steps among others, which came too soon"
    assert (first.forwards, first.backwards) == (alone.forwards + among, alone.backwards + among)
    assert (other.outcome, other.steps) == (Outcome.MISSED, 100)


def test_a_stop_before_the_try_alone_is_no_verdict() -> None:
    model, seen = aa.Recogniser(Leaning(0.012, lower=0.004), 16000, LEANING), [0]

    def told(progress: Progress) -> None:
        seen[0] = progress.step

    clips, how = [hiss("c"), hiss("d", -0.03)], {"bound": "linf:0.02", "attack": "pgd", "steps": 100}
    whole = aa.craft(model, clips, aa.Transcribe("a"), **how).clips[0]  # type: ignore[arg-type]
    assert (whole.outcome, whole.cut_short) == (Outcome.REACHED, False)
    cut = aa.craft(model, clips, aa.Transcribe("a"), progress=told, stop=lambda: seen[0] >= 30, **how).clips[0]  # type: ignore[arg-type]
    assert (cut.outcome, cut.cut_short) == (Outcome.MISSED, True)
    assert "stopped before it was attacked alone" in cut.note


def test_by_decisions_alone_a_detector_is_passed_too() -> None:
    for refused in (0.9, 0.0):
        model = aa.Recogniser(Leaning(0.005, refused=refused), 16000, LEANING, access=Access.DECISIONS)
        (crafted,) = aa.craft(model, [hiss("c")], aa.Transcribe("a"), bound="linf:0.02", steps=60, attack="genetic").clips
        assert crafted.reached == (refused > 0)


class Loud(Sense):
    """Suspicious is how far an input is from the clip that it knows."""

    def __init__(self, clean: torch.Tensor) -> None:
        super().__init__()
        self.clean = clean

    def forward(self, seen: Seen) -> torch.Tensor:
        return (seen.inputs - self.clean).norm(dim=1)


@pytest.mark.parametrize("channel", [None, "gain:-1..1"])
def test_what_is_reached_has_passed_the_models_own_detector(model: aa.Recogniser, clips: list[Clip], channel: str | None) -> None:
    """One that refuses what is not within an L2 ball around the clip: who knows of it ends in there, who does not far out."""
    clip, size = clips[0], float(clips[0].samples.norm())
    how: dict[str, Any] = {"bound": aa.SNR(3), "steps": 120, "channel": channel, "draws": 1, "check_draws": 4, "judge_draws": 4}

    def crafted(within: float, **more: Any) -> Crafted:
        guarded = Detected(model, Detector(Loud(clip.samples), within * size, 0.1 * size, 0.05, "loud"))
        return aa.craft(guarded, [clip], aa.Transcribe("go home"), **how | more).clips[0]

    (free,) = aa.craft(model, [clip], aa.Transcribe("go home"), **how).clips
    bold = crafted(10 ** (-9 / 20))
    assert free.reached
    assert bold.reached
    assert free.snr_db < 7
    assert bold.snr_db >= 9
    assert bold.target == bold.adversarial_transcript == "go home"
    assert not crafted(-1.0, steps=5).reached  # all are refused

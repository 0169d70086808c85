"""Attacks over a channel: the mean over draws, in any chunks; rates over draws that had no part in it; roles kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import recognisers
import torch
from torch import Tensor

import audioadv as aa
from audioadv.attacks import find_then_shrink, pgd
from audioadv.attacks.agreement import Agreement, weight
from audioadv.attacks.eot import REMEMBERED, Expectation
from audioadv.attacks.result import Attack
from audioadv.attacks.run import Run
from audioadv.attacks.settle import (
    FALL,
    FIRST_STEP,
    GROW,
    LAST,
    LAST_STEP,
    LATE_GROW,
    SETTLED,
    SHRINKING,
    WIDE_UNTIL,
    WIDEST,
    change,
    stride_at,
)
from audioadv.attacks.survivors import restarted, started
from audioadv.attacks.verdict import Verdict
from audioadv.audio.files import Clip
from audioadv.audio.gains import along_gains, around
from audioadv.audio.ragged import pad
from audioadv.audio.roomsets import Role, read_rooms
from audioadv.models.alphabet import ALPHABET
from audioadv.threat.bounds import MIN
from audioadv.threat.channels import NOTHING, Gain, Key, Noise, Room, fingerprint, parse_channel
from audioadv.threat.channels.channel import Channel, Play
from audioadv.threat.channels.heard import heard_through
from audioadv.threat.norms import L2Norm
from audioadv.threat.region import Norm

TEXTS = ["go", "no no", "stop"]
NOISY = Noise(10)


@pytest.fixture(scope="module")
def clips() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in (8000, 4000, 6300)]


def over(channel: aa.Channel, clips: list[Tensor], which: list[int], **options: object) -> aa.Objective:
    lengths = torch.tensor([len(clips[i]) for i in which])
    goal = aa.Transcribe([TEXTS[i] for i in which])
    return aa.objective(recognisers.linear(), goal, lengths, Expectation(channel, **options))  # type: ignore[arg-type]


def look(objective: aa.Objective, waveforms: Tensor) -> tuple[aa.Objective, aa.attacks.Look]:
    begun = objective.begun(waveforms)
    return begun, begun.look(waveforms)


# The mean over draws


def test_loss_and_slope_are_the_mean_over_draws(clips: list[Tensor]) -> None:
    """Against a loop that plays one draw at a time."""
    for spec in ("noise:10", "gain:-6..6_then_clip:0.2", "noise:10_or_speed:0.9", "room"):
        channel = parse_channel(spec)
        rooms = spec == "room"
        some = [torch.nn.functional.pad(clip, (0, 9000)) for clip in clips] if rooms else clips
        waveforms, lengths = pad(some)
        objective, seen = look(over(channel, some, [0, 1, 2], draws=5), waveforms)
        for i, clip in enumerate(some):
            sound = clip[None].clone().requires_grad_()
            total = torch.zeros(())
            for draw in range(5):
                heard, ends = channel.draw([Key(0, fingerprint(clip), draw)])(sound, lengths[i : i + 1])
                assert ends is not None
                total = total + aa.Transcribe(TEXTS[i]).loss(recognisers.linear()(heard, ends)).sum() / 5
            (slope,) = torch.autograd.grad(total, sound)
            assert float(seen.loss[i]) == pytest.approx(total.item(), rel=1e-4)
            torch.testing.assert_close(seen.slope[i, : len(clip)], slope[0], rtol=1e-3, atol=1e-4)
        assert objective.cost.forwards.tolist() == objective.cost.backwards.tolist() == [5, 5, 5]


def test_even_slopes_have_one_length_before_the_mean(clips: list[Tensor]) -> None:
    """Draws count the same, however long their slopes; one that is won, and has none, does no harm."""
    channel = Gain((-10, 10))
    waveforms, lengths = pad(clips[:2])
    _, seen = look(over(channel, clips, [0, 1], draws=6, even=True), waveforms)
    for i in range(2):
        sound = clips[i][None].clone().requires_grad_()
        slopes = []
        for draw in range(6):
            heard, ends = channel.draw([Key(0, fingerprint(clips[i]), draw)])(sound, lengths[i : i + 1])
            assert ends is not None
            slopes += torch.autograd.grad(aa.Transcribe(TEXTS[i]).loss(recognisers.linear()(heard, ends)).sum(), sound)
        sizes = [float(slope.norm()) for slope in slopes]
        assert max(sizes) > 1.5 * min(sizes)
        mean = sum(slope[0] / slope.norm() for slope in slopes) / 6
        torch.testing.assert_close(seen.slope[i, : lengths[i]], mean, rtol=1e-3, atol=1e-5)
    score = {"loss": lambda outputs: outputs.clamp_min(0), "reached": lambda outputs: outputs < 0, "rows": lambda index: won}
    won = SimpleNamespace(**score)
    objective = aa.objective(lambda x: x.sum(1), won, None, Expectation(Noise(0), draws=4, even=True))  # type: ignore[arg-type]
    assert not objective.begun(-torch.ones(1, 9)).look(-10 * torch.ones(1, 9)).slope.any()


def overheard(channel: Channel, lengths: Tensor) -> tuple[aa.Objective, list[Tensor]]:
    """To be heard as "go" over one draw of a channel, and all that the recogniser has heard by then."""
    met = list[Tensor]()

    def listen(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        met.append(waveforms.detach().clone())
        return recognisers.listen(waveforms, lengths)

    spied = aa.Recogniser(listen, 16000, ALPHABET)
    return aa.objective(spied, aa.Transcribe("go"), lengths, Expectation(channel, draws=1, check_draws=1)), met


def test_steps_within_a_fixed_region_shrink_until_an_example_rests(clips: list[Tensor]) -> None:
    waveforms, lengths = pad(clips[:1])
    wanted, met = overheard(Gain(0), lengths)
    find_then_shrink(wanted, aa.SNR(40).around(waveforms, lengths, box=(-1, 1)), steps=40, minimal=False)
    assert len(met) == 40 + 1, "out of reach, and the end is put to the check draws"
    torch.testing.assert_close(met.pop(), met[-1], rtol=0, atol=1.5 / 32768)
    radius = 10 ** (-40 / 20) * clips[0].norm()
    strides = [float((b - a).norm() / radius) for a, b in pairwise(met)]
    assert max(strides) == pytest.approx(FIRST_STEP * WIDEST, rel=0.1)
    assert strides[-1] < 1.2 * LAST_STEP
    sizes = [float((heard - waveforms).norm() / radius) for heard in met]
    assert 1.2 < max(sizes) <= WIDEST
    assert all(size <= 1 for size in sizes[round(40 * WIDE_UNTIL) + 1 :]), "within its region from there on"


def louder_than(level: float, margin: bool) -> SimpleNamespace:
    """The goal of a score that is below -level, which knows no margin unless it is said to."""

    def hinge(outputs: Tensor, slack: float) -> Tensor:
        assert margin, "the goal's own loss was wanted"
        return (outputs + level + slack).clamp_min(0)

    goal = SimpleNamespace(loss=lambda outputs: outputs, reached=lambda outputs: outputs < -level, margin=hinge)
    goal.rows = lambda index: goal
    return goal


@pytest.mark.parametrize("minimal", [False, True])
def test_draws_at_the_goal_keep_its_loss(minimal: bool) -> None:
    wanted = Expectation(Gain((-1, 1)), draws=2, check_draws=8, rate=1.0)
    region = aa.L2(3).around(torch.zeros(1, 9) + 0.1, box=None)
    net_and_goal = aa.objective(lambda x: x.sum(1), louder_than(1, False), None, wanted)  # type: ignore[arg-type]
    assert find_then_shrink(net_and_goal, region, steps=40, minimal=minimal).reached == [True]


class Halved(Norm):
    """Euclidean, but steps along a mean are in the first half of the entries only."""

    def gauge(self, delta: Tensor) -> Tensor:
        return L2Norm().gauge(delta)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        return L2Norm().project(delta, radius, low, high)

    def steepest(self, slope: Tensor) -> Tensor:
        return L2Norm().steepest(slope)

    steady = steepest

    def agreed(self, mean: Tensor) -> Tensor:
        return self.steepest(mean) * (torch.arange(mean.shape[1]) < mean.shape[1] // 2)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return L2Norm().sample(clean, generator)

    def rows(self, index: Tensor) -> "Halved":
        return self


def test_steps_go_where_the_steps_before_agreed() -> None:
    net_and_goal = aa.objective(lambda x: x.sum(1), louder_than(1, True), None, Expectation(Gain((-1, 1)), draws=2, check_draws=8))  # type: ignore[arg-type]
    region = replace(aa.L2(3).around(torch.full((1, 8), 0.1), box=None), norm=Halved())
    change = (find_then_shrink(net_and_goal, region, steps=40, minimal=False).adversarial - region.clean)[0]
    assert change[:4].abs().amin() > 100 * change[4:].abs().amax()


def test_the_smallest_over_a_channel_is_what_most_draws_hear() -> None:
    """The sum less 0.9 has to come below -0.5 over a gain of -6 to 6 dB: in nine draws of ten, a gain below 4.8 dB."""
    wanted = Expectation(Gain((-6, 6)), draws=2, check_draws=40, hard=0, rate=0.9)
    region = aa.L2(MIN).around(torch.full((2, 9), 0.1), box=None)
    told = list[float]()
    result = find_then_shrink(
        aa.objective(lambda x: x.sum(1) - 0.9, louder_than(0.5, True), None, wanted),  # type: ignore[arg-type]
        region,
        steps=400,
        progress=lambda step, gauge, best: told.append(float(gauge[0])),
    )
    assert result.reached == [True, True]
    assert result.rate is not None
    assert (result.rate >= 0.9).all()
    least = (0.9 - 0.4 / 10 ** (4.8 / 20)) / 3
    assert (result.gauge / least < 1.08).all()
    assert (result.gauge / least > 0.97).all()
    assert told[round(400 * LAST) - 1] < float("inf"), "something is kept on the way"


def test_a_radius_falls_where_most_are_heard_and_grows_where_few_are() -> None:
    heard = torch.tensor([0.3, 0.4, 0.75, 0.8, 1.0])

    def nepers(last: bool, steps: int = 600) -> Tensor:
        return change(heard, 0.9, last, steps, 16.0).log() * steps

    torch.testing.assert_close(nepers(False), torch.tensor([GROW, 0.0, 0.0, -0.5 * FALL, -FALL]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(nepers(True), torch.tensor([LATE_GROW, LATE_GROW, LATE_GROW, LATE_GROW, -0.5 * FALL]), rtol=1e-3, atol=1e-3)
    assert float(nepers(False, 20)[-1]) == pytest.approx(-20 / 32), "not out of hearing before it is known"


def test_steps_of_the_smallest_fall_twice() -> None:
    ends = [stride_at(done, True) for done in (0.0, SETTLED, LAST, 1.0)]
    assert ends == pytest.approx([FIRST_STEP, SHRINKING, SHRINKING, LAST_STEP])
    every = [stride_at(done / 100, True) for done in range(101)]
    assert every == sorted(every, reverse=True)


def test_only_what_scatters_phases_does() -> None:
    assert parse_channel("room").scatters
    assert parse_channel("gain:3_then_room_then_noise:20").scatters
    assert not parse_channel("noise:20_then_gain:3").scatters
    assert not parse_channel("room_or_noise:20").scatters, "half of the draws leave phases as they are"


def test_rooms_agree_on_gains() -> None:
    """The mean slopes of two sets of draws are far more alike once only gains are kept, and most of what was there is gone."""
    speech = next(clip for clip in aa.read_audio([Path(__file__).parent.parent / "samples/letter.flac"], 16000)).samples[:24000]
    waveforms, lengths = pad([speech])
    model, goal = aa.load_model("tiny-mel"), aa.Transcribe("go")

    def mean_slope(seed: int) -> Tensor:
        wanted = Expectation(parse_channel("room_then_noise:20..30"), draws=16, hard=0, even=True, seed=seed)
        return aa.objective(model, goal, lengths, wanted).begun(waveforms).look(waveforms).slope

    plain = [mean_slope(seed) for seed in range(2)]
    gains = [along_gains(slope, waveforms, 16000) for slope in plain]
    assert 0 < float(torch.cosine_similarity(*plain)) < 0.4
    assert float(torch.cosine_similarity(*gains)) > 0.7
    assert float(gains[0].norm()) < 0.7 * float(plain[0].norm())


@dataclass(frozen=True)
class Scattering(Channel):
    """Nothing happens, but it says that it scatters."""

    @property
    def scatters(self) -> bool:
        return True

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        return lambda inputs, lengths: (inputs, lengths)


def test_what_draws_agree_on_is_measured_without_knowing_it() -> None:
    """Two parts with a known mean and known noise, one clip quiet and one clear: c comes out, and so do the weights."""
    generator, size, steps, lengths = torch.Generator().manual_seed(0), 400, 1500, torch.tensor([[1.0], [3.0]])
    means = [torch.randn(1, size, generator=generator) * lengths, 0.3 * torch.randn(1, size, generator=generator) * lengths]
    noise = 4.0  # beside means of 1 and 3, 0.3 and 0.9 an entry
    agreement, found = Agreement(0.9), []
    for _ in range(steps):
        weighed = agreement.weighed(drawn := [mean + noise * torch.randn(2, size, generator=generator) for mean in means], 0.1)
        found.append(torch.stack(agreement.shares()))
    shares = torch.stack([mean.square().sum(1) / (mean.square().sum(1) + noise**2 * size) for mean in means])
    torch.testing.assert_close(torch.stack(found[200:]).mean(0), shares, atol=0.01, rtol=0.1)
    lasting = 19 + 10  # of a running mean with 0.9, and until steps of a tenth are as long as the radius
    weights = [weight(share, lasting) for share in agreement.shares()]
    torch.testing.assert_close(weighed, sum(w[:, None] * part for w, part in zip(weights, drawn, strict=True)))


def test_the_weight_of_a_mean_is_the_best_there_is() -> None:
    """No other multiple of a mean of 5 slopes comes nearer to the true one, on average."""
    generator, true, noise = torch.Generator().manual_seed(0), torch.randn(300, generator=torch.Generator().manual_seed(1)), 2.0
    means = (true + noise * torch.randn(2000, 5, 300, generator=generator)).mean(1)
    best = weight(true.square().sum() / (true.square().sum() + noise**2 * 300), 5)
    less, at, more = (float((w * means - true).square().sum(1).mean()) for w in (best - 0.05, best, best + 0.05))
    assert at < min(less, more)


def test_who_leaves_takes_nothing_along() -> None:
    """The others' weights stay theirs."""
    generator = torch.Generator().manual_seed(0)
    slopes = [[torch.randn(3, 50, generator=generator) + 1, torch.randn(3, 50, generator=generator)] for _ in range(6)]
    together, fewer = Agreement(0.5), Agreement(0.5)
    stay = torch.tensor([2, 0])
    for number, parts in enumerate(slopes):
        whole = together.weighed(parts, 0.1)
        if number == 3:
            fewer.keep((stay, 50))
        some = fewer.weighed([part[stay] if number >= 3 else part for part in parts], 0.1)
        torch.testing.assert_close(some, whole[stay] if number >= 3 else whole)


def test_draws_that_agree_on_gains_alone_leave_gains_alone(clips: list[Tensor]) -> None:
    waveforms, chance = clips[0][None], torch.Generator().manual_seed(0)
    gains = along_gains(torch.randn(waveforms.shape, generator=chance), waveforms, 16000)
    agreement = Agreement(0.9)
    for _ in range(50):
        rest = 3 * gains.norm() * torch.randn(gains.shape, generator=chance) / gains.numel() ** 0.5
        step = agreement.weighed((gains, rest), 0.3)
    assert float(torch.cosine_similarity(step, gains)) > 0.95 > 0.5 > float(torch.cosine_similarity(gains + rest, gains))


def test_steps_over_rooms_go_along_gains_and_rest_as_weighed(clips: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slope is all there is; gains alone, where draws say so."""
    waveforms, lengths = pad(clips[:1])
    wanted, met = overheard(Scattering(), lengths)
    region = aa.SNR(40).around(waveforms, lengths, box=None)
    find_then_shrink(wanted, region, steps=4, minimal=False)
    slope = aa.objective(recognisers.linear(), aa.Transcribe("go"), lengths).begun(met[0]).look(met[0]).slope
    assert float(torch.cosine_similarity(met[0] - met[1], slope)) > 0.999
    monkeypatch.setattr(Agreement, "weighed", lambda self, parts, stride: parts[0])
    met.clear()
    find_then_shrink(wanted, region, steps=4, minimal=False)
    gains = along_gains(slope, met[0], 16000)
    assert float(torch.cosine_similarity(met[0] - met[1], gains)) > 0.999 > 0.95 > float(torch.cosine_similarity(gains, slope))


def test_over_rooms_the_others_go_on_when_one_leaves(clips: list[Tensor]) -> None:
    """The first clip has room to get there, and leaves; the second has none."""
    waveforms, lengths = pad(clips[:2])
    wanted = aa.objective(recognisers.linear(), aa.Transcribe("go"), lengths, Expectation(Scattering(), draws=1, check_draws=2))
    region = aa.SNR(0).around(waveforms, lengths, box=None)
    result = find_then_shrink(wanted, region.at(region.radius * torch.tensor([1.0, 0.02])), steps=60, minimal=False)
    assert list(result.reached) == [True, False]
    assert int(result.steps[0]) < int(result.steps[1]) == 60


def test_gains_know_no_neighbours_and_no_level(clips: list[Tensor]) -> None:
    waveforms, lengths = pad(clips)
    change_of = torch.randn(waveforms.shape, generator=torch.Generator().manual_seed(0)) * (waveforms != 0)
    together = along_gains(change_of, waveforms, 16000)
    for i, length in enumerate(lengths.tolist()):
        alone = along_gains(change_of[i : i + 1, :length], waveforms[i : i + 1, :length], 16000)
        torch.testing.assert_close(together[i, :length], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(along_gains(change_of, 1e-3 * waveforms, 16000), together, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(along_gains(2 * change_of, waveforms, 16000), 2 * together)
    again = along_gains(together, waveforms, 16000)
    assert float((again * together).sum()) > 0.7 * float(together.square().sum()), "nearly a projection"
    silence = along_gains(change_of, torch.zeros_like(waveforms), 16000)
    assert float((silence - change_of).norm()) < 0.1 * float(change_of.norm())


def test_what_is_seldom_heard_comes_back_with_its_rate() -> None:
    """No look finds half of its draws at the goal, so nothing is put to the check draws before the end."""
    wanted = Expectation(Gain((-20, 20)), draws=16, check_draws=64, hard=0, rate=0.9)
    region = aa.L2(3).around(torch.zeros(1, 9) + 0.1, box=None)
    score = 9 * 0.1 - 3 * 3  # at best: all of the radius against the sum
    level = -score * 10 ** (16 / 20)  # so the gain has to be 16 dB, which 4 of 40 draws have
    result = find_then_shrink(aa.objective(lambda x: x.sum(1), louder_than(level, True), None, wanted), region, steps=30)  # type: ignore[arg-type]
    assert result.outcome == (aa.Outcome.MISSED,)
    assert result.rate is not None
    assert 0.02 < float(result.rate) < 0.25
    torch.testing.assert_close(result.adversarial, region.clean - 1, rtol=0, atol=0.05)


def test_alone_batched_turned_or_in_chunks_it_is_the_same(clips: list[Tensor]) -> None:
    def after(which: list[int], memory_mib: float) -> list[Tensor]:
        waveforms, _ = pad([clips[i] for i in which])
        objective = over(NOISY, clips, which, draws=6, hard=0.34, memory_mib=memory_mib).begun(waveforms)
        for _ in range(4):
            seen = objective.look(waveforms)
            waveforms = waveforms - 1e-3 * seen.slope / seen.slope.norm(dim=1, keepdim=True)
        return [waveforms[row, : len(clips[i])] for row, i in enumerate(which)]

    together = after([0, 1, 2], 512)
    for other in (after([0, 1, 2], 0.05), [after([i], 512)[0] for i in range(3)], [after([2, 0, 1], 0.1)[i] for i in (1, 2, 0)]):
        for a, b in zip(together, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_the_same_clip_twice_meets_the_same_draws_but_learns_by_itself(clips: list[Tensor]) -> None:
    twice = torch.stack([clips[0], clips[0]])
    goal = aa.Transcribe(["go", "no no"])
    lengths = torch.tensor([8000, 8000])
    both = aa.objective(recognisers.linear(), goal, lengths, Expectation(NOISY, hard=0.5)).begun(twice)
    alone = aa.objective(recognisers.linear(), goal.rows(torch.tensor([1])), lengths[:1], Expectation(NOISY, hard=0.5)).begun(twice[:1])
    for _ in range(3):
        torch.testing.assert_close(both.look(twice).loss[1], alone.look(twice[:1]).loss[0])


def test_chunks_hold_no_more_than_the_memory_however_many_draws(clips: list[Tensor]) -> None:
    widest = []
    for draws in (32, 128):
        rows: list[int] = []

        def listen(waveforms: Tensor, lengths: Tensor, rows: list[int] = rows) -> tuple[Tensor, Tensor]:
            rows.append(len(waveforms))
            return recognisers.listen(waveforms, lengths)

        waveforms, lengths = pad(clips)
        spied = aa.Recogniser(listen, 16000, ALPHABET)
        objective = aa.objective(spied, aa.Transcribe("go"), lengths, Expectation(NOISY, draws=draws, memory_mib=1)).begun(waveforms)
        objective.look(waveforms)
        objective.look(waveforms)
        assert sum(rows) == 2 * 3 * draws
        assert objective.memory is not None
        assert max(rows[2:]) * 4000 * objective.memory.bytes_per_sample <= 2**20
        widest.append(max(rows))
    assert widest[0] == widest[1]


def test_new_draws_each_time_and_hard_ones_again(clips: list[Tensor]) -> None:
    waveforms, _ = pad(clips[:1])
    for hard in (0.0, 0.5):
        objective = over(Noise((-10, 40)), clips, [0], draws=8, hard=hard).begun(waveforms)
        assert objective.memory is not None
        expectation, seen, met = objective.expectation, objective.memory.losses[0], set[int]()
        assert expectation is not None
        again: list[float] = []
        for number in range(20):
            keys = list(expectation.plan(objective.memory, 0, 8 * number))
            again += [seen[key.draw] / (sum(seen.values()) / len(seen)) for key in keys if key.draw in met]
            assert sum(key.draw in met for key in keys) == (int(8 * hard) if number else 0)
            met |= {key.draw for key in keys}
            objective.look(waveforms)
        assert len(seen) <= REMEMBERED
        if hard:
            assert sum(again) / len(again) > 1.02, "harder than the mean"


# Rates


def test_a_rate_is_the_share_of_check_draws_that_reach(clips: list[Tensor]) -> None:
    result = aa.craft(recognisers.linear(), [Clip("hiss", clips[0], 16000)], aa.Transcribe("go"), bound=aa.SNR("min"), steps=60).clips[0]
    waveforms = result.adversarial[None]
    channel, name = Noise((0, 60)), fingerprint(waveforms[0])
    objective = over(channel, [waveforms[0]], [0], check_draws=50).begun(waveforms)
    assert objective.memory is not None
    objective.memory.shares[0] = 1.0
    rate = float(objective.rates(waveforms, torch.tensor([True]), torch.zeros(1)))
    heard = heard_through(recognisers.linear(), waveforms[0], channel, draws=50, clip=name, role=Role.CHECK)
    hits = sum(int(aa.Transcribe("go").reached(part).sum()) for part in heard)  # by a clear lead, as attacks judge
    assert 0.1 < rate < 0.9
    assert rate == pytest.approx(hits / 50, abs=0.021)  # a lead of no more than rounding counts for one and not for the other
    assert float(objective.rates(waveforms, torch.tensor([False]), torch.zeros(1))) == 0
    objective.cost.forwards.add_(50)  # as if steps had been taken
    before = int(objective.cost.forwards)
    assert float(objective.rates(waveforms, torch.tensor([True]), torch.ones(1))) < 1
    assert int(objective.cost.forwards) - before < 50, "given up once it cannot win"
    objective.memory.checks[0] = int(objective.cost.forwards)
    before = int(objective.cost.forwards)
    assert float(objective.rates(waveforms, torch.tensor([True]), torch.zeros(1))) == 0
    assert int(objective.cost.forwards) == before, "checks have had their share"


@pytest.mark.parametrize("spec", ["snr:min", "linf:min", "snr:5", "linf:0.05"])
def test_what_is_found_holds_on_draws_that_nothing_has_seen(spec: str, clips: list[Tensor]) -> None:
    bound = aa.parse_bound(spec)
    some = [Clip(str(i), clip, 16000) for i, clip in enumerate(clips[:2])]
    options = {"bound": bound, "steps": 80, "draws": 4, "check_draws": 24, "judge_draws": 60}
    plain = aa.craft(recognisers.linear(), some, aa.Transcribe(TEXTS[:2]), bound=bound, steps=80)
    made = aa.craft(recognisers.linear(), some, aa.Transcribe(TEXTS[:2]), channel=NOISY, **options)
    for result, naive in zip(made.clips, plain.clips, strict=True):
        assert result.rate >= 0.75
        assert result.excess <= 0
        assert result.line()["channel"] == "noise:10"
        heard = heard_through(recognisers.linear(), naive.adversarial, NOISY, draws=60, clip=fingerprint(naive.clip.samples))
        hits = sum(text == naive.target for part in heard for text in part.transcripts())
        assert hits / 60 < (0.5 if bound.minimal else result.rate + 0.1), "without EOT, what just works does not last"
    again = aa.craft(recognisers.linear(), some, aa.Transcribe(TEXTS[:2]), channel=NOISY, **options)
    assert all(torch.equal(a, b) for a, b in zip(made.adversarial, again.adversarial, strict=True))


def test_the_best_by_rate_is_returned_even_where_it_is_too_low(clips: list[Tensor]) -> None:
    waveforms, lengths = pad(clips[:1])
    wanted = Expectation(Noise((-20, 20)), draws=4, check_draws=32, rate=1.0)
    for attack in (find_then_shrink, pgd):
        region = aa.SNR(3).around(waveforms, lengths, box=(-1, 1))
        options = {"minimal": False} if attack is find_then_shrink else {}
        result = attack(aa.objective(recognisers.linear(), aa.Transcribe("go"), lengths, wanted), region, steps=60, **options)
        assert result.rate is not None
        assert result.outcome == (aa.Outcome.MISSED,)
        assert 0.1 < float(result.rate) < 1
        assert not torch.equal(result.adversarial, waveforms)
        objective = aa.objective(recognisers.linear(), aa.Transcribe("go"), lengths, wanted).begun(waveforms)
        assert objective.memory is not None
        objective.memory.shares[0] = 1.0
        assert float(objective.rates(result.adversarial, torch.tensor([True]), torch.zeros(1))) == pytest.approx(float(result.rate))


def test_another_start_meets_other_draws_and_the_best_by_the_same_checks_stays(clips: list[Tensor]) -> None:
    waveforms, lengths = pad(clips[:1])
    wanted = Expectation(Noise((-20, 20)), draws=4, check_draws=32, rate=1.0)
    objective, region = (
        aa.objective(recognisers.linear(), aa.Transcribe("go"), lengths, wanted),
        aa.SNR(3).around(waveforms, lengths, box=(-1, 1)),
    )
    first, second = (started(objective, number).begun(waveforms) for number in (0, 1))
    assert float(first.look(waveforms).loss) != float(second.look(waveforms).loss)
    assert first.memory is not None
    assert second.memory is not None

    found = partial(find_then_shrink, minimal=False, steps=20)
    both = restarted(found, objective, region, restarts=2)
    alone = [found(started(objective, number), region, seed=number) for number in (0, 1)]
    rates = [float(one.rate) for one in alone if one.rate is not None]
    assert rates[0] != rates[1]
    assert float(both.rate) == max(rates)  # type: ignore[arg-type]
    assert torch.equal(both.adversarial, alone[rates.index(max(rates))].adversarial)

    first.memory.shares[0] = second.memory.shares[0] = 1.0
    checked = [float(one.rates(both.adversarial, torch.tensor([True]), torch.zeros(1))) for one in (first, second)]
    assert 0 < max(rates) < 1
    assert checked == [pytest.approx(max(rates))] * 2


@pytest.mark.parametrize("attack", [pgd, aa.attacks.apgd])
def test_more_check_draws_lose_no_success(attack: Attack) -> None:
    """The first inputs that half of the draws hear use up what checks may cost; the last one is put to them all the same."""
    net, images = aa.load_classifier("mnist"), 0.3 * torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images[:, :, 8:20, 12:16] = 1
    goal, region = aa.Misclassify(net(images).argmax(1)), aa.Linf(0.1).around(images)
    for checks in (16, 100):
        result = attack(aa.objective(net, goal, None, Expectation("rotate:-30..30@3", check_draws=checks)), region, steps=20)
        assert result.reached == [True] * 4
        assert (result.steps <= 20).all()


def test_the_last_input_that_was_one_too_many_is_put_to_the_check_draws(clips: list[Tensor]) -> None:
    """Once, at the end, at the run's cost: whether its example is still there or has left, and with the model at rest."""
    region = aa.L2(3).around(torch.zeros(3, 9) + 0.1, box=None)
    net = torch.nn.Linear(9, 1, bias=False)
    torch.nn.init.ones_(net.weight)
    wanted = Expectation(Gain((-1, 1)), draws=2, check_draws=16, hard=0)
    run = Run(aa.objective(lambda x: net(x)[:, 0], louder_than(1, True), None, wanted), region)  # type: ignore[arg-type]
    assert run.objective.memory is not None
    for less in (0.25, 0.5):  # the first is heard in some draws, the second in all
        inputs = region.clean - less
        look = run.objective.look(inputs)
        assert look.reached.all()
        run.objective.memory.checks[:2] = [1000, 1000]
        kept = run.keep(inputs, look.reached & torch.tensor([True, True, False]))
        assert not kept.any()
    run.leave(torch.tensor([False, True, True]), torch.zeros(3, dtype=torch.bool))
    before = run.cost.forwards.clone()
    result = run.result()
    assert result.reached == [True, True, False]
    assert result.rate is not None
    assert result.rate.tolist() == [1, 1, 0]
    torch.testing.assert_close(result.adversarial[:2], region.clean[:2] - 0.5)
    assert (result.forwards - before).tolist() == [16, 16, 0]
    assert net.weight.requires_grad


def test_the_rate_of_the_smallest_is_what_was_counted() -> None:
    """More than was wanted is no more than wanted to the search, and is told as it is."""
    wanted = Expectation(Gain((-6, 6)), draws=2, check_draws=24, hard=0, rate=0.6)
    region = aa.L2(MIN).around(torch.full((3, 9), 0.1) + 0.01 * torch.arange(3)[:, None], box=None)
    told = aa.objective(lambda x: x.sum(1) - 0.9, louder_than(0.5, True), None, wanted)  # type: ignore[arg-type]
    result, begun = find_then_shrink(told, region, steps=60), told.begun(region.clean)
    assert result.rate is not None
    assert begun.memory is not None
    begun.memory.shares[:] = [1.0] * 3
    counted = begun.rates(result.adversarial, torch.ones(3, dtype=torch.bool), torch.zeros(3))
    torch.testing.assert_close(result.rate, counted)
    assert (counted > 0.6).any()


# Images and classifiers


def test_a_classifier_over_turned_images() -> None:
    """The slope of a linear classifier's mean score over shifts is the mean of its shifted weights."""
    weights = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(0))

    class Score:
        def loss(self, outputs: Tensor) -> Tensor:
            return outputs

        margin = loss

        def reached(self, outputs: Tensor) -> Tensor:
            return outputs < 0

        def rows(self, index: Tensor) -> "Score":
            return self

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    channel = parse_channel("rotate:-20..20@1_then_drop:0.2")
    objective = aa.objective(lambda x: x.flatten(1) @ weights, Score(), None, Expectation(channel, draws=6))  # type: ignore[arg-type]
    seen = objective.begun(images).look(images)
    image = images[1:].clone().requires_grad_()
    keys = [Key(0, fingerprint(images[1]), draw) for draw in range(6)]
    score = (channel.draw(keys)(image.expand(6, -1, -1, -1), None)[0].flatten(1) @ weights).mean()
    torch.testing.assert_close(seen.loss[1], score.detach())
    torch.testing.assert_close(seen.slope[1], torch.autograd.grad(score, image)[0][0])


def test_attacks_on_scores_and_decisions_meet_draws_too() -> None:
    """A score is the mean over new draws, and what an attack without gradients finds is put to check draws as well."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(3, 64, generator=torch.Generator().manual_seed(0)))
        net[1].bias.zero_()
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    goal = aa.Misclassify(net(images).argmax(1))
    channel = parse_channel("drop:0.1")
    wanted = aa.objective(net, goal, None, Expectation(channel, draws=6, hard=0, rate=0.8))
    scored, looked = wanted.begun(images).score(images), wanted.begun(images).look(images)
    torch.testing.assert_close(scored.loss, looked.loss)
    assert torch.equal(scored.reached, looked.reached)
    assert torch.equal(wanted.begun(images).decide(images), looked.reached)
    region = aa.L2(2.5).around(images)
    for attack in (aa.attacks.pgd, partial(aa.attacks.square, steps=150), partial(aa.attacks.hop_skip_jump, steps=3, draws=10)):
        result = attack(wanted, region)
        assert result.rate is not None
        assert any(result.reached)
        assert (result.rate >= 0.8).tolist() == result.reached
        keys = [Key(7, 7, draw, Role.JUDGE) for draw in range(100)]
        for image, label, reached in zip(result.adversarial, goal.labels, result.reached, strict=True):
            fooled = net(channel.draw(keys)(image.expand(100, -1, -1, -1), None)[0]).argmax(1) != label
            assert not reached or fooled.float().mean() > 0.6


# Channels in which nothing is random


def test_where_nothing_is_random_one_draw_is_looked_at() -> None:
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    net = Classifies(36)
    torch.nn.init.normal_(net.net[1].weight, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    torch.nn.init.zeros_(net.net[1].bias)  # type: ignore[arg-type]
    goal = aa.Misclassify(net(images).argmax(1))
    result = pgd(aa.objective(net, goal, None, Expectation("depth:3", draws=8, check_draws=16)), aa.Linf(0.9).around(images), steps=3)
    assert all(result.reached)
    assert (result.forwards <= 2 * result.steps + 2).all(), "one for a step, one to check"
    once = pgd(aa.objective(net, goal, None, Expectation("depth:3", draws=1, check_draws=1)), aa.Linf(0.9).around(images), steps=3)
    torch.testing.assert_close(once.adversarial, result.adversarial)
    drawn = aa.objective(net, goal, None, Expectation(NOTHING, draws=8)).begun(images)
    drawn.look(images)
    assert drawn.cost.forwards.tolist() == [8] * 3, "of no channel, the draws are the model's own, and whoever asks for them gets them"


def test_what_is_crafted_where_nothing_is_random_is_judged_once(clips: list[Tensor]) -> None:
    hiss = [Clip("hiss", clips[0], 16000)]
    (found,) = aa.craft(recognisers.linear(), hiss, aa.Transcribe("go"), bound="snr:5", channel="gain:-6", steps=40, judge_draws=50).clips
    assert (found.outcome, found.hits, found.draws) == (aa.Outcome.REACHED, 1, 1)
    assert found.forwards < 3 * 40


# What is wrong is said


def test_slopes_from_scores_do_not_go_with_a_channel() -> None:
    with pytest.raises(aa.errors.OptionError, match="over a channel"):
        aa.objective(recognisers.linear(), aa.Transcribe("go"), None, Expectation(NOISY), slopes=aa.attacks.nes())


def test_crafting_on_judge_rooms_is_an_error() -> None:
    clip = Clip("hiss", 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0)), 16000)
    judge = Room(read_rooms().only(Role.JUDGE))
    with pytest.raises(aa.errors.WrongRole, match="for judge, not for craft"):
        aa.craft(recognisers.linear(), [clip], aa.Transcribe("go"), channel=judge, steps=2)
    with pytest.raises(aa.errors.WrongRole, match="for craft, not for check"):
        aa.craft(recognisers.linear(), [clip], aa.Transcribe("go"), channel=Room(read_rooms().only(Role.CRAFT)), steps=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"draws": 0}, "draws 0"),
        ({"check_draws": 0}, "check_draws 0"),
        ({"judge_draws": 0}, "judge_draws 0"),
        ({"rate": 0.0}, "rate 0"),
        ({"rate": math.nan}, "rate nan"),
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, float], said: str, clips: list[Tensor]) -> None:
    with pytest.raises(aa.errors.OptionError, match=said):
        aa.craft(recognisers.linear(), [Clip("hiss", clips[0], 16000)], aa.Transcribe("go"), channel=Gain(3), **options)


@pytest.mark.parametrize(
    ("spec", "shape", "said"),
    [
        ("noise:20", (2, 1, 8, 8), "noise:20 is for sound"),
        ("drop:0.1_then_room", (2, 1, 8, 8), "room is for sound"),
        ("drop:0.1_or_rotate:-3..3", (2, 800), "images are"),
        ("gaussian:0.1", (2, 1, 800), "no channel takes that"),
    ],
)
def test_sound_through_what_is_for_images_or_the_reverse(spec: str, shape: tuple[int, ...], said: str) -> None:
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(3))
    with torch.no_grad():
        net(x := torch.zeros(shape))
    goal = aa.Misclassify(torch.zeros(2, dtype=torch.int64))
    with pytest.raises(aa.errors.UnusableBatch, match=said):
        pgd(aa.objective(net, goal, None, Expectation(parse_channel(spec))), aa.Linf(0.1).around(x), steps=2)


def test_a_clip_that_rooms_outlast_stops_no_other(clips: list[Tensor]) -> None:
    both = [Clip("short", clips[1], 16000), Clip("long", torch.cat([clips[0]] * 4), 16000)]
    short, long = aa.craft(
        recognisers.linear(), both, aa.Transcribe("go"), channel=parse_channel("gain:3_then_room_or_noise:20"), steps=2, judge_draws=2
    ).clips
    assert short.outcome is aa.Outcome.INFEASIBLE
    assert "the clip lasts 0.25 s" in short.note
    assert torch.equal(short.adversarial, clips[1])
    assert long.outcome is not aa.Outcome.INFEASIBLE
    assert long.steps == 2


def test_a_clip_that_no_draw_fits_is_not_judged(clips: list[Tensor]) -> None:
    """Every draw is a room here: judging the clean clip in them would end the call."""
    (short,) = aa.craft(recognisers.linear(), [Clip("short", clips[1][:100], 16000)], aa.Transcribe("go"), channel="room", steps=1).clips
    assert (short.outcome, short.hits) == (aa.Outcome.INFEASIBLE, 0)


def test_the_model_and_the_random_numbers_are_left_alone(clips: list[Tensor]) -> None:
    model = aa.load_model("tiny-mel")
    before = {name: value.clone() for name, value in model.net.state_dict().items()}  # type: ignore[attr-defined]
    state = torch.get_rng_state()
    aa.craft(model, [Clip("hiss", clips[1], 16000)], aa.Transcribe("no"), channel=NOISY, steps=2, draws=2, judge_draws=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())  # type: ignore[attr-defined]


def test_craft_over_a_channel_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_cli import LINEAR, lines, run

    monkeypatch.chdir(tmp_path)
    aa.write_wav("hiss.wav", 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0)), 16000)
    quick = [*LINEAR, "--steps", "80", "--draws", "4", "--judge", "20", "--no-picture", "--device", "cpu"]
    wanted = ["craft", "hiss.wav", "--target", "go", "--bound", "snr:3", "--channel", "noise:10..20", *quick]
    result = run(*wanted, "--json")
    (line,) = lines(result)
    assert result.exit_code == 0
    assert line["reached"]
    assert line["channel"] == "noise:10..20"
    assert line["draws"] == 20
    assert line["hits"] >= 18
    assert "judge draws" in line["note"]
    first = Path("adversarial/hiss.wav").read_bytes()
    table = run(*wanted)
    assert Path("adversarial/hiss.wav").read_bytes() == first
    assert "of 20 judge draws" in table.stdout
    missed = run("craft", "hiss.wav", "--target", "go", "--bound", "snr:60", "--channel", "noise:0", *quick, "--json")
    assert missed.exit_code == 1
    assert not lines(missed)[0]["reached"]
    assert not Path("adversarial/hiss.wav").exists()
    assert run("craft", "hiss.wav", "--target", "go", "--channel", "rooom", *quick).exit_code == 2


def test_the_recipe_goes_on_where_it_stopped(tmp_path: Path) -> None:
    import sys

    from click.testing import CliRunner

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))
    import over_the_air

    options = [
        "--quick",
        "--no-codecs",
        "--model",
        "module:recognisers:linear",
        "--out",
        str(tmp_path),
        "--data",
        str(tmp_path / "nowhere"),
    ]
    first = CliRunner().invoke(over_the_air.main, options, catch_exceptions=False)
    assert "rt60 0.1..0.3" in first.stdout
    kept = (tmp_path / "results.jsonl").read_text()
    assert len(kept.splitlines()) == 4, "two carriers, with EOT and without"
    assert len(list(tmp_path.glob("*.wav"))) == 4
    (tmp_path / "results.jsonl").write_text("".join(line + "\n" for line in kept.splitlines()[:3]))
    again = CliRunner().invoke(over_the_air.main, options, catch_exceptions=False)
    results = (tmp_path / "results.jsonl").read_text().splitlines()
    assert results[:3] == kept.splitlines()[:3]
    assert len(results) == 4
    assert again.stdout == first.stdout
    assert "2 x 4)" in first.stdout, "two files, four draws each"


def test_hard_draws_that_are_met_again_have_no_say_in_how_many_are_heard(clips: list[Tensor]) -> None:
    """Where all draws are heard the share is 1, of however many that are new."""
    waveforms, lengths = pad([clips[0]])
    already = recognisers.linear().transcribe(waveforms, lengths)
    wanted = aa.objective(recognisers.linear(), aa.Transcribe(already), lengths, Expectation(Noise(80), draws=4, hard=0.5)).begun(waveforms)
    for _ in range(3):
        wanted.look(waveforms)
        assert wanted.memory is not None
        assert wanted.memory.shares == [1.0]


def test_what_is_heard_in_no_draw_is_not_kept(clips: list[Tensor]) -> None:
    region = aa.Linf(1e-4).around(pad([clips[0]])[0], torch.tensor([len(clips[0])]), box=(-1, 1))
    run = Run(over(NOISY, clips, [0]), region)
    changed = region.clean + 1e-4
    run.objective.look(changed)
    run.keep(changed, torch.tensor([True]))
    assert torch.equal(run.result().adversarial, region.clean)
    assert run.result().outcome == (aa.Outcome.MISSED,)


# Draws that have no room for the text, models and inputs that are odd


def test_a_draw_too_short_for_the_text_leaves_the_mean_to_the_others() -> None:
    """14 letters: 25 frames have room for them, the 13 at twice the speed have not. Loss and slope are those of the draws that fit."""
    model, goal, channel = recognisers.linear(), aa.Transcribe("go go go go go"), parse_channel("gain:3_or_speed:2")
    clip = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([8000])
    wanted = aa.objective(model, goal, lengths, Expectation(channel, draws=8, hard=0))
    seen, scored = wanted.begun(clip).look(clip), wanted.begun(clip).score(clip)
    played = [channel.draw([Key(0, fingerprint(clip[0]), draw)])(clip, lengths)[1] for draw in range(8)]
    short = sum(int(ends) == 4000 for ends in played if ends is not None)
    assert 0 < short < 8
    alone = aa.objective(model, goal, lengths, Expectation(Gain(3), draws=1, hard=0)).begun(clip).look(clip)
    torch.testing.assert_close(seen.loss, alone.loss)
    torch.testing.assert_close(scored.loss, alone.loss)
    torch.testing.assert_close(seen.slope, alone.slope, rtol=1e-3, atol=1e-5)


def test_a_look_that_met_only_such_draws_is_no_broken_model() -> None:
    clip, lengths = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0)), torch.tensor([8000])
    goal = aa.Transcribe("go go go go go")
    seen = aa.objective(recognisers.linear(), goal, lengths, Expectation("speed:2", draws=2)).begun(clip).look(clip)
    assert seen.loss.isfinite().all()
    assert not seen.slope.any()
    broken = aa.Recogniser(recognisers.listen_nowhere, 16000, ALPHABET)
    seen = aa.objective(broken, aa.Transcribe("go"), lengths, Expectation("speed:0.9..1.1")).begun(clip).look(clip)
    assert seen.loss.isnan().all()


def test_whether_a_text_fits_is_asked_of_the_longest_that_a_clip_can_become() -> None:
    """25 frames of 20 ms; 23 at 1.1 times the speed, 28 at 0.9 times."""
    clip = Clip("hiss", 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0)), 16000)

    def end(letters: int, channel: str) -> aa.Outcome:
        goal = aa.Transcribe(("go" * letters)[:letters])
        options = {"bound": "snr:0", "steps": 12, "draws": 2, "check_draws": 4, "judge_draws": 8, "rate": 0.5}
        return aa.craft(recognisers.linear(), [clip], goal, channel=channel, **options).outcome[0]

    assert end(24, "speed:1.1") is aa.Outcome.INFEASIBLE
    assert end(29, "speed:0.9..1.1") is aa.Outcome.INFEASIBLE
    assert end(26, "gain:3") is aa.Outcome.INFEASIBLE
    assert end(26, "speed:0.9") in (aa.Outcome.REACHED, aa.Outcome.MISSED)
    assert end(24, "speed:0.9..1.1") in (aa.Outcome.REACHED, aa.Outcome.MISSED)


def test_a_rate_that_is_just_met_is_met() -> None:
    """0.55 * 100 is more than 55 in floating point."""
    for percent in range(1, 101):
        verdict = Verdict(recognisers.linear(), aa.Transcribe("go"), torch.zeros(9), Expectation(NOISY, rate=percent / 100), 100)
        assert verdict.enough(percent)
        assert not verdict.enough(percent - 1)


class Classifies(torch.nn.Module):
    """Three classes of anything; under autocast its scores are of lower precision."""

    def __init__(self, inputs: int, low: bool = False) -> None:
        super().__init__()
        self.net, self.low = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, 3)), low

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            scores: Tensor = self.net(inputs)
            return scores


LABELS = torch.tensor([0, 1, 2])


@pytest.mark.parametrize("spec", ["speed:0.9..1.1", "drift:-200..200", "gain:3_or_speed:1.1"])
def test_without_lengths_a_channel_may_not_change_them(spec: str) -> None:
    sounds = torch.rand(3, 8000, generator=torch.Generator().manual_seed(0))
    region = aa.Linf(0.1).around(sounds)
    with pytest.raises(aa.errors.UnusableBatch, match=r"of 8000, and this objective has no lengths"):
        pgd(aa.objective(Classifies(8000), aa.Misclassify(LABELS), None, Expectation(spec)), region, steps=1)


def test_what_takes_lengths_may_be_heard_at_another_speed() -> None:
    """So says the error, and a Classifier, which takes none, says so too."""

    def loudness(waveforms: Tensor, lengths: Tensor) -> Tensor:
        size = waveforms.square().sum(1) / lengths
        return torch.stack([size, 0.5 - size, -size], 1)

    sounds, lengths = torch.rand(3, 800, generator=torch.Generator().manual_seed(0)), torch.tensor([800, 700, 600])
    wanted = aa.objective(loudness, aa.Misclassify(LABELS), lengths, Expectation("speed:0.9..1.1"))
    assert pgd(wanted, aa.Linf(0.1).around(sounds, lengths), steps=2).adversarial.isfinite().all()
    with pytest.raises(aa.errors.OptionError, match="lengths for loud: a Classifier takes inputs alone"):
        aa.objective(aa.Classifier(Classifies(800), "loud"), aa.Misclassify(LABELS), lengths, Expectation("speed:0.9..1.1"))


def test_scores_of_low_precision_over_a_channel() -> None:
    images = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    wanted = aa.objective(Classifies(36, low=True), aa.Misclassify(LABELS), None, Expectation("gaussian:0.1"))
    for seen in (wanted.begun(images).look(images), wanted.begun(images).score(images)):
        assert seen.loss.dtype == torch.float32
        assert seen.loss.isfinite().all()


def test_inputs_of_another_dtype_than_the_model_are_told_over_a_channel_too() -> None:
    images = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    for attack in (pgd, partial(aa.attacks.square, steps=2), partial(aa.attacks.hop_skip_jump, steps=1)):
        wanted = aa.objective(Classifies(36), aa.Misclassify(LABELS), None, Expectation("gaussian:0.1"))
        with pytest.raises(aa.errors.UnusableBatch, match="Bring them together"):
            attack(wanted, aa.Linf(0.1).around(images))


@pytest.mark.parametrize("attack", [pgd, aa.attacks.apgd, aa.attacks.square, find_then_shrink, aa.attacks.hop_skip_jump])
def test_nothing_over_a_channel_is_nothing(attack: Attack) -> None:
    wanted = aa.objective(Classifies(36), aa.Misclassify(LABELS[:0]), None, Expectation("gaussian:0.1"))
    result = attack(wanted, aa.Linf(0.1).around(torch.zeros(0, 1, 6, 6)), steps=2)
    assert result.adversarial.shape == (0, 1, 6, 6)
    assert result.outcome == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"draws": 2.5}, "draws 2.5: give a whole number"),
        ({"draws": "2"}, "draws '2'"),
        ({"check_draws": 2.5}, "check_draws 2.5"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
        ({"sample_rate": 0}, "sample_rate 0"),
        ({"sample_rate": -5}, "sample_rate -5"),
    ],
)
def test_expectations_that_make_no_sense(options: dict[str, object], said: str, clips: list[Tensor]) -> None:
    with pytest.raises(aa.errors.OptionError, match=said):
        Expectation(NOISY, **options)  # type: ignore[arg-type]
    if "sample_rate" not in options:
        with pytest.raises(aa.errors.OptionError, match=said):
            aa.craft(recognisers.linear(), [Clip("hiss", clips[0], 16000)], aa.Transcribe("go"), channel=NOISY, steps=1, **options)


@pytest.mark.parametrize(("losses", "again"), [({0: 0.0, 1: 100.0, 2: 0.0}, 1), ({0: -1.0, 1: -5.0}, 0)], ids=["above zero", "below zero"])
def test_draws_are_met_again_as_their_losses_weigh(losses: dict[int, float], again: int) -> None:
    """Losses below zero weigh by how far they are over the least of them."""
    wanted = Expectation(NOISY, draws=4, hard=0.25)
    memory = wanted.memory(torch.zeros(1, 400), None)
    memory.losses[0].update(losses)
    met = [[key.draw for key in wanted.plan(memory, 0, first)] for first in range(100, 300)]
    assert met == [[first, first + 1, first + 2, again] for first in range(100, 300)]


def test_gains_are_summed_over_two_frames_on_either_side_and_bands_weigh_nothing() -> None:
    """So a sound is a gain of 1 of itself, beyond the middle of the last band too."""
    impulse = torch.zeros(1, 11, 3)
    impulse[0, 5, 1] = 1.0
    summed = around(impulse)
    assert summed[0, :, 1].tolist() == pytest.approx([0.0] * 3 + [1.0] * 5 + [0.0] * 3)
    assert not summed[..., [0, 2]].any()
    for hertz in (1000, 7900):
        tone = (2 * math.pi * hertz / 16000 * torch.arange(8000)).sin()[None]
        assert float((along_gains(tone, tone, 16000) - tone).norm()) < 0.05 * float(tone.norm())


def test_steps_over_a_channel_follow_a_running_mean_and_are_as_long_whatever_it_agrees_on() -> None:
    """Slopes along one axis, then another: the second step's direction is a tenth of the new one and nine of the last."""
    seen, ways = list[Tensor](), torch.eye(9)

    def scripted(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return 1 + (x - x.detach()) @ ways[min(len(seen), 9) - 1]

    wanted = aa.objective(scripted, louder_than(0, True), None, Expectation(Gain(0), draws=1, check_draws=1))  # type: ignore[arg-type]
    find_then_shrink(wanted, aa.L2(1.0).around(torch.full((1, 9), 0.1), box=None), steps=10, minimal=False)
    torch.testing.assert_close(seen[1] - seen[0], -FIRST_STEP * WIDEST * ways[:1], rtol=1e-4, atol=1e-5)
    turned = 0.9 * ways[0] + ways[1]
    length = stride_at(0.1, False) * WIDEST ** (1 - 0.1 / WIDE_UNTIL)
    torch.testing.assert_close(seen[2] - seen[1], -length * (turned / turned.norm())[None], rtol=1e-4, atol=1e-5)


def test_a_search_for_the_smallest_is_wide_for_the_first_part_of_its_steps_alone() -> None:
    """Out of reach throughout: ten times as loud as the clip at first, and no louder than it from 12 % of the steps on."""
    seen, clean = list[Tensor](), torch.full((1, 9), 0.1)

    def scripted(x: Tensor) -> Tensor:
        seen.append((x - clean).detach())
        return 1 + (x - x.detach()).sum(1)

    wanted = aa.objective(scripted, louder_than(0, True), None, Expectation(Gain(0), draws=1, check_draws=1))  # type: ignore[arg-type]
    find_then_shrink(wanted, aa.L2(MIN).around(clean, box=None), steps=50)
    sizes = torch.cat(seen).norm(dim=1) / clean.norm()
    assert sizes[:6].max() > 2
    assert sizes[7:21].max() <= 1 + 1e-5

"""Qin's two stages, on a recogniser whose letters are linear functions of the samples: the penalty by its definition, the schedule by
its numbers, and what comes out by what it says of itself."""

import pytest
import torch
from recognisers import linear
from torch import Tensor

import audioadv as aa
from audioadv.attacks.craft import craft_each
from audioadv.attacks.qin import Search, audible, qin
from audioadv.audio.distances import masking_excess_db, worst_excess
from audioadv.audio.files import Clip, round16
from audioadv.audio.hearing import Hearing
from audioadv.threat.region import Region

RATE, BOX, GRID = 16000, (-1.0, 1.0 - 2.0**-15), 2.0**-15
LENGTHS = (6400, 4200, 5000)
TEXTS = ("go home", "stop", "no")


def sounds() -> tuple[Tensor, Tensor]:
    """Three clips of low-passed noise, zero in their padding."""
    noise = torch.randn(3, max(LENGTHS) + 3, generator=torch.Generator().manual_seed(3))
    waveforms = round16(0.006 * noise.unfold(1, 4, 1).mean(2))
    lengths = torch.tensor(LENGTHS)
    return waveforms * (torch.arange(max(LENGTHS)) < lengths[:, None]), lengths


def around(spec: str) -> Region:
    waveforms, lengths = sounds()
    return aa.parse_bound(spec).around(waveforms, lengths, box=BOX, grid=GRID)


def attack(rows: list[int], steps: int = 60, spec: str = "masked:min", **options: float) -> aa.AttackResult:
    index = torch.tensor(rows)
    lengths = torch.tensor(LENGTHS)[index]
    region = around(spec).rows(index, int(lengths.max()))
    return qin(aa.objective(linear(), aa.Transcribe([TEXTS[i] for i in rows]), lengths), region, steps=steps, **options)


def test_the_penalty_is_the_mean_excess_over_each_clips_own_bins_and_its_slope_that_of_it() -> None:
    waveforms, lengths = sounds()
    waveforms = waveforms.double()
    region = aa.Masked("min").around(waveforms, lengths, box=BOX)
    assert region.inside is not None
    change = 0.02 * torch.randn(waveforms.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * region.inside
    penalty, slope = audible(region, change)
    for i, length in enumerate(LENGTHS):
        own = masking_excess_db(waveforms[i : i + 1, :length], (waveforms + change)[i : i + 1, :length], lengths[i : i + 1], Hearing())
        assert float(penalty[i]) == pytest.approx(float(own.clamp_min(0).mean()), rel=1e-3)
    step = 1e-6 * slope / slope.flatten(1).norm(dim=1)[:, None]
    gain = audible(region, change + step)[0] - audible(region, change - step)[0]
    torch.testing.assert_close(gain, 2 * (step * slope).sum(1), rtol=1e-3, atol=0)


def test_what_is_under_the_margin_costs_nothing() -> None:
    drawn = around("masked:0").sample([torch.Generator().manual_seed(i) for i in range(3)])
    quiet = 0.5 * drawn / around("masked:0").gauge(drawn + sounds()[0])[:, None]  # 6 dB under the threshold
    assert audible(around("masked:min"), quiet)[0].eq(0).all()
    penalty, slope = audible(around("masked:-20"), quiet)
    assert penalty.gt(0).all()
    assert slope.isfinite().all()
    assert audible(around("masked:min"), torch.zeros_like(quiet))[1].eq(0).all()  # silence has a slope, and it is zero


def test_alpha_rises_on_success_and_falls_on_failure_each_at_its_own_pace() -> None:
    ones = torch.ones(6)
    reached = torch.tensor([True, False, True, False, True, False])
    age = torch.tensor([20.0, 20, 50, 50, 0, 0])
    search = Search(ones, ones, ones, ones, ones, 0.05 * ones, ones > 0, age)
    search.adapt(reached)
    assert (search.alpha / 0.05).tolist() == pytest.approx([1.2, 1, 1, 0.8, 1, 1])


def test_adam_is_torchs() -> None:
    slopes = torch.randn(12, 2, 5, generator=torch.Generator().manual_seed(0))
    zero, ones = torch.zeros(2, 5), torch.ones(2)
    search = Search(zero, zero, zero, zero, ones, ones, ones > 0, 0 * ones)
    parameter = torch.nn.Parameter(torch.zeros(5))
    optimiser, here = torch.optim.Adam([parameter], lr=0.1), torch.zeros(5)
    for step, slope in enumerate(slopes):
        search.age = torch.tensor([max(0.0, step - 3), step + 1.0])  # one enters stage 2 late: it knows nothing of before
        way = search.adam(slope)
        if step > 3:
            here = here - 0.1 * way[0]
            parameter.grad = slope[0].clone()
            optimiser.step()
    torch.testing.assert_close(here, parameter.detach())


def test_reaches_its_goals_and_says_at_what_margin() -> None:
    result, region = attack([0, 1, 2]), around("masked:min")
    assert all(result.reached)
    assert (result.forwards == 60).all()
    assert (result.backwards == 60).all()
    waveforms, _ = sounds()
    for i, length in enumerate(LENGTHS):
        samples = result.adversarial[i, :length]
        assert torch.equal(samples, round16(samples))
        assert linear().transcribe(samples[None], torch.tensor([length])) == [TEXTS[i]]
        worst = worst_excess(waveforms[i, :length], samples, Hearing()).worst_db
        assert 20 * float(result.gauge[i].log10()) == pytest.approx(worst, abs=0.01)
        assert result.adversarial[i, length:].eq(0).all()
    torch.testing.assert_close(region.gauge(result.adversarial), result.gauge)


def test_the_second_stage_makes_it_less_audible() -> None:
    region = around("masked:min")

    def penalty(**options: float) -> Tensor:
        result = attack([0, 1, 2], **options)
        assert all(result.reached)
        return audible(region, result.adversarial - region.clean)[0]

    before, after = penalty(steps=21, first=20 / 21), penalty(steps=120, first=20 / 120, alpha=20.0)
    torch.testing.assert_close(penalty(steps=120, first=20 / 120, alpha=0.0), before)  # the goal alone goes on from the last success
    assert (after < 0.9 * before).all()


def test_of_all_that_reach_the_goal_it_keeps_the_least_audible() -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    net, goal, lengths, region = linear(), aa.Transcribe(TEXTS), torch.tensor(LENGTHS), around("masked:min")

    def listen(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        outputs = net(waveforms, lengths)
        penalty = audible(region, waveforms.detach() - region.clean)[0]
        seen.append((torch.where(goal.reached(outputs), penalty, torch.inf), region.gauge(waveforms.detach())))
        return outputs.log_probs, outputs.frames

    result = qin(aa.objective(aa.Recogniser(listen, RATE), goal, lengths), region, steps=80, alpha=20.0)
    penalties, gauges = (torch.stack(values) for values in zip(*seen, strict=True))
    least = penalties.argmin(0)
    assert (least > 16).all()  # of stage 2
    torch.testing.assert_close(audible(region, result.adversarial - region.clean)[0], penalties.amin(0))
    torch.testing.assert_close(result.gauge, gauges.gather(0, least[None])[0])


def test_neighbours_leave_the_outcome_as_it_is() -> None:
    together = attack([0, 1, 2], steps=8)
    for i in range(3):
        alone = attack([i], steps=8)
        torch.testing.assert_close(alone.adversarial[0], together.adversarial[i, : LENGTHS[i]], rtol=0, atol=2 * GRID)


def test_a_fixed_margin_keeps_nothing_that_is_over_it() -> None:
    assert not any(attack([0, 1, 2], spec="masked:-30").reached)
    loose = attack([0, 1, 2], spec="masked:80")
    assert all(loose.reached)
    assert (loose.gauge <= 10 ** (80 / 20)).all()


def test_it_is_an_attack_of_craft_under_masking_bounds_alone() -> None:
    waveforms, _ = sounds()
    clips = [Clip("noise", waveforms[0], RATE)]
    (crafted,) = craft_each(linear(), clips, aa.Transcribe(TEXTS[0]), bound=aa.Masked("min"), attack="qin", steps=40)
    assert crafted.reached
    assert crafted.bound.startswith("masked:")
    with pytest.raises(aa.errors.OptionError, match="masked:min"):
        aa.craft(linear(), clips, aa.Transcribe(TEXTS[0]), attack="qin")
    with pytest.raises(aa.errors.OptionError, match="masking threshold"):
        qin(aa.objective(linear(), aa.Transcribe(TEXTS[0])), aa.Linf(0.1).around(waveforms, box=BOX), steps=2)

"""The bound under the masking threshold: what it measures, where its projection lands, and what a file of it holds."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import audioadv as aa
from audioadv.audio.files import FULL_SCALE, read_clip, write_wav
from audioadv.audio.hearing import Hearing
from audioadv.audio.masking import level_db, masking_threshold
from audioadv.audio.ragged import pad
from audioadv.audio.spectrum import spectrum, waveform
from audioadv.errors import MalformedSpec, OptionError, UnusableBatch
from audioadv.threat.bounds import outward, parse_bound
from audioadv.threat.masked import Masked, MaskedNorm, decibels, erode, leaks, smooth_gain
from audioadv.threat.region import Region

RATE = 16000
BOX = (-1.0, 1 - 1 / FULL_SCALE)
SAMPLES = Path(__file__).parent.parent / "samples"


def noise(count: int, time: int, seed: int = 0) -> Tensor:
    return torch.randn(count, time, generator=torch.Generator().manual_seed(seed))


def clips() -> tuple[Tensor, Tensor]:
    """Speech, speech that begins out of digital silence, near-silence, silence, clipping, and a clip shorter than a frame."""
    speech = read_clip(SAMPLES / "kitchen.wav", RATE).samples[: RATE // 2]
    late = torch.cat([torch.zeros(6000), speech[:6000]])
    hush = (noise(1, 7000)[0] * 3).round() / FULL_SCALE
    return pad([speech, late, hush, torch.zeros(5000), (8 * speech[:5000]).clamp(*BOX), speech[3000:3300]])


def region(margin_db: float = 0.0, grid: float | None = None) -> Region:
    clean, lengths = clips()
    return Masked(margin_db).around(clean, lengths, box=BOX, grid=grid)


def norm_of(some: Region) -> MaskedNorm:
    assert isinstance(some.norm, MaskedNorm)
    return some.norm


def within(some: Region, change: Tensor) -> Tensor:
    """A change of the clips' own lengths."""
    assert some.inside is not None
    return change * some.inside


def test_the_gauge_is_the_worst_bin_over_the_threshold() -> None:
    clean, lengths = clips()
    change = within(region(), 1e-3 * noise(len(clean), clean.shape[1]))
    over = level_db(change, lengths, Hearing()) - masking_threshold(clean, lengths, Hearing())
    expected = torch.stack([clip[: -(-int(n) // 256) + 3].max() for clip, n in zip(over, lengths, strict=True)])
    excess = Masked(0).excess(region(), clean + change)
    torch.testing.assert_close(excess, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(Masked(-6).excess(region(-6), clean + change), expected + 6, rtol=0, atol=1e-3)
    assert Masked("min").found(region(), clean + change)[0] == f"masked:{outward(float(excess[0]), 1)}"


def test_no_change_lies_as_far_inside_as_can_be_told() -> None:
    some = region()
    assert (Masked(0).excess(some, some.clean) == -200).all()


@pytest.mark.parametrize("margin_db", [-12.0, 0.0, 12.0])
@pytest.mark.parametrize("level", [1e-5, 1e-3, 0.1, 3.0])
def test_a_projection_lands_inside_the_bound_the_box_and_the_clips(margin_db: float, level: float) -> None:
    some = region(margin_db)
    y = some.project(within(some, level * noise(*some.clean.shape)))
    assert y.isfinite().all()
    assert (some.norm.gauge(y) <= some.radius).all()
    assert (Masked(margin_db).excess(some, some.clean + y) <= 1e-3).all()
    assert torch.equal(y, within(some, y))
    assert (some.clean + y >= BOX[0]).all()
    assert (some.clean + y <= BOX[1]).all()


def test_a_step_outside_costs_little() -> None:
    """Where an attack is: inside, and a step of a third of the radius further. What is turned down is a fraction of that step."""
    some = region()
    y = some.project(some.steepest(within(some, noise(*some.clean.shape))))
    further = y + 0.3 * some.steepest(within(some, noise(*some.clean.shape, seed=1)))
    again = some.project(further)
    lost = (again - further).norm(dim=1) / (further - y).norm(dim=1).clamp_min(1e-12)
    assert (lost[:3] < 0.6).all()
    assert (decibels(some.norm.gauge(again))[:3] > -2).all()


def test_what_keeps_to_the_eroded_limits_is_left_as_it_is() -> None:
    clean, lengths = clips()
    some = Masked(0).around(clean, lengths, box=None)
    y = some.steepest(within(some, noise(*clean.shape)))
    y = 0.85 * y / (spectrum(y, 1024).abs() / norm_of(some).eroded).flatten(1).amax(1)[:, None]
    torch.testing.assert_close(some.project(y), y, rtol=1e-5, atol=1e-7)
    over = 0.85 * y / some.norm.gauge(y)[:, None]  # within the limits, and over the eroded ones
    moved = (some.project(over) - over).norm(dim=1) / over.norm(dim=1)
    assert (moved > 1e-3).all()


@pytest.mark.parametrize("margin_db", [0.0, 6.0])
def test_the_file_is_inside_too(margin_db: float) -> None:
    some = region(margin_db, grid=1 / FULL_SCALE)
    written = some.inputs(some.project(some.steepest(within(some, noise(*some.clean.shape)))))
    assert torch.equal((written * FULL_SCALE).round(), written * FULL_SCALE)
    assert (Masked(margin_db).excess(some, written) <= 0.5).all()


def test_changes_are_rounded_to_the_nearest_step() -> None:
    change = torch.tensor([0.6, -0.6, 0.4, -0.4, 1.4]) / FULL_SCALE
    assert (norm_of(region()).quantise(change, 1 / FULL_SCALE) * FULL_SCALE).tolist() == [1, -1, 0, 0, 1]


def test_where_less_than_half_a_step_is_allowed_nothing_is_changed() -> None:
    some = region(-12, grid=1 / FULL_SCALE)
    written = some.inputs(some.project(within(some, noise(*some.clean.shape))))
    assert torch.equal(written[3], some.clean[3])  # digital silence
    assert torch.equal(written[1, :5000], some.clean[1, :5000])  # before the speech begins
    assert not torch.equal(written[0], some.clean[0])


def test_the_extreme_is_inside_and_better_than_what_is_drawn_or_projected() -> None:
    some = region(3)
    slope = within(some, noise(*some.clean.shape, seed=3))
    best = some.extreme(slope)
    assert (Masked(3).excess(some, some.clean + best) <= 1e-3).all()
    gain = (best * slope).sum(1)
    for seed in range(5):
        drawn = some.sample([torch.Generator().manual_seed(seed) for _ in slope])
        assert (gain > (drawn * slope).sum(1)).all()


def test_neighbours_and_padding_change_nothing() -> None:
    clean, lengths = clips()
    some = region(grid=1 / FULL_SCALE)
    change = within(some, 0.01 * noise(*clean.shape))
    slope = within(some, noise(*clean.shape, seed=1))
    for i, n in enumerate(lengths.tolist()):
        own = Masked(0).around(clean[i : i + 1, :n], lengths[i : i + 1], box=BOX, grid=1 / FULL_SCALE)
        torch.testing.assert_close(own.project(change[i : i + 1, :n])[0], some.project(change)[i, :n], rtol=1e-4, atol=1e-7)
        for way in ("steady", "agreed"):
            torch.testing.assert_close(getattr(own, way)(slope[i : i + 1, :n])[0], getattr(some, way)(slope)[i, :n], rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(own.extent(clean[i : i + 1, :n])[0], some.extent(clean)[i], rtol=1e-4, atol=1e-7)
        cut = some.rows(torch.tensor([i]), n)
        torch.testing.assert_close(cut.project(change[i : i + 1, :n])[0], own.project(change[i : i + 1, :n])[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("way", ["steepest", "steady", "agreed"])
def test_steps_climb_better_than_chance_and_keep_to_the_clip(way: str) -> None:
    some = region()
    slope = within(some, noise(*some.clean.shape, seed=1))
    step = getattr(some, way)(slope)
    assert (some.norm.gauge(step) <= 4).all()
    assert torch.equal(step, within(some, step))
    climbed = (slope * step).sum(1) / some.norm.gauge(step).clamp_min(1e-12)
    for seed in range(5):
        other = some.sample([torch.Generator().manual_seed(10 * seed + i) for i in range(len(step))])
        assert (climbed >= (slope * other).sum(1) / some.norm.gauge(other).clamp_min(1e-12)).all()


def test_a_steady_step_follows_the_eighth_root_of_what_a_bin_can_gain() -> None:
    """Of two tones in the slope, one a thousandth of the other: steepest steps as far along both, steady 0.42 times as far along one."""
    some, place = region(), torch.arange(12000)
    strong, weak = ((2 * math.pi * hz / RATE * place).sin() for hz in (1000, 3000))
    slope = within(some, (strong + 1e-3 * weak)[: some.clean.shape[1]].expand_as(some.clean))
    bins = [spectrum(step, 1024).abs()[:, 8:16, [64, 192]] for step in (some.steady(slope), some.steepest(slope))]
    shares = bins[0] / bins[1]
    assert ((shares[..., 1] / shares[..., 0])[[0, 4]] > 0.3).all()
    assert ((shares[..., 1] / shares[..., 0])[[0, 4]] < 0.6).all()
    assert (shares[..., 0][[0, 4]] > 0.6).all()


def test_what_steps_disagree_on_stays_small_along_their_mean() -> None:
    """Of a mean in which the upper bins hold a quarter of what the lower ones do, each of its limit."""
    some = region().rows(torch.tensor([0, 4]))
    norm = norm_of(some)
    bins = spectrum(norm.steepest(within(some, noise(*some.clean.shape))), 1024)
    bins[..., 256:] /= 4
    mean = within(some, waveform(bins, 1024, some.clean.shape[1]))

    def share(step: Tensor, bins: slice) -> float:
        return float((spectrum(step, 1024).abs() / norm.eroded)[:, 8:-8, bins].median())

    for step, least, most in ((some.agreed(mean), 3.0, 4.5), (some.steady(mean), 1.0, 2.0)):
        assert least < share(step, slice(20, 230)) / share(step, slice(280, 500)) < most
        assert torch.equal(step, within(some, step))
    assert 0.3 < share(some.agreed(mean), slice(20, 230)) < 1.5, "as long as any step"


def test_samples_are_inside_and_keyed() -> None:
    some = region()
    drawn = [some.sample([torch.Generator().manual_seed(i) for i in range(6)]) for _ in range(2)]
    assert torch.equal(*drawn)
    assert some.holds(some.norm.gauge(drawn[0])).all()


def test_the_leak_of_a_hann_window() -> None:
    """In its own frame a bin leaves 2/3 of itself next door, 1/6 two doors away, and nothing further on."""
    here = {away: leak for frames, away, leak in leaks(1024) if frames == 0}
    assert set(here) == {-2, -1, 0, 1, 2}
    for away, share in ((0, 1), (1, 2 / 3), (-1, 2 / 3), (2, 1 / 6), (-2, 1 / 6)):
        assert here[away] == pytest.approx(20 * math.log10(share), abs=1e-6)
    assert {frames for frames, _, _ in leaks(1024)} == {-3, -2, -1, 0, 1, 2, 3}


def test_leaks_are_what_a_sound_made_for_one_bin_leaves_elsewhere() -> None:
    bins = torch.zeros(1, 20, 513, dtype=torch.complex64)
    bins[0, 10, 100] = 1
    again = spectrum(waveform(bins, 1024, 17 * 256), 1024)[0].abs()
    for frames, away, leak in leaks(1024):
        seen = float(decibels(again[10 + frames, 100 + away] / again[10, 100]))
        assert seen == pytest.approx(leak, abs=0.05) or leak < -80


def test_one_quiet_bin_holds_down_its_neighbours() -> None:
    threshold = torch.full((1, 9, 65), 40.0)
    threshold[0, 4, 30] = 0.0
    lowest = erode(threshold, 128)[0]
    for frames, away, leak in leaks(128):
        assert lowest[4 + frames, 30 + away] == pytest.approx(min(40.0, -leak), abs=1e-4)
    assert lowest[4, 40] == 40


def test_a_smooth_gain_is_nowhere_over_that_of_a_frame_and_never_jumps() -> None:
    frames = torch.ones(1, 20)
    frames[0, 7] = 0.1
    gain = smooth_gain(frames, 1024, 17 * 256)[0]
    assert gain[1024:2048].max() <= 0.1 + 1e-6  # the samples of that frame
    torch.testing.assert_close(torch.cat([gain[:256], gain[-1024:]]), torch.ones(1280))
    assert gain.diff().abs().max() < 0.005


def test_masking_in_time_allows_more() -> None:
    clean, lengths = clips()
    longer = Masked(0, Hearing(temporal=True)).around(clean, lengths, box=BOX)
    assert (norm_of(longer).limits >= norm_of(region()).limits * (1 - 1e-5)).all()
    assert (norm_of(longer).limits > 2 * norm_of(region()).limits).any()


def test_specs_and_the_algebra() -> None:
    for spec in ("masked:0", "masked:-6", "masked:min", "masked:1.5", "masked:0_and_linf:0.02"):
        assert str(aa.parse_bound(spec)) == spec
    clean, lengths = clips()
    both = (Masked(0) & aa.Linf(1e-3)).around(clean, lengths, box=BOX)
    y = both.project(within(both, noise(*clean.shape)))
    assert (y.abs() <= 1e-3).all()
    assert (Masked(0).excess(region(), clean + y) <= 1e-3).all()
    slower = (Masked(0) & aa.Linf(0.1)).at_rate(8000)
    assert [part.hearing.sample_rate for part in slower.parts if isinstance(part, Masked)] == [8000]


def test_what_no_masking_bound_can_be_made_of() -> None:
    for margin in (math.nan, math.inf):
        with pytest.raises(MalformedSpec, match="number of decibels"):
            Masked(margin)
    for spec in ("masked:loud", "masked:", "masked"):
        with pytest.raises(MalformedSpec):
            aa.parse_bound(spec)
    for rate in (7999, 96000):
        with pytest.raises(OptionError, match="8000 to 48000"):
            Masked(0).at_rate(rate)
    with pytest.raises(UnusableBatch, match="batch, time"):
        Masked(0).around(torch.zeros(2, 3, 100))
    some = region()
    for shape in ((2, 100), (len(some.clean), some.clean.shape[1] + 1)):
        with pytest.raises(UnusableBatch, match="made around"):
            some.project(torch.zeros(shape))


def test_craft_keeps_under_the_threshold_on_the_file(tmp_path: Path) -> None:
    model = aa.load_model("tiny-mel")
    whole = aa.read_audio([SAMPLES / "kitchen.wav", SAMPLES / "fan.wav"], RATE)
    clips = [replace(clip, samples=clip.samples[:count]) for clip, count in zip(whole, (9600, 12000), strict=True)]
    found = aa.craft(model, clips, aa.Transcribe(["go", "no"]), bound=Masked("min"), steps=60)
    assert all(found.reached)
    for i, crafted in enumerate(found.clips):
        write_wav(tmp_path / "a.wav", crafted.adversarial, RATE)
        samples = read_clip(tmp_path / "a.wav", RATE).samples[None]
        length = torch.tensor([samples.shape[1]])
        change = level_db(samples - clips[i].samples, length, Hearing())
        worst = float((change - masking_threshold(clips[i].samples[None], length, Hearing())).max())
        assert worst == pytest.approx(float(crafted.bound.removeprefix("masked:")), abs=0.05)
    loose = math.ceil(max(float(crafted.bound.removeprefix("masked:")) for crafted in found.clips)) + 3
    fixed = aa.craft(model, clips, aa.Transcribe(["go", "no"]), bound=Masked(loose), steps=500)  # leaves once it is there
    assert all(fixed.reached)
    assert all(crafted.excess <= 0 for crafted in fixed.clips)


def test_a_limit_that_never_binds_takes_no_step_from_a_masked_one() -> None:
    clean, lengths = clips()
    slope = noise(len(clean), clean.shape[1]) * region().inside
    alone = Masked(0).around(clean, lengths, box=BOX).steady(slope)
    for spec, least in (("masked:0_and_linf:2", 0.99), ("masked:0_and_linf:0.02", 0.05)):
        step = parse_bound(spec).around(clean, lengths, box=(-1.0, 1.0)).steady(slope)
        assert ((slope * step).flatten(1).sum(1) >= least * (slope * alone).flatten(1).sum(1)).all()


def test_a_limit_that_never_binds_leaves_projection_and_rounding_as_they_are() -> None:
    clean, lengths = clips()
    alone = region(grid=1 / FULL_SCALE)
    y = within(alone, 1e-3 * noise(*clean.shape))
    for spec in ("masked:0_and_linf:1", "linf:1_and_masked:0", "masked:min_and_linf:1"):
        both = parse_bound(spec).around(clean, lengths, box=BOX, grid=1 / FULL_SCALE).at(alone.radius)
        assert both.norm.gradual
        assert torch.equal(both.project(y), alone.project(y))
        assert torch.equal(both.inputs(alone.project(y)), alone.inputs(alone.project(y)))


@pytest.mark.parametrize("other", ["linf:0.0001", "l2:0.002"])
def test_rounding_keeps_within_the_limits_that_bind(other: str) -> None:
    clean, lengths = clips()
    both = parse_bound(f"masked:20_and_{other}").around(clean, lengths, box=BOX, grid=1 / FULL_SCALE)
    limit = parse_bound(other).around(clean, lengths, box=BOX)
    y = both.project(within(both, 1e-3 * noise(*clean.shape)))
    change = both.inputs(y) - both.clean
    assert change.abs().amax(1)[[0, 1, 4]].gt(0).all()
    assert (limit.norm.gauge(change) <= limit.radius * (1 + 1e-6)).all()


def test_a_clip_has_the_same_limits_in_every_row() -> None:
    clean, lengths = clips()
    together = norm_of(Masked(10).around(clean, lengths, box=BOX))
    backwards = norm_of(Masked(10).around(clean.flip(0), lengths.flip(0), box=BOX))
    assert torch.equal(backwards.limits.flip(0), together.limits)
    assert torch.equal(backwards.eroded.flip(0), together.eroded)
    alone = norm_of(Masked(10).around(clean[1:2], lengths[1:2], box=BOX))
    assert torch.equal(alone.limits, together.limits[1:2])


def test_a_radius_of_nothing_holds_nothing() -> None:
    some = region()
    nothing = some.at(0 * some.radius)
    assert (nothing.project(within(some, noise(*some.clean.shape))) == 0).all()


def test_what_is_over_the_eroded_limits_is_taken_off_down_to_nine_tenths_of_them() -> None:
    """1.8 times that, where the limits themselves leave room; what is below stays."""
    window, flat = 512, torch.ones(1, 20, 257)
    norm = MaskedNorm(1e3 * flat, flat, torch.ones(1, 2048), window, 0.0)
    change, radius = 3 * noise(1, 2048), torch.tensor([0.5])
    bins = spectrum(change, window)
    over = bins * (1 - 0.9 * 0.5 / bins.abs()).clamp_min(0)
    assert 0.1 < float((over.abs() > 0).float().mean()) < 0.9
    expected = change - 1.8 * waveform(over, window, 2048)
    torch.testing.assert_close(norm.project(change, radius, None, None), expected, rtol=1e-3, atol=1e-4)

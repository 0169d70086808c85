"""The masking threshold against the standard's own numbers, a slow reference written from its text, and physics."""

import math

import pytest
import torch
from torch import Tensor

from audioadv.audio.hearing import Hearing, bark, ear, quiet_db, skirts
from audioadv.audio.masking import SILENCE_DB, decimated, lasting, level_db, masking_threshold, tones
from audioadv.audio.ragged import pad
from audioadv.audio.spectrum import frame_counts, frame_seconds, frames_inside, spectrum, waveform
from audioadv.errors import AudioadvError, OptionError, UnusableBatch

RATES = [8000, 11025, 16000, 22050, 44100, 48000]
FINEST = 1e9  # lines per Bark: every bin


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tone(hz: float, db: float, hearing: Hearing, seconds: float = 0.3) -> Tensor:
    """A sine of so many dB SPL. Shapes: -> [1, time]."""
    phase = torch.arange(int(seconds * hearing.sample_rate), dtype=torch.float64) * (2 * math.pi * hz / hearing.sample_rate)
    return phase.sin()[None] * 10 ** ((db - hearing.full_scale_db) / 20)


def threshold(samples: Tensor, hearing: Hearing) -> Tensor:
    """Of one clip. Shapes: [1, time] -> [frames, bins]."""
    return masking_threshold(samples, torch.tensor([samples.shape[1]]), hearing)[0]


def level(samples: Tensor, hearing: Hearing) -> Tensor:
    return level_db(samples, torch.tensor([samples.shape[1]]), hearing)[0]


def slowly(power: list[float], hearing: Hearing) -> list[float]:
    """The threshold of one frame by the text of Annex D.1, a bin and a masker at a time. Shapes: [bins] -> [bins], dB."""
    bins, bin_hz = len(power), hearing.bin_hz
    z = bark(torch.arange(bins, dtype=torch.float64) * bin_hz).tolist()
    quiet = (quiet_db(torch.arange(bins, dtype=torch.float64) * bin_hz) + hearing.quiet_offset_db).tolist()

    tones, rest = [], list(power)
    for k in range(1, bins - 1):
        if not (power[k] > power[k - 1] and power[k] >= power[k + 1]):
            continue
        hz = k * bin_hz
        reach = max(2, round((86 if hz < 2700 else 129 if hz < 5500 else 258 if hz < 11000 else 517) / bin_hz))
        others = [power[k + sign * j] for j in range(2, reach + 1) for sign in (-1, 1) if 0 <= k + sign * j < bins]
        if all(power[k] >= 10**0.7 * other for other in others):
            tones.append((k, 10 * math.log10(sum(power[k - 1 : k + 2]) / 1.5)))
            for i in range(max(0, k - reach), min(bins, k + reach + 1)):
                rest[i] = 0.0
    tones = [(k, db) for k, db in tones if db >= quiet[k]]
    tones = [(k, db) for k, db in tones if not any(abs(z[k] - z[j]) < 0.5 and other > db for j, other in tones)]
    maskers = [(k, db, -6.025 - 0.275 * z[k]) for k, db in tones]
    for band in range(int(z[-1]) + 1):
        own = [k for k in range(bins) if int(z[k]) == band]
        if not own:
            continue
        middle = round(math.exp(sum(math.log(max(k, 0.5)) for k in own) / len(own)))
        if (total := sum(rest[k] for k in own)) > 0 and (db := 10 * math.log10(total / 1.5)) >= quiet[middle]:
            maskers.append((middle, db, -2.025 - 0.175 * z[middle]))

    result = []
    for i in range(bins):
        hidden = 10 ** (quiet[i] / 10)
        for k, db, index in maskers:
            dz, x = z[i] - z[k], max(db, 0.0)
            if -3 <= dz < -1:
                fall = 17 * (dz + 1) - (0.4 * x + 6)
            elif -1 <= dz < 0:
                fall = (0.4 * x + 6) * dz
            elif 0 <= dz < 1:
                fall = -17 * dz
            elif 1 <= dz < 8:
                fall = -(dz - 1) * (17 - 0.15 * x) - 17
            else:
                continue
            hidden += 10 ** ((db + index + fall) / 10)
        result.append(10 * math.log10(hidden))
    return result


# One scale


@pytest.mark.parametrize("sample_rate", RATES)
def test_a_full_scale_tone_reads_96_db_as_a_sound_and_as_a_masker(sample_rate: int) -> None:
    hearing = Hearing(sample_rate, lines_per_bark=FINEST)
    k = round(1000 / hearing.bin_hz)
    full = tone(k * hearing.bin_hz, 96, hearing)
    middle = len(level(full, hearing)) // 2
    assert level(full, hearing)[middle].max().item() == pytest.approx(96, abs=1e-6)
    z = float(bark(torch.tensor(k * hearing.bin_hz, dtype=torch.float64)))
    assert threshold(full, hearing)[middle, k].item() == pytest.approx(96 - 6.025 - 0.275 * z, abs=1e-3)


def test_between_two_bins_a_tone_reads_as_hann_has_it() -> None:
    hearing = Hearing()
    between = level(tone(64.5 * hearing.bin_hz, 80, hearing), hearing)[10]
    assert between.max().item() == pytest.approx(80 - 1.4236, abs=1e-3)


@pytest.mark.parametrize("db", [-80.0, -10.0, 60.0])
def test_quiet_tones_keep_their_level(db: float) -> None:
    assert level(tone(1000, db, Hearing()), Hearing())[9].max().item() == pytest.approx(db, abs=1e-3)


def test_the_playback_level_moves_levels_and_not_the_threshold_in_quiet() -> None:
    noise = 1e-3 * draw(0, 1, 4000)
    loud, soft = Hearing(full_scale_db=96), Hearing(full_scale_db=76)
    assert torch.allclose(level(noise, loud) - level(noise, soft), torch.tensor(20.0, dtype=torch.float64))
    silence = torch.zeros(1, 4000)
    assert threshold(silence, loud).equal(threshold(silence, soft))


# Textbook cases


def test_a_tone_of_1_khz_at_80_db() -> None:
    """71.6 dB at the tone (80 - 6.025 - 0.275 * 8.51), 38 dB a Bark up to it, then 17 for a Bark, then 17 - 0.15 * 80 = 5."""
    hearing = Hearing(lines_per_bark=FINEST, quiet_offset_db=-100)
    curve = threshold(tone(1000, 80, hearing, 1.0), hearing)[30]
    z = bark(torch.arange(hearing.bins, dtype=torch.float64) * hearing.bin_hz)
    peak, at = curve[64].item(), z[64].item()
    assert peak == pytest.approx(80 - 6.025 - 0.275 * 8.51, abs=0.01)
    for away, fall in ((-2.5, -25.5 - 38), (-0.5, -19), (0.5, -8.5), (3.0, -17 - 10), (7.0, -17 - 30)):
        k = int((z - at - away).abs().argmin())
        exact = float(z[k]) - at
        slope = {-2.5: 17.0, -0.5: 38.0, 0.5: -17.0, 3.0: -5.0, 7.0: -5.0}[away]
        assert curve[k].item() - peak == pytest.approx(fall + slope * (exact - away), abs=0.05), away
    assert (curve[z > at + 8.1] < -60).all()  # nothing is masked more than 8 Bark above
    assert (curve[z < at - 3.1] < 0).all()


def test_a_tone_of_1_khz_at_80_db_as_qin_has_it() -> None:
    """Its three bins come to 81.76 dB: 73.4 dB at the tone, 27 dB a Bark up to it, then 27 - 0.37 * 41.76 = 11.55; 27 under 40 dB."""
    hearing = Hearing(lines_per_bark=FINEST, quiet_offset_db=-100, simplified=True)
    z = bark(torch.arange(hearing.bins, dtype=torch.float64) * hearing.bin_hz)
    for db, up in ((80, 11.5487), (30, 27.0)):
        curve = threshold(tone(1000, db, hearing), hearing)[9]
        assert curve[64].item() == pytest.approx(db + 1.7609 - 6.025 - 0.275 * 8.51, abs=0.01)
        for away in (-2, 2):
            k = int((z - z[64] - away).abs().argmin())
            slope = up if away > 0 else 27.0
            assert (curve[64] - curve[k]).item() == pytest.approx(slope * abs(float(z[k] - z[64])), abs=0.01)


def test_the_loudest_low_tone_hides_nothing_high_up() -> None:
    hearing = Hearing()
    quiet = threshold(torch.zeros(1, 5000), hearing)[9]
    z = bark(torch.arange(hearing.bins) * hearing.bin_hz)
    hum = threshold(tone(5 * hearing.bin_hz, 96, hearing), hearing)[9]
    assert torch.allclose(hum[z > 16].float(), quiet[z > 16], atol=1.0)
    assert (hum[z < 8].float() > quiet[z < 8] + 10).any()


def test_a_louder_tone_masks_farther_upwards_and_less_far_downwards() -> None:
    base, gain = (x[0] for x in skirts(torch.tensor([10.0]), torch.arange(7.0, 18.0)))
    soft, loud = base + 40 * gain, base + 80 * gain
    assert soft.tolist() == pytest.approx([-34 - 22, -17 - 22, -22, 0, -17, -28, -39, -50, -61, -72, -83])
    assert (loud - soft).tolist() == pytest.approx([-16, -16, -16, 0, 0, 6, 12, 18, 24, 30, 36])


def test_noise_masks_more_than_a_tone_of_its_level() -> None:
    """-2.025 - 0.175 z against -6.025 - 0.275 z: 4.85 dB at 8.5 Bark."""
    hearing = Hearing(lines_per_bark=FINEST, quiet_offset_db=-100)
    bins = torch.zeros(40, hearing.bins, dtype=torch.complex128)
    z = bark(torch.arange(hearing.bins, dtype=torch.float64) * hearing.bin_hz)
    band = (z.long() == 8).nonzero()[:, 0]
    bins[:, band] = torch.polar(torch.ones(40, len(band), dtype=torch.float64), 6.28 * draw(1, 40, len(band)))
    noise = waveform(bins, hearing.window, 10000)[None]
    noise *= 10 ** ((70 - level(noise, hearing)[20].max()) / 20)
    power = 10 ** (level(noise, hearing)[20, band] / 10)
    curve = threshold(noise, hearing)[20]
    masks = curve[band].max().item() - 10 * math.log10(power.sum().item() / 1.5)
    assert masks == pytest.approx(-2.025 - 0.175 * 8.5, abs=0.2)


@pytest.mark.parametrize(("k", "reach"), [(10, 2), (62, 2), (63, 3), (100, 3), (200, 6), (300, 12), (450, 12)])
def test_a_tone_stands_out_over_as_many_bins_as_in_layer_ii(k: int, reach: int) -> None:
    """In the standard's own frames, 1,024 samples at 44.1 kHz. What is 6 dB under a peak counts within the reach, 8 dB nowhere."""
    model = ear(Hearing(44100, window_seconds=1024 / 44100), torch.float64, torch.device("cpu"))
    places = [place for away in (2, reach, reach + 1) for place in (k - away, k + away)]
    power = torch.full((12, 513), 1e-3, dtype=torch.float64)
    power[:, k] = 1
    for frame, place in enumerate(places):
        power[frame, place], power[6 + frame, place] = 10**-0.6, 10**-0.8
    (frames, bins, level), taken = tones(power, model)
    assert frames[bins == k].tolist() == [4, 5, *range(6, 12)]
    assert level[bins == k][2].item() == pytest.approx(10 * math.log10(1.002 / 1.5))  # the plain sum is 3/2 of a tone's power
    assert taken[6].nonzero()[:, 0].tolist() == list(range(k - reach, k + reach + 1))


def test_of_two_equal_bins_the_lower_is_the_peak() -> None:
    power = torch.full((1, 513), 1e-3)
    power[0, 100:102] = 1
    assert tones(power, ear(Hearing(), torch.float32, torch.device("cpu")))[0][1].tolist() == [100]


def test_decimation_looks_past_the_next_tone_and_not_into_the_next_frame() -> None:
    """70, 60 and 65 dB, a fifth of a Bark apart: the third is beaten by the first; alone in its frame it stays."""
    model = ear(Hearing(), torch.float64, torch.device("cpu"))
    peaks = [int((model.bark - 17 - away).abs().argmin()) for away in (0.0, 0.2, 0.4, 0.6)]
    frames, bins = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([*peaks[:3], peaks[2], peaks[3]])
    frame, peak, level = decimated((frames, bins, torch.tensor([70.0, 60, 65, 65, -40], dtype=torch.float64)), model)
    assert list(zip(frame.tolist(), peak.tolist(), level.tolist(), strict=True)) == [(0, peaks[0], 70), (1, peaks[2], 65)]


def test_silence_leaves_the_threshold_in_quiet() -> None:
    hearing = Hearing(lines_per_bark=FINEST)
    quiet = threshold(torch.zeros(1, 100), hearing)
    khz = torch.arange(2, hearing.bins, dtype=torch.float64) * hearing.bin_hz / 1000
    closed = 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + khz**4 / 1000 - 12
    assert torch.allclose(quiet[:, 2:].double(), closed.clamp_max(56), atol=1e-4)
    assert quiet[:, :2].tolist() == [[pytest.approx(56)] * 2] * 4
    assert quiet.shape == (4, 513)


def test_of_two_near_tones_the_stronger_masks_and_far_ones_add_up() -> None:
    hearing = Hearing(lines_per_bark=FINEST)
    loud, near, far = tone(2000, 70, hearing), tone(2125, 60, hearing), tone(3500, 70, hearing)
    frame = 8
    k = round(2000 / hearing.bin_hz)
    alone = threshold(loud, hearing)[frame]
    assert threshold(loud + near, hearing)[frame, k].item() == pytest.approx(alone[k].item(), abs=0.02)
    both = threshold(loud + far, hearing)[frame]
    parts = 10 ** (alone / 10) + 10 ** (threshold(far, hearing)[frame] / 10) - 10 ** (threshold(0 * far, hearing)[frame] / 10)
    assert torch.allclose(both, 10 * parts.log10(), atol=0.05)


# Against the slow reference


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
def test_the_fast_path_is_the_standards_text(sample_rate: int) -> None:
    hearing = Hearing(sample_rate, lines_per_bark=FINEST)
    time = torch.arange(sample_rate // 4, dtype=torch.float64) / sample_rate
    chord = sum(0.1 / n * (2 * math.pi * 170 * n * time + n).sin() for n in range(1, 22))
    faint = 1e-5 * (2 * math.pi * 3000 * time).sin()  # under 0 dB SPL, and heard
    sounds = torch.stack([chord + 0.003 * draw(2, len(time)), 0.1 * draw(3, len(time)), 1e-4 * chord, faint])
    lengths = torch.full((4,), sounds.shape[1])
    fast, power = masking_threshold(sounds, lengths, hearing), 10 ** (level_db(sounds, lengths, hearing) / 10)
    for clip in range(4):
        for frame in (0, 7, len(fast[clip]) - 1):
            slow = slowly(power[clip, frame].tolist(), hearing)
            assert fast[clip, frame].tolist() == pytest.approx(slow, abs=1e-4)


def test_fewer_lines_are_nearly_as_good() -> None:
    sound = 0.1 * draw(4, 1, 16000) * torch.linspace(0, 1, 16000)
    off = (threshold(sound, Hearing()) - threshold(sound, Hearing(lines_per_bark=FINEST))).abs()
    assert off.median() < 0.03
    assert off.quantile(0.98) < 1


# Any batch


def test_neighbours_and_padding_change_nothing() -> None:
    hearing = Hearing(temporal=True)
    clips = [0.3 * draw(seed, length).float() for seed, length in enumerate((5000, 1, 700, 16000, 1023))]
    batch, lengths = pad(clips)
    dirty = batch + (torch.arange(batch.shape[1]) >= lengths[:, None]) * 0.5  # what lies beyond the length is not looked at
    for measure in (masking_threshold, level_db):
        together = measure(dirty, lengths, hearing)
        for i, clip in enumerate(clips):
            alone = measure(clip[None], torch.tensor([len(clip)]), hearing)[0]
            assert torch.allclose(together[i, : len(alone)], alone, atol=1e-4)
            quiet = measure(torch.zeros(1, 1), torch.tensor([1]), hearing)[0, 0]
            assert torch.allclose(together[i, len(alone) :], quiet.expand_as(together[i, len(alone) :]))


@pytest.mark.parametrize(("sample_rate", "window"), [(8000, 512), (11025, 704), (16000, 1024), (44100, 2816), (48000, 3072)])
def test_a_frame_lasts_64_ms_at_any_rate(sample_rate: int, window: int) -> None:
    assert Hearing(sample_rate).window == window


def test_frames_are_told_by_their_middles() -> None:
    """The first ends a quarter of a frame into the clip, the fourth begins with it."""
    assert frame_seconds(4, 1024, 16000).tolist() == pytest.approx([-0.016, 0, 0.016, 0.032])


def test_every_sample_lies_in_four_frames_and_comes_back() -> None:
    sound = draw(5, 2, 777)
    for window in (64, 256, 1024):
        bins = spectrum(sound, window)
        assert len(bins[0]) == int(frame_counts(torch.tensor([777]), window))
        assert torch.allclose(waveform(bins, window, 777), sound, atol=1e-12)
    for at in (0, 400, 776):
        click = torch.zeros(1, 777, dtype=torch.float64)
        click[0, at] = 1
        energy = spectrum(click, 256)[0].abs().square().sum(-1)
        assert 3 <= int((energy > 1e-20).sum()) <= 4  # a Hann window begins with one zero
    assert frames_inside(torch.tensor([1, 777]), 256, 16).sum(1).tolist() == [4, 16]


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("time", [1, 2, 100, 3001])
def test_silence_clipping_and_scraps_give_finite_answers_and_slopes(sample_rate: int, time: int) -> None:
    hearing = Hearing(sample_rate, temporal=True)
    square = torch.where(torch.arange(time) // 20 % 2 == 0, 1.0, -1.0)
    sounds = torch.stack([torch.zeros(time), torch.ones(time), square, torch.full((time,), 2.0**-15)]).requires_grad_()
    lengths = torch.full((4,), time)
    for measure in (masking_threshold, level_db):
        answer = measure(sounds, lengths, hearing)
        assert answer.shape == (4, int(frame_counts(lengths, hearing.window)[0]), hearing.bins)
        assert answer.isfinite().all()
        (slope,) = torch.autograd.grad(answer.sum(), sounds)
        assert slope.isfinite().all()
    assert level_db(sounds, lengths, hearing)[0].eq(SILENCE_DB).all()


def test_slopes_are_those_of_finite_differences() -> None:
    hearing = Hearing(8000, window_seconds=0.016)
    sound = (0.1 * draw(6, 1, 300) + tone(500, 80, hearing, 0.0375)).requires_grad_()
    weight = draw(7, 1, 13, hearing.bins)

    def total(x: Tensor) -> Tensor:
        return (weight * masking_threshold(x, torch.tensor([300]), hearing)).sum()

    (slope,) = torch.autograd.grad(total(sound), sound)
    direction = draw(8, 1, 300)
    step = 1e-7
    measured = (total(sound + step * direction) - total(sound - step * direction)) / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(measured.item(), rel=1e-4)


# In time


def test_a_burst_masks_what_follows_longer_than_what_precedes() -> None:
    burst = torch.zeros(1, 16000)
    burst[0, 8000:8800] = 0.1 * draw(9, 800).float()
    quiet = threshold(torch.zeros(1, 16000), Hearing())
    at_once, over_time = (threshold(burst, Hearing(temporal=temporal)) - quiet for temporal in (False, True))
    assert (over_time >= at_once - 1e-4).all()
    k = 128  # 2 kHz
    frames = (at_once[:, k] > 1).nonzero()[:, 0]
    first, last = int(frames[0]), int(frames[-1])
    assert (at_once[last + 1 : last + 8, k] < 0.1).all()
    after, before = over_time[last + 1 :, k], over_time[:first, k].flip(0)
    assert (after[:-1] >= after[1:] - 1e-4).all()  # fades
    assert (after > 0.5).sum() >= 6  # for the better part of 200 ms = 12.5 frames
    assert (after[13:] < 0.1).all()
    assert (before > 0.1).sum() <= 1  # 20 ms are little more than a frame


def test_masking_fades_linearly_in_the_logarithm_of_time() -> None:
    hearing = Hearing(temporal=True, lines_per_bark=FINEST)
    burst = torch.zeros(1, 16000)
    burst[0, :3000] = 0.1 * draw(10, 3000).float()
    over = threshold(burst, hearing) - threshold(torch.zeros(1, 16000), hearing)
    at_once = threshold(burst, Hearing(lines_per_bark=FINEST)) - threshold(torch.zeros(1, 16000), Hearing(lines_per_bark=FINEST))
    source = int(at_once[:, 128].argmax())
    for away in (10, 11):
        others = [at_once[source + shift, 128].item() * math.log(0.2 / (0.016 * (away - shift))) / math.log(40) for shift in range(-2, 8)]
        assert over[source + away, 128].item() == pytest.approx(max(others), abs=1e-3)


def test_masking_in_time_by_hand() -> None:
    """Frames of 2 ms, one of them 40 dB over: after it 40 ln(200 / ms) / ln 40 from 5 ms on, before it 40 ln(20 / ms) / ln 20."""
    hearing = Hearing(temporal=True, window_seconds=0.008)
    model = ear(hearing, torch.float64, torch.device("cpu"))
    quiet = 10 * model.quiet_power.log10()
    loud = quiet.expand(1, 140, -1).clone()
    loud[0, 20] += 40
    over = (lasting(loud, torch.ones(1, 140, dtype=torch.bool), hearing, model) - quiet)[0]
    for away, db in {-10: 0, -9: 1.407, -5: 9.255, -1: 30.745, 0: 40, 2: 40, 5: 32.484, 50: 7.516, 99: 0.109, 100: 0}.items():
        assert over[20 + away].tolist() == pytest.approx([db] * len(quiet), abs=1e-3), away


# Bad input


@pytest.mark.parametrize(
    "wrong",
    [
        {"sample_rate": 4000},
        {"sample_rate": 96000},
        {"full_scale_db": math.nan},
        {"full_scale_db": math.inf},
        {"window_seconds": 0.0},
        {"quiet_offset_db": math.nan},
        {"lines_per_bark": 0},
    ],
)
def test_choices_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError, match=str(next(iter(wrong.values())))):
        Hearing(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("lengths", [[5, 5], [11], [[5]]])
def test_lengths_that_do_not_fit(lengths: list[int]) -> None:
    for measure in (masking_threshold, level_db):
        with pytest.raises(UnusableBatch, match="none longer"):
            measure(torch.zeros(1, 10), torch.tensor(lengths), Hearing())
    with pytest.raises(AudioadvError):
        masking_threshold(torch.zeros(10), torch.tensor(10), Hearing())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_the_same_on_cuda() -> None:
    clips, lengths = pad([0.3 * draw(seed, length).float() for seed, length in enumerate((5000, 16000))])
    for measure in (masking_threshold, level_db):
        there = measure(clips.cuda(), lengths.cuda(), Hearing(temporal=True)).cpu()
        assert torch.allclose(there, measure(clips, lengths, Hearing(temporal=True)), atol=0.05)

"""Distances have exact cases: a tenth is 20 dB, nothing changed is nothing heard, and the standards' own calibration points."""

import math
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from audioadv.audio.distances import log_spectral_distance_db, masking_excess_db, pesq_mos, segmental_snr_db, stoi, worst_excess
from audioadv.audio.files import read_clip
from audioadv.audio.hearing import Hearing
from audioadv.audio.loudness import k_weight, loudness_lufs
from audioadv.audio.masking import masking_threshold
from audioadv.audio.ragged import pad
from audioadv.errors import BrokenInstallation

NOISE = 0.1 * torch.randn(3, 2, 8000, generator=torch.Generator().manual_seed(0)).double()
needs_pesq = pytest.mark.skipif(find_spec("pesq") is None, reason="no pesq, which a C compiler builds")
SPEECH = read_clip(Path(__file__).parent.parent / "samples/kitchen.wav", 16000).samples


def tone(hz: float, sample_rate: int, seconds: float = 1.0, db: float = 0.0) -> Tensor:
    phase = torch.arange(int(seconds * sample_rate), dtype=torch.float64) * (2 * math.pi * hz / sample_rate)
    return 10 ** (db / 20) * phase.sin()


# Segmental SNR


@pytest.mark.parametrize(("ratio", "decibels"), [(0.1, 20), (1.0, 0), (1e-4, 35), (100.0, -10)])
def test_segmental_snr_of_a_scaled_copy(ratio: float, decibels: float) -> None:
    assert segmental_snr_db(NOISE, (1 + ratio) * NOISE, 16000).numpy() == pytest.approx(torch.full((3, 2), float(decibels)).numpy())


def test_segmental_snr_is_a_mean_over_time() -> None:
    """A change in one half only: 0 dB there, 35 dB in the other; the SNR of the whole, 3 dB, tells less."""
    clean = NOISE[0, 0].repeat(4)
    adversarial = clean.clone()
    adversarial[:16000] *= 2
    assert segmental_snr_db(clean, adversarial, 16000).item() == pytest.approx(17.5, abs=0.5)


def test_a_click_lies_in_four_segments_of_480_samples() -> None:
    """A second has 131 of them, 120 samples apart: four at 0 dB, where the click has the segment's energy, the others at 35."""
    clean, click = torch.ones(16000), torch.zeros(16000)
    click[8000] = math.sqrt(480)
    assert segmental_snr_db(clean, clean + click, 16000).item() == pytest.approx(127 / 131 * 35, abs=1e-4)


def test_segments_of_silence() -> None:
    silence = torch.zeros(1000)
    assert segmental_snr_db(silence, silence, 16000) == 35
    assert segmental_snr_db(silence, silence + 0.1, 16000) == -10
    assert segmental_snr_db(torch.ones(1), torch.ones(1) * 1.1, 16000).item() == pytest.approx(20, abs=1e-4)


# Loudness


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100, 48000])
def test_loudness_of_the_standards_tone(sample_rate: int) -> None:
    """BS.1770-5, annex 1: a 0 dB FS, 997 Hz sine in one channel comes to -3.01 LKFS; level and loudness go together."""
    for db in (0, -23, -90):
        assert loudness_lufs(tone(997, sample_rate, db=db), sample_rate).item() == pytest.approx(-3.01 + db, abs=0.01)


def test_loudness_is_energy_under_both_filters() -> None:
    from scipy.signal import lfilter

    from audioadv.audio.loudness import HIGH_PASS, SHELF

    for sound in (NOISE[0, 0], NOISE[0, 0, :801] + 0.1, torch.tensor([0.1])):  # the filters ring on after the end
        filtered = lfilter(*HIGH_PASS, lfilter(*SHELF, np.pad(sound.numpy(), (0, 40000))))
        expected = -0.691 + 10 * math.log10((filtered**2).sum() / len(sound))
        assert loudness_lufs(sound, 48000).item() == pytest.approx(expected, abs=1e-3)
    assert loudness_lufs(torch.zeros(9), 16000) == -math.inf


def test_low_tones_are_less_loud() -> None:
    gains = k_weight(torch.tensor([20.0, 50, 100, 1000, 4000]))
    assert (gains[1:] > gains[:-1]).all()


# Log-spectral distance


def test_log_spectral_distance_of_a_gain_is_the_gain() -> None:
    assert log_spectral_distance_db(NOISE, 10 * NOISE, 16000).numpy() == pytest.approx(torch.full((3, 2), 20.0).numpy(), abs=0.01)
    assert (log_spectral_distance_db(NOISE, NOISE, 16000) == 0).all()
    assert log_spectral_distance_db(torch.zeros(5), torch.zeros(5), 16000) == 0


def test_log_spectral_distance_by_scipys_spectra() -> None:
    from scipy.signal import stft

    fading = NOISE[0, 0] * torch.linspace(0, 1, 8000)
    padded = [torch.nn.functional.pad(x, (384, 384 + 64)).numpy() for x in (NOISE[0, 0], fading)]  # 8,064 samples are 63 hops
    before, after = (abs(stft(x, nperseg=512, noverlap=384, boundary=None, padded=False)[2]) * 2 for x in padded)
    off = 20 * np.log10(np.maximum(after, 2.0**-15) / np.maximum(before, 2.0**-15))
    assert log_spectral_distance_db(NOISE[0, 0], fading, 16000).item() == pytest.approx(np.sqrt((off**2).mean(0)).mean(), abs=1e-3)


def test_log_spectral_distance_is_symmetric_and_sees_every_band() -> None:
    other = NOISE.roll(1, 0)
    assert torch.allclose(log_spectral_distance_db(NOISE, other, 16000), log_spectral_distance_db(other, NOISE, 16000))
    hum = NOISE[0, 0] + tone(7000, 16000, 0.5, db=-60)  # 40 dB under the noise in all, and over it in its band
    assert 0 < float(log_spectral_distance_db(NOISE[0, 0], hum, 16000)) < 3


# Masking excess


def test_a_change_at_the_threshold_has_no_excess_and_one_over_it_says_where() -> None:
    hearing = Hearing()
    silence = torch.zeros(16000)
    k = 224  # 3.5 kHz
    quiet = float(masking_threshold(silence[None], torch.tensor([16000]), hearing)[0, 20, k])
    for over in (-0.01, 0.01, 12.0):
        found = worst_excess(silence, tone(k * hearing.bin_hz, 16000, db=quiet - 96 + over), hearing)
        inner = masking_excess_db(
            silence[None], tone(k * hearing.bin_hz, 16000, db=quiet - 96 + over)[None], torch.tensor([16000]), hearing
        )[0, 10:50, k]
        assert inner.tolist() == pytest.approx([over] * 40, abs=1e-3)
        assert found.hz == pytest.approx(3500, abs=200)
        assert found.worst_db >= over - 1e-3
    assert 0 < found.share < 0.05
    every = masking_excess_db(silence[None], tone(3500, 16000, db=quiet - 84)[None], torch.tensor([16000]), hearing)
    assert found.share == pytest.approx(int((every > 0).sum()) / every.numel())
    assert 0 <= found.seconds <= 1


def test_no_change_has_no_excess() -> None:
    found = worst_excess(SPEECH, SPEECH, Hearing())
    assert found.worst_db == -math.inf
    assert found.share == 0


def test_the_same_change_is_heard_in_a_pause_and_not_in_a_noise() -> None:
    hearing = Hearing()
    clean = torch.cat([torch.zeros(8000), NOISE[0, 0]]).float()
    for place, audible in ((2000, True), (12000, False)):
        change = torch.zeros(16000)
        change[place : place + 2000] = tone(1000, 16000, 0.125, db=-60).float() * torch.hann_window(2000)
        found = worst_excess(clean, clean + change, hearing)
        assert (found.worst_db > 0) == audible
        assert found.hz == pytest.approx(1000, abs=32) or not audible
    click = torch.zeros(16000)
    click[4000] = 0.01
    assert worst_excess(clean, clean + click, hearing).seconds == pytest.approx(0.25, abs=0.02)


def test_excess_in_a_ragged_batch() -> None:
    clips = [SPEECH[:9000], SPEECH[9000:12000]]
    clean, lengths = pad(clips)
    adversarial, _ = pad([1.01 * clip for clip in clips])
    together = masking_excess_db(clean, adversarial, lengths, Hearing())
    alone = masking_excess_db(clips[1][None], 1.01 * clips[1][None], lengths[1:], Hearing())[0]
    assert torch.allclose(together[1, : len(alone)], alone, atol=1e-3)
    assert (together[1, len(alone) :] == -math.inf).all()


# PESQ and STOI


@needs_pesq
def test_judges_of_speech() -> None:
    hiss = 0.3 * NOISE.flatten()[: len(SPEECH)].float()
    grades = [pesq_mos(SPEECH, SPEECH + gain * hiss, 16000) for gain in (0, 0.1, 1)]
    assert grades[0] == pytest.approx(4.644, abs=1e-3)  # P.862.2's greatest
    assert grades[0] > grades[1] > grades[2] >= 1
    heard = [stoi(SPEECH, SPEECH + gain * hiss, 16000) for gain in (0, 1, 10)]
    assert heard[0] == pytest.approx(1)
    assert heard[0] > heard[1] > heard[2]


@needs_pesq
def test_grades_are_those_of_the_packages_with_the_clean_clip_as_the_reference() -> None:
    import pesq
    import pystoi

    noisy = SPEECH + 0.05 * NOISE.flatten()[: len(SPEECH)].float()
    pair = SPEECH.numpy(), noisy.numpy()
    assert pesq_mos(SPEECH, noisy, 16000) == pytest.approx(pesq.pesq(16000, *pair, "wb"), abs=1e-5)
    assert stoi(SPEECH, noisy, 16000) == pytest.approx(pystoi.stoi(*pair, 16000), abs=1e-5)
    assert pesq_mos(SPEECH, noisy, 16000) != pytest.approx(pesq_mos(noisy, SPEECH, 16000), abs=0.01)
    assert stoi(SPEECH, noisy, 16000) != pytest.approx(stoi(noisy, SPEECH, 16000), abs=1e-4)


@needs_pesq
@pytest.mark.parametrize("sample_rate", [8000, 44100])
def test_judges_of_speech_take_any_rate(sample_rate: int) -> None:
    speech = read_clip(Path(__file__).parent.parent / "samples/kitchen.wav", sample_rate).samples
    assert pesq_mos(speech, speech, sample_rate) > 4.4
    assert stoi(speech, speech, sample_rate) == pytest.approx(1)


@needs_pesq
@pytest.mark.parametrize("clean", [torch.zeros(16000), torch.zeros(1), torch.ones(1), SPEECH[4000:5000], torch.ones(16000)])
def test_no_speech_no_grade(clean: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for judge in (pesq_mos, stoi):
            grade = judge(clean, 0.9 * clean, 16000)
            assert math.isnan(grade) or 0 <= grade <= 4.65


@needs_pesq
@pytest.mark.parametrize("sample_rate", [44100, 48000])
def test_what_is_too_short_to_be_resampled_has_no_grade(sample_rate: int) -> None:
    for samples in (1, 2):
        assert math.isnan(pesq_mos(torch.ones(samples), 0.9 * torch.ones(samples), sample_rate))


def test_without_pesq_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(BrokenInstallation, match=r"\.\[pesq\]"):
        pesq_mos(SPEECH, SPEECH, 16000)


def test_filters_stay_above_24_khz_as_they_are_there() -> None:
    """The standard's rate has no more: at twice that rate, what nobody hears is not weighed by a mirror image of the filters."""
    assert torch.equal(k_weight(torch.tensor([24_000.0, 30_000, 47_000, 48_000])), k_weight(torch.full((4,), 24_000.0)))
    level = -3.70 + 10 * float(k_weight(torch.tensor(24_000.0)).log10())
    assert float(loudness_lufs(tone(40_000, 96_000), 96_000)) == pytest.approx(level, abs=0.01)

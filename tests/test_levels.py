"""Levels have exact cases: a tenth is 20 dB, nothing is infinitely far below."""

import math

import pytest
import torch

from audioadv.audio.levels import relative_db, snr_db

NOISE = torch.randn(3, 2, 4000, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("ratio", "decibels"), [(1.0, 0), (0.1, 20), (0.001, 60), (10.0, -20)])
def test_a_scaled_copy_lies_as_far_below_as_its_scale(ratio: float, decibels: float) -> None:
    clean = NOISE.double()
    adversarial = clean + ratio * clean
    assert snr_db(clean, adversarial).numpy() == pytest.approx(torch.full((3, 2), float(decibels)).numpy(), abs=1e-6)
    assert relative_db(clean, adversarial).numpy() == pytest.approx(torch.full((3, 2), -float(decibels)).numpy(), abs=1e-6)


def test_snr_is_of_energies_and_relative_db_of_peaks() -> None:
    clean = torch.tensor([0.5, -0.5, 0.5, -0.5])
    click = torch.tensor([0.0, 0.05, 0.0, 0.0])
    assert snr_db(clean, clean + click).item() == pytest.approx(10 * math.log10(1.0 / 0.0025), abs=1e-3)
    assert relative_db(clean, clean + click).item() == pytest.approx(-20, abs=1e-3)
    assert relative_db(clean, clean - click).item() == pytest.approx(-20, abs=1e-3)  # sizes count, not signed maxima


def test_no_change_is_infinitely_quiet_even_in_a_silent_clip() -> None:
    for clean in (NOISE, torch.zeros(3, 2, 10)):
        assert (snr_db(clean, clean) == math.inf).all()
        assert (relative_db(clean, clean) == -math.inf).all()


def test_any_change_of_a_silent_clip_is_infinitely_loud() -> None:
    silence = torch.zeros(10)
    assert snr_db(silence, silence + 0.1) == -math.inf
    assert relative_db(silence, silence + 0.1) == math.inf


def test_clips_do_not_see_each_other_nor_their_padding() -> None:
    clean, adversarial = NOISE[0], NOISE[0] + 0.01 * NOISE[1]
    padded = [torch.nn.functional.pad(signal, (0, 100)) for signal in (clean, adversarial)]
    for measure in (snr_db, relative_db):
        alone = torch.stack([measure(clean[i], adversarial[i]) for i in range(2)])
        assert measure(clean, adversarial).numpy() == pytest.approx(alone.numpy(), abs=1e-4)
        assert measure(*padded).numpy() == pytest.approx(alone.numpy(), abs=1e-4)

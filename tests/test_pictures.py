"""The pictures of `compare` can be read: labels do not touch, the legend hides nothing, a single sample is seen."""

from itertools import pairwise

import pytest
import torch
from matplotlib.figure import Figure

from audioadv.audio.hearing import Hearing
from audioadv.report.audibility import draw_frame
from audioadv.report.pictures import draw_waveform


@pytest.mark.parametrize("sample_rate", [8000, 16000, 48000])
def test_the_frame_that_is_drawn_has_legible_labels_and_room_for_its_legend(sample_rate: int) -> None:
    hearing, axes = Hearing(sample_rate), Figure().subplots()
    level = torch.full((hearing.bins,), 40.0)
    draw_frame(axes, level, level - 5, level - 10, hearing)
    places, (left, right) = axes.get_xticks(), axes.get_xlim()
    assert axes.get_xticklabels()[0].get_text() == "100"
    assert min(after - before for before, after in pairwise(places)) >= (right - left) / 16
    assert left <= min(places) < max(places) <= right
    floor, top = axes.get_ylim()
    assert (top - 40) / (top - floor) > 0.1


def test_a_clip_of_one_sample_is_seen() -> None:
    axes = Figure().subplots()
    draw_waveform(axes, torch.tensor([0.5]), 1 / 16000, 1.0, "black")
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.5]

"""A clean clip, what was made of it, and the difference, to be seen at a glance.

clean        waveform   spectrogram      waveforms of the first two rows on one scale
adversarial  waveform   spectrogram      the difference on its own, written beside it
difference   waveform   spectrogram      spectrograms all on one colour scale
(a frame     threshold  excess map       with a model of hearing: audioadv.report.audibility)
"""

import io
import math
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from audioadv.audio.files import FULL_SCALE
from audioadv.audio.hearing import Hearing
from audioadv.audio.levels import relative_db, snr_db
from audioadv.audio.whole import write_whole
from audioadv.report.audibility import draw_audibility

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW_SECONDS = 0.025
HOP_SECONDS = 0.005
DEEPEST_DB = 80.0  # below the loudest bin, everything has the darkest colour
QUIETEST_DB = -80.0  # the brightest colour means at least this, so that silence is dark
COLUMNS = 1200  # of a drawn waveform: more would not be seen
INK = ("#1f5a86", "#a8323e", "#4f6d3a")


def draw_pair(
    path: str | Path,
    clean: Tensor,
    adversarial: Tensor,
    sample_rate: int,
    *,
    heard: tuple[str, str] | None = None,
    title: str = "",
    hearing: Hearing | None = None,
    frame_at: float | None = None,
) -> None:
    """Write the picture as PNG, whole or not at all; the same input gives the same bytes.

    Shapes: clean and adversarial [time]. Units: full scale +-1, Hz. `heard` holds the two transcripts. With
    `hearing`, a fourth row shows what of the change can be heard, at the frame nearest to `frame_at` seconds (None: the worst).
    Raises UnwritableOutput where the disk says no.
    """
    figure = blank(13, 8.2 if hearing is None else 11.6)
    difference = adversarial - clean
    rows, seconds = (clean, adversarial, difference), len(clean) / sample_rate
    titles = [
        label if heard is None else f"{label}, {heard_as(text)}"
        for label, text in zip(("clean", "adversarial"), heard or ("", ""), strict=True)
    ]
    titles.append(f"difference, {how_loud(clean, adversarial)}")

    pictures = [spectrogram_db(row, sample_rate) for row in rows]
    loudest = max(QUIETEST_DB, *(float(picture.max()) for picture in pictures[:2]))
    peaks = [max(float(row.abs().max()), 1 / FULL_SCALE) for row in rows]  # one step of the grid is the least to draw
    scales = (max(peaks[:2]), max(peaks[:2]), peaks[2])

    heights = (1, 1, 1) if hearing is None else (1, 1, 1, 1.35)
    axes = figure.subplots(len(heights), 2, width_ratios=(1, 1.15), height_ratios=heights)
    for (left, right), row, picture, label, ink, scale in zip(axes[:3], rows, pictures, titles, INK, scales, strict=True):
        draw_waveform(left, row, seconds, scale, ink)
        left.set_title(label, loc="left", fontsize=11, color=ink, fontweight="bold", parse_math=False)
        image = right.imshow(
            picture.numpy(),
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, sample_rate / 2000),
            cmap="magma",
            vmin=loudest - DEEPEST_DB,
            vmax=loudest,
        )
        right.set_ylabel("kHz")
    axes[2, 0].set_ylabel(f"own scale: ±{peaks[2]:.2g}", color=INK[2])
    for above in axes[:2].flat:
        above.tick_params(labelbottom=False)
    for below in axes[2]:
        below.set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes[:3, 1]), label="dB, a full-scale tone = 0", shrink=1.0, aspect=45, pad=0.015)
    if hearing is not None:
        draw_audibility(axes[3, 0], axes[3, 1], clean, adversarial, hearing, frame_at)
    if title:
        figure.suptitle(textwrap.shorten(title, 120, placeholder=" …"), fontsize=13, parse_math=False)
    save(figure, Path(path))


def draw_waveform(axes: "Axes", samples: Tensor, seconds: float, scale: float, ink: str) -> None:
    """The waveform as the band between the least and the greatest sample of each column. Shapes: samples [time]."""
    chunk = math.ceil(len(samples) / COLUMNS)
    padded = torch.cat([samples, samples[-1:].expand(-len(samples) % chunk)]).reshape(-1, chunk)
    times = (torch.arange(len(padded)) + 0.5) * (chunk * seconds / len(samples))
    if len(padded) == 1:
        axes.axhline(float(samples[0]), color=ink, linewidth=1.5)
    axes.fill_between(times.numpy(), padded.amin(1).numpy(), padded.amax(1).numpy(), color=ink, linewidth=0.6)
    axes.set_xlim(0, seconds)
    axes.set_ylim(-1.05 * scale, 1.05 * scale)
    axes.set_ylabel("full scale = 1")
    axes.grid(alpha=0.25)


def spectrogram_db(samples: Tensor, sample_rate: int) -> Tensor:
    """Level of each bin, dB; a full-scale tone is 0. Shapes: [time] -> [bins, frames].

    >>> tone = (2 * math.pi * 1000 / 16000 * torch.arange(16000)).sin()
    >>> f"{spectrogram_db(tone / 10, 16000).max():.1f}"
    '-20.0'
    """
    width = int(WINDOW_SECONDS * sample_rate)
    window = torch.hann_window(width)
    bins = torch.stft(samples, width, max(int(HOP_SECONDS * sample_rate), 1), window=window, pad_mode="constant", return_complex=True)
    return 20 * (bins.abs() * (2 / window.sum())).clamp_min(1e-9).log10()


def heard_as(text: str) -> str:
    """The transcript in words, as far as a title has room."""
    return f"heard as “{textwrap.shorten(text, 64, placeholder=' …')}”" if text else "heard as nothing"


def how_loud(clean: Tensor, adversarial: Tensor) -> str:
    """How far the change lies below the clip, in words."""
    ratio = float(snr_db(clean, adversarial))
    return "none" if ratio == math.inf else f"SNR {ratio:.1f} dB, dB_x {float(relative_db(clean, adversarial)):.1f} dB"


def blank(width: float, height: float) -> "Figure":
    """A figure of so many inches, with nothing on it."""
    from matplotlib.figure import Figure  # over half a second, which a command that draws nothing does not wait for

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG by way of a file beside it."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a name in another script is shown as boxes
        figure.savefig(content, format="png", metadata={"Software": None})
    write_whole(path, content.getvalue())

"""What of a change can be heard beside the clip: the masking threshold at one frame, and the excess over it everywhere."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from audioadv.audio.distances import masking_excess_db
from audioadv.audio.hearing import Hearing, bark
from audioadv.audio.masking import level_db, masking_threshold
from audioadv.audio.spectrum import frame_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = (100, 250, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 12000, 20000)  # Hz
SOUND, THRESHOLD, CHANGE = "#9db8cc", "#222222", "#c0392b"
QUIETEST_EXCESS_DB, LOUDEST_EXCESS_DB = -40.0, 20.0
DEEPEST_DB = 30.0  # below the lowest threshold, levels are not drawn
TICKS_APART = 1 / 16  # of the axis, at least: labels of the nearer ones would touch


def draw_audibility(
    curves: "Axes", picture: "Axes", clean: Tensor, adversarial: Tensor, hearing: Hearing, frame_at: float | None = None
) -> None:
    """Levels and threshold at the frame nearest to `frame_at` seconds (None: the worst) on a Bark scale; the excess map.

    Shapes: clean and adversarial [time].
    """
    from matplotlib.colors import TwoSlopeNorm  # late, as `pictures.blank` has it

    seconds, lengths = len(clean) / hearing.sample_rate, torch.tensor([len(clean)])
    sound, change, threshold = (
        measure(samples[None], lengths, hearing)[0]
        for measure, samples in ((level_db, clean), (level_db, adversarial - clean), (masking_threshold, clean))
    )
    excess = masking_excess_db(clean[None], adversarial[None], lengths, hearing)[0]
    times = frame_seconds(len(excess), hearing.window, hearing.sample_rate)
    frame = int(excess.amax(1).argmax()) if frame_at is None else int((times - frame_at).abs().argmin())
    draw_frame(curves, sound[frame], change[frame], threshold[frame], hearing)
    at = min(max(float(times[frame]), 0.0), seconds)
    curves.set_title(f"at {at:.3f} s: {standing(excess[frame], hearing)}", loc="left", fontsize=11, fontweight="bold", color=THRESHOLD)

    half = hearing.hop / hearing.sample_rate / 2
    image = picture.imshow(
        excess.T.clamp_min(QUIETEST_EXCESS_DB).numpy(),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(float(times[0]) - half, float(times[-1]) + half, 0, hearing.sample_rate / 2000),
        cmap="RdBu_r",
        norm=TwoSlopeNorm(0, QUIETEST_EXCESS_DB, LOUDEST_EXCESS_DB),
    )
    picture.axvline(at, color=THRESHOLD, linewidth=1, linestyle=(0, (4, 3)))
    picture.set_xlim(0, seconds)
    picture.set_xlabel("seconds")
    picture.set_ylabel("kHz")
    share = float((excess > 0).double().mean())
    picture.set_title(f"excess over the masking threshold: {share:.1%} of bins over", loc="left", fontsize=11, fontweight="bold")
    bar = picture.figure.colorbar(image, ax=picture, label="dB over the threshold", aspect=18, pad=0.015, extend="both")
    bar.set_ticks([QUIETEST_EXCESS_DB, -20, 0, 10, LOUDEST_EXCESS_DB])


def draw_frame(axes: "Axes", sound: Tensor, change: Tensor, threshold: Tensor, hearing: Hearing) -> None:
    """Clip, change and threshold over frequency. Shapes: [bins] each. Units: dB SPL."""
    hz = torch.arange(hearing.bins) * hearing.bin_hz
    z = bark(hz).numpy()
    floor = float(threshold.min()) - DEEPEST_DB
    axes.fill_between(z, floor, sound.clamp_min(floor).numpy(), color=SOUND, linewidth=0, alpha=0.55, label="clip")
    axes.plot(z, threshold.numpy(), color=THRESHOLD, linewidth=1.6, label="masking threshold")
    axes.plot(z, change.clamp_min(floor - 10).numpy(), color=CHANGE, linewidth=1.0, label="change")
    over = (change > threshold).numpy()
    axes.fill_between(z, threshold.numpy(), change.numpy(), where=over, interpolate=True, color=CHANGE, alpha=0.45, linewidth=0)
    places: dict[float, str] = {}
    for tick, place in zip(TICKS, bark(torch.tensor(TICKS)).tolist(), strict=True):
        if place <= z[-1] and place - max(places, default=-1.0) >= TICKS_APART * z[-1]:
            places[place] = f"{tick / 1000:g}k" if tick >= 1000 else str(tick)
    axes.set_xticks(list(places), list(places.values()))
    axes.set_xlim(0, float(z[-1]))
    highest = float(torch.stack([sound, threshold, change]).max())
    axes.set_ylim(floor, highest + 0.16 * (highest - floor))  # the legend has the top to itself
    axes.set_xlabel("Hz, on a Bark scale")
    axes.set_ylabel(f"dB SPL, full scale = {hearing.full_scale_db:g}")
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right", fontsize=9, ncols=3)


def standing(excess: Tensor, hearing: Hearing) -> str:
    """How far a frame's change is over or under the threshold, in words. Shapes: [bins]."""
    worst, k = float(excess.max()), int(excess.argmax())
    if worst == -torch.inf:
        return "no change"
    return f"change {abs(worst):.1f} dB {'over' if worst > 0 else 'under'} the threshold at {k * hearing.bin_hz / 1000:.2f} kHz"

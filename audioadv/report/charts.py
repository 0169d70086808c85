"""Charts of a run as SVG that takes the page's colours, light or dark, and its letters.

success against SNR     how many clips fall to a change at least so quiet: a curve where the smallest was searched for,
                        a point where the bound was fixed; 95 % bands and whiskers
SNR against density     how loud a change each clip needed, by how fast its target has to be said
"""

import io
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from audioadv.evaluation.rates import Rate, wilson
from audioadv.evaluation.run.summary import curve, median, unchanged
from audioadv.threat.goals import NOT_AS

INKS = 6  # the page has so many colours for series: --s0 to --s5
DASHES = ("", "6 3", "2 2")  # and beyond them the same again, dashed
MARKS = "osD^vP"
# colours that nothing else has, to be replaced by the page's own
TEXT, LINES = "#000011", "#000012"
SIZE = (4.3, 3.1)  # inches, at 96 pixels each: about a phone's width, so that letters are as large there as on the page
READ_AT: Final = (60, 50, 40, 30, 20, 10, 0)  # dB, in the table beside the curve


@final
@dataclass(frozen=True)
class Series:
    """One setting in a chart: its label, which of the page's colours and dashes it has, and whether it is drawn as points."""

    label: str
    ink: int
    dash: str
    points: bool = False


@final
@dataclass(frozen=True)
class Chart:
    """A picture with all that its readers need: a title, a text in its place, and the figures that it shows."""

    title: str
    alt: str
    caption: str
    svg: str
    legend: Sequence[Series]
    table: Sequence[Sequence[str]]


def series(labels: Sequence[str]) -> list[Series]:
    """A look for each label."""
    return [Series(label, i % INKS, DASHES[i // INKS % len(DASHES)]) for i, label in enumerate(labels)]


def success_chart(groups: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Chart | None:
    """Of each setting, by its label, the result lines. None where no clip was changed and reached."""
    looks = series([label for label, _ in groups])
    ratios = [line["snr_db"] for _, lines in groups for line in lines if line["reached"] and line["snr_db"] is not None]
    if not ratios:
        return None
    figure, axes = blank("SNR of the change, dB (to the right: louder)", "clips that fall")
    quiet, loud = max(ratios) + 3, min(ratios) - 3
    rows = [["SNR of at least", *(f"{at} dB" for at in READ_AT)]]
    told, drawn = [], []
    for look, (label, lines) in zip(looks, groups, strict=True):
        count = len(lines)
        if not searched(lines):
            hits, at = sum(line["reached"] for line in lines), median(lines, "snr_db")
            if at is None:
                continue
            low, high = wilson(hits, count)
            whiskers = [[max(0.0, hits / count - low)], [max(0.0, high - hits / count)]]
            axes.errorbar([at], [hits / count], yerr=whiskers, fmt="o", color=ink(look), capsize=4, markersize=6, linewidth=1.6)
            told.append(f"{label}: {Rate(hits, count)} at a median of {at:.1f} dB.")
            drawn.append(replace(look, points=True))
            continue
        points, start = curve(lines), sum(map(unchanged, lines))
        fallen = sum(bool(line["reached"]) for line in lines)
        steps = [(quiet, start), *points, (loud, fallen)]
        x, y = [step[0] for step in steps], [step[1] / count for step in steps]
        band = [wilson(step[1], count) for step in steps]
        axes.step(x, y, where="post", color=ink(look), linewidth=2, dashes=dashes(look))
        axes.fill_between(x, [low for low, _ in band], [high for _, high in band], step="post", color=ink(look), alpha=0.13, linewidth=0)
        rows.append(
            [label, *(f"{100 * max([hits for ratio, hits in steps if ratio >= at], default=start) / count:.0f} %" for at in READ_AT)]
        )
        drawn.append(look)
        middle = median(lines, "snr_db")
        needed = "without any change" if middle is None else f"half of those to a change of {middle:.1f} dB or quieter"
        told.append(f"{label}: {fallen} of {count} clips fall, {needed}." if fallen else f"{label}: none of {count} clips falls.")
    axes.set_xlim(quiet, loud)
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    caption = (
        "The share of clips that fall to a change at least so far below them. "
        "Curves: the smallest change was searched for; points: the bound was fixed."
    )
    return Chart("Success against loudness", " ".join(told), caption, svg(figure, "success"), drawn, rows if len(rows) > 1 else ())


def density_chart(groups: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> Chart | None:
    """As `success_chart`, of searches for the smallest change. None for fewer than five clips that were brought to a text."""
    looks = series([label for label, _ in groups])
    found = [
        [
            (len(line["target"]) / (line["duration"] + line.get("lead_in", 0.0)), line["snr_db"])
            for line in lines
            if searched(lines) and worth_drawing(line)
        ]
        for _, lines in groups
    ]
    if sum(map(len, found)) < 5:
        return None
    figure, axes = blank("letters of the target for each second", "SNR of the change, dB")
    for look, points in zip(looks, found, strict=True):
        if points:
            axes.plot(*zip(*points, strict=True), MARKS[look.ink], color=ink(look), markersize=5, alpha=0.8)
    axes.set_xlim(left=0)
    together = sorted(point for points in found for point in points)
    half = len(together) // 2
    medians = [statistics.median(ratio for _, ratio in part) for part in (together[:half], together[half:])]
    alt = (
        f"The half of the targets with fewer letters a second has a median SNR of {medians[0]:.1f} dB, the denser half {medians[1]:.1f} dB."
    )
    caption = f"A point a clip: how loud a change it took, by how dense its target is. {alt}"
    drawn = [replace(look, points=True) for look, points in zip(looks, found, strict=True) if points]
    return Chart("What makes a clip hard", alt, caption, svg(figure, "density"), drawn, ())


def searched(lines: Sequence[dict[str, Any]]) -> bool:
    """Whether the smallest change was searched for, clip by clip, rather than any within one bound."""
    if "minimal" in lines[0]:
        return bool(lines[0]["minimal"])
    if "bound_asked" in lines[0]:  # by craft and bench, once
        return re.search(r":min(?![A-Za-z0-9])", lines[0]["bound_asked"]) is not None
    return len({line["bound"] for line in lines if line["reached"] and line["snr_db"] is not None}) > 1 or len(lines) == 1


def worth_drawing(line: dict[str, Any]) -> bool:
    """Whether a clip was changed toward a text of its own."""
    return bool(
        line["reached"] and line["snr_db"] is not None and line["target"] and not line["target"].startswith(NOT_AS) and line.get("duration")
    )


def blank(x: str, y: str) -> tuple[Figure, Axes]:
    """Axes without a box, on nothing."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, color=TEXT, fontsize=9)
    axes.set_ylabel(y, color=TEXT, fontsize=9)
    axes.tick_params(colors=TEXT, labelsize=9, length=0)
    axes.grid(color=LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    return figure, axes


def ink(look: Series) -> str:
    """The colour that stands for the page's own."""
    return f"#00000{look.ink + 1}"


def dashes(look: Series) -> tuple[float, ...]:
    """As matplotlib takes them."""
    return tuple(map(float, look.dash.split())) or (1, 0)


def svg(figure: Figure, name: str) -> str:
    """The drawing for a page: its colours as variables, its letters as letters; the same input gives the same text."""
    content = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    text = re.sub(r"#00000([1-6])", lambda hit: f"var(--s{int(hit[1]) - 1})", text)
    return text.replace(TEXT, "var(--soft)").replace(LINES, "var(--line)")

"""The survival matrix to look at: a bar a channel, its interval, and every clip as a dot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from audioadv.report.pictures import INK, blank, save


def draw_survival(path: str | Path, rows: Sequence[dict[str, Any]], lines: Sequence[dict[str, Any]], title: str = "") -> None:
    """Write the picture as PNG, whole or not at all. `rows` are channels (`together`), `lines` clips through channels.

    A channel that nothing went through is left out. Raises UnwritableOutput where the disk says no.
    """
    rows = [row for row in rows if row["draws"]]
    figure = blank(11, 1.6 + 0.55 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
    places = list(range(len(rows)))
    rates = [100 * row["rate"] for row in rows]
    reach = [
        [100 * max(0.0, row["rate"] - row["rate_low"]) for row in rows],
        [100 * max(0.0, row["rate_high"] - row["rate"]) for row in rows],
    ]
    left.barh(places, rates, xerr=reach, color=INK[1], alpha=0.75, capsize=3, height=0.6)
    for place, row in zip(places, rows, strict=True):
        own = [100 * line["rate"] for line in lines if line["channel"] == row["channel"]]
        left.plot(own, [place] * len(own), "o", color="black", markersize=3, alpha=0.5)
    left.set_yticks(places, [row["channel"] for row in rows])
    left.set_xlim(0, 102)
    left.set_xlabel("heard as wanted, % of draws (bar: all, 95 % interval; dots: clips)")
    left.invert_yaxis()
    for key, label, ink, marker in (
        ("wer_to_target", "to the target", INK[1], "o"),
        ("wer_to_text", "to what is said", INK[2], "s"),
        ("clean_wer_to_text", "clean clip, to what is said", INK[0], "^"),
    ):
        known = [(100 * row[key], place) for place, row in zip(places, rows, strict=True) if row[key] is not None]
        if known:
            right.plot([x for x, _ in known], [y for _, y in known], marker, color=ink, label=label)
    right.set_xlabel("word error rate, %")
    right.set_xlim(left=0)
    right.grid(alpha=0.25)
    if right.get_legend_handles_labels()[0]:  # nobody may know what is said, and a clip to be misheard has no target
        above = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3}  # where no figure is
        right.legend(fontsize=8, frameon=False, columnspacing=1, handletextpad=0.2, **above)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    save(figure, Path(path))

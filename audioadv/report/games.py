"""Games to look at: error against rounds, a panel a defense, a line an attacker, and what theory says of the long run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from audioadv.errors import OptionError
from audioadv.evaluation.games.game import Game
from audioadv.report.pictures import INK, save
from audioadv.report.tables import percent

COLUMNS = 3


def draw_games(
    path: str | Path, panels: Mapping[str, Mapping[str, Game]], theory: Mapping[str, float] | None = None, title: str = ""
) -> None:
    """Write the picture as PNG, whole or not at all. Raises OptionError for no panel, UnwritableOutput where the disk says no."""
    save(games_figure(panels, theory or {}, title), Path(path))


def games_figure(panels: Mapping[str, Mapping[str, Game]], theory: Mapping[str, float], title: str = "") -> Figure:
    """A panel for each defense, a line for each of its attackers: errors in windows of a twentieth of the game, with their 95 %
    intervals as bands and abstentions as dots. A dashed line is the long run that `theory` gives for a panel. Raises OptionError for
    no panel.
    """
    if not panels:
        raise OptionError("panels: no games to draw. Give some, {'no defense': {'repeat': game}}")
    columns, rows = min(COLUMNS, len(panels)), -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.4 * columns, 0.4 + 2.9 * rows), dpi=100, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for axis in axes[len(panels) :]:
        axis.remove()
    for axis, (name, games) in zip(axes, panels.items(), strict=False):
        draw_panel(axis, games)
        axis.set_title(name, fontsize=10, loc="left", parse_math=False)
        if name in theory:
            axis.axhline(100 * theory[name], color="black", linestyle="--", linewidth=1)
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def draw_panel(axis: Axes, games: Mapping[str, Game]) -> None:
    """One defense against its attackers."""
    for number, (attacker, game) in enumerate(games.items()):
        ink = INK[number % len(INK)]
        ends, errors, refusals = zip(*game.curve(max(1, game.rounds // 20)), strict=True)
        low, high = zip(*(error.interval for error in errors), strict=True)
        axis.plot(ends, [100 * error.value for error in errors], color=ink, label=attacker)
        axis.fill_between(ends, [100 * end for end in low], [100 * end for end in high], color=ink, alpha=0.2, linewidth=0)
        if game.abstained.any():
            axis.plot(ends, [100 * refusal.value for refusal in refusals], ".", color=ink, markersize=4)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("rounds", fontsize=8)
    axis.set_ylabel("error (dots: abstention), %", fontsize=8)
    axis.legend(fontsize=7)
    axis.grid(alpha=0.25)


def games_table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """A row a game: what theory says of the long run, what was measured in it, and whether the two agree."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("defense", "attacker"):
        table.add_column(heading, overflow="fold")
    for heading in ("measure", "theory", "measured", "95 %", "abstains", "agrees"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        low, high = line["interval"]
        table.add_row(
            line["defense"],
            line["attacker"],
            line["measure"],
            line["theory"],
            f"{100 * line['measured']:.1f} %",
            f"{100 * low:.1f}..{100 * high:.1f}",
            percent(line["late_abstention"]),
            "yes" if line["agrees"] else "NO",
        )
    return table

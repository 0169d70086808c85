"""Results as tables for people; --json is for programs."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {"reached": "green", "needless": "yellow", "missed": "red", "infeasible": "red", "not_finite": "red"}
VERDICTS = {"sound": "green", "broken": "red", "unknown": "dim"}
WIDTH = 120  # characters, where no terminal says how wide it is


class Printer(Console):
    """A console that goes on in silence once nobody reads what it prints (`| head`), where rich would end the process."""

    def on_broken_pipe(self) -> None:
        silence(sys.stdout)


def silence(stream: IO[str]) -> None:
    """From now on, what goes there is lost, and does not fail: not even Python's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def show(table: Table) -> None:
    """Print on standard output. Nothing in the cells is read as markup."""
    Printer(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else WIDTH).print(table)


def craft_table(lines: Iterable[Mapping[str, Any]]) -> Table:
    """A row a clip: how it ended, what is heard now and was before, and how loud the change is. Fits into 80 characters."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column("clip", overflow="fold", min_width=10)
    table.add_column("outcome", no_wrap=True)
    table.add_column("heard", overflow="fold", ratio=1)
    for heading in ("bound", "SNR dB", "dB_x"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        now = [] if line["adversarial_transcript"] is None else [line["adversarial_transcript"] or "(nothing)", "\n"]
        table.add_row(
            printable(line["clip"]),
            Text(line["outcome"], style=COLOURS[line["outcome"]]),
            Text.assemble(*now, (f"before: {line['clean_transcript'] or '(nothing)'}", "dim")),
            line["bound"],
            decibels(line["snr_db"]),
            decibels(line["relative_db"]),
        )
    return table


def comparison_table(line: Mapping[str, Any]) -> Table:
    """A row a distance, then what was heard."""
    table = Table(box=None, show_header=False)
    table.add_row("SNR, dB", decibels(line["snr_db"]))
    table.add_row("segmental SNR, dB", decibels(line["segmental_snr_db"]))
    table.add_row("dB_x(delta), dB", decibels(line["relative_db"]))
    table.add_row("largest change", f"{line['linf']:.6g} of full scale")
    table.add_row("Euclidean length", f"{line['l2']:.6g}")
    table.add_row("loudness of the change, LUFS", decibels(line["loudness_lufs"]))
    table.add_row("log-spectral distance, dB", decibels(line["log_spectral_db"]))
    table.add_row("worst masking excess, dB", excess_in_words(line))
    table.add_row("bins over the threshold", "-" if line["bins_over"] is None else f"{line['bins_over']:.2%}")
    table.add_row("PESQ, MOS", "-" if line["pesq"] is None else f"{line['pesq']:.2f}")
    table.add_row("STOI", "-" if line["stoi"] is None else f"{line['stoi']:.3f}")
    for label, key in (("clean heard as", "clean_transcript"), ("adversarial heard as", "adversarial_transcript"), ("picture", "png")):
        if line[key] is not None:
            table.add_row(label, printable(line[key]))
    for notice in line["notices"]:
        table.add_row("notice", printable(notice))
    return table


def models_table(lines: Iterable[Mapping[str, Any]]) -> Table:
    """A row a model or kind of model."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("model", "from", "installed", "about"):
        table.add_column(heading, overflow="fold")
    for line in lines:
        table.add_row(line["model"], line["source"], "yes" if line["installed"] else "no", line["about"])
    return table


def survival_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A row a channel, over all clips: how often it is heard as wanted, with its interval, and the word error rates."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column("channel", overflow="fold", min_width=16)
    for heading in ("heard as\nwanted", "rate", "95 %", "WER to\ntarget", "WER to\ntext", "clean: WER\nto text", "clean: as\nwanted"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        clean = "-" if row["clean_hits"] is None else f"{row['clean_hits']}/{row['clean_draws']}"
        rates = [percent(row[key]) for key in ("wer_to_target", "wer_to_text", "clean_wer_to_text")]
        interval = f"{100 * row['rate_low']:.0f}..{100 * row['rate_high']:.0f}" if row["draws"] else "-"
        table.add_row(row["channel"], f"{row['hits']}/{row['draws']}", percent(row["rate"]), interval, *rates, clean)
    return table


def bench_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """A row a setting of a run (`evaluation.run.summary.summarise`). What is the same in all rows is said once, above."""
    rows = list(rows)
    settings = {key: list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "attack", "bound", "channel")}
    same = [f"{key} {values[0]}" for key, values in settings.items() if len(values) == 1 and key != "bound"]
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=", ".join(same), title_justify="left")
    varied = [key for key, values in settings.items() if len(values) > 1 or key == "bound"]
    for key in varied:
        table.add_column(key, overflow="fold", min_width=8)
    for heading in ("reached", "95 %", "WER\nbefore", "95 %", "WER\nafter", "95 %", "SNR dB", "dB_x", "forwards"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        rates = [row["rate"], row["rate_low"], row["rate_high"]], row["wer_before"], row["wer_after"]
        cells = [
            f"{row['reached']}/{row['clips']}",
            interval(rates[0]),
            *(cell for rate in rates[1:] for cell in (percent(rate and rate[0]), interval(rate))),
        ]
        loud = decibels(row["snr_db"]), decibels(row["relative_db"])
        table.add_row(*(printable(row[key]) for key in varied), *cells, *loud, f"{row['forwards']:.0f}")
    return table


def interval(rate: Sequence[float] | None) -> str:
    """Both ends, in whole percents."""
    return "-" if rate is None else f"{100 * rate[1]:.0f}..{100 * rate[2]:.0f}"


def checkup_table(lines: Iterable[Mapping[str, Any]]) -> Table:
    """A row an indicator: whether it speaks, and what it saw."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column("indicator", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("saw", overflow="fold", ratio=1)
    for line in lines:
        table.add_row(line["indicator"], Text(line["verdict"], style=VERDICTS[line["verdict"]]), line["saw"] or "-")
    return table


def percent(value: float | None) -> str:
    """Whole percents; a dash where there is nothing to tell."""
    return "-" if value is None else f"{100 * value:.0f} %"


def rooms_table(lines: Iterable[Mapping[str, Any]]) -> Table:
    """A row a room."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("room", "role", "RT60, s", "positions"):
        table.add_column(heading)
    for line in lines:
        table.add_row(printable(line["room"]), line["role"], f"{line['rt60_seconds']:.2f}", str(line["positions"]))
    return table


def excess_in_words(line: Mapping[str, Any]) -> str:
    """How much, when and at which frequency."""
    if line["excess_db"] is None:
        return "-"
    return f"{line['excess_db']:.1f} at {line['excess_seconds']:.3f} s, {line['excess_hz']:.0f} Hz"


def decibels(value: float | None) -> str:
    """One decimal; a dash where nothing changed."""
    return "-" if value is None else f"{value:.1f}"


def printable(name: str) -> str:
    """A file name with what no terminal can show replaced."""
    return name.encode("utf-8", "replace").decode("utf-8")

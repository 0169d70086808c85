"""Progress: of a craft on a terminal, a bar a clip with the smallest bound found so far; of a run, what is done and what is left."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from audioadv.attacks.craft import Progress


@contextmanager
def bars_on_terminal(wanted: bool) -> Iterator[Callable[[Progress], None] | None]:
    """What `craft_each` reports to; None where standard error is no terminal. The bars go when the work is done."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[found]}", markup=False),
    )
    with Bars(*columns, console=console, transient=True, redirect_stdout=False) as bars:
        shown: list[str] = []

        def report(progress: Progress) -> None:
            if progress.names != shown:  # another batch
                for task in bars.task_ids:
                    bars.remove_task(task)
                for name in progress.names:
                    bars.add_task(name, total=progress.steps, found="")
                shown[:] = progress.names
            for task, found in zip(bars.task_ids, progress.found, strict=True):
                bars.update(task, completed=progress.step, found=found or "not yet")

        yield report


class RunProgress:
    """How far a run is: `step` is told of the batch at work, `done` of all results so far."""

    def step(self, progress: Progress) -> None:
        """Where the batch stands."""

    def done(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """A batch is done."""


@final
class RunLog(RunProgress):
    """A line a batch on standard error, for log files."""

    def __init__(self, total: int) -> None:
        self.total = total

    def done(self, lines: Sequence[Mapping[str, Any]]) -> None:
        click.echo(f"{len(lines)} of {self.total} jobs done, {sum(line['reached'] for line in lines)} reached", err=True)


@final
class RunBars(RunProgress):
    """A bar for the run, with the time that is left, and one for the batch at work."""

    def __init__(self, bars: Bars, total: int) -> None:
        self.bars, self.run, self.batch = bars, bars.add_task("run", total=total, found=""), bars.add_task("batch", found="")

    def step(self, progress: Progress) -> None:
        found = sum(spec is not None for spec in progress.found)
        self.bars.update(self.batch, total=progress.steps, completed=progress.step, found=f"{found} of {len(progress.names)} found")

    def done(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self.bars.update(self.run, completed=len(lines), found=f"{sum(line['reached'] for line in lines)} reached")


@contextmanager
def run_progress(wanted: bool, total: int) -> Iterator[RunProgress]:
    """What a run reports to: bars where standard error is a terminal, lines where it is a file, nothing where it is not wanted."""
    console = Console(stderr=True)
    if not wanted:
        yield RunProgress()
    elif not console.is_terminal:
        yield RunLog(total)
    else:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[found]}"),
        )
        with Bars(*columns, console=console, transient=True, redirect_stdout=False) as bars:
            yield RunBars(bars, total)

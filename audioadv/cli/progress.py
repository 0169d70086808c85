"""Progress of a craft on a terminal: a bar a clip, with the smallest bound found so far."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
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

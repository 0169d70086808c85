"""audioadv report: a page about a run, to read and to listen to."""

import json
from pathlib import Path

import click

from audioadv.cli.options import common_options, say
from audioadv.report.run_page import write_report


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--clips", type=click.IntRange(min=0), default=6, show_default=True, metavar="N", help="Clips to listen to, of each setting.")
@click.option("--no-picture", is_flag=True, help="Draw no clip that has no picture yet.")
@common_options
def report(run: Path, clips: int, no_picture: bool, as_json: bool, device: str, seed: int) -> None:
    """Write RUN/report.html, of a run or of what craft wrote.

    What was claimed, how often the goals are reached, how loud that is and what it cost, with the clips to listen to and why
    others failed. The page needs nothing but the files beside it, and can be written while the run goes on.
    """
    page = write_report(run, clips=clips, pictures=not no_picture)
    say(json.dumps({"run": str(run), "report": str(page)}) if as_json else f"Read and listen: {click.format_filename(page)}")

"""The commands. Each file holds one; none holds any maths."""

import errno
import os
import sys
from typing import Any

import click

from audioadv.cli.bench import bench
from audioadv.cli.check import check
from audioadv.cli.compare import compare
from audioadv.cli.craft import craft
from audioadv.cli.models import models
from audioadv.cli.options import FIRST, STOPPED, WRONG_INPUT
from audioadv.cli.report import report
from audioadv.cli.rooms import rooms
from audioadv.cli.survive import survive
from audioadv.cli.transcribe import transcribe
from audioadv.errors import AudioadvError
from audioadv.models.sources import blamed
from audioadv.report.tables import silence

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Commands(click.Group):
    """A group whose commands end with one message, not a traceback, when the input or the options are wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        for name in ("stdout", "stderr"):  # closed by who called, they are None: what goes there is not wanted
            if getattr(sys, name) is None:
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
            stream: Any = getattr(sys, name)
            if hasattr(stream, "reconfigure"):  # what its encoding lacks is written as its number: a name costs no result
                stream.reconfigure(errors="backslashreplace")
        try:
            with blamed():
                return super().invoke(ctx)
        except AudioadvError as error:
            first = ctx.meta.get(FIRST)
            if first is None or first(str(error)):
                click.echo(f"Error: {error}", err=True)
            ctx.exit(WRONG_INPUT)
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:  # what writes a file says so itself
                raise
            silence(sys.stdout)  # or Python's last flush would fail again, and say so
            click.echo(f"Error: standard output cannot be written ({error.strerror}). Make room, or send it somewhere else", err=True)
            ctx.exit(WRONG_INPUT)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(STOPPED)


@click.group("audioadv", cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="audioadv")
def main() -> None:
    """Adversarial robustness of speech recognisers.

    Exit status: 0 done and every goal reached; 1 done, but some goal was not reached; 2 the input or the options are wrong;
    130 stopped by Ctrl-C, with everything finished kept.
    """


for command in (craft, transcribe, compare, survive, rooms, bench, report, check, models):
    main.add_command(command)

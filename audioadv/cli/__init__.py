"""The commands. Each file holds one, of its own name; none holds any maths.

A command's file, and with it torch, is imported when the command runs: Ctrl-C meanwhile ends it like any other, and `--help` is quick.
"""

import sys
from importlib import import_module
from typing import Any, Final

import click

from audioadv.cli.interrupts import abrupt
from audioadv.cli.statuses import FIRST, STOPPED, WRONG_INPUT
from audioadv.cli.streams import plain_warnings, settle_streams
from audioadv.errors import FULL, AudioadvError

COMMANDS: Final = {
    "bench": "Attack every clip of a manifest under every setting.",
    "check": "Look for signs that an evaluation is broken.",
    "compare": "Measure how far two clips are apart.",
    "craft": "Change clips until a recogniser hears something else.",
    "models": "List what can be attacked, and where it comes from.",
    "report": "Write RUN/report.html, of a run or of what craft wrote.",
    "rooms": "Make a set of rooms, for the channel room:OUT.",
    "survive": "Put clips through channels, and count how often they work.",
    "transcribe": "Write what a recogniser hears.",
}
"""What each is for: the first sentence of its own help."""


class Commands(click.Group):
    """A group whose commands end with one message, not a traceback, when the input or the options are wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        with abrupt():
            return getattr(import_module(f"audioadv.cli.{cmd_name}"), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def main(self, *arguments: Any, **options: Any) -> Any:
        settle_streams()
        return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with abrupt():
                from audioadv.models.sources import blamed
            with blamed(), plain_warnings():
                return super().invoke(ctx)
        except AudioadvError as error:
            first = ctx.meta.get(FIRST)
            if first is None or first(str(error)):
                click.echo(f"Error: {error}", err=True)
            ctx.exit(WRONG_INPUT)
        except OSError as error:
            if error.errno not in FULL or error.filename is not None:  # what writes a file says so itself
                raise
            from audioadv.report.tables import silence

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

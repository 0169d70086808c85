"""What every command takes, and how one wrong clip is told without stopping the others."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import reduce, wraps
from pathlib import Path
from typing import IO, Any, TypeVar, cast, final

import click
import torch
from click.core import ParameterSource

from audioadv.cli.statuses import OUTPUT
from audioadv.errors import AudioadvError, OptionError
from audioadv.models.sources import blamed
from audioadv.report.tables import silence
from audioadv.threat.goals import USUAL_ERRORS

Command = TypeVar("Command", bound=Callable[..., Any])

BATCH = 16  # clips, if nobody says
HIGHEST_SEED = 2**32 - 1  # seeds are multiplied and packed into 64 bits


@final
class Number(click.FloatRange):
    """A range that NaN, which is in none but compares as if it were, and the infinities stay out of."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


@final
class Folder(click.Path):
    """A folder to write to, by a name that is not empty: an unset variable would name the current one."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not str(value):
            self.fail("an empty name. Name a folder; . is the current one", param, ctx)
        return super().convert(value, param, ctx)


# Whether a file can be read is found out when its turn comes: click would end the whole call for one that cannot.
clip_arguments = click.argument("clips", nargs=-1, required=True, metavar="CLIP...", type=click.Path(path_type=Path, readable=False))
model_option = click.option(
    "--model", "model_name", default="tiny-mel", show_default=True, metavar="M", help="The recogniser ('audioadv models' lists them)."
)


errors_option = click.option(
    "--errors",
    type=Number(0, min_open=True),
    show_default=f"{USUAL_ERRORS}, or what a result was made for",
    help="Share of the words said that must be misheard, where that is the goal.",
)
SEARCH = (
    click.option("--draws", type=click.IntRange(min=1), default=2, show_default=True, help="Draws of a channel for each step."),
    click.option("--judge", "judge_draws", type=click.IntRange(min=1), default=100, show_default=True, help="Draws that judge a file."),
    click.option(
        "--rate",
        type=Number(0, 1, min_open=True),
        default=0.9,
        show_default=True,
        help="Share of these draws that must be heard as wanted.",
    ),
    click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Most steps for each clip."),
    click.option(
        "--restarts",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Starts for clips that are not reached yet; the best is kept.",
    ),
    click.option("--batch", type=click.IntRange(min=1), default=BATCH, show_default=True, help="Clips attacked at once."),
)


def search_options(command: Command) -> Command:
    """How long and through what an attack on clips searches, and who judges: as `draws`, `judge_draws`, `rate`, `steps`, `restarts` and
    `batch`."""
    return cast(Command, reduce(lambda decorated, option: option(decorated), reversed(SEARCH), cast(Any, command)))


def no_use(names: Iterable[str], why: str) -> None:
    """Raises UsageError for options of these names on this command's line: `why` says what makes them useless."""
    context = click.get_current_context()
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[-1]} says nothing here: {why}. Leave it out")


def common_options(command: Command) -> Command:
    """--json, --device and --seed, handed over as `as_json`, `device` ("cpu" or "cuda") and `seed`.

    With --json, what a user's model prints goes to standard error: standard output is for `say`.
    """
    devices = click.Choice(["auto", "cpu", "cuda"])

    @wraps(command)
    def alone(*arguments: Any, as_json: bool, **options: Any) -> Any:
        click.get_current_context().meta[OUTPUT] = sys.stdout
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            return command(*arguments, as_json=as_json, **options)

    decorated: Any = alone
    for option in (
        click.option(
            "--seed", type=click.IntRange(0, HIGHEST_SEED), default=0, show_default=True, help="Every random draw follows from it."
        ),
        click.option("--device", type=devices, default="auto", show_default=True, callback=find_device, help="auto: CUDA if it is there."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output, and nothing else there."),
    ):
        decorated = option(decorated)
    return cast(Command, decorated)


def find_device(context: click.Context, option: click.Parameter, device: str) -> str:
    """The device that is meant. Raises OptionError for a CUDA that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device here. Use --device cpu, or auto for whatever there is"
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def output() -> IO[str]:
    """Standard output as the command found it."""
    return cast(IO[str], click.get_current_context().meta.get(OUTPUT, sys.stdout))


def say(line: str) -> None:
    """A line on standard output; once nobody reads that any more (`| head`), nothing, and the work goes on."""
    try:
        click.echo(line, file=output())
    except BrokenPipeError:
        silence(output())


@final
class Problems:
    """Counts the clips that could not be used; each is told on standard error, and the others go on."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def told(self, clip: Path | None = None) -> Iterator[None]:
        """Around the work on one clip: an error ends that work and no other; the model's own is told with the clip's name."""
        try:
            with blamed("" if clip is None else str(clip)):
                yield
        except AudioadvError as error:
            click.echo(f"Error: {error}", err=True)
            self.count += 1

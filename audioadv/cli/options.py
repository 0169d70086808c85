"""What every command takes, and how one wrong clip is told without stopping the others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, final

import click
import torch

from audioadv.errors import AudioadvError, OptionError

Command = TypeVar("Command", bound=Callable[..., Any])

DONE, NOT_REACHED, WRONG_INPUT, STOPPED = 0, 1, 2, 130
"""Exit statuses."""

clip_arguments = click.argument("clips", nargs=-1, required=True, metavar="CLIP...", type=click.Path(path_type=Path))
model_option = click.option(
    "--model", "model_name", default="tiny-mel", show_default=True, metavar="M", help="The recogniser ('audioadv models' lists them)."
)


def common_options(command: Command) -> Command:
    """--json, --device and --seed, handed over as `as_json`, `device` ("cpu" or "cuda") and `seed`."""
    devices = click.Choice(["auto", "cpu", "cuda"])
    for option in (
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Every random draw follows from it."),
        click.option("--device", type=devices, default="auto", show_default=True, callback=find_device, help="auto: CUDA if it is there."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line on standard output, and nothing else there."),
    ):
        command = option(command)
    return command


def find_device(context: click.Context, option: click.Parameter, device: str) -> str:
    """The device that is meant. Raises OptionError for a CUDA that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError(
            f"--device cuda: torch {torch.__version__} finds no CUDA device here. Use --device cpu, or auto for whatever there is"
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@final
class Problems:
    """Counts the clips that could not be used; each is told on standard error, and the others go on."""

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def told(self) -> Iterator[None]:
        """Around the work on one clip: an error ends that work and no other."""
        try:
            yield
        except AudioadvError as error:
            click.echo(f"Error: {error}", err=True)
            self.count += 1

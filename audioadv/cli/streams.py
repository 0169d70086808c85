"""Standard output and standard error as every command needs them: what cannot be told costs no work."""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

import click


@final
class Heedless(io.FileIO):
    """A file that goes on in silence where nobody reads (`2>&1 | head -1`) or nothing fits (`2>/dev/full`)."""

    def write(self, content: Any, /) -> int:
        rest = memoryview(content)
        with suppress(OSError):
            while rest:
                rest = rest[super().write(rest) or len(rest) :]
        return len(content)


def settle_streams() -> None:
    """Make both streams writable.

    Closed by who called, they are None: what goes there is not wanted. What an encoding lacks is written as its number: a name costs
    no result. Standard error goes on whatever becomes of it, for whoever writes there: messages, bars, warnings, a user's model.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        stream: Any = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    with suppress(OSError, AttributeError):  # of no file, as a test's
        raw: Any = Heedless(sys.stderr.fileno(), "w", closefd=False)  # no buffer, which a signal's handler could not write to meanwhile
        sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, "backslashreplace", write_through=True)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """What this package warns of as a sentence, without the place in its code; other warnings as they come."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
            if category is UserWarning:
                click.echo(f"Warning: {message}", err=True)
            else:
                usual(message, category, *place, **options)

        warnings.showwarning = show
        yield

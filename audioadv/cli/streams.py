"""Standard output and standard error as every command needs them: what cannot be told costs no work."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, final


@final
class Heedless(io.FileIO):
    """A file that goes on in silence where nobody reads (`2>&1 | head -1`) or nothing fits (`2>/dev/full`)."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError:
            return memoryview(content).nbytes


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
        heedless = io.BufferedWriter(Heedless(sys.stderr.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(heedless, sys.stderr.encoding, "backslashreplace", line_buffering=True)

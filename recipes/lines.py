"""Results as JSON Lines: a run that was stopped goes on from what is there, where a line that the stop cut short is nothing.

What is written at once comes whole or not at all; what is added stands from the first line on.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from audioadv.audio.whole import write_whole

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """The whole lines, none where there is no file. A part of a line is cut off, so that what is added next stands alone."""
    if not path.exists():
        return []
    there = path.read_bytes()
    whole = there[: there.rfind(b"\n") + 1]
    if len(whole) < len(there):
        os.truncate(path, len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def write_lines(path: Path, lines: Iterable[Line]) -> None:
    """These lines, in place of what is there."""
    write_whole(path, text(lines).encode())


def add_lines(path: Path, lines: Iterable[Line]) -> None:
    """These lines, after what is there."""
    with path.open("a") as file:
        file.write(text(lines))


def text(lines: Iterable[Line]) -> str:
    """Each an object on a line of its own."""
    return "".join(json.dumps(line) + "\n" for line in lines)

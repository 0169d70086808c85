"""The results of a run: one JSON object a line, each whole, whoever writes and whenever it is killed.

    lock -> read what others wrote -> cut a torn end -> append in one write -> fsync -> unlock

The file is the only truth about what is done: a line is in it once its files are in place, and a name is in it once. The lock is
the kernel's, on the file itself, and dies with its process.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

from audioadv.errors import InputError, UnwritableOutput, remedy

Line = dict[str, Any]

KINDS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("clip", "clean_transcript", "target", "outcome", "note", "bound"), str),
    **dict.fromkeys(("adversarial_transcript", "text", "model", "attack", "bound_asked", "channel"), str | None),
    **dict.fromkeys(("excess", "snr_db", "relative_db", "gauge"), float | int | None),
    **dict.fromkeys(("steps", "forwards", "backwards", "seed", "restarts"), int),
    **dict.fromkeys(("seconds", "rate_asked", "errors_asked"), float | int),
    **dict.fromkeys(("reached", "minimal"), bool),
}
"""What stands under the keys of a result."""


@final
class Ledger:
    """The results file at `path`, made if need be; `lines` is what has been read of it, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, Line] = {}
        self._end = 0  # of what has been read
        with self._locked():
            pass

    def refresh(self) -> Mapping[str, Line]:
        """All lines there are by now. Raises InputError for a line that is no result."""
        with self._locked():
            return self.lines

    def append(self, lines: Sequence[Line]) -> list[Line]:
        """Add the lines whose `name` is not there yet, all or none, and give them back.

        Raises UnwritableOutput where the disk says no; the file is then as it was.
        """
        with self._locked() as descriptor:
            fresh = [line for line in lines if line["name"] not in self.lines]
            content = b"".join(json.dumps(line).encode() + b"\n" for line in fresh)
            try:
                if os.write(descriptor, content) != len(content):
                    raise OSError(errno.ENOSPC, "no space left")
                os.fsync(descriptor)
            except OSError as error:
                os.ftruncate(descriptor, self._end)
                cure = f"{remedy(error)}, and start the same command again"
                raise UnwritableOutput(f"{self.path}: cannot be written ({error.strerror}). {cure}") from error
            self._end += len(content)
            self.lines |= {line["name"]: line for line in fresh}
            return fresh

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file's descriptor while no other process has it, all its lines read and its end whole."""
        import fcntl  # of POSIX systems

        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise UnwritableOutput(f"{self.path}: cannot be written ({error.strerror}). Name a folder that you may write to") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            there = os.fstat(descriptor).st_size
            content = os.pread(descriptor, there - self._end, self._end)
            whole = content.rfind(b"\n") + 1
            if self._end + whole < there:  # a writer was killed in the middle of a line
                os.ftruncate(descriptor, self._end + whole)
            self.lines |= {line["name"]: line for line in parsed(self.path, content[:whole], len(self.lines))}
            self._end += whole
            yield descriptor
        finally:
            os.close(descriptor)


def read_results(path: Path) -> list[Line]:
    """The whole lines of a results file, which may still be written to. Raises InputError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: no results to be read ({error.strerror}). Name a folder that audioadv bench or audioadv craft wrote"
        ) from error
    return parsed(path, content[: content.rfind(b"\n") + 1])


def parsed(path: Path, content: bytes, before: int = 0) -> list[Line]:
    """The lines of a part of the file that comes after `before` others."""
    lines = []
    for number, text in enumerate(content.split(b"\n")[:-1], start=before + 1):
        try:
            line = json.loads(text)
            if not isinstance(line["name"], str):
                raise TypeError("its name is no text")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: not a result ({error}). Take that line out, and its clip is done again") from error
        lines.append(line)
    return lines


def check_results(path: Path, lines: Iterable[Mapping[str, Any]], needed: Iterable[str]) -> None:
    """Raise InputError for a line that lacks one of the `needed` keys, or has something else under a key than a result has."""
    for number, line in enumerate(lines, start=1):
        lacking = [key for key in needed if key not in line]
        wrong = [f"{key} {line[key]!r}" for key, kind in KINDS.items() if key in line and not isinstance(line[key], kind)]
        if lacking or wrong:
            what = f"nothing of {', '.join(lacking)}" if lacking else f"no result has {', '.join(wrong)}"
            raise InputError(f"{path}, line {number} ({line['name']}): {what}. Take that line out")

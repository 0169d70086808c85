"""Files that come whole or not at all: what is read is never half of what was written, wherever it was killed. And their folders."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from audioadv.errors import UnwritableOutput

STAGE = ".audioadv-"  # what a folder that files are made in is called, before its own part


def make_folder(folder: Path, option: str = "") -> None:
    """The folder, and those above it, if need be; `option`, "--out " say, is what named it. Raises UnwritableOutput, too for one that
    takes no files: that is tried."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=STAGE, dir=folder):
            pass
    except OSError as error:
        what = "takes no files" if os.path.isdir(folder) else "cannot be made"
        raise UnwritableOutput(f"{option}{folder}: {what} ({error.strerror}). Name a folder that you may write to") from error


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], object], *, sole: bool = False) -> None:
    """Write a file by way of one beside it, which takes its place when it is complete; an older one stays whole until then.

    `content` may be what writes to an open file. Where nobody else writes this file, `sole`, what a killed writer left beside it is
    overwritten by the next, and what was written is on the disk before it takes its place. Raises UnwritableOutput where the disk says
    no, or where there is no file but a folder or a device: as root, even /dev/null would have another in its place.
    """
    part = path.with_name(f"{path.name}.part") if sole else path.parent / f".{uuid.uuid4().hex}.part"
    try:
        if path.exists() and not path.is_file():
            raise UnwritableOutput(f"{path}: a folder or a device, not a file. Name a file, for example {path / 'name'}")
        with held(part) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            if sole:
                os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        cure = "Write to an existing folder that has room and permission"
        raise UnwritableOutput(f"{path}: cannot be written ({error.strerror}). {cure}") from error
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def held(part: Path) -> Iterator[BinaryIO]:
    """The file, open to be written and locked; made again where a sweep came between the two."""
    while True:
        with part.open("wb") as file:
            with suppress(OSError, ImportError):  # where there are no locks
                hold(file)
            if part.exists():
                yield file
                return


def hold(file: BinaryIO, *, wait: bool = True) -> None:
    """Lock an open file until it is closed, or its process dies. Raises OSError where it does not `wait` and another has it."""
    import fcntl  # of POSIX systems

    fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(folder: Path) -> None:
    """Take away what killed writers left beside their files, and nothing of those that live and hold it."""
    for part in folder.glob(f".{'[0-9a-f]' * 32}.part"):
        with suppress(OSError, ImportError), part.open("rb") as file:
            hold(file, wait=False)
            part.unlink()

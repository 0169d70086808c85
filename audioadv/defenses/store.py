"""What a memory is kept in: a SQLite database, in a file or in the process alone.

    seen       one row for each input: its key, the answer that it got, its landmarks' count, how often it has come again
    landmarks  (number, start, input) for each landmark of a sound that is remembered by its fingerprint

A file survives a kill at any moment: what one call remembers is written whole or not at all. Several processes may share it,
and in one process several threads and copies of a model.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, Self, final

from audioadv.errors import UnusableMemory, UnwritableOutput

TABLES = """
CREATE TABLE kind (spec TEXT NOT NULL);
CREATE TABLE seen (id INTEGER PRIMARY KEY, key BLOB, answer INTEGER, size INTEGER, again INTEGER DEFAULT 0);
CREATE INDEX seen_hash ON seen (key) WHERE length(key) = 16;
CREATE TABLE landmarks (number INTEGER, start INTEGER, input INTEGER, PRIMARY KEY (number, input, start)) WITHOUT ROWID;
"""
PATIENCE_SECONDS = 30.0  # for another process that is writing


@final
class Store:
    """The database of a memory that knows inputs by `spec`. `path` is its file, made if need be; None keeps it in the process.

    A deep copy is the same store: what one model has seen, its copy has. Raises UnwritableOutput where the file cannot be written,
    UnusableMemory where it is none of a memory of this kind, or is closed.
    """

    def __init__(self, spec: str, path: str | Path | None = None) -> None:
        self.name = "memory" if path is None else str(path)
        self.read: tuple[dict[Any, Any], int] = {}, 0  # what a likeness has read already, and up to which row
        self.lock, self.closed = RLock(), False
        place = ":memory:" if path is None else path
        try:
            self.connection = sqlite3.connect(place, timeout=PATIENCE_SECONDS, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self.unwritable(error) from error
        with self.writing():
            if not self.database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                for statement in TABLES.strip().split(";\n"):
                    self.database.execute(statement)
                self.database.execute("INSERT INTO kind VALUES (?)", (spec,))
            try:
                kind = self.database.execute("SELECT spec FROM kind").fetchone()
                self.database.execute("SELECT id, key, answer, size, again, number, start, input FROM seen, landmarks LIMIT 0")
            except sqlite3.OperationalError as error:
                raise UnusableMemory(f"{self.name}: a database, but no memory's ({error}). Name another file") from error
            if kind is None:
                raise UnusableMemory(f"{self.name}: a database, but no memory's (it says of no kind). Name another file")
            if (found := kind[0]) != spec:
                raise UnusableMemory(
                    f"{self.name}: knows inputs by {found}, but this memory knows them by {spec}. Name another file, or use {found}"
                )

    def __len__(self) -> int:
        """How many inputs are remembered."""
        with self.lock:
            return int(self.database.execute("SELECT count(*) FROM seen").fetchone()[0])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def database(self) -> sqlite3.Connection:
        """The open database. Raises UnusableMemory once the store is closed."""
        if self.closed:
            raise UnusableMemory(f"{self.name}: the memory is closed. Make the model with its memory anew")
        return self.connection

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Everything within happens, or nothing does; nobody else writes meanwhile, nor another thread."""
        with self.lock:
            database = self.database
            try:
                database.execute("BEGIN IMMEDIATE")
                yield
                database.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise self.unwritable(error) from error
            except sqlite3.ProgrammingError:  # a fault in the code that asks says nothing of the file
                raise
            except sqlite3.DatabaseError as error:
                raise UnusableMemory(f"{self.name}: not a memory's file ({error}). Name another file") from error
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                    self.read = {}, 0

    def unwritable(self, error: Exception) -> UnwritableOutput:
        """What to say where the disk says no: a memory that forgets in silence would be none."""
        cure = "Name a file in an existing folder that has room and permission"
        return UnwritableOutput(f"{self.name}: the memory cannot be written ({error}). {cure}")

    def add(self, key: bytes, answer: int | None, size: int = 0) -> int:
        """Remember an input and its answer; its number."""
        number = self.database.execute("INSERT INTO seen (key, answer, size) VALUES (?, ?, ?)", (key, answer, size)).lastrowid
        assert number is not None
        return number

    def met_again(self, number: int) -> tuple[int | None, int]:
        """Count a repeat: the answer that the input got at first, and how often it has come again, this time included."""
        self.database.execute("UPDATE seen SET again = again + 1 WHERE id = ?", (number,))
        answer, again = self.database.execute("SELECT answer, again FROM seen WHERE id = ?", (number,)).fetchone()
        return answer, int(again)

    def close(self) -> None:
        """Let go of the file."""
        with self.lock:
            self.connection.close()
            self.closed = True

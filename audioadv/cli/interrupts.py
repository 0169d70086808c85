"""Ctrl-C between two clips, never within the saving of one, and once without losing what a long search has found."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from audioadv.cli.statuses import STOPPED


@contextmanager
def abrupt() -> Iterator[None]:
    """Ctrl-C inside ends the process at once: for imports, where there is nothing to lose, and some of which swallow the interrupt."""

    def end(number: int, frame: FrameType | None) -> None:
        click.echo("Stopped.", err=True)
        os._exit(STOPPED)

    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:  # it may be ignored
        yield
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed inside: the first is only noted, the second is raised as KeyboardInterrupt."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield asked.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        click.echo("Stopping: what is found so far is kept. Once more drops the rest of this batch", err=True)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def unbroken() -> Iterator[None]:
    """Let what is inside end first; a Ctrl-C meanwhile comes after it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    for number in waiting:
        signal.raise_signal(number)

"""Ctrl-C between two clips, never within the saving of one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def unbroken() -> Iterator[None]:
    """Let what is inside end first; a Ctrl-C meanwhile is raised as KeyboardInterrupt after it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
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
    if waiting:
        raise KeyboardInterrupt

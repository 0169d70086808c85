"""Work that Ctrl-C must not fall into: libsndfile writes to memory through Python callbacks, which swallow a KeyboardInterrupt."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_own_thread(work: Callable[[], T]) -> T:
    """What the work gives, or raises, in a thread of its own: only the main thread hears signals, and there they end the wait for it."""
    with ThreadPoolExecutor(1) as worker:
        return worker.submit(work).result()

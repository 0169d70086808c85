"""One work queue for any number of processes, in torch's own store.

    unit free --take--> held by me --settle--> done
                          `-- I fall silent for `lease_seconds`, or another comes in my place --> free again

Under torchrun the store is that of its agent, which outlives every worker; alone, it is a dictionary in this process. The queue
only keeps two workers from doing the same: what is done is said by the results (`evaluation/run/ledger.py`), so that a claim that
comes to two costs time and changes nothing.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
from torch import distributed

stores: Any = distributed  # whose names are exported, but not to type checkers

LEASE_SECONDS = 60.0
BEATS = 6  # signs of life in a lease
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
DONE = "done"


@final
class Claims:
    """The queue as one worker sees it. `rank` counts the workers of this start from 0, `world` is how many there are.

    `launched`: by a launcher, to which any other status than 0 says that all workers are to be started again.
    """

    def __init__(self, store: Any, rank: int = 0, world: int = 1, *, launched: bool = False, lease_seconds: float = LEASE_SECONDS) -> None:
        self.store, self.rank, self.world, self.launched, self.lease_seconds = store, rank, world, launched, lease_seconds
        self.me = f"{rank}.{uuid.uuid4().hex}"
        store.set(f"worker/{rank}", self.me)  # a launcher starts the same rank again only when it has died
        self._seen: dict[str, tuple[bytes | None, float]] = {}  # of each other worker: its last sign of life, and when it was new

    def units(self, names: Sequence[str]) -> Iterator[str]:
        """The units that fall to this worker, until all are done; a unit is done when the next one is asked for.

        Waits for what others hold, and takes it over from those that fall silent.
        """
        left = list(names)
        while left:
            idle = True
            for name in left:
                if self._take(name):
                    idle = False
                    yield name
                    self.store.set(f"unit/{name}", DONE)
            left = [name for name in left if self._holder(name) != DONE]
            if left and idle:
                time.sleep(min(1.0, self.lease_seconds / BEATS))

    def first(self, what: str) -> bool:
        """Whether no worker has asked this before, at no start: for what is to be said once."""
        try:
            return bool(self.store.add(f"first/{what}", 1) == 1)
        except distributed.DistError:  # the store is gone, and what is said is that
            return True

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life meanwhile, and let others leave first: the store may be this process's own."""
        if self.world == 1:
            yield
            return
        over, store = threading.Event(), self.store.clone()

        def beat() -> None:
            count = 0
            with suppress(RuntimeError):  # of a store that is gone, of which the main thread hears too
                while not over.is_set():
                    store.set(f"beat/{self.me}", str(count := count + 1))
                    over.wait(self.lease_seconds / BEATS)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
            self.store.add("left", 1)
            until = time.monotonic() + 5
            while self.rank == 0 and self.store.add("left", 0) < self.world and time.monotonic() < until:
                time.sleep(0.05)
        finally:
            over.set()
            thread.join()

    def _take(self, name: str) -> bool:
        holder = self._holder(name)
        if holder == DONE or (holder and not self._silent(holder)):
            return False
        return bool(self.store.compare_set(f"unit/{name}", holder, self.me).decode() == self.me)

    def _holder(self, name: str) -> str:
        """Who holds a unit, DONE, or nobody: ""."""
        return str(self.store.compare_set(f"unit/{name}", "", "").decode())

    def _silent(self, holder: str) -> bool:
        """Whether a worker was replaced, or has given no sign of life for a lease by this worker's clock."""
        if self.store.compare_set(f"worker/{holder.partition('.')[0]}", "", "").decode() != holder:
            return True
        sign, now = self.store.compare_set(f"beat/{holder}", "", ""), time.monotonic()
        last, since = self._seen.get(holder, (None, now))
        if sign != last:
            last, since = sign, now
        self._seen[holder] = last, since
        return now - since > self.lease_seconds


def workers(run: str) -> Claims:
    """This process among its fellows at the run of that name, if a launcher (torchrun, or what sets the same variables) started it."""
    if not all(os.environ.get(name) for name in LAUNCHED):
        return Claims(stores.HashStore())
    store, rank, world = next(stores.rendezvous("env://"))
    return Claims(stores.PrefixStore(f"audioadv/{run}", store), rank, world, launched=True)


def own_device(device: str) -> str:
    """Of several, the one that the launcher meant for this process."""
    return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}" if device == "cuda" else device

"""When an input has been seen before: byte for byte, near enough in pixels, or by the fingerprint of its sound.

spec                      kind                  the same is
exact                     Exact()               the same numbers, to the last bit
near:l2:2                 Near(L2(2))           one that lies within a bound of one seen: no change within it escapes
fingerprint:0.12@16000    Heard(16000, 0.12)    a sound with this share of its landmarks in common (`audio/landmarks.py`)

A likeness finds an input in a store, and adds it there.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.landmarks import BAND_HZ, landmarks, window_for
from audioadv.audio.spectrum import OVERLAP
from audioadv.defenses.store import Store
from audioadv.errors import OptionError, UnusableBatch, UnusableMemory
from audioadv.options import is_number
from audioadv.threat.bounds import Bound, as_bound

AT_ONCE = 500  # numbers in one question to the database
FEWEST, ENOUGH = 12, 40  # landmarks in common, at one delay: fewer is chance in any clip, as many is none even in a long one


class Likeness(Protocol):
    """When two inputs count as the same. One without padding is [*]."""

    def find(self, store: Store, example: Tensor) -> int | None:
        """The number of the input that this one is a repeat of, the likest; None for a new one."""
        ...

    def add(self, store: Store, example: Tensor, answer: int | None) -> None:
        """Remember it, with the answer that it got."""
        ...

    def __str__(self) -> str: ...


def as_bytes(example: Tensor) -> bytes:
    """The numbers of an input, as they lie in memory."""
    return example.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()  # NumPy knows no bfloat16


@final
@dataclass(frozen=True)
class Exact:
    """The same numbers. What is kept is a hash: nobody reads inputs out of the memory."""

    def find(self, store: Store, example: Tensor) -> int | None:
        row = store.database.execute("SELECT id FROM seen WHERE key = ? AND length(key) = 16", (self.key(example),)).fetchone()
        return None if row is None else int(row[0])

    def add(self, store: Store, example: Tensor, answer: int | None) -> None:
        store.add(self.key(example), answer)

    @staticmethod
    def key(example: Tensor) -> bytes:
        """BLAKE2b of shape and numbers."""
        return hashlib.blake2b(repr((tuple(example.shape), example.dtype)).encode() + as_bytes(example), digest_size=16).digest()

    def __str__(self) -> str:
        return "exact"


@final
@dataclass(frozen=True)
class Near:
    """Within `bound` of one that was seen, whatever type the numbers are of. Inputs of other shapes are others. What is kept are the
    inputs themselves.

    Raises MalformedSpec for what is no bound nor a spec of one, OptionError for a bound without a radius, or one whose changes cannot be
    read from inputs, UnusableBatch for an input that is not all finite: it is near nothing.
    """

    bound: Bound

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", as_bound(self.bound))
        if self.bound.minimal or not self.bound.around(torch.full((1, 1, 8, 8), 0.5), box=None).added:
            raise OptionError(f"near:{self.bound}: how near is near? Give a radius to a bound on the change itself, for example l2:2")

    def find(self, store: Store, example: Tensor) -> int | None:
        if not finite(example):
            raise UnusableBatch("an input is not all finite numbers, and near nothing. Leave it out, or mend it: inputs.nan_to_num()")
        numbers, seen = remembered(store).get(tuple(example.shape), (list[int](), None))
        if seen is None:
            return None
        wide = torch.promote_types(torch.promote_types(seen.dtype, example.dtype), torch.float32)  # distances of 16 bits have more
        others = seen[: len(numbers)].to(wide)
        region = self.bound.around(others, box=None)
        gauge = region.gauge(example.detach().cpu().to(wide).expand_as(others))
        nearest = int(torch.where(region.holds(gauge), gauge, torch.inf).argmin())
        return numbers[nearest] if bool(region.holds(gauge)[nearest]) else None

    def add(self, store: Store, example: Tensor, answer: int | None) -> None:
        store.add(form(example) + as_bytes(example), answer)

    def __str__(self) -> str:
        return f"near:{self.bound}"


def finite(example: Tensor) -> bool:
    """Whether all its numbers are finite."""
    return bool(example.isfinite().all())


def form(example: Tensor) -> bytes:
    """What stands before an input's numbers: their type and shape."""
    return f"{str(example.dtype).removeprefix('torch.')} {' '.join(map(str, example.shape))}\n".encode()


def read(key: bytes) -> Tensor:
    """The input that `form` and `as_bytes` wrote.

    >>> read(form(torch.ones(2)) + as_bytes(torch.ones(2)))
    tensor([1., 1.])
    """
    head, _, content = key.partition(b"\n")
    dtype, *sizes = head.decode().split()
    return torch.frombuffer(bytearray(content), dtype=getattr(torch, dtype)).reshape(tuple(map(int, sizes)))


@torch.inference_mode(False)  # what is kept is written to again, in whatever mode that may be
def remembered(store: Store) -> dict[tuple[int, ...], tuple[list[int], Tensor]]:
    """Every input that the store holds, by its shape, in tensors with room to grow, of a type that holds all their numbers; what was
    read before is not read again.

    One that is not finite, as earlier versions let in, is passed over: it would make all others unusable. Raises UnusableMemory for a row
    that is no input.
    """
    held, upto = store.read
    for number, key in store.database.execute("SELECT id, key FROM seen WHERE id > ?", (upto,)):
        try:
            example = read(key)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise UnusableMemory(
                f"{store.name}: row {number} holds no input ({error}): the file is damaged. Name another, or let sqlite3 take the row out: "
                f"DELETE FROM seen WHERE id = {number}"
            ) from error
        shape, upto = tuple(example.shape), number
        if not finite(example):
            continue
        numbers, seen = held.get(shape, (list[int](), example.new_empty(1, *shape)))
        seen = seen.to(torch.promote_types(seen.dtype, example.dtype))
        seen = torch.cat([seen, torch.empty_like(seen)]) if len(numbers) == len(seen) else seen
        held[shape] = numbers, seen
        seen[len(numbers)] = example
        numbers.append(number)
    store.read = held, upto
    return held


@final
@dataclass(frozen=True)
class Heard:
    """A sound that has this `share` of its landmarks in common with one seen (a long one: so many), all at one delay.
    What is kept are landmarks.

    `sample_rate` in Hz. Noise, level, silence around it and codecs leave a sound the same; a twentieth faster is another
    (`recipes/fingerprint_rates.py` measures how often either goes wrong). Raises OptionError for a share outside 0..1, or
    a rate at which there are no landmarks.
    """

    sample_rate: int
    share: float = 0.12

    def __post_init__(self) -> None:
        if not is_number(self.share) or not 0 < self.share <= 1:
            raise OptionError(f"fingerprint:{self.share}: the share of landmarks in common lies above 0 and goes up to 1")
        if not is_number(self.sample_rate) or self.sample_rate < 2 * BAND_HZ[0]:
            raise OptionError(
                f"fingerprint at {self.sample_rate!r} Hz: landmarks lie at {BAND_HZ[0]:g} Hz and above. Give the sounds' own, say 16000"
            )

    def find(self, store: Store, example: Tensor) -> int | None:
        same = Exact().find(store, example)
        if same is not None:
            return same
        agreed: Counter[int] = Counter()
        for late in (0, window_for(self.sample_rate) // OVERLAP // 2):  # frames fall elsewhere in a sound that starts later
            own = self.marks(F.pad(example, (late, 0)))
            for number, votes in self.votes(store, own).items():
                (size,) = store.database.execute("SELECT size FROM seen WHERE id = ?", (number,)).fetchone()
                if votes >= max(FEWEST, min(ENOUGH, self.share * min(len(own), size))):
                    agreed[number] = max(agreed[number], votes)
        return agreed.most_common(1)[0][0] if agreed else None

    def votes(self, store: Store, own: list[tuple[int, int]]) -> dict[int, int]:
        """For each input with enough landmarks in common: how many of them agree on a delay."""
        starts: dict[int, list[int]] = {}
        for number, start in own:
            starts.setdefault(number, []).append(start)
        delays: dict[int, Counter[int]] = {}
        numbers = iter(starts)
        while some := list(islice(numbers, AT_ONCE)):
            query = f"SELECT number, start, input FROM landmarks WHERE number IN ({','.join('?' * len(some))})"
            for number, start, seen in store.database.execute(query, some):
                delays.setdefault(seen, Counter()).update(start - mine for mine in starts[number])
        best = {seen: max(by.values()) for seen, by in delays.items()}
        return {seen: votes for seen, votes in best.items() if votes >= FEWEST}

    def add(self, store: Store, example: Tensor, answer: int | None) -> None:
        own = self.marks(example)
        number = store.add(Exact.key(example), answer, len(own))
        store.database.executemany("INSERT INTO landmarks VALUES (?, ?, ?)", [(*mark, number) for mark in own])

    def marks(self, example: Tensor) -> list[tuple[int, int]]:
        """The landmarks of one sound. Raises UnusableBatch for what is no sound."""
        if example.ndim != 1:
            raise UnusableBatch(f"an input of shape {tuple(example.shape)}: a fingerprint is a sound's, [time]. For images use near:l2:2")
        sound = example.detach().cpu().to(torch.promote_types(example.dtype, torch.float32))  # spectra know no 16 bits
        return sorted({(number, start) for number, start in landmarks(sound, self.sample_rate).tolist()})

    def __str__(self) -> str:
        return f"fingerprint:{self.share:g}@{self.sample_rate}"

"""Rooms to craft in, rooms to check in, rooms to judge in: a set of impulse responses that is split by room.

    FOLDER/rooms.json             what each room is, and how the set was made
    FOLDER/craft/NAME.flac        one file a room, one channel a position of source and microphone
    FOLDER/check/NAME.flac        ... rooms that no slope has seen, to choose between examples
    FOLDER/judge/NAME.flac        ... rooms that nothing at all has seen, for the figure at the end

Positions in one room share their walls, and with them the decay: an example that was made for one of them has half met the
others. So a room has one role, and all its positions share it.
"""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor

from audioadv.audio.files import for_libsndfile
from audioadv.audio.own_thread import in_own_thread
from audioadv.errors import ONLY_IN_A_CHECKOUT, UnusableResponse, WrongRole

DEFAULT = Path(__file__).parents[2] / "samples/rooms"


@final
class Role(StrEnum):
    """What draws are for: slopes, the choice between examples, the figure at the end. Nothing drawn for one serves another."""

    CRAFT = "craft"
    CHECK = "check"
    JUDGE = "judge"


@final
@dataclass(frozen=True, eq=False)
class Space:
    """One room: its responses from one or more positions. Shapes: responses [positions, taps], direct sound at tap 0.

    `rt60_seconds` is measured (T20, the mean over positions); `aimed_seconds` what a simulated room was made for.
    """

    name: str
    role: Role
    responses: Tensor
    rt60_seconds: float
    aimed_seconds: float | None = None

    @cached_property
    def taps(self) -> int:
        """How long its longest response is, in samples, without the zeros at its end."""
        return int(self.responses.any(0).nonzero()[-1]) + 1


@final
@dataclass(frozen=True, eq=False)
class RoomSet:
    """Rooms at one sample rate, each with its role. `source` is the folder that they are all of, if any."""

    spaces: tuple[Space, ...]
    sample_rate: int
    source: str = ""

    @property
    def roles(self) -> set[Role]:
        """The roles that these rooms can play."""
        return {space.role for space in self.spaces}

    def only(self, role: Role) -> "RoomSet":
        """The rooms of one role. Raises WrongRole where there is none."""
        spaces = tuple(space for space in self.spaces if space.role is role)
        if not spaces:
            there = ", ".join(sorted(self.roles)) or "nothing"
            raise WrongRole(
                f"rooms {self.source or [space.name for space in self.spaces]}: they are for {there}, not for {role}. "
                "A figure from rooms that the example was made in says nothing: take a set split by room (audioadv rooms OUT)"
            )
        return RoomSet(spaces, self.sample_rate, self.source)

    def reverberating(self, low: float, high: float) -> "RoomSet":
        """The rooms whose RT60 lies in [low, high) seconds."""
        spaces = tuple(space for space in self.spaces if low <= space.rt60_seconds < high)
        return RoomSet(spaces, self.sample_rate, self.source if len(spaces) == len(self.spaces) else "")


def aligned(response: Tensor, name: str) -> Tensor:
    """From its direct sound on, and with an energy of 1. Shapes: [taps] -> [fewer taps].

    The direct sound is taken to be the first peak that is at least half as high as the highest: two walls' sound at once may be
    louder. Raises UnusableResponse for one that is silent or not finite.
    """
    size = unit_energy(response, name).abs()
    start = int((size >= size.max() / 2).nonzero()[0])
    falls = size[start + 1 :] <= size[start:-1]
    return unit_energy(response[start + (int(falls.nonzero()[0]) if bool(falls.any()) else len(falls)) :], name)


def unit_energy(response: Tensor, name: str) -> Tensor:
    """With an energy of 1. Shapes: [taps] -> [taps]. Raises UnusableResponse for one that is silent or not finite."""
    if bad := int((~response.isfinite()).sum()):
        raise UnusableResponse(f"{name}: {bad} of {len(response)} taps are NaN or infinite. Measure or export it again")
    if not bool(response.any()):
        raise UnusableResponse(f"{name}: a silent response: nothing would be heard through it. Measure or export it again")
    _, exponent = math.frexp(float(response.abs().max()))  # squares of 1e-30 and of 1e30 are no numbers in float32
    response = (response.double() * 2.0**-exponent).to(response)
    return response / response.norm()


def read_rooms(folder: str | Path = DEFAULT) -> RoomSet:
    """A set as `write_rooms` leaves it, read once while it is the same.

    Raises UnusableResponse for a folder without one, or a set that does not hold together.
    """
    index = Path(folder) / "rooms.json"
    try:
        place, written = index.resolve(), index.stat().st_mtime_ns
    except (OSError, RuntimeError, ValueError):  # which reading it will say more of
        place, written = index, 0
    return read_once(Path(folder), place, written)


@lru_cache(maxsize=8)
def read_once(folder: Path, index_file: Path, written: int) -> RoomSet:
    """As `read_rooms`, of an index that lies there and was `written` then: in another place, or written again, it is read again."""
    try:
        index: dict[str, Any] = json.loads((folder / "rooms.json").read_text(encoding="utf-8"))
        rate = int(index["sample_rate"])
        entries = [(e["name"], Role(e["role"]), float(e["rt60_seconds"]), e.get("rt60_aimed_seconds")) for e in index["rooms"]]
    except FileNotFoundError as error:
        if folder == DEFAULT:
            cure = f"{ONLY_IN_A_CHECKOUT}. Or make a set of your own, audioadv rooms OUT, and name it: room:OUT"
            raise UnusableResponse(f"channel 'room': its rooms are not here, at {folder}. {cure}") from error
        raise UnusableResponse(f"{folder}: no rooms.json in it. Make a set of rooms first: audioadv rooms {folder}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, NotADirectoryError):
            raise UnusableResponse(f"rooms {folder}: a file. Name the folder of a set, room:FOLDER, as audioadv rooms makes it") from error
        raise UnusableResponse(f"{folder / 'rooms.json'}: not a set of rooms ({error}). Make it again: audioadv rooms {folder}") from error
    spaces = []
    for name, role, *times in entries:
        path = folder / role / f"{name}.flac"
        responses, found = read_responses(path)
        if found != rate:
            raise UnusableResponse(f"{path}: {found} Hz, but the set is at {rate} Hz. Make the set again from one rate: audioadv rooms")
        rows = [unit_energy(response, str(path)) for response in responses]
        spaces.append(Space(name, role, torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), *times))
    check_apart(spaces, str(folder))
    if not spaces:
        raise UnusableResponse(f"{folder}: a set without a room. Make it again: audioadv rooms {folder}")
    return RoomSet(tuple(spaces), rate, str(folder))


def check_apart(spaces: Sequence[Space], source: str) -> None:
    """Raises UnusableResponse where one room, or one response, is in two roles: an example would be judged by what it has met."""
    seen = dict[str | bytes, Space]()
    for space in spaces:
        marks = [row[: int(row.nonzero()[-1]) + 1].numpy().tobytes() for row in space.responses]
        for mark in (space.name, *marks):
            if (other := seen.setdefault(mark, space)).role is not space.role:
                what = f"room {space.name}" if mark == space.name else f"a response of {other.name}, again in {space.name}"
                raise UnusableResponse(
                    f"{source}: {what}, would be for {other.role} and for {space.role}. Leave one out, or put the files of one room into "
                    "one folder: whole rooms are dealt out"
                )


def read_responses(path: Path) -> tuple[Tensor, int]:
    """All channels of a file of responses, and its rate in Hz. Shapes: -> [channels, taps]. Raises UnusableResponse."""
    try:
        with path.open("rb") as file:  # not by its name, which may be no text
            samples, rate = soundfile.read(for_libsndfile(file), dtype="float32", always_2d=True, closefd=False)
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError) as error:  # a damaged header may state any number of samples
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", str(error) or "no memory for what its header states")
        raise UnusableResponse(f"{path}: a response that cannot be read ({str(reason).rstrip('.')}). Give WAV or FLAC files") from error
    if not len(samples):
        raise UnusableResponse(f"{path}: a response of zero taps. Measure or export it again")
    return torch.from_numpy(samples.T.copy()), int(rate)


def write_rooms(folder: Path, rooms: RoomSet, made: dict[str, Any]) -> None:
    """Write a set: 16-bit FLAC, peak 0.999, and rooms.json with how it was `made`. The same set gives the same bytes.

    Raises OSError where the disk says no: libsndfile itself would leave out what does not fit, and say nothing.
    """
    for space in rooms.spaces:
        (folder / space.role).mkdir(parents=True, exist_ok=True)
        samples = space.responses / space.responses.abs().amax(1, keepdim=True) * 0.999
        grid = np.round(samples.T.numpy() * 32768).astype(np.int16)
        (folder / space.role / f"{space.name}.flac").write_bytes(in_own_thread(partial(as_flac, grid, rooms.sample_rate)))
    entries = [
        {"name": space.name, "role": str(space.role), "rt60_seconds": round(space.rt60_seconds, 3)}
        | ({} if space.aimed_seconds is None else {"rt60_aimed_seconds": round(space.aimed_seconds, 3)})
        | {"positions": len(space.responses)}
        for space in rooms.spaces
    ]
    lines = ",\n".join("    " + json.dumps(entry) for entry in entries)
    head = json.dumps({"sample_rate": rooms.sample_rate, **made})[1:-1]
    (folder / "rooms.json").write_text(f'{{\n  {head},\n  "rooms": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def as_flac(grid: npt.NDArray[np.int16], sample_rate: int) -> bytes:
    """A FLAC file's bytes. Shapes: grid [taps, channels]. Units: Hz."""
    content = io.BytesIO()
    soundfile.write(content, grid, sample_rate, format="FLAC", subtype="PCM_16")
    return content.getvalue()

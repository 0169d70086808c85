"""Simulated rooms: impulse responses by the image-source method (pyroomacoustics)."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import soxr
import torch
from torch import Tensor

from audioadv.audio.roomsets import Role, RoomSet, Space, aligned, check_apart
from audioadv.errors import UnusableResponse

Metres = npt.NDArray[np.float64]
MOST_POSITIONS = 8  # channels of a FLAC file


def simulate_room(generator: torch.Generator, sample_rate: int, rt60_seconds: float) -> Tensor:
    """`simulate_positions` for one position. Shapes: -> [taps]."""
    return simulate_positions(generator, sample_rate, rt60_seconds, 1)[0]


def simulate_positions(generator: torch.Generator, sample_rate: int, rt60_seconds: float, positions: int) -> Tensor:
    """Impulse responses of one random shoebox room, from the direct sound on.

    Walls of 3 to 8 m, a ceiling at 2.4 to 3.5 m, source and microphone at least half a metre from the walls and 0.5 to 3 m
    apart. Absorption is chosen by Eyring's formula for `rt60_seconds`, the time in which the sound falls by 60 dB. Images
    up to the 17th order are exact; the tail after them is noise that decays at the same rate.

    Shapes: -> [positions, taps], taps = rt60_seconds * sample_rate. Units: the direct sound's peak is at tap 0, the energy is 1.
    Source: Allen and Berkley 1979, "Image method for efficiently simulating small-room acoustics".
    """
    size: Metres | None = None
    rows: list[Tensor] = []
    while len(rows) < positions:
        walls = np.array([uniform(generator, 3, 8), uniform(generator, 3, 8), uniform(generator, 2.4, 3.5)]) if size is None else size
        source, microphone = (np.array([uniform(generator, 0.5, side - 0.5) for side in walls]) for _ in range(2))
        if 0.5 <= float(np.linalg.norm(source - microphone)) <= 3.0:
            size = walls
            rows.append(impulse(generator, sample_rate, rt60_seconds, walls, source, microphone))
    return torch.stack(rows)


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between the two."""
    return low + (high - low) * torch.rand((), generator=generator).item()


def impulse(generator: torch.Generator, sample_rate: int, rt60_seconds: float, size: Metres, source: Metres, microphone: Metres) -> Tensor:
    """The response of a room of this size between two places in it. Shapes: -> [taps]. Units: metres, seconds, Hz."""
    import pyroomacoustics as pra

    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    absorption = 1 - math.exp(-24 * math.log(10) / 343 * float(np.prod(size)) / (surface * rt60_seconds))
    room = pra.ShoeBox(size, fs=sample_rate, materials=pra.Material(min(absorption, 0.99)), max_order=17)
    room.add_source(source)
    room.add_microphone(microphone)
    room.compute_rir()
    response = torch.from_numpy(np.asarray(room.rir[0][0])).double()
    # Where the direct sound comes, and no later: two walls' sound at once may be louder.
    direct = round(float(np.linalg.norm(source - microphone)) / room.c * sample_rate) + pra.constants.get("frac_delay_length") // 2
    response = response[direct - 1 + int(response[direct - 1 : direct + 2].abs().argmax()) :]

    taps = round(rt60_seconds * sample_rate)
    exact = min(len(response), taps, round(17 * float(size.min()) / 343 * sample_rate))  # all images have come until then
    decay = torch.exp(-math.log(1000) / taps * torch.arange(taps))
    tail = torch.randn(taps, generator=generator, dtype=torch.float64) * decay
    last = slice(max(0, exact - sample_rate // 50), exact)  # the tail goes on at the level of the last 20 ms
    tail *= (response[last].pow(2).mean() / tail[last].pow(2).mean()).sqrt()
    tail[:exact] = response[:exact]
    whole: Tensor = (tail / tail.norm()).float()
    return whole


def simulate_rooms(roles: dict[Role, int], positions: int, rt60_seconds: tuple[float, float], sample_rate: int, seed: int) -> RoomSet:
    """So many rooms for each role, each with so many positions.

    The RT60s that a role's rooms are made for are spread over the range: one is drawn from each of as many equal parts of it as there
    are rooms, so that all roles meet the same rooms on the whole. What a room has in the end is measured; in the bundled set, it is 0.57
    to 1.3 times that. Each room is drawn from `seed` and its own number alone.
    """
    low, high = rt60_seconds
    spaces = []
    for role, count in roles.items():
        for number in range(count):
            generator = torch.Generator().manual_seed(1_000_003 * seed + 10_007 * list(Role).index(role) + number)
            aimed = low + (high - low) * (number + uniform(generator, 0, 1)) / count
            responses = simulate_positions(generator, sample_rate, aimed, positions)
            spaces.append(Space(f"{role}-{number:03}", role, responses, mean_decay(responses, sample_rate), aimed))
    return RoomSet(tuple(spaces), sample_rate)


def at_one_rate(positions: Sequence[tuple[Tensor, int]], sample_rate: int) -> Tensor:
    """Responses of one room, each with its own rate, at this one (soxr, very high quality), filled with zeros up to the longest.

    Shapes: [taps] each -> [positions, taps]. Units: Hz.
    """
    rows = [
        row if own == sample_rate else torch.from_numpy(soxr.resample(row.numpy(), own, sample_rate, quality="VHQ"))
        for row, own in positions
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def measured_rooms(rooms: dict[str, Tensor], shares: dict[Role, int], sample_rate: int, seed: int) -> RoomSet:
    """Measured responses as a set: whole rooms are dealt out to the roles in proportion to the shares, at least one to each.

    Shapes: rooms NAME -> [positions, taps]. Raises UnusableResponse for fewer rooms than roles,
    and for more positions in a room than its file holds.
    """
    if len(rooms) < len(shares):
        raise UnusableResponse(
            f"{len(rooms)} measured rooms: at least {len(shares)} are needed, one for each of {', '.join(shares)}. "
            "A room is a file, or a folder of files for its positions"
        )
    names = sorted(rooms)
    if many := [name for name in names if len(rooms[name]) > MOST_POSITIONS]:
        raise UnusableResponse(
            f"room {many[0]}: {len(rooms[many[0]])} positions, but a set holds {MOST_POSITIONS} of a room at most. Leave some out"
        )
    shuffled = torch.randperm(len(names), generator=torch.Generator().manual_seed(int(seed))).tolist()
    counts = dict.fromkeys(shares, 1)
    while sum(counts.values()) < len(names):  # the next room goes where most is lacking
        counts[max(shares, key=lambda role: shares[role] / (counts[role] + 0.5))] += 1
    roles = [role for role, count in counts.items() for _ in range(count)]
    spaces = []
    for role, number in sorted(zip(roles, shuffled, strict=True), key=lambda pair: (list(Role).index(pair[0]), pair[1])):
        rows = [aligned(response, names[number]) for response in rooms[names[number]]]
        responses = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        spaces.append(Space(names[number], role, responses, mean_decay(responses, sample_rate)))
    check_apart(spaces, "measured rooms")
    return RoomSet(tuple(spaces), sample_rate)


def mean_decay(responses: Tensor, sample_rate: int) -> float:
    """RT60 of a room, the mean over its positions. Shapes: responses [positions, taps]. Source: ISO 3382-2."""
    return sum(decay_seconds(response, sample_rate) for response in responses) / len(responses)


def decay_seconds(response: Tensor, sample_rate: int) -> float:
    """RT60: three times as long as the remaining energy takes from -5 to -25 dB. Shapes: response [taps].

    Source: Schroeder 1965, "New method of measuring reverberation time"; ISO 3382-1, T20.

    >>> decay = 10 ** (-3 * torch.arange(16000) / (0.5 * 16000))  # 60 dB in half a second
    >>> round(decay_seconds(decay, 16000), 2)
    0.5
    """
    left = response.double().square().flip(0).cumsum(0).flip(0)
    start, end = (int((left > left[0] * 10**level).sum()) for level in (-0.5, -2.5))
    return 3 * (end - start) / sample_rate

"""Rooms: sound as it arrives at a microphone somewhere in a room.

Slopes from few rooms bring an example home in these rooms, and nowhere else. So a room that serves for slopes comes at a size of
its own in each draw: `resized`. There is no end of rooms to craft in; those to check and to judge by are the set's own, as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from audioadv.audio.convolution import convolve
from audioadv.audio.ragged import inside
from audioadv.audio.roomsets import DEFAULT, Role, RoomSet, Space, read_rooms
from audioadv.errors import MalformedSpec, UnusableBatch, UnusableResponse
from audioadv.threat.channels.channel import Channel, Play, Played, all_of, check_path, in_single
from audioadv.threat.channels.keys import Key

SIZES = 1.65  # to craft in, rooms are this many times as large or as small at most


@final
@dataclass(frozen=True, eq=False)
class Room(Channel):
    """A room of the set, drawn among those of the key's role, and a position in it; to craft in, at a size of its own.

    The direct sound is not delayed, the level (root mean square over the clip) stays as it was, and the tail that would go on
    after the clip is cut.
    """

    NAME: ClassVar[str] = "room"
    EXAMPLE: ClassVar[str] = "room or room:FOLDER"
    rooms: RoomSet

    def __post_init__(self) -> None:
        if not isinstance(self.rooms, RoomSet):
            raise MalformedSpec(f"rooms {self.rooms!r:.60}: no set of rooms. Give the spec of one, 'room' or 'room:FOLDER'")
        check_path(self.rooms.source, "rooms")

    @property
    def which(self) -> object:
        """What tells it from others: the folder that its rooms are of, their rate and names, or else the set itself."""
        return (
            (self.rooms.source, self.rooms.sample_rate, *((space.role, space.name) for space in self.rooms.spaces))
            if self.rooms.source
            else self.rooms
        )

    def __eq__(self, other: object) -> bool:
        return self.which == other.which if isinstance(other, Room) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.which)

    @classmethod
    def read(cls, text: str) -> Self:
        if text.startswith("<"):
            raise MalformedSpec(f"channel room:{text}: rooms that are no folder's. Write them to one, and name it: room:FOLDER")
        return cls(read_rooms(text) if text else read_rooms())

    def __str__(self) -> str:
        return "room" if self.rooms.source == str(DEFAULT) else f"room:{self.rooms.source or f'<{len(self.rooms.spaces)} of no folder>'}"

    @property
    def scatters(self) -> bool:
        return True

    def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
        if self.rooms.sample_rate != sample_rate:
            raise UnusableResponse(
                f"rooms {self.rooms.source}: responses at {self.rooms.sample_rate} Hz, but the sound is at {sample_rate} Hz. "
                f"Make the set at that rate: audioadv rooms OUT --rate {sample_rate}"
            )
        sets = {role: self.rooms.only(role).spaces for role in dict.fromkeys(key.role for key in keys)}
        responses = [draw_response(sets[key.role], key) for key in keys]
        taps = [len(response) for response in responses]
        padded = torch.nn.utils.rnn.pad_sequence(responses, batch_first=True)

        @in_single
        def play(waveforms: Tensor, lengths: Tensor | None) -> Played:
            lengths = all_of(waveforms) if lengths is None else lengths
            for tap, length in zip(taps, lengths.tolist(), strict=True):
                if tap > length:
                    raise UnusableBatch(too_long(tap, length, sample_rate))
            heard = convolve(waveforms, padded.to(waveforms)) * inside(lengths, waveforms.shape[1])
            loudness = waveforms.norm(dim=1, keepdim=True) / heard.norm(dim=1, keepdim=True).clamp_min(1e-12)
            return heard * loudness, lengths

        return play

    def unfit(self, length: int, sample_rate: int) -> str | None:
        longest = max(space.taps for space in self.rooms.spaces)
        return too_long(longest, length, sample_rate) if longest > length else None


def too_long(taps: int, length: int, sample_rate: int) -> str:
    """What is said of a response that outlasts a clip. Units: samples, Hz."""
    return (
        f"a room response of {taps / sample_rate:.2f} s, but the clip lasts {length / sample_rate:.2f} s. "
        "Take a longer clip, or rooms that reverberate less: audioadv rooms OUT --rt60 0.1..0.3, or a set without that response"
    )


def draw_response(spaces: Sequence[Space], key: Key) -> Tensor:
    """A room, then a position in it, then, to craft in, a size. Shapes: -> [taps], without the zeros that stand at its end.

    No room of another size outlasts the longest of the set: what would come after that is cut.
    """
    generator = key.generator()
    responses = spaces[int(torch.randint(len(spaces), (), generator=generator))].responses
    response = responses[int(torch.randint(len(responses), (), generator=generator))]
    response = response[: int(response.nonzero()[-1]) + 1]
    if key.role is not Role.CRAFT:
        return response
    factor = SIZES ** (2 * torch.rand((), generator=generator).item() - 1)
    return resized(response, factor)[: max(space.taps for space in spaces)]


def resized(response: Tensor, factor: float) -> Tensor:
    """The response of a room that is `factor` times as large in each direction, source, microphone and walls.

        room                |  . .  . .. . .            arrivals
        1.5 times as large  |   .  .   .  . .   .  .    the same ones, each at 1.5 times its time

    A path is `factor` times as long and meets the same walls as often: each arrival comes `factor` times as late, and is weaker
    by the same `1 / factor`, which the level does not keep. With walls as they were, RT60 too is `factor` times as long. That is
    exact but for rounding to taps, as in the image method's first form (Allen and Berkley 1979), and for walls that absorb
    more of some frequencies. Taps are moved, not interpolated: that would cost a larger room its treble.

    Shapes: response [taps] -> [about factor * taps], the direct sound at tap 0 as before.

    >>> resized(torch.tensor([1.0, 0.0, 0.5, 0.0, 0.25]), 1.5)
    tensor([1.0000, 0.0000, 0.0000, 0.5000, 0.0000, 0.0000, 0.2500])
    """
    places = (torch.arange(len(response)) * factor).round().long()
    return response.new_zeros(int(places[-1]) + 1).index_add_(0, places, response)

"""Rooms: sound as it arrives at a microphone somewhere in a room."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from audioadv.audio.convolution import convolve
from audioadv.audio.ragged import inside
from audioadv.audio.roomsets import DEFAULT, RoomSet, Space, read_rooms
from audioadv.errors import UnusableBatch, UnusableResponse
from audioadv.threat.channels.channel import Channel, Play, Played, all_of
from audioadv.threat.channels.keys import Key


@final
@dataclass(frozen=True)
class Room(Channel):
    """A room of the set, drawn among those of the key's role, and a position in it.

    The direct sound is not delayed, the level (root mean square over the clip) stays as it was, and the tail that would go on
    after the clip is cut.
    """

    NAME: ClassVar[str] = "room"
    EXAMPLE: ClassVar[str] = "room or room:FOLDER"
    rooms: RoomSet

    @classmethod
    def read(cls, text: str) -> Self:
        return cls(read_rooms(text) if text else read_rooms())

    def __str__(self) -> str:
        return "room" if self.rooms.source == str(DEFAULT) else f"room:{self.rooms.source}"

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
        "Take a longer clip, or rooms that reverberate less: audioadv rooms OUT --rt60 0.1..0.3"
    )


def draw_response(spaces: Sequence[Space], key: Key) -> Tensor:
    """A room, then a position in it. Shapes: -> [taps], without the zeros that stand at its end."""
    generator = key.generator()
    responses = spaces[int(torch.randint(len(spaces), (), generator=generator))].responses
    response = responses[int(torch.randint(len(responses), (), generator=generator))]
    return response[: int(response.nonzero()[-1]) + 1]

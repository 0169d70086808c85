"""Channels as text: `parse_channel(str(channel)) == channel`.

spec                                       what happens
room, room:FOLDER                          a room of the set that comes with the project, or of your own (audioadv rooms)
noise:20, noise:15..25, noise:20@pink      white, pink, babble or hum, or a recording: noise:20@FILE.wav
gain:-6..6   clip:0.5   bits:16            decibels; full scale = 1; steps of a converter
band:300..3400   loudspeaker               Hz; a small loudspeaker's response
shift:-20..20   speed:0.95..1.05           milliseconds; times as fast
drift:-100..100   resample:8000            parts per million; to so many Hz and back
codec:mp3@64k   codec:opus@24k             also vorbis@QUALITY and mulaw@64k, which is 8 kHz
packets:0.05                               the share of 20 ms packets that are lost
median:3   mean:3                          of so many samples, or pixels a side
drop:0.1   gaussian:0.05                   share of samples or pixels; standard deviation of noise
rotate:-30..30@3   crop:0.8..1             images: degrees and pixels; share of each side
jpeg:75   depth:3                          images: quality; bits
none                                       all arrives as it was

A_then_B is both, in this order; A_or_B is one of them at each draw. `_then_` binds more closely.
"""

from functools import reduce
from operator import or_, rshift
from typing import Any, Final

from torch import Tensor

from audioadv.errors import MalformedSpec, OptionError, UnusableBatch
from audioadv.threat.channels.band import Band, Loudspeaker
from audioadv.threat.channels.channel import JOINTS, NOTHING, Channel, checked, parts
from audioadv.threat.channels.clock import Drift, Resample, Shift, Speed
from audioadv.threat.channels.codec import Codec, Packets
from audioadv.threat.channels.image import Crop, Drop, Gaussian, Jpeg, Rotate
from audioadv.threat.channels.level import Bits, Clipping, Depth, Gain
from audioadv.threat.channels.noise import Noise
from audioadv.threat.channels.room import Room
from audioadv.threat.channels.squeeze import Mean, Median

SOUND: Final = (Room, Noise, Gain, Band, Loudspeaker, Shift, Speed, Drift, Resample, Clipping, Bits, Codec, Packets)
IMAGE: Final = (Rotate, Crop, Jpeg, Depth)
EITHER: Final = (Median, Mean, Drop, Gaussian)
KINDS: Final = {kind.NAME: kind for kind in (*SOUND, *IMAGE, *EITHER)}


def parse_channel(spec: str) -> Channel:
    """The channel that a spec names (the table at the top of this file).

    >>> parse_channel("gain:-6..6_then_noise:20")
    Chain(parts=(Gain(range=Range(low=-6.0, high=6.0)), Noise(snr_db=Range(low=20.0, high=20.0), kind='white')))

    Raises MalformedSpec, or what a part raises: UnusableResponse for rooms or noise that are not there.
    """
    if not isinstance(spec, str):
        raise MalformedSpec(f"channel {spec!r}: no text. Give a spec, for example 'noise:20'")
    if lone := next((word for word in JOINTS if word in spec and not all(spec.split(word))), None):
        raise MalformedSpec(f"channel {spec!r}: not a channel, since one is missing beside {lone}. Write for example room{lone}noise:20")
    return reduce(or_, (reduce(rshift, map(parse_part, option.split("_then_"))) for option in spec.split("_or_")))


def as_channel(channel: Any) -> Channel:
    """A channel, or the one that a spec names. Raises MalformedSpec for anything else.

    >>> str(as_channel("gain:-6"))
    'gain:-6'
    """
    return parse_channel(channel) if isinstance(channel, str) else checked(channel)


def check_sound(channel: Channel) -> Channel:
    """The channel. Raises OptionError where a part of it is for images alone."""
    for part in parts(channel):
        if isinstance(part, IMAGE):
            known = ", ".join(kind.NAME for kind in (*SOUND, *EITHER))
            raise OptionError(f"channel {channel}: {part} is for images, and this is sound. For sound there are {known}")
    return channel


def check_kind(channel: Channel, inputs: Tensor) -> None:
    """Raises UnusableBatch for sound that goes through what is for images, or the reverse. Shapes: [batch, *]."""
    known = [part for part in parts(channel) if isinstance(part, tuple(KINDS.values()))]
    strange = [part for part in known if isinstance(part, IMAGE if inputs.ndim == 2 else SOUND)]
    if strange or (known and inputs.ndim not in (2, 4)):
        fault = f"{strange[0]} is for {'images' if inputs.ndim == 2 else 'sound'}" if strange else "no channel takes that"
        raise UnusableBatch(
            f"channel {channel}, inputs of {list(inputs.shape)}: {fault}. "
            f"Sound is [batch, time] ({', '.join(kind.NAME for kind in (*SOUND, *EITHER))}), "
            f"images are [batch, channels, height, width] ({', '.join(kind.NAME for kind in (*IMAGE, *EITHER))})"
        )


def parse_part(spec: str) -> Channel:
    """One channel, neither chain nor choice."""
    if spec == str(NOTHING):
        return NOTHING
    name, given, value = spec.partition(":")
    if name not in KINDS:
        raise MalformedSpec(f"channel {spec!r}: not a channel. Known: {', '.join(KINDS)}; joined by _then_ and _or_")
    if (given and not value) or (name != Room.NAME and value.endswith("@")):  # an unset variable's
        raise MalformedSpec(f"channel {spec!r}: nothing comes after {spec[-1]!r}. Write for example {KINDS[name].EXAMPLE}")
    try:
        return KINDS[name].read(value)
    except ValueError:
        raise MalformedSpec(f"channel {spec!r}: {value!r} cannot be read. Write for example {KINDS[name].EXAMPLE}") from None

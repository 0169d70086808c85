"""Channels: what happens between the attacker and the model. One family a file; `specs.py` has the list."""

from audioadv.threat.channels.band import Band, Loudspeaker
from audioadv.threat.channels.channel import NOTHING, Chain, Channel, Pick
from audioadv.threat.channels.clock import Drift, Resample, Shift, Speed
from audioadv.threat.channels.codec import Codec, Packets
from audioadv.threat.channels.image import Crop, Drop, Gaussian, Jpeg, Rotate
from audioadv.threat.channels.keys import Key, Range, fingerprint
from audioadv.threat.channels.level import Bits, Clipping, Depth, Gain
from audioadv.threat.channels.noise import Noise
from audioadv.threat.channels.room import Room
from audioadv.threat.channels.specs import parse_channel
from audioadv.threat.channels.squeeze import Mean, Median

__all__ = [
    "NOTHING",
    "Band",
    "Bits",
    "Chain",
    "Channel",
    "Clipping",
    "Codec",
    "Crop",
    "Depth",
    "Drift",
    "Drop",
    "Gain",
    "Gaussian",
    "Jpeg",
    "Key",
    "Loudspeaker",
    "Mean",
    "Median",
    "Noise",
    "Packets",
    "Pick",
    "Range",
    "Resample",
    "Room",
    "Rotate",
    "Shift",
    "Speed",
    "fingerprint",
    "parse_channel",
]

"""What a recogniser hears of a clip on the other side of a channel, draw by draw."""

from collections.abc import Iterator

import torch
from torch import Tensor

from audioadv.audio.roomsets import Role
from audioadv.models.recogniser import Emissions, Recogniser, hear
from audioadv.threat.channels.channel import Channel
from audioadv.threat.channels.keys import Key

AT_ONCE = 16  # draws


@torch.no_grad()
def heard_through(
    model: Recogniser, samples: Tensor, channel: Channel, *, draws: int, clip: int, seed: int = 0, role: Role = Role.JUDGE, start: int = 0
) -> Iterator[Emissions]:
    """What is heard in `draws` draws of the role, from the one of this number on, a few at a time.

    `clip` is the number for the draws (`fingerprint` of the clean clip), so that a clean clip and what was made of it meet the
    same ones. Shapes: samples [time].
    """
    for first in range(start, start + draws, AT_ONCE):
        keys = [Key(seed, clip, draw, role) for draw in range(first, min(first + AT_ONCE, start + draws))]
        rows = samples.to(model.device).expand(len(keys), -1)
        heard, lengths = channel.draw(keys, model.sample_rate)(rows, torch.full((len(keys),), len(samples), device=model.device))
        assert lengths is not None
        yield hear(model, heard, lengths)

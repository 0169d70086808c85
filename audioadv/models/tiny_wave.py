"""tiny-wave: a self-attention CTC recogniser on the raw waveform, built like wav2vec 2.0 in small.

    waveform --> strided convolutions, 25 Hz --> convolutional positions --> self-attention blocks --> 2 x 29 scores, 50 Hz

Source: Baevski et al. 2020, "wav2vec 2.0" (here trained with CTC from the start, and narrower).
"""

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.models.alphabet import ALPHABET
from audioadv.models.frames import HIDDEN_HOP, attend, convolve, frame_mask, wide


def shifted(x: Tensor) -> Tensor:
    """A quarter of the channels from the frame before, a quarter from the one after. Shapes: [batch, frames, width] -> the same."""
    quarter = x.shape[-1] // 4
    before, after, own = torch.split(x, [quarter, quarter, x.shape[-1] - 2 * quarter], dim=-1)
    return torch.cat([F.pad(before, (0, 0, 1, -1)), F.pad(after, (0, 0, -1, 1)), own], dim=-1)


class Attention(nn.Module):
    """Pre-norm self-attention and feed-forward block, in which each frame sees a quarter of each neighbour's channels.

    Source of the shift, a convolution without cost: Lin et al. 2019, "TSM: temporal shift module for efficient video understanding".
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor, frames: Tensor) -> Tensor:
        """Shapes: x [batch, width, channels], mask [batch, width, 1], frames [batch] -> as x."""
        q, k, v = self.qkv(shifted(self.norm(x) * mask)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.training:  # sentences in bfloat16: written out, a fifth of the time; of long clips, all weights at once are too many
            bias = torch.zeros_like(mask).masked_fill(mask == 0, -torch.inf).transpose(1, 2)[:, None]
            y = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias).softmax(-1).to(v.dtype) @ v
        else:
            y = attend(q, k, v, frames)
        x = x + F.dropout(self.out(y.transpose(1, 2).flatten(2)), self.dropout, self.training)
        up, gelu, down = self.feed
        assert isinstance(up, nn.Linear)
        assert isinstance(down, nn.Linear)
        y = wide(down, gelu(wide(up, shifted(self.between(x) * mask))))
        return x + F.dropout(y, self.dropout, self.training)


class Stride(nn.Module):
    """Strided convolution, then norm and GELU at each frame; no frame sees past its clip."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, padding=(kernel - stride + 1) // 2)
        self.norm = nn.LayerNorm(outputs)
        self.stride = stride

    def forward(self, x: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Shapes: x [batch, time, inputs], frames [batch] -> [batch, time / stride, outputs], frames / stride."""
        frames = frames // self.stride
        y = F.gelu(self.norm(convolve(self.conv, x)[:, : x.shape[1] // self.stride]))
        return y * frame_mask(frames, y.shape[1]), frames


@final
class TinyWave(nn.Module):
    """Raw-waveform recogniser. `net(waveforms, lengths) -> (log_probs, frames)`.

    Shapes: waveforms [batch, time] at 16 kHz, full scale 1, zero past each length; lengths [batch] in samples
    -> log_probs [batch, frames, 29], frames [batch]. A clip of n samples gives 2 * ceil(n / 640) frames of 20 ms.
    A clip's frames are the same alone and padded in a batch (`frames.py`): convolutions see zeros past its end, attention
    sees nothing there.
    """

    def __init__(self, width: int = 256, blocks: int = 5, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([
            Stride(1, 192, 160, 80),  # 200 Hz
            Stride(192, 256, 8, 4),  # 50 Hz
            Stride(256, width, 4, 2),  # 25 Hz
        ])  # fmt: skip
        self.positions = nn.Conv1d(width, width, 31, padding=15, groups=16)
        self.blocks = nn.ModuleList(Attention(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * len(ALPHABET))

    @staticmethod
    def frames(lengths: Tensor) -> Tensor:
        """Output frames of clips of so many samples."""
        return 2 * ((lengths + HIDDEN_HOP - 1) // HIDDEN_HOP)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the letters, frame by frame (shapes and units: the class)."""
        own = (lengths + HIDDEN_HOP - 1) // HIDDEN_HOP
        x = F.pad(waveforms, (0, -waveforms.shape[1] % HIDDEN_HOP))[..., None] * 4.0  # speech peaks near 0.3
        frames = own * HIDDEN_HOP
        for stage in self.encoder:
            x, frames = stage(x, frames)
        x = x + F.gelu(convolve(self.positions, x))
        mask = frame_mask(own, x.shape[1])
        for block in self.blocks:
            x = block(x, mask, own)
        scores = self.head(self.norm(x)).float()
        return scores.unflatten(-1, (2, len(ALPHABET))).flatten(1, 2).log_softmax(-1), 2 * own

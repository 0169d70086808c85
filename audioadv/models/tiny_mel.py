"""tiny-mel: a convolutional CTC recogniser on log-mel spectra, spectrum inside the graph.

waveform --> log-mel, 100 Hz --> 2 strided convolutions, 25 Hz --> residual blocks --> 2 x 29 scores, 50 Hz
"""

from typing import final

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.models.alphabet import ALPHABET
from audioadv.models.frames import HIDDEN_HOP, convolve, frame_mask, one_by_one

HOP = 160
WINDOW = 400


class Block(nn.Module):
    """Residual convolution over time: x + W gelu(conv(fit(norm(x)))), with the padding kept at zero.

    `fit` scales and shifts each channel by what the clip is like as a whole: its voice, its room. At first it changes nothing.
    Sources: Han et al. 2020, "ContextNet: improving convolutional neural networks for automatic speech recognition with global
    context" (a factor); Perez et al. 2018, "FiLM: visual reasoning with a general conditioning layer" (and a shift).
    """

    def __init__(self, width: int, kernel: int, dilation: int, dropout: float, context: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.context = nn.Linear(width, context)
        self.fit = nn.Linear(context, 2 * width)
        nn.init.zeros_(self.fit.weight)
        nn.init.zeros_(self.fit.bias)
        self.conv = nn.Conv1d(width, width, kernel, padding=(kernel // 2) * dilation, dilation=dilation)
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Shapes: x [batch, frames, width], mask [batch, frames, 1] -> [batch, frames, width]."""
        y = self.norm(x) * mask
        mean = y.sum(1) / mask.sum(1).clamp_min(1)
        factor, shift = one_by_one(self.fit, F.gelu(one_by_one(self.context, mean))).chunk(2, dim=-1)
        y = F.gelu(convolve(self.conv, y * (1 + factor[:, None]) + shift[:, None] * mask))
        return x + F.dropout(self.out(y), self.dropout, self.training)


@final
class TinyMel(nn.Module):
    """Log-mel recogniser. `net(waveforms, lengths) -> (log_probs, frames)`.

    Shapes: waveforms [batch, time] at 16 kHz, full scale 1, zero past each length; lengths [batch] in samples
    -> log_probs [batch, frames, 29], frames [batch]. A clip of n samples gives 2 * ceil(n / 640) frames of 20 ms.
    A clip's frames are the same alone and padded in a batch (`frames.py`): every convolution sees zeros past its end.
    """

    def __init__(self, width: int = 256, blocks: int = 11, kernel: int = 5, mels: int = 80, dropout: float = 0.0) -> None:
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            16000, n_fft=512, win_length=WINDOW, hop_length=HOP, f_min=40, f_max=7800, n_mels=mels, center=False
        )
        self.halve = nn.Conv1d(mels, 192, 5, stride=2, padding=2)
        self.quarter = nn.Conv1d(192, width, 5, stride=2, padding=2)
        self.blocks = nn.ModuleList(Block(width, kernel, (1, 1, 2)[i % 3], dropout) for i in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * len(ALPHABET))

    @staticmethod
    def frames(lengths: Tensor) -> Tensor:
        """Output frames of clips of so many samples."""
        return 2 * ((lengths + HIDDEN_HOP - 1) // HIDDEN_HOP)

    def spectrum(self, waveforms: Tensor, hidden: int) -> Tensor:
        """Log-mel energies, about zero mean and unit spread. Shapes: [batch, time] -> [batch, 4 * hidden, mels]."""
        tail = hidden * HIDDEN_HOP - waveforms.shape[1]
        padded = F.pad(waveforms, (176, tail + 176))  # 512 - 160 samples of overlap, half on each side
        bins = torch.stft(padded, 512, HOP, WINDOW, self.mel.spectrogram.window, center=False, return_complex=True)
        energy: Tensor = self.mel.mel_scale(torch.view_as_real(bins).square().sum(-1))  # |z|^2 without the root in between
        # The floor, 1e-5 of full scale's energy a bin, keeps the slope finite in digital silence.
        return ((energy + 1e-5).log() + 4.0).transpose(1, 2) / 4.0

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the letters, frame by frame (shapes and units: the class)."""
        hidden = -(-waveforms.shape[1] // HIDDEN_HOP)
        own = (lengths + HIDDEN_HOP - 1) // HIDDEN_HOP
        mask = frame_mask(own, hidden)
        with torch.autocast(waveforms.device.type, enabled=False):
            x = self.spectrum(waveforms.float(), hidden)
        x = F.gelu(convolve(self.halve, x * frame_mask(4 * own, 4 * hidden)))
        x = convolve(self.quarter, x * frame_mask(2 * own, 2 * hidden))
        for block in self.blocks:
            x = block(x, mask)
        scores = self.head(self.norm(x)).float()
        return scores.unflatten(-1, (2, len(ALPHABET))).flatten(1, 2).log_softmax(-1), 2 * own

"""A sound's fingerprint: pairs of peaks in its spectrogram, which noise, another level and a late start leave standing.

    Hz |      *            a landmark is two peaks: (their frequencies, the time between them), and when the first comes
       |   *     `.        the same sound again, later: the same landmarks, all as much later
       |    `-----*        another sound: few in common, and those at odds about how much
       +------------- s

Two sounds agree by the landmarks that they share at one and the same delay. What plays faster or at another pitch is another
sound. Source: Wang 2003, "An industrial-strength audio search algorithm" (there it is music, and clips are longer).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.spectrum import spectrum

WINDOW_SECONDS = 0.064
BAND_HZ = (150.0, 3800.0)  # what a telephone passes, and noise seldom fills
NEAR = (3, 4)  # frames and bins around a peak that hold none louder
PEAKS_A_SECOND = 40
FAN = 8  # landmarks that start at one peak, with those that come next
LATEST = 63  # frames between the two


def window_for(sample_rate: int) -> int:
    """Samples of a frame: the power of two nearest to 64 ms, so that bins are as wide and frames as far apart at 8 and 16 kHz."""
    return 2 ** round(torch.tensor(WINDOW_SECONDS * sample_rate).log2().item())


def peaks(samples: Tensor, sample_rate: int) -> Tensor:
    """Frame and bin of the loudest local maxima, in order of time. Shapes: [time] -> int64 [peaks, 2]."""
    window = window_for(sample_rate)
    low, high = (round(edge * window / sample_rate) for edge in BAND_HZ)
    level = spectrum(samples, window).abs()[:, low:high]
    around = F.max_pool2d(level[None, None], [2 * reach + 1 for reach in NEAR], stride=1, padding=NEAR)[0, 0]
    found = ((level == around) & (level > 0)).nonzero()
    most = max(1, round(PEAKS_A_SECOND * len(samples) / sample_rate))
    loudest = level[found[:, 0], found[:, 1]].argsort(descending=True, stable=True)[:most].sort().values
    return found[loudest]


def landmarks(samples: Tensor, sample_rate: int) -> Tensor:
    """Each landmark as one number, and the frame in which it starts; none in silence. Shapes: [time] -> int64 [landmarks, 2]."""
    found = peaks(samples, sample_rate)
    pairs = []
    for later in range(1, FAN + 1):
        first, second = found[:-later], found[later:]
        wait = second[:, 0] - first[:, 0]
        number = (first[:, 1] * 256 + second[:, 1]) * 64 + wait
        pairs.append(torch.stack([number, first[:, 0]], 1)[wait <= LATEST])
    return torch.cat(pairs)

"""Masked: changes that stay under the clip's own masking threshold, bin by bin, on the sound as it is analysed again.

    spec       bound          the set of allowed deltas                                          excess in
    masked:0   Masked(0)      each bin of delta's spectrum <= the clean clip's threshold         dB, worst bin
    masked:-6  Masked(-6)     ... 6 dB under it
    masked:min Masked(MIN)    the lowest margin that works is searched for

A bin is a linear function of delta, so that the set is convex and grows with its margin: its gauge, the largest ratio of a
bin to its threshold, is a norm, and every attack that works in a norm works here. What differs is how to stay inside. Bins
overlap, in time and in frequency: four frames see each sample, and each tone three bins. Spectra whose bins are all allowed,
chosen one by one, are in general the spectrum of no sound, and the nearest sound leaks from loud places into quiet ones.
So limits are first eroded by that leak: a bin may hold no more than what, seen from any other bin, is allowed there. The leak is
known in closed form (the window's reproducing kernel). Eroding leaves half of all bins as they are and costs 1.7 dB on average
over the carriers of `recipes/suite.py`: 2.5 for speech, 0.1 for the tone of a room. A projection is then

    clip       each bin to its eroded limit; what was over is taken off the sound, with over-relaxation
    turn down  the frames that are still over, by a gain that is smooth in time: from a step of a twentieth of the radius hardly
               any, from one of 0.3 seven in ten, by 0.3 dB on average
    scale      the whole clip by what is left: from such steps less than 0.01 dB, from white noise at a hundredth of full scale 0.03

and ends inside for sure. What keeps to the eroded limits is left as it is. It is one round, made for steps of a fraction of the
radius, and not the nearest point. Clipping to the limits themselves, round by round, is inside after 34 rounds from a step of 0.3
(the median of those carriers), and from that noise still 5 dB over after sixty (25 at most). From about twice the radius on,
over-relaxation takes bins past zero: what comes out of far outside lies on the other side of the clean clip. (So `extreme` does not
project what is far up a slope.)

16 bits: delta is rounded to the nearest step of the grid, which adds noise of a known level to each bin. The limits leave room
for it where they can, and where delta is less than half a step it becomes exactly zero, so that nothing is added there.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.audio.hearing import Hearing
from audioadv.audio.masking import masking_threshold
from audioadv.audio.spectrum import OVERLAP, frames_inside, spectrum, waveform
from audioadv.errors import UnusableBatch
from audioadv.threat.algebra import Combines
from audioadv.threat.bounds import MIN, Box, Radius, ball, check_decibels, check_inputs, outward, parse_number, plain
from audioadv.threat.norms import LinfNorm
from audioadv.threat.projections import INWARD, each, sum_of
from audioadv.threat.region import Norm, Region

LEAST_LEAK_DB = -100.0  # smaller leaks are not looked at
OVER_RELAXED = 1.8
HEADROOM = 0.9  # of the eroded limits: what is clipped to the limit itself is always over it somewhere, and turned down
PEAK = 3.5  # of rounding noise, times its root mean square: one bin in 200,000 is above
KEPT = 0.4  # of a limit, at least, where rounding noise comes near it
NO_LIMIT_DB = 400.0  # for the frames of padding, where there is no change: far over what full scale can be
TAPER = 0.25  # of a frame, at both ends of a clip: a change that begins at once is heard at all frequencies


@final
@dataclass(frozen=True)
class Masked(Combines):
    """Changes that stay under the masking threshold plus a margin (dB), as `hearing` hears them.

    Raises MalformedSpec for a margin that is no number; around what is no sound, UnusableBatch.
    """

    margin_db: Radius
    hearing: Hearing = field(default_factory=Hearing)

    def __post_init__(self) -> None:
        check_decibels("masked", "margin", self.margin_db, "masked:0")

    @staticmethod
    def parse(text: str) -> "Masked":
        """Of `masked:-6`, what follows the colon."""
        return Masked(MIN if text == MIN else parse_number(text))

    def __str__(self) -> str:
        return f"masked:{plain(self.margin_db)}"

    @property
    def minimal(self) -> bool:
        return self.margin_db == MIN

    def at_rate(self, sample_rate: int) -> "Masked":
        """The same bound for clips of this rate, in hertz."""
        return replace(self, hearing=replace(self.hearing, sample_rate=sample_rate))

    def around(self, clean: Tensor, lengths: Tensor | None = None, box: Box = (0.0, 1.0), grid: float | None = None) -> Region:
        """The region around clips. Shapes: clean [batch, time]. Raises UnusableBatch for any other shape."""
        check_inputs(clean)
        if clean.ndim != 2:
            raise UnusableBatch(f"inputs of shape {list(clean.shape)}: a masking bound is around sound, [batch, time]")
        margin = math.inf if isinstance(self.margin_db, str) else self.margin_db
        radius = clean.new_full(clean.shape[:1], 10 ** (margin / 20))
        region = ball(clean, radius, LinfNorm(), lengths, box, grid)  # its checks come before a threshold is computed
        lengths = torch.full_like(radius, clean.shape[1], dtype=torch.int64) if lengths is None else lengths
        return replace(region, norm=masked_norm(clean, lengths, self.hearing, grid))

    def excess(self, region: Region, adversarial: Tensor) -> Tensor:
        return decibels(region.gauge(adversarial) / region.radius)

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        return [f"masked:{outward(margin, 1)}" for margin in decibels(region.gauge(adversarial)).tolist()]


def decibels(ratio: Tensor) -> Tensor:
    """Of amplitudes; -200 dB stands for nothing at all."""
    return 20 * ratio.clamp_min(1e-10).log10()


@final
@dataclass(frozen=True, eq=False)
class MaskedNorm(Norm):
    """The largest ratio of a bin to its limit.

    Shapes: limits and eroded [batch, frames, bins], amplitudes of full scale; tapers [batch, time], zero in the padding. `noise`
    is the highest that rounding adds to a bin.
    """

    limits: Tensor
    eroded: Tensor
    tapers: Tensor
    window: int
    noise: float
    gradual: ClassVar[bool] = True
    placed: ClassVar[bool] = True
    rounds: ClassVar[bool] = True

    def bins(self, delta: Tensor) -> Tensor:
        """The spectrum of each delta. Raises UnusableBatch where the norm was made for other clips."""
        if delta.shape[0] != len(self.limits) or delta.shape[1] > self.tapers.shape[1]:
            raise UnusableBatch(
                f"changes of shape {list(delta.shape)} in a masking bound made around clips of shape {list(self.tapers.shape)}: "
                "make one around these, with bound.around(clean, lengths)"
            )
        return spectrum(delta, self.window)

    def ratios(self, delta: Tensor) -> Tensor:
        """Each bin over its limit. Shapes: [batch, time] -> [batch, frames, bins]."""
        bins = self.bins(delta)
        return bins.abs() / self.limits[:, : bins.shape[1]]

    def gauge(self, delta: Tensor) -> Tensor:
        return self.ratios(delta).flatten(1).amax(1)

    def extent(self, change: Tensor) -> Tensor:
        """Of noise as strong as this change, against a limit in the middle of the clip's: a single tone or step says little."""
        inside = (self.tapers > 0).sum(1)
        strength = (sum_of(change.square()) / inside).sqrt() * bin_noise(self.window)
        return strength / self.limits.masked_fill(self.limits > 10, math.nan).flatten(1).nanmedian(1).values

    def within(self, limits: Tensor, radius: Tensor) -> Tensor:
        """Limits at this radius, with room for rounding where there is any."""
        whole = limits * radius[:, None, None] * INWARD
        return torch.maximum(whole - self.noise, KEPT * whole) if self.noise else whole

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """A point of the set within the box, near delta but not the nearest: see the top of this file."""
        time, bins = delta.shape[1], self.bins(delta)
        limits, eroded = (self.within(x[:, : bins.shape[1]], radius) for x in (self.limits, self.eroded))
        over = bins * (1 - (HEADROOM * eroded / bins.abs().clamp_min(1e-20)).clamp_max(1))
        y = delta - OVER_RELAXED * waveform(over, self.window, time) * (self.tapers[:, :time] > 0)
        limits = limits.clamp_min(torch.finfo(limits.dtype).tiny)  # radius 0 allows only delta = 0, and no 0 / 0
        loudest = (self.bins(y).abs() / limits).amax(2)
        y = y * smooth_gain(1 / loudest.clamp_min(1), self.window, time)
        if low is not None and high is not None:
            y = y.clamp(low, high)
        y = y / (self.bins(y).abs() / limits).flatten(1).amax(1).clamp_min(1)[:, None]
        return torch.where(radius[:, None] > 0, y, 0.0)

    def steepest(self, slope: Tensor) -> Tensor:
        return self.climb(slope, lambda size, limits: torch.ones_like(size))

    def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        """Near the allowed delta that a linear loss of this slope is greatest at: every bin at its limit, then inside."""
        return self.project(radius[:, None] * self.steepest(slope), radius, low, high)

    def steady(self, slope: Tensor) -> Tensor:
        # Each bin by its gain, up to its limit: those that matter reach it, all others come near it, and none jumps.
        return self.climb(slope, lambda size, limits: evened(size * limits))

    def agreed(self, mean: Tensor) -> Tensor:
        """Each bin by how much of its limit is left in the mean, against those that have most.

        Evened as a slope is, what the draws of a channel disagree on would be noise up to the limits again. `masked:6` through rooms, four
        clips of speech on tiny-mel, 300 steps of 2 draws, mean losses at the end:

            evened          18.9  29.6  24.9  26.9
            as they agreed   7.4  23.5  10.0  28.8
        """

        def share(size: Tensor, limits: Tensor) -> Tensor:
            left = (size / limits).clamp_max(1)
            return (left / typical(left)).clamp_max(1)

        return self.climb(mean, share)

    def climb(self, slope: Tensor, share: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A step up the slope: each bin in the slope's phase, with a `share` of its limit told from its size and that.

        Its gauge is about 1, up to 3 where bins that were chosen one by one meet.
        """
        tapers = self.tapers[:, : slope.shape[1]]
        bins = self.bins(slope * tapers)
        limits, size = self.eroded[:, : bins.shape[1]], bins.abs()
        return waveform(bins * (limits * share(size, limits) / size.clamp_min(1e-20)), self.window, slope.shape[1]) * tapers

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(clean.shape, generator=generator).to(clean)[None]
        drawn = self.steepest(noise)
        return torch.rand((), generator=generator).item() * (drawn / self.gauge(drawn).clamp_min(1))[0]

    def quantise(self, change: Tensor, grid: float) -> Tensor:
        """To the nearest step: rounding towards zero would add four times the noise."""
        return (change / grid).round_().mul_(grid)

    def rows(self, index: Tensor) -> Self:
        return replace(self, limits=self.limits[index], eroded=self.eroded[index], tapers=self.tapers[index])


def masked_norm(clean: Tensor, lengths: Tensor, hearing: Hearing, grid: float | None) -> MaskedNorm:
    """The geometry of the set under the masking threshold of these clips. Shapes: clean [batch, time], lengths [batch]."""
    with torch.no_grad():
        threshold = masking_threshold(clean, lengths, hearing)
        there = frames_inside(lengths, hearing.window, threshold.shape[1])
        threshold = torch.where(there[..., None], threshold, NO_LIMIT_DB)
        eroded = erode(threshold, hearing.window)
    # not a power: its last bit depends on where in memory x lies, and a clip's limits would on the others
    limits, inner = (((x - hearing.full_scale_db) * (math.log(10) / 20)).exp() for x in (threshold, eroded))
    place = torch.arange(clean.shape[1], device=clean.device)
    edge = torch.minimum(place + 1, lengths[:, None] - place).clamp_min(0)  # samples to the nearer end
    ramp = torch.minimum(torch.full_like(lengths, round(TAPER * hearing.window)), (lengths + 1) // 2).clamp_min(1)[:, None]
    tapers = (math.pi / 2 * (edge.to(clean) / ramp).clamp_max(1)).sin().square()
    noise = 0.0 if grid is None else PEAK * bin_noise(hearing.window) * grid / math.sqrt(12)
    return MaskedNorm(limits, inner, tapers, hearing.window, noise)


def bin_noise(window: int) -> float:
    """What white noise with a root mean square of 1 comes to in a bin: a Hann window's root of the sum of squares, times 2 over its sum."""
    return math.sqrt(6 / window)


def evened(gain: Tensor) -> Tensor:
    """How a bin's step follows its gain (slope times limit): by the eighth root of its share.

    Limits span 70 dB, from what is masked or too low to be heard to what is neither, and gains with them: in proportion, the few bins
    with the widest limits have the step to themselves, and a recogniser that does not listen there is never reached. All alike is too
    restless for a slope that turns. Eight pairs of the craft suite, the hardest among them, 300 forwards, mean margin and pairs missed:

    power         1           1/2         1/4         1/8         1/16
      tiny-mel    -4.9 dB 0   -4.8 dB 0   -7.5 dB 0   -7.9 dB 0   -7.9 dB 0
      tiny-wave   -4.0 dB 3               -6.0 dB 0   -6.8 dB 0

    Three square roots, since a power's last bit depends on where in memory x lies. Shapes: [batch, *, *] -> the same, at most 1.
    """
    return (gain / typical(gain)).clamp_max(1).sqrt().sqrt().sqrt()


def typical(gain: Tensor) -> Tensor:
    """The size of the gains that matter in each clip: their mean, weighted by themselves. Shapes: [batch, *, *] -> [batch, 1, 1]."""
    flat = gain.flatten(1)
    return each(sum_of(flat.square()) / sum_of(flat).clamp_min(1e-30), gain).clamp_min(1e-30)


def leaks(window: int) -> list[tuple[int, int, float]]:
    """How much of a bin's own share a sound made for it leaves in others: (frames away, bins away, dB).

    The window's reproducing kernel: the spectrum of the product of two Hann windows so many frames apart, over that of one with
    itself. Source: Balazs et al. 2017, "Frame theory for signal processing in psychoacoustics".
    """
    hop, found = window // OVERLAP, []
    hann = torch.hann_window(window, dtype=torch.float64)
    for frames in range(1 - OVERLAP, OVERLAP):
        both = hann * F.pad(hann, (hop * max(frames, 0), hop * max(-frames, 0)))[hop * max(-frames, 0) :][:window]
        kernel = decibels(torch.fft.rfft(both).abs() / hann.square().sum()).tolist()
        found += [
            (frames, sign * away, leak) for away, leak in enumerate(kernel) if leak > LEAST_LEAK_DB for sign in (1, -1)[: 1 + (away > 0)]
        ]
    return found


def erode(threshold: Tensor, window: int) -> Tensor:
    """The highest levels whose leaks stay under the threshold everywhere, each bin for itself. Shapes: [batch, frames, bins], dB."""
    lowest = threshold.clone()
    frames, bins = threshold.shape[1:]
    for frame, away, leak in leaks(window):
        if abs(frame) < frames and abs(away) < bins:
            to, of = (
                (slice(max(0, n), size + min(0, n)), slice(max(0, -n), size + min(0, -n))) for n, size in ((frame, frames), (away, bins))
            )
            here, there = (to[0], of[0]), (to[1], of[1])
            lowest[:, *here] = torch.minimum(lowest[:, *here], threshold[:, *there] - leak)
    return lowest


def smooth_gain(frames: Tensor, window: int, time: int) -> Tensor:
    """A gain for each sample, as smooth as the window, that is nowhere above those of the frames that the sample lies in.

    Shapes: frames [batch, frames], at most 1 -> [batch, time].
    """
    lowest = -F.max_pool1d(-frames[:, None], 2 * OVERLAP - 1, 1, OVERLAP - 1)[:, 0]
    hop = window // OVERLAP
    weight = torch.hann_window(window, dtype=frames.dtype, device=frames.device).square() * (hop / (3 / 8 * window))
    quarters = lowest[..., None, None] * weight.reshape(OVERLAP, hop)
    count = frames.shape[1]
    whole = sum(quarters[:, OVERLAP - 1 - i : count - i, i] for i in range(OVERLAP))
    assert isinstance(whole, Tensor)
    return whole.flatten(1)[:, :time]

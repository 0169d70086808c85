"""Frames in order of time, and how the bundled recognisers convolve and attend to them: a clip's are the same in any company.

    [batch, frames, channels], zero past a clip's own end

On a CPU a frame and its slope are then the same to the last bit, alone and in any batch, with any padding: a search that is run again
in other company takes the same way, where one last bit would lead it elsewhere within some hundred steps. That is tried with AVX-512
kernels (torch 2.11) on processors of AMD and Intel, and 1 to 8 threads, for clips of 12 hidden frames (half a second) and more: a
product of fewer rows is added up in another order. Other linear layers, norms and spectra are so as they come. These are not:

    convolution   of less than SMALL numbers in a batch of one, torch calls another library: such a one gets frames of zeros.
                  Padding, strides and the library's own slope are summed in an order that depends on the shape: here zeros are
                  written out, `stride` frames become one with as many times the channels, and the slope is a convolution with the
                  turned kernel. The first layer of tiny-wave (80 samples a frame) so takes an eighth of the time.
    attention     sums over keys in an order that the padding has a part in. Here each clip attends alone.
    linear        of one row a clip, which are too few rows (above), is written out. On Intel's processors a sum over 1,024 numbers, and
                  over 512 of less than 16 rows, knows how many rows there are: wide layers add up WIDE at a time.

On a GPU, under autocast and where weights are learnt, convolutions and attention are what torch makes of them.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.models.rest import REST

HIDDEN_HOP = 640  # samples a hidden frame: each one writes two output frames of 20 ms
WIDE = 256  # numbers of a sum
SMALL = 20481  # numbers: torch's own limit (`use_mkldnn`), where the batch is one


def frame_mask(frames: Tensor, width: int) -> Tensor:
    """One where a frame belongs to its clip, zero in the padding. Shapes: frames [batch] -> [batch, width, 1]."""
    return (torch.arange(width, device=frames.device) < frames[:, None]).float()[..., None]


def convolve(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """`conv` along time. Shapes: [batch, time, inputs] -> [batch, time / stride, outputs]."""
    kernel, stride, dilation, ahead = conv.kernel_size[0], conv.stride[0], conv.dilation[0], int(conv.padding[0])
    learnt = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in conv.parameters())
    if x.is_cuda or learnt or torch.is_autocast_enabled(x.device.type):
        return along(x, conv.weight, conv.bias, dilation, conv.groups, stride, ahead)
    frames = (x.shape[1] + 2 * ahead - dilation * (kernel - 1) - 1) // stride + 1
    if stride == 1:
        rows = F.pad(x, (0, 0, ahead, ahead))
    else:
        taps = -(-kernel // stride)
        rows = F.pad(x, (0, 0, ahead, (frames + taps - 1) * stride - ahead - x.shape[1])).reshape(len(x), -1, stride * x.shape[2])
    steady: Tensor = Steady.apply(rows, arranged(conv), conv.bias, dilation)  # type: ignore[no-untyped-call]
    return steady


@final
@dataclass(eq=False)
class Arranged:
    """A layer's weight as `Steady` takes it, in memory as torch would lay it out each time: for short clips a third of a step's work."""

    weight: Tensor  # the layer's own: its memory is nobody else's while this is kept
    version: int  # of its contents
    rest: int | None  # the one that it was kept in
    ahead: Tensor  # [outputs, inputs / groups, taps] of stride 1
    groups: int

    @cached_property
    def turned(self) -> Tensor:
        """For the slope. Shapes: -> [inputs, outputs / groups, taps]."""
        with torch.no_grad():
            return laid_out(self.ahead.reshape(self.groups, -1, *self.ahead.shape[1:]).transpose(1, 2).flatten(0, 1).flip(2))


ARRANGED: WeakKeyDictionary[nn.Conv1d, Arranged] = WeakKeyDictionary()


def arranged(conv: nn.Conv1d) -> Arranged:
    """The layer's weight. While models are at rest it is arranged anew only where it has changed; at other times always, since torch
    notices nothing of what is written through `.data`."""
    weight, stride, rest = conv.weight, conv.stride[0], REST.number
    version = -1 if weight.is_inference() else weight._version  # which those have none of
    kept = ARRANGED.get(conv)
    if kept and kept.rest == rest is not None and kept.version == version >= 0 and kept.weight.data_ptr() == weight.data_ptr():
        return kept
    with torch.no_grad():
        ahead = weight.detach()
        if stride > 1:
            taps = -(-conv.kernel_size[0] // stride)
            ahead = F.pad(ahead, (0, taps * stride - conv.kernel_size[0])).reshape(*weight.shape[:2], taps, stride)
            ahead = ahead.permute(0, 3, 1, 2).flatten(1, 2)
        new = Arranged(weight.detach(), version, rest, laid_out(ahead), conv.groups)
    if rest is None:
        ARRANGED.pop(conv, None)
    else:
        ARRANGED[conv] = new
    return new


def laid_out(weight: Tensor) -> Tensor:
    """A weight with its channels last in memory, as `along` wants it. Shapes: [outputs, inputs, taps] -> the same."""
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last).squeeze(2)


@final
class Steady(torch.autograd.Function):
    """A convolution of stride 1 without padding, with a slope that is one too. Weights get none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Arranged, bias: Tensor | None, dilation: int) -> Tensor:
        """Shapes: x [batch, frames, inputs] -> [batch, frames less a lap, outputs]."""
        ctx.kernel, ctx.dilation, ctx.lap = kernel, dilation, dilation * (kernel.ahead.shape[2] - 1)
        return along(roomy(x), kernel.ahead, bias, dilation, kernel.groups)[:, : x.shape[1] - ctx.lap]

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Shapes: [batch, frames less a lap, outputs] -> [batch, frames, inputs]."""
        (slope,) = slopes
        padded = roomy(F.pad(slope, (0, 0, ctx.lap, ctx.lap)))
        return along(padded, ctx.kernel.turned, None, ctx.dilation, ctx.kernel.groups)[:, : slope.shape[1] + ctx.lap], None, None, None


def along(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1, groups: int = 1, stride: int = 1, ahead: int = 0) -> Tensor:
    """A convolution along time, its frames in memory as they stand here. Shapes: [batch, time, inputs] -> [batch, time / stride, outputs].

    Seen as a picture one pixel high with its channels last, they need no copy into channels and back.
    """
    picture, kernel = x.transpose(1, 2).unsqueeze(2), weight.unsqueeze(2)
    return F.conv2d(picture, kernel, bias, (1, stride), (0, ahead), (1, dilation), groups).squeeze(2).transpose(1, 2)


def roomy(x: Tensor) -> Tensor:
    """The frames of one clip alone with zeros after them, so that they are not SMALL. Shapes: [batch, frames, channels] -> longer."""
    lack = -(-SMALL // x.shape[2]) - x.shape[1] if len(x) == 1 else 0
    return F.pad(x, (0, 0, 0, lack)) if lack > 0 else x


def one_by_one(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear`, for small layers of one row a clip. Shapes: [batch, inputs] -> [batch, outputs]."""
    return (x[:, None] * linear.weight).sum(2) + linear.bias


def wide(linear: nn.Linear, x: Tensor) -> Tensor:
    """`linear`, no more than WIDE numbers of a sum at once, nor of its slope's. Shapes: [batch, frames, inputs] -> [.., outputs]."""
    learnt = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in linear.parameters())
    if x.is_cuda or learnt or torch.is_autocast_enabled(x.device.type):
        return linear(x)
    summed: Tensor = Summed.apply(x, linear.weight, linear.bias)  # type: ignore[no-untyped-call]
    return summed


@final
class Summed(torch.autograd.Function):
    """A linear layer, part by part of its sums. Weights get no slope."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Shapes: x [batch, frames, inputs], weight [outputs, inputs], bias [outputs] -> [batch, frames, outputs]."""
        ctx.weight = weight
        return product(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Shapes: [batch, frames, outputs] -> [batch, frames, inputs]."""
        return product(slopes[0], ctx.weight, slopes[0].new_zeros(ctx.weight.shape[1])), None, None


def product(x: Tensor, matrix: Tensor, plus: Tensor) -> Tensor:
    """x @ matrix + plus. Shapes: x [batch, frames, inner], matrix [inner, outer], plus [outer] -> [batch, frames, outer]."""
    rows, total = x.flatten(0, 1), plus
    for some, part in zip(torch.split(rows, WIDE, 1), torch.split(matrix, WIDE), strict=True):
        total = torch.addmm(plus, some, part) if total is plus else total.addmm_(some, part)
    return total.reshape(*x.shape[:2], -1)


def attend(q: Tensor, k: Tensor, v: Tensor, frames: Tensor) -> Tensor:
    """Attention of each clip to its own frames; what it is in the padding means nothing.

    Shapes: q, k and v [batch, heads, width, channels], frames [batch] -> as v.
    """
    if q.is_cuda:
        own = frame_mask(frames, q.shape[2]).bool().transpose(1, 2)[:, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=own)
    clips = []
    for i, length in enumerate(frames.tolist()):
        own, before, said = (part[i : i + 1, :, :length] for part in (q, k, v))
        clips.append(F.pad(F.scaled_dot_product_attention(own, before, said), (0, 0, 0, q.shape[2] - length)))
    return torch.cat(clips)

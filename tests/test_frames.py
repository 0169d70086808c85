"""What the bundled recognisers are made of: frames that are the same, to the last bit, in any company."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from marks import to_the_bit
from torch import Tensor, nn
from torch.nn import functional as F

import audioadv as aa
from audioadv.models.frames import arranged, attend, convolve, one_by_one, wide
from audioadv.models.rest import at_rest
from audioadv.models.tiny_mel import TinyMel
from audioadv.models.tiny_wave import TinyWave
from audioadv.threat.masked import evened
from audioadv.threat.norms import L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import length_of, scale_by_newton, sum_of

LAYERS = {
    "plain": nn.Conv1d(12, 20, 5, padding=2),
    "dilated": nn.Conv1d(12, 20, 5, padding=4, dilation=2),
    "grouped": nn.Conv1d(12, 24, 7, padding=3, groups=4),
    "strided": nn.Conv1d(12, 20, 8, stride=4, padding=2),
    "strided, odd": nn.Conv1d(12, 20, 5, stride=2, padding=2),
    "of samples": nn.Conv1d(1, 20, 160, stride=80, padding=40),
    "without bias": nn.Conv1d(12, 20, 4, stride=3, padding=1, bias=False),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("clips", [1, 3])
def test_a_convolution_and_its_slope_are_what_they_are_called(name: str, clips: int) -> None:
    conv = LAYERS[name]
    conv.requires_grad_(False)
    x = noise(clips, 321, conv.in_channels).requires_grad_()
    ours, theirs = convolve(conv, x), conv(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    way = noise(*theirs.shape, seed=1)
    for a, b in zip(torch.autograd.grad(ours, x, way), torch.autograd.grad(theirs, x, way), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 3])
def test_a_weight_that_has_changed_is_arranged_anew(stride: int) -> None:
    conv, x = nn.Conv1d(6, 8, 5, stride, padding=2).requires_grad_(False), noise(2, 60, 6).requires_grad_()

    def written() -> None:
        conv.weight.mul_(2)

    def moved() -> None:
        conv.weight.data = 3 * conv.weight

    def halved() -> None:
        conv.half().float()

    def replaced() -> None:
        conv.weight = nn.Parameter(noise(8, 6, 5, seed=3), requires_grad=False)

    def without_a_version() -> None:
        with torch.inference_mode():
            conv.weight = nn.Parameter(noise(8, 6, 5, seed=4), requires_grad=False)

    def written_without_a_version() -> None:
        with torch.inference_mode():
            conv.weight.mul_(2)

    def unnoticed() -> None:
        conv.weight.data.mul_(2)

    def told() -> None:
        ours, theirs = convolve(conv, x), convolve(copy.deepcopy(conv), x)
        torch.testing.assert_close(ours, conv(x.detach().transpose(1, 2)).transpose(1, 2), rtol=1e-4, atol=1e-5)
        slopes = [torch.autograd.grad(said.square().sum(), x, create_graph=True)[0] for said in (ours, theirs)]
        assert torch.equal(*slopes)

    for change in (written, moved, halved, replaced, without_a_version, written_without_a_version):
        with at_rest(conv):
            with torch.inference_mode():
                convolve(conv, x)
            change()
            told()
    replaced()
    with at_rest(conv):
        told()
    unnoticed()
    told()  # nothing is at rest
    unnoticed()
    with at_rest(conv):
        told()
        kept = arranged(conv)
        with at_rest(conv):
            pass
        assert arranged(conv) is kept
    unnoticed()
    with at_rest(conv):  # another rest
        told()
    assert arranged(conv) is not arranged(conv)


@pytest.mark.parametrize("name", LAYERS)
def test_where_weights_are_learnt_they_have_a_slope(name: str) -> None:
    conv = LAYERS[name].requires_grad_()
    x = noise(2, 400, conv.in_channels)
    ours = torch.autograd.grad(convolve(conv, x).square().sum(), [*conv.parameters()])
    theirs = torch.autograd.grad(conv(x.transpose(1, 2)).square().sum(), [*conv.parameters()])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-2)


def test_a_bias_may_be_learnt_alone() -> None:
    conv = nn.Conv1d(3, 4, 5, stride=2).requires_grad_(False)
    assert conv.bias is not None
    conv.bias.requires_grad_()
    said = convolve(conv, noise(2, 50, 3))
    (slope,) = torch.autograd.grad(said.sum(), conv.bias)
    assert torch.equal(slope, torch.full((4,), float(said.shape[0] * said.shape[1])))


def test_each_clip_attends_to_its_own_frames() -> None:
    q, k, v = noise(3, 3, 4, 30, 8)
    frames = torch.tensor([30, 11, 1])
    heard = attend(q, k, v, frames)
    for i, own in enumerate(frames.tolist()):
        weights = (q[i, :, :own] @ k[i, :, :own].transpose(-1, -2) / 8**0.5).softmax(-1)
        torch.testing.assert_close(heard[i, :, :own], weights @ v[i, :, :own])


def test_a_layer_of_one_row_a_clip_is_a_linear_one() -> None:
    layer, x = nn.Linear(7, 5), noise(3, 7)
    torch.testing.assert_close(one_by_one(layer, x), layer(x))


@pytest.mark.parametrize(("inputs", "outputs"), [(12, 600), (600, 12), (300, 700), (5, 7)])
def test_a_wide_layer_added_up_in_parts_is_the_same_layer(inputs: int, outputs: int) -> None:
    layer, x = nn.Linear(inputs, outputs).requires_grad_(False), noise(2, 9, inputs).requires_grad_()
    ours, theirs = wide(layer, x), layer(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    way = noise(2, 9, outputs, seed=1)
    for a, b in zip(torch.autograd.grad(ours, x, way), torch.autograd.grad(theirs, x, way), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    layer.requires_grad_()
    assert torch.autograd.grad(wide(layer, x).sum(), layer.weight)[0].abs().sum() > 0


def company(net: nn.Module, lengths: list[int], threads: int) -> list[tuple[Tensor, Tensor]]:
    """Each clip's scores and the slope of some of them, as heard together."""
    clips = nn.utils.rnn.pad_sequence([0.1 * noise(length, seed=length) for length in lengths], batch_first=True).requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with at_rest(net):
            said, frames = net(clips, torch.tensor(lengths))
            weights = nn.utils.rnn.pad_sequence([noise(own, 29) for own in frames.tolist()], batch_first=True)
            (slope,) = torch.autograd.grad((said * weights).sum(), clips)
    finally:
        torch.set_num_threads(before)
    return [(said[i, : int(frames[i])].detach(), slope[i, :length]) for i, length in enumerate(lengths)]


@to_the_bit
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["tiny-mel", "tiny-wave"])
def test_a_clip_and_its_slope_are_the_same_in_any_company(name: str, threads: int) -> None:
    """Lengths on both sides of torch's limit for a convolution of one clip, and both fewer and more clips than are seen at once."""
    model = aa.load_model(name)
    assert isinstance(model.net, TinyMel | TinyWave)
    lengths = [40000, 16001, 52480, 9000, 30100, 64000, 8000, 21000, 90000, 33000]
    alone = [company(model.net, [length], threads)[0] for length in lengths]
    for some in (lengths, lengths[::-1], lengths[:2], lengths[3:7]):
        for length, heard in zip(some, company(model.net, some, threads), strict=True):
            for a, b in zip(heard, alone[lengths.index(length)], strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("measure", [sum_of, length_of, LinfNorm().gauge, L2Norm().gauge, L1Norm().gauge])
def test_what_is_added_up_does_not_know_its_padding(measure: Callable[[Tensor], Tensor]) -> None:
    for length in (1, 7, 10, 100, 256, 4097, 60001):
        x = noise(3, length, seed=length)
        widths = [measure(F.pad(x, (0, more))) for more in (0, 1, 13, 64, 256, 5000)]
        assert all(torch.equal(a, b) for a, b in pairwise(widths))


def test_sums_are_rounded_once_and_so_are_lengths_but_for_those_of_sound() -> None:
    for length in (7, 256, 257, 4097, 60001):
        x = noise(1, length, seed=length)
        straight = torch.tensor(math.sqrt(math.fsum(value**2 for value in x[0].tolist())))
        assert sum_of(x).item() == torch.tensor(math.fsum(x[0].tolist())).item()
        assert length_of(x[:, None]).item() == straight.item()
        torch.testing.assert_close(length_of(x)[0], straight, rtol=2.0**-23, atol=0)
    x = noise(50, 60001)
    torch.testing.assert_close(length_of(x), x.double().norm(dim=1).float(), rtol=2.0**-23, atol=0)  # added up in one piece: 5 units off


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-22, 1e-13, 1.0, 1e13, 1e25])
def test_a_sound_too_faint_or_loud_for_squares_in_single_precision_has_its_length(scale: float) -> None:
    x = scale * noise(1, 5000)
    both = torch.cat([x, noise(1, 5000, seed=1)])  # in a batch with another
    straight = both.double().norm(dim=1).float()
    torch.testing.assert_close(length_of(x), straight[:1], rtol=2.0**-22, atol=0)
    torch.testing.assert_close(length_of(both), straight, rtol=2.0**-22, atol=0)
    spoilt = both.clone()
    spoilt[1, 7] = math.nan
    assert length_of(spoilt).isnan().tolist() == [False, True]
    assert torch.equal(length_of(spoilt)[:1], length_of(x))  # whatever its neighbour


def test_how_far_a_projection_goes_does_not_depend_on_its_neighbours() -> None:
    """Newton's rounds end when all are done; some need more of them."""
    size, room = noise(2000, 50).abs(), noise(2000, 50, seed=1).abs()
    size[::3] *= 20
    radius = torch.linspace(0.1, 6, 2000)
    start = radius / length_of(size)
    together = scale_by_newton(size, room, radius, start)
    for i in range(2000):
        row = slice(i, i + 1)
        assert torch.equal(scale_by_newton(size[row], room[row], radius[row], start[row])[0], together[i])


def test_a_slope_is_zero_in_the_padding() -> None:
    clean, lengths = noise(2, 30), torch.tensor([30, 12])
    region = aa.Linf(0.1).around(clean * (torch.arange(30) < lengths[:, None]), lengths, box=None)
    pulled = region.pull(region.start(), torch.ones(2, 30))
    assert pulled.sum(1).tolist() == [30, 12]


def test_an_eighth_root_is_the_same_wherever_it_lies() -> None:
    gain = noise(1, 225, 513).abs()
    root = evened(gain)
    torch.testing.assert_close(root, (gain * gain.sum() / gain.square().sum()).clamp_max(1) ** (1 / 8))
    for neighbours in (1, 2, 4):
        assert torch.equal(evened(torch.cat([noise(neighbours, 225, 513, seed=1).abs(), gain]))[-1:], root)

"""One sticker for many views: on linear nets, where what it can do is known."""

import math

import pytest
import torch
from nets import inputs_for, labels_of, linear
from torch import Tensor, nn

from audioadv import attacks
from audioadv.attacks.eot import Expectation
from audioadv.attacks.objective import objective
from audioadv.attacks.rp2 import unprintable
from audioadv.errors import MalformedSpec, OptionError, UnusableBatch
from audioadv.evaluation.evaluate import evaluate
from audioadv.models.classifier import Classifier
from audioadv.threat.bounds import MIN, Linf
from audioadv.threat.channels.specs import parse_channel
from audioadv.threat.labels import Classify, Misclassify, margin
from audioadv.threat.model import ThreatModel
from audioadv.threat.stickers import Patch, Sticker

SHAPE = (1, 5, 6)
NET, STICKER = linear(2, SHAPE), Sticker.parse("3x3+1+2")
MASK = torch.zeros(5, 6, dtype=torch.bool)
MASK[1:4, 2:5] = True
WEIGHTS = (NET[1].weight[0] - NET[1].weight[1]).detach().reshape(SHAPE)[0]


def views(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs of the first class, and how far each is ahead."""
    x = inputs_for(SHAPE, count, None, seed)
    x = x[labels_of(NET, x) == 0]
    return x, (NET(x)[:, 0] - NET(x)[:, 1]).detach()


def test_the_views_fall_that_one_sticker_can_bring_down() -> None:
    x, ahead = views(40)
    falls = ahead < WEIGHTS[MASK].abs().sum()  # by 1 at each place of the mask
    assert 5 < falls.sum() < len(x) - 3
    result = attacks.rp2(objective(NET, Misclassify(0, margin)), STICKER.around(x, box=None), steps=100)
    assert result.reached == falls.tolist()
    assert result.shared is not None
    torch.testing.assert_close(result.shared[0], -WEIGHTS.sign() * MASK)
    fallen = result.adversarial[falls] - x[falls]
    torch.testing.assert_close(fallen, result.shared.expand_as(fallen))
    more, further = views(40, seed=5)
    laid = attacks.everywhere(STICKER.around(more, box=None), result.shared)
    assert torch.equal(labels_of(NET, laid) != 0, further < WEIGHTS[MASK].abs().sum())


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_the_sticker_is_as_small_as_its_weight_asks_for(share: float) -> None:
    """Where length weighs a share of the slope's own length, the loss is left at just that share of error."""
    x, ahead = views(6)
    x, ahead, slope = x[ahead.argmin()][None], ahead.min(), WEIGHTS[MASK].norm()
    wanted = objective(NET, Classify(1))
    result = attacks.rp2(wanted, STICKER.around(x, box=None), steps=600, weight=share * float(slope))
    assert all(result.reached)
    assert result.shared is not None
    expected = (ahead + math.log((1 - share) / share)) / slope
    assert float(result.shared.norm()) == pytest.approx(float(expected), rel=0.02)


def test_colours_come_near_the_palette() -> None:
    palette = torch.tensor([[0.2], [0.8]])
    grey = torch.full((1, 1, 5, 6), 0.5, dtype=torch.float64)
    spots = grey.clone()
    spots[0, 0, 2, 3], spots[0, 0, 4, 4] = 0.3, 0.8
    torch.testing.assert_close(unprintable(grey, spots, palette), torch.tensor([0.1 * 0.5], dtype=torch.float64))
    x = inputs_for(SHAPE, 40, (0, 1))
    ahead = (NET(x)[:, 0] - NET(x)[:, 1]).detach()
    x = x[(ahead > 0) & (ahead < 1)]
    region, wanted, off = STICKER.around(x), objective(lambda inputs: 0.1 * NET(inputs), Misclassify(0, margin)), list[float]()
    for colours in (None, palette):
        result = attacks.rp2(wanted, region, steps=300, palette=colours)
        assert all(result.reached)
        seen = result.adversarial[:, 0][:, MASK]
        off.append(float((seen[..., None] - palette[:, 0]).abs().amin(2).mean()))
    assert off[1] < 0.5 * off[0]
    with pytest.raises(UnusableBatch, match="a number for each channel"):
        attacks.rp2(wanted, region, palette=torch.zeros(2, 3))


def test_a_patch_is_made_in_many_places_and_a_sticker_for_what_the_camera_does() -> None:
    places = list[Tensor]()

    class Bright(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            places.append((images == 1).flatten(1).any(0))
            return torch.stack([torch.full((len(images),), 3.5), images.flatten(1).sum(1)], 1)

    clean = torch.zeros(4, 1, 9, 9)
    region = Patch((2, 2)).around(clean)
    result = attacks.rp2(objective(Bright(), Misclassify(0, margin)), region, steps=40)
    assert all(result.reached)
    assert torch.stack(places).any(0).sum() > 40  # of 81 that it can lie at
    assert result.parameters is not None
    moved = region.redrawn([torch.Generator().manual_seed(seed) for seed in range(4)])
    assert (moved.inputs(result.parameters).flatten(1).sum(1) > 3.5).all()
    assert not torch.equal(moved.inputs(result.parameters), result.adversarial)

    x, _ = views(20)
    over = Expectation(parse_channel("gaussian:0.05"), draws=2, check_draws=8)
    seen = attacks.rp2(objective(NET, Misclassify(0, margin), expectation=over), STICKER.around(x, box=None), steps=40)
    assert seen.rate is not None
    assert (seen.rate[torch.tensor(seen.reached)] >= 0.9).all()
    assert sum(seen.reached) >= 3


def test_it_has_a_radius_and_counts_what_it_asks() -> None:
    x, _ = views(20)
    seen = list[int]()
    spied = Classifier(lambda inputs: (seen.append(len(inputs)), NET(inputs))[1])
    result = attacks.rp2(objective(spied, Misclassify(0)), STICKER.around(x, box=None), steps=12, batch=4)
    assert result.forwards.sum() == sum(seen)
    assert result.backwards.sum() == 12 * 4
    with pytest.raises(OptionError, match="fixed radius"):
        attacks.rp2(objective(NET, Misclassify(0)), Linf(MIN).around(x, box=None))


def test_a_patch_may_lie_anywhere_and_anywhere_is_as_likely() -> None:
    for size, width in ((5, 28), (8, 28)):
        region = Patch((size, size)).around(torch.zeros(1, 1, width, width))
        tops = []
        for draw in range(800):
            laid = region.redrawn([torch.Generator().manual_seed(draw)]).map
            rows = laid.lay(torch.ones(1, 1, size, size), region.clean)[0, 0].sum(1).nonzero()[:, 0]
            assert len(rows) == size
            tops.append(int(rows[0]))
        counts = torch.tensor(tops).bincount(minlength=width - size + 1)
        assert len(counts) == width - size + 1
        assert counts.min() > 0.4 * 800 / len(counts)


def test_one_picture_for_all_is_refused_where_each_would_have_its_own() -> None:
    net, x = Classifier(nn.Flatten()), torch.rand(2, 1, 7, 7)
    for bound in (Patch((3, 3)), Patch((3, 3)) | Linf(0.01), 0.5 * Patch((3, 3)) + 0.5 * Linf(0.01)):
        with pytest.raises(OptionError, match="rp2"):
            evaluate(net, x, net(x).argmax(1), bound, "pgd")


@pytest.mark.parametrize("bound", [Patch((3, 3)), STICKER], ids=str)
def test_of_no_views_there_is_no_sticker(bound: Patch | Sticker) -> None:
    result = attacks.rp2(objective(NET, Misclassify(torch.zeros(0, dtype=torch.int64))), bound.around(inputs_for(SHAPE, 0, None)), steps=2)
    assert result.adversarial.shape == (0, *SHAPE)
    assert (result.outcome, result.shared) == ((), None)


def test_views_that_a_patch_misses_break_no_claim() -> None:
    x = inputs_for((1, 6, 6), 8, (0, 1)).float()
    net = linear(2, (1, 6, 6)).float()
    bound = Patch((4, 4))
    result = attacks.rp2(objective(net, Misclassify(labels_of(net, x), margin)), bound.around(x), steps=50)
    assert 0 < sum(result.reached) < 8
    assert ThreatModel(bound).check(x, result.adversarial, parameters=result.parameters) == [None] * 8


WRONG = {
    "no pair": lambda: Sticker(((0, 8),)),  # type: ignore[arg-type]
    "a number": lambda: Sticker(5),  # type: ignore[arg-type]
    "half a pixel": lambda: Sticker((((8.5, 8), (0, 0)),)),  # type: ignore[arg-type]
    "half a row": lambda: Patch((2.5, 2)),  # type: ignore[arg-type]
    "a text for rows": lambda: Patch(("a", 2)),  # type: ignore[arg-type]
    "a turn that is a text": lambda: Patch((2, 2), "a"),  # type: ignore[arg-type]
    "a turn that is a truth": lambda: Patch((2, 2), True),
    "a turn that is no number": lambda: Patch((2, 2), float("nan")),
}


@pytest.mark.parametrize("name", WRONG)
def test_sizes_and_places_are_whole_numbers(name: str) -> None:
    with pytest.raises(MalformedSpec, match=r"for example patch:8x8|give pairs of sizes and first places"):
        WRONG[name]()


@pytest.mark.parametrize(("size", "shape"), [((20, 20), (2, 1, 8, 8)), ((8, 9), (2, 1, 8, 8)), ((9,), (2, 8))])
def test_a_patch_that_is_larger_than_its_inputs_is_told(size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(UnusableBatch, match="larger than inputs of shape"):
        Patch(size).around(torch.rand(shape))
    Patch(shape[-len(size) :]).around(torch.rand(shape))

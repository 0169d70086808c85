"""What a turn, a delay, a sticker, a patch and a feature distance mean: known answers."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from audioadv.attacks.draws import wide_start
from audioadv.attacks.objective import objective
from audioadv.attacks.pgd import pgd
from audioadv.attacks.result import Outcome
from audioadv.attacks.shrink import find_then_shrink
from audioadv.errors import MalformedSpec, OptionError, UnusableBatch
from audioadv.threat.algebra import Mix
from audioadv.threat.bounds import L0, L1, MIN, Linf, parse_bound
from audioadv.threat.features import Feature
from audioadv.threat.labels import Misclassify
from audioadv.threat.region import Norm, Region
from audioadv.threat.stickers import Patch, Sticker
from audioadv.threat.warps import Spatial, Timing, retime, rotate


class Below:
    """To bring a score below zero."""

    def loss(self, outputs: Tensor) -> Tensor:
        return outputs

    def margin(self, outputs: Tensor, slack: float = 0.0) -> Tensor:
        return (outputs + 0.01 * slack).clamp_min(0)

    def reached(self, outputs: Tensor) -> Tensor:
        return outputs < 0

    def rows(self, index: Tensor) -> "Below":
        return self


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_a_quarter_turn_and_whole_pixels_are_exact() -> None:
    images = noise(2, 3, 6, 6)
    turned = rotate(images, torch.tensor([[math.pi / 2, 0, 0], [0, 2, -1]]))
    torch.testing.assert_close(turned[0], images[0].rot90(1, (1, 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[1, :, :5, 2:], images[1, :, 1:, :4], atol=1e-6, rtol=0)
    assert (turned[1, :, 5] == 0).all()
    assert (turned[1, :, :, :2] == 0).all()


def test_a_square_picture_turns_as_one_and_a_long_one_keeps_its_shape() -> None:
    image = torch.zeros(1, 1, 5, 9)
    image[0, 0, 2, 4:7] = 1  # a hand from the middle to the right
    turned = rotate(image, torch.tensor([[math.pi / 2, 0, 0]]))
    torch.testing.assert_close(turned[0, 0, :3, 4], torch.ones(3), atol=1e-5, rtol=0)  # points up


def test_a_delay_and_a_speed_are_exact_on_a_ramp() -> None:
    ramp = torch.arange(20.0).expand(3, 20)
    moved = retime(ramp, torch.tensor([[3.0, 0.0], [0.5, 0.0], [0.0, 0.1]]))
    torch.testing.assert_close(moved[0, 3:], ramp[0, :17])
    torch.testing.assert_close(moved[1, 1:], ramp[1, 1:] - 0.5)
    torch.testing.assert_close(moved[2, :17], 1.1 * ramp[2, :17])
    assert (moved[0, :3] == 0).all()


@pytest.mark.parametrize(("bound", "shape"), [(Spatial(15, 2), (4, 1, 9, 9)), (Timing(4, 0.1), (4, 30)), (Timing(4, 0.1), (4, 2, 30))])
def test_no_move_is_no_change_and_moves_keep_to_their_units(bound: Spatial | Timing, shape: tuple[int, ...]) -> None:
    clean = noise(*shape)
    region = bound.around(clean)
    torch.testing.assert_close(region.inputs(region.start()), clean, atol=1e-6, rtol=0)
    half = region.start() + 0.5
    specs = bound.found(region.knowing(half), region.inputs(half))
    assert specs == [{"spatial": "spatial:7.5,1", "timing": "timing:2,0.05"}[bound.kind]] * 4
    assert (region.gauge(clean) == math.inf).all()  # inputs alone do not tell


def brightness_left(images: Tensor) -> Tensor:
    """Above zero while the brightness lies left of the third quarter."""
    columns = torch.arange(float(images.shape[-1]))
    middle = (images.sum((1, 2)) * columns).sum(1) / images.sum((1, 2, 3)).clamp_min(1e-6)
    return 7.25 - middle


def blob() -> Tensor:
    image = torch.zeros(2, 1, 13, 13)
    image[:, :, 5:8, 4:7] = 1
    return image


@pytest.mark.parametrize(("shift", "reached"), [(2.0, False), (2.5, True)])
def test_a_shift_of_known_size_is_needed_and_found(shift: float, reached: bool) -> None:
    region = Spatial(0.0, shift).around(blob())
    for result in (
        pgd(objective(brightness_left, Below()), region, steps=20),
        find_then_shrink(objective(brightness_left, Below()), region, steps=20, minimal=False),
    ):
        assert result.reached == [reached] * 2
        if reached:
            assert result.parameters is not None
            torch.testing.assert_close(region.inputs(result.parameters), result.adversarial)


def test_the_smallest_move_is_searched_for() -> None:
    bound = Spatial()
    region = bound.around(blob())
    result = find_then_shrink(objective(brightness_left, Below()), region, steps=150)
    assert all(result.reached)
    assert result.parameters is not None
    (first, _) = bound.found(region.knowing(result.parameters), result.adversarial)
    found = parse_bound(first)
    assert isinstance(found, Spatial)
    assert not isinstance(found.shift, str)
    assert 2.25 - 0.1 * found.shift <= found.shift < 2.6  # turning helps a little, shifting by 2.25 is enough


def darkness_or_left(images: Tensor) -> Tensor:
    """Above zero while the picture is dark or its brightness lies on the left: a shift cannot help the one, nor noise the other."""
    total = images.sum((1, 2, 3))
    middle = (images.sum((1, 2)) * torch.arange(13.0)).sum(1) / total.clamp_min(1e-6)
    return torch.maximum(6.5 - middle, 12 - total)


def test_the_affine_adversary_wins_where_each_member_of_the_union_fails() -> None:
    """Half of a shift and half of a noise, where all of either is not enough."""
    spatial, noisy = Spatial(0.0, 4.0), Linf(0.04)
    wins = {}
    for bound in (spatial, noisy, spatial | noisy, 0.5 * spatial + 0.5 * noisy):
        result = pgd(objective(darkness_or_left, Below()), bound.around(blob()), steps=100, step_size=0.05)
        wins[str(bound)] = all(result.reached)
    assert list(wins.values()) == [False, False, False, True], wins


def test_wide_draws_are_allowed_and_half_of_them_at_an_end() -> None:
    clean = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = wide_start(Spatial(30, 3).around(clean), seed=0)
    assert drawn.shape == (400, 3)
    assert drawn.abs().max() == 1
    assert ((drawn.abs() == 1).float().mean(0) - 0.5).abs().max() < 0.1
    assert ((drawn == 1).all(1).float().mean() - 1 / 64).abs() < 0.02  # one of eight corners
    assert torch.equal(wide_start(Spatial(30, 3).around(clean[7:9]), seed=0), drawn[7:9])


def test_a_mix_reads_back_a_change_that_is_inside_and_refuses_one_that_is_not() -> None:
    clean = noise(3, 60)
    for spec in ("linf:0.1@0.5_mix_l1:2@0.5", "l1:2@0.5_mix_linf:0.1@0.5", "l2:0.5@0.3_mix_l1:2@0.7"):
        bound = parse_bound(spec)
        region = bound.around(clean, box=None)
        corner = region.steepest(region.pull(region.start(), noise(3, 60) - 0.5))
        for scale, inside in ((0.97, True), (1.0, None), (1.06, False)):
            gauge = region.gauge(region.inputs(scale * corner))
            if inside is not None:
                assert ((gauge <= 1) == inside).all(), (spec, scale, gauge)
            assert (gauge <= scale * 1.02).all()


def test_a_sticker_of_any_mask_is_that_mask() -> None:
    mask = noise(7, 9) > 0.5
    mask[2:5, 3:6] = True
    sticker = Sticker.where(mask)
    clean = torch.full((2, 3, 7, 9), 0.5)
    region = sticker.around(clean)
    changed = region.project(torch.ones(2, 3, 7, 9))
    assert torch.equal(changed, 0.5 * mask.expand(2, 3, 7, 9))
    assert parse_bound(str(sticker)) == sticker
    outside = clean + 0.1 * ~mask
    assert (sticker.excess(region, outside) == math.inf).all()
    assert len(Sticker.where(torch.ones(8, 8)).rectangles) == 1
    assert Sticker.where(torch.tensor([0, 1, 1, 0, 1])) == Sticker.parse("2+1,1+4")


def test_a_patch_covers_what_it_lies_on_is_one_for_all_and_moves() -> None:
    clean = noise(3, 1, 9, 9)
    region = Patch((3, 3), 0).around(clean)
    pixels = region.project(torch.full((3, 1, 3, 3), 9.0))  # white
    laid = region.inputs(pixels)
    torch.testing.assert_close(laid[..., 3:6, 3:6], torch.ones(3, 1, 3, 3))
    outside = torch.ones(9, 9, dtype=torch.bool)
    outside[3:6, 3:6] = False
    torch.testing.assert_close(laid[..., outside], clean[..., outside])
    pulled = region.pull(pixels, noise(3, 1, 9, 9) - 0.5)
    assert torch.equal(pulled[0], pulled[1])
    torch.testing.assert_close(pulled.sum(0), (noise(3, 1, 9, 9) - 0.5)[..., 3:6, 3:6].sum(0))
    moved = region.redrawn([torch.Generator().manual_seed(seed) for seed in (1, 2, 3)])
    places = (moved.inputs(pixels) == 1).flatten(1)
    assert places.sum(1).tolist() == [9, 9, 9]
    assert not torch.equal(places[0], places[1])


def test_a_jingle_lies_in_the_sound() -> None:
    clean = noise(2, 20) - 0.5
    region = Patch((4,)).around(clean, box=(-1.0, 1.0))
    laid = region.inputs(region.start() + 0.75)
    torch.testing.assert_close(laid[:, 8:12], torch.full((2, 4), 0.75))
    assert torch.equal(laid[:, :8], clean[:, :8])


def test_a_linear_network_measures_a_length_and_its_steepest_step_has_no_rival() -> None:
    torch.manual_seed(0)
    weight = torch.randn(1, 6, 8)

    def network(x: Tensor) -> Tensor:  # one place, and a channel so large that scaling to length 1 stays linear
        return torch.cat([x @ weight[0].T, torch.full((len(x), 1), 1e3)], 1)

    clean, slope = noise(3, 8), noise(3, 8) - 0.5
    region = Feature(network, 1e-3).around(clean, box=None)
    delta = 0.1 * (noise(3, 8) - 0.5)
    torch.testing.assert_close(region.gauge(clean + delta), (delta @ weight[0].T).norm(dim=1) / 1e3, rtol=1e-2, atol=1e-6)
    inside = region.project(50 * delta)
    assert (region.gauge(clean + inside) <= 1e-3).all()
    assert (region.gauge(clean + inside) >= 0.99e-3).all()
    slope = slope @ weight[0].T @ weight[0]  # no part of it unseen: else there is no longest step
    step = 1e-3 * region.steepest(slope)
    assert (region.gauge(clean + step) < 1.05e-3).all()
    seen = weight[0].double() / 1e3  # the longest climb is that of (J'J)^-1 slope, which conjugate gradients come to
    longest = 1e-3 * ((slope.double() @ torch.linalg.pinv(seen.T @ seen)) * slope).sum(1).sqrt()
    assert ((slope * step).sum(1) > 0.998 * longest).all()
    for seed in range(50):
        rival = torch.randn(3, 8, generator=torch.Generator().manual_seed(seed))
        rival = 1e-3 * rival / ((rival @ weight[0].T).norm(dim=1) / 1e3)[:, None]
        assert ((slope * step).sum(1) > (slope * rival).sum(1)).all()


def test_feature_networks_by_name_and_what_is_wrong_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seen_by.py").write_text("from torch import nn\ndef net():\n    return nn.Conv1d(1, 4, 3)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    bound = parse_bound("feature:0.2:seen_by:net")
    assert str(bound) == "feature:0.2:seen_by:net"
    region = bound.around(noise(2, 1, 30))
    adversarial = region.inputs(region.sample([torch.Generator().manual_seed(0)] * 2))
    assert (bound.excess(region, adversarial) <= 0).all()
    assert bound.found(region, adversarial)[0].endswith(":seen_by:net")
    with pytest.raises(OptionError, match="eval"):
        Feature(nn.Linear(2, 2), 0.1)
    with pytest.raises(MalformedSpec, match="no network"):
        parse_bound("feature:0.2")


def test_bounds_that_do_not_fit_say_what_does() -> None:
    with pytest.raises(UnusableBatch, match="timing"):
        Spatial(3, 3).around(noise(2, 9))
    with pytest.raises(UnusableBatch, match="spatial"):
        Timing(3, 0.1).around(noise(2, 1, 9, 9))
    with pytest.raises(MalformedSpec, match="moves the input"):
        (Spatial(3, 3) & Linf(0.1)).around(noise(2, 1, 9, 9))
    with pytest.raises(MalformedSpec, match="Cut its parts"):
        (0.5 * Linf(0.1) + 0.5 * Linf(0.2)) & Linf(0.1)
    with pytest.raises(MalformedSpec, match=r"sum to 1\.1"):
        (0.5 * Linf(0.1) + 0.6 * Linf(0.2)).around(noise(2, 9))
    with pytest.raises(MalformedSpec, match="smallest"):
        Linf(MIN) | Linf(0.1)


def test_the_smallest_of_one_kind_within_another() -> None:
    """On a linear model, with a cap that makes the nearest point of l2 one of two pieces."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 1, bias=False), nn.Flatten(0))
    clean = noise(4, 20)
    clean = clean * net(clean).detach().sign()[:, None]
    alone = find_then_shrink(objective(net, Below()), parse_bound("l2:min").around(clean, box=None), steps=200)
    cap = 0.8 * float((alone.adversarial - clean).abs().amax())
    bound = parse_bound(f"l2:min_and_linf:{cap}")
    assert bound.minimal
    region = bound.around(clean, box=None)
    result = find_then_shrink(objective(net, Below()), region, steps=300)
    assert all(result.reached)
    assert ((result.adversarial - clean).abs() <= cap + 1e-6).all()
    found = parse_bound(bound.found(region, result.adversarial)[0])
    assert not found.minimal
    assert (found.excess(found.around(clean, box=None), result.adversarial)[0] < 1e-4).all()
    assert (result.gauge >= net(clean).detach() / net[0].weight.norm() * 0.999).all()


def test_the_parts_of_a_mix_share_out_the_box() -> None:
    clean = noise(3, 60)
    region = (0.5 * Linf(0.6) + 0.5 * Linf(0.8)).around(clean)
    given = 4 * noise(3, 2, 60) - 2
    parts = region.project(given)
    inputs = clean + parts.sum(1)  # no clipping left to do
    assert ((inputs >= -1e-6) & (inputs <= 1 + 1e-6)).all()
    loose = given.clamp(torch.tensor([[-0.3], [-0.4]]), torch.tensor([[0.3], [0.4]]))
    assert (parts.abs() <= loose.abs() + 1e-6).all()
    assert (parts * loose >= 0).all()  # shrunk, and never turned


@dataclass(frozen=True)
class BalancedNorm:
    """A norm from elsewhere: changes that sum to zero, by their largest. Projecting onto any other set unbalances them."""

    def gauge(self, delta: Tensor) -> Tensor:
        balanced = delta.flatten(1).sum(1).abs() <= 1e-4
        return torch.where(balanced, delta.flatten(1).abs().amax(1), math.inf)

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        balanced = delta - delta.mean(1, keepdim=True)
        return balanced * (radius / balanced.abs().amax(1).clamp_min(1e-30)).clamp_max(1)[:, None]

    def steepest(self, slope: Tensor) -> Tensor:
        return self.project(1e6 * slope, torch.ones(len(slope)), None, None)

    def steady(self, slope: Tensor) -> Tensor:
        return self.steepest(slope)

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return self.steepest(torch.randn(clean.shape, generator=generator)[None])[0]

    def rows(self, index: Tensor) -> "BalancedNorm":
        return self


@dataclass(frozen=True)
class Balanced:
    """A bound from elsewhere, which knows nothing of the algebra."""

    radius: float
    minimal = False

    def __str__(self) -> str:
        return f"balanced:{self.radius}"

    def around(
        self, clean: Tensor, lengths: Tensor | None = None, box: tuple[float, float] | None = (0.0, 1.0), grid: float | None = None
    ) -> Region:
        return replace(Linf(self.radius).around(clean, lengths, box, grid), norm=BalancedNorm())

    def senseless(self, clean: Tensor) -> str | None:
        return None

    def excess(self, region: Region, adversarial: Tensor) -> Tensor:
        return region.gauge(adversarial) - region.radius

    def found(self, region: Region, adversarial: Tensor) -> list[str]:
        return [str(self)] * len(adversarial)


def test_bounds_from_elsewhere_combine_and_what_cannot_be_inside_is_the_clean_input() -> None:
    clean = noise(4, 30)
    for bound in (
        Balanced(0.1) & L1(0.5),
        L1(0.5) & Balanced(0.1),
        Balanced(0.1) | L1(0.5),
        L0(3) & Balanced(0.1),
        0.5 * L1(0.5) + Mix((0.5,), (Balanced(0.1),)),
    ):
        region = bound.around(clean, box=None)
        for given in (
            region.start(),
            noise(*region.start().shape) - 0.3,
            region.sample([torch.Generator().manual_seed(i) for i in range(4)]),
        ):
            y = region.project(given)
            assert (region.norm.gauge(y) <= region.radius + 1e-6).all()
        assert str(bound).count("balanced:0.1") == 1


def test_a_norm_from_elsewhere_is_taken_at_what_makes_a_norm_and_refused_if_it_says_more() -> None:
    clean = noise(4, 30)

    class Pointed(BalancedNorm):
        def extreme(self, slope: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
            return self.project(1e6 * slope, radius, None, None)

        sparse = True

    class Derived(Pointed, Norm):
        sparse = True

    with pytest.raises(OptionError, match=r"norm Pointed: its sparse and extreme would not be heard.*class Pointed\(Norm\)"):
        replace(Balanced(0.1).around(clean, box=None), norm=Pointed())
    own, plain = replace(Balanced(0.1).around(clean, box=None), norm=Derived()), Balanced(0.1).around(clean, box=None)
    assert (own.norm.sparse, plain.norm.sparse, plain.norm.gradual, plain.norm.placed, plain.norm.rounds) == (True, *[False] * 4)
    assert plain.members() == (plain,)
    assert plain.limits is None
    torch.testing.assert_close(plain.extreme(noise(4, 30)), own.extreme(noise(4, 30)), rtol=0, atol=1e-4)
    assert torch.equal(plain.extent(clean), plain.norm.gauge(clean))


def test_a_sound_of_a_minute_is_retimed_as_exactly_as_a_short_one() -> None:
    wave, late, faster = torch.sin(0.5 * torch.arange(60 * 16000.0)), 0.3, 0.001
    place = (torch.arange(len(wave), dtype=torch.float64) - late) * (1 + faster)
    before = place.floor().long()
    inside = (before >= 0) & (before + 1 < len(wave))
    near, before = (place - place.floor())[inside], before[inside]
    true = (1 - near) * wave[before].double() + near * wave[before + 1].double()
    (got,) = retime(wave[None], torch.tensor([[late, faster]]))
    assert (got[inside] - true).abs().max() < 1e-4


def test_a_grey_patch_that_fools_is_no_clean_input() -> None:
    class Bright(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([torch.full((len(x),), 0.6), x.flatten(1).mean(1)], 1)

    result = pgd(
        objective(Bright(), Misclassify(torch.tensor([1]))), Patch((6, 6)).around(torch.full((1, 1, 6, 6), 0.7)), random_start=False
    )
    assert result.outcome == (Outcome.REACHED,)


def test_a_delay_that_leaves_nothing_is_senseless() -> None:
    assert Timing(8000, 0.05).senseless(torch.zeros(8000)) == "Nothing of 8000 samples is left by that delay. Give less."
    assert Timing(7999, 0.05).senseless(torch.zeros(8000)) is None
    assert Timing().senseless(torch.zeros(100)) is None

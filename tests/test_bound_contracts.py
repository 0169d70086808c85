"""What every bound promises, from one table: shapes, boxes, projections, steps, neighbours, radii, bad input."""

import math
from collections.abc import Callable, Collection

import pytest
import torch
from torch import Tensor

from audioadv.errors import AudioadvError, MalformedSpec, UnusableBatch
from audioadv.models.rest import all_bits
from audioadv.threat.bounds import L0, L1, L2, SNR, Bound, Linf, parse_bound
from audioadv.threat.combined import BothNorm
from audioadv.threat.features import Feature
from audioadv.threat.norms import LinfNorm
from audioadv.threat.region import Norm, Region
from audioadv.threat.stickers import Patch, Sticker
from audioadv.threat.warps import Spatial, Timing


def smoothed(x: Tensor) -> list[Tensor]:
    """Features of two layers of any input: curved, and smooth."""
    flat = x.flatten(2) if x.ndim > 2 else x[:, None]
    first = torch.stack([flat.mean(1).sin(), flat.mean(1).cos() + 1, flat.square().mean(1) + 0.5], 1)
    return [first, torch.nn.functional.avg_pool1d(first, 2).square()]


BOUNDS: dict[str, Bound] = {
    "linf": Linf(0.1),
    "l2": L2(0.5),
    "l1": L1(1.5),
    "l0": L0(3),
    "snr": SNR(15),
    "both": Linf(0.1) & L2(0.3),
    "three": L1(1.0) & Linf(0.2) & SNR(18),
    "either": Linf(0.1) | L1(1.5),
    "either of boths": (Linf(0.1) & L2(0.3)) | L0(2),
    "mix": 0.5 * Linf(0.1) + 0.5 * L1(1.5),
    "mix of three": 0.25 * L2(0.5) + 0.5 * Linf(0.1) + 0.25 * L1(1.0),
    "spatial": Spatial(20, 2),
    "timing": Timing(3.5, 0.1),
    "sticker": Sticker.parse("3+1,2+7"),
    "stickers": Sticker.parse("2x3+1+0,2x1+3+3"),
    "sticker and linf": Sticker.parse("3+1,2+7") & Linf(0.2),
    "sticker and l2": L2(0.4) & Sticker.parse("2x3+1+0,2x1+3+3"),
    "patch": Patch((3, 2), 20),
    "jingle": Patch((4,)),
    "feature": Feature(smoothed, 0.1),
    "turned and noisy": 0.5 * Spatial(20, 2) + 0.5 * Linf(0.1),
    "turned or noisy": Spatial(20, 2) | Linf(0.1) | L1(1.5),
    "late and noisy": 0.5 * Timing(3.5, 0.1) + 0.5 * L2(0.5),
    "mix or l2": (0.5 * Linf(0.1) + 0.5 * L1(1.5)) | L2(0.5),
    "turned and noisy or l2": L2(0.5) | (0.5 * Spatial(20, 2) + 0.5 * Linf(0.1)),
    "stuck or late": Sticker.parse("3+1,2+7") | Timing(3.5, 0.1),
}
IMAGES = {"spatial", "stickers", "sticker and l2", "patch", "turned and noisy", "turned or noisy", "turned and noisy or l2"}
SOUNDS = {"timing", "jingle", "late and noisy", "stuck or late"}
SHARED = {"patch", "jingle"}  # one for all examples: neighbours have their part in it
CONVEX = ["linf", "l2", "l1", "snr", "both", "three", "mix", "mix of three", "sticker", "sticker and linf", "sticker and l2"]
SHAPES = [(3, 24), (3, 2, 12), (3, 1, 5, 5), (3, 3, 4, 6)]
BOXES = [(0.0, 1.0), (-1.0, 1.0), None]


def cases(shapes: list[tuple[int, ...]], names: Collection[str] = BOUNDS) -> pytest.MarkDecorator:
    """Each of these bounds with each shape that it fits."""

    def fits(name: str, shape: tuple[int, ...]) -> bool:
        return name not in (SOUNDS if len(shape) == 4 else IMAGES)

    return pytest.mark.parametrize(("name", "shape"), [(name, shape) for name in names for shape in shapes if fits(name, shape)], ids=str)


every_bound = cases([(3, 24), (3, 1, 5, 5)])
every_case = cases(SHAPES)
every_box = pytest.mark.parametrize("box", BOXES, ids=str)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clean_inputs(shape: tuple[int, ...], box: tuple[float, float] | None) -> Tensor:
    clean = draw(shape, 0).sigmoid()
    clean[0].flatten()[:4] = torch.tensor([0.0, 1.0, 0.0, 1.0])  # saturated in the first box
    return clean if box != (-1.0, 1.0) else 2 * clean - 1


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def wild(region: Region, seed: int, scale: float = 2.0) -> Tensor:
    """Parameters far outside."""
    return scale * draw(tuple(region.start().shape), seed)


def excess(bound: Bound, region: Region, parameters: Tensor) -> Tensor:
    return bound.excess(region.knowing(parameters), region.inputs(parameters))


@every_case
@every_box
def test_everything_lands_inside_the_bound_and_the_box(name: str, shape: tuple[int, ...], box: tuple[float, float] | None) -> None:
    bound = BOUNDS[name]
    region = bound.around(clean_inputs(shape, box), box=box)
    sample = region.sample(generators(shape[0]))
    step = sample + each_radius(region, sample) * region.steepest(region.pull(sample, draw(shape, 3)))
    for parameters in (sample, region.project(wild(region, 1)), region.project(wild(region, 2, 0.05)), region.project(step)):
        inputs = region.inputs(parameters)
        assert inputs.shape == region.clean.shape
        assert region.holds(region.knowing(parameters).gauge(inputs)).all()
        assert (excess(bound, region, parameters) <= 1e-4).all()
        if box is not None:
            assert ((inputs >= box[0] - 1e-7) & (inputs <= box[1] + 1e-7)).all()
    outside = region.knowing(wild(region, 1, 50.0))
    assert (bound.excess(outside, outside.inputs(wild(region, 1, 50.0))) > 0).all()
    assert not outside.holds(outside.gauge(outside.inputs(wild(region, 1, 50.0)))).any()


def each_radius(region: Region, like: Tensor) -> Tensor:
    return region.radius.view(-1, *[1] * (like.ndim - 1))


@every_case
@every_box
def test_twice_is_once_and_the_inside_is_left_alone(name: str, shape: tuple[int, ...], box: tuple[float, float] | None) -> None:
    region = BOUNDS[name].around(clean_inputs(shape, box), box=box)
    once = region.project(wild(region, 4))
    torch.testing.assert_close(region.project(once), once, rtol=2e-5, atol=2e-6)
    inside = region.project(0.7 * once)
    assert torch.equal(region.project(0.9 * inside), 0.9 * inside)


@cases([(3, 24), (3, 1, 5, 5)], CONVEX)
@every_box
def test_no_point_inside_is_nearer_than_the_projection(name: str, shape: tuple[int, ...], box: tuple[float, float] | None) -> None:
    """For a convex set the projection y of d is the one point with <d - y, z - y> at most 0 for every z inside."""
    region = BOUNDS[name].around(clean_inputs(shape, box), box=box)
    if not region.added and box is not None:
        pytest.skip("a mix shares the box out in a way of its own")
    given = wild(region, 5, 0.5)
    nearest = region.project(given)
    for seed in range(10):
        inside = region.project(wild(region, 100 + seed, 0.05 * (1 + seed)) + 0.3 * seed * (given - nearest))
        angle = ((given - nearest) * (inside - nearest)).flatten(1).sum(1)
        assert (angle <= 1e-4 * (given - nearest).flatten(1).norm(dim=1) * inside.flatten(1).norm(dim=1) + 1e-6).all()


@every_bound
def test_the_nearest_of_a_union_is_the_nearest_of_its_members(name: str, shape: tuple[int, ...]) -> None:
    region = BOUNDS[name].around(clean_inputs(shape, (0.0, 1.0)))
    if not region.added:
        return
    given = wild(region, 6, 0.3)
    ours = (region.project(given) - given).flatten(1).square().sum(1)
    theirs = torch.stack([(member.project(given) - given).flatten(1).square().sum(1) for member in region.members()])
    torch.testing.assert_close(ours, theirs.amin(0), rtol=1e-5, atol=1e-6)


@cases(SHAPES, [name for name in BOUNDS if name not in SHARED])
def test_neighbours_and_order_change_nothing(name: str, shape: tuple[int, ...]) -> None:
    clean = clean_inputs(shape, (0.0, 1.0))
    bound = BOUNDS[name]
    region = bound.around(clean)
    given, slope = wild(region, 7), draw(shape, 8)

    def all_of(region: Region, given: Tensor, slope: Tensor, seeds: list[torch.Generator]) -> list[Tensor]:
        pulled = region.pull(given, slope)
        steps = region.steepest(pulled), region.steady(pulled)
        return [region.project(given), *steps, region.sample(seeds), region.inputs(given)]

    together = all_of(region, given, slope, generators(3))
    for index in (torch.tensor([2, 0]), torch.tensor([1])):
        fewer = all_of(region.rows(index), given[index], slope[index], [generators(3)[i] for i in index])
        anew = all_of(bound.around(clean[index]), given[index], slope[index], [generators(3)[i] for i in index])
        for whole, part, new in zip(together, fewer, anew, strict=True):
            torch.testing.assert_close(part, whole[index], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(new, whole[index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bound", [Linf(0) | L1(1), Linf(0) & L1(1), 0.5 * Linf(0) + 0.5 * L1(1)], ids=str)
def test_a_part_that_allows_nothing_is_no_share_of_no_change(bound: Bound) -> None:
    region = bound.around(torch.full((2, 10), 0.5))
    assert (region.gauge(region.clean) == 0).all()
    endless = region.at(torch.full((2,), torch.inf))
    assert endless.gauge(endless.inputs(endless.project(wild(region, 3)))).isfinite().all()
    assert region.holds(region.gauge(region.inputs(region.project(wild(region, 3))))).all()


@every_bound
def test_samples_are_keyed_and_random(name: str, shape: tuple[int, ...]) -> None:
    region = BOUNDS[name].around(clean_inputs(shape, (0.0, 1.0)))
    before = torch.get_rng_state()
    once, again, other = region.sample(generators(3)), region.sample(generators(3)), region.sample(generators(3, seed=9))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(once, again)
    assert ((once != other).flatten(1).any(1)).all()
    assert (once.flatten(1).abs().sum(1) > 0).all()


@cases([(3, 2, 300), (3, 1, 20, 20)])
def test_steps_climb_more_than_random_steps_of_the_same_gauge(name: str, shape: tuple[int, ...]) -> None:
    region = BOUNDS[name].around(clean_inputs(shape, None), box=None)
    slope = region.pull(region.start(), draw(shape, 11))
    radius = each_radius(region, slope)
    steepest, steady = (radius * step for step in (region.steepest(slope), region.steady(slope)))
    for step in (steepest, steady):
        assert region.holds(region.norm.gauge(step) * (1 - 1e-5)).all() or name == "feature"  # as long as 1 to first order
    for seed in range(10):
        rival = region.sample(generators(3, seed=100 * seed))
        for step in (steepest, steady):
            assert ((slope * step).flatten(1).sum(1) > (slope * rival).flatten(1).sum(1)).all()


NEARLY = {(0.0, 1.0): {"feature", "mix", "mix of three", "mix or l2"}, None: {"feature", "l0", "either of boths"}}
"""Whose extremes need not be the furthest: sums that the box cuts off, curved sets, and sets without end."""


@every_bound
@pytest.mark.parametrize("box", [(0.0, 1.0), None], ids=str)
def test_the_extreme_is_inside_and_nothing_projected_is_further_up_the_slope(
    name: str, shape: tuple[int, ...], box: tuple[float, float] | None
) -> None:
    region = BOUNDS[name].around(clean_inputs(shape, box), box=box)
    slope = draw(tuple(region.start().shape), 5)
    best = region.extreme(slope)
    assert (excess(BOUNDS[name], region, best) <= 1e-5).all()
    straight = region.steepest(slope) * region.radius.view(-1, *[1] * (slope.ndim - 1))
    for rival in (straight,) if name in NEARLY[box] else (straight, slope, 0.1 * slope, wild(region, 6)):
        assert ((slope * (region.project(rival) - best)).flatten(1).sum(1) <= 1e-4).all()


@every_case
def test_each_example_has_a_radius_of_its_own(name: str, shape: tuple[int, ...]) -> None:
    bound = BOUNDS[name]
    region = bound.around(clean_inputs(shape, (0.0, 1.0)))
    factors = torch.tensor([0.0, 0.5, 2.0])
    scaled = region.at(region.radius * factors)
    for parameters in (scaled.project(wild(region, 12)), scaled.sample(generators(3))):
        gauge = scaled.knowing(parameters).gauge(scaled.inputs(parameters))
        assert (gauge <= scaled.radius * (1 + 1e-4) + scaled.rounding()).all()
        assert (parameters[0] == 0).all()
    reach = region.knowing(parameters).gauge(region.inputs(parameters))
    assert reach[2] > reach[1]


@every_bound
def test_the_pulled_slope_is_the_slope(name: str, shape: tuple[int, ...]) -> None:
    """Against autograd through the map from parameters to inputs."""
    region = BOUNDS[name].around(clean_inputs(shape, None), box=None)
    parameters = region.sample(generators(3)).requires_grad_()
    slope = draw(shape, 13)
    (expected,) = torch.autograd.grad((region.inputs(parameters) * slope).sum(), parameters)
    torch.testing.assert_close(region.pull(parameters.detach(), slope), expected)


@cases([(3, 40)], [name for name in BOUNDS if name not in SHARED])
def test_padding_stays_clean_and_is_not_counted(name: str, shape: tuple[int, ...]) -> None:
    lengths, bound = torch.tensor([40, 25, 10]), BOUNDS[name]
    clean = clean_inputs(shape, None) * (torch.arange(40) < lengths[:, None])
    region = bound.around(clean, lengths, box=(-1.0, 1.0), grid=2.0**-15)
    slope = draw((3, 40), 14)
    together = region.sample(generators(3))
    moved = region.project(together - each_radius(region, together) * region.steepest(region.pull(together, slope)))
    for parameters in (together, moved):
        inputs = region.inputs(parameters)
        assert torch.equal((inputs - clean) * (torch.arange(40) >= lengths[:, None]), torch.zeros(3, 40))
    for i, length in enumerate(lengths.tolist()):
        alone = bound.around(clean[i : i + 1, :length], lengths[i : i + 1], box=(-1.0, 1.0), grid=2.0**-15)
        cut = region.rows(torch.tensor([i]), length)
        for own in (alone, cut):
            sample = own.sample([generators(3)[i]])
            torch.testing.assert_close(own.inputs(sample)[0], region.inputs(together)[i, :length])
            step = own.project(sample - each_radius(own, sample) * own.steepest(own.pull(sample, slope[i : i + 1, :length])))
            torch.testing.assert_close(own.inputs(step)[0], region.inputs(moved)[i, :length])


@pytest.mark.parametrize("name", [name for name in BOUNDS if name != "feature"])
def test_specs_come_back(name: str) -> None:
    assert parse_bound(str(BOUNDS[name])) == BOUNDS[name]


@every_bound
@pytest.mark.parametrize("value", [255.0, math.nan])
def test_inputs_that_no_region_fits(name: str, shape: tuple[int, ...], value: float) -> None:
    with pytest.raises(UnusableBatch, match="outside the box"):
        BOUNDS[name].around(torch.full(shape, value))
    with pytest.raises(UnusableBatch, match="floating point"):
        BOUNDS[name].around(torch.full(shape, 1, dtype=torch.uint8))


@pytest.mark.parametrize("kind", [Linf, L2, L1, L0])
@pytest.mark.parametrize("radius", [-1.0, math.nan, math.inf, "loud", None])
def test_radii_that_are_none(kind: Callable[[object], Bound], radius: object) -> None:
    with pytest.raises(AudioadvError, match=r"radius|number"):
        kind(radius)


@pytest.mark.parametrize(
    "spec",
    [
        "linf:0.1_or_",
        "_and_linf:0.1",
        "linf:0.1@x_mix_l1:1@0.5",
        "linf:0.1_mix_l1:1",
        "linf:0.1@-1_mix_l1:1@2",
        "spatial:3",
        "spatial:min,3",
        "spatial:-1,3",
        "timing:1,2",
        "sticker:8x8+1",
        "sticker:0+1",
        "sticker:8",
        "patch:0x1",
        "patch:ax1",
        "patch:1_0",
        "sticker:1_0+0",
        "feature:0.5",
        "feature:0.5:no_such_file:net",
        "linf:min_or_l1:3",
        "linf:min_and_l1:min",
    ],
)
def test_malformed_combinations(spec: str) -> None:
    with pytest.raises(MalformedSpec):
        parse_bound(spec)


@pytest.mark.parametrize(
    ("joined", "spec"),
    [
        (lambda: Linf(0.3) | "l1:10", "linf:0.3_or_l1:10"),
        (lambda: "l1:10" | Linf(0.3), "l1:10_or_linf:0.3"),
        (lambda: Linf(0.3) & "l1:10_or_l2:2", "linf:0.3_and_l1:10_or_linf:0.3_and_l2:2"),
        (lambda: "l1:10" & Linf(0.3), "l1:10_and_linf:0.3"),
        (lambda: 0.5 * Linf(0.3) + "l1:10@0.5", "linf:0.3@0.5_mix_l1:10@0.5"),
        (lambda: "l1:10@0.5" + 0.5 * Linf(0.3), "l1:10@0.5_mix_linf:0.3@0.5"),
        (lambda: 0.5 * Linf(0.3) + 0.3 * (L1(10) | L2(2)) + 0.2 * L0(3),
         "linf:0.3@0.5_mix_l1:10@0.3_mix_l0:3@0.2_or_linf:0.3@0.5_mix_l2:2@0.3_mix_l0:3@0.2"),
    ],
)  # fmt: skip
def test_bounds_combine_with_specs_and_sums_go_on(joined: Callable[[], Bound], spec: str) -> None:
    assert str(joined()) == spec


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_bound
def test_cuda_agrees_with_the_cpu(name: str, shape: tuple[int, ...]) -> None:
    clean, slope = clean_inputs(shape, (0.0, 1.0)), draw(shape, 21)
    results = []
    for device in ("cpu", "cuda"):
        region = BOUNDS[name].around(clean.to(device)).rows(torch.tensor([2, 0]))
        with all_bits():  # as while an attack runs
            sample = region.sample(generators(2))
            step = region.steepest(region.pull(sample, slope[[2, 0]].to(device)))
            moved = region.project(sample - each_radius(region, sample) * step)
        results.append([part.cpu() for part in (sample, step, moved, region.inputs(moved), excess(BOUNDS[name], region, moved))])
    # A step in features is made of finite differences, a thousandth of full scale long: they show rounding a thousand times as large.
    rtol, atol = (1e-2, 1e-3) if name == "feature" else (1e-4, 1e-5)
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=atol)


class Slab(Norm):
    """How far a change goes along one direction of length 1, either way."""

    def __init__(self, along: Tensor) -> None:
        self.along = along

    def gauge(self, delta: Tensor) -> Tensor:
        return (delta @ self.along).abs()

    def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
        far = delta @ self.along
        return delta - (far - torch.minimum(torch.maximum(far, -radius), radius))[:, None] * self.along

    def steepest(self, slope: Tensor) -> Tensor:
        return (slope @ self.along).sign()[:, None] * self.along

    steady = steepest

    def sample(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        return (2 * torch.rand((), generator=generator) - 1) * self.along

    def rows(self, index: Tensor) -> "Slab":
        return self


def test_the_nearest_within_two_slabs_is_nearer_than_where_taking_turns_ends() -> None:
    """They share a rhombus: y is the nearest to d where <d - y, corner - y> is at most 0 for all four corners."""
    ways = torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5]], dtype=torch.float64)
    given, radius = 5 * draw((200, 2), 0).double(), torch.ones(200, dtype=torch.float64)
    radii = torch.tensor([[1.0], [2.0]]).double().expand(2, 200)
    nearest = BothNorm((Slab(ways[0]), Slab(ways[1])), radii, 0 * radii).project(given, radius, None, None)
    corners = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]]).double() @ torch.linalg.inv(ways).T
    angles = torch.einsum("nd,nkd->nk", given - nearest, corners - nearest[:, None])
    assert angles.max() < 1e-3
    assert (nearest != given).any(1).float().mean() > 0.5


def test_what_lies_deep_in_all_parts_but_one_is_not_projected_once_more() -> None:
    """Not every projection leaves what is inside where it is: here, one that halves."""

    class Halving(Slab):
        def project(self, delta: Tensor, radius: Tensor, low: Tensor | None, high: Tensor | None) -> Tensor:
            return delta / 2

    radii = torch.ones(2, 3)
    both = BothNorm((Halving(torch.tensor([1.0, 0.0])), Slab(torch.tensor([0.0, 1.0]))), radii, 0 * radii)
    inside = torch.tensor([[0.9, 0.4], [0.4, 0.9], [0.9, 0.9]])
    assert torch.equal(both.settle(inside, radii, None, None), inside * torch.tensor([[1.0], [1.0], [0.5]]))


def test_of_several_parts_the_steady_step_is_their_mean_by_how_far_each_climbs() -> None:
    slope = torch.tensor([[8.0, 0.1, 0.1, 0.1], [1.0, 1.0, -1.0, 0.5]])
    region = (Linf(0.1) & L2(0.15)).around(torch.zeros(2, 4), box=None)
    signs = 0.1 * LinfNorm().steady(slope)
    signs = signs * (0.15 / signs.norm(dim=1, keepdim=True)).clamp_max(1)
    along = (0.15 * slope / slope.norm(dim=1, keepdim=True)).clamp(-0.1, 0.1)
    climbs = [(slope * step).sum(1, keepdim=True) for step in (signs, along)]
    torch.testing.assert_close(region.steady(slope), (climbs[0] * signs + climbs[1] * along) / sum(climbs), rtol=1e-4, atol=1e-6)


def test_samples_of_a_union_are_of_any_part_and_of_an_intersection_as_large_as_its_first() -> None:
    clean, own = torch.zeros(200, 24), generators(200)
    sums = (Linf(0.1) | L1(0.5)).around(clean, box=None).sample(own).abs().sum(1)
    assert 0.35 < float((sums > 0.5).float().mean()) < 0.65, "half of them are of Linf, whose entries come to 1.2"
    within = (Linf(0.1) & L2(10)).around(clean, box=None).sample(generators(200))
    assert float(within.std()) == pytest.approx(0.1 / 3**0.5, rel=0.05)


def test_features_of_no_inputs() -> None:
    assert Feature(smoothed, 0.1).around(torch.zeros(0, 1, 4, 6)).gauge(torch.zeros(0, 1, 4, 6)).shape == (0,)

"""Projections are the nearest point: known answers, and against a slow general solver."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from audioadv.threat.bounds import L0, L1, parse_bound
from audioadv.threat.norms import L0Norm, L1Norm, L2Norm, LinfNorm
from audioadv.threat.projections import project_l0, project_l1, scale_by_newton, scale_in_order, threshold_by_newton, threshold_in_order
from audioadv.threat.region import Region

NORMS = {"linf": LinfNorm(), "l2": L2Norm(), "l1": L1Norm()}
ORDERS = {"linf": np.inf, "l2": 2}


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("shape", [(3, 20), (3, 2, 10), (2, 3, 4, 5)])
@pytest.mark.parametrize("box", [None, (0.0, 1.0), (-1.0, 1.0)])
def test_lands_inside_the_ball_and_the_box(name: str, shape: tuple[int, ...], box: tuple[float, float] | None) -> None:
    norm, radius = NORMS[name], torch.linspace(0.1, 0.5, shape[0])
    clean = draw(shape, 0).sigmoid()
    low, high = (None, None) if box is None else (box[0] - clean, box[1] - clean)
    y = norm.project(3 * draw(shape, 1), radius, low, high)
    assert (norm.gauge(y) <= radius).all()
    if low is not None and high is not None:
        assert ((y >= low) & (y <= high)).all()


@pytest.mark.parametrize("name", NORMS)
def test_twice_is_once_and_the_inside_is_left_alone(name: str) -> None:
    norm, radius = NORMS[name], torch.tensor([0.3, 0.5])
    clean = draw((2, 30), 0).sigmoid()
    low, high = -clean, 1 - clean
    once = norm.project(3 * draw((2, 30), 1), radius, low, high)
    torch.testing.assert_close(norm.project(once, radius, low, high), once, rtol=2e-6, atol=1e-7)
    inside = 0.9 * once
    torch.testing.assert_close(norm.project(inside, radius, low, high), inside, rtol=0, atol=0)


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_is_the_nearest_point(name: str, seed: int) -> None:
    """Against a general constrained solver, with a box tight enough to cut."""
    norm, radius = NORMS[name], 0.6
    clean = draw((1, 6), seed).sigmoid()
    delta = 0.8 * draw((1, 6), seed + 10)
    low, high = -clean, 1 - clean
    ours = norm.project(delta, torch.tensor([radius]), low, high)[0].numpy()
    limits = [(float(a), float(b)) for a, b in zip(low[0], high[0], strict=True)]
    if name == "linf":
        limits = [(max(a, -radius), min(b, radius)) for a, b in limits]
    start, signs = np.zeros(6), np.sign(delta[0].numpy())  # the nearest point has delta's signs, and there the l1 ball is flat
    if name == "l1":
        limits = [(a, 0.0) if sign < 0 else (0.0, b) for (a, b), sign in zip(limits, signs, strict=True)]
    length = {"linf": lambda y: -1.0, "l2": lambda y: (y**2).sum() - radius**2, "l1": lambda y: (signs * y).sum() - radius}[name]
    constraint = [{"type": "ineq", "fun": lambda y: -length(y)}]
    found = minimize(lambda y: ((y - delta[0].numpy()) ** 2).sum(), start, bounds=limits, constraints=constraint, method="SLSQP")
    np.testing.assert_allclose(ours, found.x, atol=2e-4)


@pytest.mark.parametrize("spec", ["l1:1_and_l2:0.5", "l2:0.5_and_l1:1", "linf:0.3_and_l2:0.6_and_l1:1", "l1:9_and_l2:0.5", "l1:1_and_l2:9"])
@pytest.mark.parametrize("box", [None, (-0.2, 1.2)])
def test_what_l1_and_l2_share_is_projected_on_exactly(spec: str, box: tuple[float, float] | None) -> None:
    """Against Dykstra's projections in turn, until they have come to rest for good, in double precision."""
    clean, delta = draw((20, 6), 3).sigmoid().double(), 1.5 * draw((20, 6), 4).double()
    region = parse_bound(spec).around(clean, box=box)
    parts = [parse_bound(part).around(clean, box=box) for part in spec.split("_and_")]
    y, taken = delta, [torch.zeros_like(delta) for _ in parts]
    for _ in range(5000):
        before = [y, *taken]  # a point may wait at one place while what is taken off it grows
        for i, part in enumerate(parts):
            given = y + taken[i]
            y = part.project(given)
            taken[i] = given - y
        if max(float((now - then).abs().max()) for now, then in zip([y, *taken], before, strict=True)) < 1e-13:
            break
    torch.testing.assert_close(region.project(delta), y, rtol=0, atol=2e-5)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("radius", [1e-3, 1.0, 30.0, 70.0])
def test_l1_against_bisection_in_double_precision(boxed: bool, radius: float) -> None:
    delta, clean = 2 * draw((3, 2, 150), 5), draw((3, 2, 150), 6).sigmoid()
    clean[1] = (clean[1] > 0.5).float()  # saturated: half of the directions are shut
    low, high = (-clean, 1 - clean) if boxed else (None, None)
    ours = project_l1(delta, torch.full((3,), radius), low, high)
    size, sign = delta.double().abs(), delta.double().sign()
    room = torch.where(delta > 0, 1 - clean, clean).double() if boxed else torch.full_like(size, torch.inf)
    lower, upper = torch.zeros(3, 1, 1).double(), size.amax((1, 2), keepdim=True)
    for _ in range(200):
        middle = (lower + upper) / 2
        long = torch.minimum((size - middle).clamp_min(0), room).sum((1, 2), keepdim=True) > radius
        lower, upper = torch.where(long, middle, lower), torch.where(long, upper, middle)
    exact = sign * torch.minimum((size - upper).clamp_min(0), room)
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=3e-6)
    assert (ours.abs().sum((1, 2)) <= radius).all()


def entries(kind: str) -> tuple[Tensor, Tensor]:
    """Twenty examples' sizes of changes, and the room that a box leaves them."""
    size, room, few = draw((20, 3000), 11).abs(), draw((20, 3000), 12).sigmoid(), draw((20, 3000), 14) > 1.5
    return {
        "normal": (size, room),
        "tied": ((2 * size).round() / 2, (4 * room).round() / 4),
        "wide": (size * (2 * draw((20, 3000), 13)).exp(), room),
        "inside": (1e-7 * size, room),
        "sparse": (torch.where(few, size, 0.0), room),
        "on the box": (torch.where(few, room + 0.5, room), room),
        "shut": (size, torch.where(draw((20, 3000), 15) > 0, room, 0.0)),
    }[kind]


KINDS = ["normal", "tied", "wide", "inside", "sparse", "on the box", "shut"]


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_two_ways_to_the_l1_threshold_agree(kind: str, boxed: bool) -> None:
    (size, room), radius = entries(kind), torch.logspace(-2, 4, 20)
    cap = room if boxed else None
    ways = threshold_by_newton(size, cap, radius), threshold_in_order(size, cap, radius)
    lengths = [
        torch.minimum((size - t[:, None]).clamp_min(0), room if boxed else torch.full_like(size, torch.inf)).sum(1, dtype=torch.float64)
        for t in ways
    ]
    full = (torch.minimum(size, room) if boxed else size).sum(1, dtype=torch.float64)
    for length in lengths:
        rounding = 2e-7 * float(size.amax())  # of the threshold, in float32
        torch.testing.assert_close(length, full.minimum(radius.double()), rtol=2e-5, atol=1e-5 + rounding)


@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_from_far_away_the_nearest_point_under_l1_is_at_the_radius(far: float) -> None:
    """In double precision, where no rounding of the threshold hides what it is. Between far entries none is free."""
    delta, clean = far * draw((20, 100), 5).double(), draw((20, 100), 6).sigmoid().double()
    lengths = project_l1(delta, torch.full((20,), 9.0).double(), -clean, 1 - clean).abs().sum(1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 9.0), rtol=2e-6, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_ways_to_the_l2_scale_agree(kind: str) -> None:
    (size, room), radius = entries(kind), torch.logspace(-2, 2, 20)
    start = (radius / size.norm(dim=1)).clamp_max(1.0)
    full = torch.minimum(size, room).double().norm(dim=1)
    for scale in (scale_by_newton(size, room, radius, start), scale_in_order(size, room, radius)):
        assert ((scale > 0) & (scale <= 1)).all()
        length = torch.minimum(scale[:, None] * size, room).double().norm(dim=1)
        torch.testing.assert_close(length, full.minimum(radius.double()), rtol=2e-6, atol=0)
        assert scale[full < 0.99 * radius].eq(1).all()


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (4, 3, 2, 3)])
def test_l0_against_every_choice_of_places(boxed: bool, shape: tuple[int, ...]) -> None:
    delta, clean = 2 * draw(shape, 7), draw(shape, 8).sigmoid()
    low, high = (-clean, 1 - clean) if boxed else (None, None)
    counts = torch.tensor([0.0, 1.0, 3.9, 6.0])
    ours = project_l0(delta, counts, low, high)
    clipped = delta if low is None or high is None else torch.minimum(torch.maximum(delta, low), high)
    for row, count in enumerate(counts.int().tolist()):
        rest = delta.shape[1:] if delta.ndim < 3 else delta.shape[2:]
        best = min(
            (delta[row] - clipped[row] * torch.tensor([place in kept for place in range(6)]).view(rest)).square().sum()
            for kept in combinations(range(6), count)
        )
        torch.testing.assert_close((delta[row] - ours[row]).square().sum(), best)
    assert torch.equal(L0Norm(counts).gauge(ours), counts.floor())
    assert torch.equal(project_l0(ours, counts, low, high), ours)


def test_an_l0_step_moves_the_best_places_and_all_their_channels() -> None:
    slope, count = draw((3, 3, 4, 4), 9), torch.tensor([1.0, 4.0, 16.0])
    step = L0Norm(count).steepest(slope) * count[:, None, None, None]
    assert torch.equal((step != 0).any(1).flatten(1).sum(1).float(), count)
    gains = slope.abs().sum(1).flatten(1).sort(1, descending=True).values
    expected = torch.stack([row[: int(k)].sum() for row, k in zip(gains, count, strict=True)])
    torch.testing.assert_close((step * slope).flatten(1).sum(1), expected)


@pytest.mark.parametrize("name", [*NORMS, "l0"])
@pytest.mark.parametrize("boxed", [False, True])
def test_the_extreme_point_is_inside_and_no_point_is_further_up_the_slope(name: str, boxed: bool) -> None:
    clean, slope, radius = draw((3, 12), 0).sigmoid(), draw((3, 12), 1), torch.tensor([0.2, 1.0, 4.0])
    norm = L0Norm(radius) if name == "l0" else NORMS[name]
    low, high = (-clean, 1 - clean) if boxed else (torch.full_like(clean, -5.0), torch.full_like(clean, 5.0))
    region = Region(clean, radius, norm, None, low, high)
    best = region.extreme(slope)
    assert (norm.gauge(best) <= radius * (1 + 1e-6)).all()
    assert ((best >= low) & (best <= high)).all()
    for seed in range(100):
        rival = region.project(draw((3, 12), 100 + seed) * (1 + seed / 5) + 0.5 * seed * slope)
        assert ((slope * best).sum(1) >= (slope * rival).sum(1) * (1 - 2e-5)).all()


@pytest.mark.parametrize("spec", ["l1:1", "l1:1_and_linf:0.3", "l1:0.05_and_linf:0.5", "linf:0.03_or_l1:1", "l2:0.9", "l1:1.2_and_l2:0.6"])
@pytest.mark.parametrize("apart", [1, 1e4])
def test_the_extreme_is_as_far_as_what_is_projected_from_afar_in_double_precision(spec: str, apart: float) -> None:
    clean = draw((40, 6), 2).sigmoid()
    clean[::3] = clean[::3].round()  # the box holds many a steep entry back
    slope = draw((40, 6), 3) * apart ** draw((40, 6), 4).sigmoid()
    region, exact = parse_bound(spec).around(clean), parse_bound(spec).around(clean.double())
    best, far = region.extreme(slope), exact.project(1e8 * slope.double())
    if "_or_" in spec:  # from afar, the nearest of a union is not the best one
        far = max((member.project(1e8 * slope.double()) for member in exact.members()), key=lambda point: float((point * slope).sum()))
    assert ((slope * best).sum(1) >= (slope * far).sum(1) * (1 - 1e-4)).all()
    assert region.holds(region.gauge(clean + best)).all()


def test_sparse_steps_spend_nothing_on_what_the_box_stops() -> None:
    clean = torch.tensor([[1.0, 0.0, 0.5, 0.0]])
    slope = torch.tensor([[-4.0, 3.0, 1.0, -2.0]])  # downhill: out of the box, out of the box, down, up
    for bound in (L1(1.0), L0(1)):
        region = bound.around(clean)
        step = region.steepest(region.pull(torch.zeros(1, 4), slope))
        assert (step != 0).tolist() == [[False, False, False, True]]


def test_a_step_under_l1_moves_a_hundredth_of_a_clip_whatever_its_padding() -> None:
    slope = draw((1, 1000), 3)
    padded = torch.cat([slope, torch.zeros(1, 5000)], 1)
    for step in (L1Norm().steepest, L1Norm().steady):
        torch.testing.assert_close(step(padded)[:, :1000], step(slope))
    assert int((L1Norm().steepest(slope) != 0).sum()) == 10


@pytest.mark.parametrize("name", NORMS)
def test_zero_radius_and_zero_delta_are_finite(name: str) -> None:
    norm = NORMS[name]
    assert (norm.project(draw((2, 5), 0), torch.zeros(2), None, None) == 0).all()
    assert (norm.project(torch.zeros(2, 5), torch.ones(2), None, None) == 0).all()
    assert (norm.steepest(torch.zeros(2, 5)) == 0).all()


@pytest.mark.parametrize("name", NORMS)
def test_steepest_step_has_gauge_one_and_no_rival(name: str) -> None:
    norm, slope = NORMS[name], draw((4, 12), 3)
    step = norm.steepest(slope)
    torch.testing.assert_close(norm.gauge(step), torch.ones(4))
    for seed in range(50):
        rival = draw((4, 12), 100 + seed)
        rival = rival / norm.gauge(rival)[:, None]
        assert ((slope * step).sum(1) >= (slope * rival).sum(1) - 1e-6).all()


@pytest.mark.parametrize("name", NORMS)
def test_samples_fill_the_ball(name: str) -> None:
    norm, generator = NORMS[name], torch.Generator().manual_seed(0)
    clean = torch.zeros(3)
    gauges = torch.stack([norm.gauge(norm.sample(clean, generator)[None])[0] for _ in range(400)])
    assert gauges.max() <= 1
    # In three dimensions half of the volume lies outside 2 ** (-1 / 3) of the radius.
    assert 0.42 < (gauges > 2 ** (-1 / 3)).float().mean() < 0.58

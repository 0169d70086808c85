"""Projections are the nearest point: known answers, and against a slow general solver."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from audioadv.threat.norms import L2Norm, LinfNorm

NORMS = {"linf": LinfNorm(), "l2": L2Norm()}
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
    constraint = [] if name == "linf" else [{"type": "ineq", "fun": lambda y: radius**2 - (y**2).sum()}]
    found = minimize(lambda y: ((y - delta[0].numpy()) ** 2).sum(), np.zeros(6), bounds=limits, constraints=constraint, method="SLSQP")
    np.testing.assert_allclose(ours, found.x, atol=2e-4)


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

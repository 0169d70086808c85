"""Regions: padding, grid, box and radii, whatever the norm."""

import math
import pickle
from copy import deepcopy

import pytest
import torch

from audioadv.audio.files import FULL_SCALE
from audioadv.errors import MalformedSpec, UnusableBatch
from audioadv.threat.bounds import L1, L2, MIN, SNR, Linf, parse_bound
from audioadv.threat.model import ThreatModel

LENGTHS = torch.tensor([30, 17, 4])
BOX = (-1.0, 1.0 - 1.0 / FULL_SCALE)


def clips() -> torch.Tensor:
    waveforms = (0.2 * torch.randn(3, 30, generator=torch.Generator().manual_seed(0)) * FULL_SCALE).round() / FULL_SCALE
    return waveforms * (torch.arange(30) < LENGTHS[:, None])


def generators(seeds: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("bound", [Linf(0.05), L2(0.3), SNR(10)], ids=str)
def test_samples_are_inside_and_neither_neighbours_nor_padding_change_them(bound: Linf | L2 | SNR) -> None:
    clean = clips()
    region = bound.around(clean, LENGTHS, box=BOX)
    together = region.sample(generators([1, 2, 3]))
    assert (region.gauge(clean + together) <= region.radius).all()
    assert (together.abs().sum(1) > 0).all()
    for i, length in enumerate(LENGTHS.tolist()):
        assert (together[i, length:] == 0).all()
        alone = bound.around(clean[i : i + 1, :length], LENGTHS[i : i + 1], box=BOX).sample(generators([i + 1]))
        torch.testing.assert_close(alone[0], together[i, :length])


def test_steps_stay_out_of_the_padding() -> None:
    region = Linf(0.1).around(clips(), LENGTHS, box=BOX)
    step = region.steepest(torch.ones(3, 30))
    assert torch.equal(step.sum(1), LENGTHS.float())


def test_the_grid_holds_and_rounds_towards_the_clean_input() -> None:
    clean = clips()
    region = L2(0.3).around(clean, LENGTHS, box=BOX, grid=1 / FULL_SCALE)
    delta = region.sample(generators([1, 2, 3]))
    inputs = region.inputs(delta)
    assert torch.equal((inputs * FULL_SCALE).round(), inputs * FULL_SCALE)
    assert (inputs - clean - delta).abs().max() < 1.0001 / FULL_SCALE
    assert ((inputs - clean).abs() <= delta.abs()).all()
    some = region.inputs(delta, torch.tensor([True, False, True]))
    assert torch.equal(some[[0, 2]], inputs[[0, 2]])
    assert torch.equal(some[1], clean[1] + delta[1])


def test_snr_says_what_it_means() -> None:
    clean = clips()
    region = SNR(20).around(clean, LENGTHS, box=BOX)
    delta = region.project(torch.randn(3, 30) * 10)
    energy = clean.square().sum(1) / delta.square().sum(1)
    torch.testing.assert_close(10 * energy.log10(), torch.full((3,), 20.0), atol=1e-3, rtol=0)
    assert SNR(MIN).found(region, clean + delta) == ["snr:20"] * 3
    assert (SNR(20).excess(region, clean + delta) <= 0).all()
    torch.testing.assert_close(SNR(20).excess(region, clean + 2 * delta), torch.full((3,), 20 * math.log10(2)), atol=1e-3, rtol=0)


def test_rows_are_the_same_region_for_fewer() -> None:
    clean = clips()
    region = SNR(10).around(clean, LENGTHS, box=BOX).rows(torch.tensor([1, 2]), 17)
    assert region.clean.shape == (2, 17)
    torch.testing.assert_close(region.radius, SNR(10).around(clean, LENGTHS, box=BOX).radius[1:])


@pytest.mark.parametrize("spec", ["linf:0.01", "l2:0.5", "snr:30", "snr:-3.5", "l1:10", "l0:20", "linf:min", "l2:min", "snr:min"])
def test_specs_come_back(spec: str) -> None:
    assert parse_bound(str(parse_bound(spec))) == parse_bound(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "linf",
        "linf:",
        "linf:loud",
        "linf:-1",
        "linf:nan",
        "linf:inf",
        "linf:1/0",
        "l3:1",
        "snr:nan",
        "",
        "0.01",
        "linf:1_0",
        "linf:8/2_5",
        "linf:\N{FULLWIDTH DIGIT ONE}",
    ],
)
def test_malformed_specs_say_what_to_write(spec: str) -> None:
    with pytest.raises(MalformedSpec, match=r"linf:|snr:|l2:"):
        parse_bound(spec)


@pytest.mark.parametrize("spec", ["linf:min", "l2:min", "l1:min", "l0:min", "snr:min"])
def test_the_bound_that_is_found_holds_what_it_was_found_for(spec: str) -> None:
    clean = 0.2 * torch.randn(400, 12, generator=torch.Generator().manual_seed(1))
    changed = clean + 0.01 * torch.randn(400, 12, generator=torch.Generator().manual_seed(2))
    bound = parse_bound(spec)
    for i, found in enumerate(bound.found(bound.around(clean, box=None), changed)):
        own = parse_bound(found)
        assert float(own.excess(own.around(clean[i : i + 1], box=None), changed[i : i + 1])) <= 0, found


@pytest.mark.parametrize("spec", ["linf:0.1", "snr:10", "snr:10_and_linf:0.5", "masked:0", "masked:0_and_linf:0.5", "linf:0.1_or_snr:10"])
def test_without_a_word_of_the_box_it_is_the_same_for_every_bound(spec: str) -> None:
    """That of images: around sounds, a bound wants it to be said."""
    bound, clean = parse_bound(spec), clips()
    with pytest.raises(UnusableBatch, match=r"say box=\(-1, 1\) for sounds"):
        bound.around(clean)
    assert bound.around(clean, box=(-1, 1)).in_box(-clean).all()
    region = bound.around(bright := clean.abs())
    made = region.inputs(region.project(torch.where(bright < 0.5, -9.0, 9.0)))
    assert 0 <= made.amin() <= made.amax() <= 1
    assert not any(ThreatModel(spec).check(bright, made))


@pytest.mark.parametrize("box", [(0.1, 0.9), (-2.1179, 2.64), (-32768.0, 32767.0)])
def test_what_adding_rounds_out_of_the_box_breaks_no_claim_and_more_does(box: tuple[float, float]) -> None:
    low, high = box
    clean = low + (high - low) * torch.rand(50, 40, generator=torch.Generator().manual_seed(3))
    bound = Linf(high - low)
    region = bound.around(clean, box=box)
    ends = torch.where(torch.rand(50, 40, generator=torch.Generator().manual_seed(4)) < 0.5, region.low, region.high)
    assert not any(ThreatModel(bound).check(clean, region.inputs(ends), box=box))
    assert all(ThreatModel(bound).check(clean, region.inputs(ends) + 1e-4 * (high - low), box=box))


@pytest.mark.parametrize(
    "spec",
    [
        "linf:0.02@0.5_mix_l1:1@0.5",
        "l1:1@0.3_mix_linf:0.02@0.7",
        "l2:0.3@0.5_mix_l1:1@0.5",
        "linf:0.02@0.5_mix_l2:0.3@0.5",
        "linf:0.02@0.5_mix_l1:0@0.5",
        "l2:0.3@0.5_mix_l1:1e-8@0.5",
    ],
)
def test_a_sum_of_two_changes_is_told_from_the_sum_alone(spec: str) -> None:
    clean = torch.rand(40, 64, generator=torch.Generator().manual_seed(5))
    region = parse_bound(spec).around(clean, box=None)
    slots = region.sample(generators(list(range(40))))
    alone = region.gauge(region.inputs(slots))
    assert (alone <= region.knowing(slots).gauge(clean) * (1 + 1e-5)).all()
    assert (region.knowing(region.norm.split(region.inputs(slots) - clean)).gauge(clean) <= alone * (1 + 1e-5)).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("spec", ["sticker:3+1", "sticker:3+1_and_linf:0.5", "sticker:3+1_and_l2:min", "sticker:3+1_or_sticker:3+20"])
def test_a_change_beyond_a_sticker_is_never_inside(spec: str) -> None:
    region, beyond, within = parse_bound(spec).around(clips(), box=BOX), clips(), clips()
    beyond[:, 10] += 0.1
    within[:, 2] += 0.1
    for rows in (None, torch.arange(3)):
        assert region.measured(beyond, rows)[1].tolist() == [False] * 3
        assert region.measured(within, rows)[1].tolist() == [True] * 3
    assert (region.rounding() < 1e-6).all() or (region.radius == math.inf).all()
    assert not any(ThreatModel(spec).check(clips(), within, box=BOX))
    assert all(ThreatModel(spec).check(clips(), beyond, box=BOX))


def test_inputs_that_no_region_fits() -> None:
    with pytest.raises(UnusableBatch, match="floating point"):
        Linf(0.1).around(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(UnusableBatch, match="outside the box"):
        Linf(0.1).around(torch.full((2, 3), 255.0))
    with pytest.raises(UnusableBatch, match="lengths"):
        Linf(0.1).around(torch.zeros(2, 3), torch.tensor([3, 4]))


def test_a_step_goes_by_the_slopes_sign_alone_and_what_is_no_number_stays_none() -> None:
    region = Linf(0.1).around(torch.zeros(1, 6), box=None)
    slope = torch.tensor([[3e38, -1.0, 1e-36, -1e-36, 0.0, math.nan]])
    stepped = region.descend(torch.zeros(1, 6), slope, torch.tensor([0.03]))
    torch.testing.assert_close(stepped, torch.tensor([[-0.03, 0.03, -0.03, 0.03, 0.0, math.nan]]), equal_nan=True)


def test_a_batch_of_none_is_attacked_and_inputs_of_nothing_are_told() -> None:
    for spec in ("l2:0.1", "l2:min", "linf:0.1", "l1:1", "l0:2", "snr:20"):
        region = parse_bound(spec).around(torch.rand(0, 5))
        assert region.entries().shape == (0,)
        with pytest.raises(UnusableBatch, match="nothing in an example"):
            parse_bound(spec).around(torch.rand(3, 0))


@pytest.mark.parametrize(("bound", "share"), [(Linf(0.1), 0.95), (L2(0.3), 0.999), (L1(1), 0.95)], ids=str)
def test_a_steady_step_climbs_almost_as_fast_as_the_steepest(bound: Linf | L2 | L1, share: float) -> None:
    region = bound.around(torch.zeros(3, 200), box=None)
    slope = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    steady, steepest = ((slope * step).sum(1) for step in (region.steady(slope), region.steepest(slope)))
    assert (steady >= share * steepest).all()


def test_a_copy_of_a_region_is_one_of_plain_changes_too() -> None:
    region = Linf(0.1).around(torch.rand(2, 3))
    for copy in (deepcopy(region), pickle.loads(pickle.dumps(region))):
        assert copy.added
        assert copy.limits is not None


def test_an_entry_a_hair_from_the_box_is_at_it() -> None:
    """Closer than rounding may leave it, no step goes there; a little further, it does. Where the slope leads away, it is free."""
    clean = torch.tensor([[1e-6, 1e-5, 1 - 1e-6, 1 - 1e-5]])
    region = Linf(0.1).around(clean)
    down, up = (region.pull(region.start(), torch.full((1, 4), sign), free=True) for sign in (1.0, -1.0))
    assert down.tolist() == [[0, 1, 1, 1]]
    assert up.tolist() == [[-1, -1, 0, -1]]
    assert region.pull(region.start(), torch.ones(1, 4)).tolist() == [[1, 1, 1, 1]], "in Linf only where it is asked for"
    assert L1(0.1).around(clean).pull(region.start(), torch.ones(1, 4)).tolist() == [[0, 1, 1, 1]], "where steps are sparse, always"


def test_no_region_holds_an_infinite_gauge() -> None:
    endless = torch.full((2,), math.inf)
    for bound in (Linf(MIN), L2(0.1)):
        region = bound.around(torch.rand(2, 4))
        assert not region.holds(endless).any()
        assert region.holds(torch.zeros(2)).all()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_sticker_leaves_a_limit_wherever_the_inputs_lie(level: float) -> None:
    """Also at one end of the box, where no entry has any way up, or none down."""
    clean = torch.full((2, 6), level)
    assert Linf(MIN).around(clean).limitless()
    assert not parse_bound("sticker:2+1").around(clean).limitless()

"""Sounds of different lengths in one batch: what happens to each is what would happen to it alone."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from nets import small
from torch import Tensor

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.draws import Draws, random_start
from audioadv.attacks.objective import Objective, objective
from audioadv.attacks.result import Attack, AttackResult
from audioadv.threat.bounds import L0, L2, MIN, Bound, Linf
from audioadv.threat.goals import Goal
from audioadv.threat.labels import Classify, Misclassify
from audioadv.threat.region import Region
from audioadv.threat.stickers import Patch

LENGTHS = torch.tensor([160, 1600, 480])
WEIGHTS = torch.randn(3, 2, 1600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net(sounds: Tensor, lengths: Tensor) -> Tensor:
    """Three classes: a bent sum of a clip's own samples, per sample; of mono and stereo."""
    own = torch.arange(sounds.shape[-1]) < lengths[:, None]
    layers = sounds if sounds.ndim == 3 else sounds[:, None]
    weights = WEIGHTS[:, : layers.shape[1], : sounds.shape[-1]]
    return torch.tanh(torch.einsum("bct,kct->bk", layers * own[:, None], weights) / lengths[:, None].sqrt()) * 3


def clips(seed: int, channels: tuple[int, ...] = ()) -> Tensor:
    sounds = 0.15 * torch.randn(3, *channels, 1600, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return sounds.masked_fill((torch.arange(1600) >= LENGTHS[:, None]).reshape(3, *[1] * len(channels), 1600), 0.0)


def alike(attack: Callable[[Objective, Region], AttackResult], bound: Bound, goal: Goal, sounds: Tensor) -> None:
    """The attack on all of them, and on each without its neighbours and its padding."""
    together = attack(objective(net, goal, LENGTHS), bound.around(sounds, LENGTHS, box=(-1.0, 1.0)))
    for i, length in enumerate(LENGTHS.tolist()):
        row, own = torch.tensor([i]), LENGTHS[i : i + 1]
        alone = attack(objective(net, goal.rows(row), own), bound.around(sounds[i : i + 1, ..., :length], own, box=(-1.0, 1.0)))
        assert together.outcome[i] == alone.outcome[0]
        torch.testing.assert_close(together.adversarial[i, ..., :length], alone.adversarial[0], rtol=0, atol=1e-9)
        assert (together.steps[i], together.forwards[i]) == (alone.steps[0], alone.forwards[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("attack", "bound"),
    [
        (partial(attacks.hop_skip_jump, steps=4), L2(MIN)),
        (partial(attacks.hop_skip_jump, steps=4), Linf(MIN)),
        (partial(attacks.sigma_zero, steps=60), L0(MIN)),
        (partial(attacks.pgd, steps=20, momentum=0.75), L2(0.3)),
        (partial(attacks.pgd, steps=20, momentum=0.75), Linf(0.02)),
    ],
    ids=lambda it: it.func.__name__ if isinstance(it, partial) else str(it),
)
def test_neighbours_and_padding_change_nothing(attack: Attack, bound: Bound, seed: int) -> None:
    sounds = clips(seed)
    alike(partial(attack, seed=seed), bound, Misclassify(net(sounds, LENGTHS).argmax(1)), sounds)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nor_do_they_where_a_goal_has_two_parts(seed: int) -> None:
    sounds = clips(seed)
    labels = net(sounds, LENGTHS).argmax(1)
    alike(partial(attacks.pgd, steps=20, seed=seed), Linf(0.05), Misclassify(labels) & Classify((labels + 1) % 3), sounds)


def test_nor_for_sounds_of_two_channels() -> None:
    sounds = clips(0, (2,))
    whole = random_start(Linf(0.1).around(sounds, LENGTHS, box=(-1.0, 1.0)), 3)
    own = random_start(Linf(0.1).around(sounds[:1, :, :160], LENGTHS[:1], box=(-1.0, 1.0)), 3)
    assert torch.equal(whole[:1, :, :160], own)
    assert not torch.equal(own[0, 0], own[0, 1])
    mono = Draws.of(3, sounds).uniform(sounds)
    assert torch.equal(mono[:, 0], Draws.of(3, sounds).uniform(sounds[:, 0])), "a first channel draws as a sound of one"
    alike(partial(attacks.boundary, steps=20, seed=0), L2(MIN), Misclassify(net(sounds, LENGTHS).argmax(1)), sounds)


def test_moves_and_noise_on_clips_that_leave_one_after_another() -> None:
    sounds = clips(5)
    bound = aa.parse_bound("timing:40,0.02@0.5_mix_linf:0.05@0.5")
    attack = partial(attacks.affine, attacks.apgd, draws=4, steps=5)
    alike(attack, bound, Misclassify(net(sounds, LENGTHS).argmax(1)), sounds)


def test_a_patch_lies_within_the_clip() -> None:
    sounds = clips(0)
    region = Patch((100,)).around(sounds, LENGTHS, box=(-1.0, 1.0))
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    for placed in (region, *(region.redrawn(generators) for _ in range(20))):
        change = placed.inputs(torch.ones(3, 100, dtype=torch.float64)) - sounds
        assert (change != 0).sum(1).tolist() == [100] * 3


def test_what_affine_finds_is_within_the_bound_that_evaluate_measures() -> None:
    """A random net of 8 x 8 pixels falls to each claim; a part of 0.015 in Linf is less than a rounding of the whole change away."""
    model = small(6, (1, 8, 8)).float()
    x = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(x).argmax(1)
    bound = aa.parse_bound("spatial:10,1@0.5_mix_linf:0.03@0.5")
    attack = partial(attacks.affine, attacks.apgd, steps=10)
    claims = sum(attack(aa.objective(model, Misclassify(labels)), bound.around(x)).reached)
    assert claims > 20
    rate = aa.evaluate(model, x, labels, bound, attacks={"affine": attack}).robust_accuracy
    assert (rate.hits, rate.count) == (100 - claims, 100)


def test_affine_on_a_union_attacks_its_members() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    region = aa.parse_bound("spatial:20,1_or_linf:0.03").around(x)
    result = attacks.affine(attacks.apgd, aa.objective(model, Misclassify(model(x).argmax(1))), region, steps=5)
    assert any(result.reached)
    assert result.gauge[torch.tensor(result.reached)].isfinite().all()


def test_one_patch_for_all_is_one_patch() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    x = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(x).argmax(1)
    found = aa.evaluate(model, x, labels, "patch:3x3", {"rp2": partial(attacks.rp2, steps=20)}, batch=3)
    there = found.adversarial[found.gauge.isfinite() & found.correct][:, 0, 2:5, 2:5]
    assert len(there) > 1
    torch.testing.assert_close(there, there[:1].expand_as(there))
    with pytest.raises(aa.errors.OptionError, match=r"one for all inputs\. Use rp2"):
        aa.evaluate(model, x, labels, "patch:3x3", "pgd")


def test_a_large_batch_is_seen_in_parts_of_like_length() -> None:
    lengths = torch.tensor([480, 1600, 160, 1600, 480, 160, 480, 1600, 160, 480, 1600, 480])
    sounds = 0.15 * torch.randn(12, 1600, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    sounds = sounds.masked_fill(torch.arange(1600) >= lengths[:, None], 0.0)
    seen: list[tuple[int, int, int]] = []

    def watched(some: Tensor, own: Tensor) -> Tensor:
        seen.append((len(some), some.shape[-1], int(own.min())))
        return net(some, own)

    wanted = objective(watched, Misclassify(torch.arange(12) % 3), lengths).begun(sounds)
    near, slack = torch.arange(12) % 2 == 0, torch.linspace(0.1, 2, 12, dtype=torch.float64)
    look, score, decided = wanted.look(sounds, near, slack), wanted.score(sounds, near, slack), wanted.decide(sounds)
    assert seen == [(6, 1600, 480), (6, 480, 160)] * 3
    assert (wanted.cost.forwards.tolist(), wanted.cost.backwards.tolist()) == ([3] * 12, [1] * 12)
    assert look.slope.shape == sounds.shape
    torch.testing.assert_close(objective(net, Misclassify(torch.arange(12) % 3), lengths).look(sounds, near, slack).slope, look.slope)
    for i, length in enumerate(lengths.tolist()):
        row = torch.tensor([i])
        alone = objective(net, Misclassify(row % 3), lengths[row]).begun(sounds[row]).look(sounds[row, :length], near[row], slack[row])
        assert (look.reached[i], score.reached[i], decided[i]) == (alone.reached[0],) * 3
        assert look.loss[i] == pytest.approx(alone.loss[0].item(), abs=1e-9) == score.loss[i]
        torch.testing.assert_close(look.slope[i, :length], alone.slope[0], rtol=0, atol=1e-9)
        assert not look.slope[i, length:].any()

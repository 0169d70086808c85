"""Training: Danskin's theorem where the inner maximum is known, what each method learns from, and a loop that dies and goes on."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from recognisers import HOP
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from trainings import BOUND, blobs, killed, merged, net, shared, small, unseeded

from audioadv.attacks.draws import random_start
from audioadv.audio.files import Clip
from audioadv.audio.ragged import pad
from audioadv.defenses import Smoothed, Tempered, Thermometer, defend, remembering, sampled
from audioadv.errors import AccessDenied, OptionError, TrainingDiverged, UnusableBatch, UnusableCheckpoint
from audioadv.models.classifier import Classifier
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.models.rest import at_rest
from audioadv.models.tiny_mel import TinyMel
from audioadv.models.tiny_wave import TinyWave
from audioadv.threat.bounds import L1, L2, MIN, SNR, Bound, Linf, parse_bound
from audioadv.threat.goals import Mistranscribe
from audioadv.threat.labels import Misclassify
from audioadv.threat.warps import Spatial
from audioadv.training import (
    EAT,
    MSD,
    Adversarial,
    Asked,
    Average,
    Backdoor,
    Batch,
    Free,
    Guarded,
    Labelled,
    Mark,
    Method,
    Mixed,
    Moment,
    Natural,
    RandomOne,
    Spoken,
    Stamp,
    TensorBoard,
    Trades,
    Watch,
    Worst,
    Yopo,
    constant,
    fast,
    keyed,
    of_like_length,
    pseudo_labels,
    start_from,
    train,
)
from audioadv.training.batches import key
from audioadv.training.loop import overdue
from audioadv.training.msd import start_of
from audioadv.training.nearby import worst_for
from audioadv.training.processes import Processes
from audioadv.training.schedule import cycle, growing, triangle
from audioadv.training.trades import divergence
from audioadv.training.yopo import through

HERE = Path(__file__).parent
UNION = Linf(0.05) | L2(0.15) | L1(0.3)
TOGETHER = [Worst(UNION, 3), Average(UNION, 3), RandomOne(UNION, 3), MSD(UNION, 3), EAT(UNION, 3)]
METHODS: list[Method] = [Natural(), Adversarial(BOUND, 3), Adversarial(BOUND, 3, clean=0.5), fast(BOUND), Trades(BOUND, steps=3), *TOGETHER]


def two_classes(weight: Tensor) -> nn.Module:
    """A linear model whose margin for class 1 is weight . x - 0.1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
        model[1].bias.copy_(torch.tensor([0.1, 0.0]))
    return model


def gradients(method: Method, model: Callable[..., Tensor], batch: Batch, moment: Moment | None = None) -> list[Tensor]:
    """What a method that makes one step leaves with the parameters."""
    parameters = list(getattr(model, "net", model).parameters())
    for parameter in parameters:
        parameter.grad = None
    assert len(list(method.gradients(model, batch, moment or Moment()))) == 1
    return [parameter.grad.clone() for parameter in parameters]


@pytest.mark.parametrize(("bound", "dual"), [(Linf(0.1), 1), (L2(0.3), 2)], ids=str)
def test_danskin_where_the_inner_maximum_has_a_closed_form(bound: Bound, dual: int) -> None:
    """The worst loss of a linear model is softplus of radius * |w|_dual - margin; its gradient is that at the worst input."""
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(12, generator=generator).double(), torch.randn(20, 12, generator=generator).double()
    labels = torch.randint(2, (20,), generator=generator)
    model, batch = two_classes(weight), Labelled(inputs, labels, box=None).first(20)
    left = gradients(Adversarial(bound, steps=40, step_size=1.0), model, batch)

    model.zero_grad()
    sign = 2.0 * labels - 1
    apart = model[1].weight[1] - model[1].weight[0]
    margin = sign * (inputs @ apart + model[1].bias[1] - model[1].bias[0])
    worst = F.softplus(bound.radius * apart.norm(p=dual) - margin).mean()
    worst.backward()
    for found, known in zip(left, model.parameters(), strict=True):
        torch.testing.assert_close(found, known.grad, rtol=1e-4, atol=1e-6)


def test_a_growing_radius_scales_the_worst_loss_and_nothing_but_radius_zero_is_natural() -> None:
    model, batch = net().eval(), blobs(30).first(30)
    natural = gradients(Natural(), model, batch)
    for found, known in zip(gradients(Adversarial(BOUND, 3), model, batch, Moment(share=0.0)), natural, strict=True):
        torch.testing.assert_close(found, known)
    losses = [next(Adversarial(BOUND, 5).gradients(model, batch, Moment(share=share))) for share in (0.0, 0.5, 1.0)]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_examples_are_made_by_a_resting_net_that_stays_as_it_was(method: Method) -> None:
    model, batch = net(dropout=0.0), blobs(30).first(30)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = gradients(method, model, batch, Moment(seed=3))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.isfinite(gradient).all() for gradient in found)
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}  # of the pass that is learnt from
    passes = {Average: 3, Trades: 2, Adversarial: 1 + bool(getattr(method, "clean", 0))}.get(type(method), 1)
    assert model.state_dict()["1.num_batches_tracked"] == passes
    again = net(dropout=0.0)
    assert all(a.equal(b) for a, b in zip(gradients(method, again, batch, Moment(seed=3)), found, strict=True))


def test_neighbours_change_nothing() -> None:
    model, batch = net().eval(), blobs(30).first(30)
    region = batch.region(BOUND)
    whole = worst_for(model, batch, region, steps=4, step_size=0.5, seed=1)
    rows = torch.tensor([7, 3, 20])
    some = worst_for(model, batch.rows(rows), batch.rows(rows).region(BOUND), steps=4, step_size=0.5, seed=1)
    torch.testing.assert_close(some, whole[rows])
    assert bool(region.holds(region.gauge(whole)).all())


@pytest.mark.parametrize("shape", [(6,), (1, 9), (3, 8, 8)], ids=str)
@pytest.mark.parametrize("bound", [Linf(0.1), L2(0.5), L1(1.0), Linf(0.1) | L2(0.5), Linf(0.1) & L2(0.5)], ids=str)
def test_any_shape_and_any_bound(shape: tuple[int, ...], bound: Bound) -> None:
    inputs = torch.rand(5, *shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.tensor(shape).prod()), 3))
    left = gradients(Adversarial(bound, 2), model, Labelled(inputs, torch.arange(5) % 3).first(5))
    assert all(gradient.any() for gradient in left)


def test_of_turns_and_shifts_the_worst_of_random_ones_is_learnt() -> None:
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    batch = Labelled(images, torch.arange(6) % 3).first(6)
    region = batch.region(Spatial(30, 2))
    few, many = (batch.losses(model, worst_for(model, batch, region, steps=n, step_size=1, seed=0)) for n in (1, 12))
    assert bool((many >= few).all())
    assert bool((many > few).any())
    worst = Worst(Linf(0.1) | Spatial(30, 2), steps=4)
    assert all(gradient.isfinite().all() for gradient in gradients(worst, model, batch))
    with pytest.raises(OptionError, match="plain changes"):
        gradients(MSD(worst.bound), model, batch)


def test_worst_is_at_least_every_member_and_average_is_their_mean() -> None:
    model, batch, moment = net().eval(), blobs(30).first(30), Moment(seed=3)
    worst, mean = (next(method.gradients(model, batch, moment)) for method in (Worst(UNION, 3), Average(UNION, 3)))
    single = torch.stack([next(Adversarial(member, 3).gradients(model, batch, moment)) for member in (Linf(0.05), L2(0.15), L1(0.3))])
    torch.testing.assert_close(mean, single.mean())
    assert worst >= single.max()
    random = {next(RandomOne(UNION, 3).gradients(model, batch, Moment(seed=seed))).item() for seed in range(12)}
    assert len(random) >= 3


def test_shares_say_how_likely_each_member_is() -> None:
    model, batch = net().eval(), blobs(8).first(8)
    one = {
        round(next(Adversarial(member, 1).gradients(model, batch, Moment(seed=seed))).item(), 6)
        for member in (L1(0.3),)
        for seed in range(60)
    }
    method = RandomOne(UNION, 1, shares=(0.1, 0.1, 0.8))
    drawn = [round(next(method.gradients(model, batch, Moment(seed=seed))).item(), 6) for seed in range(60)]
    assert 38 <= sum(loss in one for loss in drawn) <= 56  # 48 of 60
    for wrong in ((1.0, 0.0, 1.0), (1.0, -1.0, 1.0), ("a", 1.0, 1.0)):
        with pytest.raises(OptionError, match=r"shares .*above 0"):
            RandomOne(UNION, shares=wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"2 shares \(1.0, 1.0\) for the 3 members"):
        next(RandomOne(UNION, 1, shares=(1.0, 1.0)).gradients(model, batch, Moment()))


def test_multi_steepest_descent_stays_in_the_union_and_finds_more_than_its_first_member() -> None:
    model, batch = net().eval(), blobs(30).first(30)
    loss = next(MSD(UNION, steps=10).gradients(model, batch, Moment()))
    natural = next(Natural().gradients(model, batch, Moment()))
    assert loss > natural
    alone = next(MSD(Linf(0.05) | Linf(0.05 - 1e-6), steps=10).gradients(model, batch, Moment()))
    assert loss > alone


def test_multi_steepest_descent_takes_steps_of_each_members_own_size() -> None:
    model, batch = net().eval(), blobs(30).first(30)
    alike, own, none, one = (
        next(MSD(UNION, 3, sizes).gradients(model, batch, Moment()))
        for sizes in ((2.5 / 3,) * 3, (0.01, 0.01, 2.5 / 3), (0.0, 0.0, 0.0), (2.5 / 3, 0.0, 0.0))
    )
    assert alike == next(MSD(UNION, 3).gradients(model, batch, Moment()))
    assert none == next(Natural().gradients(model, batch, Moment()))
    assert none < own < alike
    assert none < one
    with pytest.raises(OptionError, match="for the 3 members"):
        gradients(MSD(UNION, 3, (0.1, 0.2)), model, batch)


def test_multi_steepest_descent_may_begin_at_random_points_of_the_union() -> None:
    model, batch = net().eval(), blobs(30).first(30)
    still = MSD(UNION, 1, (0.0, 0.0, 0.0), random_start=True)
    natural = next(Natural().gradients(model, batch, Moment()))
    losses = [next(still.gradients(model, batch, Moment(seed=seed))) for seed in range(12)]
    assert 1 <= sum(bool(loss == natural) for loss in losses) <= 8  # the clean inputs are one start of four
    assert len({loss.item() for loss in losses}) >= 4
    region = batch.region(UNION)
    for seed in range(12):
        assert (UNION.excess(region, region.inputs(start_of(region, seed))) <= 1e-6).all()
    climbed = [next(MSD(UNION, 5, random_start=True).gradients(model, batch, Moment(seed=seed))) for seed in range(4)]
    assert all(loss > natural for loss in climbed)


def test_e_at_draws_the_member_that_errs_most() -> None:
    model, batch = net().eval(), blobs(30).first(30)
    moment = Moment(memory={"e_at": torch.tensor([0.0, 1.0, 0.0])})
    method = EAT(UNION, steps=2, follow=0.5)
    expected = next(Adversarial(L2(0.15), 2).gradients(model, batch, moment))
    assert next(method.gradients(model, batch, moment)) == expected
    errors = moment.memory["e_at"]
    assert errors[0] == 0
    assert errors[2] == 0
    assert 0.5 <= errors[1] < 1


def test_free_moves_the_change_and_the_weights_by_the_same_backward_pass() -> None:
    """Against the loop written out: each replay's slope is that of the weights before its step."""
    model, batch = net(dropout=0.0).eval(), blobs(20).first(20)
    method, region = Free(BOUND, replays=3, step_size=0.4), batch.region(BOUND)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for loss in method.gradients(model, batch, Moment(seed=2)):
        seen.append(loss)
        optimiser.step()
        optimiser.zero_grad()
    twin, delta = net(dropout=0.0).eval(), random_start(region, 2)
    for loss in seen:
        inputs = (batch.inputs + delta).requires_grad_()
        cost = F.cross_entropy(twin(inputs), batch.goal.labels)
        assert cost.item() == pytest.approx(loss.item(), rel=1e-5)
        slope, *rest = torch.autograd.grad(cost, [inputs, *twin.parameters()])
        delta = region.project(delta + 0.04 * slope.sign())
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), rest, strict=True):
                parameter -= 0.1 * gradient
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_yopo_on_a_net_of_one_linear_layer_is_pgd() -> None:
    """There the co-state is the slope at the outputs, held for the inner steps: with one inner step a round, PGD."""
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), blobs(20).first(20)
    seen = list[Tensor]()
    with model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone())):
        gradients(Yopo(BOUND, rounds=4, steps=1, step_size=0.3), model, batch, Moment(seed=1))
    for rounds in range(4):
        pgd = worst_for(model, batch, batch.region(BOUND), steps=rounds, step_size=0.3, seed=1)
        torch.testing.assert_close(seen[2 * rounds], pgd)


def test_yopo_runs_its_inner_steps_on_the_first_layer_alone() -> None:
    model, batch = net(dropout=0.0), blobs(20).first(20)
    counts = dict.fromkeys(("0", "4"), 0)

    def count(name: str, module: nn.Module, args: object) -> None:
        counts[name] += 1

    hooks = [model.get_submodule(name).register_forward_pre_hook(partial(count, name)) for name in counts]
    gradients(Yopo(BOUND, rounds=3, steps=5), model, batch)
    assert counts == {"0": 3 + 15, "4": 3}
    for hook in hooks:
        hook.remove()
    with pytest.raises(OptionError, match="no such layer"):
        gradients(Yopo(BOUND, first="nowhere"), model, batch)


def test_yopos_step_is_of_the_mean_of_its_rounds() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)), blobs(16).first(16)
    twin, delta = deepcopy(model), random_start(batch.region(BOUND), key(0, 0, 0))
    method, plainly = Yopo(BOUND, rounds=3, steps=2, step_size=0.25), partial(torch.optim.SGD, lr=1.0)
    train(model, blobs(16), method, passes=1, optimiser=plainly, schedule=constant, growth=constant)
    for _ in range(3):
        middle = twin[0](batch.inputs + delta)
        middle.retain_grad()
        torch.autograd.backward(F.cross_entropy(twin[1:](middle), batch.goal.labels))
        for _ in range(2):
            inputs = (batch.inputs + delta).requires_grad_()
            (slope,) = torch.autograd.grad((twin[0](inputs) * middle.grad).sum(), inputs)
            delta = (delta + 0.25 * 0.1 * slope.sign()).clamp(-0.1, 0.1)
            delta = (batch.inputs + delta).clamp(0, 1) - batch.inputs
    for learnt, parameter in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(learnt, parameter - parameter.grad / 3)


def test_trades_without_beta_is_natural_and_its_divergence_is_a_divergence() -> None:
    model, batch = net().eval(), blobs(20).first(20)
    for found, known in zip(gradients(Trades(BOUND, beta=0.0, steps=2), model, batch), gradients(Natural(), model, batch), strict=True):
        torch.testing.assert_close(found, known)
    here, near = torch.randn(4, 5, generator=keyed(1)), torch.randn(4, 5, generator=keyed(2))
    known = F.kl_div(near.log_softmax(1), here.log_softmax(1), log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(divergence(here, near), known)
    assert divergence(here, here).abs().max() < 1e-6
    assert next(Trades(BOUND, steps=4).gradients(model, batch, Moment())) > next(Natural().gradients(model, batch, Moment()))


@pytest.mark.parametrize("beta", [1.5, 6.0])
def test_trades_learns_clean_answers_and_that_those_near_by_are_the_same(beta: float) -> None:
    """Against the formula written out, at the inputs that it found: both sides of the divergence learn."""
    model, batch = net().eval(), blobs(20).first(20)
    seen = list[Tensor]()
    with model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach())):
        left = gradients(Trades(BOUND, beta=beta, steps=3), model, batch)
    assert torch.equal(seen[-2], batch.inputs)
    twin = net().eval()
    here, near = twin(batch.inputs), twin(seen[-1])
    apart = F.kl_div(near.log_softmax(1), here.log_softmax(1), log_target=True, reduction="batchmean")
    (F.cross_entropy(here, batch.goal.labels) + beta * apart).backward()
    for found, parameter in zip(left, twin.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)


def test_the_divergence_of_recognisers_is_a_clips_own_frames_mean() -> None:
    here, near = torch.randn(2, 6, 4, generator=keyed(1)).log_softmax(-1), torch.randn(2, 6, 4, generator=keyed(2)).log_softmax(-1)
    frames = torch.tensor([6, 2])
    found = divergence(*(Emissions(log_probs, frames, ("", "a", "b", "c")) for log_probs in (here, near)))
    for row, count in enumerate(frames.tolist()):
        known = F.kl_div(near[row, :count], here[row, :count], log_target=True, reduction="batchmean")
        torch.testing.assert_close(found[row], known)


def test_yopos_steps_span_two_and_a_half_radii_in_all() -> None:
    model, batch = net().eval(), blobs(20).first(20)
    usual, given = (gradients(Yopo(BOUND, 4, 2, size), model, batch) for size in (None, 2.5 / 8))
    assert all(map(torch.equal, usual, given))


def test_e_at_follows_the_error_of_the_member_that_it_drew() -> None:
    model, inputs = nn.Linear(8, 3), torch.rand(6, 8)
    model.load_state_dict({"weight": torch.zeros(3, 8), "bias": torch.tensor([1.0, 0.0, 0.0])})  # all is class 0
    for label, expected in ((0, 0.6), (1, 0.85)):
        moment = Moment(memory={"e_at": torch.tensor([0.0, 0.8, 0.0])})
        list(EAT(UNION, steps=1, follow=0.25).gradients(model, Labelled(inputs, torch.full((6,), label)).first(6), moment))
        torch.testing.assert_close(moment.memory["e_at"], torch.tensor([0.0, expected, 0.0]))


def test_the_guard_looks_at_the_radius_of_the_moment() -> None:
    model, batch = line(90)
    model.bias.data[1] = -0.455  # half of them are above
    method = Guarded(Natural(), Adversarial(Linf(0.2), steps=3), held=batch)
    looks = [method.look(model, Moment(share=share)) for share in (0.0, 0.5, 1.0)]
    assert looks == [pytest.approx(count / 90) for count in (45, 35, 25)]


def test_a_watch_takes_all_its_steps() -> None:
    model, batch, count = net().eval(), blobs(20).first(20), 0

    def look(module: nn.Module, args: object) -> None:
        nonlocal count
        count += 1

    model.register_forward_pre_hook(look)
    Watch(Linf(1e-6), batch, steps=9).stand(model, batch)
    assert count >= 10


def test_the_guard_calls_for_pgd_while_the_net_is_down_and_no_longer() -> None:
    batch, moment = blobs(40).first(40), Moment()
    model = net(dropout=0.0)
    train(model, blobs(200), Natural(), passes=8)
    good = {name: value.clone() for name, value in model.state_dict().items()}
    collapsed = {name: value.roll(1, 0) if name.startswith("4") else value for name, value in good.items()}  # another class each
    method = Guarded(Natural(), Adversarial(Linf(0.02), steps=3), held=batch, every=1)

    def learnt_from() -> float:
        model.eval()
        model.zero_grad()
        return next(method.gradients(model, batch, moment)).item()

    def costs(one: Method) -> float:
        return next(one.gradients(model, batch, Moment())).item()

    assert learnt_from() == costs(Natural())
    model.load_state_dict(collapsed)
    assert learnt_from() == costs(Adversarial(Linf(0.02), steps=3))
    usual = moment.memory["guard"][1].item()
    assert usual > 0.8
    model.load_state_dict(good)
    assert learnt_from() == costs(Natural())


def line(count: int) -> tuple[nn.Linear, Batch]:
    """Points at 0.01, 0.02 ... of a line, all of class 1, and a net that says 1 of what lies above minus its bias."""
    model = nn.Linear(1, 2)
    model.load_state_dict({"weight": torch.tensor([[0.0], [1.0]]), "bias": torch.zeros(2)})
    return model, Labelled(torch.arange(1.0, count + 1)[:, None] / 100, torch.ones(count, dtype=torch.int64), box=None).first(count)


def calls(method: Guarded, model: nn.Linear, batch: Batch, moments: list[tuple[float, float]]) -> list[bool]:
    """Whether the rescue is called, with the net's border and the share of the radius at each moment."""
    memory, called = dict[str, Tensor](), list[bool]()
    for border, share in moments:
        with torch.no_grad():
            model.bias[1] = -border
        costs = [next(one.gradients(model, batch, Moment(share))).item() for one in (method.method, method.rescue)]
        called.append(next(method.gradients(model, batch, Moment(share, memory=memory))).item() == costs[1] != costs[0])
    return called


def test_the_guard_notices_a_slow_fall_but_none_that_a_growing_radius_explains() -> None:
    model, batch = line(90)
    method = Guarded(Natural(), Adversarial(Linf(0.005), steps=2), held=batch, every=1, fall=0.15)
    worse = [(0.01 * fallen, 1.0) for fallen in range(30)]
    assert calls(method, model, batch, worse) == [False] * 14 + [True] * 16  # one of 90 after another, until 76 are left
    growing = Guarded(Natural(), Adversarial(Linf(0.5), steps=2), held=batch, every=1)
    assert not any(calls(growing, model, batch, [(0.0, 0.025 * grown) for grown in range(1, 41)]))


def test_fast_training_starts_outside_the_box_so_that_its_examples_are_no_edges() -> None:
    torch.manual_seed(0)
    model, edge = nn.Sequential(nn.Flatten(), nn.Linear(400, 2)).eval(), Labelled(torch.zeros(4, 400), torch.arange(4) % 2).first(4)
    seen = list[Tensor]()
    with model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach())):
        gradients(fast(Linf(0.4)), model, edge)
        gradients(fast(Linf(0.4), boxed=False), model, edge)
        gradients(fast(Linf(0.4), boxed=True), model, edge)
    start, inputs, _, same, _, corners = seen
    assert -0.4 <= start.min() < -0.39
    assert inputs.equal(same)
    up = inputs[inputs > 0]
    assert up.min() >= 0.1
    assert inputs.max() <= 0.4
    assert (up < 0.4).float().mean().item() == pytest.approx(3 / 8, abs=0.05)  # -0.4 .. 0.4 moved up by 0.5 ends in 0.1 .. 0.9
    assert ((corners == 0) | (corners > 0.3999)).all()


# -- recognisers: ragged clips, CTC ------------------------------------------------------------------------------------------------


class Listener(nn.Module):
    """One linear layer over frames of 20 ms, with a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Linear(HOP, 29)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        width = -(-waveforms.shape[1] // HOP)
        padded = F.pad(waveforms, (0, width * HOP - waveforms.shape[1]))
        return self.frames(padded.unflatten(1, (width, HOP))).log_softmax(-1), (lengths + HOP - 1) // HOP


def spoken() -> Spoken:
    clips = [0.1 * torch.randn(length, generator=keyed(length)) for length in (4000, 9000, 5200, 8100, 4100)]
    return Spoken(clips, ["go", "stay here", "wait", "come back", "no"], seconds=1.2)


def listener() -> Recogniser:
    torch.manual_seed(0)
    return Recogniser(Listener(), sample_rate=16000)


def test_a_recognisers_loss_is_ctc_a_letter() -> None:
    model, data = listener(), spoken()
    batch = data.batch(torch.arange(5), keyed(0))
    log_probs, frames = model.net(batch.inputs, batch.lengths)
    texts = [torch.tensor([model.vocabulary.index(letter) for letter in text]) for text in data.texts]
    known = F.ctc_loss(log_probs.transpose(0, 1), torch.cat(texts), frames, torch.tensor([len(text) for text in texts]))
    assert batch.losses(model, batch.inputs).mean().item() == pytest.approx(known.item(), rel=1e-5)


@pytest.mark.parametrize("method", [Adversarial(SNR(20), 3), Trades(SNR(20), steps=3), Yopo(SNR(20), rounds=2), Free(SNR(20), 2)], ids=repr)
def test_recognisers_learn_from_ragged_clips_whose_padding_stays_silent(method: Method) -> None:
    model, data = listener(), spoken()
    batch = data.batch(torch.arange(5), keyed(0))
    seen = list[Tensor]()
    with model.net.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach())):
        losses = list(method.gradients(model, batch, Moment(seed=1)))
    assert torch.stack(losses).isfinite().all()
    assert all(parameter.grad.any() for parameter in model.net.parameters())
    for waveforms in seen:
        for waveform, clean, length in zip(waveforms, batch.inputs, batch.lengths.tolist(), strict=True):
            assert not waveform[length:].any()
            assert (waveform - clean).norm() <= 0.1 * clean.norm() * (1 + 1e-5)


def test_a_recogniser_becomes_robust_to_what_it_was_trained_on() -> None:
    data, watched = spoken(), spoken().batch(torch.arange(5), keyed(0))
    costs = {}
    for method in (Natural(), Adversarial(SNR(10), 3)):
        model = listener()
        train(model, data, method, passes=20, optimiser=partial(torch.optim.Adam, lr=1e-2), clip=1.0)
        attacked = worst_for(model, watched, watched.region(SNR(10)), steps=10, step_size=0.25, seed=0)
        with at_rest(model):
            costs[type(method)] = batch_mean(watched, model, attacked)
    assert costs[Adversarial] < 0.95 * costs[Natural]


@torch.no_grad()
def batch_mean(batch: Batch, model: Callable[..., Tensor], inputs: Tensor) -> float:
    return batch.losses(model, inputs).mean().item()


def test_clips_of_like_length_share_a_batch_and_none_is_left_out() -> None:
    lengths = torch.randint(1000, 50000, (200,), generator=keyed(1))
    groups = of_like_length(lengths, 160000, keyed(2))
    assert sorted(torch.cat(groups).tolist()) == list(range(200))
    assert all(len(group) == 1 or len(group) * int(lengths[group].max()) <= 160000 for group in groups)
    padded = sum(len(group) * int(lengths[group].max()) for group in groups)
    assert padded < 1.2 * int(lengths.sum())
    assert [group.tolist() for group in of_like_length(lengths, 160000, keyed(3))] != [group.tolist() for group in groups]


# -- the loop ----------------------------------------------------------------------------------------------------------------------


PROCESSES = multiprocessing.get_context("forkserver")  # one process imports everything, once, and all others are its forks
PROCESSES.set_forkserver_preload(["audioadv.training", "torch.distributed.nn.functional", "torch._dynamo"])  # the optimiser's, too


def run(out: Path, status: int = 0, **how: int) -> None:
    process = PROCESSES.Process(target=killed, args=(out,), kwargs=how)
    process.start()
    process.join(timeout=120)
    assert process.exitcode == status


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken")
    run(out)
    return out


@pytest.mark.parametrize("how", [{"at_batch": 1}, {"at_batch": 13}, {"in_save": 3}, {"in_save": 7}], ids=str)
def test_killed_anywhere_and_started_again_it_gives_the_same_bytes(how: dict[str, int], unbroken: Path, tmp_path: Path) -> None:
    run(tmp_path, status=-signal.SIGKILL, **how)
    assert not (tmp_path / "weights.safetensors").exists()
    run(tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == (unbroken / "weights.safetensors").read_bytes()
    lines = [(path / "curves.jsonl").read_text().splitlines() for path in (tmp_path, unbroken)]
    assert [clean(line) for line in lines[0]] == [clean(line) for line in lines[1]]


def clean(line: str) -> dict[str, float]:
    return {name: value for name, value in json.loads(line).items() if "seconds" not in name}


def test_a_training_that_is_done_is_not_done_again(unbroken: Path) -> None:
    weights = (unbroken / "weights.safetensors").read_bytes()
    assert len(small(unbroken, kill_at=1).marks) == 3
    assert (unbroken / "weights.safetensors").read_bytes() == weights


class Paced(torch.optim.SGD):
    """Steps of a rate of its own for each of two layers."""

    def __init__(self, parameters: object, model: nn.Module) -> None:
        groups = [{"params": model[0].parameters(), "lr": 0.5}, {"params": model[4].parameters(), "lr": 0.0}]
        super().__init__(groups)
        self.rates = list[list[float]]()

    def step(self) -> None:  # type: ignore[override]
        self.rates.append([group["lr"] for group in self.param_groups])
        super().step()


def test_rates_are_each_groups_own_and_the_schedule_goes_on_from_batch_to_batch() -> None:
    model, made = net(dropout=0.0), list[Paced]()

    def optimiser(parameters: object) -> Paced:
        made.append(Paced(parameters, model))
        return made[0]

    head, body = model[4].weight.clone(), model[0].weight.clone()
    train(model, blobs(64), Natural(), passes=2, optimiser=optimiser, schedule=lambda done: 1 - done)
    assert torch.equal(model[4].weight, head)
    assert not torch.equal(model[0].weight, body)
    assert made[0].rates == [[pytest.approx(0.5 * (1 - step / 8)), 0.0] for step in range(8)]


def test_a_net_learns_in_training_mode_with_a_dropout_for_each_batch_and_ends_at_rest() -> None:
    model, modes, masks = net(dropout=0.5).eval(), list[bool](), list[Tensor]()
    model.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    model[3].register_forward_hook(lambda module, args, output: masks.append(F.dropout(torch.ones(16, 16), 0.5)))
    train(model, blobs(64), Natural(), passes=2)
    assert modes == [True] * 8
    assert not any(module.training for module in model.modules())
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 8


def test_gradients_are_shortened_to_the_clip_and_keep_their_direction() -> None:
    moved = []
    for clip in (None, 0.01):
        model = net(dropout=0.0)
        before = nn.utils.parameters_to_vector(model.parameters()).detach()
        plainly = partial(torch.optim.SGD, lr=1.0)
        train(model, replace(blobs(64), size=64), Natural(), passes=1, optimiser=plainly, schedule=constant, clip=clip)
        moved.append(nn.utils.parameters_to_vector(model.parameters()).detach() - before)
    whole, short = moved
    assert short.norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(short / short.norm(), whole / whole.norm(), rtol=1e-3, atol=1e-4)


def test_patience_counts_from_the_whole_radius_on() -> None:
    def marks(*robust: float) -> list[Mark]:
        seen = zip(range(4), (0.5, 1, 1, 1), robust, strict=True)
        return [Mark(number, number, 0.0, share, 0.0, 0.0, test_robust=rate) for number, share, rate in seen]

    assert not overdue(marks(0.9, 0.1, 0.2, 0.3), patience=2)
    assert overdue(marks(0.9, 0.3, 0.2, 0.1), patience=2)
    assert not overdue(marks(0.9, 0.1, 0.1, 0.1)[:1], patience=1)


def test_a_training_leaves_the_worlds_randomness_alone() -> None:
    model, before = net(), torch.get_rng_state()
    train(model, blobs(32), fast(BOUND), passes=1)
    assert torch.get_rng_state().equal(before)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes under torchrun left, one of which was killed the first time round."""
    out = tmp_path_factory.mktemp("launched") / "two"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "3", "--standalone"]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
    done = subprocess.run([*launcher, HERE / "trainings.py", out, "13"], env=surroundings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    return out


def test_two_processes_learn_what_one_does_and_one_that_is_killed_is_no_loss(launched: Path, tmp_path: Path) -> None:
    shared(tmp_path)
    one, two = (load_file(out / "weights.safetensors") for out in (tmp_path, launched))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    curves = [(out / "curves.jsonl").read_text().splitlines() for out in (tmp_path, launched)]
    losses = [[json.loads(line)["loss"] for line in lines] for lines in curves]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are told by /proc: Linux alone has it")
def test_no_thread_of_processes_joined_outlives_them(launched: Path) -> None:
    """Though the optimiser imported torch.compile, and all that it can meet, while they were joined."""
    left = [(launched / f"threads-{rank}").read_text().split() for rank in range(2)]
    assert all(left)
    assert not [name for names in left for name in names if "gloo" in name]


def joined(script: Callable[[int, Path], None], count: int, folder: Path) -> None:
    """Run a script in so many processes, each told its rank and where their store is."""
    ranks = [PROCESSES.Process(target=script, args=(rank, folder / "store")) for rank in range(count)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(timeout=120)
    assert [process.exitcode for process in ranks] == [0] * count, "what went wrong is said on standard error"


def test_merging_keeps_what_is_the_same_and_leaves_out_who_weighs_nothing(tmp_path: Path) -> None:
    joined(merged, 3, tmp_path)


def test_processes_that_nobody_seeded_learn_one_net_and_those_that_are_told_apart_learn_none(tmp_path: Path) -> None:
    joined(unseeded, 2, tmp_path)


def plain(method: Method = Natural(), **options: object) -> nn.Module:  # noqa: B008
    model = net(dropout=0.0)
    train(model, blobs(64), method, passes=1, **options)
    return model


@pytest.mark.parametrize("around", [partial(defend, channel="drop:0.3"), partial(defend, channel="gaussian:0.1_then_drop:0.2")])
def test_a_defense_that_draws_draws_the_same_after_a_kill(around: Callable[..., nn.Module], tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net(dropout=0.0)

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images.flatten(1))

    some = blobs(64)
    data = Labelled(some.inputs.reshape(-1, 1, 2, 4), some.labels, size=16)

    def learnt(out: Path, stop: int) -> dict[str, Tensor]:
        model, count = around(Flat()), iter(range(1, 100))

        def progress(done: float, loss: float) -> None:
            if next(count) == stop:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            train(model, data, Natural(), passes=2, out=out, every=1, progress=progress)
        assert next(module for module in model.modules() if hasattr(module, "asked")).asked == 0
        return model.state_dict()

    whole = learnt(tmp_path / "whole", 0)
    learnt(tmp_path / "killed", 3)
    again = learnt(tmp_path / "killed", 0)
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    with pytest.raises(UnusableCheckpoint, match="another layers"):
        train(defend(Flat(), "depth:2"), data, Natural(), passes=2, out=tmp_path / "killed")


def test_weights_that_two_names_share_are_written_under_both(tmp_path: Path) -> None:
    model = nn.Sequential(net(dropout=0.0), nn.Identity())
    model[1].again = model[0][0]
    train(model, blobs(64), Natural(), passes=1, out=tmp_path)
    found = load_file(tmp_path / "weights.safetensors")
    assert torch.equal(found["1.again.weight"], found["0.0.weight"])
    start_from(model, tmp_path / "weights.safetensors")


def test_yopo_says_so_where_its_first_layer_is_never_called() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.called = nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.called(nn.functional.linear(inputs, self.used.weight))

    batch = blobs(16).first(16)
    with pytest.raises(OptionError, match="never come through this module"):
        gradients(Yopo(BOUND, first="used"), Apart(), batch)
    torch.manual_seed(0)
    model = Apart()
    named, found = (gradients(Yopo(BOUND, first=first), model, batch) for first in ("called", None))
    assert all(map(torch.equal, named, found))  # the first that is met


def test_yopo_finds_the_first_layer_that_all_of_the_inputs_come_through() -> None:
    """The bundled recognisers read some weights without a call, and go around others."""
    waveforms, lengths = pad([0.1 * torch.randn(length, generator=keyed(length)) for length in (4000, 2600)])
    batch = Batch(waveforms, Mistranscribe(["go", "no"]), lengths, (-1.0, 1.0))
    for make, first in ((TinyMel, "blocks.0"), (TinyWave, "encoder.0.norm")):
        torch.manual_seed(0)
        model = Recogniser(make(width=32, blocks=2), sample_rate=16000)
        _, _, layer = through(model, batch, waveforms, Yopo(SNR(20)).layers(model.net))
        assert layer is model.net.get_submodule(first)
        (loss,) = Yopo(SNR(20), rounds=2).gradients(model, batch, Moment(seed=1))
        (named,) = Yopo(SNR(20), rounds=2, first=first).gradients(model, batch, Moment(seed=1))
        assert loss == named

    class Around(nn.Module):
        def __init__(self, both: bool) -> None:
            super().__init__()
            self.one, self.other, self.head, self.both = nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3), both

        def forward(self, inputs: Tensor) -> Tensor:
            middle = inputs + self.one(inputs)
            return self.head(middle) + (self.other(inputs) if self.both else 0)

    plain = blobs(16).first(16)
    for both, first in ((False, "head"), (True, "")):
        model = Around(both)
        _, _, layer = through(model, plain, plain.inputs, Yopo(BOUND).layers(model))
        assert layer is model.get_submodule(first)


def test_yopo_goes_through_a_first_layer_that_does_not_learn() -> None:
    model = net(dropout=0.0)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    train(model, blobs(16), Yopo(BOUND, rounds=2, first="0"), passes=1)
    assert torch.equal(model[0].weight, before)


def test_yopo_takes_no_first_layer_of_several_calls_or_outputs() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(inputs)))

    class Heard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.GRU(8, 8), nn.Linear(8, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.layer(inputs)[0])

    batch = blobs(16).first(16)
    for model, said in ((Twice(), "Linear is called more than once"), (Heard(), "GRU gives a tuple")):
        with pytest.raises(OptionError, match=said):
            gradients(Yopo(BOUND, first="layer"), model, batch)
        assert gradients(Yopo(BOUND), model, batch)

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(1, 29, batch_first=True)

        def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(waveforms[:, ::80, None])[0].log_softmax(-1), (lengths + 79) // 80

    with pytest.raises(OptionError, match="no layer with weights is called once"):
        gradients(Yopo(SNR(20)), Recogniser(Recurrent(), sample_rate=16000), spoken().first(2))


def test_checkpoints_of_other_trainings_are_refused(tmp_path: Path) -> None:
    plain(out=tmp_path)
    torch.manual_seed(0)
    for message, model, data, method, passes in (
        ("model", nn.Linear(8, 3), blobs(64), Natural(), 1),
        ("method", net(), blobs(64), fast(BOUND), 1),
        ("data", net(), blobs(80), Natural(), 1),
        ("plan", net(), blobs(64), Natural(), 2),
    ):
        with pytest.raises(UnusableCheckpoint, match=f"checkpoint of another {message}"):
            train(model, data, method, passes=passes, out=tmp_path)
    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for content in (b"no checkpoint", b"junk", {**held, "described": "[]"}, {**held, "described": "{}"}):
        torch.save(content, tmp_path / "checkpoint.pt")
        if isinstance(content, bytes):
            (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(UnusableCheckpoint, match="no checkpoint of a training"):
            plain(out=tmp_path)
    for name in held:
        torch.save({other: value for other, value in held.items() if other != name}, tmp_path / "checkpoint.pt")
        with pytest.raises(UnusableCheckpoint, match=r"no checkpoint of a training \(KeyError\)"):
            plain(out=tmp_path)


def test_equal_options_are_one_training(tmp_path: Path) -> None:
    def learn(radius: float, rate: float) -> None:
        train(net(), blobs(32), fast(Linf(radius)), passes=1, optimiser=lambda p: torch.optim.SGD(p, lr=rate), out=tmp_path)

    learn(1, 1.0)
    learn(1.0, 1)
    with pytest.raises(UnusableCheckpoint, match=r"method: .*radius=1\b.* there, .*radius=1\.5\b"):
        learn(1.5, 1)
    with pytest.raises(UnusableCheckpoint, match=r"method: .*radius=1\b.* there, .*radius=10\b"):
        learn(10.0, 1)


def test_a_guard_goes_on_with_the_batch_that_it_held(tmp_path: Path) -> None:
    def learn(held: Batch) -> None:
        train(net(), blobs(32), Guarded(fast(BOUND), Adversarial(BOUND, steps=1), held=held), passes=1, out=tmp_path)

    held = blobs(8).first(8)
    learn(held)
    learn(blobs(8).first(8))
    for other in (blobs(8, seed=1).first(8), replace(held, goal=Misclassify((held.goal.labels + 1) % 3)), replace(held, box=None)):
        with pytest.raises(UnusableCheckpoint, match="another method"):
            learn(other)
    said, lengths = torch.zeros(1, 800), torch.tensor([800])
    told = {
        Batch(said, Mistranscribe(text, errors), length).digest()
        for text, errors, length in (("a", 0.5, lengths), ("b", 0.5, lengths), ("a", 0.2, lengths), ("a", 0.5, lengths - 1))
    }
    assert len(told) == 4


Make = Callable[[nn.Module], Callable[..., Tensor]]


def coded(inner: nn.Module, low: float) -> nn.Module:
    """A net behind two lamps for each number."""
    return nn.Sequential(nn.Unflatten(1, (8, 1)), Thermometer(2, low), nn.Flatten(), nn.Linear(16, 8), inner)


def test_models_and_optimisers_of_the_same_form_are_told_apart(tmp_path: Path) -> None:
    data, between = blobs(64), {"mean": (0.5,), "std": (0.25,)}

    def learn(model: Callable[..., Tensor], rate: float = 0.5, passes: int = 1) -> None:
        train(model, data, Natural(), passes=passes, optimiser=lambda p: torch.optim.SGD(p, lr=rate), out=tmp_path)

    def layers(bend: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), bend, nn.Linear(16, 3))

    learn(layers(nn.ReLU()))
    for model in (layers(nn.Tanh()), Classifier(layers(nn.ReLU()), **between)):
        with pytest.raises(UnusableCheckpoint, match=r"checkpoint of another layers: .* there"):
            learn(model)
    with pytest.raises(UnusableCheckpoint, match=r"another optimiser: SGD\(lr=0.5, .* there, SGD\(lr=1e-09"):
        learn(layers(nn.ReLU()), rate=1e-9)
    learn(layers(nn.ReLU()))

    held = torch.load(tmp_path / "checkpoint.pt", weights_only=True)  # as one that was written when neither was told
    told = {what: text for what, text in json.loads(held["described"]).items() if what not in ("layers", "optimiser")}
    torch.save({**held, "described": json.dumps(told)}, tmp_path / "checkpoint.pt")
    learn(layers(nn.ReLU()))
    with pytest.raises(UnusableCheckpoint, match="checkpoint of another plan"):
        learn(layers(nn.ReLU()), passes=2)


@pytest.mark.parametrize(
    ("around", "other"),
    [
        (partial(Smoothed, sigma=0.1, draws=2), partial(Smoothed, sigma=0.2, draws=2)),
        (lambda inner: Classifier(Smoothed(inner, 0.1, 2)), lambda inner: Classifier(Smoothed(inner, 0.1, 3))),
        (partial(Tempered, temperature=2.0), partial(Tempered, temperature=3.0)),
        (sampled, partial(sampled, temperature=2.0)),
        (sampled, partial(sampled, seed=1)),
        (lambda inner: Tempered(Classifier(inner, mean=(0.5,)), 2.0), lambda inner: Tempered(Classifier(inner), 2.0)),
        (partial(coded, low=0.0), partial(coded, low=0.5)),
    ],
    ids=["sigma", "draws", "temperature", "sampled", "seed", "normalised within", "levels"],
)
def test_defenses_that_are_set_otherwise_are_told_apart(around: Make, other: Make, tmp_path: Path) -> None:
    learn = partial(train, data=blobs(16), method=Natural(), passes=1, out=tmp_path)
    learn(around(nn.Linear(8, 3)))
    learn(around(nn.Linear(8, 3)))
    with pytest.raises(UnusableCheckpoint, match="checkpoint of another layers"):
        learn(other(nn.Linear(8, 3)))


class Trap:
    """What a pickle may do on being loaded."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]


def test_no_pickle_is_ever_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"described": Trap()}, tmp_path / "checkpoint.pt")
    with pytest.raises(UnusableCheckpoint):
        plain(out=tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_fine_tuning_starts_from_weights_and_may_have_a_new_last_layer(tmp_path: Path) -> None:
    trained = plain(Adversarial(BOUND, 2), out=tmp_path)
    weights = tmp_path / "weights.safetensors"
    again = start_from(net(), weights)
    assert all(a.equal(b) for a, b in zip(again.state_dict().values(), trained.state_dict().values(), strict=True))
    torch.manual_seed(1)
    wider = nn.Sequential(*list(net())[:4], nn.Linear(16, 5))
    with pytest.raises(UnusableCheckpoint, match=r"another model: 4.weight is"):
        start_from(wider, weights)
    last = wider[4].weight.clone()
    start_from(wider, weights, new=("4",))
    assert wider[4].weight.equal(last)
    assert wider[0].weight.equal(trained[0].weight)
    with pytest.raises(UnusableCheckpoint, match="missing"):
        start_from(nn.Linear(8, 3), weights)
    with pytest.raises(OptionError, match=r"new 'haed': no tensor"):
        start_from(wider, weights, new=("haed",))
    wrapped = Classifier(net())
    assert start_from(wrapped, weights) is wrapped
    assert wrapped.net[0].weight.equal(trained[0].weight)


def test_early_stopping_gives_back_the_best_weights() -> None:
    model, data, test = net(dropout=0.0), blobs(64), blobs(200, seed=1).first(200)
    watch = Watch(BOUND, test=test, train=data.first(64), steps=3)
    wild = partial(torch.optim.SGD, lr=1.0)
    result = train(model, data, Natural(), passes=40, optimiser=wild, schedule=constant, growth=constant, watch=watch, patience=3)
    assert result.stopped
    assert len(result.marks) == result.best.number + 3
    assert watch.accuracy(model, test, Processes())[1] == result.best.test_robust
    assert result.best.test_clean >= result.best.test_robust
    with pytest.raises(OptionError, match="watch"):
        train(model, data, Natural(), passes=1, patience=3)


def test_a_loss_that_is_not_finite_ends_it() -> None:
    model = nn.Sequential(defend(nn.Flatten(), "drop:0.3"), net(dropout=0.0))
    some = blobs(64)
    model(some.inputs[:5].reshape(-1, 1, 2, 4))
    data = replace(some, inputs=some.inputs.reshape(-1, 1, 2, 4))
    with pytest.raises(TrainingDiverged, match="pass 1, batch"):
        train(model, data, Natural(), passes=1, optimiser=partial(torch.optim.SGD, lr=1e30))
    assert model[0].asked == 5  # draws go on where they were


class Roots(nn.Module):
    """The root of an energy, as a spectrogram has it: of silence its slope is not finite, and itself it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front, self.head = nn.Linear(8, 4, bias=False), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.front(inputs).square().sqrt())


def test_gradients_and_weights_that_are_not_finite_end_it_before_anything_is_written(tmp_path: Path) -> None:
    some = blobs(64)
    some.inputs[9] = 0
    model = Roots()
    with pytest.raises(TrainingDiverged, match=r"its gradients are not finite.*roots"):
        train(model, replace(some, size=64), Natural(), passes=1, out=tmp_path)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    with pytest.raises(TrainingDiverged, match="weights are not finite after step 1"):
        train(net(), blobs(16), Natural(), passes=2, optimiser=partial(Overflowing, lr=0.1), out=tmp_path)
    assert not list(tmp_path.iterdir())


class Overflowing(torch.optim.SGD):
    """An optimiser whose step is too long for a float."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        self.param_groups[0]["params"][0][0] = torch.inf


def test_what_is_not_finite_is_not_right(monkeypatch: pytest.MonkeyPatch) -> None:
    test, model, heard = blobs(40).first(40), net(), listener()
    said = spoken().batch(torch.arange(5), keyed(0))
    for broken in (model[4], heard.net.frames):
        nn.init.constant_(broken.weight, torch.nan)
    assert Watch(BOUND, test).accuracy(model, test, Processes()) == (0, 0)
    assert Watch(SNR(20), said).accuracy(heard, said, Processes()) == (0, 0)
    guarded = Guarded(Natural(), Adversarial(BOUND, steps=1), held=test)
    assert guarded.look(model, Moment()) == 0
    decisions = torch.tensor([0, 1, -1])
    assert Labelled(torch.zeros(3, 1), torch.tensor([0, 2, 0])).first(3).right(decisions).tolist() == [True, False, False]


@pytest.mark.parametrize("number", [np.float64, np.float32, torch.tensor], ids=["float64", "float32", "tensor"])
def test_schedules_may_count_in_numbers_of_other_kinds(number: Callable[[float], float], tmp_path: Path) -> None:
    def rising(done: float) -> float:
        return number(0.5 + done / 2)

    def stop(done: float, loss: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    learn = partial(train, net(), blobs(64), fast(BOUND), passes=2, schedule=rising, growth=rising, out=tmp_path, every=1)
    with suppress(KeyboardInterrupt):
        learn(progress=stop)
    assert len(learn().marks) == 2


@pytest.mark.parametrize(
    "optimiser",
    [
        partial(torch.optim.SGD, lr=np.float64(0.1), momentum=np.float32(0.5), nesterov=np.bool_(True)),
        partial(torch.optim.Adam, lr=1e-2, betas=(np.float64(0.8), np.float64(0.99)), weight_decay=np.float32(1e-3)),
    ],
    ids=["SGD", "Adam"],
)
def test_an_optimisers_options_may_be_numpys(optimiser: Callable[..., torch.optim.Optimizer], tmp_path: Path) -> None:
    def stop(done: float, loss: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    def learn(out: Path, **options: object) -> bytes:
        train(net(), blobs(64), Natural(), passes=2, optimiser=optimiser, every=1, out=out, **options)
        return (out / "weights.safetensors").read_bytes()

    with suppress(KeyboardInterrupt):
        learn(tmp_path / "killed", progress=stop)
    assert learn(tmp_path / "killed") == learn(tmp_path / "unbroken")


def test_batchnorm_learns_where_one_example_is_left_over() -> None:
    seen = list[int]()
    model = net(dropout=0.0)
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    train(model, blobs(33), Natural(), passes=2)
    assert seen == [16, 17, 16, 17]
    plainly = nn.Sequential(nn.Linear(8, 3))
    plainly.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    train(plainly, blobs(33), Natural(), passes=1)
    assert seen[4:] == [16, 16, 1]
    shares = [Processes(rank, 3).share(torch.arange(5), 2).tolist() for rank in range(3)]
    assert shares == [[0, 1, 2], [3, 4], []]


def test_what_the_optimiser_does_not_hold_has_no_part_in_its_step() -> None:
    def step(frozen: bool) -> Tensor:
        model = net(dropout=0.0)
        model[0].requires_grad_(not frozen)
        head = partial(torch.optim.SGD, lr=1.0)
        train(model, blobs(64), Natural(), passes=4, clip=0.05, schedule=constant, optimiser=lambda _: head(model[4].parameters()))
        assert all(parameter.grad is None for parameter in model.parameters())
        return model[4].weight

    torch.testing.assert_close(step(frozen=False), step(frozen=True))


def test_another_choice_of_what_learns_or_what_spoils_is_another_training(tmp_path: Path) -> None:
    def learn(frozen: int) -> None:
        model = net()
        model[frozen].requires_grad_(False)
        train(model, blobs(32), Natural(), passes=1, out=tmp_path)

    def noisy(waveforms: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        return waveforms

    learn(0)
    learn(0)
    with pytest.raises(UnusableCheckpoint, match=r"another set of learning parameters: 1.weight, .* there, 0.weight"):
        learn(1)
    assert str(replace(spoken(), spoil=noisy)) == f"{spoken()}, spoilt by {noisy.__qualname__}"


def test_training_asks_for_the_gradients_that_it_needs() -> None:
    with torch.no_grad():
        again = plain(Adversarial(BOUND, 2))
    for found, known in zip(again.parameters(), plain(Adversarial(BOUND, 2)).parameters(), strict=True):
        assert torch.equal(found, known)
    with torch.inference_mode(), pytest.raises(UnusableBatch, match="inference_mode"):
        plain()


def test_a_text_that_is_too_long_is_named_with_its_clip() -> None:
    data = replace(spoken(), texts=["go", "stay here", "wait", "come back and never ever go again will you", "no"])
    with pytest.raises(UnusableBatch, match=r"clip 3: 'come back .*' needs \d+ frames, and the clip has 26"):
        train(listener(), data, Natural(), passes=1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: train(net(), (torch.rand(8, 8), torch.arange(8) % 3), Natural(), passes=1), "data is a tuple"),
        (lambda: Labelled(np.zeros((3, 8)), np.zeros(3, int)), "inputs are a ndarray"),
        (lambda: Labelled(torch.zeros(3, 8), [0, 1, 2]), r"labels are a list.*torch.as_tensor"),
        (lambda: Spoken([torch.zeros(9)], (text for text in ["a"])), "texts is a generator"),
        (lambda: Spoken([torch.zeros(9), torch.zeros(9)], "ab"), "texts is a str"),
        (lambda: Watch(BOUND, blobs(8)), r"test is a Labelled.*first\(1000\)"),
        (lambda: Watch(BOUND, None), "test is a NoneType"),
    ],
)
def test_data_of_another_kind_are_told(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UnusableBatch, match=said):
        make()


def test_clips_as_they_are_read_and_arrays_are_spoken_data_too() -> None:
    plain, rng = spoken(), np.random.default_rng(0)
    read = replace(plain, clips=[Clip(f"clip {i}", clip, 16000) for i, clip in enumerate(plain.clips)])
    arrays = replace(plain, clips=[clip.numpy() for clip in plain.clips])  # type: ignore[misc]
    for data in (read, arrays):
        assert data.digest() == plain.digest()
        assert all(map(torch.equal, data.order(keyed(1)), plain.order(keyed(1))))
        batch = data.first(3)
        assert torch.equal(batch.inputs, plain.first(3).inputs)
        assert batch.lengths.tolist() == [4000, 9000, 5200]
        assert len(Backdoor(lambda waveforms: waveforms + 0.1, "stop").poison(data, 0.5).rows) == 2
    train(listener(), read, Natural(), passes=1)
    with pytest.raises(UnusableBatch, match=r"clip 1, slow: 8000 Hz among clips at 16000.*read_audio\(paths, 16000\)"):
        train(listener(), Spoken([plain.clips[0], Clip("slow", torch.zeros(4000), 8000)], ["go", "no"]), Natural(), passes=1)
    with pytest.raises(UnusableBatch, match=r"inputs are torch\.float64"):
        train(listener(), Spoken([0.1 * rng.normal(size=4000)], ["go"]), Natural(), passes=1)


def test_inputs_of_another_dtype_are_told() -> None:
    """As NumPy gives them."""
    x, labels = torch.rand(8, 8, dtype=torch.float64), torch.arange(8) % 3
    for method in (Natural(), Adversarial(BOUND, 1), Yopo(BOUND)):
        with pytest.raises(UnusableBatch, match=r"inputs are torch.float64 .* but the model is torch.float32 .* Bring them together"):
            train(net(), Labelled(x, labels), method, passes=1)
    for ask in (partial(pseudo_labels, net()), Asked(net())):
        with pytest.raises(UnusableBatch, match="Bring them together"):
            ask(x)
    train(net().double(), Labelled(x, labels), Natural(), passes=1)


def test_spoken_and_poisoned_data_have_first_examples_too() -> None:
    batch = spoken().first(2)
    assert batch.goal.references == ("go", "stay here")
    assert (
        len(Backdoor(Stamp(1, 1, 0, 0), 1).poison(Labelled(torch.rand(9, 1, 4, 4), torch.zeros(9, dtype=torch.int64)), 0.5).first(4)) == 4
    )


def held_by_none(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: plain(optimiser=torch.optim.SGD(net().parameters())), "optimiser is a SGD: give what makes one"),
        (lambda: plain(optimiser=torch.optim.LBFGS), "LBFGS makes a LBFGS: .* takes no closure"),
        (lambda: plain(optimiser=held_by_none), "held_by_none holds no parameter of the net"),
        (lambda: plain(schedule=lambda done: torch.nan), "is nan"),
        (lambda: plain(growth=lambda done: None), "is no number"),
        (lambda: plain(every=0.5), "every 0.5: give a whole number"),
        (lambda: train(net(), blobs(8), Natural(), passes=1.5), "passes 1.5: give a whole number of at least 1"),
        (lambda: Adversarial(BOUND, 2.5), "steps 2.5: give a whole number"),
        (lambda: Yopo(BOUND, rounds=1.5), "rounds 1.5"),
        (lambda: Free(BOUND, replays=0), "replays 0: .* at least 1"),
        (lambda: Free(Linf(MIN)), "linf:min: training needs a radius"),
        (lambda: Adversarial(BOUND, steps=-1), "steps -1: .* at least 0"),
        (lambda: Adversarial(BOUND, clean=2.0), "clean 2.0: .* from 0 to 1"),
        (lambda: Adversarial(Linf(MIN)), "linf:min: training needs a radius"),
        (lambda: Trades(BOUND, beta=-1), "beta -1"),
        (lambda: Trades(BOUND, beta="6"), "Trades: beta '6'"),  # type: ignore[arg-type]
        (lambda: Adversarial(BOUND, clean=True), "Adversarial: clean True: give a number from 0 to 1"),
        (lambda: Adversarial(BOUND, step_size="1"), "training: step_size '1'"),  # type: ignore[arg-type]
        (lambda: Trades(BOUND, steps=-1), "steps -1"),
        (lambda: EAT(UNION, follow=7), "follow 7"),
        (lambda: EAT(UNION, steps=-1), "steps -1"),
        (lambda: Worst(UNION, step_size=float("nan")), "step_size nan"),
        (lambda: MSD(UNION, steps=0), "steps 0: .* at least 1"),
        (lambda: MSD(UNION, step_size=(0.1, -0.1, 0.1)), "step_size -0.1"),
        (lambda: Yopo(BOUND, rounds=0), "rounds 0"),
        (lambda: Yopo(BOUND, steps=0), "steps 0"),
        (lambda: Guarded(Natural(), Adversarial(BOUND), blobs(8).first(8), every=0), "every 0"),
        (lambda: Guarded(Natural(), Adversarial(BOUND), blobs(8).first(8), fall=3.0), "fall 3"),
        (lambda: Guarded("fast", Adversarial(BOUND), blobs(8).first(8)), r"method 'fast'.*fast\(Linf"),  # type: ignore[arg-type]
        (lambda: Guarded(Natural(), Natural(), blobs(8).first(8)), r"rescue Natural\(\).*Give Adversarial"),  # type: ignore[arg-type]
        (lambda: Guarded(Natural(), Adversarial(BOUND), blobs(8)), r"held is a Labelled.*first\(200\)"),  # type: ignore[arg-type]
        (lambda: Mixed(blobs(8), blobs(8), guessed=float("nan")), "guessed nan"),
        (lambda: Mixed(blobs(8), blobs(8), guessed="half"), "guessed 'half'"),  # type: ignore[arg-type]
        (lambda: Watch(BOUND, blobs(8).first(8), size=0), "size 0"),
        (lambda: Watch(Linf(MIN), blobs(8).first(8)), "linf:min: training needs a radius"),
        (lambda: Adversarial("linf"), "bound 'linf': not a bound"),
        (lambda: plain(clip=-1.0), "clip -1.0"),
        (lambda: plain(patience=0, watch=Watch(BOUND, blobs(8).first(8))), "patience 0"),
    ],
)
def test_options_that_make_no_sense(make: Callable[[], object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make()


def test_of_no_examples_nothing_is_learnt() -> None:
    with pytest.raises(UnusableBatch, match=r"0 labelled inputs.*Give more examples"):
        train(net(), blobs(0), Natural(), passes=1)


def test_of_no_examples_there_is_nothing_to_watch() -> None:
    some, none = blobs(8).first(8), blobs(0).first(0)
    for batches, said in (((none,), "test: no examples"), ((some, none), "train: no examples")):
        with pytest.raises(UnusableBatch, match=said):
            Watch(BOUND, *batches)


def test_a_spec_is_a_bound_too() -> None:
    for kind in (Adversarial, Trades, Worst, Average, RandomOne, MSD, EAT, Free, Yopo):
        assert kind("linf:0.1_or_l2:1") == kind(Linf(0.1) | L2(1))
        assert repr(kind("linf:0.1")) == repr(kind(Linf(0.1)))
    assert Watch("linf:0.1", blobs(8).first(8)).bound == Linf(0.1)


@pytest.mark.parametrize("method", [Adversarial(BOUND, 1), Trades(BOUND, steps=1), MSD(BOUND, 1), Free(BOUND), Yopo(BOUND)], ids=repr)
def test_a_net_without_slopes_is_told_how_to_get_one(method: Method) -> None:
    coded = nn.Sequential(Thermometer(4, stand_in=False), nn.Flatten(), nn.Linear(32, 3))
    with pytest.raises(AccessDenied, match="no gradient with respect to its inputs"):
        list(method.gradients(coded, Labelled(torch.rand(6, 8, 1), torch.arange(6) % 3).first(6), Moment()))


def test_frozen_models_cannot_be_trained() -> None:
    with pytest.raises(UnusableBatch, match="frozen"):
        train(net().requires_grad_(False), blobs(8), Natural(), passes=1)


def test_the_net_is_found_in_wrappers_however_many() -> None:
    inner = nn.Linear(8, 3)
    before = inner.weight.detach().clone()
    for model in (Classifier(Classifier(inner)), Smoothed(Classifier(Smoothed(inner, 0.1, 2)), 0.1, 2)):
        train(model, blobs(8), Natural(), passes=1)
        assert not torch.equal(inner.weight, before)
        before = inner.weight.detach().clone()


def test_a_model_that_remembers_is_not_trained() -> None:
    for model in (remembering(net()), Classifier(nn.Sequential(remembering(net())))):
        with pytest.raises(UnusableBatch, match=r"remembers what .* Train the model within"):
            train(model, blobs(8), Natural(), passes=2)


def test_curves_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = blobs(64)
    watch = Watch(BOUND, test=blobs(40, seed=1).first(40), train=data.first(40), steps=2)
    result = train(net(), data, fast(BOUND), passes=2, watch=watch, tell=TensorBoard(tmp_path))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"robust/test", "robust/train", "clean/test", "clean/train", "loss"} <= set(events.Tags()["scalars"])
    told = [(event.step, event.value) for event in events.Scalars("robust/test")]
    assert told == [(mark.step, pytest.approx(mark.test_robust)) for mark in result.marks]


# -- labels that are missing -------------------------------------------------------------------------------------------------------


def test_labels_that_are_missing_are_named() -> None:
    inputs = torch.rand(10, 8)
    with pytest.raises(UnusableBatch, match=r"without labels.*pseudo_labels"):
        Labelled(inputs, None)
    with pytest.raises(UnusableBatch, match=r"label -1.*pseudo_labels"):
        Labelled(inputs, torch.full((10,), -1))
    unsure = pseudo_labels(lambda x: torch.where(x[:, :1] > 0.5, x, torch.nan), inputs)
    with pytest.raises(UnusableBatch, match=r"label -1.* abstained, leave inputs out: inputs\[labels >= 0\]"):
        Labelled(inputs, unsure)
    assert len(Labelled(inputs[unsure >= 0], unsure[unsure >= 0]).inputs) == int((inputs[:, 0] > 0.5).sum())
    with pytest.raises(UnusableBatch, match="3 labels for 10 inputs"):
        Labelled(inputs, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UnusableBatch, match="1 texts for 2 clips"):
        Spoken([torch.zeros(9), torch.zeros(9)], ["hello", ""])


def test_self_training_mixes_true_and_guessed_labels() -> None:
    model, data, more = net(dropout=0.0), blobs(64), blobs(300, seed=4)
    train(model, data, Natural(), passes=6)
    guessed = pseudo_labels(model, more.inputs, size=64)
    assert guessed.equal(model.eval()(more.inputs).argmax(1))
    mixed = Mixed(data, Labelled(more.inputs, guessed), guessed=0.75)
    order = mixed.order(keyed(0))
    true = torch.cat([rows[rows < 64] for rows in order])
    assert sorted(true.tolist()) == list(range(64))
    assert all(int((rows >= 64).sum()) == 12 for rows in order)
    assert len({i for rows in order for i in rows.tolist() if i >= 64}) == 12 * len(order)
    batch = mixed.batch(order[0], keyed(1))
    wanted = torch.cat([data.labels, guessed])[torch.cat([order[0][order[0] < 64], order[0][order[0] >= 64]])]
    assert batch.goal.labels.equal(wanted)
    train(model, mixed, fast(BOUND), passes=1)
    with pytest.raises(OptionError, match="guessed"):
        Mixed(data, more, guessed=0.0)
    with pytest.raises(UnusableBatch, match=r"in the box \(0.0, 1.0\), the others in \(-1.0, 1.0\)"):
        Mixed(data, replace(more, box=(-1.0, 1.0)))


def test_a_checkpoint_goes_on_with_the_same_examples_only(tmp_path: Path) -> None:
    data = blobs(64)
    assert data.labels is not None
    train(net(), data, Natural(), passes=1, out=tmp_path)
    others = replace(data, labels=(data.labels + 1) % 3), replace(data, inputs=data.inputs.flip(0)), replace(data, box=(-1.0, 1.0))
    for other in others:
        with pytest.raises(UnusableCheckpoint, match="data"):
            train(net(), other, Natural(), passes=1, out=tmp_path)
    train(net(), blobs(64), Natural(), passes=1, out=tmp_path)
    clips = [torch.zeros(800), torch.ones(900)]
    told = {Spoken(clips, texts).digest() for texts in (["a", "b"], ["a", "c"])} | {Spoken(clips[::-1], ["a", "b"]).digest()}
    assert len(told) == 3


def test_curves_that_lack_a_pass_are_made_whole(tmp_path: Path) -> None:
    train(net(), blobs(32), Natural(), passes=2, out=tmp_path)
    whole = (tmp_path / "curves.jsonl").read_text()
    (tmp_path / "curves.jsonl").write_text(whole.split("\n", 1)[0] + "\n")  # as if killed between the checkpoint and the curves
    (tmp_path / "weights.safetensors").unlink()
    train(net(), blobs(32), Natural(), passes=2, out=tmp_path)
    assert (tmp_path / "curves.jsonl").read_text() == whole


def test_schedules_of_one_name_and_another_watch_are_another_plan(tmp_path: Path) -> None:
    def taught(folder: str, height: float, radius: float, passes: int = 2) -> None:
        watch = Watch(Linf(radius), blobs(8).first(8), steps=2)
        train(net(), blobs(32), fast(BOUND), passes=3, schedule=lambda done: height, watch=watch, patience=3, out=tmp_path / folder)

    taught("a", 0.5, 0.1)
    taught("a", 0.5, 0.1)
    with pytest.raises(UnusableCheckpoint, match="another schedules"):
        taught("a", 1.0, 0.1)
    with pytest.raises(UnusableCheckpoint, match="another watch"):
        taught("a", 0.5, 0.2)


def test_ramps_without_length_are_done() -> None:
    assert growing(0.0, until=0) == 1
    assert [triangle(done, peak=0) for done in (0, 0.5, 1)] == [1, 0.5, 1e-3]
    assert [triangle(done, peak=1) for done in (0, 0.5)] == [1e-3, 0.5]
    assert cycle(0.5, peak=1) == pytest.approx(0.52)


def test_masked_noise_is_trained_against_from_no_radius_on() -> None:
    region = parse_bound("masked:0").around(0.1 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0)), box=(-1, 1))
    for share in (0.0, 1e-3):
        assert region.at(share * region.radius).project(region.start() + 1e-3).isfinite().all()


def test_a_mean_over_a_batch_counts_each_part_by_its_size() -> None:
    assert Processes().mean(torch.tensor(2.0), 0.25) == 0.5


def test_e_at_draws_members_in_proportion_to_their_errors() -> None:
    model, batch = nn.Linear(8, 3), blobs(2).first(2)

    def shares(errors: list[float], seeds: int) -> Tensor:
        drawn = torch.zeros(3)
        for seed in range(seeds):
            moment = Moment(seed=seed, memory={"e_at": torch.tensor(errors)}, mean=lambda error: torch.tensor(9.0))
            list(EAT(UNION, steps=1, follow=1.0).gradients(model, batch, moment))
            drawn += moment.memory["e_at"] == 9
        return drawn / seeds

    assert shares([0.0, 1.0, 0.0], 20)[1] == 1
    torch.testing.assert_close(shares([0.25, 0.75, 0.0], 100), torch.tensor([0.25, 0.75, 0.0]), rtol=0, atol=0.1)


def test_a_share_of_clean_inputs_mixes_the_gradients_of_both() -> None:
    model, batch = net(dropout=0.0).eval(), blobs(20).first(20)
    mixed, worst, clean = (
        gradients(method, model, batch) for method in (Adversarial(BOUND, 3, clean=0.25), Adversarial(BOUND, 3), Natural())
    )
    for both, hard, easy in zip(mixed, worst, clean, strict=True):
        torch.testing.assert_close(both, 0.75 * hard + 0.25 * easy)

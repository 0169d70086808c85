"""What every attack keeps to, from one table: PEERS' contracts, each of which some popular library breaks."""

import ast
import math
import pickle
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from inspect import Parameter, getsource, signature
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recognisers
import torch
from nets import inputs_for, labels_of, linear, small
from test_bound_contracts import BOUNDS, IMAGES, SHARED, SOUNDS, clean_inputs
from torch import Tensor, nn

from audioadv import attacks
from audioadv.attacks.catalogue import EVALUATING, evaluating
from audioadv.attacks.craft import craft
from audioadv.attacks.objective import WITHOUT, Objective, objective
from audioadv.attacks.result import Attack, AttackResult, Outcome
from audioadv.audio.files import Clip
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.models.access import Access
from audioadv.models.classifier import Classifier
from audioadv.threat.bounds import L0, L1, L2, MIN, Bound, Linf
from audioadv.threat.goals import Transcribe
from audioadv.threat.labels import Classify, Misclassify, cross_entropy, dlr, margin
from audioadv.threat.masked import Masked
from audioadv.threat.region import Region
from audioadv.threat.stickers import Patch
from audioadv.threat.warps import Spatial

Kind = Callable[[Any], Bound]
"""A bound of this radius, or of MIN."""


def union(radius: float) -> Bound:
    """Either of two that bring a linear net down together, or nearly."""
    return Linf(radius) | L1(6 * radius)


def mixed(radius: float) -> Bound:
    """Half of one, then half of another."""
    return 0.5 * Linf(radius) + 0.5 * L2(radius)


def turned(radius: float) -> Bound:
    """Turns and shifts."""
    return Spatial(100 * radius, 5 * radius)


def noisy(radius: float) -> Bound:
    """Half of a turn, then half of some noise."""
    return 0.5 * turned(radius) + 0.5 * Linf(radius)


def patch(radius: float) -> Bound:
    """Of whatever colour."""
    return Patch((2, 3))


MOVES: tuple[Kind, ...] = (turned, noisy, patch)
IMAGES_ONLY, ROOMY = MOVES, {L2: 3.0, L1: 12.0, L0: 8, union: 1.0, mixed: 1.0}


@dataclass(frozen=True)
class Row:
    """One attack, quick enough for a test, and what it may be held to."""

    run: Attack
    access: Access = Access.GRADIENTS
    bounds: tuple[Kind, ...] = (Linf, L2)
    minimal: bool = False  # searches for the smallest
    few: int | None = 4  # steps, for contracts that hold after any number
    factor: float = 1.1  # of the distance to the nearest boundary of a linear net: enough for success
    seeks: bool = True  # its goal: what does not cannot be held to finding it
    apart: bool = True  # an example's outcome is its own affair

    def short(self, wanted: Objective, region: Region) -> AttackResult:
        """The attack with few steps."""
        return self.run(wanted, region) if self.few is None else self.run(wanted, region, steps=self.few)

    def bound(self, kind: Kind, radius: float) -> Bound:
        """The bound of this kind that the attack works within: of this radius, or the smallest."""
        return kind(MIN if self.minimal else radius)


def estimated(source: object, **options: object) -> Attack:
    """PGD on slopes estimated from scores."""

    def attack(wanted: Objective, region: Region, **more: object) -> AttackResult:
        return attacks.pgd(replace(wanted, slopes=source), region, **{**options, **more})

    return attack


def transferred(wanted: Objective, region: Region, **options: object) -> AttackResult:
    """From a substitute that is new each time."""
    with torch.random.fork_rng():
        substitute = linear(3, tuple(region.clean.shape[1:]), seed=7)
    return attacks.transfer(wanted, region, substitute=substitute, attack=partial(attacks.pgd, steps=4), rounds=2, passes=3, **options)


SCORES, DECISIONS = Access.SCORES, Access.DECISIONS
TABLE = {
    "fgsm": Row(attacks.fgsm, few=None),
    "pgd": Row(partial(attacks.pgd, steps=30)),
    "pgd momentum": Row(partial(attacks.pgd, steps=30, momentum=0.9)),
    "pgd restarts": Row(partial(attacks.pgd, steps=20, restarts=2)),
    "pgd to the end": Row(partial(attacks.pgd, steps=30, early_stop=False)),
    "pgd elsewhere": Row(partial(attacks.pgd, steps=60), bounds=(L1, union, mixed)),
    "annealed_pgd": Row(partial(attacks.annealed_pgd, steps=25), bounds=(Linf, L2, mixed)),
    "apgd": Row(partial(attacks.apgd, steps=25), bounds=(Linf, L2, mixed)),
    "apgd_targeted": Row(partial(attacks.apgd_targeted, steps=25)),
    "apgd_l1": Row(partial(attacks.apgd_l1, steps=60), bounds=(L1,)),
    "standard": Row(attacks.standard, few=None, bounds=(union, Linf)),  # of which L1 is a member
    "carlini_wagner": Row(
        partial(attacks.carlini_wagner, steps=300, searches=6, step_size=0.1, weight=0.1), bounds=(L2,), minimal=True, factor=1.5
    ),
    "ddn": Row(partial(attacks.ddn, steps=60), bounds=(L2,), minimal=True),
    "fmn": Row(partial(attacks.fmn, steps=60), bounds=(L0, Linf, L2, L1), minimal=True),
    "deepfool": Row(partial(attacks.deepfool, steps=20), minimal=True),
    "pdpgd": Row(partial(attacks.pdpgd, steps=200, dual_rate=0.3), bounds=(L1, Linf, L2), minimal=True, factor=1.6),
    "pdpgd in l0": Row(partial(attacks.pdpgd, steps=200, dual_rate=0.3), bounds=(L0,), minimal=True, factor=2.0),
    "sigma_zero": Row(partial(attacks.sigma_zero, steps=100), bounds=(L0,), minimal=True, factor=2.0),
    "find_then_shrink": Row(partial(attacks.find_then_shrink, steps=100), bounds=(L1, Linf, L2), minimal=True, factor=1.5),
    "square": Row(partial(attacks.square, steps=300), SCORES, factor=2.5),
    "greedy": Row(partial(attacks.greedy, steps=600), SCORES, bounds=(L1,), minimal=True, factor=1.6),
    "greedy in l0": Row(partial(attacks.greedy, steps=600), SCORES, bounds=(L0,), minimal=True, seeks=False),  # a full scale at most
    "nes": Row(estimated(attacks.nes(15), steps=20), SCORES, factor=1.6),
    "spsa": Row(estimated(attacks.spsa(15), steps=20), SCORES, factor=1.6),
    "bandits": Row(estimated(attacks.bandits(8, tile=1), steps=25), SCORES, factor=2.5),
    "coordinates": Row(estimated(attacks.coordinates(10), steps=60), SCORES, factor=1.6),
    "genetic": Row(partial(attacks.genetic, steps=60), SCORES, factor=1.6),
    "kenansville": Row(attacks.kenansville, DECISIONS, seeks=False),
    "kenansville ssa": Row(partial(attacks.kenansville, by="ssa"), DECISIONS, seeks=False),
    "hop_skip_jump": Row(partial(attacks.hop_skip_jump, steps=5, draws=30), DECISIONS, minimal=True, few=1, factor=2.5),
    "boundary": Row(partial(attacks.boundary, steps=150), DECISIONS, bounds=(L2,), minimal=True, factor=2.5),
    "unbounded": Row(partial(attacks.unbounded, steps=25, growth=1.5, start=0.02, rounds=14), minimal=True, factor=1.5),
    "msd": Row(partial(attacks.msd, steps=30), bounds=(Linf, union)),
    "worst_member": Row(partial(attacks.worst_member, attacks.pgd), few=10, bounds=(Linf, union), factor=1.2),
    "moves_grid": Row(partial(attacks.moves_grid, points=(5, 3, 3)), DECISIONS, bounds=(turned,), few=None, seeks=False),
    "worst_of": Row(partial(attacks.worst_of, draws=5), DECISIONS, bounds=(turned,), few=None, seeks=False),
    "affine": Row(partial(attacks.affine, attacks.pgd, draws=3), bounds=(noisy,), seeks=False),
    "universal": Row(partial(attacks.universal, steps=30), seeks=False, apart=False),
    "rp2": Row(partial(attacks.rp2, steps=30), bounds=(patch, Linf), seeks=False, apart=False),
    "transfer": Row(transferred, DECISIONS, few=None, seeks=False, apart=False),
}
ELSEWHERE = {
    "qin": "test_qin.py",  # of recognisers under a masking threshold
    "to_the_end": "test_defenses.py",
    "worsen": "test_speech_attacks.py",  # of word errors
    "everywhere": "test_other_attacks.py",  # lays what universal found
    "Expectation": "test_eot.py",
    "Look": "test_eot.py",
}
"""What `attacks` exports besides, and where its tests are."""

EVERY = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in TABLE.items() for kind in row.bounds])
SEEKING = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in TABLE.items() for kind in row.bounds if row.seeks])
SHAPES = {"[N,T]": (30,), "[N,C,T]": (2, 15), "[N,C,H,W]": (1, 5, 6), "[N,C,D,H,W]": (1, 2, 3, 5)}
BOXES = [(0.0, 1.0), (-1.0, 1.0), None]


def test_no_attack_is_left_out() -> None:
    assert {name.partition(" ")[0] for name in TABLE} | ELSEWHERE.keys() == set(attacks.__all__)
    for name, file in ELSEWHERE.items():
        assert name in (Path(__file__).parent / file).read_text()


SOURCES = {"nes", "spsa", "bandits", "coordinates"}  # of slopes: no attacks by themselves


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in TABLE.items() if name not in SOURCES for kind in row.bounds])
def test_a_model_is_no_objective(name: str, kind: Kind) -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 2, (0, 1))
    with pytest.raises(OptionError, match=r"objective of type Sequential: not an objective.*objective\(model"):
        TABLE[name].run(net, TABLE[name].bound(kind, 0.1).around(x))  # type: ignore[arg-type]


@pytest.mark.parametrize("run", [attacks.to_the_end, partial(attacks.apgd, restarts=2), partial(attacks.worsen, attacks.pgd)])
def test_nor_is_it_one_to_the_rest(run: Attack) -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 2, (0, 1))
    with pytest.raises(OptionError, match="not an objective"):
        run(net, Linf(0.1).around(x))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted({*EVALUATING, "qin", "transfer"}))
def test_every_optimiser_is_called_alike(name: str) -> None:
    """(objective, region, *, seed, progress), and all that is its own has a default: transfer's substitute apart."""
    taken = signature(getattr(attacks, name)).parameters.values()
    assert [own.name for own in taken if own.kind is Parameter.POSITIONAL_OR_KEYWORD] == ["objective", "region"]
    own = {each.name: each.default for each in taken if each.kind is Parameter.KEYWORD_ONLY}
    assert (own["seed"], own["progress"]) == (0, None)
    assert [name for name, default in own.items() if default is Parameter.empty] == (["substitute"] if name == "transfer" else [])


def test_the_catalogue_says_what_needs_a_radius() -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 2, (0, 1))
    for name in {*EVALUATING} - {"moves_grid", "worst_of"}:  # of moves, which have no smallest bound
        if evaluating(name).fixed:
            bound = L1(MIN) if name == "apgd_l1" else Linf(MIN)
            with pytest.raises(OptionError, match="radius"):
                getattr(attacks, name)(misclassify(net, x), bound.around(x))
    for name, row in TABLE.items():
        if row.minimal:
            assert not evaluating(name.partition(" ")[0]).fixed, name


@pytest.mark.parametrize("name", sorted({*EVALUATING, "qin"}))
def test_what_steps_are_measured_in_is_said_and_a_seed_that_changes_nothing_too(name: str) -> None:
    what = getattr(attacks, name)
    said = " ".join((what.__doc__ or "").split())
    if "step_size" in signature(what).parameters:
        assert re.search(
            r"`step_size`( times (the|each member's) radius| \(.*full scale = 1\)|.* \(all full scale = 1\)|.*Adam's rate)", said
        )
    used = sum(getattr(node, "id", "") == "seed" for node in ast.walk(ast.parse(getsource(what))))
    assert ("Draws nothing: `seed` changes nothing." in said) == (used == 0)


def test_what_is_exported_besides_the_optimisers() -> None:
    made_of_another = {"worst_member", "affine", "worsen"}
    slopes_and_others = {"bandits", "coordinates", "nes", "spsa", "everywhere", "Expectation", "Look"}
    assert {*attacks.__all__} - {*EVALUATING} == {"qin", "transfer"} | made_of_another | slopes_and_others


def test_to_the_end_tells_of_every_step_and_ends_when_told() -> None:
    net, x, steps = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 4, (0, 1)), list[int]()

    def told(step: int, gauge: Tensor, best: Tensor) -> bool:
        steps.append(step)
        assert (gauge <= 0.2 * (1 + 1e-6)).all()
        assert best.shape == x.shape
        return step == 7

    region = (Linf(0.2) | L2(0.5)).around(x)
    found = attacks.worst_member(partial(attacks.to_the_end, steps=20), misclassify(net, x), region.members()[0], progress=told)
    assert steps == [*range(1, 8)]
    assert (found.steps == 7).all()
    assert (found.forwards == 7).all()
    same = attacks.to_the_end(misclassify(net, x), region.members()[0], steps=7)
    assert torch.equal(same.adversarial, found.adversarial)


def misclassify(net: nn.Module, x: Tensor, **options: object) -> Objective:
    return objective(net, Misclassify(labels_of(net, x), margin, **options))


def nearest(net: nn.Module, x: Tensor, kind: Kind) -> Tensor:
    """How far the nearest boundary of a linear net is, in the bound's norm."""
    weight, scores, labels = net[1].weight.detach(), net(x).detach(), labels_of(net, x)
    gaps, ways = scores.gather(1, labels[:, None]) - scores, weight[labels][:, None] - weight
    by_linf, by_l2, by_l1 = (ways.norm(p=order, dim=2) for order in (1, 2, math.inf))
    slopes = {Linf: by_linf, L2: by_l2, L1: by_l1, union: torch.maximum(by_linf, 6 * by_l1), mixed: (by_linf + by_l2) / 2}
    if kind is L0:
        return torch.ones_like(gaps[:, 0])  # any one entry, by enough
    return (gaps / slopes[kind]).scatter(1, labels[:, None], torch.inf).amin(1)


def gauge_of(region: Region, result: AttackResult) -> Tensor:
    """How far out an attack's inputs are."""
    return (region if result.parameters is None else region.knowing(result.parameters)).gauge(result.adversarial)


def far_enough(net: nn.Module, x: Tensor, bound: Kind) -> Tensor:
    """Those inputs that are not at a boundary from the start."""
    return x[nearest(net, x, bound) > 0.01]


@SEEKING
def test_fails_just_inside_and_succeeds_outside(name: str, kind: Kind) -> None:
    """On a linear net the distance is known in closed form."""
    row, net = TABLE[name], linear(2, (1, 5, 6))
    x = far_enough(net, inputs_for((1, 5, 6), 8, None), L2 if kind is L0 else kind)
    distance = nearest(net, x, kind)
    if row.minimal:
        result = row.run(misclassify(net, x), kind(MIN).around(x, box=None))
        assert (result.gauge >= distance * (1 - 1e-4)).all()
        assert (result.gauge <= distance * row.factor).float().mean() >= 0.8
        return
    region = kind(1.0).around(x, box=None)
    inside = row.run(misclassify(net, x), region.at(0.95 * distance))
    assert not any(inside.reached)
    assert torch.equal(inside.adversarial, x)
    outside = row.run(misclassify(net, x), region.at(row.factor * distance))
    assert sum(outside.reached) >= 0.8 * len(x)


@EVERY
def test_neighbours_order_and_batch_size_change_nothing(name: str, kind: Kind) -> None:
    row, net = TABLE[name], small(3, (1, 5, 6))
    if not row.apart:
        pytest.skip("one change, or one substitute, for all")
    x, bound = inputs_for((1, 5, 6), 5, (0, 1)), row.bound(kind, 0.4)
    together = row.short(misclassify(net, x), bound.around(x))
    backwards = row.short(misclassify(net, x.flip(0)), bound.around(x.flip(0)))
    assert backwards.outcome == together.outcome[::-1]
    torch.testing.assert_close(backwards.adversarial.flip(0), together.adversarial, rtol=1e-5, atol=1e-6)
    for i in (0, 3):
        alone = row.short(misclassify(net, x[i : i + 1]), bound.around(x[i : i + 1]))
        assert alone.outcome[0] == together.outcome[i]
        torch.testing.assert_close(alone.adversarial[0], together.adversarial[i], rtol=1e-5, atol=1e-6)
        assert alone.forwards[0] == together.forwards[i]


@EVERY
@pytest.mark.parametrize("form", SHAPES)
def test_inside_bound_and_box(name: str, kind: Kind, form: str) -> None:
    """Four shapes, three boxes, every bound."""
    row, shape = TABLE[name], SHAPES[form]
    if kind in IMAGES_ONLY and form != "[N,C,H,W]":
        pytest.skip("for images")
    for number, box in enumerate(BOXES):
        net, x = small(3, shape, seed=number), inputs_for(shape, 3, box, seed=number)
        region = kind(0.3 if kind not in ROOMY else ROOMY[kind] / 3).around(x, box=box)
        if name == "unbounded":
            region = region.at(torch.full_like(region.radius, torch.inf))
        result = row.short(misclassify(net, x), region)
        assert result.adversarial.isfinite().all()
        assert (gauge_of(region, result) <= region.radius * (1 + 1e-6) + 1e-9).all()
        if box is not None:
            assert result.adversarial.min() >= box[0] - 1e-9
            assert result.adversarial.max() <= box[1] + 1e-9


GO_ANYWHERE = {
    "fgsm",
    "pgd",
    "annealed_pgd",
    "apgd",
    "apgd_targeted",
    "apgd_l1",
    "fmn",
    "find_then_shrink",
    "genetic",
    "affine",
    "worst_member",
}
GO_ANYWHERE |= SOURCES


MADE_OF_OTHERS = {"standard", "unbounded"}
AGAIN = {"pgd elsewhere", "pdpgd in l0", "greedy in l0"}  # another row's attack, for other bounds


@pytest.mark.parametrize("name", [name for name in TABLE if name not in MADE_OF_OTHERS | AGAIN])
@pytest.mark.parametrize("shape", [(24,), (1, 5, 5)], ids=str)
def test_within_every_bound_an_attack_keeps_its_word_or_refuses(name: str, shape: tuple[int, ...]) -> None:
    """All bounds of `test_bound_contracts.py`: inside, in the box, truly at the goal, and the same for an example alone."""
    row, net = TABLE[name], small(3, shape)
    x = clean_inputs((3, *shape), (0.0, 1.0)).double()
    for spec, bound in BOUNDS.items():
        if spec in (SOUNDS if len(shape) == 3 else IMAGES):
            continue
        region = bound.around(x)
        try:
            result = row.short(misclassify(net, x), region)
        except OptionError:
            assert name.partition(" ")[0] not in GO_ANYWHERE, spec
            continue
        assert region.holds(gauge_of(region, result)).all(), spec
        assert ((result.adversarial >= -1e-7) & (result.adversarial <= 1 + 1e-7)).all(), spec
        assert (labels_of(net, result.adversarial) != labels_of(net, x)).tolist() == result.reached, spec
        if row.apart and spec not in SHARED:
            alone = row.short(misclassify(net, x[1:2]), region.rows(torch.tensor([1])))
            assert alone.outcome[0] is result.outcome[1], spec
            torch.testing.assert_close(alone.adversarial[0], result.adversarial[1], rtol=1e-4, atol=1e-5, msg=spec)


@pytest.mark.parametrize("name", [name for name in TABLE if name not in AGAIN])
def test_under_a_masking_threshold_an_attack_keeps_its_word_or_refuses(name: str) -> None:
    """A bound with frames and hertz: of clips, 100 ms long."""
    row, net = TABLE[name], linear(2, (1600,), seed=3)
    x = 0.1 * inputs_for((1600,), 2, (-1, 1))
    region = Masked(20 if name != "unbounded" else MIN).at_rate(16000).around(x, box=(-1.0, 1.0))
    try:
        result = row.short(misclassify(net, x), region)
    except OptionError:
        assert name.partition(" ")[0] not in GO_ANYWHERE - {"apgd_l1"}
        return
    assert region.holds(gauge_of(region, result)).all()
    assert (labels_of(net, result.adversarial) != labels_of(net, x)).tolist() == result.reached


@EVERY
def test_log_softmax_gives_the_same(name: str, kind: Kind) -> None:
    """The margin is the same on logits and on their log-softmax."""
    row, net = TABLE[name], small(3, (1, 5, 6))
    x, bound = inputs_for((1, 5, 6), 4, (0, 1)), row.bound(kind, 0.4)
    on_logits = row.short(misclassify(net, x), bound.around(x))
    on_log_softmax = row.short(misclassify(nn.Sequential(net, nn.LogSoftmax(1)), x), bound.around(x))
    assert on_log_softmax.outcome == on_logits.outcome
    torch.testing.assert_close(on_log_softmax.gauge, on_logits.gauge, rtol=1e-3, atol=1e-5)


@SEEKING
@pytest.mark.parametrize(("classes", "confidence", "low"), [(2, dlr, 0), (3, dlr, 0), (3, cross_entropy, -1)])
def test_saturated_inputs_and_few_classes(name: str, kind: Kind, classes: int, confidence: Callable[..., Tensor], low: int) -> None:
    """Pictures at 0 and 1, and clips at -1 and 1, which are twice as far apart."""
    shape = (16,) if low else (1, 4, 4)
    row, net = TABLE[name], linear(classes, shape)
    x = low + (1 - low) * inputs_for(shape, 6, (0, 1)).round()
    wide = 1 if kind is L0 else 1 - low
    region = row.bound(kind, wide * ROOMY.get(kind, 0.6)).around(x, box=(low, 1))
    result = row.run(objective(net, Misclassify(labels_of(net, x), confidence)), region)
    assert sum(result.reached) >= 4
    assert (labels_of(net, result.adversarial) != labels_of(net, x)).tolist() == result.reached


@EVERY
def test_the_model_and_the_random_state_are_left_as_they_were(name: str, kind: Kind) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double().train()
    net[1].bias.requires_grad_(False)
    x = inputs_for((1, 5, 6), 4, (0, 1))
    before, random_before = {key: value.clone() for key, value in net.state_dict().items()}, torch.get_rng_state()
    others_before = random.getstate(), pickle.dumps(np.random.get_state())
    TABLE[name].short(objective(net, Misclassify(torch.tensor([0]), margin)), TABLE[name].bound(kind, 0.2).around(x))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert [key for key, parameter in net.named_parameters() if not parameter.requires_grad] == ["1.bias"]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.get_rng_state(), random_before)
    assert (random.getstate(), pickle.dumps(np.random.get_state())) == others_before


@EVERY
def test_cost_is_what_is_counted_from_outside(name: str, kind: Kind) -> None:
    row, net, forwards, backwards = TABLE[name], small(3, (1, 5, 6)), list[int](), list[int]()
    x = inputs_for((1, 5, 6), 4, (0, 1))
    wanted = misclassify(net, x).begun(x)
    net[1].register_forward_hook(lambda module, inputs, output: forwards.append(len(output)))
    net[1].register_full_backward_hook(lambda module, inputs, outputs: backwards.append(len(outputs[0])))
    result = row.short(wanted, row.bound(kind, 0.15).around(x))
    assert result.forwards.sum() == sum(forwards)
    assert result.backwards.sum() == sum(backwards)
    assert wanted.cost.total().tolist() == [result.forwards.tolist(), result.backwards.tolist()]  # and by what it was given
    if row.access is not Access.GRADIENTS:
        assert result.backwards.sum() == 0


@EVERY
def test_progress_is_told_of_every_step_and_its_word_ends_the_attack(name: str, kind: Kind) -> None:
    row, net, steps = TABLE[name], small(3, (1, 5, 6)), list[int]()
    x = inputs_for((1, 5, 6), 4, (0, 1))
    wanted, region = misclassify(net, x), row.bound(kind, 0.02).around(x)

    def tell(step: int, gauge: Tensor, best: Tensor) -> bool:
        assert gauge.shape == (4,)
        assert best.shape == x.shape
        steps.append(step)
        return ends

    ends = False
    row.run(wanted, region, progress=tell)
    assert steps == sorted(set(steps))
    whole, ends = len(steps), True
    assert whole > 0
    steps.clear()
    row.run(wanted, region, progress=tell)
    assert len(steps) <= min(whole, 2), "one of the steps' own, and one of a stage that was to follow"


def test_seeds_may_be_any_whole_number_and_a_start_in_l0_is_small() -> None:
    x, net = inputs_for((1, 5, 6), 4, (0, 1)), small(3, (1, 5, 6))
    runs = [attacks.pgd(misclassify(net, x), Linf(0.1).around(x), seed=seed).adversarial for seed in (3, torch.tensor(3), np.int64(3))]
    assert all(torch.equal(run, runs[0]) for run in runs)
    start = attacks.draws.random_start(L0(4).around(x), seed=0)
    assert ((start != 0).flatten(1).sum(1) <= 4).all()
    assert 0 < start.abs().max() <= 0.1, "so that an attack's steps may put others in their place"


@EVERY
def test_access_is_enforced(name: str, kind: Kind) -> None:
    row, net = TABLE[name], small(3, (1, 5, 6))
    x = inputs_for((1, 5, 6), 2, (0, 1))
    region, goal = row.bound(kind, 0.1).around(x), Misclassify(labels_of(net, x), margin)
    row.short(objective(Classifier(net).granting(row.access), goal), region)  # enough
    for access in list(Access)[list(Access).index(row.access) + 1 :]:
        with pytest.raises(AccessDenied, match="access"):
            row.run(objective(Classifier(net).granting(access), goal), region)


@EVERY
def test_a_model_that_breaks_gives_the_clean_input(name: str, kind: Kind) -> None:
    net = small(3, (1, 5, 6))

    class Broken(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return net(inputs) * torch.nan

    x = inputs_for((1, 5, 6), 2, (0, 1))
    result = TABLE[name].short(objective(Broken(), Misclassify(torch.tensor([0, 1]), margin)), TABLE[name].bound(kind, 0.1).around(x))
    assert torch.equal(result.adversarial, x)
    assert set(result.outcome) <= {Outcome.NOT_FINITE, Outcome.MISSED}


class Spoiling(nn.Module):
    """A net whose slope for its second example is not a number, though all its scores are, from its `first` pass on, `passes` times."""

    def __init__(self, net: nn.Module, first: int, passes: int) -> None:
        super().__init__()
        self.net, self.first, self.passes, self.count = net, first, passes, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.count += 1
        scores: Tensor = self.net(inputs)
        if scores.requires_grad and self.first <= self.count < self.first + self.passes:
            scores.register_hook(lambda slope: slope.index_fill(0, torch.tensor([1]), torch.nan))
        return scores


@pytest.mark.parametrize("bound", [Linf, L2])
@pytest.mark.parametrize("first", [1, 2, 5])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_what_is_not_finite_is_told_though_nobody_leaves(bound: Bound, first: int, momentum: float) -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 3, (0, 1))
    goal, region = Misclassify(labels_of(net, x), by=100.0), bound(0.1).around(x)
    to_the_end = partial(attacks.pgd, steps=5, momentum=momentum, early_stop=False)
    broken = to_the_end(objective(Spoiling(net, first, 1), goal), region)
    assert broken.outcome == (Outcome.MISSED, Outcome.NOT_FINITE, Outcome.MISSED)
    assert torch.equal(broken.adversarial, x)
    assert broken.forwards.tolist() == [6, 6, 6]  # all stay


def test_who_was_at_the_goal_is_kept_whatever_comes_of_its_slope() -> None:
    net, x = linear(3, (1, 5, 6)), inputs_for((1, 5, 6), 3, (0, 1))
    goal, region = Misclassify(labels_of(net, x)), Linf(0.5).around(x)
    whole = attacks.pgd(objective(net, goal), region, steps=20, early_stop=False)
    assert all(whole.reached)
    broken = attacks.pgd(objective(Spoiling(net, 19, 1), goal), region, steps=20, early_stop=False)
    assert broken.outcome == whole.outcome
    assert torch.equal(broken.adversarial, whole.adversarial)


@SEEKING
def test_targeted_goals_too(name: str, kind: Kind) -> None:
    row, net = TABLE[name], linear(3, (1, 5, 6))
    x = inputs_for((1, 5, 6), 4, None)
    targets = (labels_of(net, x) + 1) % 3
    region = row.bound(kind, ROOMY.get(kind, 0.8) * 4 / 3).around(x, box=None)
    result = row.run(objective(net, Classify(targets, margin)), region)
    assert sum(result.reached) >= 3
    assert (labels_of(net, result.adversarial) == targets).tolist() == result.reached


RESTARTED = {name: getattr(attacks, name) for name in attacks.__all__ if "restarts" in signature(getattr(attacks, name)).parameters}


@pytest.mark.parametrize(
    ("name", "bound"),
    [(name, bound) for name in RESTARTED for bound in ([noisy(0.1)] if name == "affine" else [Linf(0.12), L2(0.4), L1(2.5), union(0.1)])],
    ids=str,
)
def test_restarts_never_hurt(name: str, bound: Bound) -> None:
    attack = partial(attacks.affine, attacks.pgd) if name == "affine" else partial(attacks.worst_member, RESTARTED[name])
    net = small(4, (1, 5, 6))
    x = inputs_for((1, 5, 6), 30, (0, 1))
    region, hits = bound.around(x), list[Tensor]()
    for restarts in (1, 2, 4):
        hits.append(torch.tensor(attack(misclassify(net, x), region, steps=4, restarts=restarts).reached))
    assert not (hits[0] & ~hits[1]).any()
    assert not (hits[1] & ~hits[2]).any()
    assert 0 < hits[0].sum() < 30


def test_fallen_examples_leave_and_nothing_is_lost() -> None:
    net = small(4, (1, 5, 6))
    x = inputs_for((1, 5, 6), 40, (0, 1))
    region = Linf(0.15).around(x)
    short = attacks.pgd(misclassify(net, x), region, steps=30)
    full = attacks.pgd(misclassify(net, x), region, steps=30, early_stop=False)
    assert short.reached == full.reached
    assert 0 < sum(short.reached) < 40
    assert short.forwards.sum() < 0.8 * full.forwards.sum()
    assert (full.forwards == 31).all()


SPARSE = {
    "pgd": partial(attacks.pgd, steps=60),
    "apgd_l1": partial(attacks.apgd_l1, steps=60),
    "standard": attacks.standard,
    "fmn": partial(attacks.fmn, steps=60),
    "find_then_shrink": partial(attacks.find_then_shrink, steps=80, minimal=False),
}
KINDS = pytest.mark.parametrize("bound", [L1(1.0), Linf(1.0) | L1(6.0)], ids=str)


@KINDS
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_and_joined_bounds_fail_just_inside_and_succeed_outside(name: str, bound: Any) -> None:
    """The nearest change in L1 is of a single entry, of the greatest weight."""
    net = linear(2, (1, 5, 6))
    x = far_enough(net, inputs_for((1, 5, 6), 8, None), Linf)
    weight = net[1].weight.detach()
    in_l1 = (net(x).detach() @ torch.tensor([1.0, -1.0], dtype=torch.float64)).abs() / (weight[0] - weight[1]).abs().max()
    region = bound.around(x, box=None)
    distance = in_l1 if isinstance(bound, L1) else torch.minimum(nearest(net, x, Linf), in_l1 / 6)
    inside = attacks.worst_member(SPARSE[name], misclassify(net, x), region.at(0.95 * distance))
    assert not any(inside.reached)
    wide = region.at(1.2 * distance)
    outside = attacks.worst_member(SPARSE[name], misclassify(net, x), wide)
    assert all(outside.reached)
    assert (labels_of(net, outside.adversarial) != labels_of(net, x)).all()
    assert wide.holds(wide.gauge(outside.adversarial)).all()


@pytest.mark.parametrize("name", ["apgd_l1", "fmn", "standard"])
def test_few_places_are_enough_in_l0(name: str) -> None:
    """In a box, all that the k greatest gains of entries add up to is needed and enough on a linear net."""
    net = linear(2, (1, 5, 6))
    x = far_enough(net, inputs_for((1, 5, 6), 8, (0, 1)), L2)
    scores, weight = net(x).detach(), net[1].weight.detach()
    way = (weight[0] - weight[1]) * (scores[:, :1] - scores[:, 1:]).sign()
    gains = (way.clamp_min(0) * x.flatten(1) - way.clamp_max(0) * (1 - x.flatten(1))).sort(1, descending=True).values
    count = ((gains.cumsum(1) < (scores[:, 0] - scores[:, 1]).abs()[:, None]).sum(1) + 1).to(x)
    region = L0(1).around(x)
    assert not any(SPARSE[name](misclassify(net, x), region.at(count - 1)).reached)
    found = SPARSE[name](misclassify(net, x), region.at(count + 3))
    assert sum(found.reached) >= 4
    assert (region.gauge(found.adversarial) <= count + 3).all()


@pytest.mark.parametrize(
    "name", ["fgsm", "pgd", "pgd momentum", "pgd restarts", "annealed_pgd", "apgd", "apgd_targeted", "fmn", "ddn", "deepfool"]
)
def test_a_region_with_parameters_of_its_own_gets_them_back(name: str) -> None:
    net, x = small(4, (1, 6, 6)), inputs_for((1, 6, 6), 12, (0, 1))
    region = Spatial(30, 2).around(x)
    result = TABLE[name].run(misclassify(net, x), region)
    assert result.parameters is not None
    torch.testing.assert_close(region.inputs(result.parameters), result.adversarial)
    assert region.holds(region.knowing(result.parameters).gauge(result.adversarial)).all()
    assert (labels_of(net, result.adversarial) != labels_of(net, x)).tolist() == result.reached
    assert any(result.reached) or name == "fgsm"


def test_a_grid_of_moves_is_tried_to_its_first_hit_with_decisions_alone() -> None:
    net, x = small(4, (1, 6, 6)), inputs_for((1, 6, 6), 12, (0, 1))
    labels, region, points = labels_of(net, x), Spatial(12, 0.6).around(x), (5, 3, 2)
    found = attacks.moves_grid(objective(lambda inputs: net(inputs).argmax(1), Misclassify(labels)), region, points=points)
    moves = [torch.tensor(move).expand(12, 3) for move in product(*(torch.linspace(-1, 1, count).tolist() for count in points))]
    hits = torch.stack([labels_of(net, region.inputs(move)) != labels for move in moves])
    assert found.reached == hits.any(0).tolist()
    assert 3 <= sum(found.reached) < 12
    first = torch.where(hits.any(0), hits.int().argmax(0), len(moves) - 1)
    assert found.forwards.tolist() == (first + 1).tolist()
    assert found.parameters is not None
    for row in hits.any(0).nonzero()[:, 0].tolist():
        assert torch.equal(found.parameters[row], moves[int(first[row])][row])
    still = attacks.moves_grid(misclassify(net, x), region, points=(1, 1, 1))
    assert torch.equal(still.adversarial, x)


def test_the_worst_of_more_random_moves_is_no_better_and_neighbours_change_nothing() -> None:
    net, x = small(4, (1, 6, 6)), inputs_for((1, 6, 6), 30, (0, 1))
    region = Spatial(8, 0.4).around(x)
    few, many = (attacks.worst_of(misclassify(net, x), region, draws=draws) for draws in (1, 8))
    assert sum(few.reached) < sum(many.reached)
    assert not any(a and not b for a, b in zip(few.reached, many.reached, strict=True))
    assert many.forwards.max() == 8
    alone = attacks.worst_of(misclassify(net, x[7:9]), Spatial(8, 0.4).around(x[7:9]), draws=8)
    assert torch.equal(alone.adversarial, many.adversarial[7:9])


def test_standard_tries_a_grid_of_moves_before_slopes() -> None:
    net, x = small(4, (1, 6, 6)), inputs_for((1, 6, 6), 30, (0, 1))
    region = Spatial(8, 0.4).around(x)
    grid, all_of_it = attacks.moves_grid(misclassify(net, x), region), attacks.standard(misclassify(net, x), region)
    assert not any(fell and not stands for fell, stands in zip(grid.reached, all_of_it.reached, strict=True))
    fallen = torch.tensor(grid.reached)
    assert 3 <= fallen.sum() < 30
    assert torch.equal(all_of_it.adversarial[fallen], grid.adversarial[fallen])
    assert (all_of_it.backwards[fallen] == 0).all()


def test_moves_are_tried_where_there_are_moves_of_a_fixed_reach() -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 2, (0, 1))
    for attack in (attacks.moves_grid, attacks.worst_of):
        with pytest.raises(OptionError, match="spatial:30,3"):
            attack(misclassify(net, x), Linf(0.1).around(x))
        with pytest.raises(OptionError, match="spatial:30,3"):
            attack(misclassify(net, x.flatten(1)), Patch((4,)).around(x.flatten(1)))  # its parameters are [batch, 4]
        with pytest.raises(OptionError, match="min has none"):
            attack(misclassify(net, x), Spatial().around(x))
    for points in ((3, 3), (3, 0, 3)):
        with pytest.raises(OptionError, match="one count for each parameter"):
            attacks.moves_grid(misclassify(net, x), Spatial(30, 2).around(x), points=points)


def test_attacks_on_the_change_itself_refuse_parameters() -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 2, (0, 1))
    for attack in (attacks.square, attacks.boundary, attacks.hop_skip_jump, attacks.universal, attacks.carlini_wagner, attacks.sigma_zero):
        with pytest.raises(OptionError, match="parameters of its own"):
            attack(misclassify(net, x), Spatial(30, 2).around(x))
    for attack in (attacks.ddn, attacks.deepfool, attacks.hop_skip_jump):
        with pytest.raises(OptionError, match="L0"):
            attack(misclassify(net, x), L0(3).around(x))


SOURCES = {"nes", "spsa", "bandits", "coordinates"}
COUNTS = {"steps", "restarts", "draws", "tries", "rounds", "passes", "batch", "herd", "searches", "rivals"}


@pytest.mark.parametrize(
    "name", [name for name in attacks.__all__ if COUNTS & signature(getattr(attacks, name)).parameters.keys() and name != "Expectation"]
)
@pytest.mark.parametrize("count", [0, 1.5])
def test_no_steps_at_all_are_an_error_and_no_miss(name: str, count: float) -> None:
    net, x = linear(2, (6,)), inputs_for((6,), 2, (0, 1))
    given = [] if name in SOURCES else [objective(net, Misclassify(labels_of(net, x))), Linf(0.1).around(x)]
    given = [attacks.pgd, *given] if name == "affine" else given
    needed = {"substitute": net} if name == "transfer" else {}
    for option in COUNTS & signature(getattr(attacks, name)).parameters.keys():
        with pytest.raises(OptionError, match=f"{option} {count}: give a whole number"):
            getattr(attacks, name)(*given, **needed, **{option: count})


def test_messages_name_every_attack_that_works_with_less() -> None:
    least = {name: evaluating(name).access for name in EVALUATING}
    for name, access in least.items():
        assert (access is not Access.GRADIENTS) == (name in WITHOUT[Access.GRADIENTS]), name
        assert (access is Access.DECISIONS and name != "genetic") == (name in WITHOUT[Access.SCORES]), name  # genetic: transcripts alone


def floats(name: str) -> list[str]:
    """The options of an attack, or of a source of slopes, that are numbers of any kind."""
    given = signature(getattr(attacks, name)).parameters.values()
    return [option.name for option in given if option.annotation in (float, float | None)]


@pytest.mark.parametrize("name", [name for name in [*attacks.__all__, "find_then_shrink"] if floats(name)])
@pytest.mark.parametrize("wrong", [math.nan, -1, "a", True], ids=str)
def test_a_number_that_makes_no_sense_is_an_error_and_no_miss(name: str, wrong: Any) -> None:
    net, x = linear(2, (1, 5, 6)), inputs_for((1, 5, 6), 2, (0, 1))
    given: list[Any] = [] if name in SOURCES else [objective(net, Misclassify(labels_of(net, x))), Linf(0.1).around(x)]
    if name == "qin":
        x = 0.1 * torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
        given[1] = Masked(0).around(x, box=(-1, 1))
    given = ["gain:-3..3"] if name == "Expectation" else given
    needed = {"substitute": net} if name == "transfer" else {}
    for option in floats(name):
        with pytest.raises(OptionError, match=f"{option} {wrong!r}: "):
            getattr(attacks, name)(*given, **needed, **{option: wrong})


def test_shares_end_at_one() -> None:
    net, x = linear(2, (6,)), inputs_for((6,), 2, (0, 1))
    wanted, region = objective(net, Misclassify(labels_of(net, x))), Linf(0.1).around(x)
    for attack, option in (
        (attacks.pgd, "momentum"),
        (attacks.find_then_shrink, "momentum"),
        (attacks.genetic, "descent"),
        (attacks.ddn, "gamma"),
    ):
        with pytest.raises(OptionError, match=f"{option} 2: give a number from 0 to 1"):
            attack(wanted, region, **{option: 2})


def test_rungs_are_rates() -> None:
    net, x = linear(2, (6,)), inputs_for((6,), 2, (0, 1))
    with pytest.raises(OptionError, match="rungs nan: give a finite number above 0"):
        attacks.worsen(attacks.pgd, objective(net, Misclassify(0)), Linf(0.1).around(x), rungs=(0.5, math.nan))


@pytest.fixture
def doubles_by_default() -> Iterator[None]:
    """A session that makes new tensors in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("doubles_by_default")
@pytest.mark.parametrize("name", ["ddn", "pdpgd", "sigma_zero", "fmn", "genetic", "pgd", "find_then_shrink"])
def test_inputs_in_single_precision_stay_so_whatever_the_default(name: str) -> None:
    net, x = linear(3, (1, 5, 6)).float(), inputs_for((1, 5, 6), 3, (0, 1)).float()
    bound = Linf(0.1) if name in ("genetic", "pgd") else L2(MIN)
    found = getattr(attacks, name)(objective(net, Misclassify(labels_of(net, x))), bound.around(x), steps=4)
    assert found.adversarial.dtype == found.gauge.dtype == torch.float32


@pytest.mark.usefixtures("doubles_by_default")
@pytest.mark.parametrize(
    ("bound", "attack"), [("linf:min", "shrink"), ("snr:min", "shrink"), ("masked:min", "shrink"), ("masked:min", "qin")]
)
def test_clips_in_single_precision_stay_so_whatever_the_default(bound: str, attack: str) -> None:
    clip = Clip("hiss", 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0), dtype=torch.float32), 16000)
    found = craft(recognisers.linear(), [clip], Transcribe("go"), bound=bound, attack=attack, steps=3)
    assert found.adversarial[0].dtype == torch.float32


class Overwrites(nn.Module):
    """Normalises its input in place: the caller's, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).flatten(1)


def test_a_model_that_writes_over_its_inputs_is_told_and_not_called_robust() -> None:
    x = inputs_for((1, 2, 2), 3, (0, 1))
    model = Classifier(Overwrites(), access=Access.SCORES)
    with pytest.raises(UnusableBatch, match="writes over its inputs"):
        attacks.square(objective(model, Misclassify(torch.tensor([0, 1, 2]))), Linf(0.1).around(x), steps=5)


class Mean(nn.Module):
    """Its slope is one number for all entries, which torch does not write out."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1)
        return torch.stack([mean, -mean], 1)


def test_slopes_that_torch_does_not_write_out_are_steps_as_any() -> None:
    x = 0.01 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    wanted = objective(Mean(), Misclassify(Mean()(x).argmax(1)))
    assert all(attacks.pgd(wanted, Linf(0.05).around(x, box=(-1, 1))).reached)


class Steep(nn.Module):
    """A slope without end where the first entry is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, 1], x[:, 1] - 1 - 0.5 * x[:, 0].clamp_min(0).sqrt()], 1)


def test_a_slope_without_end_is_no_miss() -> None:
    x = torch.tensor([[0.0, 0.5]])
    result = attacks.pgd(objective(Steep(), Misclassify(torch.tensor([0]))), Linf(0.1).around(x), random_start=False)
    assert result.outcome == (Outcome.NOT_FINITE,)


def test_pdpgd_comes_to_the_smallest_change_in_l2() -> None:
    weights = torch.cat([torch.full((10,), 5.0), torch.full((190,), 0.2)])

    def net(x: Tensor) -> Tensor:
        return torch.stack([0 * (x @ weights), x @ weights - 1], 1)

    x = 0.01 * torch.rand(5, 200, generator=torch.Generator().manual_seed(0))
    result = attacks.pdpgd(objective(net, Misclassify(net(x).argmax(1))), L2(MIN).around(x, box=None), steps=500)
    assert (result.gauge < 1.1 * (x @ weights - 1).abs() / weights.norm()).all()


def test_pdpgds_price_rises_while_the_goal_is_missed() -> None:
    """In L1, a slope of 0.01 moves nothing before the norm, beside the margin, weighs less than that."""
    seen = list[float]()

    def gentle(x: Tensor) -> Tensor:
        seen.append(float(x.detach()))
        return torch.cat([5 + 0.01 * x, torch.zeros_like(x)], 1)

    attacks.pdpgd(objective(gentle, Misclassify(0)), L1(MIN).around(torch.zeros(1, 1, dtype=torch.float64), box=None), steps=200)
    dual, price, rises = math.log(10), 1 / 1.1, 0
    while (1 - price) / price >= 0.01 / (1 + math.exp(-5)):
        dual += 0.1 * (1 - 0.9 * rises / 200)
        price, rises = 0.9 * price + 0.1 / (1 + math.exp(-dual)), rises + 1
    assert seen[rises] == 0
    assert seen[rises + 1] < 0

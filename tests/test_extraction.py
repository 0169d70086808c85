"""Copies: exact where equations have one solution, counted from outside, and as good as the answers that were paid for."""

import pytest
import torch
from nets import inputs_for, linear, small
from torch import Tensor, nn

from audioadv.defenses import remembering
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.evaluation.fidelity import carried, fidelity
from audioadv.models.access import Access
from audioadv.models.classifier import Classifier
from audioadv.threat.bounds import MIN, Linf
from audioadv.training import Asked, extract, solved, solved_by_decisions
from audioadv.training.pseudo_labels import pseudo_labels

SHAPE = (1, 3, 4)
FRESH = inputs_for(SHAPE, 500, None, seed=7)


def counted(net: nn.Module) -> list[int]:
    """How many inputs each call of a net is given, as its hook sees them."""
    seen = list[int]()
    net.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    return seen


def pupil(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, classes)).double()


def test_as_many_answers_as_unknowns_are_the_whole_model() -> None:
    net = linear(4, SHAPE)
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
    asked, inputs = counted(net), inputs_for(SHAPE, 13, (0, 1))
    victim = Asked(net, Access.SCORES)
    copy = solved(victim, inputs)
    assert victim.queries == sum(asked) == 12 + 1
    torch.testing.assert_close(copy(FRESH).softmax(1), net(FRESH).softmax(1), rtol=0, atol=1e-10)
    torch.testing.assert_close(copy[1].weight, net[1].weight - net[1].weight[0])
    with pytest.raises(UnusableBatch, match="12 independent equations for 13 unknowns"):
        solved(victim, inputs[:12])
    with pytest.raises(UnusableBatch, match="12 independent"):
        solved(victim, torch.cat([inputs[:12], inputs[:12]]))
    with pytest.raises(AccessDenied, match="solved_by_decisions"):
        solved(Asked(net), inputs)


@pytest.mark.parametrize("access", [Access.DECISIONS, Access.SCORES])
def test_a_plane_through_points_of_the_boundary_is_the_boundary(access: Access) -> None:
    net = linear(2, SHAPE, seed=3)
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([0.3, 0.0]))
    asked, inputs = counted(net), inputs_for(SHAPE, 13, None)
    victim = Asked(net, access)
    copy = solved_by_decisions(victim, inputs, halvings=48)
    assert victim.queries == sum(asked) == 13 + 12 * 48
    true, found = (torch.cat([(n[1].weight[1] - n[1].weight[0]), (n[1].bias[1] - n[1].bias[0])[None]]) for n in (net, copy))
    torch.testing.assert_close(found / found.norm(), true / true.norm(), rtol=0, atol=1e-9)
    assert fidelity(net, copy, FRESH).hits == len(FRESH)
    labels = pseudo_labels(net, inputs)
    with pytest.raises(UnusableBatch, match="of class 0"):
        solved_by_decisions(victim, inputs[labels == 0])
    with pytest.raises(UnusableBatch, match="13 in all"):
        solved_by_decisions(victim, inputs[:12])


@pytest.mark.parametrize(("rounds", "most", "told"), [(1, None, [20]), (3, None, [20, 40, 80]), (4, 50, [20, 40, 50]), (9, 15, [15])])
def test_queries_are_what_the_net_was_asked_and_never_too_many(rounds: int, most: int | None, told: list[int]) -> None:
    net, heard = small(3, SHAPE), list[int]()
    asked, victim, inputs = counted(net), Asked(net), inputs_for(SHAPE, 20, (0, 1))
    found = extract(victim, pupil(), inputs, rounds=rounds, queries=most, passes=1, tell=heard.append)
    assert heard == told
    assert victim.queries == sum(asked) == len(found.inputs) == told[-1]
    assert torch.equal(found.answers, pseudo_labels(net, found.inputs))
    assert torch.equal(found.inputs[:20], inputs[:most])


def test_inputs_are_doubled_by_steps_across_the_copys_own_boundary_within_the_box() -> None:
    net, copy, inputs = linear(2, SHAPE), linear(2, SHAPE, seed=5), inputs_for(SHAPE, 30, (0, 1))
    found = extract(Asked(net), copy, inputs, rounds=2, passes=0, spread=0.25)
    toward = (copy[1].weight[1] - copy[1].weight[0]).reshape(SHAPE).sign()  # of a linear copy that has learnt nothing, known
    side = torch.where(pseudo_labels(net, inputs) == 1, 1.0, -1.0).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(found.inputs[30:], (inputs - 0.25 * side * toward).clamp(0, 1))


def test_a_copy_grows_faithful_with_queries_and_what_fells_it_fells_the_victim() -> None:
    net, pool = small(3, SHAPE), inputs_for(SHAPE, 600, None, seed=2)
    few, many, told = pupil(), pupil(), pupil()
    for copy, count in ((few, 20), (many, 600)):
        extract(Asked(net), copy, pool, queries=count, rate=0.01, passes=6000 // count)
    extract(Asked(net, Access.SCORES), told, pool, rate=0.01, passes=10)
    rates = [fidelity(net, copy, FRESH) for copy in (pupil(), few, many, told)]
    assert rates[0].interval[1] < rates[1].interval[0]
    assert rates[1].interval[1] < rates[2].interval[0]
    assert rates[3].hits > rates[2].hits
    assert [rate.count for rate in rates] == [500] * 4
    labels = pseudo_labels(net, FRESH)
    felled = [carried(net, copy, FRESH, labels, Linf(0.2), box=None) for copy in (pupil(), many, net)]
    assert felled[0].interval[1] < felled[1].interval[0]
    assert felled[1].hits <= felled[2].hits
    wrong = carried(net, many, FRESH, (labels + 1) % 3, Linf(0.2), box=None)
    assert (wrong.hits, wrong.count) == (0, 0)  # what the victim has wrong before needs no attack


def test_the_same_seed_gives_the_same_copy_and_the_victim_stays_as_it_was() -> None:
    net, inputs = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3)).double(), inputs_for(SHAPE, 40, None)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copies = [pupil(), pupil(), pupil()]
    for copy, seed in zip(copies, (0, 0, 1), strict=True):
        extract(Asked(net), copy, inputs, rounds=2, passes=2, seed=seed, box=None)
    first, again, other = (copy(FRESH) for copy in copies)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_a_thief_may_not_do_is_told() -> None:
    shut = Classifier(small(3, SHAPE)).granting(Access.DECISIONS)
    with pytest.raises(AccessDenied, match=r"Asked\(model, Access.DECISIONS\)"):
        Asked(shut, Access.SCORES)
    assert Asked(shut)(FRESH[:2]).dtype == torch.int64

    def decide(inputs: Tensor) -> Tensor:
        return pseudo_labels(shut, inputs)

    assert torch.equal(Asked(decide)(FRESH), Asked(shut)(FRESH))
    with pytest.raises(UnusableBatch, match="no inputs"):
        extract(Asked(shut), pupil(), FRESH[:0])
    with pytest.raises(OptionError, match="queries 0"):
        extract(Asked(shut), pupil(), FRESH, queries=0)


def test_an_access_in_words_grants_no_more() -> None:
    net = linear(3, SHAPE)
    assert torch.equal(Asked(net, "decisions")(FRESH), Asked(net)(FRESH))  # type: ignore[arg-type]
    with pytest.raises(AccessDenied):
        solved(Asked(net, "decisions"), FRESH)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="access 'all'"):
        Asked(net, "all")  # type: ignore[arg-type]


def test_equations_are_of_what_the_victim_answers_alone() -> None:
    net, inputs = linear(3, SHAPE), inputs_for(SHAPE, 16, (0, 1))
    victim = Asked(remembering(net), Access.SCORES)
    copy = solved(victim, torch.cat([inputs, inputs[:4]]))
    torch.testing.assert_close(copy(FRESH).softmax(1), net(FRESH).softmax(1), rtol=0, atol=1e-10)
    with pytest.raises(UnusableBatch, match="0 answers give 0 independent"):
        solved(victim, inputs)


def test_solving_and_copying_leave_the_worlds_randomness_alone_and_ask_for_their_gradients() -> None:
    net, inputs = linear(3, SHAPE), inputs_for(SHAPE, 20, (0, 1))
    copies = [pupil(), pupil()]
    before = torch.get_rng_state()
    with torch.no_grad():
        extract(Asked(net), copies[0], inputs, rounds=2, passes=2)
    extract(Asked(net), copies[1], inputs, rounds=2, passes=2)
    assert torch.equal(copies[0](FRESH), copies[1](FRESH))
    solved(Asked(net, Access.SCORES), inputs)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_counter_with_scores_gives_log_probabilities() -> None:
    net = small(3, SHAPE)
    torch.testing.assert_close(Asked(net, Access.SCORES)(FRESH), net(FRESH).log_softmax(1))


def test_a_copy_that_cannot_learn_costs_no_query() -> None:
    net = small(3, SHAPE)
    victim = Asked(net)
    for copy, said in ((pupil().requires_grad_(False), "frozen"), (Classifier(pupil()), "a copy that is a Classifier")):
        with pytest.raises(UnusableBatch, match=said):
            extract(victim, copy, FRESH)  # type: ignore[arg-type]
    for options, said in (({"passes": -3}, "passes -3"), ({"rounds": 1.5}, "rounds 1.5"), ({"queries": 2.5}, "queries 2.5")):
        with pytest.raises(OptionError, match=said):
            extract(victim, pupil(), FRESH, **options)  # type: ignore[arg-type]
    assert victim.queries == 0


def test_a_copy_that_normalises_its_batches_is_never_given_one_answer_alone() -> None:
    copy = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    extract(Asked(linear(3, SHAPE)), copy, FRESH[:65], passes=1)
    assert copy[2].num_batches_tracked == 1


def test_options_that_make_no_sense() -> None:
    net, labels = small(3, SHAPE), pseudo_labels(small(3, SHAPE), FRESH)
    with pytest.raises(OptionError, match="rate -1"):
        extract(Asked(net), pupil(), FRESH, rate=-1.0)
    with pytest.raises(OptionError, match="linf:min: training needs a radius"):
        carried(net, net, FRESH, labels, Linf(MIN), box=None)


def test_an_image_of_single_precision_is_solved_from_as_many_answers_as_unknowns() -> None:
    net, inputs = linear(4, (1, 28, 28)).float(), torch.rand(785, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    copy = solved(Asked(net, Access.SCORES), inputs)
    torch.testing.assert_close(copy[1].weight, net[1].weight - net[1].weight[0], rtol=0, atol=1e-3)


def test_lines_are_chosen_for_their_directions_and_too_few_are_told_before_anything_is_asked_along_them() -> None:
    net = linear(2, SHAPE, seed=3)
    inputs = inputs_for(SHAPE, 60, None)
    often = torch.cat([inputs[:4].repeat(10, 1, 1, 1), inputs])
    assert fidelity(net, solved_by_decisions(Asked(net), often), FRESH).hits == len(FRESH)
    victim = Asked(net)
    with pytest.raises(UnusableBatch, match="3 independent directions, and the boundary takes 12"):
        solved_by_decisions(victim, often[:40])
    assert victim.queries == 40
    dead = inputs.clone()
    dead[..., 0] = 0.5
    with pytest.raises(UnusableBatch, match="9 independent directions"):
        solved_by_decisions(Asked(net), dead)

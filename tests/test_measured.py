"""Goals for other models than recognisers with CTC and classifiers: losses of one's own, features, sequences of tokens."""

import pytest
import torch
from torch import Tensor, nn

from audioadv import attacks
from audioadv.attacks.objective import objective
from audioadv.attacks.result import Attack
from audioadv.errors import OptionError, UnusableBatch
from audioadv.threat.bounds import L2, Linf
from audioadv.threat.goals import Goal
from audioadv.threat.measured import Below, Sequence, feature_distance, near

SCORES = torch.tensor([[[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]], [[3.0, 0.0, 0.0], [0.0, 0.0, 2.0]]], dtype=torch.float64)


class Writer(nn.Module):
    """Six numbers in, three tokens of a vocabulary of four out; fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        weights = 0.5 * torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.weights = nn.Parameter(weights)

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.tanh(inputs @ self.weights.T).unflatten(1, (3, 4))


def points(count: int) -> Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_sequence_costs_its_negative_log_likelihood_up_to_its_end() -> None:
    goal = Sequence(torch.tensor([[1, 2], [0, -100]]))
    logs = SCORES.log_softmax(2)
    torch.testing.assert_close(goal.loss(SCORES), -torch.stack([logs[0, 0, 1] + logs[0, 1, 2], logs[1, 0, 0]]))
    assert goal.reached(SCORES).tolist() == [False, True]
    assert goal.lack(SCORES).tolist() == [1.0, -3.0]  # the worst token of each
    assert goal.margin(SCORES).tolist() == [1.0, 0.0]
    assert goal.margin(SCORES, slack=3.5).tolist() == [2.5 + 4.5, 0.5]
    assert goal.rows(torch.tensor([1])).reached(SCORES[1:]).tolist() == [True]
    with pytest.raises(UnusableBatch, match="batch, steps, vocabulary"):
        goal.loss(SCORES[0])


def test_a_tie_is_not_what_greedy_decoding_is_sure_to_write() -> None:
    goal = Sequence(torch.tensor([[1]]))
    assert not goal.reached(torch.zeros(1, 1, 3)).item()
    assert goal.margin(torch.zeros(1, 1, 3), slack=0.5).item() == 0.5


def test_a_loss_of_ones_own_takes_its_data_along() -> None:
    goal = Below(lambda outputs, wanted: (outputs - wanted).abs().sum(1), 1.0, torch.tensor([[0.0], [5.0], [9.0]]))
    outputs = torch.tensor([[0.5], [3.0], [9.0]])
    assert goal.loss(outputs).tolist() == [0.5, 2.0, 0.0]
    assert goal.reached(outputs).tolist() == [True, False, True]
    assert goal.margin(outputs, slack=0.75).tolist() == [0.25, 1.75, 0.0]
    assert goal.rows(torch.tensor([1, 2])).loss(outputs[1:]).tolist() == [2.0, 0.0]
    with pytest.raises(UnusableBatch, match="one number for each"):
        Below(lambda outputs: outputs.sum(), 1.0).loss(outputs)
    with pytest.raises(OptionError, match="come under"):
        Below(feature_distance, float("nan"), outputs)


@pytest.mark.parametrize(
    ("tokens", "match"),
    [
        ([[1, 2]], "tensor"),
        (torch.tensor([[1.0, 2.0]]), "whole numbers"),
        (torch.tensor([1, 2]), "batch, steps"),
        (torch.tensor([[1, -1]]), "token -1"),
        (torch.tensor([[-100, -7]]), "token -7"),
    ],
)
def test_tokens_that_are_none(tokens: object, match: str) -> None:
    with pytest.raises(UnusableBatch, match=match):
        Sequence(tokens)  # type: ignore[arg-type]


def test_tokens_are_of_the_models_vocabulary_and_of_any_whole_type() -> None:
    with pytest.raises(UnusableBatch, match="token 3: the model's vocabulary has 3"):
        Sequence(torch.tensor([[1, 2], [3, -100]])).reached(SCORES)
    goal = Sequence(torch.tensor([[1, 2], [0, -100]], dtype=torch.int32))
    assert goal.loss(SCORES).isfinite().all()


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 3), (3, 2, 3), (4,)], ids=str)
def test_scores_have_a_row_of_the_vocabulary_for_each_token(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnusableBatch, match=r"for tokens of shape \(2, 2\): give scores"):
        Sequence(torch.tensor([[1, 2], [0, 1]])).reached(torch.zeros(shape))


def test_data_have_one_row_an_example() -> None:
    outputs = torch.zeros(4, 3)
    for rows in (1, 2):
        with pytest.raises(UnusableBatch, match=f"data of {rows} rows for 4 examples"):
            near(torch.zeros(rows, 3), 0.5).reached(outputs)
    with pytest.raises(UnusableBatch, match=r"\(4, 1\) for outputs of shape \(4, 3\)"):
        near(torch.zeros(4, 1), 0.5).loss(outputs)


def wanted(kind: str, net: Writer, count: int) -> Goal:
    """What other inputs, near by, make of the net: it can be reached."""
    others = points(count) + 0.2 * torch.randn(count, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    outputs = net(others).detach()
    return Sequence(outputs.argmax(2)) if kind == "sequence" else near(outputs, 0.3)


@pytest.mark.parametrize("kind", ["sequence", "near"])
@pytest.mark.parametrize("attack", [attacks.pgd, attacks.annealed_pgd, attacks.apgd, attacks.fmn])
def test_attacks_reach_them_whoever_else_is_in_the_batch(kind: str, attack: Attack) -> None:
    net = Writer()
    x, goal = points(12), wanted(kind, net, 12)
    found = attack(objective(net, goal), Linf(0.6).around(x, box=None), steps=60)
    assert sum(found.reached) >= 9
    assert goal.reached(net(found.adversarial)).tolist() == found.reached
    some = torch.tensor([3, 8])
    alone = attack(objective(net, goal.rows(some)), Linf(0.6).around(x[some], box=None), steps=60)
    torch.testing.assert_close(alone.adversarial, found.adversarial[some])


def test_the_smallest_change_and_queries_alone_work_too() -> None:
    net = Writer()
    x, goal = points(6), wanted("near", net, 6)
    region = L2("min").around(x, box=None)
    for search in (attacks.fmn, attacks.find_then_shrink, attacks.pdpgd):
        least = search(objective(net, goal), region, steps=100)
        assert all(least.reached)
        assert (least.gauge < 0.5).all()
    asked = attacks.pgd(objective(net, goal, slopes=attacks.nes(20)), Linf(0.6).around(x, box=None), steps=40)
    assert sum(asked.reached) >= 1
    both = attacks.pgd(objective(net, goal & wanted("sequence", net, 6)), Linf(0.6).around(x, box=None), steps=60)
    assert goal.reached(net(both.adversarial))[torch.tensor(both.reached)].all()

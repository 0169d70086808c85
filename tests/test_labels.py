"""Classification goals: exact values, few classes, decisions, and the errors of bad labels."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.attacks import pgd
from audioadv.attacks.objective import objective
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.threat.bounds import Linf
from audioadv.threat.joined import Joined, rivalled
from audioadv.threat.labels import Classify, Misclassify, cross_entropy, dlr, lead, margin, probability_margin

SCORES = torch.tensor([[4.0, 1.0, 2.0, -1.0], [0.0, 3.0, 5.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


def test_confidences_of_known_scores() -> None:
    assert margin(SCORES, LABELS).tolist() == [2.0, -2.0]
    assert margin(SCORES, LABELS, torch.tensor([3, 3])).tolist() == [5.0, 2.0]
    torch.testing.assert_close(dlr(SCORES, LABELS), torch.tensor([2 / 3, -2 / 4.5], dtype=torch.float64))
    rivals = torch.tensor([1, 0])
    torch.testing.assert_close(dlr(SCORES, LABELS, rivals), torch.tensor([3 / (4 - 0), 3 / (5 - 0.5)], dtype=torch.float64))
    probabilities = SCORES.softmax(1)
    torch.testing.assert_close(cross_entropy(SCORES, LABELS).exp(), probabilities[[0, 1], LABELS])
    torch.testing.assert_close(probability_margin(SCORES, LABELS), probabilities[[0, 1], LABELS] - probabilities[[0, 1], [2, 2]])


@pytest.mark.parametrize("confidence", [cross_entropy, margin, dlr, probability_margin])
@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("targeted", [False, True])
def test_log_softmax_changes_nothing_and_few_classes_work(confidence: object, classes: int, targeted: bool) -> None:
    scores = SCORES[:, :classes].clone().requires_grad_()
    rivals = torch.tensor([1, 0]) if targeted else None
    if targeted and classes > 2:
        rivals[0] = 1 + (scores[0, 1:].argmin())
    value, same = (confidence(outputs, LABELS, rivals) for outputs in (scores, scores.log_softmax(1)))
    torch.testing.assert_close(value, same)
    (slope,) = torch.autograd.grad(value.sum(), scores)
    assert slope.isfinite().all()
    assert (slope.abs().sum(1) > 0).all()


def test_dlr_does_not_change_with_scale_or_shift() -> None:
    torch.testing.assert_close(dlr(SCORES, LABELS), dlr(100 * SCORES + 7, LABELS))


@pytest.mark.parametrize("top", [1, 2, 3])
def test_top_k_is_what_sorting_says(top: int) -> None:
    scores = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 5
    within = (scores.argsort(1, descending=True)[:, :top] == labels[:, None]).any(1)
    assert torch.equal(Misclassify(labels, top=top).reached(scores), ~within)
    assert torch.equal(Classify(labels, top=top).reached(scores), within)
    assert torch.equal(Misclassify(labels, top=top).margin(scores) == 0, ~within)


def test_confident_by_kappa() -> None:
    lower, higher = Misclassify(LABELS, by=1.5), Misclassify(LABELS, by=2.5)
    assert lower.reached(SCORES).tolist() == [False, True]
    assert higher.reached(SCORES).tolist() == [False, False]
    assert higher.margin(SCORES).tolist() == [4.5, 0.5]
    assert Classify([2, 2], by=1.5).reached(SCORES).tolist() == [False, True]
    assert Misclassify(0).reached(torch.zeros(1, 3)).tolist() == [False]  # a tie fools nobody


def test_joined_goals() -> None:
    joined = Misclassify(LABELS) & Classify([2, 2])
    assert joined.reached(SCORES).tolist() == [False, True]
    assert (joined.margin(SCORES) == 0).tolist() == [False, True]
    assert joined.rows(torch.tensor([1])).reached(SCORES[1:]).tolist() == [True]
    lacks = [margin(SCORES, LABELS), -margin(SCORES, torch.tensor([2, 2]))]
    torch.testing.assert_close(joined.loss(SCORES), sum(F.softplus(lack) for lack in lacks))
    assert str(joined) == "not class 0,1, and class 2,2"


def test_any_callable_is_a_confidence() -> None:
    def first_score(scores: Tensor, labels: Tensor) -> Tensor:
        return scores[:, 0]

    assert Misclassify(LABELS, first_score).loss(SCORES).tolist() == [4.0, 0.0]
    assert Classify(LABELS, first_score).loss(SCORES).tolist() == [-4.0, 0.0]


def test_aimed_goals_are_nearest_first_and_reached_by_any_wrong_class() -> None:
    goals = Misclassify(LABELS, dlr).aimed(SCORES, 9)
    assert [goal.rivals.tolist() for goal in goals] == [[2, 2], [1, 3], [3, 0]]
    assert goals[2].reached(SCORES).tolist() == [False, True]
    assert goals[2].rows(torch.tensor([1])).rivals.tolist() == [0]


def test_a_label_or_a_class_that_is_ruled_out_is_no_rival() -> None:
    """Also where a tie at -inf would bring the label among the nearest."""
    goals = Misclassify([1, 0]).aimed(torch.tensor([[0.0, 5.0, -torch.inf, -torch.inf], [-torch.inf, 1.0, 2.0, 3.0]]), 9)
    assert [goal.rivals.tolist() for goal in goals] == [[0, 3], [0, 2], [0, 1]]
    assert [goal.rivals.tolist() for goal in Misclassify(1).aimed(torch.tensor([[-torch.inf, 0.0, -torch.inf]]), 9)] == [[0]]
    assert [goal.rivals.tolist() for goal in Misclassify(3).aimed(SCORES[:1], 2)] == [[0], [2]]


def test_a_joined_goal_is_aimed_where_a_member_is() -> None:
    plain, joined = Misclassify(LABELS), Misclassify(LABELS) & Classify([2, 2])
    assert rivalled(plain)
    assert rivalled(joined)
    assert not rivalled(Classify([2, 2]) & Classify([2, 2]))
    goals = joined.aimed(SCORES, 9)
    assert [goal.goals[0].rivals.tolist() for goal in goals] == [[2, 2], [1, 3], [3, 0]]
    toward = margin(SCORES, LABELS, torch.tensor([1, 3])), -margin(SCORES, torch.tensor([2, 2]))
    torch.testing.assert_close(goals[1].loss(SCORES), sum(F.softplus(lack) for lack in toward))


def test_decisions_are_judged_but_have_no_loss() -> None:
    assert Misclassify(LABELS).reached(torch.tensor([0, 2])).tolist() == [False, True]
    assert Classify(2).reached(torch.tensor([0, 2])).tolist() == [False, True]
    with pytest.raises(AccessDenied, match="decisions"):
        Misclassify(LABELS).loss(torch.tensor([0, 2]))


@pytest.mark.parametrize(
    "goal",
    [Misclassify(LABELS, by=50.0), Misclassify(LABELS, top=3), Classify(2, by=0.5), Classify(2, top=2), Misclassify(0, by=1) & Classify(2)],
    ids=str,
)
def test_decisions_do_not_show_a_lead_or_a_rank(goal: Misclassify | Classify | Joined) -> None:
    with pytest.raises(AccessDenied, match="neither lead nor rank"):
        goal.reached(torch.tensor([0, 2]))


@pytest.mark.parametrize("labels", [torch.tensor([0.0, 1.0]), torch.eye(2, dtype=torch.int64), torch.tensor([0, -1])])
def test_labels_that_are_no_class_numbers(labels: Tensor) -> None:
    with pytest.raises(UnusableBatch):
        Misclassify(labels)


def test_labels_out_of_range_or_too_few() -> None:
    with pytest.raises(UnusableBatch, match="label 4: the model knows 4 classes"):
        Misclassify([0, 4]).loss(SCORES)
    with pytest.raises(UnusableBatch, match="3 labels for 2"):
        Misclassify([0, 1, 2]).reached(SCORES)
    with pytest.raises(UnusableBatch, match="scores"):
        Misclassify(0).reached(torch.zeros(2, 3, 4))
    with pytest.raises(OptionError, match="top"):
        Misclassify(0, top=0)
    with pytest.raises(UnusableBatch, match="rival 4: the model knows 4 classes"):
        Misclassify(0, rivals=[1, 4]).loss(SCORES)
    Misclassify(0, rivals=[1, 3]).loss(SCORES)
    for one in (torch.zeros(2, 1), torch.zeros(2)):
        with pytest.raises(UnusableBatch, match=r"two at least.*torch.cat\(\[-z, z\], 1\) / 2"):
            Misclassify(0).reached(one)
    with pytest.raises(OptionError, match="top 4"):
        Classify(0, top=4).reached(SCORES)


def test_lead_is_exact_for_ties_and_top_k() -> None:
    assert lead(torch.tensor([[1.0, 1.0]]), torch.tensor([0])).tolist() == [0.0]


def test_probabilities_as_scores_are_warned_of() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Softmax(1))
    with pytest.warns(UserWarning, match="probabilities"):
        pgd(objective(net, Misclassify(0)), Linf(0.1).around(torch.rand(2, 4)), steps=1)


def test_models_that_do_not_fit_their_inputs_or_have_no_gradient() -> None:
    region, goal = Linf(0.1).around(torch.full((2, 4), 0.5)), Misclassify(0)
    with pytest.raises(UnusableBatch, match="float64"):
        pgd(objective(nn.Linear(4, 3).double(), goal), region)
    with pytest.raises(AccessDenied, match=r"no gradient.*square"):
        pgd(objective(lambda x: torch.stack([x.round().sum(1).detach(), x.new_zeros(len(x))], 1), goal), region)
    with pytest.raises(UnusableBatch, match="floating point"):
        Linf(0.1).around(torch.full((2, 4), 7))
    with pytest.raises(UnusableBatch, match="255"):
        Linf(0.1).around(torch.full((2, 4), 255.0))


@pytest.mark.parametrize("made", [Misclassify, Classify], ids=["away", "toward"])
def test_labels_made_in_inference_mode_are_labels_as_any(made: type[Misclassify] | type[Classify]) -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        labels = net(x).argmax(1)
        goal = made(labels)
    for wanted in (goal, made(labels)):
        found = pgd(objective(net, wanted), Linf(0.1).around(x), steps=2)
        assert torch.equal(found.adversarial, pgd(objective(net, made(labels.tolist())), Linf(0.1).around(x), steps=2).adversarial)

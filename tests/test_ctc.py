"""CTC losses and alignments against enumeration of every path."""

import itertools

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from audioadv.attacks.objective import either
from audioadv.models.decoding import CLEARANCE, transcripts, writes_exactly
from audioadv.models.recogniser import Emissions
from audioadv.threat.ctc import SHARPNESS, alignment, likelihood_loss, margins
from audioadv.threat.goals import Mistranscribe, Silence, Transcribe
from audioadv.threat.undetected import Undetected

LETTERS, FRAMES = 4, 6
TARGETS = [(1, 2), (1, 1), (3, 2, 3), (2, 2, 2), ()]


def paths(target: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Every way to write the target in the frames: repeats merge, blanks (0) drop."""
    every = itertools.product(range(LETTERS), repeat=FRAMES)
    return [path for path in every if tuple(k for k, _ in itertools.groupby(path) if k) == target]


def scores(seed: int) -> Tensor:
    return (3 * torch.randn(1, FRAMES, LETTERS, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def as_batch(target: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([FRAMES]), torch.tensor([target], dtype=torch.int64), torch.tensor([len(target)])


@pytest.mark.parametrize("target", TARGETS)
def test_likelihood_sums_over_paths(target: tuple[int, ...]) -> None:
    log_probs = scores(0)
    total = sum(torch.exp(sum(log_probs[0, t, k] for t, k in enumerate(path))) for path in paths(target))
    torch.testing.assert_close(
        likelihood_loss(log_probs, *as_batch(target), 0)[0], -torch.log(torch.as_tensor(total)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(3))
def test_alignment_is_the_gibbs_mean_over_paths(target: tuple[int, ...], seed: int) -> None:
    costs = margins(scores(seed)).clamp_min(0)
    ways = torch.tensor(paths(target))
    weights = (-SHARPNESS * costs[0].double()[torch.arange(FRAMES), ways].sum(1)).softmax(0)
    share = (torch.nn.functional.one_hot(ways, LETTERS) * weights[:, None, None]).sum(0).float()
    torch.testing.assert_close(alignment(costs, *as_batch(target), 0)[0], share, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(20))
def test_exact_decoding_agrees_with_the_text(target: tuple[int, ...], seed: int) -> None:
    """Random scores seldom write the target, so every other draw is bent to do so."""
    log_probs = scores(seed)
    if seed % 2:
        for t, k in enumerate(paths(target)[seed % len(paths(target))]):
            log_probs[0, t, k] += 20
    frames, columns, lengths = as_batch(target)
    text = transcripts(log_probs, frames, ("", "a", "b", "c"))[0]
    exact = bool(writes_exactly(log_probs, frames, columns, lengths, 0)[0])
    assert exact == (text == "".join("_abc"[k] for k in target))
    assert exact or not seed % 2


def test_margins_are_the_same_on_logits_and_log_softmax() -> None:
    logits = 5 * torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(margins(logits), margins(logits.log_softmax(-1)), rtol=1e-4, atol=1e-4)
    assert ((margins(logits) <= 0).sum(-1) == 1).all()


def test_padding_frames_carry_nothing() -> None:
    log_probs = torch.cat([scores(1), scores(2)], dim=1)
    for t, k in enumerate((*paths((1, 2))[0], 3)):  # and in the padding another letter
        log_probs[0, t, k] += 20
    frames, columns, lengths = as_batch((1, 2))
    share = alignment(margins(log_probs).clamp_min(0), frames, columns, lengths, 0)
    assert (share[:, FRAMES:] == 0).all()
    assert writes_exactly(log_probs, frames, columns, lengths, 0).all()
    assert not writes_exactly(log_probs, frames + 1, columns, lengths, 0).any()
    assert transcripts(log_probs, frames, ("", "a", "b", "c")) == ["ab"]


def test_a_frame_that_is_won_pulls_at_nothing() -> None:
    """Not by a share so small that some processors take many times as long over it."""
    scores = 3.0 * torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 0, 2, 0]]), LETTERS)
    scores[0, 1] = torch.tensor([1.0, 0.0, 0.0, 2.0])
    scores.requires_grad_()
    margin = Transcribe("ab").margin(Emissions(scores, torch.tensor([FRAMES]), ("", "a", "b", "c")), 0.5)
    (slope,) = torch.autograd.grad(margin.sum(), scores)
    assert slope[0, [0, 2, 3, 4, 5]].abs().amax() == 0 < slope[0, 1].abs().amax()


def test_shapes_are_checked_under_test() -> None:
    with pytest.raises(TypeCheckError):
        margins(torch.zeros(3, 4))


def test_what_is_heard_as_a_text_is_at_the_goal_whatever_gaps_surround_it() -> None:
    """Against the transcript itself, for every row of letters, gaps and blanks of six frames."""
    vocabulary = ("", " ", "g", "o")
    rows = torch.cartesian_prod(*[torch.arange(4)] * 6)
    scores = torch.nn.functional.one_hot(rows, 4).float().mul(20).log_softmax(-1)
    heard = Emissions(scores, torch.full((len(rows),), 6), vocabulary)
    said = heard.transcripts()
    for text in ("go", "g o", "o", "gg"):
        assert Transcribe(text).reached(heard).tolist() == [one == text for one in said]
        assert torch.equal(Transcribe(text).reached(heard), Transcribe(text).apart(heard) == 0)
    assert Silence().reached(heard).tolist() == [not one for one in said]


def test_rows_that_are_close_have_the_margin_and_the_others_the_loss() -> None:
    frames, texts = torch.tensor([12, 9, 12, 7]), ("ab", "a b", "b", "aa")
    letters = ("", "a", "b", " ")
    for goal in (Transcribe(texts), Transcribe("ab"), Silence(), Mistranscribe(texts), Transcribe(texts) & Undetected("loud")):
        for close in ([0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0]):
            scores = torch.randn(4, 12, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
            suspicions = {"loud": scores[:, 0, 0] + 1}
            outputs, marked = Emissions(scores.log_softmax(-1), frames, letters, suspicions), torch.tensor(close).bool()
            split = either(outputs, goal, marked, slack=0.3)
            whole = torch.where(marked, goal.margin(outputs, 0.3), goal.loss(outputs))
            torch.testing.assert_close(split, whole)
            slopes = [torch.autograd.grad(loss.sum(), scores, retain_graph=True)[0] for loss in (split, whole)]
            torch.testing.assert_close(*slopes)
    voted = Emissions(torch.zeros(3, 5, 4), torch.tensor([5, 4, 3]), letters, voted=("a", "b", "ab")).rows(torch.tensor([2, 0]))
    assert voted.transcripts() == ["ab", "a"]
    assert voted.frames.tolist() == [3, 5]


def test_a_text_without_room_is_infinitely_far_and_its_neighbours_pull_as_ever() -> None:
    letters, scores = ("", "a", "b", " "), torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    goal, frames = Transcribe(["aa", "aa", "abab", "b"]), torch.tensor([2, 3, 3, 6])

    def seen(rows: list[int]) -> tuple[Tensor, Tensor]:
        outputs = Emissions(scores[rows].log_softmax(-1), frames[rows], letters)
        margin = goal.rows(torch.tensor(rows)).margin(outputs, 0.5)
        return margin.detach(), torch.autograd.grad(margin.sum(), scores)[0][rows]

    margin, slope = seen([0, 1, 2, 3])
    assert margin.isinf().tolist() == [True, False, True, False]
    assert torch.equal(slope[[0, 2]], torch.zeros(2, 6, 4))
    torch.testing.assert_close((margin[[1, 3]], slope[[1, 3]]), seen([1, 3]), rtol=0, atol=0)
    silent = Emissions(torch.zeros(1, 1, 4).log_softmax(-1), torch.tensor([1]), letters)
    assert Silence().margin(silent).isfinite().all()


def test_a_frame_that_leads_by_less_than_sums_may_differ_is_not_won() -> None:
    for lead, reached in ((CLEARANCE / 2, False), (2 * CLEARANCE, True)):
        scores = torch.tensor([[[0.0, 1.0, 1.0 - lead]]])
        assert writes_exactly(scores, torch.tensor([1]), torch.tensor([[1]]), torch.tensor([1]), 0).tolist() == [reached]

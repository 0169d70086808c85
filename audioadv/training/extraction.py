"""A model copied by asking it.

extract               a net learns the answers: of a pool (knockoff), or of inputs that it makes itself where it would change its mind
solved                a linear model from its scores: as many equations as unknowns
solved_by_decisions   a linear model of two classes from decisions alone: points on the boundary, by bisection

Sources: Tramèr et al. 2016, "Stealing machine learning models via prediction APIs"; Papernot et al. 2017, "Practical black-box
attacks against machine learning"; Orekondy, Schiele and Fritz 2019, "Knockoff nets"; Lowd and Meek 2005, "Adversarial
learning".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import scipy
import torch
from torch import Tensor, nn

from audioadv.attacks.substitute import substituting
from audioadv.defenses.learning import check_forgets, learners, learning
from audioadv.errors import AccessDenied, OptionError, UnusableBatch
from audioadv.models.abstention import decided
from audioadv.models.access import Access, as_access, granted, includes
from audioadv.models.rest import at_rest, fitting
from audioadv.options import check_amounts, check_count
from audioadv.threat.bounds import Box


@final
class Asked:
    """A model behind a counter: what a thief meets. It gives classes, or with `Access.SCORES` log-probabilities.

    `queries` are the inputs that it was asked about. Raises AccessDenied for more access than the model grants,
    OptionError for one that there is none of.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], access: Access = Access.DECISIONS) -> None:
        access = as_access(access)
        if not includes(granted(model), access):
            raise AccessDenied(
                f"{getattr(model, 'name', 'the model')}: access is '{granted(model)}', less than '{access}'. "
                f"Ask for that: Asked(model, Access.{granted(model).name})"
            )
        self.model, self.access, self.queries = model, access, 0

    @torch.no_grad()
    def __call__(self, inputs: Tensor, size: int = 500) -> Tensor:
        """Shapes: [count, *] -> int64 [count] (-1: it abstains), or log-probabilities [count, classes]; `size` at a time."""
        self.queries += len(inputs)
        with at_rest(self.model), fitting(self.model, inputs):
            outputs = torch.cat([self.model(some) for some in torch.split(inputs, size)])
        if self.access is Access.DECISIONS:
            return decided(outputs)
        return outputs.log_softmax(1)


@final
@dataclass(frozen=True, eq=False)
class Extraction:
    """What was asked, and what the victim said.

    Shapes: inputs [queries, *], answers int64 [queries] or probabilities [queries, classes].
    """

    inputs: Tensor
    answers: Tensor


def extract(
    victim: Asked,
    copy: nn.Module,
    inputs: Tensor,
    *,
    queries: int | None = None,
    rounds: int = 1,
    spread: float = 0.1,
    passes: int = 20,
    rate: float = 1e-3,
    box: Box = (0.0, 1.0),
    seed: int = 0,
    tell: Callable[[int], None] | None = None,
) -> Extraction:
    """Train `copy` in place to answer as `victim` does, by at most so many queries.

    In the first round it is asked about `inputs`: with only that round and a large pool, knockoff nets. Between rounds they are
    doubled, by steps of `spread` (full scale = 1) across the copy's own boundary: Papernot's augmentation (`attacks/substitute.py`),
    for thieves who have few inputs. Each round goes `passes` times over all that was asked; `tell(queries)` is called after each.

    Raises UnusableBatch for no inputs, or none that the victim answers, and for a copy that cannot learn, OptionError for a victim
    that is not behind a counter, no queries or rounds, less than no passes, or a rate below 0. Shapes: inputs [count, *].
    """
    if not len(inputs):
        raise UnusableBatch("no inputs to ask about: give some, of the kind that the victim is made for")
    if not isinstance(victim, Asked):
        raise OptionError(f"victim of type {type(victim).__name__}: give the model behind a counter, Asked(model)")
    if not isinstance(copy, nn.Module):
        raise UnusableBatch(f"a copy that is a {type(copy).__name__}: give a torch.nn.Module, which learns as it is")
    check_forgets(copy)
    learners(copy)
    check_count("rounds", rounds)
    check_count("queries", len(inputs) if queries is None else queries)
    check_count("passes", passes, 0)
    check_amounts("extract", rate=rate)

    def ask(some: Tensor, owners: Tensor) -> Tensor:
        answers = victim(some)
        return answers.exp() if answers.is_floating_point() else answers

    def within(some: Tensor, owners: Tensor) -> Tensor:
        return some if box is None else some.clamp(*box)

    generator = torch.Generator().manual_seed(int(seed))
    known: tuple[Tensor, Tensor] | None = None
    with learning():
        for known in substituting(
            copy, inputs, ask, within, rounds=rounds, passes=passes, spread=spread, rate=rate, generator=generator, most=queries
        ):
            if tell is not None:
                tell(len(known[0]))
    if known is None:
        raise UnusableBatch(f"the victim abstained from all of {len(inputs[:queries])} inputs: there is nothing to learn from. Give others")
    return Extraction(*known)


def linear(weight: Tensor, bias: Tensor) -> nn.Module:
    """Linear scores of flattened inputs. Shapes: weight [classes, size], bias [classes]."""
    layer = nn.Linear(weight.shape[1], len(weight), dtype=weight.dtype, device="meta")  # there it draws nothing
    layer.load_state_dict({"weight": weight.contiguous(), "bias": bias.contiguous()}, assign=True)
    return nn.Sequential(nn.Flatten(), layer).eval()


def solved(victim: Asked, inputs: Tensor) -> nn.Module:
    """A softmax regression, exactly: each log(p_k / p_0) is linear in the input, so that size + 1 answers tell all of it.

        log p_k(x) - log p_0(x) = (w_k - w_0) x + (b_k - b_0)

    Weights of class 0 are zero: adding the same to all classes changes no answer. Of more inputs than needed, the least squares; what the
    victim abstains from is left out.
    Shapes: inputs [count, *], more of them than numbers in each. Raises AccessDenied for a victim that gives decisions,
    UnusableBatch for inputs that leave weights open.
    """
    if victim.access is Access.DECISIONS:
        raise AccessDenied("the victim gives decisions, and equations need scores. Use solved_by_decisions, or Asked(model, Access.SCORES)")
    answers = victim(inputs)
    told = answers.isfinite().all(1)
    answers, flat = answers[told], inputs[told].flatten(1)
    rows = torch.cat([flat, torch.ones_like(flat[:, :1])], 1).double()  # in single precision, images of random pixels pass for dependent
    rank = int(torch.linalg.matrix_rank(rows))
    if rank < rows.shape[1]:
        raise UnusableBatch(f"{len(rows)} answers give {rank} independent equations for {rows.shape[1]} unknowns. Give others, or more")
    solution = torch.linalg.lstsq(rows, (answers - answers[:, :1]).double()).solution.T.to(flat)
    return linear(solution[:, :-1], solution[:, -1])


def independent(lines: Tensor) -> tuple[Tensor, int]:
    """The lines, the most independent ones first (QR with pivots), and in how many directions they go. Shapes: [count, size] -> [count]."""
    pivots: Any
    triangle, pivots = scipy.linalg.qr(lines.T.double().cpu().numpy(), mode="r", pivoting=True)
    sizes = abs(triangle.diagonal())
    rank = int((sizes > sizes.max(initial=0.0) * max(lines.shape) * torch.finfo(lines.dtype).eps).sum())
    return torch.as_tensor(pivots, dtype=torch.int64, device=lines.device), rank


def solved_by_decisions(victim: Asked, inputs: Tensor, halvings: int = 50) -> nn.Module:
    """A linear model of two classes, up to its scale: through points on its boundary goes one hyperplane.

    Lines from inputs of class 0 to inputs of class 1 cross the boundary, where `halvings` queries each find it. As many lines as
    numbers in an input are needed, in independent directions: those that are most so are taken, before any of them is asked about.
    Shapes: inputs [count, *], some of either class. Raises UnusableBatch for inputs of one class, or of which too few such lines can be
    made.
    """
    classes, flat = decided(victim(inputs)), inputs.flatten(1)
    size = flat.shape[1]
    sides = [(classes == side).nonzero()[:, 0] for side in (0, 1)]
    if not all(map(len, sides)) or len(sides[0]) + len(sides[1]) <= size:
        raise UnusableBatch(
            f"{len(sides[0])} inputs of class 0 and {len(sides[1])} of class 1: the boundary takes some of each, "
            f"{size + 1} in all. Give others, or more"
        )
    # a tree over the inputs: the first of each class with all of the other, so that size + 1 inputs give size lines
    firsts = torch.cat([sides[0][:1].expand(len(sides[1])), sides[0][1:]])
    seconds = torch.cat([sides[1], sides[1][:1].expand(len(sides[0]) - 1)])
    chosen, rank = independent(flat[seconds] - flat[firsts])
    if rank < size:
        raise UnusableBatch(
            f"{len(flat)} inputs give lines in {rank} independent directions, and the boundary takes {size}: some of their numbers never "
            "change, or inputs are alike. Give others"
        )
    low, high = flat[firsts[chosen[:size]]], flat[seconds[chosen[:size]]]
    for _ in range(halvings):
        middle = (low + high) / 2
        beyond = decided(victim(middle.reshape(-1, *inputs.shape[1:])))[:, None] == 1
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    rows = torch.cat([(low + high) / 2, torch.ones_like(low[:, :1])], 1)
    plane = torch.linalg.svd(rows.double()).Vh[-1].to(flat)  # what is orthogonal to all rows
    plane = plane * (flat[sides[1][0]] @ plane[:-1] + plane[-1]).sign()
    return linear(torch.stack([torch.zeros_like(plane[:-1]), plane[:-1]]), torch.stack([torch.zeros_like(plane[-1]), plane[-1]]))

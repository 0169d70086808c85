"""Greedy search among sparse changes: entries go to an end of their range one by one, each the one that scores say is worth most.

    look    what does each move alone bring?                         one forward each, once
    add     the best few by what they brought when last tried are tried again, and the best of them is made, until the bound is full
    swap    one to three of the changed entries go back, and others are added; what is no worse stays

Slopes say little of a move that goes from one end to the other, across all that a net does in between, and nothing of what lies beyond a
threshold: of 75 digits that stood `standard`'s gradients in L1 (`recipes/multi_perturbation.py`), 7 fell to the best of 96 moves a time by
slope, 12 to the best of all 2,352, and 12 here, at a ninth of those forwards, since what a move brought once is a good guess of what it
brings later (from random windows and swaps as in Square and Sparse-RS, 4 fell).

Sources: Croce and Hein 2019, "Sparse and imperceivable adversarial attacks" (CornerSearch: moves to the ends, ranked by their scores);
Minoux 1978, "Accelerated greedy algorithms for maximizing submodular set functions", for the gains that are looked at again only
where they are largest; Ruiz and Stuetzle 2007, "A simple and effective iterated greedy algorithm", for going back and adding again.
"""

from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from audioadv.attacks.draws import Draws
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import AttackResult
from audioadv.attacks.run import Run, Tell, check_objective, check_plain_changes, finite_rows
from audioadv.errors import OptionError
from audioadv.models.rest import at_rest
from audioadv.options import check_counts
from audioadv.threat.labels import margin
from audioadv.threat.norms import L0Norm, L1Norm
from audioadv.threat.projections import each
from audioadv.threat.region import Region

SHARES = (1.0, 0.6)  # of the way to an end, that a move in L1 goes: what lies beyond a threshold costs and brings nothing
CORNERS = 3  # channels, up to which a place goes to each corner of its box
BACK = 3  # places that a swap takes back, at most
PART = 0.1  # of a move that there has to be room for
TIGHTER = 0.98  # times the smallest gauge in L1, in a search for the smallest
AT_ONCE, ENTRIES = 4096, 2**24  # inputs that the model sees, and numbers in them
LEAST = 1e-30  # of what is divided by


@final
@dataclass(eq=False)
class Search:
    """Where each example still in the batch stands; in L0 the channels of a place go together, in L1 each is a place of its own.

    Shapes: change and base [batch, channels, places]; moves [batch, channels, moves], kind by kind, each of all places; gains and promise
    [batch, moves]; the others [batch]. All are as wide as the batch was at first, whoever has left.
    """

    moves: Tensor  # what each sets its place to
    change: Tensor
    base: Tensor  # the best full change, which swaps begin from
    loss: Tensor  # of the change
    lowest: Tensor  # of the base
    gains: Tensor  # what each move brought when it was last tried; -inf: never tried
    promise: Tensor  # of moves that wait for their first look; -inf: they do not
    limit: Tensor  # of the gauge

    def rows(self, stay: Tensor) -> "Search":
        """The search of those that stay."""
        return Search(*(tensor[stay] for tensor in vars(self).values()))


def greedy(
    objective: Objective,
    region: Region,
    *,
    steps: int = 5000,
    tries: int = 32,
    by_slope: bool = False,
    seed: int = 0,
    progress: Tell | None = None,
) -> AttackResult:
    """`steps` forwards at most (two at least): rounds of the change as it is, and with each of `tries` moves.

    Up to half of the rounds go into the first look. Where there are more moves than that, it is at some that are drawn; with
    `by_slope`, at those that the slope promises most of, for one more forward and one backward. In L1 a move takes one entry to an end of
    the box, or 0.6 of the way; in L0 a place (a pixel, or a moment) of up to three channels to any corner of its box. Without a box the
    ends are a full scale away. Every round after that makes one move, so that a change of more places than there are rounds is not found.
    What falls is the margin, for goals of labels. In a search for the smallest, what is found is what has to be undercut with the
    forwards that are left. Shapes: as in `region.clean`. Raises OptionError for other norms than L1 and L0.
    """
    check_objective(objective)
    check_counts("greedy", steps=steps, tries=tries)
    check_plain_changes(region, "greedy")
    if not isinstance(region.norm, L0Norm | L1Norm):
        raise OptionError("greedy changes few entries, within L1 or L0. Bound it by one of them, or use square, or pgd with slopes=nes()")
    run, draws, minimal = Run(objective.by(margin), region, progress), Draws.of(seed, region.clean), bool(region.radius.isinf().all())
    counted, shape = isinstance(region.norm, L0Norm), region.clean.shape[1:]
    with at_rest(objective.model):
        search = begun(run, draws, by_slope)
        tries = max(1, min(tries, steps - 1, search.gains.shape[1]))
        rounds = max(1, steps // (tries + 1)) if len(region.clean) else 0
        for number in range(rounds):
            looking = (search.promise.amax(1) > -torch.inf) & (2 * number < rounds)
            full = ~looking & ~possible(search, counted).any(1)
            swap(search, full, counted, drawn(draws, shape, counted), 1 + draws.whole(BACK))  # drawn for all: neighbours change nothing
            fits = possible(search, counted)
            ranks = torch.where(looking[:, None], search.promise, worth(search, fits, counted))
            chosen = ranks.sort(dim=1, descending=True, stable=True).indices[:, :tries]  # ties by place, whatever the padding
            trials, costs = tried(search, chosen, fits, counted)
            loss, reached = scored(run, trials.reshape(*trials.shape[:2], *shape))
            gains = (loss[:, :1] - loss[:, 1:]).to(search.gains)
            search.gains.scatter_(1, chosen, torch.where(costs > 0, gains, search.gains.gather(1, chosen)))
            search.promise.scatter_(1, chosen, -torch.inf)

            best = 1 + torch.where(costs > 0, gains / costs, -torch.inf).argmax(1)
            best = torch.where((costs > 0).any(1), best, 0)
            best = torch.where(reached.any(1), torch.where(reached, F.pad(costs, (1, 0)), torch.inf).argmin(1), best)  # the smallest
            rows = torch.arange(len(best), device=best.device)
            made = trials[rows, best]
            inputs = run.region.inputs(cut_to(made.view(-1, *shape), run.region))
            kept = run.keep(inputs, run.confirmed(inputs, reached[rows, best]), anywhere=minimal)
            search.change = torch.where(each(looking, made), search.change, made)
            search.loss = torch.where(looking, loss[:, 0], loss[rows, best])
            if minimal:
                undercut(search, kept, made, counted)
            nothing_left = search.limit < (1 if counted else LEAST)
            if left := run.leave(finite_rows(loss), (kept & (not minimal)) | nothing_left):
                search, draws = search.rows(left[0]), draws.rows(left[0])
                if not len(left[0]):
                    break
    return run.result()


def begun(run: Run, draws: Draws, by_slope: bool) -> Search:
    """Nothing changed, and every move waits for its look, in the order of what the slope promises, or one that is drawn."""
    region, counted = run.region, isinstance(run.region.norm, L0Norm)
    kinds = moves_of(region, counted)
    moves, here = kinds.movedim(1, 2).flatten(2), 0 * kinds[:, 0]
    cost = cost_of(moves, counted)
    if by_slope:
        slope = run.objective.look(region.inputs(region.start())).slope.reshape(here.shape)
        promise = -(kinds * slope.nan_to_num()[:, None]).sum(2).flatten(1) / cost  # a broken slope promises nothing
    else:
        promise = torch.cat([drawn(draws, region.clean.shape[1:], counted) for _ in range(kinds.shape[1])], 1).to(cost)
    never, none = torch.full_like(cost, -torch.inf), torch.full_like(region.radius, torch.inf)
    return Search(moves, here, here, none, none, never, torch.where(cost > 0, promise, never), region.radius)


def moves_of(region: Region, counted: bool) -> Tensor:
    """What each move sets its place to: as a change, zero in the padding. Shapes: -> [batch, kinds, channels, places]."""
    full = torch.ones_like(region.clean)
    low, high = region.unpadded(-full if region.low is None else region.low), region.unpadded(full if region.high is None else region.high)
    if not counted:
        low, high = low.flatten(1)[:, None], high.flatten(1)[:, None]
        return torch.stack([share * end for end in (low, high) for share in SHARES], 1)
    low, high = (end.flatten(2) if end.ndim > 2 else end[:, None] for end in (low, high))
    channels = low.shape[1]
    corners = product((False, True), repeat=channels) if channels <= CORNERS else [(False,) * channels, (True,) * channels]
    return torch.stack([torch.where(torch.tensor(corner, device=low.device)[:, None], high, low) for corner in corners], 1)


def drawn(draws: Draws, shape: tuple[int, ...], counted: bool) -> Tensor:
    """A number for each place, its own whatever the padding. Shapes: shape of an example -> [batch, places]."""
    like = torch.empty((), device=draws.keys.device).expand(len(draws.keys), *(shape[1:] if counted and len(shape) > 1 else shape))
    return draws.uniform(like).flatten(1)


def cost_of(moves: Tensor, counted: bool) -> Tensor:
    """What each place adds to the gauge, changed so. Shapes: [batch, channels, places] -> [batch, places]."""
    return (moves != 0).any(1).to(moves) if counted else moves.abs().sum(1)


def spare(search: Search, counted: bool) -> Tensor:
    """How much the gauge may still grow. Shapes: -> [batch, 1]."""
    return (search.limit - cost_of(search.change, counted).sum(1))[:, None]


def growth(search: Search, counted: bool) -> Tensor:
    """What each move would add to the gauge, where there is room for all of it. Shapes: -> [batch, moves]."""
    whole, now = cost_of(search.moves, counted), cost_of(search.change, counted)
    return whole - now.repeat(1, whole.shape[1] // now.shape[1])


def possible(search: Search, counted: bool) -> Tensor:
    """The moves that go further and that there is room for. Shapes: -> bool [batch, moves]."""
    more, room = growth(search, counted), spare(search, counted)
    enough = more if counted else PART * more.minimum(search.limit[:, None])
    return (more > 0) & (room > 0) & (enough <= room)


def swap(search: Search, full: Tensor, counted: bool, order: Tensor, count: Tensor) -> None:
    """Where no move is left: the change is the new base, if it is no worse, and the first `count` of the base's places in order go back.

    Shapes: full bool [batch], order [batch, places] in [0, 1), count int64 [batch].
    """
    better = full & (search.loss <= search.lowest) & (spare(search, counted)[:, 0] >= 0)
    search.base = torch.where(each(better, search.base), search.change, search.base)
    search.lowest = torch.where(better, search.loss, search.lowest)
    changed = (search.base != 0).any(1)
    ranks = torch.where(changed, order, 2.0)
    last = ranks.sort(1).values.gather(1, count.clamp_max(order.shape[1])[:, None] - 1)
    stays = changed & (ranks > last)
    search.change = torch.where(each(full, search.base), search.base * stays[:, None], search.change)


def worth(search: Search, fits: Tensor, counted: bool) -> Tensor:
    """What each move that fits brought, a unit of the gauge. Shapes: fits bool [batch, moves] -> [batch, moves]."""
    return torch.where(fits, search.gains / growth(search, counted), -torch.inf)


def tried(search: Search, chosen: Tensor, fits: Tensor, counted: bool) -> tuple[Tensor, Tensor]:
    """The change as it is, and with each of the chosen moves, as far as there is room. One that is not possible takes its place back.

    Shapes: chosen int64 [batch, tries], fits bool [batch, moves] -> [batch, 1 + tries, channels, places], and what each move adds, 0 for
    none, [batch, tries].
    """
    channels, places = search.change.shape[1:]
    where = (chosen % places)[:, None].expand(-1, channels, -1)
    ends, fits = search.moves.gather(2, chosen[:, None].expand(-1, channels, -1)), fits.gather(1, chosen)
    now = cost_of(search.change.gather(2, where), counted)
    if not counted:
        ends = ends * ((now + spare(search, counted)) / cost_of(ends, counted).clamp_min(LEAST)).clamp(0, 1)[:, None]
    ends = torch.where(fits[:, None], ends, 0.0)
    trials = search.change[:, None].repeat(1, 1 + chosen.shape[1], 1, 1)
    trials[:, 1:].scatter_(3, where.transpose(1, 2)[..., None], ends.transpose(1, 2)[..., None])
    return trials, torch.where(fits, cost_of(ends, counted) - now, 0.0)


def scored(run: Run, trials: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of each trial, and whether it is at the goal. Shapes: trials [batch, some, *] -> [batch, some], bool [batch, some]."""
    batch, count = trials.shape[:2]
    most = min(AT_ONCE, ENTRIES // max(1, trials[0, 0].numel())) // batch
    herd = next(size for size in range(min(count, max(1, most)), 0, -1) if count % size == 0)
    crowd, spot = run.region.crowded(herd)
    looked = run.objective.rows(spot.cpu())
    parts = [cut_to(trials[:, first : first + herd].flatten(0, 1), crowd) for first in range(0, count, herd)]
    scores = [looked.score(crowd.inputs(part)) for part in parts]
    return torch.cat([score.loss.view(batch, -1) for score in scores], 1), torch.cat([score.reached.view(batch, -1) for score in scores], 1)


def cut_to(delta: Tensor, region: Region) -> Tensor:
    """A change as wide as the region's clean inputs: the longest of the batch may have left."""
    return delta[..., : region.clean.shape[-1]]


def undercut(search: Search, kept: Tensor, made: Tensor, counted: bool) -> None:
    """Where a smaller change was found, it is the base, and what comes stays below it. Shapes: kept bool [batch], made as the change."""
    gauge = cost_of(made, counted).sum(1)
    search.limit = torch.where(kept, gauge - 1 if counted else TIGHTER * gauge, search.limit)
    search.base = torch.where(each(kept, made), made, search.base)
    search.lowest = torch.where(kept, torch.inf, search.lowest)

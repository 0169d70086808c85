"""Games: an attacker and a model, round by round.

    world      inputs, and what the attacker wants of each (a goal: misclassified, misheard, taken for a phrase)
    attacker   --move: an input for one of them-->  model  --its answer-->  referee: a hit, an abstention, or neither
               <-------------------------------- reply -------------------------------'

What the rules are, the threat model's protocol says. `expectimax`: the world draws the examples, none twice before all have
come up, and the attacker changes each as it can. `true-max`: the attacker picks, and may repeat what works (`attackers.py`).
A model that remembers plays a sequential game: what it answers depends on all rounds before, and each game wants a fresh one.
An abstention is no hit, but it has its cost; what the model's own detector refuses is one, too, so the attacker wants to pass unseen.

Source: Goodfellow 2019, "A research agenda: dynamic models to defend against correlated attacks"; the attack that repeats an
error: Gilmer et al. 2018, "Motivating the rules of the game for adversarial example research".
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from audioadv.attacks.objective import objective
from audioadv.attacks.result import Attack
from audioadv.attacks.union import worst_member
from audioadv.defenses.layers import forgetting
from audioadv.defenses.statement import stated
from audioadv.errors import OptionError, UnusableBatch
from audioadv.evaluation.campaign import taken
from audioadv.evaluation.games.attackers import Attacker, Hand, Reply, drawn, greedy
from audioadv.evaluation.rates import Rate
from audioadv.evaluation.terms import agreed
from audioadv.evaluation.titles import title
from audioadv.models.abstention import abstained
from audioadv.models.access import as_access, granted
from audioadv.models.classifier import granting
from audioadv.models.rest import at_rest
from audioadv.options import check_count, check_does
from audioadv.threat.bounds import Bound, Box
from audioadv.threat.channels.keys import Key
from audioadv.threat.goals import Goal
from audioadv.threat.joined import is_goal, members
from audioadv.threat.labels import Misclassify
from audioadv.threat.model import ThreatModel, wished
from audioadv.threat.projections import each
from audioadv.threat.undetected import unseen_too

NOBODY = 2**40  # the number of an example that there is none of


@final
@dataclass(frozen=True, eq=False)
class Game:
    """What happened, round by round, in one game or several.

    Shapes [games, rounds]: hits and abstained bool, examples int64 (whose input it was).
    """

    threat: ThreatModel
    attacker: str
    hits: Tensor
    abstained: Tensor
    examples: Tensor

    @property
    def rounds(self) -> int:
        """How many each game has."""
        return self.hits.shape[1]

    @property
    def error(self) -> Rate:
        """How often the attacker's goal was reached, over all rounds."""
        return rate(self.hits)

    @property
    def abstention(self) -> Rate:
        """How often the model gave no answer, over all rounds."""
        return rate(self.abstained)

    @property
    def late(self) -> Tensor:
        """Rounds of the second half. For attackers who repeat a hit: only those after their first hit, if there is any.

        For one who has what is drawn, all of them: where hits are few, the first says nothing about the others.
        Shapes: -> bool [games, rounds].
        """
        if self.attacker == title(drawn):
            return (torch.arange(self.rounds) >= self.rounds // 2).expand_as(self.hits)
        found = self.hits.cumsum(1) - self.hits.long() > 0  # a hit in an earlier round
        half = torch.arange(self.rounds) >= self.rounds // 2
        return half & (found | ~self.hits.any(1, keepdim=True))

    @property
    def late_error(self) -> Rate:
        """How often the attacker's goal was reached in the long run."""
        return rate(self.hits[self.late])

    @property
    def late_miss(self) -> Rate:
        """How often it was not: of a targeted attacker, the target miss rate."""
        return rate(~self.hits[self.late])

    @property
    def late_abstention(self) -> Rate:
        """How often the model gave no answer in the long run."""
        return rate(self.abstained[self.late])

    def cost(self, of_abstention: float) -> float:
        """The defender's mean cost of a round in the long run, where an error costs 1 and an abstention this much."""
        return self.late_error.value + of_abstention * self.late_abstention.value

    def curve(self, window: int) -> list[tuple[int, Rate, Rate]]:
        """Error and abstention over the game, in windows of so many rounds, each under the number of its last round.

        Raises OptionError for windows of none.
        """
        check_count("window", window)
        spans = [slice(end - window, end) for end in range(window, self.rounds + 1, window)]
        return [(span.stop, rate(self.hits[:, span]), rate(self.abstained[:, span])) for span in spans]

    def line(self) -> dict[str, Any]:
        """As one JSON object: each rate with its interval, over all rounds and in the long run, and the claim it is a figure of."""
        line: dict[str, Any] = {"attacker": self.attacker, "games": len(self.hits), "rounds": self.rounds, "late": int(self.late.sum())}
        for name in ("error", "abstention", "late_error", "late_abstention"):
            share: Rate = getattr(self, name)
            line |= {name: share.value if share.count else None, f"{name}_interval": share.interval}
        return line | {"threat": json.loads(self.threat.to_json())}


def rate(hits: Tensor) -> Rate:
    """How many of these are true. Shapes: bool [*]."""
    return Rate(int(hits.sum()), hits.numel())


def together(games: Sequence[Game]) -> Game:
    """Several games by the same rules as one. Raises OptionError for games of different length, attackers or threat models."""
    rules = {(game.attacker, game.threat.to_json()) for game in games}
    if len(rules) > 1:
        named = "; ".join(sorted({f"{game.attacker} within {game.threat.bound}, {game.threat.protocol}" for game in games}))
        raise OptionError(f"games by {len(rules)} rules ({named}): only games by the same are counted together. Count each by itself")
    if len({game.rounds for game in games}) != 1:
        raise OptionError(f"games of {sorted({game.rounds for game in games})} rounds: only games of one length are counted together")
    hits, refused, examples = (torch.cat([getattr(game, name) for game in games]) for name in ("hits", "abstained", "examples"))
    return replace(games[0], hits=hits, abstained=refused, examples=examples)


def claimed(model: Callable[..., Any], goal: Goal, threat: ThreatModel | Bound | str) -> ThreatModel:
    """The threat model of a game; a bound or its spec makes one of this goal, under expectimax, with all that the model grants.

    Where its word is the usual "misclassify" and the goal is another, that is said in its place: no figure is to claim what it is not.

    Raises OptionError for what is no goal, and for what a game does not measure: a channel, another goal, more access than the model
    grants, less knowledge.
    """
    if not is_goal(goal):
        raise OptionError(f"goal {goal!r:.60}: not a goal. Give one, for example Misclassify(labels)")
    if not isinstance(threat, ThreatModel):
        threat = ThreatModel(threat, wished(goal), access=granted(model))
    elif threat.goal == ThreatModel.goal and not isinstance(goal, Misclassify):
        threat = replace(threat, goal=wished(goal))
    if threat.knowledge != "adaptive":
        raise OptionError(f"knowledge {threat.knowledge!r}: in a game the attacker plays against the model itself. Leave it at 'adaptive'")
    agreed(replace(threat, protocol="expectimax"), goal, stated(model)).granting(model)
    return threat


def ready(
    model: Any,
    inputs: Tensor,
    goal: Goal,
    threat: ThreatModel | Bound | str,
    attack: Attack,
    *,
    lengths: Tensor | None = None,
    box: Box = (0.0, 1.0),
) -> Tensor:
    """What an attacker prepares before the game: adversarial inputs, made on a copy that remembers nothing of it and grants no more than
    the threat model.

    Where the attack misses, or asks oftener than the threat model allows, the input stays clean. Shapes: inputs [examples, *], lengths
    [examples] -> as inputs. Raises OptionError for a threat model that a game does not measure, AccessDenied for an attack that asks for
    more than it grants.
    """
    threat = claimed(model, goal, threat)
    copy = forgetting(model)
    wish = unseen_too(copy, goal) if stated(copy).detects else goal
    wanted = objective(granting(copy, as_access(threat.access)), wish, lengths)
    begun = wanted.begun(inputs)
    result = worst_member(attack, begun, threat.bound.around(inputs, lengths, box))
    if threat.queries is None:
        return result.adversarial.detach()
    late = (taken(result, begun, begun.who)[0] > threat.queries).to(inputs.device)
    return torch.where(each(late, inputs), inputs, result.adversarial).detach()


def has_entry(goal: Goal, example: int) -> bool:
    """Whether a goal says what is wanted of this example; one for all does so of any."""
    try:
        goal.rows(torch.tensor([example]))
    except IndexError:
        return False
    return True


@torch.no_grad()
def play(
    model: Callable[..., Any],
    inputs: Tensor,
    goal: Goal,
    threat: ThreatModel | Bound | str,
    attacker: Attacker | None = None,
    *,
    sent: Tensor | None = None,
    lengths: Tensor | None = None,
    rounds: int = 1000,
    box: Box = (0.0, 1.0),
    seed: int = 0,
) -> Game:
    """One game of so many rounds. A model that remembers is played as it is: give each game a fresh one.

    `goal` is what the attacker wants, with one entry for each example or one for all. `sent` are the inputs that it has made
    ready (`ready`), clean ones where nothing is said. Without an `attacker` the protocol's own plays: `drawn` for expectimax,
    `greedy` for true-max. An input that breaks the threat model's claim is no hit.

    Shapes: inputs and sent [examples, *], lengths [examples]. Raises OptionError for an attacker that picks under expectimax, a bound
    without a radius or a threat model that a game does not measure, UnusableBatch for no inputs, and shapes or a goal that do not fit.

    >>> from audioadv.threat.labels import Misclassify
    >>> world, labels = torch.tensor([[0.2, 0.8], [0.6, 0.5]]), torch.tensor([1, 1])  # the model is wrong about the second
    >>> print(play(torch.nn.Flatten(), world, Misclassify(labels), ThreatModel("linf:0", protocol="true-max"), rounds=40).late_error)
    100.0 % (20 of 20, 83.9 .. 100.0)
    """
    threat = claimed(model, goal, threat)
    if attacker is None:
        attacker = drawn if threat.protocol == "expectimax" else greedy
    elif threat.protocol == "expectimax" and attacker is not drawn:
        raise OptionError("under expectimax the world draws the inputs. For an attacker that picks them, the protocol is true-max")
    check_does("attacker", attacker, "__call__", "Give one, for example greedy or repeat")
    check_count("rounds", rounds)
    if not len(inputs):
        raise UnusableBatch("no inputs to play with: give some")
    if not has_entry(goal, len(inputs) - 1) or (has_entry(goal, len(inputs)) and not has_entry(goal, NOBODY)):
        raise UnusableBatch(f"goal '{goal}', {len(inputs)} inputs: give one entry for all, or one for each")
    sent = inputs if sent is None else sent
    if sent.shape != inputs.shape:
        raise UnusableBatch(
            f"inputs of shape {tuple(sent.shape)} are sent for clean ones of shape {tuple(inputs.shape)}: give one for each"
        )
    region = threat.bound.around(inputs, lengths, box)
    if threat.bound.minimal or not region.added:
        raise OptionError(f"bound {threat.bound}: a game is played within a fixed bound on the change itself, for example linf:0.1")
    ends = [inputs.shape[-1]] * len(inputs) if lengths is None else lengths.tolist()
    generator = Key(seed, 0, 0).generator()

    def shaken(example: int, share: float) -> Tensor:
        own = region.rows(torch.tensor([example], device=inputs.device), ends[example])
        start = sent[example : example + 1, ..., : ends[example]] - own.clean
        return own.inputs(own.project(start + share * own.sample([generator])))[0]

    passing = members(unseen_too(model, goal))[1:] if stated(model).detects else ()
    hand = Hand([row[..., :end] for row, end in zip(sent, ends, strict=True)], shaken, generator)
    hits, refused, examples, asked = [], [], [], Counter[int]()
    moves = attacker(hand)
    with at_rest(model):
        move = next(moves)
        for _ in range(rounds):
            asked[move.example] += 1
            row, end = torch.tensor([move.example]), ends[move.example]
            outputs = model(move.inputs[None]) if lengths is None else model(move.inputs[None], torch.tensor([end], device=inputs.device))
            nothing = bool(abstained(outputs)) or not all(unseen.reached(outputs) for unseen in passing)
            hit = not nothing and bool(goal.rows(row).reached(outputs))
            if hit:  # only then does it matter whether the move was allowed
                clean = inputs[row.to(inputs.device), ..., :end]
                hit = threat.check(clean, move.inputs[None], box=box, forwards=torch.tensor([asked[move.example]])) == [None]
            reply = Reply(hit, nothing)
            hits.append(reply.hit)
            refused.append(reply.abstained)
            examples.append(move.example)
            move = moves.send(reply)
    return Game(threat, title(attacker), *(torch.tensor([rows]) for rows in (hits, refused, examples)))

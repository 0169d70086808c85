"""Who plays against a model: each attacker is a loop that yields moves and is sent replies.

drawn       takes what the world draws, each as it is ready: expectimax, and an attacker who knows better than to repeat
greedy      tries all in turn, and stays with one for as long as it works at least half of the time: the answer to chance
repeat      tries all in turn, and repeats the first that works for ever: the test-set attack to the letter
stubborn    repeats whatever comes first, right or wrong

With `shake`, what is asked again is never quite the same: noise of this share of the bound is new every time.
Sources: Gilmer et al. 2018, "Motivating the rules of the game for adversarial example research"; Goodfellow 2019,
"A research agenda: dynamic models to defend against correlated attacks".
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor


class Move(NamedTuple):
    """One round's input, for an example of the world. Shapes: inputs [*], without padding."""

    example: int
    inputs: Tensor


class Reply(NamedTuple):
    """What the attacker learns: whether its goal is reached, and whether the model abstained."""

    hit: bool
    abstained: bool


@final
@dataclass(frozen=True, eq=False)
class Hand:
    """What the attacker holds: for each example what it would send, [*] without padding, and its own dice.

    `shaken(example, share)` is that input with fresh noise of this share of the bound, within the bound.
    """

    ready: Sequence[Tensor]
    shaken: Callable[[int, float], Tensor]
    generator: torch.Generator

    def order(self) -> list[int]:
        """All examples, shuffled anew."""
        return list(torch.randperm(len(self.ready), generator=self.generator).tolist())

    def again(self, example: int, shake: float) -> Move:
        """The move that asks once more."""
        return Move(example, self.shaken(example, shake) if shake else self.ready[example])


Moves = Generator[Move, Reply, None]
Attacker = Callable[[Hand], Moves]
"""Yields a move, is sent the reply to it, and never ends."""


def drawn(hand: Hand) -> Moves:
    """All in turn, over and over, shuffled each time: none comes twice before all have come."""
    while True:
        for example in hand.order():
            yield Move(example, hand.ready[example])


def greedy(hand: Hand, shake: float = 0.0) -> Moves:
    """Try each until it has failed more often than it has worked, then the next; after the last, from the start again."""
    for move in drawn(hand):
        hits = tries = 0
        while 2 * hits >= tries:
            reply = yield hand.again(move.example, shake) if tries else move
            hits, tries = hits + reply.hit, tries + 1


def repeat(hand: Hand, shake: float = 0.0) -> Moves:
    """Try each, over and over, until one works, and then that one for ever."""
    for move in drawn(hand):
        if (yield move).hit:
            while True:
                yield hand.again(move.example, shake)


def stubborn(hand: Hand, shake: float = 0.0) -> Moves:
    """The first one for ever. Whoever answers repeats otherwise than at first, and was right at first, is wrong for ever."""
    example = hand.order()[0]
    yield Move(example, hand.ready[example])
    while True:
        yield hand.again(example, shake)

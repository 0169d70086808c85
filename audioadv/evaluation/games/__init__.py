"""Games between an attacker and a model, round by round: who plays (`attackers.py`), and by which rules (`game.py`)."""

from audioadv.evaluation.games.attackers import drawn, greedy, repeat, stubborn
from audioadv.evaluation.games.game import Game, play, ready

__all__ = ["Game", "drawn", "greedy", "play", "ready", "repeat", "stubborn"]

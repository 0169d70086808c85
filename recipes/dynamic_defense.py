"""What fixed, stochastic and remembering models are worth where the attacker may repeat: measured games beside the theory of them.

    python recipes/dynamic_defense.py --out runs/games       # MNIST, 2,000 images and rounds; tiny-mel, 45 recordings
    python recipes/dynamic_defense.py --quick                # 400 images and rounds; 18 recordings

Theory (Goodfellow 2019), of the long run, where r is the rate of natural errors and k the number of answers: a fixed
model errs always, a stochastic one at least half of the time, a memory that abstains at most r, one that answers repeats at
random (k-1)/k, and that is how often a targeted attacker misses, too. Rates are of the second half of each game, from the first
error on. What memory costs honest users, and what it does not buy, stands below.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from image_robust_accuracy import DATA, images
from lines import write_lines
from rich.console import Console
from suite import spoken_samples
from torch import Tensor

import audioadv as aa
from audioadv import attacks
from audioadv.audio.ragged import pad
from audioadv.defenses import Exact, Heard, Near, remembering, sampled
from audioadv.defenses.likeness import Likeness
from audioadv.evaluation.games import Game, drawn, greedy, play, ready, repeat, stubborn
from audioadv.evaluation.games.attackers import Attacker
from audioadv.report.games import draw_games, games_table
from audioadv.threat.channels import Key, parse_channel
from audioadv.threat.goals import Goal

SAMPLES = Path(__file__).resolve().parent.parent / "samples"
PHRASE = "call me back"


@dataclass(frozen=True)
class World:
    """A model, its inputs, and what an attacker wants of it: an error, or one answer (with inputs made for that)."""

    name: str
    model: Any
    inputs: Tensor
    lengths: Tensor | None
    box: tuple[float, float]
    bound: str
    error: Goal
    aim: Goal
    aimed: Tensor  # the inputs made for `aim`, of the first examples
    near: Likeness
    answers: int | tuple[str, ...]

    @property
    def k(self) -> int:
        """How many answers there are."""
        return self.answers if isinstance(self.answers, int) else len(self.answers)

    def play(self, model: Any, attacker: Attacker, rounds: int, targeted: bool = False, adversarial: bool = False) -> Game:
        """One game: by `drawn`, under expectimax, else under true-max. `adversarial` inputs are those made for the aim."""
        rule = aa.ThreatModel(self.bound, protocol="expectimax" if attacker is drawn else "true-max")
        count = len(self.aimed) if adversarial else len(self.inputs)
        return play(
            model,
            self.inputs[:count],
            (self.aim if targeted else self.error).rows(torch.arange(count)),
            rule,
            attacker,
            sent=self.aimed if adversarial else None,
            lengths=None if self.lengths is None else self.lengths[:count],
            rounds=rounds,
            box=self.box,
        )


@dataclass(frozen=True)
class Contest:
    """One row: who plays whom, and what theory says of the error (or the target miss rate) in the long run; None for nothing."""

    defense: str
    make: Callable[[], Any]
    attacker: Attacker
    relation: str = ""
    theory: float | None = None
    targeted: bool = False
    adversarial: bool = False

    def run(self, world: World, rounds: int) -> tuple[Game, dict[str, Any]]:
        """The game, and its line."""
        game = world.play(self.make(), self.attacker, rounds, self.targeted, self.adversarial)
        measured = game.late_miss if self.targeted else game.late_error
        low, high = measured.interval
        theory, rounding = -1.0 if self.theory is None else self.theory, 1e-9
        below, above = low <= theory + rounding, high >= theory - rounding
        said = {
            "world": world.name,
            "defense": self.defense,
            "measure": "miss" if self.targeted else "error",
            "theory": "" if self.theory is None else f"{self.relation} {100 * self.theory:.1f} %",
            "measured": measured.value,
            "interval": (low, high),
            "agrees": self.theory is None or {"<=": below, ">=": above, "=": below and above}[self.relation],
        }
        return game, said | game.line() | ({"attacker": f"pgd, {game.attacker}"} if self.adversarial else {})


def contests(world: World, natural: float) -> list[Contest]:
    """The rows for one world, whose rate of natural errors is r."""
    remember = partial(remembering, world.model)
    abstaining, exact_any = remember, partial(remember, on_repeat="any", answers=world.answers)
    near, near_any = partial(remember, world.near), partial(remember, world.near, "any", answers=world.answers, seed=1)
    shaken, much = partial(repeat, shake=0.1), partial(repeat, shake=1.0)
    fixed, draw, symmetric = lambda: world.model, partial(sampled, world.model), (world.k - 1) / world.k
    kind = str(world.near).partition("@")[0]
    return [
        Contest("fixed", fixed, drawn, "=", natural),
        Contest("fixed", fixed, repeat, "=", 1.0),
        Contest("fixed", fixed, repeat, "=", 0.0, targeted=True, adversarial=True),
        Contest("stochastic", draw, greedy, ">=", 0.5),
        Contest("exact, abstains", abstaining, repeat, "<=", natural),
        Contest("exact, abstains", abstaining, greedy, "<=", natural),
        Contest("exact, any", exact_any, repeat, "=", symmetric),
        Contest("exact, any", exact_any, repeat, "=", symmetric, targeted=True, adversarial=True),
        Contest("exact, abstains", abstaining, shaken, ">=", natural),
        Contest(f"{kind}, abstains", near, shaken, "<=", natural),
        Contest(f"{kind}, any", near_any, shaken, "=", symmetric),
        Contest(f"{kind}, any", near_any, shaken, "=", symmetric, targeted=True, adversarial=True),
        Contest(f"{kind}, abstains", near, much),
        Contest("exact, other", partial(remember, on_repeat="other", answers=world.answers), stubborn),
    ]


def pictures(data: Path, count: int) -> World:
    """MNIST and the bundled net; adversarial inputs by PGD, toward the class after the right one."""
    (x, y, _), name = images(data, count)
    net, aim = aa.load_classifier("mnist"), aa.Classify((y + 1) % 10)
    aimed = ready(net, x[:200], aim.rows(torch.arange(min(count, 200))), aa.ThreatModel("linf:0.3"), attacks.pgd)
    return World(name, net, x, None, (0.0, 1.0), "linf:0.3", aa.Misclassify(y), aim, aimed, Near(aa.L2(1.5)), 10)


def recordings(draws: int, steps: int) -> World:
    """Spoken sentences, faster and slower, and tiny-mel; adversarial clips that say a phrase."""
    paths, texts = zip(*spoken_samples(), strict=True)
    model = aa.load_model("tiny-mel")
    clips = [clip.samples for clip in aa.read_audio(paths, model.sample_rate)]
    keys = [Key(0, clip, draw) for draw in range(draws) for clip in range(len(clips))]
    waves, lengths = parse_channel("speed:0.85..1.15").draw(keys, model.sample_rate)(*pad(clips * draws))
    assert lengths is not None
    box, claim = (-1.0, 1 - 2.0**-15), aa.ThreatModel("snr:15")
    waves, aim = waves.clamp(*box), aa.Transcribe(PHRASE)
    aimed = ready(model, waves[:2], aim, claim, partial(attacks.pgd, steps=steps, step_size=0.05), lengths=lengths[:2], box=box)
    error = aa.Mistranscribe(texts * draws)
    return World("tiny-mel", model, waves, lengths, box, "snr:15", error, aim, aimed, Heard(model.sample_rate), (*texts, PHRASE))


def costs(world: World) -> dict[str, Game]:
    """Everyone asks once: nobody attacks, or all inputs are adversarial and none is a repeat."""
    rounds = len(world.inputs)
    games = {
        f"honest users, {likeness}": world.play(remembering(world.model, likeness), drawn, rounds) for likeness in (Exact(), world.near)
    }
    fresh = len(world.aimed)
    games["adversarial inputs, new each time, fixed"] = world.play(world.model, drawn, fresh, targeted=True, adversarial=True)
    remembers = remembering(world.model, world.near)
    games[f"adversarial inputs, new each time, {world.near}"] = world.play(remembers, drawn, fresh, targeted=True, adversarial=True)
    return games


@click.command()
@click.option("--count", default=2000, show_default=True, help="images")
@click.option("--rounds", default=2000, show_default=True, help="of each game on images")
@click.option(
    "--world",
    "wanted",
    type=click.Choice(["images", "sound"]),
    multiple=True,
    default=("images", "sound"),
    show_default=True,
    help="what is played on; again for both",
)
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with MNIST's files; without it, scikit-learn's digits")
@click.option("--out", type=Path, help="folder for games.jsonl and a picture of each world")
@click.option("--quick", is_flag=True, help="400 images and rounds, 18 recordings and 60 rounds")
def main(count: int, rounds: int, wanted: tuple[str, ...], data: Path, out: Path | None, quick: bool) -> None:
    """Print a table for each world; write the lines and the pictures."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    count, rounds = (min(count, 400), min(rounds, 400)) if quick else (count, rounds)
    worlds = {
        "images": lambda: (pictures(data, count), rounds),
        "sound": lambda: (recordings(2 if quick else 5, 100), 60 if quick else rounds // 4),
    }
    lines = []
    for name in wanted:
        world, length = worlds[name]()
        nature = world.play(world.model, drawn, len(world.inputs)).error
        rows = contests(world, nature.value)
        played = [contest.run(world, length) for contest in rows]
        print(f"\n{world.name}, {len(world.inputs)} inputs, k = {world.k}; r: {nature}")
        print(f"the second half of {length} rounds each, attacker within {world.bound}")
        Console(width=120).print(games_table([line for _, line in played]))
        for who, game in costs(world).items():
            print(f"{who}: error {game.error}, abstention {game.abstention}")
        lines += [line for _, line in played]
        if out:
            out.mkdir(parents=True, exist_ok=True)
            panels: dict[str, dict[str, Game]] = {}
            for contest, (game, line) in zip(rows, played, strict=True):
                if not contest.targeted:
                    panels.setdefault(contest.defense, {})[line["attacker"]] = game
            theory = {contest.defense: contest.theory for contest in rows if contest.theory is not None and not contest.targeted}
            draw_games(out / f"{world.name}.png", panels, theory, f"{world.name}: error against rounds")
    if out:
        write_lines(out / "games.jsonl", lines)
        print(f"Look: {out}")


if __name__ == "__main__":
    main()

"""The recipes about games say what they measure: on a world of known answers, every row that has a theory agrees with it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes"))

import audioadv as aa  # noqa: E402
from audioadv.defenses import Near  # noqa: E402
from audioadv.errors import OptionError  # noqa: E402
from audioadv.evaluation import Rate  # noqa: E402
from audioadv.report.games import draw_games, games_figure, games_table  # noqa: E402


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """A world of 60 inputs that are their own scores of three classes, six of them wrong; what is aimed at has its own inputs."""
    from dynamic_defense import World, contests

    labels = torch.arange(60) % 3
    inputs = 0.3 + 0.02 * torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    inputs[torch.arange(60), torch.where(torch.arange(60) < 6, (labels + 1) % 3, labels)] += 0.3
    aim = aa.Classify((labels + 1) % 3)
    aimed = inputs[:20].clone()
    aimed[torch.arange(20), (labels[:20] + 1) % 3] += 0.4
    aimed[torch.arange(20), labels[:20]] -= 0.3
    world = World("toy", nn.Identity(), inputs, None, (-1.0, 2.0), "linf:0.4", aa.Misclassify(labels), aim, aimed, Near(aa.L2(0.1)), 3)
    rows = contests(world, natural=0.1)
    games = [contest.run(world, 240) for contest in rows]
    panels = {f"{row.defense} {place}": {line["attacker"]: game} for place, (row, (game, line)) in enumerate(zip(rows, games, strict=True))}
    path = tmp_path_factory.mktemp("games") / "games.png"
    draw_games(path, panels, {"fixed 1": 1.0}, "toy")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OptionError, match="no games to draw"):
        draw_games(path, {})
    axes = games_figure(panels, {"fixed 1": 1.0}).axes
    assert [axis.get_title(loc="left") for axis in axes] == list(panels)
    drawn, dashed = axes[1].get_lines()
    assert len(drawn.get_xdata()) == 20
    assert drawn.get_ydata()[-1] == 100
    assert dashed.get_linestyle() == "--"
    assert len(axes[0].get_lines()) == 1
    return [line for _, line in games]


def test_every_row_agrees_with_its_theory(played: list[dict[str, object]]) -> None:
    assert [line["agrees"] for line in played] == [True] * len(played)
    assert sum(line["theory"] != "" for line in played) >= 12
    assert games_table(played).row_count == len(played)
    for line in played:
        assert json.loads(json.dumps(line))["threat"]["bound"] == "linf:0.4"


def test_a_row_that_disagrees_says_so() -> None:
    from dynamic_defense import Contest, World

    labels = torch.tensor([1, 1])
    inputs = torch.tensor([[0.2, 0.8], [0.2, 0.8]])  # never wrong
    goal = aa.Misclassify(labels)
    world = World("toy", nn.Identity(), inputs, None, (0.0, 1.0), "linf:0.1", goal, goal, inputs, Near(aa.L2(0.1)), 2)
    from audioadv.evaluation.games.attackers import repeat

    for relation, theory, agrees in (("=", 1.0, False), (">=", 0.5, False), ("<=", 0.1, True), ("=", 0.0, True), ("=", 0.3, False)):
        _, line = Contest("fixed", lambda: nn.Identity(), repeat, relation, theory).run(world, 60)
        assert line["agrees"] is agrees


def test_toy_theorems() -> None:
    """What the attacks measure is what can be worked out; no classifier resists both; a mix of norms is no worse than the worst."""
    from math import inf, sqrt

    from toy_theorems import L1, LINF, P, accuracy, measured

    either, mix = LINF | L1, 0.5 * LINF + 0.5 * L1
    for a in (0.0, 10.0, 30.0, inf):
        for bound in (None, LINF, L1, either, mix):
            theory, rate = accuracy(a, bound), measured(a, bound, 500)
            assert abs(rate.value - theory) <= 4 * sqrt(max(theory * (1 - theory), 1e-3) / 500), (a, str(bound))
    assert accuracy(0.0, None) > 0.998
    assert accuracy(0.0, LINF) < 0.002  # near 1 without, near 0 with an attacker: Tsipras et al.
    assert accuracy(inf, LINF) == P
    assert accuracy(0.0, L1) > 0.99
    for a in (0.0, 0.5, 1.0, 2.0, 10.0, 29.0, 31.0, 100.0, 1e4, inf):
        assert accuracy(a, either) <= 0.5
        assert accuracy(a, mix) >= accuracy(a, either)


def test_fingerprints_are_found_again() -> None:
    from fingerprint_rates import changed, clips

    (sounds,) = clips(Path("nowhere"), 0).values()
    assert len(sounds) >= 18
    assert len(changed(sounds[0], "shift:10", 0)) == len(sounds[0])
    assert str(Rate(0, 20)).startswith("0.0 %")

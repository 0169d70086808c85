"""Imports go only down the house: a layer may use itself and the layers before it."""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "audioadv"
LAYERS = ["errors", "options", "audio", "models", "threat", "defenses", "attacks", "training", "evaluation", "report", "cli"]
FILES = sorted(path for path in HOUSE.rglob("*.py") if path.parent != HOUSE or path.stem in ("errors", "options"))


def layer(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import, which this test cannot read"
        if isinstance(node, ast.ImportFrom) and node.module == "audioadv":
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("audioadv."):
            names.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("audioadv.")}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOUSE)))
def test_imports_go_down(path: Path) -> None:
    allowed = LAYERS[: LAYERS.index(layer(path)) + 1]
    assert imported_layers(path) <= set(allowed), f"{path} reaches up"


def test_every_folder_is_a_layer() -> None:
    assert {layer(path) for path in FILES} <= set(LAYERS)


def test_no_drawer_for_odds_and_ends() -> None:
    assert not {path.stem for path in FILES} & {"utils", "helpers", "core", "base", "misc", "common"}

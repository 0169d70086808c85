"""What other people's scripts rely on: names, options, JSON keys, and the README."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import audioadv as aa
from audioadv.attacks.crafted import Crafted
from audioadv.cli import COMMANDS, main
from audioadv.errors import AudioadvError

ROOT = Path(__file__).parent.parent
PROMISED = ["craft", "evaluate", "load_model", "objective", "read_audio"]  # DESIGN's library section
KEYS = (
    "clip clean_transcript target adversarial_transcript reached outcome bound excess snr_db relative_db steps forwards backwards seconds"
)


def test_public_names_exist_and_are_documented() -> None:
    for name in aa.__all__:
        assert getattr(aa, name).__doc__ or name == "MIN", name
    assert set(PROMISED) <= set(aa.__all__)


def test_what_is_imported_late_is_what_a_type_checker_sees() -> None:
    seen, _ = (node for node in ast.parse(Path(aa.__file__).read_text()).body if isinstance(node, ast.If))
    names = {(node.module, name.name) for node in seen.body if isinstance(node, ast.ImportFrom) for name in node.names}
    assert names == {(f"audioadv.{home}", name) for name, home in aa.HOME.items()} | {
        ("audioadv", name) for name in ("attacks", "defenses", "errors", "training")
    }
    assert {name for _, name in names} == set(aa.__all__) <= set(dir(aa))
    with pytest.raises(AttributeError, match="no attribute 'crft'"):
        getattr(aa, "crft")  # noqa: B009


@pytest.mark.parametrize("call", ["import audioadv", "from audioadv.cli import main; main(['--help'], standalone_mode=False)"])
def test_torch_is_imported_only_when_it_is_needed(call: str) -> None:
    subprocess.run([sys.executable, "-c", f"{call}; import sys; assert 'torch' not in sys.modules"], check=True, capture_output=True)


def test_a_command_waits_for_nothing_that_it_may_not_need() -> None:
    late = "matplotlib", "scipy.fft", "scipy.special", "sklearn", "pyroomacoustics", "librosa"
    told = f"import sys, audioadv.cli.craft, audioadv.cli.survive; print([name for name in {late} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_ctrl_c_while_torch_is_imported_ends_in_one_word(tmp_path: Path) -> None:
    # An import that swallows the interrupt, as numpy's within torch's does.
    (tmp_path / "torch.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    import time; time.sleep(9)\nexcept BaseException: pass\n"
    )
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from audioadv.cli import main; main(['models'])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Stopped.\n")


def test_every_error_is_in_the_tree_that_its_module_draws() -> None:
    def family(kind: type[AudioadvError]) -> set[str]:
        return {kind.__name__}.union(*(family(child) for child in kind.__subclasses__()))

    for name in family(AudioadvError):
        assert name in (aa.errors.__doc__ or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_the_common_options_and_a_place_in_the_readme(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.get_short_help_str(limit=100) == COMMANDS[name]
    assert {"json", "device", "seed"} <= {parameter.name.removeprefix("as_") for parameter in command.params if parameter.name}
    assert f"audioadv {name}" in (ROOT / "README.md").read_text()


def test_result_lines_carry_the_promised_keys() -> None:
    assert set(KEYS.split()) <= set(Crafted.__dataclass_fields__) | {"clip", "reached"}


def test_the_versions_agree_and_the_pair_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == aa.__version__
    assert {"torch==2.11.0", "torchaudio==2.11.0"} <= set(project["dependencies"])


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    declared = {re.split(r"[=><]", each)[0].replace("-", "_") for each in wanted}
    imported = {
        name.partition(".")[0]
        for file in (ROOT / "audioadv").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    others = {"PIL": "pillow", "sklearn": "scikit_learn"}
    assert {others.get(name, name) for name in imported - sys.stdlib_module_names - {"audioadv"}} <= declared


def test_samples_are_there_and_accounted_for() -> None:
    sources = (ROOT / "samples/SOURCES.md").read_text()
    sounds = [path for path in (ROOT / "samples").iterdir() if path.suffix in {".wav", ".flac", ".ogg"}]
    assert len(sounds) >= 12
    for path in sounds:
        assert path.name in sources
        assert aa.read_clip(path, 16000).seconds <= 5

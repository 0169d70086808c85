"""audioadv check from outside: on a recogniser, on a classifier with data, on a run."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from nets import inputs_for, labels_of, small
from recognisers import linear
from torch import Tensor, nn

from audioadv.cli import main
from audioadv.defenses import remembering
from audioadv.defenses.store import Store
from audioadv.errors import InputError
from audioadv.evaluation.sanity.recorded import check_run
from audioadv.models.recogniser import Recogniser

SHAPE = (1, 5, 6)


def classifier() -> tuple[nn.Module, Tensor, Tensor]:
    net, x = small(3, SHAPE).float(), inputs_for(SHAPE, 6, (0, 1)).float()
    return net, x, labels_of(net, x)


def softmaxed() -> tuple[nn.Module, Tensor, Tensor]:
    net, x, labels = classifier()
    return nn.Sequential(net, nn.Softmax(1)), x, labels


def sounds() -> tuple[nn.Module, Tensor, Tensor]:
    net, x = small(3, (400,)).float(), inputs_for((400,), 6, (-1, 1)).float()
    return net, x, labels_of(net, x)


def empty() -> tuple[nn.Module, Tensor, Tensor]:
    net, x, labels = classifier()
    return net, x[:0], labels[:0]


def misfit() -> tuple[nn.Module, Tensor, Tensor]:
    net, x, labels = classifier()
    return net, x[..., 1:], labels


def unlike() -> tuple[nn.Module, Any, Any]:
    net, x, labels = classifier()
    return net, x.numpy(), labels


def listed() -> tuple[nn.Module, Any, Any]:
    net, x, labels = classifier()
    return net, x, labels.tolist()


def mindful() -> tuple[nn.Module, Tensor, Tensor]:
    net, x, labels = classifier()
    return remembering(net, path="memory.db"), x, labels


def mindful_hearing() -> Recogniser:
    return remembering(linear(), path="memory.db")


def nothing() -> int:
    return 7


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["check", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def found(result: Result) -> dict[str, list[str]]:
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {
        of: [line["indicator"] for line in lines if line["of"] == of and line["verdict"] == "broken"] for of in {x["of"] for x in lines}
    }


@pytest.fixture
def hiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    soundfile.write("hiss.wav", torch.randn(8000, generator=torch.Generator().manual_seed(0)).mul(0.1).clamp(-1, 1).numpy(), 16000)
    return tmp_path


def test_a_recogniser(hiss: Path) -> None:
    result = run("module:recognisers:linear", "--clip", "hiss.wav", "--target", "yes", "--steps", "40", "--json")
    assert found(result) == {"shrink": []}
    assert result.exit_code == 0
    table = run("module:recognisers:nowhere", "--clip", "hiss.wav", "--target", "yes", "--steps", "10")
    assert table.exit_code == 1
    assert "no gradient: The attack stood still" in table.stdout


def test_a_classifier_with_data() -> None:
    result = run("module:test_check_command:classifier", "--bound", "linf:0.05", "--attack", "pgd", "--json")
    assert (found(result), result.exit_code) == ({"pgd": []}, 0)
    result = run("module:test_check_command:softmaxed", "--bound", "linf:0.05", "--attack", "pgd", "--json")
    assert (found(result), result.exit_code) == ({"pgd": ["probabilities for logits"]}, 1)
    (line,) = [entry for entry in map(json.loads, result.stdout.splitlines()) if entry["verdict"] == "broken"]
    assert line["cure"].startswith("Attack the logits")
    assert line["figures"] == {"probabilities": True}


def test_a_classifier_of_sounds() -> None:
    for bound in ([], ["--bound", "linf:0.05"]):
        result = run("module:test_check_command:sounds", *bound, "--attack", "pgd", "--json")
        assert result.exit_code in (0, 1), result.stderr
        assert set(found(result)) == {"pgd"}


def test_what_cannot_be_checked(tmp_path: Path) -> None:
    for wrong, word in (
        ("magic", "unknown"),
        ("runs/missing", "Nor is there a folder of that name"),
        ("mnst", "did you mean 'mnist'?"),
        ("digits-spoken", "no sounds"),
        ("module:test_check_command:nothing", "int"),
        ("module:test_check_command:empty", "inputs of shape [0, 1, 5, 6]"),
        ("module:test_check_command:misfit", "RuntimeError at line"),
        ("module:test_check_command:unlike", "inputs are a ndarray. Return a tensor"),
        ("module:test_check_command:listed", "labels are a list. Return a tensor"),
        ("n" * 300, "Nor is there a folder of that name"),
        (str(tmp_path), "no results"),
    ):
        result = run(wrong)
        assert result.exit_code == 2
        assert word in result.stderr
    assert run("mnist", "--attack", "magic").exit_code == 2
    other = run("mnist", "--substitute", "module:test_check_command:classifier")
    assert other.exit_code == 2
    assert "--substitute module:test_check_command:classifier" in other.stderr
    other = run("mnist", "--substitute", "module:recognisers:linear")
    assert other.exit_code == 2
    assert "a net for a net" in other.stderr


@pytest.mark.parametrize("kind", ["mindful", "mindful_hearing"])
@pytest.mark.parametrize("attacked", [True, False], ids=["model", "substitute"])
def test_a_memory_is_not_written_to(kind: str, attacked: bool, hiss: Path) -> None:
    model, other = f"module:test_check_command:{kind}", {"mindful": "mnist", "mindful_hearing": "tiny-mel"}[kind]
    result = run(model) if attacked else run(other, "--substitute", model)
    assert result.exit_code == 2
    assert "remembers" in result.stderr
    assert len(Store("exact", "memory.db")) == 0


def failing() -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    (net, x, labels), calls = classifier(), itertools.count()

    def scores(inputs: Tensor) -> Tensor:
        if next(calls) > 3:
            raise RuntimeError("no more")
        return net(inputs)  # type: ignore[no-any-return]

    return scores, x, labels


def test_what_a_net_raises_later_is_told_too() -> None:
    result = run("module:test_check_command:failing", "--bound", "linf:0.05", "--attack", "pgd")
    assert result.exit_code == 2
    assert "your own code raised RuntimeError at line" in result.stderr


def test_options_that_say_nothing_are_refused(hiss: Path) -> None:
    Path("run").mkdir()
    for options, option in (
        (["mnist", "--clip", "hiss.wav"], "--clip"),
        (["mnist", "--steps", "3"], "--steps"),
        (["module:recognisers:linear", "--model", "tiny-mel"], "--model"),
        (["run", "--target", "yes"], "--target"),
        (["run", "--attack", "pgd"], "--attack"),
    ):
        result = run(*options)
        assert result.exit_code == 2
        assert f"{option} says nothing here" in result.stderr


def test_what_can_never_be_is_no_broken_evaluation(hiss: Path) -> None:
    result = run(
        "module:recognisers:linear", "--clip", "hiss.wav", "--target", "far too many words for half a second of noise", "--steps", "5"
    )
    assert result.exit_code == 2
    assert "1 examples, and none that can be attacked. The target needs" in result.stderr


def crafted(*options: str) -> list[dict[str, Any]]:
    arguments = ["craft", "hiss.wav", "--target", "yes", "--model", "module:recognisers:linear", "--steps", "60", "--no-picture", *options]
    assert CliRunner().invoke(main, [*arguments, "--out", "run"]).exit_code in (0, 1)
    return [json.loads(line) for line in Path("run/results.jsonl").read_text().splitlines()]


def rewritten(*lines: dict[str, Any]) -> list[str]:
    """What check_run finds broken in a run of these lines."""
    Path("run/results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return sorted({name for checkup in check_run(Path("run")).values() for name in checkup.broken})


def test_a_run(hiss: Path) -> None:
    """Each fault is planted in a sound run's own lines and files."""
    (line,) = crafted()
    assert line["saw"]["reached"]
    assert line["saw"]["looks"] == line["backwards"] == 60
    assert rewritten(line) == []
    result = run("run", "--model", "module:recognisers:linear")
    assert result.exit_code == 0

    saw, missed = line["saw"], {**line, "reached": False, "outcome": "missed", "bound_asked": "linf:0.01", "out": None}
    assert rewritten({**missed, "bound_asked": "linf:min", "saw": {**saw, "reached": False}}) == ["unbounded misses"]
    assert rewritten(missed) == ["claims fail"]  # reached in its batch, but not in the file
    assert rewritten({**missed, "saw": {**saw, "reached": False, "zero": 50}}) == ["no gradient"]
    assert rewritten({**missed, "saw": {**saw, "reached": False, "spent": 0.2}}) == ["budget unspent"]
    assert rewritten({**line, "bound": "linf:0.00001"}) == ["outside the bound"]  # the files say more
    assert rewritten({**line, "adversarial_transcript": "no"}) == []
    assert run("run", "--model", "module:recognisers:linear").exit_code == 1  # heard again, it is something else
    with pytest.raises(InputError, match="cannot be read"):
        rewritten({**line, "saw": {"reached": True, "strange": 1}})
    with pytest.raises(InputError, match="line 1"):
        rewritten({"name": "hiss"})
    with pytest.raises(InputError, match="no result has excess 'x'"):
        rewritten({**line, "excess": "x"})
    Path("run/hiss.wav").unlink()
    with pytest.raises(InputError, match=r"run/hiss\.wav: gone, one of 1 of 1 clips"):
        rewritten(line)


def claims(*options: str) -> list[str]:
    """What check says of the claims in the folder run, setting by setting."""
    lines = map(json.loads, run("run", *options, "--json").stdout.splitlines())
    return [f"{line['verdict']} {line['saw']}".strip() for line in lines if line["indicator"] == "claims fail"]


def test_claims_that_nobody_heard_again_are_unknown(hiss: Path) -> None:
    """By the spec that a run of bench names its model by, whatever the model calls itself."""
    crafted()
    again = "0 of 1 successes do not hold when the model is asked again"
    assert claims() == ["unknown"]
    assert claims("--model", "module:recognisers:linear") == [f"sound {again}"]
    wrong = run("run", "--model", "module:recognisers:small")
    assert wrong.exit_code == 2
    assert "no result of it to hear again. Its clips were made for module:recognisers:linear" in wrong.stderr
    Path("list.jsonl").write_text(json.dumps({"audio_filepath": "hiss.wav", "target": "yes"}))
    models = ["--model", "module:recognisers:linear", "--model", "module:recognisers:small"]
    shutil.rmtree("run")
    assert CliRunner().invoke(main, ["bench", "list.jsonl", "--out", "run", "--steps", "60", *models]).exit_code == 0
    assert claims(*models[:2]) == [f"sound {again}", "unknown"]


def test_settings_of_a_run_are_compared(hiss: Path) -> None:
    (line,) = crafted("--bound", "snr:10")
    lost = {"reached": False, "outcome": "missed", "saw": None, "out": None}
    many = [{**line, "clip": f"{i}.wav", "bound_asked": "snr:20", "attack": "pgd"} for i in range(3)]
    wider = [{**entry, **lost, "bound_asked": "snr:10"} for entry in many]
    assert rewritten(*many, *wider) == ["more budget, less success"]
    queries = [{**entry, "attack": "square", "backwards": 0} for entry in many]
    assert rewritten(*queries, *[{**entry, **lost} for entry in many]) == ["black box wins"]
    assert rewritten(*queries, *many) == []


def test_two_sounds_of_one_path_are_two_results(hiss: Path) -> None:
    (line,) = crafted()
    missed = {**line, "name": "hiss-2", "reached": False, "outcome": "missed", "bound": "linf:min", "out": None, "saw": None}
    assert "unbounded misses" in rewritten(line, missed)
    assert "unbounded misses" in rewritten(missed, line)


def test_a_clip_that_may_not_be_changed_is_told(hiss: Path) -> None:
    soundfile.write("zero.wav", [0.0] * 8000, 16000)
    result = run("module:recognisers:linear", "--clip", "hiss.wav", "--clip", "zero.wav", "--bound", "snr:5", "--steps", "5")
    assert result.exit_code == 2
    assert "--clip zero.wav: nothing can be changed within snr:5" in result.stderr

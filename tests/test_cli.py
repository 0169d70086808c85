"""The commands from outside: what they print, write and return. A linear stand-in is recogniser enough for that."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import jiwer
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from click.testing import CliRunner, Result

from audioadv.attacks.craft import Progress, craft_each
from audioadv.audio.files import Clip, read_clip
from audioadv.cli import COMMANDS, main
from audioadv.cli.interrupts import unbroken
from audioadv.errors import UnwritableOutput
from audioadv.report.page import write_page

ROOT = Path(__file__).parent.parent
LINEAR = ["--model", "module:recognisers:linear"]
QUICK = [*LINEAR, "--steps", "40", "--no-picture", "--device", "cpu", "--json"]
KEYS = {
    "clip", "clean_transcript", "target", "adversarial_transcript", "reached", "outcome", "bound", "excess", "snr_db", "relative_db",
    "steps", "forwards", "backwards", "seconds", "saw", "out", "note", "notices",
    "model", "attack", "bound_asked", "minimal", "seed", "restarts", "name", "audio_filepath", "duration", "digest", "gauge",
}  # fmt: skip


def noise(seconds: float, sample_rate: int = 16000, channels: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(0, 0.1, (int(seconds * sample_rate), channels)).clip(-1, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a half-second clip in it, and one thread, which is all that the stand-in needs."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("hiss.wav", noise(0.5), 16000)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# What a call prints and writes


def test_craft_writes_what_it_says(folder: Path) -> None:
    result = run("craft", "hiss.wav", "--target", "Open the door", *QUICK)
    (line,) = lines(result)
    assert result.exit_code == 0
    assert set(line) == KEYS
    assert line["outcome"] == "reached"
    assert line["reached"]
    assert line["target"] == line["adversarial_transcript"] == "open the door"
    assert line["bound"].startswith("linf:")
    assert line["excess"] <= 0
    assert line["out"] == "adversarial/hiss.wav"
    assert files(folder / "adversarial") == {"hiss.wav", "hiss.clean.wav", "hiss.json", "results.jsonl", "index.html"}

    heard = lines(run("transcribe", line["out"], *LINEAR, "--json"))
    assert heard == [{"clip": line["out"], "transcript": "open the door", "seconds": 0.5, "notices": []}]
    measured = json.loads(run("compare", "adversarial/hiss.clean.wav", line["out"], *LINEAR, "--json").stdout)
    assert measured["snr_db"] == pytest.approx(line["snr_db"])
    assert measured["relative_db"] == pytest.approx(line["relative_db"])
    assert measured["linf"] == pytest.approx(float(line["bound"].removeprefix("linf:")), rel=1e-4)
    assert (measured["clean_transcript"], measured["adversarial_transcript"]) == (line["clean_transcript"], "open the door")
    record = json.loads(Path("adversarial/hiss.json").read_text())
    assert record.items() >= line.items()


def test_the_same_command_gives_the_same_bytes(folder: Path) -> None:
    for out in ("one", "two"):
        arguments = [argument for argument in QUICK if argument != "--no-picture"]
        assert run("craft", "hiss.wav", "--target", "go", *arguments, "--out", out).exit_code == 0
    assert files(folder / "one") == {"hiss.wav", "hiss.clean.wav", "hiss.png", "hiss.json", "results.jsonl", "index.html"}
    for name in ("hiss.wav", "hiss.clean.wav", "hiss.png"):
        assert Path("one", name).read_bytes() == Path("two", name).read_bytes()


def test_people_get_a_table(folder: Path) -> None:
    arguments = [argument for argument in QUICK if argument != "--json"]
    soundfile.write("stereo[red].wav", noise(0.5, 44100, 2), 44100)
    result = run("craft", "hiss.wav", "stereo[red].wav", "--target", "go", *arguments)
    assert result.exit_code == 0
    for text in ("outcome", "reached", "go", "stereo[red].wav", "2 channels mixed down to one", "resampled from 44100 Hz to 16000 Hz"):
        assert text in result.stdout
    assert "hiss.wav: " in run("transcribe", "hiss.wav", *LINEAR).stdout
    assert "SNR" in run("compare", "hiss.wav", "hiss.wav").stdout


def test_one_target_for_each_clip_and_no_two_share_a_file(folder: Path) -> None:
    soundfile.write("hiss.flac", noise(0.6), 16000)
    Path("other").mkdir()
    soundfile.write("other/HISS.wav", noise(0.7), 16000)
    result = run(
        "craft",
        "hiss.wav",
        "hiss.flac",
        "other/HISS.wav",
        "--target",
        "one",
        "--target",
        "two",
        "--target",
        "three",
        *QUICK,
        "--batch",
        "2",
    )
    assert result.exit_code == 0
    assert [(line["target"], line["out"]) for line in lines(result)] == [
        ("one", "adversarial/hiss.wav"),
        ("two", "adversarial/hiss-2.wav"),
        ("three", "adversarial/HISS-3.wav"),
    ]
    assert [line["transcript"] for line in lines(run("transcribe", *(line["out"] for line in lines(result)), *LINEAR, "--json"))] == [
        "one",
        "two",
        "three",
    ]


def test_clips_of_like_length_are_attacked_together_and_told_in_the_order_given(folder: Path) -> None:
    soundfile.write("long.wav", noise(0.9), 16000)
    soundfile.write("short.wav", noise(0.4), 16000)
    given = ["craft", "long.wav", "hiss.wav", "short.wav", "--target", "one", "--target", "two", "--target", "three", "--batch", "2"]
    done = lines(run(*given, *QUICK))
    assert [(line["clip"], line["target"], line["adversarial_transcript"]) for line in done] == [
        ("hiss.wav", "two", "two"),
        ("short.wav", "three", "three"),
        ("long.wav", "one", "one"),
    ]
    table = run(*given, *(argument for argument in QUICK if argument != "--json")).stdout
    assert table.index("long.wav") < table.index("hiss.wav") < table.index("short.wav")


def test_a_clip_that_missed_is_started_again(folder: Path) -> None:
    """One step does not get there; two starts of one step are two misses."""
    (once,), (twice,) = (lines(run("craft", "hiss.wav", "--target", "go", *QUICK, "--steps", "1", "--restarts", n)) for n in ("1", "2"))
    assert (once["outcome"], once["steps"]) == ("missed", 1)
    assert (twice["outcome"], twice["steps"]) == ("missed", 2)


def test_outputs_never_replace_a_clip(folder: Path) -> None:
    soundfile.write("hiss.clean.wav", noise(0.4), 16000)
    before = {name: Path(name).read_bytes() for name in ("hiss.wav", "hiss.clean.wav")}
    result = run("craft", "hiss.wav", "hiss.clean.wav", "--target", "go", *QUICK, "--out", ".")
    assert [line["out"] for line in lines(result)] == ["hiss-2.wav", "hiss.clean-2.wav"]
    assert {name: Path(name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        (["--target", "open the door", "--bound", "linf:0.0001"], "missed"),
        (["--target", "open the door", "--bound", "linf:0"], "infeasible"),
        (["--target", "the longest part that fits into half a second"], "infeasible"),
        (["--target", "go", "--model", "module:recognisers:nowhere"], "not_finite"),
    ],
)
def test_no_audio_without_success(folder: Path, options: list[str], outcome: str) -> None:
    assert run("craft", "hiss.wav", "--target", "go", *QUICK).exit_code == 0
    result = run("craft", "hiss.wav", *QUICK, *options)
    (line,) = lines(result)
    assert result.exit_code == 1
    assert (line["outcome"], line["reached"], line["out"], line["adversarial_transcript"]) == (outcome, False, None, None)
    assert line["note"]
    assert set(line) == KEYS
    assert files(folder / "adversarial") == {"hiss.json", "results.jsonl", "index.html"}, "the files of the earlier success went"


def test_the_file_read_back_is_the_judge(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioadv.evaluation.run.on_disk.read_clip", lambda path, rate: Clip(str(path), torch.zeros(8000), rate))
    result = run("craft", "hiss.wav", "--target", "go", *QUICK)
    (line,) = lines(result)
    assert result.exit_code == 1
    assert (line["outcome"], line["reached"], line["out"], line["adversarial_transcript"]) == ("missed", False, None, None)
    assert files(folder / "adversarial") == {"hiss.json", "results.jsonl", "index.html"}


def test_silence_and_mishearing(folder: Path) -> None:
    soundfile.write("nothing.wav", np.zeros(8000), 16000)
    hushed, needless = lines(run("craft", "hiss.wav", "nothing.wav", "--silence", *QUICK))
    assert set(needless) == KEYS
    assert (hushed["adversarial_transcript"], hushed["outcome"]) == ("", "reached")
    assert (needless["outcome"], needless["snr_db"], needless["reached"]) == ("needless", None, True)
    heard = hushed["clean_transcript"]
    (misheard,) = lines(run("craft", "hiss.wav", "--not-as", heard, *QUICK))
    assert misheard["reached"]
    assert misheard["adversarial_transcript"] != heard


def test_results_are_crafted_again_where_their_goals_are_of_one_kind(folder: Path) -> None:
    for i in range(3):
        soundfile.write(f"{i}.wav", noise(0.5), 16000)
    run("craft", "0.wav", "1.wav", "--silence", *QUICK, "--out", "hushed")
    assert [line["target"] for line in lines(run("craft", "hushed/results.jsonl", *QUICK))] == ["", ""]
    run("craft", "0.wav", "1.wav", "--not-as", "stop it", "--errors", "0.25", *QUICK, "--out", "made")
    again = lines(run("craft", "made/results.jsonl", *QUICK))
    assert [(line["target"], line["errors_asked"], line["text"]) for line in again] == [("not: stop it", 0.25, "stop it")] * 2
    (line, _) = lines(run("craft", "made/results.jsonl", "--errors", "1", *QUICK))
    assert line["errors_asked"] == 1
    run("craft", "2.wav", "--not-as", "stop it", *QUICK, "--out", "made")
    several = run("craft", "made/results.jsonl", *QUICK)
    assert several.exit_code == 2
    assert "clips that were made for --errors 0.25 and 0.5: give one for all" in several.stderr


def test_attacks_by_name_and_as_many_errors_as_asked(folder: Path) -> None:
    (plain,) = lines(run("craft", "hiss.wav", "--silence", *QUICK))
    heard = plain["clean_transcript"]
    goal = ("craft", "hiss.wav", "--not-as", heard, "--errors", "1")
    for attack, steps in (("apgd", "40"), ("nes", "4"), ("genetic", "12"), ("kenansville", "20")):
        (line,) = lines(run(*goal, *QUICK, "--attack", attack, "--steps", steps, "--bound", "linf:0.2"))
        assert line["reached"], attack
        assert jiwer.wer(heard, line["adversarial_transcript"]) >= 1
        assert (line["backwards"] == 0) == (attack != "apgd")
    fixed = run(*goal, *QUICK, "--attack", "genetic")
    assert fixed.exit_code == 2
    assert "genetic" in fixed.stderr


def test_what_is_said_before_the_clip_stays_before_it(folder: Path) -> None:
    soundfile.write("nothing.wav", np.zeros(800), 16000)
    (line,) = lines(run("craft", "nothing.wav", "--target", "a", "--lead-in", "0.1", "--bound", "sticker:1600+0_and_linf:0.1", *QUICK))
    assert line["reached"]
    said, _ = soundfile.read(line["out"])
    assert len(said) == 1600 + 800
    assert said[:1600].any()
    assert not said[1600:].any()
    assert any("silence" in notice for notice in line["notices"])


def test_a_result_says_how_long_its_file_is_and_what_silence_was_put_before_it(folder: Path) -> None:
    (line,) = lines(run("craft", "hiss.wav", "--target", "go", "--lead-in", "0.25", *QUICK))
    assert (line["audio_filepath"], line["duration"], line["lead_in"]) == ("../hiss.wav", 0.5, 0.25)
    again = ("craft", "adversarial/results.jsonl", *QUICK)
    for options, lead_in in (([], 0.25), (["--lead-in", "0.1"], 0.1), (["--lead-in", "0"], 0)):
        (line,) = lines(run(*again, *options, "--out", "again"))
        assert (line["duration"], line.get("lead_in", 0)) == (0.5, lead_in)
        assert read_clip(Path(line["out"])).seconds == 0.5 + lead_in
    Path("list.jsonl").write_text('{"audio_filepath": "hiss.wav", "lead_in": 0.25}')  # somebody else's key
    (line,) = lines(run("craft", "list.jsonl", "--target", "go", *QUICK, "--out", "again"))
    assert "lead_in" not in line


def test_results_are_a_manifest_and_add_up(folder: Path) -> None:
    Path("sounds").mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(f"sounds/{name}.wav", noise(0.5), 16000)
    manifest = Path("sounds/list.jsonl")
    entries = [
        {"audio_filepath": "a.wav", "duration": 0.5, "text": "hiss", "target": "open"},
        {"audio_filepath": "b.wav", "target": "route 66"},
        {"audio_filepath": "c.wav", "target": ""},
    ]
    manifest.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    result = run("craft", str(manifest), *QUICK)
    assert result.exit_code == 2
    assert [line["target"] for line in lines(result)] == ["open"]
    assert "sounds/b.wav: text 'route 66'" in result.stderr
    assert "sounds/c.wav: target ''" in result.stderr
    results = Path("adversarial/results.jsonl")
    assert (
        json.loads(results.read_text()).items()
        >= {"audio_filepath": "../sounds/a.wav", "duration": 0.5, "text": "hiss", "target": "open"}.items()
    )

    assert run("craft", "hiss.wav", "--target", "go", *QUICK).exit_code == 0
    assert run("craft", str(results), *QUICK).exit_code == 0
    assert {(line["name"], line["target"]) for line in map(json.loads, results.read_text().splitlines())} == {("a", "open"), ("hiss", "go")}
    assert len(lines(run("transcribe", str(manifest), *LINEAR, "--json"))) == 3


def test_compare_knows_the_distances(folder: Path) -> None:
    clean = np.full(4000, 0.5)
    adversarial = clean + np.where(np.arange(4000) % 2, 0.0625, -0.0625)
    soundfile.write("clean.wav", clean, 16000, subtype="FLOAT")
    soundfile.write("adversarial.wav", adversarial, 16000, subtype="FLOAT")
    line = json.loads(run("compare", "clean.wav", "adversarial.wav", "--json", "--png", "pair.png").stdout)
    assert line["linf"] == pytest.approx(1 / 16)
    assert line["l2"] == pytest.approx((4000 / 256) ** 0.5)
    assert line["snr_db"] == pytest.approx(18.0618, abs=1e-3)
    assert line["relative_db"] == pytest.approx(-18.0618, abs=1e-3)
    assert line["clean_transcript"] is None
    assert Path("pair.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(run("compare", "clean.wav", "clean.wav", "--json").stdout)["snr_db"] is None
    soundfile.write("click.wav", np.array([0.5]), 16000)
    assert run("compare", "click.wav", "click.wav", "--png", "click.png").exit_code == 0


DISTANCES = {
    "snr_db", "segmental_snr_db", "relative_db", "linf", "l2", "loudness_lufs", "log_spectral_db", "excess_db", "bins_over",
    "excess_seconds", "excess_hz", "pesq", "stoi",
}  # fmt: skip


def test_compare_says_what_can_be_heard_and_where(folder: Path) -> None:
    clean = noise(1.0)[:, 0]
    clean[8000:] = 0
    beep = np.zeros(16000)
    beep[11000:13000] = 0.01 * np.sin(2 * np.pi * 2000 / 16000 * np.arange(2000)) * np.hanning(2000)
    soundfile.write("clean.wav", clean, 16000)
    soundfile.write("beep.wav", clean + beep, 16000)
    line = json.loads(run("compare", "clean.wav", "beep.wav", "--json").stdout)
    assert set(line) >= DISTANCES
    assert line["excess_db"] > 40
    assert line["excess_seconds"] == pytest.approx(0.75, abs=0.06)
    assert line["excess_hz"] == pytest.approx(2000, abs=50)
    assert 0 < line["bins_over"] < 0.1
    assert line["loudness_lufs"] == pytest.approx(-3.01 + 2.4 - 40 - 4.26 - 9.03, abs=1)  # K at 2 kHz, amplitude, Hann, 1/8 of the time
    shown = run("compare", "clean.wav", "beep.wav").stdout
    for name in ("segmental SNR", "loudness", "log-spectral", "worst masking excess", "bins over", "PESQ", "STOI"):
        assert name in shown
    same = json.loads(run("compare", "clean.wav", "clean.wav", "--json").stdout)
    assert (same["excess_db"], same["bins_over"], same["loudness_lufs"], same["log_spectral_db"]) == (None, 0, None, 0)


def test_compare_draws_the_frame_that_is_asked_for(folder: Path) -> None:
    soundfile.write("louder.wav", 1.1 * noise(0.5), 16000)
    pictures = []
    for frame in ([], ["--frame", "0"], ["--frame", "0.5"]):
        assert run("compare", "hiss.wav", "louder.wav", "--png", "pair.png", *frame).exit_code == 0
        pictures.append(Path("pair.png").read_bytes())
    assert len(set(pictures)) == 3
    for wrong in ("0.6", "-1", "nan"):
        result = run("compare", "hiss.wav", "louder.wav", "--png", "none.png", "--frame", wrong)
        assert result.exit_code == 2
        assert "--frame" in result.stderr
    assert not Path("none.png").exists()


def test_compare_draws_clips_whose_names_are_no_text(folder: Path) -> None:
    name = os.fsdecode(b"bad\xff.wav")
    Path("hiss.wav").rename(name)
    assert run("compare", name, name, "--png", "pair.png").exit_code == 0
    assert Path("pair.png").read_bytes().startswith(b"\x89PNG")


def test_a_frame_of_no_picture_says_nothing(folder: Path) -> None:
    result = run("compare", "hiss.wav", "hiss.wav", "--frame", "0.1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--frame says nothing here" in result.stderr


@pytest.mark.parametrize("sample_rate", [4000, 96000])
def test_compare_at_rates_that_the_model_of_hearing_does_not_know(folder: Path, sample_rate: int) -> None:
    soundfile.write("odd.wav", noise(0.5, sample_rate), sample_rate)
    soundfile.write("louder.wav", 1.1 * noise(0.5, sample_rate), sample_rate)
    drawn = ["--png", "odd.png"] if sample_rate == 4000 else []
    line = json.loads(run("compare", "odd.wav", "louder.wav", "--json", *drawn).stdout)
    assert line["excess_db"] is None
    assert any("8000 to 48000 Hz" in notice for notice in line["notices"])
    assert line["snr_db"] == pytest.approx(20, abs=0.5)
    assert Path("odd.png").exists() == bool(drawn)


@pytest.mark.parametrize("time", [1, 100, 3000])
def test_compare_scraps_and_silence(folder: Path, time: int) -> None:
    soundfile.write("scrap.wav", np.full(time, 0.25), 16000)
    soundfile.write("silence.wav", np.zeros(time), 16000)
    drawn = ["--png", "scrap.png"] if time == 100 else []
    for pair in (("scrap.wav", "silence.wav"), ("silence.wav", "scrap.wav", *drawn), ("silence.wav", "silence.wav")):
        line = json.loads(run("compare", *pair, "--json").stdout)
        assert set(line) >= DISTANCES
        assert all(line[name] is None or np.isfinite(line[name]) for name in DISTANCES)


def test_compare_speech_with_silence(folder: Path) -> None:
    """PESQ hears nothing in one of the two."""
    soundfile.write("silence.wav", np.zeros(16000), 16000)
    soundfile.write("second.wav", noise(1.0), 16000)
    for pair in (("second.wav", "silence.wav"), ("silence.wav", "second.wav")):
        line = json.loads(run("compare", *pair, "--json").stdout)
        assert line["pesq"] is None
        assert any("PESQ" in notice for notice in line["notices"])


def test_models_are_listed(folder: Path) -> None:
    listed = {line["model"]: line for line in lines(run("models", "--json"))}
    assert {"tiny-mel", "tiny-wave", "torchaudio:WAV2VEC2_ASR_BASE_960H", "hf:NAME_OR_FOLDER", "module:package.file:function"} <= set(
        listed
    )
    assert all(set(line) == {"model", "source", "installed", "about"} for line in listed.values())
    for name in ("mnist", "mnist-robust", "digits-spoken", "speakers"):
        assert listed[name]["source"] == "bundled classifier"
        assert listed[name]["installed"]
        assert f"load_classifier('{name}')" in listed[name]["about"]
    assert "tiny-mel" in run("models").stdout
    own = torchaudio.pipelines.Wav2Vec2ASRBundle
    bundles = {f"torchaudio:{name}" for name, bundle in vars(torchaudio.pipelines).items() if type(bundle) is own}
    assert {name for name in listed if name.startswith("torchaudio:")} == bundles


def test_a_command_warns_without_its_place_in_the_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what this package says; of others, who says it helps to mend it."""

    def read_and_warn(*arguments: Any) -> Clip:
        warnings.warn("the frames do not sum to 1. Return scores.log_softmax(-1)", stacklevel=1)
        warnings.warn("a net's own", RuntimeWarning, stacklevel=1)
        return read_clip(*arguments)

    soundfile.write("hiss.wav", noise(0.5), 16000)
    monkeypatch.setattr("audioadv.cli.transcribe.read_clip", read_and_warn)
    with pytest.warns(RuntimeWarning, match="a net's own"):
        told = run("transcribe", "hiss.wav").stderr
    assert "Warning: the frames do not sum to 1. Return scores.log_softmax(-1)\n" in told
    assert "test_cli.py" not in told
    assert "a net's own" not in told  # which went Python's way


def test_weights_of_pipelines_are_looked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(folder))
    about = {line["model"]: line["about"] for line in lines(run("models", "--json"))}
    assert about["torchaudio:WAV2VEC2_ASR_BASE_960H"] == "torchaudio downloads its weights on first use"
    weights = folder / "hub/checkpoints/wav2vec2_fairseq_base_ls960_asr_ls960.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    about = {line["model"]: line["about"] for line in lines(run("models", "--json"))}
    assert about["torchaudio:WAV2VEC2_ASR_BASE_960H"] == "its weights are here"
    assert about["torchaudio:WAV2VEC2_ASR_BASE_100H"] == "torchaudio downloads its weights on first use"


@pytest.mark.parametrize("name", ["test.json", "test.manifest", "test.JSONL"])
def test_a_manifest_may_have_other_names(folder: Path, name: str) -> None:
    Path(name).write_text('{"audio_filepath": "hiss.wav"}\n{"audio_filepath": "missing.wav"}\n')
    result = run("transcribe", name, *LINEAR, "--json")
    assert [line["clip"] for line in lines(result)] == ["hiss.wav"]
    assert (result.exit_code, result.stderr.count("Error")) == (2, 1)


@pytest.mark.parametrize("content", ['{\n  "name": "hiss"\n}\n', '["hiss.wav"]\n', "hiss.wav\n"])
def test_other_json_is_told_once(folder: Path, content: str) -> None:
    Path("hiss.json").write_text(content)
    result = run("transcribe", "hiss.json", *LINEAR)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: hiss.json: not JSON Lines. A manifest has one object a line")
    assert result.stderr.count("Error") == 1


def test_what_is_not_a_number_is_no_silence(folder: Path) -> None:
    result = run("transcribe", "hiss.wav", "--model", "module:recognisers:nowhere")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "hiss.wav: nowhere gives NaN for it" in result.stderr
    (line,) = lines(run("transcribe", "hiss.wav", "--model", "module:recognisers:abstaining", "--json"))
    assert (line["transcript"], line["notices"]) == ("", ["no answer: the recogniser abstains"])


# What is wrong, told once, with status 2


@pytest.mark.parametrize("command", [["transcribe"], ["survive", "--target", "go", "--channel", "none"]], ids=lambda command: command[0])
def test_what_a_net_raises_at_its_work_is_told_and_stops_no_other_clip(folder: Path, command: list[str]) -> None:
    soundfile.write("long.wav", noise(0.9), 16000)
    result = run(*command, "long.wav", "hiss.wav", "--model", "module:recognisers:not_for_long", "--device", "cpu", "--json")
    assert result.exit_code == 2
    assert [line["clip"] for line in lines(result)] == ["hiss.wav"]
    assert re.search(r"Error: long.wav: your own code raised RuntimeError at line \d+ of \S+recognisers.py \(", result.stderr)


@pytest.mark.parametrize("command", ["craft", "bench"])
def test_what_a_net_raises_in_an_attack_is_told(folder: Path, command: str) -> None:
    soundfile.write("long.wav", noise(0.9), 16000)
    Path("list.jsonl").write_text('{"audio_filepath": "long.wav", "target": "go"}')
    result = run(command, "list.jsonl", "--steps", "5", "--model", "module:recognisers:not_for_long", "--device", "cpu", "--out", "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "your own code raised RuntimeError at line" in result.stderr


@pytest.mark.parametrize("command", ["craft", "bench"])
def test_a_clip_that_a_net_raises_at_is_named_and_stops_no_other(folder: Path, command: str) -> None:
    soundfile.write("long.wav", noise(0.9), 16000)
    entries = [{"audio_filepath": name, "target": "go"} for name in ("long.wav", "hiss.wav")]
    Path("list.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    options = ["--steps", "40", "--model", "module:recognisers:not_for_long", "--device", "cpu", "--out", "run", "--json"]
    result = run(command, "list.jsonl", *options)
    assert [line["clip"] for line in lines(result)] == ["hiss.wav"]
    assert result.exit_code == 2
    assert re.search(r"long.wav: your own code raised RuntimeError at line \d+ of \S+recognisers.py \(", result.stderr)


def test_craft_and_bench_write_the_same_keys(folder: Path) -> None:
    Path("list.jsonl").write_text('{"audio_filepath": "hiss.wav", "text": "hiss", "target": "go"}\n')
    for more in (["--bound", "snr:min"], ["--channel", "noise:30", "--judge", "2", "--bound", "linf:0.5"]):
        options = [*LINEAR, "--steps", "20", "--device", "cpu", *more]
        run("craft", "list.jsonl", *options, "--out", f"crafted{len(more)}", "--no-picture")
        run("bench", "list.jsonl", *options, "--out", f"run{len(more)}")
        one, other = (json.loads(Path(f"{out}{len(more)}", "results.jsonl").read_text()) for out in ("crafted", "run"))
        assert [*one] == [*other]
        assert one["minimal"] is other["minimal"] is (len(more) == 2)
        assert ("rate_asked" in one) is (len(more) > 2)
        assert {key for key in one if one[key] != other[key]} <= {"name", "audio_filepath", "out", "seconds"}


@pytest.mark.parametrize("command", [["transcribe"], ["craft", "--target", "go", "--steps", "5"]], ids=lambda command: command[0])
def test_a_net_that_ends_the_process_has_done_nothing(folder: Path, command: list[str]) -> None:
    soundfile.write("long.wav", noise(0.9), 16000)
    result = run(*command, "long.wav", "--model", "module:recognisers:leaving", "--device", "cpu")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "your own code raised SystemExit at line" in result.stderr


def test_names_that_the_output_cannot_hold_cost_no_result(folder: Path) -> None:
    """Nor does a box's frame: rich draws what the encoding has."""
    soundfile.write("日本.wav", noise(0.5), 16000)
    options = ["craft", "日本.wav", "--target", "go", "--steps", "5", "--no-picture", *LINEAR]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-m", "audioadv", *options], env=environment, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert b"\\u65e5\\u672c" in done.stdout


def test_what_audioadv_itself_raises_is_no_fault_of_a_users_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioadv.cli.transcribe.read_clip", partial(read_clip, longest_seconds="long"))
    with pytest.raises(TypeError):
        run("transcribe", "hiss.wav", *LINEAR)


@pytest.mark.parametrize(
    "command",
    [
        ["transcribe", "hiss.wav"],
        ["compare", "hiss.wav", "hiss.wav"],
        ["craft", "hiss.wav", "--target", "go", "--steps", "5", "--no-picture"],
        ["survive", "hiss.wav", "--target", "go", "--channel", "none"],
        ["bench", "list.jsonl", "--out", "run", "--steps", "5"],
        ["check", "module:recognisers:printing", "--clip", "hiss.wav", "--target", "go", "--steps", "5"],
    ],
    ids=lambda command: command[0],
)
def test_what_a_model_prints_is_no_result(folder: Path, command: list[str]) -> None:
    Path("list.jsonl").write_text('{"audio_filepath": "hiss.wav", "target": "go"}')
    model = [] if command[0] == "check" else ["--model", "module:recognisers:printing"]
    result = run(*command, *model, "--device", "cpu", "--json")
    assert result.exit_code in (0, 1)
    assert all(lines(result))
    assert {"loading", "listening"} <= set(result.stderr.splitlines())


@pytest.mark.parametrize("png", ["x.foo", "x", "nowhere/x.png", ".", ".png", "n" * 300 + ".png"])
def test_a_picture_that_cannot_be_is_told_before_any_work(folder: Path, png: str) -> None:
    result = run("compare", "missing.wav", "missing.wav", "--png", png)  # the clips are not even looked at
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--png {png}" in result.stderr
    assert files(folder) == {"hiss.wav"}


def bad_sounds() -> dict[str, str]:
    """Write every kind of bad sound into the current folder: name and what its message says."""
    soundfile.write("whole.wav", noise(1), 16000)
    whole = Path("whole.wav").read_bytes()
    Path("empty.wav").write_bytes(b"")
    Path("cut.wav").write_bytes(whole[: len(whole) // 2])
    Path("prose.wav").write_text("not a sound at all, but a sentence" * 10)
    soundfile.write("none.wav", np.zeros(0), 16000)
    soundfile.write("nan.wav", np.full(1600, np.nan), 16000, subtype="FLOAT")
    soundfile.write("long.flac", np.zeros(600 * 8000), 8000)
    return {
        "missing.wav": "no such file",
        "empty.wav": "an empty file",
        "cut.wav": "truncated",
        "prose.wav": "not audio",
        "none.wav": "zero samples",
        "nan.wav": "NaN",
        "long.flac": "600.0 s long",
        ".": "a folder",
    }


@pytest.mark.parametrize("command", [["craft", "--target", "go", *QUICK], ["transcribe", *LINEAR, "--json"]], ids=["craft", "transcribe"])
def test_bad_sounds_are_told_and_the_others_done(folder: Path, command: list[str]) -> None:
    bad = bad_sounds()
    names = [*bad, "hiss.wav"]
    result = run(*command, *names)
    assert result.exit_code == 2
    assert [line["clip"] for line in lines(result)] == ["hiss.wav"]
    told = result.stderr.splitlines()
    assert len(told) == len(bad)
    for message, (name, reason) in zip(told, bad.items(), strict=True):
        assert message.startswith(f"Error: {name}: ")
        assert reason in message


@pytest.mark.parametrize(
    ("channel", "reason"),
    [("room:long", "a room response of 1.00 s, but the clip lasts 0.50 s"), ("noise:20@hum.wav", "hum.wav: 0.12 s of noise")],
)
def test_a_clip_that_the_channel_does_not_fit_stops_no_other(folder: Path, channel: str, reason: str) -> None:
    rooms = {"sample_rate": 16000, "rooms": [{"name": role, "role": role, "rt60_seconds": 1} for role in ("craft", "check", "judge")]}
    for role in ("craft", "check", "judge"):
        Path("long", role).mkdir(parents=True)
        late = 0.1 * np.eye(1, 16000, ord(role[1]))[0]  # another room's
        soundfile.write(f"long/{role}/{role}.flac", np.linspace(0.5, 0.1, 16000) * np.eye(1, 16000)[0] + 0.01 + late, 16000)
    Path("long/rooms.json").write_text(json.dumps(rooms))
    soundfile.write("hum.wav", noise(0.25), 16000)
    fits = "short.wav" if channel.startswith("noise") else "lasting.wav"
    soundfile.write(fits, noise(0.1 if fits == "short.wav" else 1.5), 16000)
    options = ["--channel", channel, "--draws", "1", "--judge", "2", *QUICK, "--steps", "1"]
    result = run("craft", "hiss.wav", fits, "--target", "go", *options)
    assert result.exit_code == 2
    assert [line["clip"] for line in lines(result)] == [fits]
    assert result.stderr.startswith(f"Error: hiss.wav: {reason}")
    alone = run("craft", "hiss.wav", "--target", "go", *options, "--out", "alone")
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert not Path("alone").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_clip_that_may_not_be_read_stops_no_other(folder: Path) -> None:
    soundfile.write("secret.wav", noise(0.5), 16000)
    Path("secret.wav").chmod(0)
    result = run("transcribe", "secret.wav", "hiss.wav", *LINEAR, "--json")
    assert result.exit_code == 2
    assert [line["clip"] for line in lines(result)] == ["hiss.wav"]
    assert "secret.wav: cannot be opened" in result.stderr


def test_clips_whose_names_are_no_text(folder: Path) -> None:
    """A page about them too, with links that lead to their files."""
    name = os.fsdecode(b"caf\xe9.wav")
    Path(name).write_bytes(Path("hiss.wav").read_bytes())
    assert run("craft", name, "--target", "go", *QUICK).exit_code == 0
    assert "caf%E9.wav" in Path("adversarial/index.html").read_text()
    assert files(folder / "adversarial") == {
        name,
        name.replace(".wav", ".clean.wav"),
        name.replace(".wav", ".json"),
        "results.jsonl",
        "index.html",
    }


def test_results_that_are_none_are_told_at_the_end(folder: Path) -> None:
    Path("adversarial").mkdir()
    for content, message in (
        ('{"name": "x"', "line 1: not a result"),
        ('{"name": "x"}\n', "line 1 (x): nothing of"),
        ("[" * 100000 + "\n", "line 1: not a result"),
    ):
        Path("adversarial/results.jsonl").write_text(content)
        result = run("craft", "hiss.wav", "--target", "go", *QUICK)
        assert result.exit_code == 2
        assert message in result.stderr
        assert [line["reached"] for line in lines(result)] == [True], "what was made is kept"
        assert "Listen and look" not in run("craft", "hiss.wav", "--target", "go", *[o for o in QUICK if o != "--json"]).stdout, "no page"


def test_a_run_of_bench_takes_no_results_of_craft(folder: Path) -> None:
    Path("run").mkdir()
    Path("run/run.json").write_text("{}")
    result = run("craft", "hiss.wav", "--target", "go", *QUICK, "--out", "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--out run: holds a run of audioadv bench" in result.stderr
    assert files(folder / "run") == {"run.json"}


def test_a_clip_called_run_does_not_make_its_folder_a_run_of_bench(folder: Path) -> None:
    Path("run.wav").write_bytes(Path("hiss.wav").read_bytes())
    for _ in range(2):
        assert run("craft", "run.wav", "--target", "go", *QUICK).exit_code == 0
    assert {name for name in files(folder / "adversarial") if name.endswith(".json")} == {"run-2.json"}


def test_only_bad_sounds_leave_nothing(folder: Path) -> None:
    assert run("craft", "missing.wav", "--target", "go", *QUICK).exit_code == 2
    assert files(folder) == {"hiss.wav"}


def test_odd_sounds_are_done(folder: Path) -> None:
    """Telephone, studio, surround: resampled and mixed down. One sample: too short for a word, and said so."""
    soundfile.write("phone.wav", noise(0.5, 8000), 8000)
    soundfile.write("studio.wav", noise(0.5, 96000), 96000, subtype="PCM_24")
    soundfile.write("surround.wav", noise(0.5, 16000, 6), 16000)
    soundfile.write("click.wav", np.array([0.5]), 16000)
    result = run("craft", "phone.wav", "studio.wav", "surround.wav", "click.wav", "--target", "go", *QUICK, "--bound", "linf:0.3")
    assert [line["outcome"] for line in lines(result)] == ["reached", "reached", "reached", "infeasible"]
    assert [len(line["notices"]) for line in lines(result)] == [1, 1, 1, 0]
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", ""], "nothing to be heard as"),
        (["--target", "   "], "nothing to be heard as"),
        (["--target", "route 66"], "does not write '6'"),
        (["--target", "naïve"], "does not write 'ï'"),
        ([], "Give --target TEXT"),
        (["--target", "go", "--silence"], "three different goals"),
        (["--target", "go", "--target", "stop", "--target", "wait"], "3 texts for 1 clips"),
        (["--not-as", ""], "nothing to mishear"),
        (["--target", "go", "--model", "huge-mel"], "huge-mel"),
        (["--target", "go", "--model", "module:nothing:here"], "module:nothing:here"),
        (["--target", "go", "--model", "module:recognisers:no_recogniser"], "returned a int"),
        (["--target", "go", "--bound", "linf"], "bound 'linf'"),
        (["--target", "go", "--bound", "linf:loud"], "'loud' cannot be read"),
        (["--target", "go", "--bound", "linf:-0.1"], "at least 0"),
        (["--target", "go", "--bound", "linf:nan"], "must be a number"),
        (["--target", "go", "--attack", "magic"], "magic"),
        (["--target", "go", "--bound", "spatial:30,3"], "bound spatial:30,3: not for this sound"),
        (["--target", "go", "--bound", "linf:0.1_or_patch:8x8"], "not for this sound"),
        (["--target", "go", "--channel", "loud"], "channel 'loud'"),
        (["--target", "go", "--channel", "crop:0.5"], "crop:0.5 is for images"),
        (["--target", "go", "--channel", "noise:20_then_jpeg:75"], "jpeg:75 is for images"),
        (["--target", "go", "--channel", "room:nowhere"], "no rooms.json"),
        (["--target", "go", "--bound", "feature:0.5:recognisers:no_recogniser"], "returned a int"),
        (["--not-as", "go", "--errors", "nan"], "'--errors': nan is not a finite number"),
        (["--target", "go", "--rate", "nan"], "nan is not a finite number"),
        (["--target", "go", "--lead-in", "nan"], "nan is not a finite number"),
        (["--target", "go", "--lead-in", "1e9"], "--lead-in"),
        (["--target", "go", "--seed", "99999999999999999999"], "--seed"),
        (["--target", "go", "--model", "tiny_mell"], "did you mean 'tiny-mel'?"),
        (["--target", "go", "--model", "torchaudio:WAV2VEC2_ASR_BASE_960"], "did you mean 'torchaudio:WAV2VEC2_ASR_BASE_960H'?"),
        (["--target", "go", "--model", "mnist"], "load_classifier('mnist')"),
        (["--target", "go", "--model", "module:"], "unknown"),
        (["--target", "go", "--model", "module:..:f"], "write module:package.file:function"),
        (["--target", "go", "--model", "module::f"], "write module:package.file:function"),
        (["--target", "go", "--model", "module:json:loads"], "takes no argument"),
        (["--target", "go", "--model", "module:recognisers:raises"], "KeyError at line"),
        (["--target", "go", "--model", "module:recognisers:leaves"], "SystemExit at line"),
        (["--target", "go", "--bound", "feature:0.5:json:loads"], "takes no argument"),
        (["--target", "go", "--bound", "feature:0.5:recognisers:small_layer"], "small_layer: the network does not take inputs of shape"),
        (["--target", "go", "--bound", "feature:0.5:recognisers:linear"], "linear: the network does not take inputs of shape"),
        (["--target", "go", "--attack", "nes", "--bound", "snr:10", "--channel", "noise:20"], "--attack nes: estimates slopes"),
        (["--target", "go", "--model", "module:recognisers:by_scores"], "Use --attack genetic or kenansville or nes"),
        (["--target", "go", "--bound", "snr:-1e6"], "at most 300 up or down"),
        (["--target", "go", "--bound", "masked:1e9"], "at most 300 up or down"),
        (["--target", "go", "--bound", "linf:1e39"], "must be a number"),
        (["--target", "go", "--bound", "timing:-1,0"], "for example timing:160,0.05"),
        (["--target", "go", "--bound", "linf:0.1_and_"], "bound 'linf:0.1_and_': not a bound"),
        (["--target", "go", "--bound", "linf:min", "--attack", "pgd"], "fixed bound"),  # craft_each says so, late
        (["--target", "go", "--channel", "room_then_"], "channel 'room_then_': not a channel"),
        (["--target", "go", "--steps", "0"], "--steps"),
        (["--target", "go", "--batch", "0"], "--batch"),
        (["--target", "go", "--restarts", "0"], "--restarts"),
        (["--target", "go", "--seed", "x"], "--seed"),
        (["--target", "go", "--device", "tpu"], "--device"),
        (["--target", "go", "--lead-in", "59.8"], "hiss.wav: 60.3 s with --lead-in 59.8, but at most 60"),
        (["--target", "go", "--channel", "resample:99999999"], "100 to 192000"),
        (["--target", "go", "--channel", "resample:7999"], "7999 and 16000 Hz have no common measure"),
        (["--target", "go", "--model", "module:recognisers:one_argument"], "TypeError at line"),
        (["--target", "go", "--model", "module:recognisers:few_letters"], "gives 29 columns, but its vocabulary has 2 letters"),
        (["--target", "go", "--model", "module:recognisers:no_blank"], "no_blank': recogniser: vocabulary ('a', 'b')"),
        (["--target", "go", "--model", "module:recognisers:one_at_a_time"], "two noises at once"),
        (["--target", "go", "--model", "module:recognisers:spoiling"], "writes over its inputs, which are not its own"),
        (["--target", "go", "--errors", "1"], "--errors says nothing here"),
        (["--target", "go", "--out", "n" * 300], "longer than names can be"),
        (["--target", "go", "--out", "new/" + "n" * 300], "longer than names can be"),
        (["--target", "go", "--out", "hiss.wav"], "is a file"),
        (["--target", "go", "--out", "hiss.wav/inside"], "is a file"),
        (["--targte", "go"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_do_nothing(folder: Path, options: list[str], message: str) -> None:
    result = run("craft", "hiss.wav", *QUICK, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert files(folder) == {"hiss.wav"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_takes_no_files(folder: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    for out in ("locked", "locked/deeper"):
        result = run("craft", "hiss.wav", "--target", "go", *QUICK, "--out", out)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "locked cannot be written to" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
@pytest.mark.parametrize(
    "command", [["craft", "hiss.wav", "--target", "go"], ["transcribe", "hiss.wav"], ["compare", "hiss.wav", "hiss.wav"], ["models"]]
)
def test_cuda_that_is_not_there(folder: Path, command: list[str]) -> None:
    result = run(*command, "--device", "cuda")
    assert result.exit_code == 2
    assert "finds no CUDA device" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "without a line"),
        ('{"audio_filepath": "hiss.wav"}\n{"audio_', "line 2: not JSON"),
        ('{"text": "hiss"}', "no text under audio_filepath"),
        ('{"audio_filepath": ""}', "audio_filepath '' names no file"),
        ('{"audio_filepath": "a\\u0000b.wav"}', "names no file"),
        ('{"audio_filepath": "hiss.wav"}\n{"audio_filepath": "\\ud800x.wav"}', "line 2: audio_filepath '\\ud800x.wav' names no file"),
        ("[" * 100000, "line 1: not JSON"),
        ("[1]", "no text under audio_filepath"),
        ('{"audio_filepath": "hiss.wav", "target": 7}', "something else than text"),
        ("\udcff\udcfe", "not UTF-8"),
        (
            '{"audio_filepath": "hiss.wav", "offset": 0}\n{"audio_filepath": "hiss.wav", "offset": 0.2, "duration": 0.1}',
            "line 2: offset 0.2 names a part of hiss.wav",
        ),
    ],
)
def test_wrong_manifests(folder: Path, content: str, message: str) -> None:
    Path("list.jsonl").write_bytes(content.encode("utf-8", "surrogateescape"))
    result = run("craft", "list.jsonl", "--target", "go", *QUICK)
    assert result.exit_code == 2
    assert [line["clip"] for line in lines(result)] == (["hiss.wav"] if message.startswith("line 2") else [])
    assert message in result.stderr


@pytest.mark.parametrize("command", ["transcribe", "craft"])
def test_a_manifest_that_cannot_be_read_stops_no_other_file(folder: Path, command: str) -> None:
    Path("empty.JSONL").touch()
    result = run(
        command, "missing.jsonl", "empty.JSONL", "hiss.wav", *(["--target", "go", *QUICK] if command == "craft" else [*LINEAR, "--json"])
    )
    assert result.exit_code == 2
    assert "missing.jsonl: the manifest cannot be read" in result.stderr
    assert "empty.JSONL: a manifest without a line" in result.stderr
    assert [line["clip"] for line in lines(result)] == ["hiss.wav"]


def test_one_text_that_is_none_stops_no_other_clip(folder: Path) -> None:
    for name in "ab":
        soundfile.write(f"{name}.wav", noise(0.5), 16000)
    result = run("craft", "hiss.wav", "a.wav", "b.wav", "--target", "go", "--target", "call 911", "--target", "", *QUICK)
    assert result.exit_code == 2
    assert [line["clip"] for line in lines(result)] == ["hiss.wav"]
    assert "Error: a.wav: text 'call 911': the model does not write '1', '9'" in result.stderr
    assert "Error: b.wav: target ''" in result.stderr


def test_another_sound_takes_no_name_away(folder: Path) -> None:
    """The same sound again replaces its own result."""
    Path("other").mkdir()
    soundfile.write("other/hiss.wav", -noise(0.5), 16000)
    assert lines(run("craft", "hiss.wav", "--target", "go", *QUICK))[0]["out"] == "adversarial/hiss.wav"
    before = Path("adversarial/hiss.wav").read_bytes()
    assert lines(run("craft", "other/hiss.wav", "--target", "go", *QUICK))[0]["out"] == "adversarial/hiss-2.wav"
    assert Path("adversarial/hiss.wav").read_bytes() == before
    again = run("craft", "hiss.wav", "other/hiss.wav", "--target", "no", *QUICK)
    assert [line["out"] for line in lines(again)] == ["adversarial/hiss.wav", "adversarial/hiss-2.wav"]
    assert len(Path("adversarial/results.jsonl").read_text().splitlines()) == 2


def test_a_folder_in_the_place_of_a_file_leaves_nothing_half_written(folder: Path) -> None:
    run("craft", "hiss.wav", "--target", "go", *QUICK)
    Path("adversarial/hiss.json").unlink()
    Path("adversarial/hiss.json").mkdir()
    before = {path.name: path.read_bytes() for path in Path("adversarial").iterdir() if path.is_file()}
    result = run("craft", "hiss.wav", "--target", "no", *QUICK)
    assert result.exit_code == 2
    assert "adversarial/hiss.json: a folder, where a file of this clip belongs" in result.stderr
    assert {path.name: path.read_bytes() for path in Path("adversarial").iterdir() if path.is_file()} == before


@pytest.mark.parametrize("options", [[], ["--bound", "linf:0.0001"]])
def test_files_that_no_result_speaks_of_are_left_alone(folder: Path, options: list[str]) -> None:
    """Whether the goal is reached or missed."""
    Path("adversarial").mkdir()
    own = {name: name.encode() for name in ("hiss.clean.wav", "hiss.png", "hiss.json", "hiss-2.wav")}
    for name, content in own.items():
        Path("adversarial", name).write_bytes(content)
    for _ in range(2):
        run("craft", "hiss.wav", "--target", "open the door", *QUICK, *options)
        assert {name: Path("adversarial", name).read_bytes() for name in own} == own
        assert json.loads(Path("adversarial/hiss-3.json").read_text())["name"] == "hiss-3"
    assert [json.loads(line)["name"] for line in Path("adversarial/results.jsonl").read_text().splitlines()] == ["hiss-3"]


def test_a_folder_in_the_place_of_the_page_is_told_before_any_work(folder: Path) -> None:
    Path("adversarial/index.html").mkdir(parents=True)
    wrong = run("craft", "hiss.wav", "--target", "go", *QUICK)
    assert wrong.exit_code == 2
    assert "adversarial/index.html is a folder, where craft's page belongs" in wrong.stderr
    assert files(folder / "adversarial") == {"index.html"}


def test_what_is_not_there_exceeds_nothing(folder: Path) -> None:
    (line,) = lines(run("craft", "hiss.wav", "--target", "go", *QUICK, "--bound", "linf:0.0001"))
    assert (line["outcome"], line["excess"]) == ("missed", None)


def test_a_page_of_somebody_elses_is_left_alone(folder: Path) -> None:
    Path("index.html").write_text("<h1>My home</h1>")
    result = run("craft", "hiss.wav", "--target", "go", *QUICK, "--out", ".")
    assert result.exit_code == 2
    assert "index.html is there and not of craft's making" in result.stderr
    assert files(folder) == {"hiss.wav", "index.html"}


def test_names_too_long_for_a_suffix_are_cut(folder: Path) -> None:
    name = "a" + "\u00e4" * 125 + ".wav"
    Path("hiss.wav").rename(name)
    result = run("craft", name, name, "--target", "go", *QUICK)
    assert result.exit_code == 0
    assert [line["out"] for line in lines(result)] == [f"adversarial/{name[:123]}.wav", f"adversarial/{name[:122]}-2.wav"]
    assert f"{name[:123]}.clean.wav" in files(folder / "adversarial")


def test_a_folder_behind_a_link_holds_results_of_the_right_files(folder: Path) -> None:
    Path("far/away").mkdir(parents=True)
    Path("here").symlink_to("far/away")
    for _ in range(2):
        assert [line["out"] for line in lines(run("craft", "hiss.wav", "--target", "go", *QUICK, "--out", "here"))] == ["here/hiss.wav"]
    assert run("transcribe", "here/results.jsonl", *LINEAR).exit_code == 0
    assert json.loads(Path("here/hiss.json").read_text())["audio_filepath"] == "../../hiss.wav"


def test_a_name_that_another_call_took_meanwhile_is_left_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other call runs when this one has chosen its names and is at its search."""
    Path("other").mkdir()
    soundfile.write("other/hiss.wav", -noise(0.5), 16000)
    calls = list[Result]()

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr("audioadv.cli.craft.craft_each", craft_each)
        calls.append(run("craft", "other/hiss.wav", "--target", "no", *QUICK))
        return craft_each(*arguments, **options)

    monkeypatch.setattr("audioadv.cli.craft.craft_each", meanwhile)
    mine = lines(run("craft", "hiss.wav", "--target", "go", *QUICK))
    assert [line["out"] for line in (*lines(calls[0]), *mine)] == ["adversarial/hiss.wav", "adversarial/hiss-2.wav"]
    records = [json.loads(line) for line in Path("adversarial/results.jsonl").read_text().splitlines()]
    assert [(record["name"], record["target"]) for record in records] == [("hiss", "no"), ("hiss-2", "go")]


def test_ctrl_c_tells_what_is_left_though_a_line_was_bad(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("list.jsonl").write_text('{"audio_\n' + '{"audio_filepath": "hiss.wav"}\n' * 2)

    def first_only(*arguments: Any, **options: Any) -> Iterator[Any]:
        yield next(craft_each(*arguments, **options))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("audioadv.cli.craft.craft_each", first_only)
    result = run("craft", "list.jsonl", "--target", "go", *QUICK, "--batch", "1")
    assert result.exit_code == 130
    assert "Stopped: 1 of 2 clips are done" in result.stderr


@pytest.mark.parametrize("channel", [[], ["--channel", "gain:-1..1", "--draws", "1", "--judge", "2"]])
def test_a_search_that_ctrl_c_cut_short_is_no_finished_one(folder: Path, monkeypatch: pytest.MonkeyPatch, channel: list[str]) -> None:
    def pressed(*arguments: Any, **options: Any) -> Iterator[Any]:
        def tell(where: Progress) -> None:
            if where.step == 30:
                signal.raise_signal(signal.SIGINT)

        return craft_each(*arguments, **options | {"progress": tell})

    call = ["craft", "hiss.wav", "--target", "go", *LINEAR, "--no-picture", "--steps", "40", *channel]
    whole = run(*call)
    assert (whole.exit_code, "Stopped" in whole.output) == (0, False)
    monkeypatch.setattr("audioadv.cli.craft.craft_each", pressed)
    result = run(*call)
    assert result.exit_code == 130
    assert "Stopped: 1 of 1 clips are done and kept in adversarial, 1 of them before the last step" in result.stderr
    assert re.search(r"hiss.wav: .*Stopped after 30 of 40 steps: there may be a smaller change", result.stdout)
    assert json.loads(Path("adversarial/hiss.json").read_text())["reached"]


def test_what_a_killed_call_left_is_swept_away(folder: Path) -> None:
    Path("adversarial/.audioadv-x").mkdir(parents=True)
    Path("adversarial/.audioadv-x/hiss.wav").touch()
    Path("adversarial", f".{'0' * 32}.part").touch()
    run("craft", "hiss.wav", "--target", "go", *QUICK)
    assert files(folder / "adversarial") == {"hiss.wav", "hiss.clean.wav", "hiss.json", "results.jsonl", "index.html"}


@pytest.mark.parametrize(
    "command", [["craft", "hiss.wav", "--target", "go", "--out", ""], ["rooms", ""], ["bench", "list.jsonl", "--out", ""]]
)
def test_an_empty_name_is_no_folder(folder: Path, command: list[str]) -> None:
    result = run(*command)
    assert result.exit_code == 2
    assert "an empty name" in result.stderr
    assert files(folder) == {"hiss.wav"}


def test_options_of_a_channel_say_nothing_without_one(folder: Path) -> None:
    result = run("craft", "hiss.wav", "--target", "go", "--draws", "3", *QUICK)
    assert result.exit_code == 2
    assert "--draws says nothing here" in result.stderr


def test_weights_that_cannot_be_fetched_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(folder / "cache"))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # where nobody listens
    result = run("transcribe", "hiss.wav", "--model", "torchaudio:WAV2VEC2_ASR_BASE_960H", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "model 'torchaudio:WAV2VEC2_ASR_BASE_960H': its weights cannot be fetched" in result.stderr


def test_manifest_entries_without_a_target(folder: Path) -> None:
    Path("list.jsonl").write_text('{"audio_filepath": "hiss.wav", "target": "go"}')
    result = run("craft", "list.jsonl", "hiss.wav", *QUICK)
    assert result.exit_code == 2
    assert [line["out"] for line in lines(result)] == ["adversarial/hiss.wav"]
    assert "Error: hiss.wav: no target" in result.stderr


def test_clips_that_cannot_be_compared(folder: Path) -> None:
    soundfile.write("longer.wav", noise(0.6), 16000)
    soundfile.write("phone.wav", noise(1.0, 8000), 8000)
    for other in ("longer.wav", "phone.wav"):
        result = run("compare", "hiss.wav", other, "--png", "pair.png")
        assert result.exit_code == 2
        assert "craft writes as NAME.clean.wav" in result.stderr
    assert run("compare", "hiss.wav", "missing.wav").exit_code == 2
    assert "cannot be written" in run("compare", "hiss.wav", "hiss.wav", "--png", "no/such/pair.png").stderr
    assert files(folder) == {"hiss.wav", "longer.wav", "phone.wav"}


# Full disks, Ctrl-C and kills: real processes


def start(folder: Path, *arguments: str, limit: str = "") -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from audioadv.cli import main; main()", *arguments]
    if limit:
        command = ["bash", "-c", f'{limit}; exec "$@"', "bash", *command]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("closed", ["exec >&-", "exec > >(exec true)"])
def test_a_success_that_nobody_reads_is_a_success(folder: Path, closed: str) -> None:
    for command in (
        ["craft", "hiss.wav", "--target", "go", *QUICK[:-1]],
        ["craft", "hiss.wav", "--target", "go", *QUICK],
        ["transcribe", "hiss.wav", *LINEAR],
    ):
        process = start(folder, *command, limit=f"{closed}; sleep 0.2")
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize("lost", ["2> >(exec true); sleep 0.2", "2>/dev/full", "2>&-"])
def test_an_error_that_nobody_reads_stops_no_other_clip(folder: Path, lost: str) -> None:
    process = start(folder, "transcribe", "missing.wav", "hiss.wav", *LINEAR, limit=f"exec {lost}")
    heard, _ = process.communicate(timeout=120)
    assert (process.returncode, heard[:10]) == (2, "hiss.wav: ")
    process = start(folder, "transcribe", "--nonsense", limit=f"exec {lost}")
    process.communicate(timeout=120)
    assert process.returncode == 2


@pytest.mark.parametrize("moved", range(1, 5))
def test_a_kill_between_the_renames_of_one_clip_is_mended_by_the_next_call(folder: Path, moved: int) -> None:
    """Until then no result speaks of the files; and the clip keeps its NAME."""
    again = ["craft", "hiss.wav", "--target", "go", *QUICK, "--bound", "linf:0.2"]
    assert run("craft", "hiss.wav", "--target", "Open the door", *QUICK).exit_code == 0
    assert run("craft", "hiss.wav", "--target", "go", *QUICK, "--out", "first").exit_code == 0
    killed = (
        "import os, signal; from audioadv.cli import main, outputs; replace, moves = os.replace, []\n"
        "def kill(here, there):\n"
        "    if str(here).startswith('adversarial/.audioadv-') and not str(here).endswith('.part'):\n"
        "        moves.append(there)\n"
        f"        if len(moves) == {moved} + 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    replace(here, there)\n"
        "os.replace = kill\n"
        "main()"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, "-c", killed, *again], cwd=folder, env=environment, check=False).returncode == -signal.SIGKILL
    out = folder / "adversarial"
    assert (out / "results.jsonl").read_text() == ""
    soundfile.write("other.wav", noise(0.5), 16000)
    assert run("craft", "other.wav", "--target", "go", *QUICK).exit_code == 0
    records = {name: json.loads((out / f"{name}.json").read_text()) for name in ("hiss", "other")}
    assert [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()] == [*records.values()]
    assert (records["hiss"]["target"], records["hiss"]["bound_asked"]) == ("go", "linf:0.2")
    assert (out / "hiss.wav").read_bytes() != (folder / "first" / "hiss.wav").read_bytes()
    assert run(*again).exit_code == 0
    assert files(out) == {f"{name}{end}" for name in records for end in (".wav", ".clean.wav", ".json")} | {"results.jsonl", "index.html"}


def test_a_file_that_cannot_take_its_place_is_named_and_the_next_call_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the earlier result nor the other clips' are lost to it."""
    soundfile.write("other.wav", noise(0.5), 16000)
    assert run("craft", "hiss.wav", "--target", "Open the door", *QUICK).exit_code == 0
    replace = os.replace

    def stuck(here: Path, there: Path) -> None:
        if str(there) == "adversarial/hiss.clean.wav":
            raise PermissionError(1, "Operation not permitted", str(here), None, str(there))
        replace(here, there)

    again = ["craft", "hiss.wav", "other.wav", "--target", "go", *QUICK]
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", stuck)
        wrong = run(*again)
        assert wrong.exit_code == 2
        assert [line["clip"] for line in lines(wrong)] == ["other.wav"]
        assert (
            "adversarial/hiss.clean.wav: cannot be replaced (Operation not permitted). See to it that this may be written" in wrong.stderr
        )
        assert "Make room" not in wrong.stderr
        assert run(*again).exit_code == 2, "before any work"
    assert [json.loads(line)["name"] for line in Path("adversarial/results.jsonl").read_text().splitlines()] == ["other"]
    assert run("craft", "other.wav", "--target", "no", *QUICK).exit_code == 0
    kept = {json.loads(line)["name"]: json.loads(line)["target"] for line in Path("adversarial/results.jsonl").read_text().splitlines()}
    assert kept == {"hiss": "go", "other": "no"}
    assert not [*Path("adversarial").glob(".*")]


@pytest.mark.parametrize("command", ["craft", "bench", "rooms"])
def test_a_folder_that_cannot_be_made_is_told_before_any_work(folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under /proc, where root may do all and the kernel does nothing of it."""

    def refused(self: Path, *arguments: Any, **options: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", str(self))

    def work(*arguments: Any, **options: Any) -> None:
        raise AssertionError("work was begun")

    Path("list.jsonl").write_text('{"audio_filepath": "hiss.wav", "target": "go"}\n')
    monkeypatch.setattr("pathlib.Path.mkdir", refused)
    begun = {"craft": "attacks.craft.in_batches", "bench": "evaluation.run.bench.craft_each", "rooms": "cli.rooms.simulate_rooms"}
    monkeypatch.setattr(f"audioadv.{begun[command]}", work)
    given = ["rooms", "new"] if command == "rooms" else [command, "list.jsonl", *LINEAR, "--device", "cpu", "--out", "new"]
    result = run(*given)
    assert result.exit_code == 2
    assert f"Error: {'' if command == 'rooms' else '--out '}new: cannot be made (No such file or directory)" in result.stderr


def test_an_earlier_result_is_known_however_it_is_written(folder: Path) -> None:
    assert run("craft", "hiss.wav", "--target", "go", *QUICK).exit_code == 0
    results = folder / "adversarial" / "results.jsonl"
    record = json.loads(results.read_text())
    compact = json.dumps(dict(reversed(record.items())), separators=(",", ":"))
    results.write_text(compact + '\n{"name": "another"}\nno result\n')
    run("craft", "hiss.wav", "--target", "go", *QUICK)
    kept = results.read_text().splitlines()
    assert kept[:2] == ['{"name": "another"}', "no result"]
    assert [json.loads(line)["name"] for line in kept[2:]] == ["hiss"]


def test_a_picture_that_does_not_fit_costs_no_sound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: Any, **__: Any) -> None:
        raise UnwritableOutput(f"{path}: cannot be written (No space left on device)")

    monkeypatch.setattr("audioadv.cli.outputs.draw_pair", full)
    result = run("craft", "hiss.wav", "--target", "go", *[option for option in QUICK if option != "--no-picture"])
    (line,) = lines(result)
    assert result.exit_code == 0
    assert line["notices"] == ["no picture: adversarial/hiss.png: cannot be written (No space left on device)"]
    assert files(folder / "adversarial") == {"hiss.wav", "hiss.clean.wav", "hiss.json", "results.jsonl", "index.html"}


def test_a_craft_that_cannot_write_leaves_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise UnwritableOutput("the disk is full")

    monkeypatch.setattr("audioadv.cli.outputs.write_result", full)
    assert run("craft", "hiss.wav", "--target", "go", *QUICK, "--out", "new/deep").exit_code == 2
    assert files(folder) == {"hiss.wav"}


def test_a_signal_may_be_told_of_while_something_else_is(folder: Path) -> None:
    telling = (
        "import signal, sys; from audioadv.cli.streams import settle_streams; settle_streams()\n"
        "signal.signal(signal.SIGALRM, lambda number, frame: print('heard', file=sys.stderr, flush=True))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)\n"
        "for _ in range(20000): print('at work', file=sys.stderr, flush=True)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", telling], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count(b"at work") == 20000
    assert b"heard" in done.stderr


def long_call(folder: Path) -> "subprocess.Popen[str]":
    """A craft of forty clips, one a batch, as soon as its first results are there."""
    process = start(folder, "craft", *["hiss.wav"] * 40, "--target", "go", "--batch", "1", *QUICK, "--model", "module:recognisers:slow")
    results = folder / "adversarial" / "results.jsonl"
    until = time.monotonic() + 120
    while not (results.exists() and len(results.read_text().splitlines()) >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def whole_results(folder: Path) -> int:
    """How many results there are, each whole and with its files."""
    records = [json.loads(line) for line in (folder / "adversarial" / "results.jsonl").read_text().splitlines()]
    for record in records:
        assert read_clip(folder / record["out"]).seconds == 0.5
        assert json.loads((folder / "adversarial" / f"{record['name']}.json").read_text()) == record
    return len(records)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(folder: Path) -> None:
    process = long_call(folder)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    done = whole_results(folder)
    assert process.returncode == 130
    assert f"Stopped: {done} of 40 clips are done and kept in adversarial" in stderr
    assert "Traceback" not in stderr
    assert len(stdout.splitlines()) == done
    assert len(files(folder / "adversarial")) == 3 * done + 2, "three files a clip, the results, the page, nothing half written"


@pytest.mark.slow
def test_ctrl_c_keeps_what_a_long_search_has_found(folder: Path) -> None:
    """Two clips of one batch, of which one cannot get there within the bound: the other has been found long before."""
    soundfile.write("loud.wav", 0.9 * np.sign(noise(0.5)), 16000)
    bound = ["--bound", "linf:0.1"]
    process = start(
        folder,
        "craft",
        "hiss.wav",
        "loud.wav",
        "--target",
        "go",
        *QUICK,
        *bound,
        "--steps",
        "1000000",
        "--model",
        "module:recognisers:telling",
    )
    assert process.stderr is not None
    while "step 60" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopping: what is found so far is kept" in stderr
    assert "Stopped: 1 of 2 clips are done and kept in adversarial" in stderr
    assert [json.loads(line)["clip"] for line in stdout.splitlines()] == ["hiss.wav"]
    assert files(folder / "adversarial") == {"hiss.wav", "hiss.clean.wav", "hiss.json", "results.jsonl", "index.html"}


@pytest.mark.slow
def test_work_goes_on_when_nobody_reads_any_more(folder: Path) -> None:
    process = start(folder, "craft", "hiss.wav", "hiss.wav", "--target", "go", *QUICK)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.wait(timeout=120) == 0
    assert {"hiss.wav", "hiss-2.wav", "index.html"} <= files(folder / "adversarial")


@pytest.mark.slow
def test_a_kill_leaves_whole_lines(folder: Path) -> None:
    process = long_call(folder)
    process.kill()
    process.communicate(timeout=60)
    assert whole_results(folder) >= 2


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(folder: Path) -> None:
    """A limit on the size of files stands in for a full disk: the long clip does not fit, the short one does."""
    soundfile.write("longer.flac", noise(4.0), 16000)
    process = start(folder, "craft", "longer.flac", "hiss.wav", "--target", "go", *QUICK, limit="ulimit -f 64")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "Error: adversarial/longer" in stderr, "not where it was tried"
    assert "cannot be written" in stderr
    assert "Traceback" not in stderr
    assert [json.loads(line)["clip"] for line in stdout.splitlines()] == ["hiss.wav"]
    assert files(folder / "adversarial") == {"hiss.wav", "hiss.clean.wav", "hiss.json", "results.jsonl", "index.html"}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_under_standard_output(folder: Path) -> None:
    process = start(folder, "transcribe", "hiss.wav", *LINEAR, "--json", limit="exec > /dev/full")
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 2
    assert stderr == "Error: standard output cannot be written (No space left on device). Make room, or send it somewhere else\n"


# Help


def test_every_command_has_help_and_the_common_options() -> None:
    assert set(COMMANDS) == {"craft", "transcribe", "compare", "survive", "rooms", "bench", "report", "check", "models"}
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        helped = run(name, "--help")
        assert helped.exit_code == 0
        for option in ("--json", "--device", "--seed"):
            assert option in helped.stdout
        assert command.get_short_help_str(70) in run("--help").stdout
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, f"{name} {option.name} has no help"


def test_the_readme_shows_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in COMMANDS:
        assert f"audioadv {name}" in readme


def test_the_listening_page_names_every_clip_and_leads_to_its_files(tmp_path: Path) -> None:
    """Texts are escaped, links are to files that are there."""
    line = {
        "clean_transcript": "a <b>",
        "target": "x",
        "outcome": "reached",
        "note": "Done.",
        "bound": "snr:30",
        "snr_db": 30.0,
        "forwards": 9,
    }
    lines = [
        line | {"name": "a b#1", "adversarial_transcript": "it's", "reached": True, "out": "a"},
        line | {"name": "gone", "adversarial_transcript": None, "reached": False, "out": None, "outcome": "missed", "snr_db": None},
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "a b#1.png").write_bytes(b"")
    page = write_page(tmp_path).read_text()
    assert "1 of 2 heard as wanted" in page
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<audio") == 2
    assert page.count("<img") == 1
    assert 'src="a%20b%231.wav"' in page


def test_ctrl_c_waits_for_what_must_not_be_broken() -> None:
    done = []

    def work() -> None:
        with unbroken():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)

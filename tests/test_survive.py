"""Survival: the matrix says what is heard, draw by draw, and the command says what the matrix says."""

import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import recognisers
import torch
from test_cli import LINEAR, lines, run
from torch import Tensor

import audioadv as aa
from audioadv.defenses.statement import Statement
from audioadv.evaluation.rates import wilson
from audioadv.evaluation.survival import Subject, Survival, survive, together
from audioadv.models.alphabet import ALPHABET
from audioadv.report.survival import draw_survival
from audioadv.threat.channels import NOTHING, Channel, Key, parse_channel
from audioadv.threat.channels.channel import Play


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one example that was crafted for the file alone."""
    folder = tmp_path_factory.mktemp("survive")
    aa.write_wav(folder / "hiss.wav", 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0)), 16000)
    out = ["--steps", "40", "--no-picture", "--device", "cpu", "--out", str(folder / "out")]
    assert run("craft", str(folder / "hiss.wav"), "--target", "go", "--bound", "snr:min", *LINEAR, *out).exit_code == 0
    return folder / "out"


def test_a_folder_is_also_named_by_its_results(made: Path) -> None:
    options = ["--channel", "none", *LINEAR, "--device", "cpu", "--json"]
    assert lines(run("survive", str(made / "results.jsonl"), *options)) == lines(run("survive", str(made), *options))


def test_results_are_named_line_by_line(made: Path, tmp_path: Path) -> None:
    line = json.loads((made / "results.jsonl").read_text())
    for name in ("hiss", "again", "third"):
        for end in (".wav", ".json"):
            shutil.copy(made / f"hiss{end}", tmp_path / f"{name}{end}")
    kept = [{**line, "name": "again"}, {**line, "name": "third", "reached": False}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(some) + "\n" for some in kept))
    options = ["--channel", "none", *LINEAR, "--device", "cpu", "--json"]
    (heard,) = lines(run("survive", str(tmp_path / "results.jsonl"), *options))
    assert heard["clip"] == str(tmp_path / "again.wav")
    result = run("survive", str(tmp_path / "gone" / "results.jsonl"), *options)
    assert result.exit_code == 2
    assert "results.jsonl: no results to be read (No such file" in result.stderr


def sound(path: Path) -> Tensor:
    return aa.read_clip(path, 16000).samples


def test_figures_are_those_of_what_is_heard() -> None:
    survival = Survival("a", "noise:20", "stop the car", "turn left", ("stop the car", "stop car", "stop the car"), ("turn left",) * 3)
    line = survival.line()
    assert (line["hits"], line["draws"], line["clean_hits"]) == (2, 3, 0)
    assert (line["rate_low"], line["rate_high"]) == pytest.approx(wilson(2, 3), abs=1e-4)
    assert line["wer_to_target"] == pytest.approx(1 / 9, abs=1e-4)
    assert line["clean_wer_to_text"] == 0
    assert line["clean_wer_to_target"] == 1
    both = together([survival, survival], "noise:20")
    assert (both["clips"], both["hits"], both["draws"]) == (2, 4, 6)
    assert both["wer_to_target"] == line["wer_to_target"]
    assert Survival("a", "none", "", None, ("",), None).line()["wer_to_target"] is None


def test_more_noise_is_survived_less_often(made: Path) -> None:
    subject = Subject("hiss", sound(made / "hiss.wav"), "go", clean=sound(made / "hiss.clean.wav"))
    channels = [NOTHING, *(parse_channel(f"noise:{ratio}") for ratio in (60, 30, 10))]
    survivals = list(survive(recognisers.linear(), [subject], channels, draws=40))
    rates = [survival.line()["rate"] for survival in survivals]
    assert rates[0] == 1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2
    assert len(survivals[0].heard) == 1
    assert all(survival.line()["clean_hits"] == 0 for survival in survivals)


def test_where_nothing_is_random_there_is_one_draw(made: Path) -> None:
    channels = [parse_channel(spec) for spec in ("gain:-6", "codec:mulaw@64k", "packets:0", "gain:-6..6", "gain:-6_or_bits:8")]
    subject = Subject("hiss", sound(made / "hiss.wav"), "go")
    assert [len(survival.heard) for survival in survive(recognisers.linear(), [subject], channels, draws=5)] == [1, 1, 1, 5, 5]

    def listen(waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return recognisers.listen(waveforms, lengths)

    listen.net = SimpleNamespace(statement=Statement(random=True))  # type: ignore[attr-defined]
    drawn = survive(aa.Recogniser(listen, 16000, ALPHABET), [subject], [NOTHING, *channels[:1]], draws=5)
    assert [len(survival.heard) for survival in drawn] == [5, 5], "but for a model that answers the same input differently"


def test_a_target_is_heard_however_it_is_written_and_a_spec_is_a_channel(made: Path) -> None:
    samples = sound(made / "hiss.wav")
    for target in ("go", "Go", " go "):
        (survival,) = survive(recognisers.linear(), [Subject("hiss", samples, target)], ["gain:-6_then_gain:6"])
        assert (survival.target, survival.channel, survival.hits) == ("go", "gain:-6_then_gain:6", 1)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (torch.zeros(1, 8000), r"hiss: samples of shape \[1, 8000\], which is no \[time\]"),
        (torch.zeros(0), r"hiss: samples of shape \[0\], which is no"),
        (torch.full((8000,), torch.nan), r"hiss: samples of shape \[8000\], some of them NaN or infinite"),
    ],
)
def test_what_is_no_clip_is_not_put_through_channels(samples: Tensor, said: str) -> None:
    with pytest.raises(aa.errors.UnusableBatch, match=said):
        Subject("hiss", samples, "go")
    with pytest.raises(aa.errors.UnusableBatch, match=said):
        Subject("hiss", torch.zeros(8000), "go", clean=samples)


@pytest.mark.parametrize("seed", [2**63, "a", 1.5])
def test_a_seed_of_survival_is_a_whole_number(seed: object) -> None:
    with pytest.raises(aa.errors.OptionError, match=r"seed .*: give a whole number of at most 63 bits"):
        list(survive(recognisers.linear(), [], [NOTHING], seed=seed))  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["shift:5000", "packets:1", "drop:1", "band:9000..9500"])
def test_what_craft_calls_infeasible_is_not_measured(spec: str, made: Path) -> None:
    channel, samples = parse_channel(spec), sound(made / "hiss.wav")
    why = channel.unfit(len(samples), 16000)
    assert why is not None
    with pytest.raises(aa.errors.UnusableBatch, match=f"^hiss: {re.escape(why)}"):
        list(survive(recognisers.linear(), [Subject("hiss", samples, "go")], [channel]))
    result = run("survive", str(made), "--channel", spec, "--channel", "none", *LINEAR, "--device", "cpu", "--json")
    assert result.exit_code == 2
    assert why in result.stderr
    assert [line["channel"] for line in lines(result)] == ["none"]


def test_what_is_said_can_be_told(made: Path, tmp_path: Path) -> None:
    options = ["--channel", "none", *LINEAR, "--device", "cpu", "--json"]
    (line,) = lines(run("survive", str(made), *options))
    assert (line["text"], line["wer_to_text"]) == (None, None), "craft was not told"
    (line,) = lines(run("survive", str(made), "--text", "Go  on", *options))
    assert (line["text"], line["wer_to_text"]) == ("go on", 0.5)
    aa.write_wav(tmp_path / "b.wav", sound(made / "hiss.wav"), 16000)
    both = ["survive", str(made / "hiss.wav"), str(tmp_path / "b.wav"), "--target", "go", *options]
    assert [line["text"] for line in lines(run(*both, "--text", "go", "--text", "no"))] == ["go", "no"]
    refused = run(*both, *["--text", "go"] * 3)
    assert refused.exit_code == 2
    assert "3 texts for 2 clips" in refused.stderr


def test_a_clip_that_is_named_twice_counts_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    options = ["--channel", "none", *LINEAR, "--device", "cpu"]
    assert len(lines(run("survive", str(made), "hiss.wav", str(made / "hiss.wav"), *options, "--json"))) == 1
    assert re.search(r"none +1/1 ", run("survive", "hiss.wav", "hiss.wav", "--target", "go", *options).stdout)
    twice = run("survive", "hiss.wav", "hiss.wav", "--target", "go", "--target", "no", *options, "--json")
    assert [line["target"] for line in lines(twice)] == ["go", "no"], "for another target it is another case"


def test_a_clean_clip_as_its_own_example_hears_the_same_draws(made: Path) -> None:
    samples = sound(made / "hiss.clean.wav")
    (survival,) = survive(recognisers.linear(), [Subject("x", samples, "go", clean=samples)], [parse_channel("noise:0..30")], draws=20)
    assert survival.heard == survival.clean_heard
    assert len(set(survival.heard)) > 1


def test_what_judges_has_had_no_part_in_the_making(made: Path) -> None:
    """Draws of a channel are told apart by their role: those of slopes and of choices are other than those of the figure."""
    met = dict[str, set[Key]]()

    class Spy(Channel):
        def __str__(self) -> str:
            return "spy"

        def draw(self, keys: Sequence[Key], sample_rate: int = 16000) -> Play:
            for key in keys:
                met.setdefault(str(key.role), set()).add(key)
            return NOTHING.draw(keys, sample_rate)

    clean = aa.read_clip(made / "hiss.clean.wav", 16000)
    list(survive(recognisers.linear(), [Subject("hiss", clean.samples, "go")], [Spy()], draws=20))
    assert {role: len(keys) for role, keys in met.items()} == {"judge": 20}
    afresh = met.pop("judge")
    (found,) = aa.craft(recognisers.linear(), [clean], aa.Transcribe("go"), bound=aa.SNR(0), channel=Spy(), steps=5, judge_draws=20).clips
    looked = {key for key in met["judge"] if key.clip}  # but for those that are drawn beforehand, to see that it can be done
    assert found.hits == found.draws == 20 == len(looked)
    assert len({key for key in met["check"] if key.clip}) == 32
    assert not afresh & looked, "what craft judged by has chosen what it wrote"
    assert {key.clip for key in afresh} == {key.clip for key in looked}


def test_the_command_reads_what_craft_left(made: Path, tmp_path: Path) -> None:
    picture = tmp_path / "matrix.png"
    options = [*LINEAR, "--draws", "10", "--device", "cpu", "--channel", "none", "--channel", "noise:5"]
    result = run("survive", str(made), *options, "--json", "--png", str(picture))
    first, second = lines(result)
    assert result.exit_code == 1, "it does not survive 5 dB"
    assert (first["channel"], first["target"], first["rate"], first["clean_hits"]) == ("none", "go", 1, 0)
    assert (second["channel"], second["draws"]) == ("noise:5", 10)
    assert second["rate"] < 0.9
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert run("survive", str(made / "hiss.wav"), *options, "--json").stdout == result.stdout
    table = run("survive", str(made / "hiss.wav"), *options)
    assert "noise:5" in table.stdout
    assert "1/1" in table.stdout
    assert run("survive", str(made / "hiss.wav"), *LINEAR, "--channel", "none", "--device", "cpu").exit_code == 0
    assert run("survive", str(made / "hiss.wav"), *LINEAR, "--channel", "none", "--device", "cpu", "--target", "stop").exit_code == 1


def test_a_picture_without_word_errors_has_no_legend(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    survival = Survival("a", "room", "not: go", None, ("go", "no"), None)
    draw_survival(tmp_path / "a.png", [together([survival], "room")], [survival.line()])
    assert not recwarn.list


def test_the_picture_is_the_same_twice(tmp_path: Path) -> None:
    survivals = [Survival("a", spec, "go", None, ("go", "no"), None) for spec in ("room", "noise:20")]
    rows = [together(survivals, spec) for spec in ("room", "noise:20")]
    for name in ("a.png", "b.png"):
        draw_survival(tmp_path / name, rows, [survival.line() for survival in survivals])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_what_is_wrong_is_said(made: Path, tmp_path: Path) -> None:
    aa.write_wav(tmp_path / "bare.wav", sound(made / "hiss.wav"), 16000)
    bare = run("survive", str(tmp_path / "bare.wav"), *LINEAR, "--channel", "none")
    assert bare.exit_code == 2
    assert "--target TEXT" in bare.stderr
    assert "missing.wav: no such file" in run("survive", str(tmp_path / "missing.wav"), *LINEAR, "--channel", "none").stderr
    aa.write_wav(tmp_path / "scrap.wav", torch.ones(10) * 0.1, 16000)
    assert (
        "scrap.wav: a room response of"
        in run("survive", str(tmp_path / "scrap.wav"), "--target", "go", *LINEAR, "--channel", "room").stderr
    )
    (tmp_path / "empty").mkdir()
    assert "no adversarial WAV" in run("survive", str(tmp_path / "empty"), *LINEAR).stderr
    assert run("survive", str(made), *LINEAR, "--channel", "rom").exit_code == 2
    (tmp_path / "bare.json").write_text("{")
    assert "not a result of craft" in run("survive", str(tmp_path / "bare.wav"), *LINEAR).stderr
    given = run("survive", str(tmp_path / "bare.wav"), *LINEAR, "--channel", "none", "--target", "go")
    assert (given.exit_code, given.stderr) == (0, ""), "where a target is given, nothing need say it"
    aa.write_wav(tmp_path / "bare.clean.wav", torch.ones(100) * 0.1, 16000)
    (tmp_path / "bare.json").write_text(json.dumps({"target": "go"}))
    assert "its clean clip has 100" in run("survive", str(tmp_path / "bare.wav"), *LINEAR, "--channel", "none").stderr
    with pytest.raises(aa.errors.OptionError, match="draws 0"):
        list(survive(recognisers.linear(), [], [NOTHING], draws=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "route 66"], "does not write '6'"),
        (["--channel", "crop:0.5"], "is for images"),
        (["--channel", "loud"], "channel 'loud'"),
        (["--channel", "codec:mp3@9999k"], "9999"),
        (["--draws", "0"], "--draws"),
        (["--target", ""], "nothing to be heard as"),
        (["--target", "go", "--errors", "1"], "--errors says nothing here"),
        (["--rate", "nan"], "nan is not a finite number"),
        (["--png", "matrix.jpg"], "the picture is a PNG"),
        (["--png", "nowhere/matrix.png"], "--png nowhere/matrix.png: cannot be written there"),
    ],
)
def test_what_cannot_be_survived(made: Path, options: list[str], message: str) -> None:
    result = run("survive", str(made), *options, *LINEAR, "--device", "cpu", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_what_was_made_to_be_misheard_survives_where_it_is(tmp_path: Path) -> None:
    aa.write_wav(tmp_path / "hiss.wav", 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0)), 16000)
    heard = run("transcribe", str(tmp_path / "hiss.wav"), *LINEAR, "--json")
    said, out = lines(heard)[0]["transcript"], str(tmp_path / "out")
    options = ["--bound", "snr:10", "--steps", "20", "--attack", "pgd", "--no-picture", "--device", "cpu", "--out", out, *LINEAR]
    assert run("craft", str(tmp_path / "hiss.wav"), "--not-as", said, "--errors", "1", *options).exit_code == 0
    told = [*LINEAR, "--device", "cpu", "--channel", "none", "--json"]
    (line,) = lines(run("survive", out, "--errors", "1", *told))
    assert (line["target"], line["rate"], line["clean_hits"], line["wer_to_target"]) == (f"not: {said}", 1, 0, None)
    (line,) = lines(run("survive", out, *told))
    assert line["rate"] == 1, "as it was crafted"
    (line,) = lines(run("survive", out, "--errors", "9", *told))
    assert line["rate"] == 0
    assert (line["text"], line["wer_to_text"], line["clean_wer_to_text"]) == (said, 1, 0), "what is said, craft was told"
    record, results = tmp_path / "out/hiss.json", tmp_path / "out/results.jsonl"
    record.write_text(json.dumps({key: value for key, value in json.loads(record.read_text()).items() if key != "text"}))
    (line,) = lines(run("survive", out, *told))
    assert line["wer_to_text"] == 1, "and so does a result that only says what is not to be heard"
    again = lines(run("craft", str(results), *options, "--out", str(tmp_path / "again"), "--json"))
    assert [(line["target"], line["errors_asked"], line["reached"]) for line in again] == [(f"not: {said}", 1, True)]


def test_a_clip_that_is_called_clean_is_no_clean_clip(made: Path, tmp_path: Path) -> None:
    clip = tmp_path / "x.clean.wav"
    clip.write_bytes((made / "hiss.clean.wav").read_bytes())
    options = ["--steps", "40", "--no-picture", "--device", "cpu", "--out", str(tmp_path / "out"), *LINEAR]
    assert run("craft", str(clip), "--target", "go", "--bound", "snr:min", *options).exit_code == 0
    (line,) = lines(run("survive", str(tmp_path / "out"), *LINEAR, "--device", "cpu", "--channel", "none", "--json"))
    assert line["clip"].endswith("x.clean.wav")


def test_one_channel_that_does_not_fit_leaves_the_others(made: Path, tmp_path: Path) -> None:
    aa.write_wav(tmp_path / "ten.wav", torch.zeros(10), 16000)
    channels = [part for spec in ("room", "noise:20", "noise:20.0") for part in ("--channel", spec)]
    options = [*channels, *LINEAR, "--device", "cpu", "--draws", "3"]
    result = run("survive", str(tmp_path / "ten.wav"), str(made), "--target", "go", *options, "--json")
    assert result.exit_code == 2
    assert "ten.wav: a room response of" in result.stderr
    found = [(Path(line["clip"]).name, line["channel"]) for line in lines(result)]
    assert found == [("ten.wav", "noise:20"), ("hiss.wav", "noise:20")], "half a second is too short for a room, too"
    table = run(
        "survive", str(tmp_path / "ten.wav"), str(made / "hiss.wav"), "--target", "go", "--channel", "none", *LINEAR, "--device", "cpu"
    )
    assert table.stdout.rstrip().endswith("0/1"), "one of two has a clean clip"
    alone = run("survive", str(tmp_path / "ten.wav"), "--target", "go", *options, "--png", str(tmp_path / "m.png"))
    assert re.search(r"room +0/0 +- +- ", alone.stdout)
    assert (tmp_path / "m.png").exists()


def test_a_rate_that_is_just_met_is_survival(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.55 * 20 is more than 11 in floating point."""

    def heard(hits: int, model: aa.Recogniser, clips: list[Subject], channels: list[Channel], **options: int) -> Sequence[Survival]:
        return [Survival(clips[0].name, "noise:20", "go", None, ("go",) * hits + ("no",) * (20 - hits), None)]

    for hits, end in ((11, 0), (10, 1)):
        monkeypatch.setattr("audioadv.cli.survive.through", partial(heard, hits))
        assert run("survive", str(made), "--channel", "noise:20", "--rate", "0.55", *LINEAR, "--device", "cpu").exit_code == end


def test_ctrl_c_keeps_the_figures_there_are(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(model: aa.Recogniser, clips: list[Subject], channels: list[Channel], **options: int) -> Sequence[Survival]:
        if channels != [NOTHING]:
            raise KeyboardInterrupt
        return list(survive(model, clips, channels, **options))

    monkeypatch.setattr("audioadv.cli.survive.through", interrupted)
    options = ["--channel", "none", "--channel", "noise:20", *LINEAR, "--device", "cpu", "--png", str(tmp_path / "m.png")]
    result = run("survive", str(made), *options)
    assert result.exit_code == 130
    assert "Stopped: 1 of 2" in result.stderr
    assert re.search(r"none +1/1 ", result.stdout)
    assert (tmp_path / "m.png").exists()


def test_who_it_was_crafted_for_is_told_where_another_hears_it(made: Path, tmp_path: Path) -> None:
    record = json.loads((made / "hiss.json").read_text())
    for file in made.glob("hiss*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    options = [str(tmp_path), "--channel", "none", *LINEAR, "--device", "cpu"]
    assert "crafted for" not in run("survive", *options).stderr
    (tmp_path / "hiss.json").write_text(json.dumps({**record, "model": "tiny-wave"}))
    assert "crafted for tiny-wave, and heard by" in run("survive", *options).stderr


def test_the_longest_name_that_craft_writes_is_read(made: Path, tmp_path: Path) -> None:
    name = "a" * (255 - len(".clean.wav"))
    for end in (".wav", ".clean.wav", ".json"):
        (tmp_path / (name + end)).write_bytes((made / f"hiss{end}").read_bytes())
    assert run("survive", str(tmp_path), "--channel", "none", *LINEAR, "--device", "cpu").exit_code == 0

"""A run is done once, whoever works on it and however often it is killed; and the same as if none of that had happened."""

import fcntl
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile
import torch
from click.testing import Result
from recognisers import linear
from test_cli import LINEAR, ROOT, folder, lines, noise, run  # noqa: F401
from torch import distributed

import audioadv as aa
from audioadv.audio.whole import write_whole
from audioadv.cli.bench import LATER, STARTED, bench
from audioadv.errors import InputError, OptionError, UnwritableOutput
from audioadv.evaluation.run.bench import Bench
from audioadv.evaluation.run.claims import Claims
from audioadv.evaluation.run.ledger import Ledger, read_results
from audioadv.evaluation.run.on_disk import alone_in
from audioadv.evaluation.run.plan import Job, Setting, every_setting, plan
from audioadv.evaluation.run.run_file import check_goes_on, fingerprint_of, state_run
from audioadv.evaluation.run.summary import curve, summarise
from audioadv.models.recogniser import Recogniser
from audioadv.threat.channels import NOTHING

STEPS = ["--steps", "15", "--bound", "snr:min", "--device", "cpu"]
QUICK = [*LINEAR, *STEPS]


def write_manifest(path: Path) -> Path:
    """Eight clips of 0.2 to 0.34 s; every other one has a target."""
    sound = noise(0.34)
    entries = []
    for i in range(8):
        soundfile.write(path.parent / f"{i}.wav", sound[: 3200 + 320 * i], 16000)
        entries.append(
            {"audio_filepath": f"{i}.wav", "duration": 0.2 + 0.02 * i, "text": "It's hiss."} | ({"target": "go"} if i % 2 else {})
        )
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


@pytest.fixture
def manifest(folder: Path) -> Path:  # noqa: F811
    """In the current folder."""
    return write_manifest(folder / "list.jsonl")


def results(run_folder: str | Path, *without: str) -> dict[str, dict[str, Any]]:
    """The lines by name, without what may differ between two runs."""
    found = read_results(Path(run_folder, "results.jsonl"))
    names = [line["name"] for line in found]
    assert len(set(names)) == len(names)
    return {line["name"]: {key: value for key, value in line.items() if key not in {"seconds", "out", *without}} for line in found}


def sounds(run_folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(run_folder)): path.read_bytes() for path in Path(run_folder).rglob("*.wav")}


# The results file


def test_a_line_is_there_once_and_whole(tmp_path: Path) -> None:
    one, other = (Ledger(tmp_path / "results.jsonl") for _ in range(2))
    assert one.append([{"name": "a", "by": 1}, {"name": "b", "by": 1}]) == [{"name": "a", "by": 1}, {"name": "b", "by": 1}]
    assert other.append([{"name": "b", "by": 2}, {"name": "c", "by": 2}]) == [{"name": "c", "by": 2}]
    assert one.refresh() == other.refresh() == {"a": {"name": "a", "by": 1}, "b": {"name": "b", "by": 1}, "c": {"name": "c", "by": 2}}


def test_a_torn_end_is_cut_and_a_strange_line_told(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"name": "a"}\n{"name": "b", "te')
    assert read_results(path) == [{"name": "a"}]
    Ledger(path).append([{"name": "c"}])
    assert path.read_text() == '{"name": "a"}\n{"name": "c"}\n'
    path.write_text('{"name": "a"}\n[1]\n')
    with pytest.raises(InputError, match="line 2: not a result"):
        Ledger(path)


def test_a_full_disk_leaves_the_results_as_they_were(tmp_path: Path) -> None:
    """A limit on the size of files stands in for it."""
    path = tmp_path / "results.jsonl"
    Ledger(path).append([{"name": "a"}])
    if not (child := os.fork()):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            Ledger(path).append([{"name": "b", "text": "x" * 60}, {"name": "c", "text": "y" * 60}])
        except UnwritableOutput:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_text() == '{"name": "a"}\n'


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "results.jsonl")
    with ledger.path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = threading.Thread(target=ledger.append, args=([{"name": "a"}],))
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        assert read_results(ledger.path) == []
    writer.join()
    assert read_results(ledger.path) == [{"name": "a"}]


def test_writers_that_are_killed_leave_whole_lines(tmp_path: Path) -> None:
    """Real processes, real SIGKILL, at any moment; lines long enough to take several pages."""
    path = tmp_path / "results.jsonl"

    def start(writer: int) -> int:
        if not (child := os.fork()):
            ledger, count = Ledger(path), 0
            while True:
                ledger.append([{"name": f"{writer}.{count}.{i}", "text": "x" * 5000} for i in range(3)])
                count += 1
        return child

    draw = random.Random(0)
    for turn in range(6):
        children = [start(2 * turn + i) for i in range(2)]
        time.sleep(0.05 + 0.1 * draw.random())
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    names = [line["name"] for line in read_results(path)]
    assert len(set(names)) == len(names) > 6
    Ledger(path).append([{"name": "last"}])
    assert read_results(path)[-1] == {"name": "last"}


# The queue


def share(store: Any, names: list[str], busy: float = 0.0, world: int = 2, lease: float = 5.0) -> list[list[str]]:
    """What each worker of a queue gets, as threads."""
    got: list[list[str]] = [[] for _ in range(world)]

    def worker(rank: int) -> None:
        claims = Claims(store.clone(), rank, world, lease_seconds=lease)
        with claims.alive():
            for name in claims.units(names):
                got[rank].append(name)
                time.sleep(busy)

    threads = [threading.Thread(target=worker, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


@pytest.fixture
def store() -> Any:
    return distributed.TCPStore("127.0.0.1", 0, None, True)


def test_each_unit_falls_to_one_worker(store: Any) -> None:
    names = [str(i) for i in range(20)]
    got = share(store, names, busy=0.01, world=3)
    assert sorted(name for some in got for name in some) == sorted(names)
    assert all(got)
    assert share(store, names) == [[], []], "all of it is done"


def test_what_a_silent_worker_holds_is_done_by_another(store: Any) -> None:
    silent = Claims(store.clone(), 7, 8)
    held = next(silent.units(["a", "b"]))
    began = time.monotonic()
    got = share(store, ["a", "b"], lease=0.5)
    assert held == "a"
    assert sorted(got[0] + got[1]) == ["a", "b"]
    assert time.monotonic() - began > 0.5, "not before its lease was over"


def test_what_a_dead_worker_held_is_free_when_another_comes_in_its_place(store: Any) -> None:
    next(Claims(store.clone(), 0, 1).units(["a"]))
    assert list(Claims(store.clone(), 0, 1).units(["a"])) == ["a"]


def test_what_is_said_once_is_said_though_the_queue_is_gone(store: Any) -> None:
    class Gone:
        set = staticmethod(lambda *arguments: None)

        def add(self, *arguments: Any) -> int:
            raise distributed.DistError("gone")

    claims = [Claims(store, rank, 2) for rank in range(2)]
    assert [one.first("a") for one in claims for _ in range(2)] == [True, False, False, False]
    assert Claims(Gone()).first("a")


def test_alone_there_is_no_queue_to_wait_for() -> None:
    claims = Claims(distributed.HashStore())
    with claims.alive():
        assert list(claims.units(["a", "b"])) == ["a", "b"]
    assert [claims.first("x"), claims.first("y"), claims.first("x")] == [True, True, False]


# A run


def test_batches_hold_clips_of_like_length_and_kind() -> None:
    some = [Job(f"line {i}", Path(f"{i}.wav"), str(i), "a", target, seconds) for i, (target, seconds) in enumerate(
        [("go", 1.0), (None, 3.0), ("go", 5.0), ("stop", 2.0), (None, 4.0), ("go", 5.0)]
    )]  # fmt: skip
    settings = [Setting("tiny-mel", "shrink", aa.Linf(radius), NOTHING, str(radius)) for radius in (0.1, 0.2)]
    planned = [(batch.setting.folder, [job.name for job in batch.jobs]) for batch in plan(some, settings, 3)]
    assert planned == [(place, names) for place in ("0.1", "0.2") for names in (["2", "5", "3"], ["0"], ["4", "1"])]


def test_no_line_without_its_files(manifest: Path) -> None:
    obstacle = Path("run/module-recognisers-linear_shrink_snr-min/1.wav")
    obstacle.mkdir(parents=True)
    wrong = run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "2", "--batch", "1")
    assert wrong.exit_code == 2
    assert "files cannot be written" in wrong.stderr
    assert not any(name.endswith("/1") for name in results("run"))
    obstacle.rmdir()
    assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "2", "--batch", "1").exit_code == 0
    assert len(results("run")) == 2


def test_a_run_from_end_to_end(manifest: Path) -> None:
    done = run("bench", "list.jsonl", "--out", "run", *QUICK, "--bound", "linf:0.3", "--batch", "3", "--json")
    printed = {line["name"]: line for line in lines(done)}
    assert done.exit_code == 0
    assert printed == {line["name"]: line for line in read_results(Path("run/results.jsonl"))}
    assert len(printed) == 16
    for name, line in printed.items():
        assert (line["model"], line["attack"], line["seed"], line["text"]) == ("module:recognisers:linear", "shrink", 0, "It's hiss.")
        assert line["bound_asked"] in ("snr:min", "linf:0.3")
        assert line["outcome"] == ("reached" if line["target"] == "go" else "needless")
        assert Path(line["out"]) == Path("run", f"{name}.wav")
        assert json.loads(Path("run", f"{name}.json").read_text()) == line
        heard = lines(run("transcribe", line["out"], *LINEAR, "--json"))[0]["transcript"] if line["target"] == "go" else None
        assert heard in ("go", None)
    reached = next(line for line in printed.values() if line["target"] == "go" and line["bound_asked"] == "snr:min")
    pair = [torch.tensor(soundfile.read(reached["out"].replace(".wav", end))[0]) for end in (".wav", ".clean.wav")]
    assert reached["gauge"] == pytest.approx(float((pair[0] - pair[1]).norm()), rel=1e-4)
    assert 20 * np.log10(float(pair[1].norm()) / reached["gauge"]) == pytest.approx(reached["snr_db"], abs=1e-2)

    claim = json.loads(Path("run/run.json").read_text())
    assert [threat["bound"] for threat in claim["threat_models"]] == ["snr:min", "linf:0.3"]
    assert "hear each clip as 'go', and to mishear the clips that have none" in " ".join(claim["threat_models"][0]["claim"].split())
    assert claim["arguments"]["--steps"] == 15

    again = run("bench", "list.jsonl", "--out", "run", *QUICK, "--bound", "linf:0.3", "--batch", "5")
    assert again.exit_code == 0
    assert {line["name"]: line for line in read_results(Path("run/results.jsonl"))} == printed, "nothing is done twice"
    for text in ("snr:min", "linf:0.3", "8/8", "68..100", "WER", "forwards"):
        assert text in again.stdout


def test_only_what_dead_workers_left_is_taken_away(tmp_path: Path) -> None:
    for name in ("alive", "dead"):
        (tmp_path / f".stage-{name}").mkdir()
    bench = Bench(tmp_path, Ledger(tmp_path / "results.jsonl"), {}, lambda name: linear(), lambda error: None)
    with alone_in(tmp_path / ".stage-alive"):
        bench.tidy()
        assert [path.name for path in tmp_path.glob(".stage-*")] == [".stage-alive"]
    bench.tidy()
    assert not [*tmp_path.glob(".stage-*")]


def test_only_parts_of_files_that_nobody_writes_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "setting").mkdir()
    dead = [tmp_path / place / f".{digit * 32}.part" for place, digit in ((".", "1"), ("setting", "2"))]
    for path in (*dead, tmp_path / ".mine.part"):
        path.touch()
    bench = Bench(tmp_path, Ledger(tmp_path / "results.jsonl"), {}, lambda name: linear(), lambda error: None)

    def content(file: BinaryIO) -> None:
        bench.tidy()
        file.write(b"whole")

    write_whole(tmp_path / "alive", content)
    assert {path.name for path in tmp_path.rglob("*")} == {"alive", ".mine.part", "results.jsonl", "setting"}
    assert (tmp_path / "alive").read_bytes() == b"whole"


def test_a_run_behind_a_link_goes_on_with_the_right_files(manifest: Path) -> None:
    Path("far/away").mkdir(parents=True)
    Path("here").symlink_to("far/away")
    for limit in ("1", "2"):
        assert run("bench", "list.jsonl", "--out", "here", *QUICK, "--bound", "snr:20", "--limit", limit).exit_code in (0, 1)
    assert {line["audio_filepath"] for line in results("here").values()} == {"../../0.wav", "../../1.wav"}
    assert json.loads(Path("here/run.json").read_text())["arguments"]["MANIFEST"] == "../../list.jsonl"


def test_clips_with_names_too_long_for_a_suffix_are_done(folder: Path) -> None:  # noqa: F811
    name = "n" * 251 + ".wav"
    Path("hiss.wav").rename(name)
    Path("list.jsonl").write_text(json.dumps({"audio_filepath": name, "target": "go"}))
    assert run("bench", "list.jsonl", "--out", "run", *QUICK).exit_code == 0
    assert [Path(key).name for key in results("run")] == ["n" * 245]


def test_the_command_says_all_that_a_result_depends_on(manifest: Path) -> None:
    command = ("bench", "list.jsonl", "--out", "run", *QUICK)
    for more in ([], ["--batch", "2", "--limit", "3"]):
        run(*command, *more)
        told = json.loads(Path("run/run.json").read_text())["command"]
        assert told.endswith("--seed 0" + "".join(f" {word}" for word in more))


def test_what_has_a_line_is_not_attacked_again(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("bench", "list.jsonl", "--out", "run", *QUICK, "--untargeted", "--batch", "4", "--limit")
    attacked = list[str]()

    def told(model: Recogniser, clips: list[aa.Clip], *arguments: Any, **options: Any) -> Any:
        attacked.extend(clip.name for clip in clips)
        return aa.craft_each(model, clips, *arguments, **options)

    monkeypatch.setattr("audioadv.evaluation.run.bench.craft_each", told)
    assert run(*command, "2").exit_code == 0
    assert sorted(attacked) == ["0.wav", "1.wav"]
    assert run(*command, "3").exit_code == 0
    assert run(*command, "3").exit_code == 0
    assert sorted(attacked) == ["0.wav", "1.wav", "2.wav"]


def test_a_clip_is_the_same_alone_or_among_others_and_more_can_follow(manifest: Path) -> None:
    assert run("bench", "list.jsonl", "--out", "some", *QUICK, "--limit", "3", "--untargeted").exit_code == 0
    assert len(results("some")) == 3
    assert run("bench", "list.jsonl", "--out", "some", *QUICK, "--limit", "5", "--untargeted").exit_code == 0
    some = results("some")
    assert len(some) == 5
    assert {line["target"] for line in some.values()} == {"not: it's hiss"}
    assert run("bench", "some/results.jsonl", "--out", "next", *QUICK, "--limit", "1", "--target", "so").exit_code in (0, 1)
    assert [line["target"] for line in results("next").values()] == ["so"]
    assert run("bench", "some/results.jsonl", "--out", "same", *QUICK, "--limit", "1").exit_code == 0
    assert [line["target"] for line in results("same").values()] == ["not: it's hiss"]


def test_fewer_clips_than_before_take_back_no_claim(manifest: Path) -> None:
    told = []
    for limit in ("4", "1"):  # the first has no target, the second has
        assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", limit).exit_code == 0
        told.append(json.loads(Path("run/run.json").read_text()))
    assert [stated["jobs"] for stated in told] == [4, 4]
    assert told[0]["threat_models"] == told[1]["threat_models"]
    assert "as 'go', and to mishear" in told[1]["threat_models"][0]["claim"]


def test_other_arguments_are_told_apart(manifest: Path) -> None:
    first = ["bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "2"]
    assert run(*first).exit_code == 0

    def kept() -> list[bytes]:
        return [Path("run", name).read_bytes() for name in ("results.jsonl", "run.json")]

    before = kept()
    wrong = run(*first, "--steps", "16", "--bound", "snr:20", "--target", "stop")
    assert wrong.exit_code == 2
    for text in ("--steps: was 15, now 16", "--bound: was snr:min, now snr:min, snr:20", "--target: was not given, now stop"):
        assert text in wrong.stderr
    assert "--seed" not in wrong.stderr
    entries = manifest.read_text().splitlines()
    manifest.write_text("\n".join([entries[0], entries[1].replace('"go"', '"stop"'), *entries[2:]]))
    wrong = run(*first)
    assert wrong.exit_code == 2
    assert "list.jsonl, line 2: target was 'go', now 'stop'" in wrong.stderr
    assert kept() == before, "a start that is refused claims nothing"
    manifest.write_text("\n".join(entries[1:]))
    assert "0: no longer in the manifest" in run(*first).stderr
    assert kept() == before
    assert run("craft", "0.wav", "--target", "go", *LINEAR, "--steps", "5", "--out", "crafted").exit_code in (0, 1)
    assert "holds results, but of no run" in run("bench", "list.jsonl", "--out", "crafted", *QUICK).stderr


def test_every_option_decides_the_results_or_may_differ(manifest: Path) -> None:
    """One that is forgotten would let a run go on with another value."""
    named = {option.name: option for option in bench.params}
    assert {*named} >= STARTED | LATER.keys()
    run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1")
    arguments = json.loads(Path("run/run.json").read_text())["arguments"]
    stated = {name: value for name, value in arguments.items() if not name.startswith("weights")}
    assert set(stated) == {
        "MANIFEST" if option.opts == ["manifest"] else option.opts[-1] for name, option in named.items() if name not in STARTED
    }
    assert [name for name, value in stated.items() if value is None] == ["--target", "--silence", "--errors", "--restarts"]
    usual = ["--errors", "0.5", "--restarts", "1"]  # what older runs stated as None
    assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1", *usual).exit_code in (0, 1)
    assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1", "--errors", "0.6").exit_code == 2


def test_what_is_given_twice_is_given_once(manifest: Path) -> None:
    first = ["bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1"]
    assert run(*first, *QUICK).exit_code == 0
    stated = json.loads(Path("run/run.json").read_text())
    assert stated["arguments"]["--bound"] == ["snr:min"]
    assert run(*first).exit_code == 0
    Path("run/run.json").write_text(json.dumps({**stated, "arguments": {**stated["arguments"], "--bound": ["snr:min"] * 2}}))
    assert run(*first).exit_code == 0, "as runs were stated once"


def test_a_run_is_checked_and_stated_in_one_step(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two starts with different arguments at once cannot both go on."""
    held = []
    for step in (check_goes_on, state_run):

        def told(out: Path, *more: Any, step: Callable[..., None] = step) -> None:
            with pytest.raises(BlockingIOError), alone_in(out, wait=False):
                pass
            held.append(step)
            step(out, *more)

        monkeypatch.setattr(f"audioadv.evaluation.run.run_file.{step.__name__}", told)
    assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1").exit_code == 0
    assert held == [check_goes_on, state_run]


def test_another_net_under_the_same_name_is_told_apart() -> None:
    def recogniser(bias: float) -> Recogniser:
        net = torch.nn.Linear(2, 2)
        torch.nn.init.zeros_(net.weight)
        torch.nn.init.constant_(net.bias, bias)
        return Recogniser(net, sample_rate=16000)

    assert fingerprint_of(recogniser(1.0)) == fingerprint_of(recogniser(1.0)) != fingerprint_of(recogniser(2.0))
    assert fingerprint_of(linear()) is None


def write_recogniser(gain: float = 1.0, letters: str = "ALPHABET", rate: int = 16000, added: str = "") -> None:
    """A file own.py, whose net is no module: nothing but its answers tells it from another."""
    Path("own.py").write_text(
        "from recognisers import ALPHABET, Recogniser, listen\n"
        "from audioadv.defenses.statement import Statement\n"
        "import torch\n"
        f"def heard(waveforms, lengths): return listen({gain} * waveforms{added}, lengths)\n"
        f"def own(): return Recogniser(heard, {rate}, {letters}, 'own')\n"
    )


@pytest.fixture
def own(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """A start of a run of the recogniser in own.py, as it is by then."""
    monkeypatch.syspath_prepend(str(manifest.parent))

    def begun(**changes: Any) -> Result:
        write_recogniser(**changes)
        importlib.invalidate_caches()
        sys.modules.pop("own", None)
        shutil.rmtree("__pycache__", ignore_errors=True)
        return run("bench", "list.jsonl", "--out", "run", *STEPS, "--model", "module:own:own", "--limit", "2")

    yield begun
    sys.modules.pop("own", None)


def test_another_recogniser_of_the_same_name_does_not_go_on(own: Callable[..., Result]) -> None:
    assert own().exit_code == own().exit_code == 0
    assert own(gain=1.0001).exit_code == 0, "rounding differs between devices"
    for changes, told in (
        ({"gain": 3.0}, "module:own:own: answers the same noise otherwise"),
        ({"rate": 8000}, "sample rate of module:own:own: was 16000, now 8000"),
        ({"letters": "ALPHABET[:2] + ALPHABET[:1:-1]"}, "letters of module:own:own: were"),
    ):
        wrong = own(**changes)
        assert wrong.exit_code == 2
        assert told in wrong.stderr
    stated = json.loads(Path("run/run.json").read_text())
    del stated["models"]  # as an older version left it
    Path("run/run.json").write_text(json.dumps(stated))
    assert own(gain=3.0).exit_code == 0


def test_a_random_recogniser_is_told_apart_by_no_answer(own: Callable[..., Result]) -> None:
    for _ in range(2):
        assert own(added=" + 0.1 * torch.randn(waveforms.shape)").exit_code in (0, 1)
    assert json.loads(Path("run/run.json").read_text())["models"]["module:own:own"]["answers"] is None


def test_another_sound_in_the_place_of_a_clip_is_told(manifest: Path) -> None:
    command = ("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "2")
    assert run(*command).exit_code == 0
    soundfile.write("1.wav", -noise(0.22), 16000)
    wrong = run(*command)
    assert wrong.exit_code == 2
    assert "list.jsonl, line 2: 1.wav is another file by now" in wrong.stderr
    Path("1.wav").unlink()
    assert run(*command).exit_code == 0, "what is done needs it no more"


@pytest.mark.parametrize("then", ["replaced", "gone"])
def test_a_result_is_of_the_sound_that_was_read(manifest: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """Whatever is in its place when the result is written."""
    before = hashlib.sha256(Path("1.wav").read_bytes()).hexdigest()[:16]

    def crafted(*arguments: Any, **options: Any) -> Any:
        shutil.copy("7.wav", "1.wav") if then == "replaced" else Path("1.wav").unlink()
        return aa.craft_each(*arguments, **options)

    monkeypatch.setattr("audioadv.evaluation.run.bench.craft_each", crafted)
    run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "2", "--target", "go", "--batch", "2")
    (line,) = (line for name, line in results("run").items() if name.endswith("/1"))
    assert (line["digest"], line["reached"]) == (before, True)


def test_a_line_that_is_mended_takes_no_name_away(manifest: Path) -> None:
    """Two clips of one stem, of which the first cannot be read at the first start."""
    Path("more").mkdir()
    soundfile.write("more/0.wav", noise(0.3), 16000)
    entries = [json.dumps({"audio_filepath": path, "text": "hiss"}) for path in ("0.wav", "more/0.wav")]
    command = ("bench", "list.jsonl", "--out", "run", *QUICK)
    manifest.write_text(f"{entries[0][:-3]}\n{entries[1]}\n")
    assert run(*command).exit_code == 2
    manifest.write_text("\n".join(entries))
    assert run(*command).exit_code == 0
    found = {name.rpartition("/")[2]: line["audio_filepath"] for name, line in results("run").items()}
    assert found == {"0": "../more/0.wav", "0-2": "../0.wav"}


def test_sounds_that_are_gone_come_back(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "4")
    assert run(*command).exit_code == 0
    before, told = sounds("run"), Path("run/results.jsonl").read_bytes()
    assert before
    shutil.rmtree(next(path for path in Path("run").iterdir() if path.is_dir()))
    assert run(*command).exit_code == 0
    assert sounds("run") == before
    assert Path("run/results.jsonl").read_bytes() == told
    next(Path("run").glob("*/1.wav")).unlink()
    Path("1.wav").unlink()
    wrong = run(*command)
    assert wrong.exit_code == 2
    assert re.search(r"run/\S+/1.wav: gone, and not made again, one of 1 clips", wrong.stderr)


def test_what_a_run_made_is_put_through_channels(manifest: Path) -> None:
    assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--bound", "linf:0.3", "--limit", "4", "--target", "go").exit_code == 0
    for place in ("run", "run/results.jsonl"):
        survived = run("survive", place, *LINEAR, "--channel", "none", "--device", "cpu", "--json")
        assert survived.exit_code == 0
        assert {line["clip"] for line in lines(survived)} == {f"run/{name}.wav" for name in results("run")}
        assert "crafted for" not in survived.stderr, "the run names the model by its spec, as --model does"


def test_a_goal_of_silence_is_told(manifest: Path) -> None:
    assert run("craft", "0.wav", "--silence", *LINEAR, "--steps", "5", "--device", "cpu", "--out", "crafted").exit_code in (0, 1)
    hushed = lines(run("bench", "crafted/results.jsonl", "--out", "hushed", *QUICK, "--json"))
    assert [line["target"] for line in hushed] == [""]
    manifest.write_text('{"audio_filepath": "0.wav", "target": ""}')  # which somebody may have forgotten
    wrong = run("bench", "list.jsonl", "--out", "run", *QUICK)
    assert wrong.exit_code == 2
    assert "line 1: target '' is no text to be heard as. Give --silence for all, --target TEXT or --untargeted" in wrong.stderr


def test_silence_errors_and_restarts_are_as_crafts(manifest: Path) -> None:
    def claimed(out: str) -> tuple[dict[str, Any], list[str]]:
        stated = json.loads(Path(out, "run.json").read_text())
        return stated["arguments"], [threat["claim"] for threat in stated["threat_models"]]

    hushed = lines(run("bench", "list.jsonl", "--out", "hushed", *QUICK, "--limit", "3", "--silence", "--restarts", "2", "--json"))
    heard = {(line["target"], line["adversarial_transcript"], line["reached"]) for line in hushed}
    assert ("", "", True) in heard
    assert heard <= {("", "", True), ("", None, False)}
    arguments, (claim,) = claimed("hushed")
    assert (arguments["--silence"], arguments["--restarts"]) == (True, 2)
    assert "hear each clip as nothing at all" in claim
    command = ["bench", "list.jsonl", "--out", "wrong", *QUICK, "--limit", "3", "--untargeted"]
    misheard = lines(run(*command, "--errors", "1", "--json"))
    assert len(misheard) == 3
    arguments, (claim,) = claimed("wrong")
    assert arguments["--errors"] == 1
    assert "at least 100 % of the words wrong" in claim
    again = run(*command)
    assert again.exit_code == 2
    assert "--errors: was 1.0, now not given" in again.stderr
    for options, said in (
        (["--target", "go", "--errors", "1"], "--errors says nothing here"),
        (["--silence", "--untargeted", "--target", "go"], "three different goals"),
    ):
        refused = run("bench", "list.jsonl", "--out", "none", *QUICK, *options)
        assert refused.exit_code == 2
        assert said in refused.stderr


def test_results_of_all_kinds_are_a_manifest_with_their_own_goals(manifest: Path) -> None:
    for i, goal in enumerate((["--target", "go"], ["--silence"], ["--not-as", "it is hiss", "--errors", "1"], ["--not-as", "hiss hiss"])):
        run("craft", f"{i}.wav", *goal, *QUICK, "--steps", "40", "--out", "made", "--no-picture")
    told = lines(run("bench", "made/results.jsonl", "--out", "run", *QUICK, "--steps", "40", "--json"))
    goals = {line["name"][-1]: (line["target"], line.get("text"), line.get("errors_asked")) for line in told}
    assert goals == {
        "0": ("go", None, None),
        "1": ("", None, None),
        "2": ("not: it is hiss", "it is hiss", 1),
        "3": ("not: hiss hiss", "hiss hiss", 0.5),
    }
    (threat,) = json.loads(Path("run/run.json").read_text())["threat_models"]
    assert "at least 50 % or 100 % of the words wrong" in threat["claim"]
    again = run("bench", "made/results.jsonl", "--out", "run", *QUICK, "--steps", "40")
    assert again.exit_code in (0, 1), "its own results are no other clips"
    Path("made/results.jsonl").write_text(Path("made/results.jsonl").read_text().replace('"errors_asked": 1.0', '"errors_asked": 2.0'))
    assert "line 3: errors_asked was 1.0, now 2.0" in run("bench", "made/results.jsonl", "--out", "run", *QUICK, "--steps", "40").stderr


@pytest.mark.parametrize("restarts", [1, 2])
def test_restarts_are_handed_on(manifest: Path, monkeypatch: pytest.MonkeyPatch, restarts: int) -> None:
    given = []

    def crafted(*arguments: Any, **options: Any) -> Any:
        given.append((options["restarts"], arguments[2]))
        return aa.craft_each(*arguments, **options)

    monkeypatch.setattr("audioadv.evaluation.run.bench.craft_each", crafted)
    run("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1", "--untargeted", "--errors", "2", "--restarts", str(restarts))
    assert [(asked, goal.errors) for asked, goal in given] == [(restarts, 2.0)]


def test_damaged_results_are_told(manifest: Path) -> None:
    command = ("bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1")
    assert run(*command).exit_code == 0
    (line,) = read_results(Path("run/results.jsonl"))
    for damaged, told in (({"name": line["name"]}, "nothing of clean_transcript"), ({**line, "snr_db": "x"}, "no result has snr_db 'x'")):
        Path("run/results.jsonl").write_text(json.dumps(damaged) + "\n")
        wrong = run(*command)
        assert wrong.exit_code == 2
        assert told in wrong.stderr


def test_two_workers_may_state_the_same_run_at_once(tmp_path: Path) -> None:
    stated = {"arguments": {"--seed": 0, "--model": ("a", "b"), "weights of a": None}}
    for _ in range(2):
        check_goes_on(tmp_path, stated["arguments"], {})
        state_run(tmp_path, stated)
    with pytest.raises(OptionError, match=r"\(weights of a: was not given, now 12\)"):
        check_goes_on(tmp_path, {**stated["arguments"], "weights of a": "12"}, {})
    for content, message in (("{", "cannot be read"), ('{"arguments": [1]}', "not what audioadv bench wrote")):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(InputError, match=message):
            check_goes_on(tmp_path, stated["arguments"], {})


def test_bad_lines_are_told_by_number_and_the_others_done(manifest: Path) -> None:
    good = manifest.read_text().splitlines()[:2]
    Path("prose.wav").write_text("not a sound at all")
    bad = ['{"audio_', '{"audio_filepath": "0.wav"}', '{"audio_filepath": "1.wav", "target": "route 66"}']
    late = [
        '{"audio_filepath": "missing.wav", "duration": NaN, "text": "a"}',
        '{"audio_filepath": "prose.wav", "duration": 1e9, "text": "a"}',
    ]
    manifest.write_text("\n".join([*bad, good[0], *late, "", good[1]]))
    for _ in range(2):
        told = run("bench", "list.jsonl", "--out", "run", *QUICK, "--bound", "snr:20", "--batch", "4", "--json")
        assert told.exit_code == 2
        errors = [line for line in told.stderr.splitlines() if line.startswith("Error")]
        assert [line.split(":")[1].strip() for line in errors[:3]] == [f"list.jsonl, line {number}" for number in (1, 2, 3)]
        assert sorted(line.split(":")[1].strip() for line in errors[3:]) == [f"list.jsonl, line {number}" for number in (5, 6)], "each once"
        assert len(results("run")) == 4
    assert lines(told) == [], "what is done stays done"
    soundfile.write("missing.wav", noise(0.2), 16000)
    assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--bound", "snr:20", "--batch", "4").exit_code == 2
    assert len(results("run")) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "route 66"], "does not write '6'"),
        (["--target", ""], "nothing to be heard as"),
        (["--target", "go", "--untargeted"], "two different goals"),
        (["--bound", "loud"], "bound 'loud'"),
        (["--channel", "tin can"], "channel 'tin can'"),
        (["--model", "huge-mel"], "huge-mel"),
        (["--out", "list.jsonl"], "is a file"),
        (["--limit", "0"], "--limit"),
        (["--attack", "pgd"], "works within a fixed bound"),
    ],
)
def test_wrong_options_make_nothing(manifest: Path, options: list[str], message: str) -> None:
    wrong = run("bench", "list.jsonl", "--out", "run", *QUICK, *options)
    assert wrong.exit_code == 2
    assert message in wrong.stderr
    assert not Path("run").exists()
    Path("empty.jsonl").write_text("\n")
    assert "without a line" in run("bench", "empty.jsonl", "--out", "run", *QUICK).stderr


def test_settings_that_make_no_sense_are_told_and_the_others_done(manifest: Path) -> None:
    told = run(
        "bench", "list.jsonl", "--out", "run", *QUICK, "--limit", "1", "--bound", "linf:0.2", "--attack", "shrink", "--attack", "pgd"
    )
    assert told.exit_code == 2
    assert told.stderr.count("Error: attack 'pgd' works within a fixed bound, not snr:min") == 1
    assert len(results("run")) == 3
    assert len({Path(name).parent for name in results("run")}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--attack", "nes", "--bound", "snr:20", "--channel", "noise:20"],
            "--attack nes: estimates slopes from scores, and does not work",
        ),
        (["--model", "module:recognisers:by_scores"], "--attack shrink: needs gradients, and by_scores grants scores alone. Use --attack"),
        (["--bound", "feature:0.5:recognisers:small_layer"], "small_layer: the network does not take inputs of shape [1, 3200]"),
    ],
)
def test_what_does_not_go_together_makes_nothing(manifest: Path, options: list[str], message: str) -> None:
    model = [] if "--model" in options else LINEAR
    wrong = run("bench", "list.jsonl", "--out", "run", *model, *options, "--limit", "1", "--device", "cpu")
    assert wrong.exit_code == 2
    assert message in wrong.stderr
    assert not Path("run").exists()


def test_a_batch_that_does_not_fit_into_memory_is_halved(manifest: Path) -> None:
    assert run("bench", "list.jsonl", "--out", "run", *STEPS, "--model", "module:recognisers:small", "--untargeted").exit_code == 0
    assert len(results("run")) == 8


def start(*command: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


BENCH = ["bench", "list.jsonl", *STEPS, "--batch", "2", "--json"]


def test_a_bound_for_images_alone_is_told_and_makes_nothing(manifest: Path) -> None:
    result = run("bench", "list.jsonl", "--out", "run", "--bound", "spatial:30,3", "--device", "cpu")
    assert result.exit_code == 2
    assert "bound spatial:30,3: not for this sound" in result.stderr
    assert not Path("run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on(manifest: Path, how: signal.Signals) -> None:
    options = ["--model", "module:recognisers:slow", "--steps", "60"]
    process = start("audioadv", *BENCH, *options, "--out", "run")
    path, until = Path("run/results.jsonl"), time.monotonic() + 240
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(how)
    _, told = process.communicate(timeout=60)
    before = path.read_bytes()
    assert 2 <= before.count(b"\n") < 8
    if how is signal.SIGINT:
        assert process.returncode == 130, told
        assert "of 8 jobs are done and kept in run" in told
        assert "Traceback" not in told
    assert run(*BENCH, *options, "--out", "run").exit_code == 0
    assert path.read_bytes().startswith(before), "what was done is not done again"
    assert run(*BENCH, *options, "--out", "whole").exit_code == 0
    assert results("run") == results("whole")
    assert sounds("run") == sounds("whole")
    assert {item.name for item in Path("run").iterdir()} == {item.name for item in Path("whole").iterdir()}, "nothing half written is left"


def launched(workers: int, *command: str) -> tuple[int, str]:
    """The status of a launcher of so many workers, and all that they say."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), "--max-restarts", "1", "-m", "audioadv"]
    process = start(*launcher, *command)
    _, told = process.communicate(timeout=240)
    return process.returncode, told


@pytest.mark.slow
def test_a_missed_goal_is_no_reason_to_start_a_worker_again(manifest: Path) -> None:
    missed = ["--model", "module:recognisers:linear", "--bound", "linf:0.00001", "--target", "go", "--steps", "2", "--limit", "1"]
    assert run("bench", "list.jsonl", "--out", "alone", "--device", "cpu", *missed).exit_code == 1
    assert launched(1, "bench", "list.jsonl", "--out", "run", "--device", "cpu", *missed)[0] == 0


@pytest.mark.slow
def test_a_start_that_is_refused_is_refused_once(manifest: Path) -> None:
    status, told = launched(2, *BENCH, "--model", "module:recognisers:raises", "--out", "run")
    assert status != 0
    assert told.count("Error: model 'module:recognisers:raises': KeyError") == 1


@pytest.mark.slow
def test_two_workers_of_which_one_dies_do_what_one_does(manifest: Path) -> None:
    options = ["--model", "module:recognisers:mortal"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m", "audioadv"]
    process = start(*launcher, *BENCH, *options, "--out", "run")
    printed, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert "Signal 9" in told or "SIGKILL" in told or "exitcode: -9" in told
    assert run(*BENCH, *options, "--out", "whole").exit_code == 0
    assert results("run") == results("whole")
    assert sounds("run") == sounds("whole")
    assert {json.loads(line)["name"] for line in printed.splitlines() if line.startswith("{")} == set(results("run"))
    assert {item.name for item in Path("run").iterdir()} == {item.name for item in Path("whole").iterdir()}


# Figures


def made(reached: bool, snr_db: float | None, **more: Any) -> dict[str, Any]:
    outcome = ("needless" if snr_db is None else "reached") if reached else "missed"
    cost = {"forwards": 10, "backwards": 8, "seconds": 0.5, "relative_db": None if snr_db is None else -snr_db}
    heard = {"clean_transcript": "a b", "adversarial_transcript": "go" if reached else None, "text": "a b"}
    return {"reached": reached, "outcome": outcome, "bound": "snr:20", "snr_db": snr_db, **cost, **heard, **more}


def test_a_row_counts_what_is_reached_and_what_would_be_played() -> None:
    some = [made(True, 30.0), made(True, 20.0), made(True, None), made(False, 5.0)]  # the last over a channel, too seldom
    (row,) = summarise(some)
    assert (row["model"], row["bound"], row["channel"]) == ("-", "snr, radius not recorded", "none")
    assert (row["reached"], row["clips"], row["snr_db"], row["relative_db"], row["forwards"]) == (3, 4, 25.0, -25.0, 10)
    assert row["outcomes"] == {"reached": 2, "needless": 1, "missed": 1}
    assert row["wer_before"][0] == 0
    assert row["wer_after"][0] == 0.75, "where nothing was found, the clean clip is played"
    assert curve(some) == [(30.0, 2), (20.0, 3)]
    two = summarise(
        [made(True, 30.0, model="a", bound_asked="snr:min"), made(True, 30.0, model="b", bound_asked="snr:min", channel="room")]
    )
    assert [(row["model"], row["bound"], row["channel"]) for row in two] == [("a", "snr:min", "none"), ("b", "snr:min", "room")]


def test_what_is_not_to_be_heard_is_what_is_said() -> None:
    """Lines of craft had no text once."""
    line = made(True, 30.0, target="not: stop the car", clean_transcript="stop the car", adversarial_transcript="top of the car")
    (told,) = summarise([{key: value for key, value in line.items() if key != "text"}])
    assert [told["wer_before"][0], told["wer_after"][0]] == [0, pytest.approx(2 / 3)]


def test_a_bound_that_is_spelt_twice_is_one() -> None:
    settings = every_setting(["m"], ["pgd"], ["snr:30", "snr:30.0", "snr:20"], ["none"])
    assert [setting.folder for setting in settings] == ["m_pgd_snr-30", "m_pgd_snr-20"]

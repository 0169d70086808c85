"""The craft suite is what its figures say that it is: 20 carriers, 2 targets each, none too dense, the same every time."""

import ast
import importlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes"))

from lines import add_lines, read_lines, write_lines  # noqa: E402
from suite import DATA, DENSEST, LONGEST_SECONDS, SAMPLE_RATE, Pair, Verdict, pairs  # noqa: E402

from audioadv.errors import UnwritableOutput  # noqa: E402
from audioadv.evaluation.rates import wilson  # noqa: E402
from audioadv.models.alphabet import ALPHABET  # noqa: E402


@pytest.fixture(scope="module", params=["real recordings", "samples only"])
def suite(request: pytest.FixtureRequest) -> list[Pair]:
    if request.param == "real recordings" and not DATA.is_dir():
        pytest.skip(f"no real recordings at {DATA}")
    return pairs(DATA if request.param == "real recordings" else ROOT / "nowhere")


def test_twenty_carriers_with_two_targets_each(suite: list[Pair]) -> None:
    assert len(suite) == len({pair.name for pair in suite}) == 40
    assert len({pair.clip.name for pair in suite}) == 20
    assert len({pair.target for pair in suite}) == 40
    assert all(pair.clip.sample_rate == SAMPLE_RATE and 1 <= pair.clip.seconds <= LONGEST_SECONDS for pair in suite)


def test_carriers_are_of_all_kinds(suite: list[Pair]) -> None:
    kinds = [pair.kind for pair in suite[::2]]
    assert sum(kind.split()[-1] in ("music", "noise", "quiet") for kind in kinds) >= 5
    assert sum("speech" in kind for kind in kinds) >= 5
    if any(kind.startswith("real") for kind in kinds):
        assert sum(kind.startswith("real") for kind in kinds) >= 8


def test_targets_are_short_phrases_that_fit(suite: list[Pair]) -> None:
    spoken = {json.loads(line)["text"] for line in (ROOT / "samples/sentences.jsonl").read_text().splitlines()}
    for pair in suite:
        assert pair.target == " ".join(pair.target.split())
        assert set(pair.target) <= set(ALPHABET[1:])
        assert 2 <= len(pair.target.split()) <= 8
        assert pair.rate <= DENSEST
        assert pair.target not in spoken


def test_some_targets_are_dense_and_some_are_not(suite: list[Pair]) -> None:
    rates = sorted(pair.rate for pair in suite)
    assert rates[3] < 6
    assert rates[-4] > 14


def test_the_same_pairs_every_time() -> None:
    first, second = pairs(ROOT / "nowhere"), pairs(ROOT / "nowhere")
    assert [(a.name, a.target) for a in first] == [(b.name, b.target) for b in second]
    assert all(a.clip.samples.equal(b.clip.samples) for a, b in zip(first, second, strict=True))


def test_what_is_cut_says_so() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no real recordings at {DATA}")
    guitar = next(pair.clip for pair in pairs() if pair.clip.name == "guitar")
    assert guitar.seconds == 4.5
    assert "cut from 8.0 s to its first 4.5 s" in guitar.notices


def test_wilson_interval_of_known_rates() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0, 1)


def test_a_verdict_is_json_even_where_nothing_changed() -> None:
    line = Verdict("go home", False, float("inf"), float("-inf")).line()
    assert line == {"heard": "go home", "reached": False, "snr_db": None, "relative_db": None}


def test_a_line_that_was_cut_short_is_nothing_and_the_next_stands_alone(tmp_path: Path) -> None:
    """Wherever it was cut, be it behind an inner bracket."""
    path, lines = tmp_path / "results.jsonl", [{"pair": "a", "judged": {"none": [1, 2]}}, {"pair": "b", "judged": {"none": [0, 2]}}]
    assert read_lines(path) == []
    write_lines(path, lines)
    whole = path.read_bytes()
    for size in range(len(whole) // 2, len(whole)):
        path.write_bytes(whole[:size])
        assert read_lines(path) == lines[:1]
        add_lines(path, lines[1:])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("recipe", "package"), [("masking_against_art", "art"), ("smoothing_against_art", "art"), ("air_against_asr_attacks", "asr_attacks")]
)
def test_help_needs_nobody_elses_package(recipe: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    main = importlib.import_module(recipe).main
    assert "make peers" in CliRunner().invoke(main, ["--help"]).output
    result = CliRunner().invoke(main, ["--quick"])
    assert result.exit_code == 1
    assert "is not installed here. Call: make peers" in result.output


def test_a_verdict_that_cannot_be_kept_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full while it is written leaves no half of one, which would be read for ever."""
    import multi_perturbation
    import torch.nn

    from audioadv.training import Labelled

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "linf").mkdir()
    test = Labelled(torch.rand(2, 1, 28, 28), torch.tensor([0, 1]))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    monkeypatch.setitem(multi_perturbation.JUDGES, "quick", lambda bound: "fgsm")
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UnwritableOutput):
        multi_perturbation.judged("linf", net, test, 2, "quick", tmp_path)
    assert not list((tmp_path / "linf").iterdir())


def test_how_far_company_changes_a_result_is_told_of_all_runs() -> None:
    import craft_suite

    def lines(*heights: float | None) -> list[craft_suite.Line]:
        return [{"outcome": "missed" if snr is None else "reached", "reached": snr is not None, "snr_db": snr} for snr in heights]

    told = craft_suite.spread(lines(30.0, 20.0, 10.0), lines(30.25, 21.0, None), lines(29.75, 20.5, 10.0))
    assert "the same outcome 2/3; SNRs within 0.5 dB 1/2" in told
    assert told.endswith("at most 1.00")


def test_the_suite_is_crafted_alone_and_in_the_reverse_order_too(tmp_path: Path) -> None:
    import craft_suite

    options = [
        "--model",
        "tiny-mel",
        "--bound",
        "snr:min",
        "--steps",
        "3",
        "--limit",
        "2",
        "--company",
        "--data",
        str(tmp_path / "nowhere"),
    ]
    ran = CliRunner().invoke(craft_suite.main, [*options, "--out", str(tmp_path / "lines.jsonl")], catch_exceptions=False)
    assert ran.exit_code == 1, "nothing is reached in three steps"
    assert "the same outcome 2/2; SNRs within 0.5 dB 0/0" in ran.output
    assert [json.loads(line)["pair"] for line in (tmp_path / "lines.jsonl").read_text().splitlines()] == [
        pair.name for pair in pairs(tmp_path / "nowhere")[:2]
    ]


def test_the_inaudible_recipe_goes_on_where_it_stopped(tmp_path: Path) -> None:
    import inaudible

    options = ["--model", "tiny-mel", "--steps", "3", "--limit", "2", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    options += ["--entrant", "masked:min", "--entrant", "qin"]
    first = CliRunner().invoke(inaudible.main, options, catch_exceptions=False)
    assert first.exit_code == 0
    results = tmp_path / "run/results.jsonl"
    whole = [json.loads(text) for text in results.read_text().splitlines()]
    assert [(line["entrant"], line["pair"]) for line in whole] == [
        (entrant, pair.name) for entrant in ("masked:min", "qin") for pair in pairs(tmp_path / "nowhere")[:2]
    ]
    assert (tmp_path / "run/success.png").exists()
    kept = [whole[0] | {"seconds": 1234.5}, whole[1] | {"weights": "of another net"}]  # one of this run, one of another
    cut = json.dumps(whole[2])[:100]  # as a stop leaves it
    results.write_text("".join(json.dumps(line) + "\n" for line in kept) + cut)
    again = CliRunner().invoke(inaudible.main, options, catch_exceptions=False)
    assert again.exit_code == 0
    lines = [json.loads(text) for text in results.read_text().splitlines()]
    assert lines[:2] == kept
    fixed = [{key: value for key, value in line.items() if key != "seconds"} for line in (*lines[2:], *whole[1:])]
    assert fixed[:3] == fixed[3:]  # done again: the pair of another net, and both of the entrant that was cut short
    assert again.output == first.output


def test_fallen_defenses_fall_and_their_nets_are_trained_once(tmp_path: Path) -> None:
    import fallen_defenses

    options = ["--quick", "--count", "12", "--out", str(tmp_path)]
    first = CliRunner().invoke(fallen_defenses.main, options, catch_exceptions=False)
    assert first.exit_code == 0
    assert (tmp_path / "fallen.png").exists()
    rows = {line["defense"]: line for line in map(json.loads, (tmp_path / "table.jsonl").read_text().splitlines())}
    assert set(rows) == {"nothing", *fallen_defenses.CLAIMS}
    for name, row in rows.items():
        assert row["clean"]["accuracy"] >= 0.6, f"{name}: a net that has learnt nothing cannot fall"
        assert row["adaptive"]["accuracy"] <= 0.1, name
        assert row["static"] is None or row["static"]["accuracy"] >= row["adaptive"]["accuracy"]
    assert rows["detector"]["static"]["accuracy"] > 0.5, "who does not know of it does not mind being seen"
    assert rows["drop:0.3"]["way"] == "pgd, EOT 8"
    assert "saturate" in rows["distillation"]["warned"][0]
    nets = {path: path.stat().st_mtime_ns for path in tmp_path.glob("nets-*/*.safetensors")}
    assert len(nets) == 5
    again = CliRunner().invoke(fallen_defenses.main, options, catch_exceptions=False)
    assert again.output == first.output
    assert nets == {path: path.stat().st_mtime_ns for path in nets}


def test_recognisers_behind_defenses_are_attacked_twice_and_only_once_each(tmp_path: Path) -> None:
    import defended_recognisers

    first = CliRunner().invoke(defended_recognisers.main, ["--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert first.exit_code == 0
    lines = [json.loads(text) for text in (tmp_path / "table.jsonl").read_text().splitlines()]
    assert [(line["defense"], line["way"]) for line in lines] == [
        ("nothing", "apgd"),
        ("bits:6", "apgd, BPDA"),
        ("noise:15..25", "apgd, EOT 8"),
    ]
    assert lines[0]["static"] is None
    assert all(line["static"]["wer"] <= line["all"]["wer"] for line in lines[1:])
    assert lines[2]["backwards"] % 8 == 0 < lines[2]["backwards"]
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:2]) + json.dumps(lines[2])[:50])  # a stop
    again = CliRunner().invoke(defended_recognisers.main, ["--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert again.output == first.output


def test_a_pair_counts_from_its_worst_bin_on_and_only_where_it_is_reached() -> None:
    import inaudible

    lines = [{"reached": reached, "worst_db": worst} for reached, worst in ((True, 2.9), (True, -3.4), (False, -20.0), (True, None))]
    assert [inaudible.share(lines, at_db).split("/")[0].strip() for at_db in (3, 0, -24)] == ["3", "2", "1"]
    assert inaudible.share(lines, 2.5, inaudible.ROUNDING).startswith("  3/4")
    assert inaudible.share(lines, float("inf")).startswith("  3/4")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "says"), [("smoothing", "certified accuracy at an L2 radius"), ("detectors", "a network on inputs")])
def test_recipes_of_defenses_run_quickly(name: str, says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(importlib.import_module(name).main, ["--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert says in result.output
    assert list(tmp_path.glob("*.jsonl"))


def test_the_peers_steps_and_looks_come_to_the_forwards_allowed() -> None:
    import inaudible

    for allowed in (10, 150, 2000):
        first, second = inaudible.affordable(allowed)
        looks = sum((n + 1) % 10 == 0 for n in range(first)) + sum((n + 1) % 20 == 0 or (n + 1) % 50 == 0 for n in range(second))
        assert allowed - 2 <= first + second + looks <= allowed


@pytest.mark.parametrize("plan", ["paper", "halves"])
def test_the_peers_stages_in_rooms_come_to_the_forwards_allowed(plan: str) -> None:
    import air_against_asr_attacks

    for allowed in (100, 3200):
        first, second = air_against_asr_attacks.stages(allowed, plan)
        assert allowed - 33 <= first + first // 10 + 10 * second + 10 * (second // 10) <= allowed


@pytest.mark.parametrize(
    ("recipe", "options", "told"),
    [
        ("train_mnist", ["--radius", "0.1", "--steps", "1"], ["pass 1: loss", "test robust"]),
        ("train_cifar10", ["--judged", "8"], ["pass 1: loss", "test robust", "8 test images: right", "standard"]),
        ("train_cifar10", ["--net", "resnet18", "--judged", "4"], ["pass 1: loss", "test robust", "4 test images: right", "standard"]),
        pytest.param(
            "train_cifar10",
            ["--net", "resnet18", "--judged", "4", "--device", "cuda"],
            ["test robust", "standard"],
            marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")],
        ),
        ("robust_training", ["--only", "fast", "--only", "yopo", "--only", "pgd"], ["fast", "yopo", "pgd", "of PGD"]),
        ("multi_perturbation", ["--only", "msd"], ["random, pass", "msd, pass", "linf:0.3", "l2:2", "all of them"]),
        ("robust_recogniser", [], ["WER", "targeted at snr:30", "targeted at snr:min"]),
    ],
)
def test_the_recipes_of_training_run(recipe: str, options: list[str], told: list[str], tmp_path: Path) -> None:
    main = importlib.import_module(recipe).main
    weights = ["--out", str(tmp_path / "net.safetensors")]
    out = {"train_mnist": weights, "train_cifar10": weights, "robust_recogniser": []}.get(recipe, ["--out", str(tmp_path)])
    result = CliRunner().invoke(main, ["--quick", *options, *out], catch_exceptions=False)
    assert result.exit_code == 0
    assert all(word in result.output for word in told)
    if recipe == "train_cifar10" and "--net" not in options:  # weights that are there are judged as after training
        judged = CliRunner().invoke(main, ["--quick", *options, *out, "--judge-only"], catch_exceptions=False)
        assert "pass 1" not in judged.output
        assert judged.output.splitlines() == result.output.splitlines()[-3:]


def test_the_first_recipes_on_images_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import image_robust_accuracy

    def told(recipe: str, *options: str) -> str:
        result = CliRunner().invoke(importlib.import_module(recipe).main, ["--quick", *options], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    first = told("image_first_attack")
    assert "examples fall; the first one's largest change is 0.1" in first
    assert "standard" in first
    monkeypatch.setattr(image_robust_accuracy, "QUICK", ("fgsm", "pgd", "worst_of"))  # without the slow ones
    again = partial(told, "image_robust_accuracy", "--count", "4", "--steps", "5", "--out", str(tmp_path))
    few = again()
    assert all(words in few for words in ("mnist-robust, linf:min: median by fmn", "mnist, l2:min: median by ddn"))
    cells = read_lines(tmp_path / "table.jsonl")
    assert {cell["bound"] for cell in cells if "stands" in cell} == {"linf:0.3", "linf:0.3_or_l2:2_or_l1:10"}
    assert {cell["attack"] for cell in cells if "refused" in cell} == {"worst_of"}
    natural = [cell["stands"] for cell in cells if (cell["model"], cell["bound"]) == ("mnist", "linf:0.3") and "stands" in cell]
    share = 100 * sum(all(own) for own in zip(*natural, strict=True)) / 4
    assert [line.split()[1] for line in few.splitlines() if line.startswith("all ")] == [f"{share:.1f}"]
    assert again() == few  # all of it was there
    assert read_lines(tmp_path / "table.jsonl") == cells
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("attack_strength", ["audioadv apgd cross-entropy", "20 at most"]),
        ("smallest_norms", ["audioadv sigma_zero", "gradients at most 20"]),
        ("standard_against_autoattack", ["mnist-robust, linf:0.3", "standard    robust"]),
        ("active_set", ["the same examples stand: True"]),
        ("two_processes", ["two processes: "]),
        (
            "image_union_affine",
            ["union: worst member           10 tries", "union: grid and standard", "fall to the affine adversary alone"],
        ),
    ],
)
def test_the_recipes_of_strength_run(recipe: str, told: list[str]) -> None:
    result = CliRunner().invoke(importlib.import_module(recipe).main, ["--quick"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in told)
    assert "stand: False" not in result.output


def test_the_recipe_of_attacks_on_speech_and_the_training_of_its_nets(tmp_path: Path) -> None:
    import speech_attacks
    import train_fsdd

    ran = CliRunner().invoke(speech_attacks.main, ["--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert ran.exit_code == 0
    lines = [json.loads(text) for text in (tmp_path / "table.jsonl").read_text().splitlines()]
    by_ear = [line for line in lines if line["model"] == "tiny-mel" and line["attack"] in ("genetic, by ear", "kenansville dft")]
    assert len(by_ear) == 2
    assert all(line["backwards"] == 0 for line in by_ear)
    heard = [(line["attack"], line["wer"], line["wer_before"]) for line in lines if "snr_db" in line]
    assert all(after > before or (name == "kenansville dft" and after == before) for name, after, before in heard)
    assert {"universal", "muting"} <= {line["attack"] for line in lines}
    if not train_fsdd.DATA.is_dir():
        return
    apgd = next(line for line in lines if line["model"] == "digits-spoken" and line["attack"] == "apgd")
    assert apgd["accuracy"] <= 0.2
    trained = CliRunner().invoke(train_fsdd.main, ["--quick", "--out", str(tmp_path / "net.safetensors")], catch_exceptions=False)
    assert trained.exit_code == 0
    assert (tmp_path / "net.safetensors").stat().st_size < 60_000


def test_the_recipes_of_poisoning_and_extraction_run(tmp_path: Path) -> None:
    import extraction
    import poisoning

    for main, passes in ((poisoning.main, 4), (extraction.main, 6)):
        options = ["--quick", "--passes", str(passes), "--out", str(tmp_path)]
        assert CliRunner().invoke(main, options, catch_exceptions=False).exit_code == 0
    *rows, clean_label = (json.loads(text) for text in (tmp_path / "poisoning.jsonl").read_text().splitlines())
    assert [row["poisoned"] for row in rows] == [0, 10, 30, 30, 30, 30]
    assert rows[2]["success"]["rate"] > rows[0]["success"]["rate"] + 0.2
    assert clean_label["trials"]
    lines = [json.loads(text) for text in (tmp_path / "extraction.jsonl").read_text().splitlines()]
    assert [line["queries"] for line in lines] == 4 * [100, 400]
    assert all(more["fidelity"]["rate"] > few["fidelity"]["rate"] for few, more in zip(lines[:4:2], lines[1:4:2], strict=True))
    assert {path.name for path in tmp_path.glob("*.png")} == {"poisoning.png", "extraction.png"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_every_option_says_what_it_is(path: Path) -> None:
    """Read, not imported: some recipes need what is installed for them alone."""
    for call in ast.walk(ast.parse(path.read_text())):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "click.option":
            assert "help" in {keyword.arg for keyword in call.keywords}, ast.unparse(call)

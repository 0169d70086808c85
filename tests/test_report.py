"""The page about a run: says what the results say, needs nothing but the files beside it, and can be read by anyone."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from test_bench import QUICK, write_manifest
from test_cli import folder, lines, run  # noqa: F401

from audioadv.evaluation.rates import wilson
from audioadv.evaluation.run.summary import curve
from audioadv.report.charts import density_chart, searched, success_chart
from audioadv.report.run_page import write_report
from audioadv.threat.bounds import parse_bound

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STYLE = (Path(__file__).parent.parent / "audioadv/report/style.css").read_text()
VOID = {"meta", "br", "img", "link", "hr", "input", "col"}


class Page(HTMLParser):
    """A page as elements: `of` lists the attributes of one kind, `text` is all that is read."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text())
        assert set(self.open) <= {"html"}, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.text += " " if tag not in {"span", "q", "b", "i", "sub"} else ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with goals that are reached, needless, missed, and too long for the clip; with its page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        manifest = write_manifest(Path("list.jsonl"))
        manifest.write_text(manifest.read_text() + '{"audio_filepath": "0.wav", "target": "' + "far too long " * 9 + '"}\n')
        assert run("bench", "list.jsonl", "--out", "run", *QUICK, "--bound", "linf:0.0001", "--bound", "linf:0.3").exit_code == 1
        done = run("report", "run", "--clips", "2", "--json")
        assert done.exit_code == 0
        assert lines(done) == [{"run": "run", "report": "run/report.html"}]
        return Path("run").absolute()


@pytest.fixture
def report(made: Path, tmp_path: Path) -> Path:
    """The page, in a copy of its run."""
    return shutil.copytree(made, tmp_path / "run") / "report.html"


def test_the_page_says_what_the_results_say(report: Path) -> None:
    page = Page(report)
    text = " ".join(page.text.split())
    for words in (
        "Robustness of module:recognisers:linear",
        "Goals reached 44 to 89 % in 3 settings",
        "The attacker wants the model to hear each clip as its target, and to mishear the clips that have none",
        "It may change each input within linf:0.3.",
        "audioadv bench list.jsonl --out run",
        "8 clips, attack shrink, 3 bounds; at most 15 steps, seed 0.",
        "missed: 4 jobs No input within the bound was found",
        "infeasible: 3 jobs The target needs",
        "4 needless",
    ):
        assert words in text
    low, high = wilson(8, 9)
    assert f"8/9 {100 * 8 / 9:.0f} % {100 * low:.0f} \N{EN DASH} {100 * high:.0f}" in text
    sources = [unquote(audio["src"]) for audio in page.of("audio")]
    assert len(sources) == 2 * 2 * 3, "clean and adversarial, of two clips, under three settings"
    for source in (*sources, *(unquote(image["src"]) for image in page.of("img"))):
        assert (report.parent / source).is_file()
    assert len(page.of("img")) == 6


def test_the_page_needs_nothing_from_elsewhere_and_tells_what_it_shows(report: Path) -> None:
    page = Page(report)
    for name, attributes in page.elements:
        assert name not in {"script", "link", "iframe"}
        for attribute in ("src", "href", "xlink:href"):
            assert "//" not in attributes.get(attribute, "")
    assert "url(" not in re.sub(r"url\(#\w+\)", "", report.read_text())
    assert all(image["alt"] for image in page.of("img"))
    assert all(audio["aria-label"] for audio in page.of("audio"))
    assert page.of("html")[0]["lang"] == "en"
    described = [attributes["aria-label"] for attributes in page.of("div") if attributes.get("role") == "img"]
    assert any(label.startswith("snr:min: 8 of 9 clips fall, half of those") for label in described)
    headings = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert all(deeper - above <= 1 for above, deeper in pairwise(headings))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_a_page_in_the_middle_of_a_run(report: Path) -> None:
    path = report.parent / "results.jsonl"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:20]) + "\n" + whole[20][:50])
    write_report(report.parent, pictures=False)
    assert "20 of 27 jobs have a result" in Page(report).text


def test_a_page_about_what_craft_wrote(folder: Path) -> None:  # noqa: F811
    assert run("craft", "hiss.wav", "--target", "go", *QUICK, "--no-picture").exit_code == 0
    assert run("report", "adversarial").stdout == "Read and listen: adversarial/report.html\n"
    page = Page(Path("adversarial/report.html"))
    assert "crafted within snr:min" in page.text
    assert "attack shrink, bound snr:min, seed 0; made by audioadv craft" in page.text
    assert [audio["src"] for audio in page.of("audio")] == ["hiss.clean.wav", "hiss.wav"]
    assert Path("adversarial/hiss.png").exists()


def test_bounds_that_were_asked_for_are_told_apart(folder: Path) -> None:  # noqa: F811
    shutil.copy("hiss.wav", "second.wav")
    bounds = ("snr:10", "snr:60_or_linf:0.2")
    for clip, bound in zip(("hiss.wav", "second.wav"), bounds, strict=True):
        assert run("craft", clip, "--target", "go", *QUICK, "--bound", bound, "--seed", "3").exit_code == 0
    write_report(Path("adversarial"), pictures=False)
    page = Page(Path("adversarial/report.html"))
    assert f"crafted within {'; '.join(bounds)}" in page.text
    assert "seed 3; made" in page.text


def test_a_folder_of_craft_that_does_not_say_its_bound(folder: Path) -> None:  # noqa: F811
    assert run("craft", "hiss.wav", "--target", "go", *QUICK).exit_code == 0
    results = Path("adversarial/results.jsonl")
    line = json.loads(results.read_text())
    results.write_text(json.dumps({key: line[key] for key in line if key not in ("attack", "bound_asked", "seed", "restarts")}) + "\n")
    write_report(Path("adversarial"), pictures=False)
    text = Page(Path("adversarial/report.html")).text
    assert "crafted within snr, radius not recorded." in text
    shutil.copy("hiss.wav", "second.wav")
    assert run("craft", "second.wav", "--target", "go", *QUICK, "--seed", "3", "--bound", "snr:10").exit_code == 0
    write_report(Path("adversarial"), pictures=False)
    text = Page(Path("adversarial/report.html")).text
    assert "attack shrink (of some, it is not recorded), 2 bounds, seed 3 (of some, it is not recorded); made" in text


def test_the_page_of_craft_is_as_the_report(folder: Path) -> None:  # noqa: F811
    assert run("craft", "hiss.wav", "--target", "go", *QUICK).exit_code == 0
    page = Page(Path("adversarial/index.html"))
    names = [name for name, _ in page.elements]
    assert {"body", "main", "header", "article"} <= {*names}
    assert "table" not in names, "nothing that a small screen would have to scroll"
    assert [audio["aria-label"] for audio in page.of("audio")] == ["hiss, clean", "hiss, adversarial"]
    assert page.of("img")[0]["alt"].startswith("Waveforms and spectrograms of hiss")


def test_strange_names_and_texts_stay_texts(folder: Path) -> None:  # noqa: F811
    line = {
        "name": "a b/<i>#1", "clip": "<i>.wav", "clean_transcript": "<script>alert(1)</script>", "target": '"><b>',
        "adversarial_transcript": None, "reached": False, "outcome": "missed", "note": "<u>no</u>",
        "bound": "linf:0.1", "snr_db": None, "relative_db": None, "excess": 0,
        "steps": 1, "forwards": 1, "backwards": 1, "seconds": 0.1, "out": None, "notices": [], "model": "<em>m",
    }  # fmt: skip
    Path("results.jsonl").write_text(json.dumps(line) + "\n")
    page = Page(write_report(Path()))
    assert not {name for name, _ in page.elements} & {"script", "u", "em"}
    assert "<script>alert(1)</script>" in page.text
    assert "There is nothing to listen to" in page.text.replace("there is", "There is")


WHOLE: dict[str, Any] = {
    "name": "a", "clean_transcript": "a", "target": "go", "adversarial_transcript": None, "reached": False, "outcome": "missed",
    "note": "", "bound": "linf:0.1", "snr_db": None, "relative_db": None, "forwards": 1, "backwards": 1, "seconds": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no results to be read"),
        ("", "no result yet"),
        ("{}\n", "line 1: not a result"),
        ('{"name": "a"}\n', "line 1 (a): nothing of clean_transcript"),
        (json.dumps(WHOLE | {"snr_db": "loud"}) + "\n", "no result has snr_db 'loud'"),
        (json.dumps(WHOLE | {"forwards": None}) + "\n", "no result has forwards None"),
        (json.dumps(WHOLE | {"text": 7, "model": 7}) + "\n", "no result has text 7, model 7"),
        (json.dumps({key: value for key, value in WHOLE.items() if key != "seconds"}) + "\n", "nothing of seconds"),
        ("[" * 100000 + "\n", "line 1: not a result"),
    ],
)
def test_folders_without_results(folder: Path, content: str | None, message: str) -> None:  # noqa: F811
    if content is not None:
        Path("results.jsonl").write_text(content)
    wrong = run("report", ".")
    assert wrong.exit_code == 2
    assert message in wrong.stderr
    assert not Path("report.html").exists()


@pytest.mark.parametrize(
    "damage", [{"jobs": "x"}, {"threat_models": [{}]}, {"threat_models": 7}, {"arguments": []}, {"models": {"m": 1}}], ids=str
)
def test_a_damaged_run_file_is_told(folder: Path, damage: dict[str, Any]) -> None:  # noqa: F811
    Path("results.jsonl").write_text(json.dumps(WHOLE) + "\n")
    Path("run.json").write_text(json.dumps({"arguments": {}, "jobs": 1, "threat_models": [{"claim": "None."}]}))
    assert run("report", ".").exit_code == 0
    Path("run.json").write_text(json.dumps({"arguments": {}, "jobs": 1, "threat_models": [], **damage}))
    wrong = run("report", ".")
    assert wrong.exit_code == 2
    assert "run.json: not what audioadv bench wrote" in wrong.stderr


def result(snr_db: float | None, bound: str, target: str = "go") -> dict[str, Any]:
    outcome = "missed" if snr_db is None else "reached"
    return {"reached": snr_db is not None, "outcome": outcome, "snr_db": snr_db, "bound": bound, "target": target, "duration": 1.0}


def test_charts_draw_and_tell_the_same() -> None:
    searched = [result(ratio, f"snr:{ratio}", "g" * int(50 - ratio)) for ratio in (45.0, 35.0, 25.0, 15.0)] + [result(None, "snr:min")]
    fixed = [result(31.0, "snr:30"), result(30.0, "snr:30"), result(None, "snr:30")]
    chart = success_chart([("a", searched), ("b", fixed)])
    assert chart is not None
    assert [row[0] for row in chart.table] == ["SNR of at least", "a"]
    assert dict(zip(chart.table[0], chart.table[1], strict=True)) == {
        "SNR of at least": "a", "60 dB": "0 %", "50 dB": "0 %", "40 dB": "20 %", "30 dB": "40 %",
        "20 dB": "60 %", "10 dB": "80 %", "0 dB": "80 %",
    }  # fmt: skip
    assert "a: 4 of 5 clips fall, half of those to a change of 30.0 dB or quieter. b: 66.7 % (2 of 3" in chart.alt
    dense = density_chart([("b", fixed), ("a", [*searched, result(40.0, "snr:40", "g" * 10)])])
    assert dense is not None
    assert "fewer letters a second has a median SNR of 42.5 dB, the denser half 25.0 dB" in dense.alt
    led = [{**line, "duration": line["duration"] - 0.5, "lead_in": 0.5} for line in [*searched, result(40.0, "snr:40", "g" * 10)]]
    assert density_chart([("b", fixed), ("a", led)]).alt == dense.alt, "the silence before a clip is time for letters"  # type: ignore[union-attr]
    assert [(look.label, look.points) for look in dense.legend] == [("a", True)], "a fixed bound says not what it takes"
    assert [(look.label, look.points) for look in chart.legend] == [("a", False), ("b", True)]
    for svg in (chart.svg, dense.svg):
        ElementTree.fromstring(svg)
        assert {"var(--s1)", "var(--soft)", "var(--line)"} <= set(re.findall(r"var\(--\w+\)", svg))
        assert not re.findall(r"#[0-9a-f]{6}", svg), "no colour but the page's own"
    assert success_chart([("a", [result(None, "snr:min")])]) is None
    assert density_chart([("a", searched[:2])]) is None
    assert success_chart([("a", searched)]).svg == success_chart([("a", searched)]).svg  # type: ignore[union-attr]


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_letters_stand_out_from_what_is_behind_them(theme: int) -> None:
    """WCAG 2.1 AA asks for 4.5 to 1."""
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", STYLE, flags=re.DOTALL)[theme]))
    letters = set(colours) - {"line", "page", "card"}
    assert len(letters) == 10
    for front, back in product(letters, ("page", "card")):
        bright, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (front, back)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here to draw the page with")
@pytest.mark.parametrize("width", [360, 1100])
def test_a_browser_shows_the_page_without_cutting_anything(report: Path, tmp_path: Path, width: int) -> None:
    wrapper = tmp_path / "wrapper.html"
    ask = "document.title = [this.contentDocument.documentElement.scrollWidth, this.contentDocument.querySelectorAll('audio').length]"
    wrapper.write_text(f'<iframe src="run/report.html" width="{width}" height="900" onload="{ask}" style="border: 0"></iframe>')
    browser = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--virtual-time-budget=3000"]
    dom = subprocess.run([*browser, "--dump-dom", str(wrapper)], capture_output=True, text=True, timeout=300, check=False).stdout  # type: ignore[list-item]
    found = re.search(r"<title>(\d+),(\d+)</title>", dom)
    assert found, dom[:500]
    assert int(found[1]) <= width, "nothing is wider than the screen"
    assert int(found[2]) == 12


def test_charts_know_a_search_by_its_bound_and_clips_that_need_no_change() -> None:
    for spec, found in (("l2:min_and_linf:0.02", True), ("linf:0.02_and_l2:min", True), ("linf:min", True), ("linf:0.1", False)):
        assert searched([{"bound_asked": spec}]) is found
        assert parse_bound(spec).minimal is found
    spec = "feature:0.5:my_file:min"  # a function of this name
    assert [searched([{"bound_asked": spec, "minimal": minimal}]) for minimal in (False, True)] == [False, True]
    needless = [{"reached": True, "outcome": "needless", "snr_db": None, "bound_asked": "linf:min"}] * 3
    changed = [{"reached": True, "outcome": "reached", "snr_db": ratio, "bound_asked": "linf:min"} for ratio in (20.0, 30.0, 40.0)]
    chart = success_chart([("A", needless), ("B", changed)])
    assert chart is not None
    assert "A: 3 of 3 clips fall, without any change." in chart.alt
    assert set(chart.table[1][1:]) == {"100 %"}


def test_a_silent_clip_falls_at_no_ratio() -> None:
    lines = [{"reached": True, "snr_db": 30.0, "outcome": "reached"}]
    lines += [{"reached": True, "snr_db": None, "outcome": outcome} for outcome in ("reached", "needless")]
    assert curve(lines) == [(30.0, 2)]

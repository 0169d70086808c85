"""What the README shows is so: each block of Python runs as it stands, on small stand-ins, and its figures can be had."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import recognisers
import torch
from nets import inputs_for, labels_of, linear
from torch import nn

import audioadv as aa
from audioadv import training
from audioadv.attacks.objective import objective
from audioadv.audio.files import Clip, round16
from audioadv.audio.ragged import pad
from audioadv.errors import OptionError
from audioadv.evaluation import games
from audioadv.threat.bounds import L2, Linf
from audioadv.threat.labels import Misclassify, margin

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
Scope = dict[str, Any]


def pictures(count: int = 8, side: int = 8, classes: int = 3) -> Scope:
    """Small images that a small net gets right."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(side * side, classes))
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(classes, side * side, generator=torch.Generator().manual_seed(0)))
    images = inputs_for((1, side, side), count, (0, 1)).float()
    return {"net": net, "images": images, "labels": labels_of(net, images)}


def spoken() -> Scope:
    generator = torch.Generator().manual_seed(0)
    clips = [Clip(str(n), round16(0.1 * torch.randn(n, generator=generator)), 16000) for n in (1600, 2240)]
    model = recognisers.linear()
    return {"model": model, "clips": clips, "texts": model.transcribe(*pad([clip.samples for clip in clips]))}


def to_learn() -> Scope:
    some = pictures(32)
    return {**some, "test_images": some["images"], "test_labels": some["labels"]}


def to_detect() -> Scope:
    some = pictures(100)
    noise = torch.randn(some["images"].shape, generator=torch.Generator().manual_seed(1)).sign()
    return {**some, "clean": some["images"], "adversarial": (some["images"] + 0.3 * noise).clamp(0, 1), "images": some["images"][:2]}


def to_steal() -> Scope:
    some = pictures(100, classes=8)
    return {**some, "copy": nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), "test_images": some["images"], "test_labels": some["labels"]}


def digits() -> Scope:
    return {"images": inputs_for((1, 28, 28), 2, (0, 1)).float(), "labels": torch.tensor([8, 8])}


def less(call: Callable[..., Any], options: Scope) -> Callable[..., Any]:
    """The same with these options, whatever the README asks for."""
    return lambda *arguments, **given: call(*arguments, **{**given, **options})


SHOWN: dict[str, tuple[Callable[[], Scope], Callable[[Scope], bool]]] = {
    "table.before": (spoken, lambda it: it["table"].robust_accuracy.count == 2 and bool(it["table"].trials[0].tried.all())),
    "my_net": (lambda: {"my_net": recognisers.listen}, lambda it: it["result"].reached == [True, True]),
    "x_adv": (pictures, lambda it: bool(((it["x_adv"] - it["images"]).abs() <= 8 / 255 + 1e-6).all())),
    "Expectation(": (pictures, lambda it: it["wanted"].expectation.memory_mib == 512),
    "t.train(": (to_learn, lambda it: Path("runs/pgd/weights.safetensors").exists()),
    "aa.check(": (lambda: {**pictures(4), "aa": aa, "my_attack": aa.attacks.pgd}, lambda it: True),
    "remembering(": (pictures, lambda it: it["game"].late_error.hits == 0 < it["game"].late_abstention.hits),
    "aa.defend(": (digits, lambda it: isinstance(it["model"], aa.Recogniser) and isinstance(it["net"], aa.Classifier)),
    "t.Backdoor(": (to_steal, lambda it: it["poisoned"].rows.numel() == 1 and it["victim"].queries <= 200),
    "Detected(": (to_detect, lambda it: it["certificates"].radii.shape == (2,) and bool(it["goal"].goals)),
}
FASTER: dict[str, tuple[object, str, Scope]] = {
    "my_net": (aa, "craft", {"steps": 150}),
    "aa.defend(": (aa, "evaluate", {"draws": 2, "judge_draws": 3}),
    "t.train(": (training, "train", {"passes": 3}),
    "remembering(": (games, "play", {"rounds": 60}),
    "t.Backdoor(": (training, "extract", {"queries": 200}),
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: next((key for key in (*SHOWN, "def frank_wolfe") if key in block), "new"))
def test_each_block_runs_as_it_stands(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "def " in block:  # below
        return
    (key,) = (key for key in SHOWN if key in block)
    make, holds = SHOWN[key]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    if key in FASTER:
        place, name, options = FASTER[key]
        monkeypatch.setattr(place, name, less(getattr(place, name), options))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    scope = {"aa": aa, **make()}
    exec(block, scope)
    torch.set_num_threads(threads)
    assert holds(scope)
    assert bool(capsys.readouterr().out.strip()) == ("print" in block)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not here")
def test_make_demo_runs_the_first_example() -> None:
    (shown,) = re.findall(r"^\$ (audioadv craft .*)$", (ROOT / "README.md").read_text(), re.M)
    planned = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f".venv/bin/{shown}" in planned.splitlines()  # which make, run by make, puts between lines of its own


def test_its_links_lead_somewhere() -> None:
    """Each to a file, or to a heading, which a page calls by its letters and dashes."""
    pages = {page: (ROOT / page).read_text() for page in ("README.md", "recipes/README.md")}
    headings = {
        page: {re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") for line in re.findall(r"^#+ (.*)", text, re.M)}
        for page, text in pages.items()
    }
    links = [(page, *link) for page, text in pages.items() for link in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text)]
    assert len(links) > 20
    for page, path, heading in links:
        assert (ROOT / (path or page)).exists(), path
        assert not heading or heading in headings[path or page], heading


def test_every_recipe_is_listed() -> None:
    listed = (ROOT / "recipes/README.md").read_text()
    helpers = {"half.py", "lines.py", "resnet.py"}
    assert {path.name for path in (ROOT / "recipes").glob("*.py")} - helpers <= set(re.findall(r"`(\w+\.py)`", listed))


def test_a_newcomers_attack_is_short_and_works() -> None:
    (source,) = (code for code in BLOCKS if "def " in code)
    assert source.count("\n") < 40
    scope: Scope = {}
    exec(source, scope)
    net, x = linear(3, (1, 5, 6)), inputs_for((1, 5, 6), 6, None)
    scores, labels = net(x).detach(), labels_of(net, x)
    weight = net[1].weight.detach()
    for bound, dual in ((Linf, 1), (L2, 2)):
        slopes = (weight[labels][:, None] - weight).norm(p=dual, dim=2)
        nearest = ((scores.gather(1, labels[:, None]) - scores) / slopes).scatter(1, labels[:, None], torch.inf).amin(1)
        region = bound(1.0).around(x, box=None)
        wanted = objective(net, Misclassify(labels, margin))
        assert not any(scope["frank_wolfe"](wanted, region.at(0.95 * nearest)).reached)
        result = scope["frank_wolfe"](wanted, region.at(1.2 * nearest))
        assert all(result.reached)
        assert (labels_of(net, result.adversarial) != labels).all()
        assert all(scope["frank_wolfe"](wanted, region.at(2 * nearest), steps=1).reached), "the last step counts"
    with pytest.raises(OptionError, match="frank_wolfe works within a fixed radius"):
        scope["frank_wolfe"](wanted, Linf("min").around(x, box=None))

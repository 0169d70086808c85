"""Adversarial training of a recogniser on speech that lies on the device: what it learns from, when it ends, and what it leaves."""

import itertools
import random
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes"))

import robust_recogniser as recipe  # noqa: E402
from speech.corpus import Corpus, add, read  # noqa: E402

import audioadv as aa  # noqa: E402
from audioadv.audio.ragged import pad  # noqa: E402
from audioadv.threat.ctc import frames_needed  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")])]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty clips of noise, the first three to be judged by, and one that is too short for its text."""
    rng, words = np.random.default_rng(0), random.Random(0)
    counts = rng.integers(8000, 16000, 20)
    clips = [(rng.integers(-9000, 9000, n).astype(np.int16), words.choice(["hello", "open the door", "kettle"]), "noise") for n in counts]
    add(tmp_path, 0, [*clips, (np.full(3000, 5, np.int16), "too much in too little time", "noise")])
    decay = torch.exp(-torch.arange(2000) / 300)
    torch.save((torch.randn(5, 2000, generator=torch.Generator().manual_seed(0)) * decay).half(), tmp_path / "rooms.pt")
    monkeypatch.setattr(recipe, "JUDGED", 3)
    return tmp_path


def cut_from(folder: Path, device: str = "cpu", minutes: float = np.inf, passes: int = 1) -> recipe.Cut:
    return recipe.Cut(Corpus(folder, device), recipe.room_responses(folder).to(device), 5.0, 0.5, None, minutes, passes)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(recipe.main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.mark.parametrize("device", DEVICES)
def test_a_pass_holds_each_clip_that_fits_its_text_but_those_to_be_judged_by(device: str, folder: Path) -> None:
    data, told = cut_from(folder, device), []
    for rows in data.order(torch.Generator().manual_seed(1)):
        batch = data.batch(rows, torch.Generator().manual_seed(2))
        again = data.batch(rows, torch.Generator().manual_seed(2))
        assert batch.inputs.equal(again.inputs)
        assert batch.inputs.device.type == device
        assert batch.lengths is not None
        assert (batch.inputs[torch.arange(batch.inputs.shape[1], device=device) >= batch.lengths[:, None]] == 0).all()
        assert batch.inputs.abs().amax(1).all()
        frames = recipe.bundled().net.frames(batch.lengths)
        assert all(frames_needed(text) <= count for text, count in zip(batch.goal.references, frames.tolist(), strict=True))
        told += batch.goal.references
    texts = [line["text"] for line in read(folder)[0]]
    assert sorted(told) == sorted(texts[3:-1])
    clips, judged = data.left_out()
    assert judged == texts[:3]
    start, end, _ = data.corpus.clips[2]
    assert len(clips[2]) == end - start


def test_doubled_letters_are_what_a_text_needs_more_frames_for() -> None:
    texts = ["hello", "ooh", "a", "aaaa", "see ee"]
    letters = np.array([len(text) for text in texts])
    more = recipe.doubled("".join(texts), letters.cumsum() - letters, letters)
    assert (letters + more).tolist() == [frames_needed(text) for text in texts]


def test_passes_share_the_time_that_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 3)  # each look at it takes three seconds
    monkeypatch.setattr(recipe, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(recipe, "PROBED", 2)
    data = cut_from(folder, minutes=1, passes=3)
    first = data.order(torch.Generator().manual_seed(0))
    assert len(first) == 2
    for rows in first:
        data.batch(rows, torch.Generator())
    assert data.affordable() == int((60 - 9) / 2 / 3)
    assert data.affordable() == 2  # nothing is known of the pace again
    for _ in range(40):
        data.batch(first[0], torch.Generator())
    assert data.affordable() == 1  # too late


@pytest.mark.parametrize("device", DEVICES)
def test_training_leaves_half_precision_weights_from_which_it_may_begin(device: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quickly, begun = recipe.quickly, []

    def briefly(model: Any, speech: Any, steps: int) -> str:
        begun.append(model.net.state_dict()["head.weight"].clone() if steps == 50 else None)
        return str(quickly(model, speech, 1))

    monkeypatch.setattr(recipe, "quickly", briefly)
    options = ["train", folder, "--device", device, "--seconds", 5, "--steps", 1, "--passes", 2, "--batches", 1]
    result = run(*options, "--out", folder / "run")
    assert result.exit_code == 0
    assert all(word in result.output for word in ("before: WER", "pass 1: loss", "pass 2: loss", "after: WER", "at snr:30"))
    whole, half = load_file(folder / "run/weights.safetensors"), load_file(folder / "run/half.safetensors")
    assert half["head.weight"].equal(whole["net.head.weight"].half())
    assert not whole["net.head.weight"].equal(recipe.bundled().net.head.weight.detach())
    assert run("export", folder / "run/checkpoint.pt", folder / "exported.safetensors").exit_code == 0
    assert all(value.equal(half[name]) for name, value in load_file(folder / "exported.safetensors").items())
    assert run(*options, "--out", folder / "run").exit_code == 0  # from the checkpoint, which is of the end
    assert load_file(folder / "run/weights.safetensors")["net.head.weight"].equal(whole["net.head.weight"])
    begun.clear()
    assert run(*options, "--start", folder / "exported.safetensors", "--out", folder / "more").exit_code == 0
    assert begun[0].cpu().equal(half["head.weight"].float())


def test_the_bundled_robust_net_still_hears_and_withstands_more() -> None:
    clips, texts = (part[:6] for part in recipe.samples())
    waveforms, lengths = pad(clips)
    found = {}
    for name in ("tiny-mel", "tiny-mel-robust"):
        attack = {"pgd": partial(aa.attacks.pgd, steps=20, step_size=0.2)}
        options = {"attacks": attack, "lengths": lengths}
        found[name] = aa.evaluate(aa.load_model(name), waveforms, texts, aa.ThreatModel(aa.SNR(30)), **options)
    plain, robust = found["tiny-mel"], found["tiny-mel-robust"]
    assert robust.before.value < plain.before.value + 0.2
    assert robust.after.value < plain.after.value - 0.3

"""The recognisers' training: batches are cut right, go on where they stopped, end annealed, and never wait for a GPU."""

import itertools
import random
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes"))

import train_recogniser  # noqa: E402
from speech import synthesisers  # noqa: E402
from speech.augment import augment, dealt, other_mouth  # noqa: E402
from speech.corpus import TAPS, TICKS, Corpus, add, cut, interpolation, read  # noqa: E402
from torch import Tensor  # noqa: E402

from audioadv.models.alphabet import ALPHABET  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")])]
THERE = [program for program in train_recogniser.PROGRAMS if not synthesisers.missing([program])]
WORDS = ("one", "two", "don't", "kettle", "open the door")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty clips of noise, half a second to one and a half, with rooms."""
    rng, words = np.random.default_rng(0), random.Random(0)
    for shard in range(2):
        counts = rng.integers(8000, 24000, 20)
        clips = [(rng.integers(-9000, 9000, n).astype(np.int16), " ".join(words.choices(WORDS, k=2)), "noise") for n in counts]
        add(tmp_path, shard, clips)
    decay = torch.exp(-torch.arange(2000) / 300)
    torch.save((torch.randn(5, 2000, generator=torch.Generator().manual_seed(0)) * decay).half(), tmp_path / "rooms.pt")
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(train_recogniser.cli, [str(argument) for argument in arguments], catch_exceptions=False)


def state(out: Path) -> dict[str, Tensor]:
    return dict(torch.load(out / "checkpoint.pt", weights_only=True)["net"])


@pytest.mark.parametrize("model", ["tiny-mel", "tiny-wave"])
def test_training_goes_on_where_it_was_stopped_to_the_same_bytes(model: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["train", folder, "--model", model, "--steps", 5, "--seconds", 12]
    assert run(*options, "--out", folder / "whole").exit_code == 0
    learn, taken = train_recogniser.learn, []

    def stopped(*arguments: object) -> Tensor:
        taken.append(arguments)
        if len(taken) == 4:
            raise RuntimeError("the power failed")
        return learn(*arguments)

    monkeypatch.setattr(train_recogniser, "SAVED", 2)
    monkeypatch.setattr(train_recogniser, "learn", stopped)
    with pytest.raises(RuntimeError, match="power"):
        run(*options, "--out", folder / "parts")
    monkeypatch.setattr(train_recogniser, "learn", learn)
    assert run(*options, "--out", folder / "parts").exit_code == 0
    whole, parts = state(folder / "whole"), state(folder / "parts")
    assert all(whole[name].equal(parts[name]) for name in whole)


def test_a_run_of_some_minutes_ends_with_them_and_does_not_begin_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(100)  # each look at it takes a second
    monkeypatch.setattr(train_recogniser, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    options = ["train", folder, "--model", "tiny-mel", "--minutes", 0.1, "--seconds", 6, "--out", folder / "run"]
    assert "step 3 " in run(*options).output
    saved = torch.load(folder / "run/checkpoint.pt", weights_only=True)
    assert saved["step"] == 3
    assert 6 <= saved["spent"] <= 8
    assert run(*options).output == ""
    options[options.index(0.1)] = 0.2
    assert "step 5 " in run(*options).output  # goes on with what is left


def test_the_rate_rises_holds_and_falls_to_nothing() -> None:
    spent = np.linspace(0, 1, 401)
    rates = np.array([train_recogniser.pace(share) for share in spent])
    assert rates[0] == pytest.approx(0.01)
    assert rates[-1] == 0
    assert (rates[(spent > 0.02) & (spent < 0.75)] == 1).all()
    assert rates[spent == 0.875] == pytest.approx(0.5)


def test_a_budget_and_a_corpus_are_asked_for(tmp_path: Path, folder: Path) -> None:
    assert "--steps or --minutes" in run("train", folder, "--model", "tiny-mel", "--out", tmp_path / "run").output
    (folder / "clips.jsonl").unlink()
    result = run("train", folder, "--model", "tiny-mel", "--steps", 1, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "nothing is spoken there" in result.output


def test_a_teacher_is_listened_to_and_runs_are_averaged(folder: Path) -> None:
    options = ["train", folder, "--steps", 1, "--seconds", 12]
    run(*options, "--model", "tiny-mel", "--out", folder / "mel")
    run("export", folder / "mel/checkpoint.pt", folder / "mel.safetensors")
    run(*options, "--model", "tiny-wave", "--teacher", folder / "mel.safetensors", "--out", folder / "taught")
    run(*options, "--model", "tiny-wave", "--out", folder / "alone")
    assert not state(folder / "taught")["head.weight"].equal(state(folder / "alone")["head.weight"])
    run(*options, "--model", "tiny-mel", "--teacher", folder / "alone/checkpoint.pt", "--out", folder / "back")
    assert not state(folder / "back")["head.weight"].equal(state(folder / "mel")["head.weight"])
    run("export", folder / "taught/checkpoint.pt", folder / "alone/checkpoint.pt", folder / "mean.safetensors")
    mean = train_recogniser.weights(folder / "mean.safetensors")
    assert mean["step"] == "1 + 1"
    expected = (state(folder / "taught")["head.bias"] + state(folder / "alone")["head.bias"]) / 2
    assert torch.allclose(mean["net"]["head.bias"].float(), expected, atol=1e-3)


def test_two_runs_are_mixed_by_shares_and_what_one_lacks_is_zero_there(tmp_path: Path) -> None:
    old, new = {"head.bias": torch.full((3,), 1.0)}, {"head.bias": torch.full((3,), 2.0), "blocks.0.fit.bias": torch.full((3,), 4.0)}
    paths = [tmp_path / "old.pt", tmp_path / "new.pt"]
    for path, net in zip(paths, (old, new), strict=True):
        torch.save({"net": net, "model": "tiny-mel", "step": 7}, path)
    for options, bias, fit in (([], 1.5, 2.0), (["0.25"], 1.25, 1.0), (["0.25", "fit=0.75"], 1.25, 3.0), (["fit=1"], 1.5, 4.0)):
        run("export", *paths, tmp_path / "mixed.safetensors", *(word for share in options for word in ("--share", share)))
        mixed = train_recogniser.weights(tmp_path / "mixed.safetensors")["net"]
        assert mixed["head.bias"].tolist() == [bias] * 3
        assert mixed["blocks.0.fit.bias"].tolist() == [fit] * 3
    for runs, share in ((paths, "2"), (paths, "fit=much"), (paths[:1], "0.5")):
        result = run("export", *runs, tmp_path / "none.safetensors", "--share", share)
        assert result.exit_code == 2
        assert "--share" in result.output
    assert not (tmp_path / "none.safetensors").exists()


@pytest.mark.parametrize("device", DEVICES)
def test_a_pass_holds_each_clip_once_with_its_text(device: str, folder: Path) -> None:
    corpus = Corpus(folder, device)
    corpus.grow()
    batches = list(corpus.one_pass(12, 0))
    lines, _ = read(folder)
    texts = []
    for batch in batches:
        assert len(batch.waveforms) == 1 or batch.waveforms.numel() <= 12 * 16000
        assert (batch.lengths <= batch.waveforms.shape[1]).all()
        frames = train_recogniser.TinyMel.frames(batch.lengths)
        assert batch.frames.tolist() == frames.tolist()
        spelt = zip(batch.targets.tolist(), batch.letters.tolist(), strict=True)
        texts += ["".join(ALPHABET[code] for code in row[:count]) for row, count in spelt]
    assert sorted(texts) == sorted(line["text"] for line in lines)
    rest = list(corpus.one_pass(12, 0, skip=2))
    assert [batch.waveforms.shape for batch in rest] == [batch.waveforms.shape for batch in batches[2:]]
    assert all(again.waveforms.equal(first.waveforms) for again, first in zip(rest, batches[2:], strict=True))


@pytest.mark.parametrize("resident", [False, True])
def test_a_corpus_grows_by_what_is_spoken_meanwhile(resident: bool, folder: Path) -> None:
    corpus = Corpus(folder, "cpu", resident)
    corpus.grow()
    before, first = len(corpus.clips), corpus.samples[:1000].clone()
    add(folder, 2, [(np.full(9000, 7, np.int16), "two", "noise"), (np.full(900000, 7, np.int16), "too long", "noise")])
    with (folder / "clips.jsonl").open("a") as index:
        index.write('{"shard": 3, "sta')
    corpus.grow()
    assert len(corpus.clips) == before + 1
    assert corpus.samples[:1000].equal(first)
    assert first.any()
    start, end, letters = corpus.clips[-1]
    assert (corpus.samples[start:end] == 7).all()
    assert letters == 3
    assert run("speak", folder, "--hours", 0).exit_code == 0  # cuts off what a kill left
    with (folder / "speech.int16").open("ab") as speech:
        speech.write(b"x")
    add(folder, 4, [(np.full(900, 8, np.int16), "two", "noise")])
    corpus.grow()
    start, end, _ = corpus.clips[-1]
    assert (corpus.samples[start:end] == 8).all()


def test_a_shard_that_was_cut_short_is_none_and_is_spoken_again(folder: Path) -> None:
    """The index ends within its third shard, after some whole lines: a full disk's doing."""
    index, clips = folder / "clips.jsonl", [(np.full(900, 7, np.int16), f"number {i}", "noise") for i in range(9)]
    before, corpus = index.read_bytes(), Corpus(folder, "cpu")
    add(folder, 2, clips)
    whole = index.read_bytes()
    for size in (len(whole) - 40, len(before) + 10, whole.rindex(b"{")):
        index.write_bytes(whole[:size])
        found, end = read(folder)
        assert {clip["shard"] for clip in found} == {0, 1}
        assert end == len(before)
    corpus.grow()
    assert run("speak", folder, "--hours", 0).exit_code == 0
    assert index.read_bytes() == before
    add(folder, 2, clips)
    corpus.grow()
    assert len(corpus.clips) == len(read(folder)[0]) == len(found) + 9
    start, end, _ = corpus.clips[-1]
    assert (corpus.samples[start:end] == 7).all()


def test_a_clip_is_cut_out_after_its_lead_and_at_its_own_speed() -> None:
    """At half the Nyquist rate the interpolation errs by less than 1 %; at a speed of one it does not err."""
    hz = 4000
    tone = torch.sin(2 * torch.pi * hz * torch.arange(16000) / 16000)
    samples = (tone * 20000).short()
    start, count, speed, lead = torch.tensor([[1000, 1000], [8000, 8000], [TICKS, 1100], [50, 80]])
    same, faster = cut(samples, interpolation(), 9000, start, count, speed, lead)
    assert (same[:50] == 0).all()
    assert torch.allclose(same[50:8050], samples[1000:9000].float() / 32768, atol=1e-7)
    assert (same[8050:] == 0).all()
    clock = 1000 + (torch.arange(9000) - 80) * 1100 / TICKS
    expected = torch.sin(2 * torch.pi * hz * clock.double() / 16000) * 20000 / 32768
    inside = slice(80, 80 + 8000 * TICKS // 1100)
    assert (faster[inside] - expected[inside]).abs().max() < 0.01 * 20000 / 32768
    assert (faster[inside.stop + 1 :] == 0).all()
    assert interpolation().shape == (TAPS, TICKS)


@pytest.mark.parametrize("device", DEVICES)
def test_spoilt_speech_is_silent_past_its_end_and_within_full_scale(device: str) -> None:
    generator = torch.Generator(device)
    lengths = torch.tensor([16000, 9000, 12000] * 8, device=device)
    speech = 0.1 * torch.randn(24, 16000, generator=generator.manual_seed(0), device=device)
    speech = speech * (torch.arange(16000, device=device) < lengths[:, None])
    rooms = torch.randn(4, 3000, generator=generator, device=device).half() * torch.exp(-torch.arange(3000, device=device) / 300).half()
    before = speech.clone()
    for seed in range(5):
        spoilt = augment(speech, lengths, rooms, generator.manual_seed(seed))
        assert spoilt.isfinite().all()
        assert spoilt.abs().max() <= 1
        assert (spoilt[torch.arange(16000, device=device) >= lengths[:, None]] == 0).all()
        assert (spoilt.square().mean(1) > 0).all()
        assert spoilt.equal(augment(speech, lengths, rooms, generator.manual_seed(seed)))
    assert speech.equal(before)
    one = augment(speech[:1], lengths[:1], rooms, generator.manual_seed(0))
    assert one.shape == (1, 16000)


def test_another_mouth_moves_formants_each_its_own_way_and_leaves_the_pitch() -> None:
    """A buzz of 125 Hz through a formant at 1.5 kHz: its harmonics stay where they are, and the loudest is another one."""
    clock = torch.arange(16000) / 16000
    harmonics = 125.0 * torch.arange(1, 60)
    loudness = torch.exp(-(((harmonics - 1500) / 300) ** 2))
    buzz = (loudness[:, None] * torch.sin(2 * torch.pi * harmonics[:, None] * clock)).sum(0) / 10
    moved = other_mouth(buzz.repeat(40, 1), torch.Generator().manual_seed(0))
    spectra = torch.fft.rfft(moved[:, 2000:14000] * torch.hann_window(12000)).abs()  # bins of 4/3 Hz
    near = ((torch.arange(spectra.shape[1]) * 4 / 3 + 62.5) % 125 - 62.5).abs() < 4
    assert (spectra[:, near].square().sum(1) > 0.98 * spectra.square().sum(1)).all()
    centre = (spectra.square() @ (torch.arange(spectra.shape[1]) * 4 / 3)) / spectra.square().sum(1)
    octaves = torch.log2(centre / 1500)
    assert octaves.std() > 0.08
    assert octaves.abs().max() < 0.5
    assert (octaves > 0.05).any()
    assert (octaves < -0.05).any()
    assert moved.equal(other_mouth(buzz.repeat(40, 1), torch.Generator().manual_seed(0)))


def test_clips_are_dealt_out_by_their_shares() -> None:
    counts = torch.zeros(2)
    for seed in range(400):
        first, second = dealt(5, [0.5, 0.15], torch.Generator().manual_seed(seed))
        assert not set(first.tolist()) & set(second.tolist())
        counts += torch.tensor([len(first), len(second)])
    assert torch.allclose(counts / 400, torch.tensor([2.5, 0.75]), atol=0.1)


def test_matrices_of_one_shape_are_turned_as_torch_turns_each() -> None:
    net = train_recogniser.TinyMel(width=32, blocks=3)
    net.blocks.append(torch.nn.Linear(16, 48))  # a tall one
    ours = train_recogniser.Optimiser(net, 0.01)
    theirs = [torch.nn.Parameter(p.detach().flatten(1).clone()) for alike in ours.alike.values() for p in alike]
    muon = torch.optim.Muon(theirs, lr=0.01, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        slopes = [torch.randn_like(p) for p in theirs]
        for p, q, slope in zip((p for alike in ours.alike.values() for p in alike), theirs, slopes, strict=True):
            p.grad, q.grad = slope.view_as(p), slope
        ours.step(1.0)
        muon.step()
    for p, q in zip((p for alike in ours.alike.values() for p in alike), theirs, strict=True):
        assert torch.allclose(p.detach().flatten(1), q, atol=5e-4)  # a step is 0.002 an element, and bfloat16 rounds at 1/256


def test_the_training_asks_for_no_library_of_rooms_or_of_listening() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(('pyroomacoustics', 'librosa', 'jiwer', 'matplotlib')))"
    code = f"{blocked}; sys.path.insert(0, {str(ROOT / 'recipes')!r}); import train_recogniser"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_without_a_voice_nothing_is_begun_and_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = run("speak", tmp_path / "corpus", "--hours", 1)
    assert result.exit_code == 2
    assert "espeak-ng, flite, festival" in result.output
    result = run("speak", tmp_path / "corpus", "--hours", 1, "--only", "flite")
    assert result.exit_code == 2
    assert "no voices from flite: " in result.output
    assert not (tmp_path / "corpus").exists()


def test_the_voices_of_what_is_named_keep_their_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_recogniser, "SHARD", 1500)
    monkeypatch.setattr(synthesisers, "say", lambda jobs: [(np.full(1600, 9000, np.int16), 16000)] * len(jobs))
    programs = {}
    for only in (("espeak", "flite"), train_recogniser.PROGRAMS):
        _, clips = train_recogniser.shard(7, only)
        spoken = [voice.split(":")[0] for _, _, voice in clips]
        programs[len(only)] = {program: spoken.count(program) / len(spoken) for program in sorted({*spoken})}
    espeak, flite = 0.75 * 0.45, 0.25 * 0.45 + 0.2
    assert programs[4] == pytest.approx({"espeak": espeak, "festival": 0.15, "flite": flite, "rhvoice": 0.2}, abs=0.05)
    assert programs[2] == pytest.approx({"espeak": espeak / (espeak + flite), "flite": flite / (espeak + flite)}, abs=0.05)


@pytest.mark.skipif(not {"espeak", "flite"} <= {*THERE}, reason="no voices")
def test_a_shard_is_spoken_the_same_in_any_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(train_recogniser, "SHARD", 12)
    only = [word for program in THERE if synthesisers.missing() for word in ("--only", program)]
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "rooms.pt", tmp_path / name)
        assert run("speak", tmp_path / name, "--hours", 24 * 1.93 / 3600, *only).exit_code == 0
    once, again = (sorted(read(tmp_path / name)[0], key=lambda line: (line["shard"], line["start"])) for name in ("once", "again"))
    assert [(line["text"], line["voice"]) for line in once] == [(line["text"], line["voice"]) for line in again]
    assert {line["voice"].split(":")[0] for line in once} == {*THERE}
    samples = [np.fromfile(tmp_path / name / "speech.int16", np.int16) for name in ("once", "again")]
    for first, second in zip(once, again, strict=True):
        assert (samples[0][first["start"] : first["end"]] == samples[1][second["start"] : second["end"]]).all()
    assert run("speak", tmp_path / "once", "--hours", 24 * 1.93 / 3600, *only).output == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("model", ["tiny-mel", "tiny-wave"])
def test_a_step_never_waits_for_the_gpu_but_in_ctc(model: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = train_recogniser.NETS[model]().cuda()
    master = train_recogniser.TinyMel().cuda().eval()
    optimiser = train_recogniser.Optimiser(net, 1e-3)
    rooms = torch.load(folder / "rooms.pt", weights_only=True).cuda()
    work = train_recogniser.batches(Corpus(folder, "cuda"), 6, 0, 0)
    for step in range(2):  # the first use of a kernel may wait
        train_recogniser.learn(net, master, optimiser, next(work)[2], rooms, step, 1.0)
    monkeypatch.setattr(train_recogniser.F, "ctc_loss", lambda log_probs, *_, **__: -log_probs.mean())
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2, 4):
            train_recogniser.learn(net, master, optimiser, next(work)[2], rooms, step, 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")

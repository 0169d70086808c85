"""A folder of spoken sentences, and batches of them cut out on the device that learns.

    speech.int16    all samples end to end, 16 kHz
    clips.jsonl     one line a clip: shard, start, end, text, voice, and how many of the shard are left

Both only grow, so that speech may be added while a training reads it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speech.voices import SAMPLE_RATE
from torch import Tensor

from audioadv.models.alphabet import ALPHABET
from audioadv.models.frames import HIDDEN_HOP

LONGEST = 9 * SAMPLE_RATE
WIDTH_STEP = 5120  # batches are so many samples wide, or a multiple: few shapes, each planned once by the FFT and the allocator
LONGEST_TEXT = 500
SLOWEST, FASTEST = 0.88, 1.12
TICKS, TAPS = 1024, 8  # places between two samples, samples that each new one is made of
Clip = tuple[np.ndarray, str, str]  # samples (int16), text, voice
CODES = {ord(letter): column for column, letter in enumerate(ALPHABET) if letter}


def read(folder: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Clips from this byte of the index on, and where they end: a shard that is still being written, or was cut short, is none."""
    index = folder / "clips.jsonl"
    if not index.exists():
        return [], 0
    with index.open("rb") as file:
        file.seek(offset)
        lines = file.read().splitlines(keepends=True)
    clips = [json.loads(line) for line in lines if line.endswith(b"\n")]
    whole = max((number for number, clip in enumerate(clips, 1) if not clip.get("left")), default=0)
    return clips[:whole], offset + sum(map(len, lines[:whole]))


def mapped(folder: Path, size: int) -> Tensor:
    """So many samples of the corpus, on the disk until they are asked for. Shapes: -> [size], int16."""
    return torch.from_file(str(folder / "speech.int16"), size=size, dtype=torch.int16)


def add(folder: Path, shard: int, clips: list[Clip]) -> None:
    """Append clips."""
    with (folder / "speech.int16").open("ab") as speech, (folder / "clips.jsonl").open("a") as index:
        speech.write(bytes(speech.tell() % 2))  # half a sample, where a kill left the other half
        start, rows = speech.tell() // 2, []
        for left, (samples, text, voice) in zip(reversed(range(len(clips))), clips, strict=True):
            rows.append({"shard": shard, "start": start, "end": start + len(samples), "text": text, "voice": voice, "left": left})
            start += len(samples)
        speech.write(np.concatenate([samples for samples, _, _ in clips]).tobytes())
        speech.flush()
        index.write("".join(json.dumps(row) + "\n" for row in rows))


@dataclass(frozen=True)
class Batch:
    """`waveforms` [batch, time] and `targets` [batch, letters] on the device, and on the host what is asked for there."""

    waveforms: Tensor
    lengths: Tensor  # samples, on the device
    targets: Tensor  # what stands past the end of a text is no part of it
    frames: Tensor  # output frames, on the host, as CTC reads them
    letters: Tensor  # of each text, on the host


class Corpus:
    """All clips so far: on a CPU mapped from the file, on a GPU resident, two bytes a sample and half as much again to grow.

    That is 10 GB at most for 60 hours.
    """

    def __init__(self, folder: Path, device: str, resident: bool | None = None) -> None:
        self.folder, self.device = folder, torch.device(device)
        self.resident = self.device.type != "cpu" if resident is None else resident
        self.samples, self.taps = torch.zeros(0, dtype=torch.int16, device=device), interpolation().to(device)
        self.clips = np.zeros((0, 3), np.int64)  # start, end, letters
        self.texts, self.offset = "", 0

    def grow(self) -> None:
        """Take in what has been spoken since the last time."""
        clips, self.offset = read(self.folder, self.offset)
        clips = [clip for clip in clips if clip["end"] - clip["start"] < LONGEST]
        if not clips:
            return
        known, size = int(self.clips[-1, 1]) if len(self.clips) else 0, clips[-1]["end"]
        whole = mapped(self.folder, size)
        if self.resident:
            if size > len(self.samples):  # it is made half as long again as it must be, so that it seldom moves
                self.samples = torch.cat([self.samples[:known], self.samples.new_zeros(size + size // 2 - known)])
            self.samples[known:size] = whole[known:].to(self.device)
        else:
            self.samples = whole
        self.clips = np.concatenate([self.clips, [(clip["start"], clip["end"], len(clip["text"])) for clip in clips]])
        self.texts += "".join(clip["text"] for clip in clips)
        spaces = " " * LONGEST_TEXT  # a window of letters may look past the last text
        self.text = torch.frombuffer(bytearray((self.texts + spaces).translate(CODES), "latin1"), dtype=torch.uint8).to(self.device)

    def one_pass(self, seconds: float, seed: int, skip: int = 0) -> Iterator[Batch]:
        """Each clip once, but for the first `skip` batches (see `drawn`)."""
        drawn = self.drawn(seconds, seed)
        for group in drawn.groups[skip:]:
            yield self.batch(drawn, group)

    def drawn(self, seconds: float, seed: int, chosen: np.ndarray | None = None) -> "Pass":
        """A pass over all clips, or over the `chosen` ones: clips of like length together, `seconds` with the padding a batch.

        Each is played at a speed of its own, 0.88 to 1.12, pitch and all, after up to a quarter of a second of silence, and with
        as much after it. What a batch needs is drawn before the pass, and lies on the device.
        """
        rng = np.random.default_rng(seed)
        texts = self.clips[:, 2].cumsum() - self.clips[:, 2]
        (start, end, letters), texts = (self.clips.T, texts) if chosen is None else (self.clips[chosen].T, texts[chosen])
        clips = len(start)
        speed = rng.integers(round(SLOWEST * TICKS), round(FASTEST * TICKS), clips, endpoint=True)
        lead, tail = rng.integers(SAMPLE_RATE // 4, size=(2, clips))
        length = lead + (end - start) * TICKS // speed + tail
        steps = -(-length // WIDTH_STEP)
        order = np.lexsort((rng.random(clips), -steps))
        groups: list[slice] = []
        while (first := groups[-1].stop if groups else 0) < clips:
            width = int(steps[order[first]]) * WIDTH_STEP
            groups.append(slice(first, first + max(1, int(seconds * SAMPLE_RATE / width))))
        columns = np.stack([start, end - start, speed, lead, length, texts])[:, order]
        table, spelt = torch.from_numpy(columns).to(self.device), torch.from_numpy(letters[order])
        frames = torch.from_numpy(2 * -(-length[order] // HIDDEN_HOP))
        widths = WIDTH_STEP * steps[order]
        clip = order if chosen is None else chosen[order]
        return Pass([groups[place] for place in rng.permutation(len(groups))], clip, widths, table, frames, spelt)

    def batch(self, drawn: "Pass", group: slice) -> Batch:
        """Some clips of a pass, the longest first."""
        *where, lengths, text = drawn.table[:, group]
        waveforms = cut(self.samples, self.taps, int(drawn.widths[group.start]), *where)
        targets = self.text.unfold(0, int(drawn.letters[group].max()), 1)[text].long()
        return Batch(waveforms, lengths, targets, drawn.frames[group], drawn.letters[group])


@dataclass(frozen=True)
class Pass:
    """How each clip is cut, longest first, and which ones together, in the order of their turns."""

    groups: list[slice]
    clips: np.ndarray  # which of the corpus they are
    widths: np.ndarray  # samples
    table: Tensor  # on the device: start, samples, speed, lead, length, place of the text
    frames: Tensor  # on the host, as CTC reads them
    letters: Tensor  # likewise


def cut(samples: Tensor, taps: Tensor, width: int, start: Tensor, count: Tensor, speed: Tensor, lead: Tensor) -> Tensor:
    """Each clip after its lead of silence, played faster (a speed over `TICKS`) or slower. Shapes: [batch] each -> [batch, width].

    A new sample lies between two old ones, and is made of the eight around it.
    """
    ticks = (torch.arange(width, device=samples.device) - lead[:, None]) * speed[:, None]
    place, between = ticks.div(TICKS, rounding_mode="floor"), ticks.remainder(TICKS).flatten()
    around = (start[:, None] + place - TAPS // 2 + 1).clamp(0, len(samples) - TAPS).flatten()
    speech = torch.zeros(len(around), device=samples.device)
    for tap, weights in enumerate(taps):  # index_select is several times as quick as other ways to gather, on a CPU
        speech += samples[tap:].index_select(0, around) * weights.index_select(0, between)
    return speech.view_as(place) * ((place >= 0) & (place < count[:, None]))


def interpolation() -> Tensor:
    """Weights of the samples around each place between two, from int16 to full scale 1. Shapes: -> [TAPS, TICKS].

    A sinc under a Hann window.
    """
    away = torch.arange(TAPS)[:, None] - TAPS // 2 + 1 - torch.arange(TICKS) / TICKS
    weights = torch.sinc(away) * torch.cos(torch.pi * away / TAPS) ** 2
    return weights / weights.sum(0) / 32768

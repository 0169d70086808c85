"""The Free Spoken Digit Dataset, where it is beside the repository: clips of one length, split by take."""

import json
from pathlib import Path

import soundfile
import torch
from torch import Tensor

SHARED = Path(__file__).resolve().parent.parent.parent / "shared/data"
SAMPLES = 6000  # of each clip, at 8 kHz: longer ones are cut, shorter ones padded
TEST_TAKES = 5  # takes 0 to 4 of each speaker and digit are the test set, as the data's authors have it


def spoken_digits(count: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training sounds and labels, test sounds and labels; only so many for training. Shapes: [clips, time] at 8 kHz, [clips]."""
    sound, _ = soundfile.read(SHARED / "fsdd/recordings.flac", dtype="float32")
    entries = json.loads((SHARED / "fsdd/index.json").read_text())["recordings"]
    clips, labels, tests = torch.zeros(len(entries), SAMPLES), [], []
    for row, entry in enumerate(entries):
        own = torch.from_numpy(sound[entry["start"] : entry["end"]][:SAMPLES])
        clips[row, : len(own)] = own
        labels.append(int(entry["digit"]))
        tests.append(int(entry["take"]) < TEST_TAKES)
    order = torch.randperm(len(entries), generator=torch.Generator().manual_seed(0))
    test, label = torch.tensor(tests)[order], torch.tensor(labels)[order]
    train = (~test).nonzero()[:count, 0]
    return clips[order][train], label[train], clips[order][test], label[test]

"""Labelled sounds, as float32 [count, time] at full scale +-1, cut or padded to one length.

fsdd(FOLDER)            2,000 spoken digits by four speakers, 8 kHz (Free Spoken Digit Dataset, CC BY-SA 4.0)
"""

import json
from pathlib import Path
from typing import Literal, NamedTuple, final

import soundfile
import torch
from torch import Tensor

from audioadv.errors import InputError

TEST_TAKES = 5  # of each digit by each speaker: the data set's own split


@final
class Sounds(NamedTuple):
    """Shapes: waveforms [count, time], labels int64 [count]; `classes` names each label. Units: Hz."""

    waveforms: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    sample_rate: int

    def first(self, count: int) -> "Sounds":
        """The first `count` of them."""
        return self._replace(waveforms=self.waveforms[:count], labels=self.labels[:count])


def fsdd(folder: Path | str, part: str = "test", *, of: Literal["digit", "speaker"] = "digit", seconds: float = 1.0) -> Sounds:
    """Spoken digits from `recordings.flac` (all end to end) and `index.json`: 1,800 in `train`, 200 in `test`.

    The split is the data set's own: takes 0 to 4 of each digit by each speaker are `test`, so that speakers are in both. Take by
    take: each 40 in a row hold every digit by every speaker once. `of` says what is to be told, the digit or the speaker;
    sounds longer than `seconds` are cut, shorter ones padded with zeros. Raises InputError.
    """
    folder = Path(folder)
    try:
        index = json.loads((folder / "index.json").read_text())
        samples, rate = soundfile.read(folder / "recordings.flac", dtype="float32")
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"{folder}: no spoken digits ({error}). It must hold recordings.flac and index.json") from error
    some = [entry for entry in index["recordings"] if (entry["take"] < TEST_TAKES) == (part == "test")]
    some.sort(key=lambda entry: (entry["take"], entry["digit"], entry["speaker"]))
    waveforms = torch.zeros(len(some), round(seconds * rate))
    for row, entry in zip(waveforms, some, strict=True):
        own = torch.from_numpy(samples[entry["start"] : entry["end"]])[: len(row)]
        row[: len(own)] = own
    classes = tuple("0123456789") if of == "digit" else tuple(index["speakers"])
    return Sounds(waveforms, torch.tensor([classes.index(str(entry[of])) for entry in some]), classes, rate)

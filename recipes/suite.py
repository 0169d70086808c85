"""The craft suite: 20 carriers with 2 targets each, and how an answer to one of the 40 pairs is judged.

    python recipes/suite.py                      # prints the pairs

Where `../shared/data` lies beside the project, 11 of the carriers are real recordings; elsewhere all come from `samples/`.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import click
import soundfile
import torch
from torch import Tensor

from audioadv.audio.files import Clip, read_clip, round16, write_wav
from audioadv.audio.levels import relative_db, snr_db
from audioadv.models.recogniser import Recogniser

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared/data"
SAMPLE_RATE = 16000
DENSEST = 15.0  # letters a second of the carrier, gaps counted
LONGEST_SECONDS, CUT_SECONDS = 5.0, 4.5

# (a kind of carrier, the clips of it). "a+b" is both at once.
OWN = (("speech", "kitchen phone letter"), ("music", "music drums"), ("noise", "rain babble"), ("quiet", "room hush"))
REAL = (
    ("real speech", "speech_aew_a0001 speech_aew_a0002 speech_aew_a0003 speech_axb_a0004 speech_axb_a0005 speech_axb_a0006 german_speech"),
    ("real music", "guitar"),
    ("real noise", "noise_dishes"),
)
DIGITS = (("george", (4, 7, 1, 9)), ("nicolas", (2, 8, 5, 3)))
WITHOUT_DATA = (
    ("speech", "kitchen lights weather train breakfast market phone letter garden kitchen+music lights+rain"),
    ("music", "music guitar organ drums"),
    ("noise", "rain fan babble"),
    ("quiet", "room hush"),
)
# How dense the two targets of a carrier are, as shares of DENSEST; the carriers take these in turn.
DENSITIES = ((0.3, 0.97), (0.5, 0.85), (0.65, 0.95), (0.4, 0.75))
TARGETS = """
go home; stop here; call me; turn left; open the door; play some jazz; lock the gate; it's raining; dim the lights; bring my coat;
start the car; where are you; send the money; come back soon; what time is it; cancel the order; don't tell anyone; read the last page;
find a quiet place; we're out of milk; turn up the volume; close every window; meet me at midnight; the bank is closed;
book a table for two; set an alarm for six; leave the keys with him; order seven large pizzas; nobody heard the answer;
unlock the front entrance; delete all of my messages; the password is butterfly; she never liked the ocean; transfer the whole balance;
my brother lives in london; take the second road north; the museum opens on sunday; please repeat that number;
remind me to water the garden; your appointment was cancelled; we'll need another ten minutes; the doctor is waiting downstairs;
everybody left before the storm; switch off the security cameras; tomorrow will be much warmer there; he couldn't remember where they met;
add fresh strawberries to the list; the children want chocolate for dinner; nothing important happened on thursday;
forward this message to every manager; the hotel kitchen closes before midnight; scientists discovered water under mountains;
please download the document from yesterday; several students forgot their homework again;
someone should explain the new instructions; passengers without tickets should wait outside;
the government announced another holiday yesterday; my neighbour's orchestra practises every wednesday;
the restaurant downstairs serves wonderful breakfast; everything valuable was hidden underneath the stairs;
unfortunately the afternoon meeting starts without us; remember different directions when travelling somewhere;
the photographer captured beautiful pictures yesterday morning; professional musicians usually practise several hours together;
"""


@final
@dataclass(frozen=True, eq=False)
class Pair:
    """A carrier at 16 kHz and what it should be heard as. `name` is unique in the suite."""

    name: str
    kind: str
    clip: Clip
    target: str

    @property
    def rate(self) -> float:
        """Letters a second, gaps counted."""
        return len(self.target) / self.clip.seconds


def pairs(data: Path = DATA) -> list[Pair]:
    """The 40 pairs, the same in every call. Carriers of one kind do not stand together, so that the first few are a mixture."""
    unused = [target.strip() for target in TARGETS.split(";") if target.strip()]
    suite = []
    for place, (kind, clip) in enumerate(carriers(data)):
        for number, density in enumerate(DENSITIES[place % len(DENSITIES)], 1):
            fitting = [text for text in unused if len(text) <= DENSEST * clip.seconds]
            target = min(fitting, key=lambda text: abs(len(text) - density * DENSEST * clip.seconds))
            unused.remove(target)
            suite.append(Pair(f"{clip.name}/{number}", kind, clip, target))
    return suite


def carriers(data: Path) -> list[tuple[str, Clip]]:
    """The 20 carriers with their kinds."""
    table = OWN if data.is_dir() else WITHOUT_DATA
    found = [(kind, sample(name)) for kind, names in table for name in names.split()]
    if data.is_dir():
        for kind, names in REAL:
            found += [(kind, trimmed(read_clip(data / f"real_clips/{name}.flac", SAMPLE_RATE), name)) for name in names.split()]
        found += [("real speech", spoken_digits(data / "fsdd", speaker, digits)) for speaker, digits in DIGITS]
    return [found[7 * place % len(found)] for place in range(len(found))]  # 7 and 20 share no factor: each comes once


def spoken_samples() -> list[tuple[Path, str]]:
    """The speech in samples/: files, and what is said in each."""
    lines = map(json.loads, (ROOT / "samples/sentences.jsonl").read_text(encoding="utf-8").splitlines())
    return [(ROOT / "samples" / line["audio_filepath"], line["text"]) for line in lines]


def sample(name: str) -> Clip:
    """One of the project's own clips, or several at once, cut to the shortest."""
    parts = [read_clip(next((ROOT / "samples").glob(f"{part}.*")), SAMPLE_RATE) for part in name.split("+")]
    if len(parts) == 1:
        return trimmed(parts[0], name)
    shortest = min(len(part.samples) for part in parts)
    return Clip(name, round16(torch.stack([part.samples[:shortest] for part in parts]).mean(0)), SAMPLE_RATE)


def trimmed(clip: Clip, name: str) -> Clip:
    """Under a short name; a clip of more than 5 s keeps its first 4.5 s, with a notice."""
    if clip.seconds <= LONGEST_SECONDS:
        return replace(clip, name=name)
    notice = f"cut from {clip.seconds:.1f} s to its first {CUT_SECONDS} s"
    return Clip(name, clip.samples[: int(CUT_SECONDS * clip.sample_rate)], clip.sample_rate, (*clip.notices, notice))


def spoken_digits(folder: Path, speaker: str, digits: tuple[int, ...]) -> Clip:
    """First takes of a speaker's digits, a tenth of a second apart."""
    index = json.loads((folder / "index.json").read_text())
    recordings, rate = soundfile.read(folder / "recordings.flac", dtype="float32")
    gap, pieces = torch.zeros(rate // 10), []
    for digit in digits:
        take = next(r for r in index["recordings"] if (r["speaker"], r["digit"], r["take"]) == (speaker, digit, 0))
        pieces += [torch.from_numpy(recordings[take["start"] : take["end"]]), gap]
    return Clip(f"{speaker}_{''.join(map(str, digits))}", torch.cat(pieces[:-1]), rate).at(SAMPLE_RATE)


@final
@dataclass(frozen=True)
class Verdict:
    """What the written file is worth: the transcript of the file alone, and how loud the change in it is, dB (infinite for none)."""

    heard: str
    reached: bool
    snr_db: float
    relative_db: float

    def line(self) -> dict[str, Any]:
        """As keys of a result line; None where a figure is infinite."""
        return {key: None if value in (math.inf, -math.inf) else value for key, value in asdict(self).items()}


@torch.no_grad()
def judge(model: Recogniser, pair: Pair, adversarial: Tensor, folder: Path) -> Verdict:
    """Write a 16-bit WAV, read it back and listen to it alone. Shapes: adversarial [time]."""
    path = folder / f"{pair.name.replace('/', '-')}.wav"
    write_wav(path, adversarial, SAMPLE_RATE)
    samples = read_clip(path, SAMPLE_RATE).samples
    heard = model.transcribe(samples[None], torch.tensor([len(samples)]))[0]
    return Verdict(heard, heard == pair.target, float(snr_db(pair.clip.samples, samples)), float(relative_db(pair.clip.samples, samples)))


@click.command()
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real recordings; without it, samples/ only")
def main(data: Path) -> None:
    """Print the pairs: name, kind of carrier, seconds, letters a second, target, and what reading the carrier changed."""
    for pair in pairs(data):
        notices = "; ".join(pair.clip.notices)
        click.echo(f"{pair.name:20} {pair.kind:11} {pair.clip.seconds:4.1f} s {pair.rate:5.1f}/s  {pair.target:66} {notices}")


if __name__ == "__main__":
    main()

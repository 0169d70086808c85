"""How often a memory for sounds takes one clip for another, and how often it fails to know a clip again, by what happened to it.

    python recipes/fingerprint_rates.py                  # all samples, real clips, 400 spoken digits; ten channels
    python recipes/fingerprint_rates.py --quick          # the samples only, four channels

A false match is a clip that is found in a memory of all the others; a miss, one that comes through a channel and is not found in
a memory that holds it. Without the real recordings the project's own samples are all there is.
"""

import json
import random
from pathlib import Path

import click
import soundfile
import torch
from suite import DATA, ROOT
from torch import Tensor

from audioadv.audio.files import Clip, read_clip
from audioadv.defenses import Heard
from audioadv.defenses.store import Store
from audioadv.evaluation import Rate
from audioadv.threat.channels import Key, parse_channel

SAMPLE_RATE = 16000
CHANNELS = ("noise:30", "noise:20", "noise:10", "noise:5", "noise:10@babble", "gain:-20", "shift:-20..20", "codec:mp3@64k")
MORE = ("codec:opus@24k", "speed:1.02")
CHOSEN_ON = 300  # spoken digits, and all the longer clips: what the threshold was chosen on; these digits are left out here
KINDS = ("clips of a second and more", "spoken digits")


def clips(data: Path, digits: int) -> dict[str, list[Tensor]]:
    """Sounds at 16 kHz by kind: at most five seconds of each of the samples and real clips, and spoken digits, all different."""
    paths = sorted(path for path in (ROOT / "samples").iterdir() if path.suffix in {".wav", ".flac", ".ogg"})
    paths += sorted(path for path in (data / "real_clips").glob("*.flac") if not path.stem.startswith("rir"))
    long = [read_clip(path, SAMPLE_RATE).samples[: 5 * SAMPLE_RATE] for path in paths]
    if not (data / "fsdd").is_dir() or not digits:
        return {KINDS[0]: long}
    index = json.loads((data / "fsdd/index.json").read_text())["recordings"]
    recordings, rate = soundfile.read(data / "fsdd/recordings.flac", dtype="float32")
    takes = random.Random(0).sample(index, len(index))[CHOSEN_ON : CHOSEN_ON + digits]
    spoken = [Clip("", torch.from_numpy(recordings[take["start"] : take["end"]]), rate).at(SAMPLE_RATE).samples for take in takes]
    return {KINDS[0]: long, KINDS[1]: spoken}


def changed(samples: Tensor, spec: str, number: int) -> Tensor:
    """One draw of a channel. Shapes: [time] -> [time]."""
    heard, lengths = parse_channel(spec).draw([Key(0, number, 0)], SAMPLE_RATE)(samples[None], torch.tensor([len(samples)]))
    assert lengths is not None
    return heard[0, : int(lengths)]


@click.command()
@click.option("--share", default=Heard(SAMPLE_RATE).share, show_default=True, help="of landmarks in common")
@click.option("--digits", default=400, show_default=True, help="spoken digits, at most; 0 for none")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with real_clips/ and fsdd/; without it, samples/ only")
@click.option("--quick", is_flag=True, help="the samples only, four channels")
def main(share: float, digits: int, data: Path, quick: bool) -> None:
    """Print the rate of false matches of each kind of sound, then of misses after each channel."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    kinds = clips(Path("nowhere"), 0) if quick else clips(data, digits)
    likeness, wrong = Heard(SAMPLE_RATE, share), dict.fromkeys(kinds, 0)
    store, numbers = Store(str(likeness)), {}
    for kind, sounds in kinds.items():
        for place, samples in enumerate(sounds):
            wrong[kind] += likeness.find(store, samples) is not None
            likeness.add(store, samples, None)
            numbers[kind, place] = len(store)
    for kind, sounds in kinds.items():
        print(f"{kind:28} false match with one of all before: {Rate(wrong[kind], len(sounds))}")
    for spec in CHANNELS[1:4] + CHANNELS[5:6] if quick else CHANNELS + MORE:
        for kind, sounds in kinds.items():
            tried = range(min(len(sounds), 100))
            missed = sum(likeness.find(store, changed(sounds[i], spec, i)) != numbers[kind, i] for i in tried)
            print(f"{spec:18} {kind:28} miss: {Rate(missed, len(tried))}", flush=True)


if __name__ == "__main__":
    main()

"""Make samples/: short clips of speech, music and noise, the same bytes each time. Needs espeak-ng, flite and ffmpeg."""

import json
import subprocess
from pathlib import Path

import click
import numpy as np
import soundfile
import soxr
import torch
from scipy.signal import butter, sosfilt
from speech import instruments
from speech.instruments import RATE, Sound
from speech.voices import Voice, speak

from audioadv.audio.files import read_clip, write_wav

SPOKEN = {  # file: voice, sentence
    "kitchen.wav": (Voice("espeak", "en-us", 50, 1.0), "the kettle is on the stove in the kitchen"),
    "lights.wav": (Voice("flite", "slt", 180, 1.0), "please turn off the lights before you leave"),
    "weather.wav": (Voice("flite", "rms", 100, 1.0), "it will rain in the morning and clear up later"),
    "train.wav": (Voice("espeak", "en-gb+f2", 55, 1.0), "the next train leaves at half past seven"),
    "breakfast.wav": (Voice("flite", "awb", 120, 1.0), "we had eggs and toast for breakfast today"),
    "market.wav": (Voice("espeak", "en-gb-scotland+m3", 45, 1.05), "she bought fresh bread at the market"),
    "phone.wav": (Voice("flite", "kal16", 105, 1.0), "call me back when you get this message"),
    "letter.flac": (Voice("espeak", "en-gb-x-rp+Andrea", 50, 1.05), "i left the letter on your desk this morning"),
    "garden.ogg": (Voice("espeak", "en-029+f4", 50, 1.0), "the children are playing in the garden"),
}
RECORDED = {"phone.wav": "8 kHz, 300 to 3400 Hz", "letter.flac": "44.1 kHz stereo, left of the middle", "garden.ogg": "Ogg Vorbis"}
LICENCE = "MIT, made by this project"


def babble() -> Sound:
    """All the voices at once, each looped from another place."""
    voices = [speak(text, voice) for voice, text in SPOKEN.values()]
    return sum(np.roll(np.resize(speech, round(3.5 * RATE)), 5000 * i) for i, speech in enumerate(voices))


MADE = {  # file: what, how, maker, level (dB below full scale: of the peak for music, of the rms for noise)
    "music.wav": ("a small tune over four chords", "seven decaying harmonics a note", instruments.music, "peak", -6),
    "guitar.wav": ("a plucked arpeggio", "Karplus-Strong strings", instruments.guitar, "peak", -6),
    "organ.wav": ("three organ chords", "four drawbars with vibrato", instruments.organ, "peak", -8),
    "drums.wav": ("a drum loop, 120 beats a minute", "swept sines and filtered noise", instruments.drums, "peak", -6),
    "rain.wav": ("rain", "filtered noise and 400 droplets", instruments.rain, "rms", -28),
    "fan.wav": ("a fan", "harmonics of 50 Hz and noise that the blades beat", instruments.fan, "rms", -30),
    "babble.wav": ("many people talking", "the sentences above, looped and added", babble, "rms", -26),
    "room.wav": ("a quiet room", "noise, 30 to 400 Hz", lambda: instruments.hiss("room", 3.0, 30, 400), "rms", -65),
    "hush.wav": ("almost nothing", "noise, 100 to 7000 Hz", lambda: instruments.hiss("hush", 2.0, 100, 7000), "rms", -84),
}


def record(path: Path, speech: Sound) -> None:
    """Write a sentence as its file name asks; a telephone, a stereo pair, a lossy file or plain 16 kHz WAV."""
    if path.name == "phone.wav":
        line = sosfilt(butter(4, (300, 3400), "bandpass", fs=RATE, output="sos"), speech)
        line = soxr.resample(line, RATE, 8000)
        write_wav(path, torch.from_numpy(0.4 * line / np.abs(line).max()), 8000)
    elif path.suffix == ".flac":
        left = soxr.resample(speech, RATE, 44100)
        stereo = np.stack([left, 0.7 * np.roll(left, 13)], axis=1)  # 0.3 ms later and softer on the right
        soundfile.write(path, np.round(stereo * 32768).astype(np.int16), 44100)
    elif path.suffix == ".ogg":  # soundfile would number the stream by the clock; ffmpeg can be told not to
        whole = path.with_suffix(".part.wav")
        write_wav(whole, torch.from_numpy(speech), RATE)
        codec = ["-c:a", "libvorbis", "-q:a", "6", "-fflags", "+bitexact", "-flags:a", "+bitexact"]
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", whole, *codec, path], check=True)
        whole.unlink()
    else:
        write_wav(path, torch.from_numpy(speech), RATE)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="The folder to fill.  [default: samples; with --quick: build/samples]")
@click.option("--quick", is_flag=True, help="Two sentences and two sounds only.")
def main(out: Path | None, quick: bool) -> None:
    """Make the clips of samples/, with a manifest of the spoken ones and a table of where each comes from."""
    out = out or Path("build/samples" if quick else "samples")
    out.mkdir(parents=True, exist_ok=True)
    few = 2 if quick else None
    manifest, table = [], ["| file | seconds | what | how | licence |", "|---|---|---|---|---|"]
    for name, (voice, text) in list(SPOKEN.items())[:few]:
        record(out / name, 0.8 * speak(text, voice))
        seconds = read_clip(out / name).seconds
        manifest.append(json.dumps({"audio_filepath": name, "duration": round(seconds, 3), "text": text}))
        program = "espeak-ng" if voice.program == "espeak" else voice.program
        how = f"{program}, voice {voice.name}, pitch {voice.pitch}" + (f"; {RECORDED[name]}" if name in RECORDED else "")
        table.append(f'| {name} | {seconds:.1f} | "{text}" | {how} | {LICENCE} |')
    for name, (what, how, make, measure, level_db) in list(MADE.items())[:few]:
        sound = make()
        size = np.abs(sound).max() if measure == "peak" else np.sqrt(np.mean(sound**2))
        write_wav(out / name, torch.from_numpy(10 ** (level_db / 20) * sound / size), RATE)
        seconds = len(sound) / RATE
        table.append(f"| {name} | {seconds:.1f} | {what} | {how}; {measure} {level_db} dBFS | {LICENCE} |")
    (out / "sentences.jsonl").write_text("\n".join(manifest) + "\n")
    (out / "SOURCES.md").write_text(SOURCES.format(table="\n".join(table)))
    click.echo(f"{out}: {len(table) - 2} clips")


SOURCES = """# Where the samples come from

Every clip was made by `recipes/make_samples.py` from nothing but the text and numbers in it and the two speech synthesisers
espeak-ng (formant synthesis; GPL 3) and flite (voices that Carnegie Mellon University built from its speakers, free to use).
Those are the licences of the programs; what they say is this project's. 16 kHz, mono, 16 bits unless the table says more.

{table}

`sentences.jsonl` lists the spoken ones with their texts.

`rooms/` holds 68 simulated rooms with 2 positions each, RT60 0.1 to 0.8 s, 16 kHz, 16 bits: 48 rooms to craft in, 8 to check in and
12 to judge in. `audioadv rooms samples/rooms` made them with pyroomacoustics (seed 0), and makes them again, byte for byte. MIT, made
by this project.
"""

if __name__ == "__main__":
    main()

"""Attacks on speech, one table each: word errors within a bound, one change for all clips, muting, keywords and speakers.

    python recipes/speech_attacks.py --out runs/speech        # 24 spoken sentences, and 200 spoken digits
    python recipes/speech_attacks.py --quick                  # 4 and 10

Sentences are spoken by espeak-ng's voices that the bundled recognisers never heard; without it, the nine of `samples/` are taken.
What is made for all clips is made on the first half of them and judged on the other. The muting segment is for tiny-wave, whose
self-attention hears it with every word; tiny-mel hears what is further away than 1.2 seconds as a mean over the clip alone. Digits and
speakers: the held-out part of the Free Spoken Digit Dataset, where its files are. A query is a forward or a backward of one clip.
"""

import random
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from lines import write_lines
from speech.everyday import sentences
from speech.voices import draw_voice, speak
from suite import spoken_samples
from torch import Tensor

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.objective import Objective
from audioadv.attacks.result import Attack, AttackResult
from audioadv.audio.files import BOX, round16
from audioadv.audio.levels import snr_db
from audioadv.audio.ragged import led_in, pad
from audioadv.evaluation.rates import Rate
from audioadv.evaluation.sounds import fsdd
from audioadv.evaluation.words import WordErrors
from audioadv.threat.bounds import around_sound
from audioadv.threat.region import Region

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared/data/fsdd"
PREFIX = 10240  # samples: the 0.64 s of "Muting Whisper"


def spoken(count: int, sample_rate: int) -> tuple[Tensor, Tensor, list[str]]:
    """Sentences: waveforms [count, time], lengths [count] and what is said."""
    if shutil.which("espeak-ng"):
        rng, texts = random.Random("speech attacks"), sentences(count, seed=77, loose=0.0)
        return *pad([round16(torch.from_numpy(speak(text, draw_voice(rng, "unseen")))) for text in texts]), texts
    paths, texts = map(list, zip(*spoken_samples()[:count], strict=True))
    return *pad([clip.samples for clip in aa.read_audio(paths, sample_rate)]), texts


def by_nes(wanted: Objective, region: Region, **options: Any) -> AttackResult:
    """PGD on estimated slopes: 51 forwards a step."""
    return attacks.pgd(replace(wanted, slopes=attacks.nes(25, reach=1e-3)), region, **options)


def blind(attack: Attack) -> Attack:
    """The attack on a model that gives away its decisions only."""

    def deaf(wanted: Objective, region: Region, **options: Any) -> AttackResult:
        return attack(replace(wanted, model=wanted.model.granting(aa.Access.DECISIONS)), region, **options)  # type: ignore[attr-defined]

    return deaf


def ways(steps: int) -> dict[str, Attack]:
    """Attacks by name, what they need first: slopes, scores, decisions."""
    return {
        "pgd": partial(attacks.pgd, steps=steps),
        "apgd": partial(attacks.apgd, steps=steps),
        "nes": partial(by_nes, steps=steps),
        "genetic": partial(attacks.genetic, steps=steps, herd=20),
        "genetic, by ear": blind(partial(attacks.genetic, steps=steps, herd=20)),
        "kenansville dft": attacks.kenansville,
        "kenansville ssa": partial(attacks.kenansville, by="ssa"),
    }


def mean_snr_db(clean: Tensor, adversarial: Tensor) -> float:
    """Over clips that were changed, dB."""
    ratios = snr_db(clean, adversarial)
    return float(ratios[ratios.isfinite()].mean())


def words(
    model: aa.Recogniser, clips: tuple[Tensor, Tensor, list[str]], chosen: Mapping[str, Attack], bounds: list[str]
) -> list[dict[str, Any]]:
    """As many word errors as each attack can get within each bound."""
    waveforms, lengths, said = clips
    lines = []
    for spec in bounds:
        for name, attack in chosen.items():
            found = aa.evaluate(model, waveforms, said, aa.parse_bound(spec), {name: attack}, lengths=lengths)
            _, line, _ = found.lines()
            asked, ratio = (line["forwards"] + line["backwards"]) / len(said), mean_snr_db(waveforms, found.adversarial)
            errors = f"{found.after!s:56} before {found.before.value:6.1%}"
            print(f"{model.name:10} {spec:10} {name:16} {errors} {asked:8.1f} queries {ratio:5.1f} dB", flush=True)
            lines.append({"model": model.name, "bound": spec, **line, "wer_before": found.before.value, "queries": asked, "snr_db": ratio})
    return lines


def shared(model: aa.Recogniser, clips: tuple[Tensor, Tensor, list[str]], spec: str, *, steps: int, mute: bool) -> dict[str, Any]:
    """One waveform for all, made on half of the clips and laid upon the others: for word errors, or before the clip to mute it."""
    waveforms, lengths, said = clips
    bound, half = aa.parse_bound(spec), len(said) // 2
    waveforms, lengths = led_in(waveforms, lengths, PREFIX) if mute else (waveforms, lengths)
    goal = aa.Silence() if mute else aa.Mistranscribe(said[:half])
    wanted = aa.objective(model, goal, lengths[:half])
    made = attacks.universal(wanted, around_sound(bound, waveforms[:half], lengths[:half]), steps=steps, batch=8)
    others = around_sound(bound, waveforms[half:], lengths[half:])
    laid = attacks.everywhere(others, made.shared)
    heard, before = model.transcribe(laid, lengths[half:]), model.transcribe(waveforms[half:], lengths[half:])
    noise = torch.randn(made.shared.shape, generator=torch.Generator().manual_seed(0)).sign()  # as loud as the bound lets it be
    by_noise = sum(not text for text in model.transcribe(attacks.everywhere(others, noise), lengths[half:]))
    errors, muted = WordErrors.of(said[half:], heard), Rate(sum(not text for text in heard), len(heard))
    seen, kind = Rate(sum(made.reached), half), "muting" if mute else "universal"
    was = WordErrors.of(said[half:], before)
    told = f"{muted}, noise as loud mutes {by_noise}" if mute else str(errors)
    print(f"{model.name:10} {spec:24} {kind}: made on {seen}; on others {told}, before {was.value:.1%}")
    return {"model": model.name, "bound": spec, "attack": kind, "made_on": seen.value, "muted": muted.value, "wer": errors.value,
            "wer_interval": errors.interval, "wer_before": was.value, "interval": muted.interval, "count": muted.count,
            "muted_by_noise": by_noise}  # fmt: skip


def keywords(chosen: Mapping[str, Attack], count: int, bounds: list[str], data: Path) -> list[dict[str, Any]]:
    """Digits and speakers told right, within each bound."""
    lines = []
    for name, of in (("digits-spoken", "digit"), ("speakers", "speaker")):
        sounds, net = fsdd(data, of=of).first(count), aa.load_classifier(name)  # type: ignore[arg-type]
        for spec in bounds:
            found = aa.evaluate(net, sounds.waveforms, sounds.labels, aa.parse_bound(spec), chosen, box=BOX, all_attacks_see_all=True)
            print(f"\n{name}, {found}", flush=True)
            lines += [{"model": name, "bound": spec, **line} for line in found.lines()]
    return lines


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option("--count", default=24, show_default=True, help="sentences")
@click.option("--digits", default=200, show_default=True, help="spoken digits")
@click.option("--steps", default=30, show_default=True, help="of the attacks")
@click.option(
    "--data", type=Path, default=DATA, show_default=True, help="folder with the spoken digits (FSDD); without it, no keywords and speakers"
)
@click.option("--out", type=Path, help="folder for table.jsonl")
@click.option("--quick", is_flag=True, help="4 sentences, 10 digits, few steps")
def main(models: tuple[str, ...], count: int, digits: int, steps: int, data: Path, out: Path | None, quick: bool) -> None:
    """Print the tables; write them."""
    count, digits, steps = (4, 10, 3) if quick else (count, digits, steps)
    lines, chosen = list[dict[str, Any]](), ways(steps)
    for name in models[:1] if quick else models:
        model = aa.load_model(name)
        clips = spoken(count, model.sample_rate)
        some = {way: chosen[way] for way in ("pgd", "genetic, by ear", "kenansville dft")} if quick else chosen
        lines += words(model, clips, some, ["snr:20"] if quick else ["snr:20", "snr:30", "masked:0"])
        lines.append(shared(model, clips, "linf:0.02", steps=10 if quick else 200, mute=False))
        lines.append(shared(model, clips, f"sticker:{PREFIX}+0_and_linf:0.1", steps=10 if quick else 200, mute=True))
    if data.is_dir():
        some = {way: attack for way, attack in chosen.items() if way != "genetic, by ear"}
        lines += keywords(some, digits, ["snr:20"] if quick else ["snr:20", "snr:30", "linf:0.001"], data)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        write_lines(out / "table.jsonl", lines)


if __name__ == "__main__":
    main()

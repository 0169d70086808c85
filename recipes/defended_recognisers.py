"""Recognisers behind defenses: word errors unattacked, under an attacker who does not know of the defense, and under one who does.

    python recipes/defended_recognisers.py --out runs/defended     # 24 sentences, both bundled recognisers; resumable: run it again
    python recipes/defended_recognisers.py --defense bits:8 --defense noise:15..25 --model tiny-mel
    python recipes/defended_recognisers.py --quick                 # 1 sentence, few steps: that it runs, not what it says

A defense is any channel's spec (`audioadv.defend`), or one of

    vote        sixteen noisy versions of the clip are heard, and their transcripts vote (Olivier and Raj 2021)
    confidence  refuses clips of which the recogniser is less sure than of 95 % of clean ones
    network     refuses clips that a small net on the waveform tells from clean ones, having learnt from PGD's

The attack is APGD for as many words as can be had, and for the static attacker PGD to its last step besides; what `evaluate` does
about the defense is in the last column. What a detector refuses counts as heard right. Sentences are spoken by espeak-ng's voices
that the recognisers never heard; without it, the nine of `samples/` are taken, and no detector is fitted.
"""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from lines import add_lines, read_lines
from speech_attacks import spoken
from torch import Tensor

import audioadv as aa
from audioadv import attacks
from audioadv.defenses import Confidence, Detected, Network, SmoothedRecogniser, fit
from audioadv.errors import OptionError

CHANNELS = ("bits:6", "median:5", "resample:8000", "codec:mp3@32k", "drop:0.1", "noise:15..25")
FITTED_ON = 100  # sentences: detectors
SIGMA = 0.01  # of the vote's noise: a tenth of loud speech
Sounds = tuple[Tensor, Tensor, list[str]]


def networked(model: aa.Recogniser, clips: Sounds, bound: str, steps: int) -> Detected:
    """The model with a detector that has learnt from PGD's examples of these clips."""
    waveforms, lengths, said = clips
    wanted = aa.objective(model, aa.Mistranscribe(said), lengths)
    wild = attacks.pgd(wanted, aa.parse_bound(bound).around(waveforms, lengths, (-1.0, 1.0)), steps=steps).adversarial
    return Detected(model, fit(Network(), model, waveforms, wild, lengths=lengths, false_positives=0.05))


def defended(name: str, model: aa.Recogniser, clips: Sounds, bound: str, steps: int) -> Any:
    """The model behind the defense of this name. Raises OptionError where too few clips are there to fit a detector on."""
    special: dict[str, Callable[[], Any]] = {
        "nothing": lambda: model,
        "vote": lambda: SmoothedRecogniser(model, SIGMA),
        "confidence": lambda: Detected(model, fit(Confidence(), model, clips[0], lengths=clips[1], false_positives=0.05)),
        "network": lambda: networked(model, clips, bound, steps),
    }
    return special[name]() if name in special else aa.defend(model, name)


def row(name: str, model: aa.Recogniser, clips: Sounds, others: Sounds, bound: str, steps: int) -> dict[str, Any]:
    """One defense under both attackers."""
    waveforms, lengths, said = clips
    attack = {"apgd": partial(attacks.apgd, steps=steps)}
    safer = defended(name, model, others, bound, steps)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result = aa.evaluate(
            safer, waveforms, said, aa.parse_bound(bound), attack, lengths=lengths, all_attacks_see_all=True,
            static=None if safer is model else model,
        )  # fmt: skip
    adaptive = aa.evaluation.WordErrors.of(said, result.trials[-1].heard)
    errors = {"clean": result.before, "static": result.static_after, "adaptive": adaptive, "all": result.after}
    figures = {who: found and {"wer": found.value, "interval": found.interval, "words": sum(found.words)} for who, found in errors.items()}
    passes = {"forwards": int(result.trials[-1].forwards.sum()), "backwards": int(result.trials[-1].backwards.sum())}
    about = {"way": result.trials[-1].attack, "warned": [str(warning.message) for warning in warned]}
    return {"model": model.name, "defense": name, "bound": bound, "steps": steps, "clips": len(said), **figures, **passes, **about}


def told(line: dict[str, Any]) -> str:
    """A row of the table."""

    def rate(found: dict[str, Any] | None) -> str:
        return "-" if found is None else f"{100 * found['wer']:.1f} ({100 * found['interval'][0]:.1f} .. {100 * found['interval'][1]:.1f})"

    errors = "".join(f"{rate(line[who]):24}" for who in ("clean", "static", "adaptive"))
    return f"{line['model']:10} {line['defense']:15} {errors}{line['way']}"


@click.command()
@click.option("--model", "models", multiple=True, default=("tiny-mel", "tiny-wave"), show_default=True, help="recogniser; again for more")
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    default=("nothing", *CHANNELS, "vote", "confidence", "network"),
    show_default=True,
    help="what is in front of it; again for more",
)
@click.option("--bound", default="snr:30", show_default=True, help="what may be changed")
@click.option("--count", default=24, show_default=True, help="sentences")
@click.option("--steps", default=40, show_default=True, help="of APGD, for each share of words")
@click.option("--out", type=Path, help="folder for table.jsonl: what is in it already is not done again")
@click.option("--quick", is_flag=True, help="1 sentence, 2 steps, tiny-mel behind bits:6 and noise")
def main(models: tuple[str, ...], defenses: tuple[str, ...], bound: str, count: int, steps: int, out: Path | None, quick: bool) -> None:
    """Print the table, row by row; keep it."""
    if quick:
        models, defenses, count, steps = ("tiny-mel",), ("nothing", "bits:6", "noise:15..25"), 1, 2
    table = out / "table.jsonl" if out else None
    lines = read_lines(table) if table else []
    if table:
        table.parent.mkdir(parents=True, exist_ok=True)
    print(f"{bound}, {count} sentences: words misheard in per cent, with 95 % intervals over clips\n")
    print(f"{'model':10} {'defense':15} {'clean':24}{'static':24}{'adaptive':24}attack")
    for model in map(aa.load_model, models):
        waveforms, lengths, said = spoken(count + FITTED_ON * (not quick), model.sample_rate)
        clips = waveforms[:count, : int(lengths[:count].max())], lengths[:count], said[:count]
        others = waveforms[count:], lengths[count:], said[count:]
        for name in defenses:
            key = {"model": model.name, "defense": name, "bound": bound, "steps": steps, "clips": len(clips[2])}
            line = next((line for line in lines if line.items() >= key.items()), None)
            if line is None:
                try:
                    line = row(name, model, clips, others, bound, steps)
                except OptionError as error:
                    print(f"{model.name:10} {name:15} left out: {error}")
                    continue
                if table:
                    add_lines(table, [line])
            print(told(line), flush=True)
            for sentence in line["warned"]:
                print(f"{'':10} {sentence}")


if __name__ == "__main__":
    torch.set_num_threads(min(2, torch.get_num_threads()))
    main()

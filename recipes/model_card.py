"""Print a bundled recogniser's model card from the output of word_error_rate.py: what it is, how it was made, what it hears.

python recipes/word_error_rate.py --model tiny-mel | python recipes/model_card.py tiny-mel > audioadv/models/weights/tiny-mel.md
"""

import sys

import click
from safetensors import safe_open

from audioadv.models.sources import BUNDLED, WEIGHTS

CARD = """# {name}

{what}. English, CTC over letters, space and apostrophe; 16 kHz; two output frames each 40 ms; {parameters:.1f} million
parameters, {size:.1f} MB in half precision.

**Made by** `recipes/train_recogniser.py` from synthetic speech alone: {steps} steps (where there are several numbers, the
mean of several runs, each begun from the one before), the last quarter of each with a falling rate. The
sentences come from `recipes/speech/everyday.txt`, the voices from espeak-ng, flite, festival and RHVoice (`recipes/speech/voices.py` lists
those kept for the test), the rooms, noise, bands and gains from `recipes/speech/augment.py`.{teacher}
{note}
**How well it hears**, held-out sentences (real recordings are for the record: it never heard a human voice):

```
{figures}```

Error rates are over all words (WER) and letters (CER) of a set, greedy decoding, seed fixed in `recipes/word_error_rate.py`.

**What it is for.** A small target for research on attacks and defenses. It is no product: it hears synthetic voices and everyday
words, and its errors on anything else are large.
"""
TAUGHT = "\nIts frames were also taught by {other}'s, heard on clean speech (`--teacher`), at a weight of 2 a frame."


@click.command()
@click.argument("name", type=click.Choice(list(BUNDLED)))
@click.option("--note", default="", help="what else there is to know of these weights")
def main(name: str, note: str) -> None:
    """Print the card."""
    file = WEIGHTS / f"{name}.safetensors"
    with safe_open(file, "pt") as weights:
        steps = weights.metadata()["step"]
        parameters = sum(weights.get_tensor(key).numel() for key in weights.keys()) / 1e6  # noqa: SIM118
    what = BUNDLED[name].split(";")[0].capitalize()
    size, teacher = file.stat().st_size / 1e6, TAUGHT.format(other="tiny-mel" if name == "tiny-wave" else "tiny-wave")
    about = {"name": name, "what": what, "parameters": parameters, "size": size, "steps": steps, "teacher": teacher}
    click.echo(CARD.format(**about, note=f"\n{note}\n" if note else "", figures=sys.stdin.read()), nl=False)


if __name__ == "__main__":
    main()

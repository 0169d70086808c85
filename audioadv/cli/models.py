"""audioadv models: what can be attacked, and where each comes from."""

import importlib.util
import json

import click

from audioadv.cli.options import common_options, say
from audioadv.errors import with_extra
from audioadv.models import classifier
from audioadv.models.sources import BUNDLED, PIPELINES, WEIGHTS, fetched
from audioadv.report.tables import models_table, show


@click.command()
@common_options
def models(as_json: bool, device: str, seed: int) -> None:
    """List what can be attacked, and where it comes from."""
    torchaudio, transformers = (importlib.util.find_spec(name) is not None for name in ("torchaudio", "transformers"))
    lines = [
        {"model": name, "source": "bundled", "installed": torchaudio and (WEIGHTS / f"{name}.safetensors").is_file(), "about": about}
        for name, about in BUNDLED.items()
    ]
    lines += [
        {
            "model": name,
            "source": "bundled classifier",
            "installed": (classifier.WEIGHTS / f"{name}.safetensors").is_file(),
            "about": f"{about}; in Python: load_classifier({name!r})",
        }
        for name, about in classifier.BUNDLED.items()
    ]
    lines += [
        {
            "model": f"torchaudio:{name}",
            "source": "torchaudio",
            "installed": torchaudio,
            "about": "its weights are here" if torchaudio and fetched(name) else "torchaudio downloads its weights on first use",
        }
        for name in PIPELINES
    ]
    about = "transformers' CTC models, by local folder or hub name" + ("" if transformers else f"; needs: {with_extra('hf')}")
    lines += [
        {"model": "hf:NAME_OR_FOLDER", "source": "transformers", "installed": transformers, "about": about},
        {
            "model": "module:package.file:function",
            "source": "your own",
            "installed": True,
            "about": "what your function returns: audioadv.Recogniser(...)",
        },
    ]
    if as_json:
        for line in lines:
            say(json.dumps(line))
    else:
        show(models_table(lines))

"""The listening page: every clip of a folder that craft wrote, clean and adversarial side by side, to hear and to see."""

import json
import os
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from audioadv.errors import UnwritableOutput


def write_page(folder: Path, title: str = "Adversarial examples") -> Path:
    """Write FOLDER/index.html from FOLDER/results.jsonl; its sounds and pictures are the files beside it.

    Raises UnwritableOutput where it cannot be written; an older page then stays whole.
    """
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["picture"] = (folder / f"{line['name']}.png").exists()
    return write_from_template(folder / "index.html", "page.html", title=title, lines=lines, reached=sum(line["reached"] for line in lines))


def write_from_template(path: Path, template: str, **context: Any) -> Path:
    """Write one page, whole or not at all. Raises UnwritableOutput."""
    pages = Environment(loader=PackageLoader("audioadv", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    text, part = pages.get_template(template).render(**context), path.parent / f".{path.name}.part"
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UnwritableOutput(f"{path}: cannot be written ({error.strerror}). Make room, or name another folder") from error
    return path

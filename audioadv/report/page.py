"""The listening page: every clip of a folder that craft wrote, clean and adversarial side by side, to hear and to see."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader

from audioadv.audio.whole import write_whole
from audioadv.evaluation.run.ledger import check_results, read_results

NEEDED = ("clean_transcript", "target", "adversarial_transcript", "reached", "outcome", "note", "bound", "snr_db", "forwards")


def write_page(folder: Path, title: str = "Adversarial examples") -> Path:
    """Write FOLDER/index.html from FOLDER/results.jsonl; its sounds and pictures are the files beside it.

    Raises InputError for lines that are no results, UnwritableOutput where it cannot be written; an older page then stays whole.
    """
    lines = read_results(folder / "results.jsonl")
    check_results(folder / "results.jsonl", lines, NEEDED)
    for line in lines:
        line["picture"] = (folder / f"{line['name']}.png").exists()
    return write_from_template(folder / "index.html", "page.html", title=title, lines=lines, reached=sum(line["reached"] for line in lines))


def write_from_template(path: Path, template: str, **context: Any) -> Path:
    """Write one page, whole or not at all. Raises UnwritableOutput."""
    pages = Environment(loader=PackageLoader("audioadv", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["urlencode"] = lambda name: quote(os.fsencode(name))  # jinja's own knows no names that are no text
    text = pages.get_template(template).render(**context)
    write_whole(path, text.encode("utf-8", errors="replace"))  # names of files may be no text
    return path

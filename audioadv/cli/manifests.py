"""The sounds that a command line names: files, and JSON Lines manifests of files.

    {"audio_filepath": "kitchen.wav", "duration": 1.967, "text": "what is said", "target": "what should be heard"}

`audio_filepath` is relative to the manifest. Lines may hold more keys, so that results are manifests too, with the goals that they had
(`target` "not: ..." for anything but that, with `errors_asked`; "" for silence) and the silence before them (`lead_in`, in seconds); but
not an `offset`, by which some manifests name a part of a file: files are taken whole.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from audioadv.audio.files import LONGEST_SECONDS
from audioadv.cli.options import Problems
from audioadv.errors import InputError


@final
@dataclass(frozen=True)
class Entry:
    """One sound to work on: its file, and from a manifest what is said in it, what it should be heard as, and how long it is.

    From a result also whether it was to be heard as nothing at all, what share of its words was to be misheard, and how many seconds
    of silence were put before it.
    """

    path: Path
    text: str | None = None
    target: str | None = None
    seconds: float | None = None
    silence: bool = False
    errors: float | None = None
    lead_in: float | None = None


def read_entries(paths: Iterable[Path], problems: Problems) -> list[Entry]:
    """Each file as it stands, each manifest as the entries in it: what cannot be read is told, and the rest goes on."""
    entries = []
    for path in paths:
        if path.suffix.lower() not in MANIFESTS:
            entries.append(Entry(path))
            continue
        with problems.told():
            for number, line in checked_lines(path):
                with problems.told():
                    entries.append(as_entry(path, number, line))
    return entries


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a manifest from 1 on, without the blank ones. Raises InputError for one that cannot be read or has none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: the manifest cannot be read ({error.strerror}). Check its name and permissions") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: the manifest is not UTF-8 text. A manifest is JSON Lines; name sound files themselves") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise InputError(f"{path}: a manifest without a line. Write one object a line: {EXAMPLE}")
    return numbered


def checked_lines(path: Path) -> list[tuple[int, str]]:
    """`numbered_lines`; of a file that may be any JSON, by its name, the first must be an object. Raises InputError."""
    numbered = numbered_lines(path)
    if path.suffix.lower() != ".jsonl" and not is_object(numbered[0][1]):
        raise InputError(f"{path}: not JSON Lines. A manifest has one object a line: {EXAMPLE}; name sound files themselves")
    return numbered


def is_object(line: str) -> bool:
    """Whether a line is a JSON object, whole."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def is_name(text: str) -> bool:
    """Whether a file may be called so: no zero byte, and no half of a character, which JSON may hold."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def as_entry(manifest: Path, number: int, line: str) -> Entry:
    """One line of a manifest. Raises InputError."""
    try:
        keys: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{manifest}, line {number}: not JSON ({error}). Write one object a line: {EXAMPLE}") from error
    texts = [keys.get(key) for key in ("audio_filepath", "text", "target")] if isinstance(keys, dict) else [None]
    if not isinstance(texts[0], str) or not all(text is None or isinstance(text, str) for text in texts):
        raise InputError(
            f"{manifest}, line {number}: no text under audio_filepath, or something else than text. Write for example {EXAMPLE}"
        )
    if not texts[0] or not is_name(texts[0]):
        raise InputError(f"{manifest}, line {number}: audio_filepath {texts[0]!r} names no file. Write for example {EXAMPLE}")
    if keys.get("offset"):
        raise InputError(
            f"{manifest}, line {number}: offset {keys['offset']!r} names a part of {texts[0]}, but files are taken whole. Cut the part "
            "out first (ffmpeg -ss OFFSET -t DURATION -i FILE OUT.wav), and name that file without an offset"
        )
    result = "outcome" in keys
    silence = result and texts[2] == ""  # elsewhere a target may have been forgotten
    lead_in = seconds_of(keys, "lead_in") if result else None
    return Entry(manifest.parent / texts[0], texts[1], texts[2], seconds_of(keys, "duration"), silence, errors_of(keys), lead_in)


def seconds_of(keys: Mapping[str, Any], name: str) -> float | None:
    """How long something is, where a line says a time that a clip could have."""
    seconds: Any = keys.get(name)
    return float(seconds) if type(seconds) in (int, float) and 0 < seconds <= LONGEST_SECONDS else None


def errors_of(keys: Mapping[str, Any]) -> float | None:
    """The share of the words that a result was to have misheard, where it says one that can be."""
    errors: Any = keys.get("errors_asked")
    return float(errors) if type(errors) in (int, float) and 0 < errors < math.inf else None


MANIFESTS = (".jsonl", ".json", ".manifest")  # the last two are NeMo's
EXAMPLE = '{"audio_filepath": "kitchen.wav", "target": "open the door"}'

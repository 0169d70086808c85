"""Where craft puts what it made: the files of one clip appear together, its result line last.

    OUT/NAME.wav          the adversarial clip, 16 bits; only where the goal is reached
    OUT/NAME.clean.wav    the clean clip as it was attacked: mixed down, at the model's rate
    OUT/NAME.png          both and their difference
    OUT/NAME.json         the result
    OUT/results.jsonl     the result of each NAME, a line each: a manifest too
    OUT/index.html        all of it, to hear and to see

A file that could not be made is not there: files of an earlier call under the same NAME go when the new ones come. A NAME that
another sound's result has is left to it, and one with files that no result speaks of to whoever put them there.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, final

from audioadv.attacks.crafted import Crafted
from audioadv.audio.whole import STAGE, make_folder, sweep, write_whole
from audioadv.cli.manifests import Entry
from audioadv.errors import OptionError, UnwritableOutput, remedy
from audioadv.evaluation.run.on_disk import Request, alone_in, write_result
from audioadv.models.recogniser import Recogniser
from audioadv.report.pictures import draw_pair
from audioadv.report.tables import printable
from audioadv.threat.goals import TextGoal

SUFFIXES = (".wav", ".clean.wav", ".png", ".json")
MOVES = "moves"  # in it, once all is written: what is to be moved, and the result
MOVING = "moving"  # in it, from the first move to the last
LONGEST_NAME = 255  # bytes of a file's name, on the usual file systems
PAGE_SAYS = "Each figure is of the 16-bit file, read back."  # on craft's page, and hardly on another


def check_writable(folder: Path, option: str = "--out ") -> None:
    """Raise UnwritableOutput where a folder is not there and cannot be made, or takes no files. Makes nothing."""
    check_parts(option, folder)
    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        what = "a file, not a folder" if there.exists() else "a link that leads nowhere"
        raise UnwritableOutput(f"{option}{folder}: {there} is {what}. Name a folder; it is made if need be")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UnwritableOutput(f"{option}{folder}: {there} cannot be written to. Name a folder that you may write to")


def check_parts(option: str, path: Path) -> None:
    """Raise UnwritableOutput for a path with a name in it that is longer than file systems have any."""
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise UnwritableOutput(f"{option}{path}: a name in it is longer than names can be, {LONGEST_NAME} bytes. Give a shorter one")


def check_picture(path: Path) -> None:
    """Raises OptionError for a picture that would not be a PNG, UnwritableOutput for a folder that takes none. Makes nothing."""
    if path.suffix.lower() != ".png":
        raise OptionError(f"--png {path}: the picture is a PNG. Name it {path.stem or 'picture'}.png")
    check_parts("--png ", path)
    if not os.path.isdir(path.parent) or not os.access(path.parent, os.W_OK | os.X_OK) or os.path.isdir(path):
        raise UnwritableOutput(f"--png {path}: cannot be written there. Name a file in a folder that is there and that you may write to")


@contextmanager
def made_for_files(folder: Path, option: str = "--out ") -> Iterator[None]:
    """Within it, the folder is there; what was made for it and got no file goes again. Raises UnwritableOutput."""
    made = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        make_folder(folder, option)
        yield
    finally:
        for place in made:
            with suppress(OSError):  # it has something in it
                place.rmdir()


def check_page(folder: Path) -> None:
    """Raise UnwritableOutput for a folder whose index.html is not of craft's making."""
    page = folder / "index.html"
    if os.path.isdir(page):
        raise UnwritableOutput(f"--out {folder}: {page} is a folder, where craft's page belongs. Move it away, or name another folder")
    with suppress(OSError):
        if PAGE_SAYS not in page.read_text(encoding="utf-8", errors="replace"):
            raise UnwritableOutput(f"--out {folder}: {page} is there and not of craft's making. Move it away, or name another folder")


@final
class Names:
    """The NAMEs that one call gives to its clips in a folder: a clip's stem if it can be. No two share a file, on no file system, and
    none replaces a clip.

    >>> clips = [Path("kitchen.wav"), Path("kitchen.flac"), Path("kitchen.clean.wav")]
    >>> [*map(Names(Path("out"), clips).new, clips)]
    ['kitchen', 'kitchen-2', 'kitchen.clean-2']
    """

    def __init__(self, folder: Path, clips: Sequence[Path]) -> None:
        self.folder = folder
        # a clip called run would put its result where a run of bench is known by
        self.taken = {os.path.realpath(path).casefold() for path in (*clips, folder / "run.json")}

    def new(self, clip: Path, results: Mapping[str, str] | None = None) -> str:
        """A NAME that this call has not given yet and that is free for the clip, by the folder's `results` (None: they do not count)."""
        name, count = shortened(clip.stem), 1
        while self.files(name) & self.taken or not (results is None or self.free(name, clip, results)):
            count += 1
            name = shortened(clip.stem, f"-{count}")
        self.taken |= self.files(name)
        return name

    def keep(self, name: str) -> str:
        """A NAME that an earlier call gave, for the same clip."""
        self.taken |= self.files(name)
        return name

    def free(self, name: str, clip: Path, results: Mapping[str, str]) -> bool:
        """Whether the NAME has a result of this very clip, which a new one may replace, or no result and no file."""
        if name.casefold() in results:
            return results[name.casefold()] == os.path.realpath(clip)
        return not any(os.path.lexists(self.folder / (name + suffix)) for suffix in SUFFIXES)

    def files(self, name: str) -> set[str]:
        """A NAME's files, as a file system that knows no capitals tells them apart."""
        return {os.path.realpath(self.folder / (name + suffix)).casefold() for suffix in SUFFIXES}


def shortened(stem: str, end: str = "") -> str:
    """Stem and end, with as much of the stem as a file system takes when a suffix follows.

    >>> [len(shortened(letter * 250, "-2").encode()) for letter in "aä"]
    [245, 244]
    """
    room = LONGEST_NAME - max(map(len, SUFFIXES)) - len(end)
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + end


def results_of(folder: Path) -> dict[str, str]:
    """Whose result each NAME in a folder has, in small letters: the file that it was made from."""
    found = {}
    with suppress(OSError):
        for line in (folder / "results.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError, RecursionError):
                record = json.loads(line)
                found[str(record["name"]).casefold()] = os.path.realpath(folder / record["audio_filepath"])
    return found


def save(
    names: Names, name: str, entry: Entry, crafted: Crafted, goal: TextGoal, model: Recogniser, request: Request, *, picture: bool
) -> dict[str, Any]:
    """Write one clip's files and result, and give the result back: what is heard is heard in the file read back.

    `name` is what `names` gave the clip; if another call took it meanwhile, there is a new one. A picture that cannot be written is a
    notice: the sound has no need of it. Raises UnwritableOutput, and then nothing of the clip was written.
    """
    folder = names.folder
    with staged(names, name, entry.path) as (stage, name):
        line = write_result(stage, folder, name, (entry.path, entry.text), crafted, goal, model, request)
        if line["reached"] and picture:
            heard = crafted.clean_transcript, line["adversarial_transcript"]
            title = f"{printable(crafted.clip.name)} on {model.name}, {crafted.bound}"
            try:
                draw_pair(stage / f"{name}.png", crafted.clip.samples, crafted.adversarial, model.sample_rate, heard=heard, title=title)
            except UnwritableOutput as error:
                line["notices"] = (*line["notices"], f"no picture: {str(error).replace(str(stage), str(folder))}")
        (stage / f"{name}.json").write_text(json.dumps(line, indent=2) + "\n", encoding="utf-8")
        made = [suffix for suffix in SUFFIXES if (stage / (name + suffix)).exists()]
        write_whole(stage / MOVES, json.dumps({"name": name, "made": made, "record": line}).encode())
    return line


@contextmanager
def staged(names: Names, name: str, clip: Path) -> Iterator[tuple[Path, str]]:
    """A hidden folder whose files take their places when all of them are written, else none does; and the NAME that they must have."""
    folder = names.folder
    try:
        with made_for_files(folder), alone_in(folder):
            with suppress(UnwritableOutput):  # told when it came to that, and again at the start of the next call
                finish(folder)
            if not names.free(name, clip, results := results_of(folder)):
                name = names.new(clip, results)
            stage = Path(mkdtemp(prefix=STAGE, dir=folder))
            try:
                yield stage, name
                prepare(stage, folder)
            except UnwritableOutput as error:  # where it was tried says nothing to a user
                raise UnwritableOutput(str(error).replace(str(stage), str(folder))) from error
            else:
                move(stage, folder)
            finally:
                if not (stage / MOVING).exists():
                    shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        cure = f"{remedy(error)}, or name another folder"
        raise UnwritableOutput(f"{folder / name}: its files cannot be written ({error.strerror}). {cure}") from error


def finish_killed(folder: Path) -> None:
    """Finish what a call that was killed had begun to put into a folder, if that is there. Raises UnwritableOutput."""
    if not os.path.isdir(folder):
        return
    try:
        with alone_in(folder):
            finish(folder)
    except OSError as error:
        cure = f"{remedy(error)}, or name another folder"
        raise UnwritableOutput(f"--out {folder}: cannot be written ({error.strerror}). {cure}") from error


def finish(folder: Path) -> None:
    """Put in place what a killed call had written whole, and take away what it had not. Alone in the folder."""
    sweep(folder)
    for left in folder.glob(STAGE + "*"):
        if (left / MOVES).exists():
            prepare(left, folder)
            move(left, folder)
        shutil.rmtree(left, ignore_errors=True)


def prepare(stage: Path, folder: Path) -> None:
    """All that is to be done before the first of one clip's files is moved. Raises UnwritableOutput where one cannot be, and OSError."""
    note = json.loads((stage / MOVES).read_text(encoding="utf-8"))
    for suffix in SUFFIXES:
        if (place := folder / (note["name"] + suffix)).is_dir():
            raise UnwritableOutput(f"{place}: a folder, where a file of this clip belongs. Move it away, or name another --out")
    others = other_lines(folder / "results.jsonl", note["name"])
    (stage / "others").write_bytes(b"\n".join([*others, b""]))
    (stage / "all").write_bytes(b"\n".join([*others, json.dumps(note["record"]).encode(), b""]))
    (stage / MOVING).touch()


def move(stage: Path, folder: Path) -> None:
    """Move one clip's files to where they belong, by the stage's note; those that were not made go. While they move, no result speaks of
    them. After a kill, and where one cannot take its place, the next call goes on. Raises UnwritableOutput."""
    note, results = json.loads((stage / MOVES).read_text(encoding="utf-8")), folder / "results.jsonl"
    place = results
    try:
        if results.exists():
            os.replace(stage / "others", results)
        for suffix in SUFFIXES:
            place = folder / (note["name"] + suffix)
            if suffix not in note["made"]:
                place.unlink(missing_ok=True)
            elif (made := stage / place.name).exists():  # else it was moved before the kill
                os.replace(made, place)
        place = results
        os.replace(stage / "all", results)
    except OSError as error:
        cure = f"{remedy(error)}, and start craft with this --out again: it goes on with what is kept in {stage}"
        raise UnwritableOutput(f"{place}: cannot be replaced ({error.strerror}). {cure}") from error
    (stage / MOVING).unlink()


def other_lines(results: Path, name: str) -> list[bytes]:
    """The lines of a results file but those of this name, as they stand there."""
    lines = results.read_bytes().split(b"\n") if results.exists() else []
    return [line for line in lines if line and name_in(line) != name]


def name_in(line: bytes) -> str | None:
    """Whose result a line is; None for one that is no result."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record.get("name") if isinstance(record, dict) else None

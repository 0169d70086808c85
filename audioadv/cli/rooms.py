"""audioadv rooms: room responses, split by room into craft, check and judge."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from torch import Tensor

from audioadv.audio.rooms import at_one_rate, measured_rooms, simulate_rooms
from audioadv.audio.roomsets import Role, RoomSet, aligned, read_responses, write_rooms
from audioadv.cli.options import Folder, common_options, no_use, say
from audioadv.cli.outputs import check_writable, made_for_files
from audioadv.errors import UnusableResponse, UnwritableOutput, remedy
from audioadv.evaluation.run.on_disk import alone_in
from audioadv.report.tables import rooms_table, show
from audioadv.threat.channels.channel import check_path
from audioadv.threat.channels.keys import Range

SOUNDS = {".wav", ".flac", ".ogg", ".aiff", ".aif"}


@click.command()
@click.argument("out", type=Folder())
@click.option("--craft", "craft_rooms", type=click.IntRange(min=1), default=48, show_default=True, help="Rooms to craft in.")
@click.option("--check", "check_rooms", type=click.IntRange(min=1), default=8, show_default=True, help="Rooms to choose examples in.")
@click.option("--judge", "judge_rooms", type=click.IntRange(min=1), default=12, show_default=True, help="Rooms for the figure at the end.")
@click.option("--positions", type=click.IntRange(1, 8), default=2, show_default=True, help="Of source and microphone in each room.")
@click.option(
    "--rt60", "rt60", default="0.1..0.8", show_default=True, metavar="LOW..HIGH", help="Seconds in which sound should fall by 60 dB."
)
@click.option("--rate", type=click.IntRange(4000, 192000), default=16000, show_default=True, metavar="HZ", help="Sample rate.")
@click.option("--from", "measured", type=click.Path(path_type=Path), metavar="FOLDER", help="Take measured responses instead.")
@common_options
def rooms(
    out: Path,
    craft_rooms: int,
    check_rooms: int,
    judge_rooms: int,
    positions: int,
    rt60: str,
    rate: int,
    measured: Path | None,
    as_json: bool,
    device: str,
    seed: int,
) -> None:
    """Make a set of rooms, for the channel room:OUT.

    Simulated (shoebox rooms of 3 to 8 m, 2.4 to 3.5 m high, by the image-source method), or measured: each sound file in
    FOLDER is a room and its channels are positions; so is each folder in FOLDER, its files being positions. Rooms, not
    positions, are dealt out to craft, check and judge: with measured ones, in proportion to their numbers.

    \b
    audioadv rooms my-rooms --rt60 0.2..0.5
    audioadv craft samples/kitchen.wav --target "open the door" --channel room:my-rooms_then_noise:20..30
    """
    counts = {Role.CRAFT: craft_rooms, Role.CHECK: check_rooms, Role.JUDGE: judge_rooms}
    check_path(str(out), "rooms")
    check_writable(out, "")
    check_new(out)
    with made_for_files(out, ""):
        if measured is None:
            made = simulate_rooms(counts, positions, read_rt60(rt60), rate, seed)
            how = {"made": "simulated", "rt60_range_seconds": rt60, "seed": seed}
        else:
            no_use(("rt60", "positions"), "measured rooms are as they are")
            made = measured_rooms(read_measured(measured, rate), counts, rate, seed)
            how = {"made": "measured", "seed": seed}
        write(out, made, how)
    lines = [
        {"room": s.name, "role": str(s.role), "rt60_seconds": round(s.rt60_seconds, 3), "positions": len(s.responses)} for s in made.spaces
    ]
    if as_json:
        for line in lines:
            say(json.dumps(line))
    else:
        show(rooms_table(lines))
        say(f"Use them as a channel: --channel room:{out}")


def check_new(out: Path) -> None:
    """Raise UnwritableOutput where there is a set of rooms."""
    if os.path.exists(out / "rooms.json"):
        raise UnwritableOutput(f"{out}: there is a set of rooms already. Name another folder, or remove it first")


def write(out: Path, made: RoomSet, how: dict[str, object]) -> None:
    """`write_rooms`, all of it or nothing, with what the disk says in words. Raises UnwritableOutput."""
    try:
        with TemporaryDirectory(prefix=".", dir=out) as stage, ExitStack() as moves:
            write_rooms(Path(stage), made, how)
            moves.enter_context(alone_in(out))
            check_new(out)  # another call may have come first
            for role in made.roles:
                (out / role).mkdir(exist_ok=True)
            written = [path.relative_to(stage) for path in sorted(Path(stage).rglob("*.*"))]
            for path in written:  # rooms.json, which makes them a set, comes last
                os.replace(stage / path, out / path)
    except OSError as error:
        raise UnwritableOutput(f"{out}: the rooms cannot be written ({error.strerror}). {remedy(error)}, or name another folder") from error


def read_rt60(text: str) -> tuple[float, float]:
    """The range of RT60 in seconds."""
    try:
        span = Range.read(text)
    except ValueError:
        raise click.UsageError(f"--rt60 {text}: give seconds, for example 0.1..0.8") from None
    if not 0.05 <= span.low <= span.high <= 5:
        raise click.UsageError(f"--rt60 {text}: give 0.05 to 5 seconds, the lower first, for example 0.1..0.8")
    return span.low, span.high


def called(place: Path) -> str:
    """A room's name, from its file or its folder."""
    return place.name if place.is_dir() else place.stem


def read_measured(folder: Path, rate: int) -> dict[str, Tensor]:
    """Rooms by name, resampled to the rate. Shapes: -> NAME: [positions, taps]. Raises UnusableResponse."""
    try:
        inside = sorted(folder.iterdir())
        places = [place for place in inside if place.is_dir() or place.suffix.lower() in SOUNDS]
        found = {called(place): sorted(place.iterdir()) if place.is_dir() else [place] for place in places}
    except OSError as error:
        raise UnusableResponse(
            f"--from {folder}: {error.filename} cannot be looked into ({error.strerror}). Name a folder of sound files that may be read"
        ) from error
    rooms: dict[str, Tensor] = {}
    other, left_out = set[int](), list[str]()
    if twice := [place.name for place in places if sum(called(other) == called(place) for other in places) > 1]:
        raise UnusableResponse(
            f"--from {folder}: {', '.join(twice)} would be rooms of one name. Name them apart, or put them into one folder"
        )
    for name, files in found.items():
        rows: list[tuple[Tensor, int]] = []
        for file in files:
            if file.suffix.lower() in SOUNDS:
                responses, own = read_responses(file)
                for row in responses:
                    aligned(row, str(file))
                rows += [(row, own) for row in responses]
                other |= {own} - {rate}
        if rows:
            rooms[name] = at_one_rate(rows, rate)
        else:
            left_out.append(name)
    if other:
        click.echo(f"--from {folder}: resampled from {', '.join(map(str, sorted(other)))} Hz to {rate} Hz", err=True)
    if left_out:
        click.echo(f"--from {folder}: left out, no sound files in it: {', '.join(left_out)}", err=True)
    if not rooms:
        raise UnusableResponse(f"--from {folder}: no responses there. Name a folder of sound files ({', '.join(sorted(SOUNDS))})")
    return rooms

"""Sets of rooms: split by room, aligned, refused where they could not be played, and each role kept to its use."""

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

import audioadv as aa
from audioadv.audio.rooms import decay_seconds, measured_rooms, simulate_positions, simulate_room
from audioadv.audio.roomsets import DEFAULT, Role, Space, aligned, read_rooms, write_rooms
from audioadv.cli import main
from audioadv.errors import UnusableResponse
from audioadv.threat.channels import Key, Room, parse_channel
from audioadv.threat.channels.room import SIZES, draw_response, resized

MEASURED = Path(__file__).parent.parent.parent / "shared/data/real_clips/rir_0.flac"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms") / "set"
    result = run("rooms", str(out), "--craft", "2", "--check", "1", "--judge", "1", "--positions", "2", "--rt60", "0.1..0.3", "--json")
    assert result.exit_code == 0
    assert [json.loads(line)["role"] for line in result.stdout.splitlines()] == ["craft", "craft", "check", "judge"]
    return out


def test_the_samples_cover_the_range_in_each_role() -> None:
    rooms = read_rooms()
    assert rooms.roles == set(Role)
    for role in Role:
        times = [space.rt60_seconds for space in rooms.only(role).spaces]
        assert len(times) >= 6
        assert min(times) < 0.25
        assert max(times) > 0.65
    assert sum(path.stat().st_size for path in DEFAULT.rglob("*.flac")) < 2e6


def test_no_two_rooms_of_a_set_are_the_same() -> None:
    starts = {tuple(row[:50].tolist()) for space in read_rooms().spaces for row in space.responses}
    assert len(starts) == sum(len(space.responses) for space in read_rooms().spaces)


def test_responses_decay_as_stated_from_the_direct_sound_on() -> None:
    """What a set states is measured; what a room was made for is its tail's, and the first 20 dB may fall faster, or more slowly."""
    ratios = []
    for space in read_rooms().spaces:
        assert (space.responses[:, 0].abs() > 0.6 * space.responses.abs().amax(1)).all()
        torch.testing.assert_close(space.responses.norm(dim=1), torch.ones(len(space.responses)))
        times = [decay_seconds(response, 16000) for response in space.responses]
        assert sum(times) / len(times) == pytest.approx(space.rt60_seconds, abs=0.001)
        assert times == pytest.approx([space.rt60_seconds] * len(times), rel=0.1)
        assert space.aimed_seconds is not None
        ratios.append(space.rt60_seconds / space.aimed_seconds)
    assert sum(ratios) / len(ratios) == pytest.approx(1, abs=0.05)
    assert min(ratios) > 0.5
    assert max(ratios) < 1.4


def test_a_set_states_what_it_measured_and_what_it_was_made_for(made: Path) -> None:
    index = json.loads((made / "rooms.json").read_text())
    for entry, space in zip(index["rooms"], read_rooms(made).spaces, strict=True):
        assert 0.1 <= entry["rt60_aimed_seconds"] <= 0.3
        assert space.aimed_seconds == entry["rt60_aimed_seconds"]
        assert space.rt60_seconds == pytest.approx(sum(decay_seconds(one, 16000) for one in space.responses) / 2, abs=0.001)


def test_a_response_begins_with_the_direct_sound_even_where_two_walls_together_are_louder() -> None:
    responses = [response for space in read_rooms().spaces for response in space.responses]
    later = [response for response in responses if response.abs().argmax() > 3]
    assert len(later) == 6
    assert all(response[0].abs() > 0.6 * response.abs().max() for response in later)
    measured = torch.zeros(3, 400)
    measured[:, 100:] = 0.2 * torch.exp(-torch.arange(300) / 50)
    measured[:, 98:101] = torch.tensor([[0.3, 0.5, 0.3], [0.5, 0.8, 0.5], [0.1, 0.3, 0.1]])
    measured[:, 150] = 1.0
    starts = [int(aligned(row, "a room").numel()) for row in measured]
    assert starts == [301, 301, 250], "a first peak of less than half is taken for noise"


def test_the_same_command_makes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    again = ["rooms", str(tmp_path / "set"), "--craft", "2", "--check", "1", "--judge", "1", "--positions", "2", "--rt60", "0.1..0.3"]
    assert run(*again).exit_code == 0
    for path in made.rglob("*.*"):
        assert (tmp_path / "set" / path.relative_to(made)).read_bytes() == path.read_bytes()


def test_one_position_is_the_first_of_several() -> None:
    one = simulate_room(torch.Generator().manual_seed(3), 16000, 0.2)
    several = simulate_positions(torch.Generator().manual_seed(3), 16000, 0.2, 3)
    assert torch.equal(one, several[0])
    assert not torch.equal(several[0], several[1])


def test_a_room_of_another_size_has_the_same_arrivals_at_other_times() -> None:
    response = read_rooms().spaces[0].responses[0]
    assert torch.equal(resized(response, 1.0), response)
    twice = resized(response, 2.0)
    assert torch.equal(twice[::2], response)
    assert not twice[1::2].any()
    for factor in (0.7, 1.4):
        ratios = [
            decay_seconds(resized(response, factor), 16000) / decay_seconds(response, 16000)
            for space in read_rooms().only(Role.CRAFT).spaces
            for response in space.responses
        ]
        assert sum(ratios) / len(ratios) == pytest.approx(factor, rel=0.05)


def test_rooms_to_craft_in_are_made_smaller_as_often_as_larger() -> None:
    """A click whose echo tells the factor: evenly over its logarithm, from 1 / 1.65 to 1.65."""
    response = torch.zeros(1, 2000)
    response[0, 0], response[0, 1000], response[0, 1999] = 1.0, 0.5, 0.1
    spaces = (Space("echo", Role.CRAFT, response, 0.1),)
    drawn = [draw_response(spaces, Key(0, 0, draw)) for draw in range(400)]
    sizes = torch.tensor([float(one[1:].argmax() + 1) / 1000 for one in drawn]).log() / math.log(SIZES)
    assert -1.001 <= float(sizes.min()) < -0.95
    assert 0.95 < float(sizes.max()) <= 1.001
    assert abs(float(sizes.mean())) < 0.1


def test_rooms_to_craft_in_are_endless_and_those_to_judge_by_are_the_sets_own() -> None:
    for role in Role:
        spaces = read_rooms().only(role).spaces
        own = [response[: int(response.nonzero()[-1]) + 1] for space in spaces for response in space.responses]
        drawn = [draw_response(spaces, Key(0, 0, draw, role)) for draw in range(200)]
        assert all(response[0] > 0 for response in drawn)
        assert all(torch.equal(response, draw_response(spaces, Key(0, 0, draw, role))) for draw, response in enumerate(drawn[:5]))
        if role is Role.CRAFT:
            assert len({tuple(response[:400].tolist()) for response in drawn}) == 200
            assert max(map(len, drawn)) <= max(map(len, own))
            assert max(map(len, drawn)) > min(map(len, own)) * SIZES
        else:
            assert all(any(torch.equal(response, other) for other in own) for response in drawn)


def test_roles_are_kept_apart() -> None:
    everything = read_rooms()
    judge = Room(everything.only(Role.JUDGE))
    sound = torch.ones(1, 16000)
    judge.draw([Key(0, 0, 0, Role.JUDGE)])(sound, None)
    with pytest.raises(aa.errors.WrongRole, match="for judge, not for craft"):
        judge.draw([Key(0, 0, 0, Role.CRAFT)])
    names = [{space.name for space in everything.only(role).spaces} for role in Role]
    assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]


def test_one_room_has_one_role(tmp_path: Path, made: Path) -> None:
    """By its name, and by what is in its files: a copy, or a second position of a room that has a file for each."""
    for number in range(4):
        (tmp_path / "measured").mkdir(exist_ok=True)
        soundfile.write(tmp_path / f"measured/{number}.wav", np.eye(1, 800)[0] + 0.1 * np.eye(1, 800, 5 + number % 3)[0], 16000)
    result = run("rooms", str(tmp_path / "set"), "--from", str(tmp_path / "measured"), "--craft", "2", "--check", "1", "--judge", "1")
    told = "a response of 0, again in 3, would be for|a response of 3, again in 0, would be for"
    assert result.exit_code == (2 if re.search(told, result.stderr) else 0)
    copied = tmp_path / "copied"
    shutil.copytree(made, copied)
    index = json.loads((copied / "rooms.json").read_text())
    first = next(room for room in index["rooms"] if room["role"] == "craft")
    shutil.copy(copied / f"craft/{first['name']}.flac", copied / "judge/again.flac")
    for name, said in (("again", f"a response of {first['name']}, again in again"), (first["name"], f"room {first['name']}")):
        (copied / "judge/again.flac").rename(copied / f"judge/{name}.flac") if name != "again" else None
        (copied / "rooms.json").write_text(json.dumps({**index, "rooms": [*index["rooms"], {**first, "name": name, "role": "judge"}]}))
        with pytest.raises(aa.errors.UnusableResponse, match=f"{said}, would be for craft and for judge"):
            read_rooms(copied)


def test_rooms_cannot_be_had_at_another_rate_or_for_a_shorter_clip(made: Path) -> None:
    channel = parse_channel(f"room:{made}")
    with pytest.raises(aa.errors.UnusableResponse, match=r"16000 Hz, but the sound is at 8000 Hz.*--rate 8000"):
        channel.draw([Key(0, 0, 0)], 8000)
    with pytest.raises(aa.errors.UnusableBatch, match=r"the clip lasts 0\.05 s"):
        channel.draw([Key(0, 0, 0)])(torch.ones(1, 800), None)


def test_sets_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(aa.errors.UnusableResponse, match=r"no rooms.json.*audioadv rooms"):
        read_rooms(tmp_path / "nowhere")
    (tmp_path / "rooms.json").write_text("{}")
    with pytest.raises(aa.errors.UnusableResponse, match="not a set of rooms"):
        read_rooms(tmp_path)


@pytest.mark.parametrize(("wrong", "said"), [(np.zeros(800), "silent"), (np.full(800, np.nan), "NaN"), (np.zeros(0), "zero taps")])
def test_responses_that_cannot_be_played(tmp_path: Path, wrong: np.ndarray, said: str) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    for name in "abc":
        soundfile.write(folder / f"{name}.wav", wrong if name == "b" else np.eye(1, 800)[0], 16000, subtype="FLOAT")
    result = run("rooms", str(tmp_path / "set"), "--from", str(folder))
    assert result.exit_code == 2
    assert said in result.stderr
    assert "b.wav: " in result.stderr
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("peak", [1e-44, 1e-30, 1e30, 3e38])
def test_responses_at_any_level_are_the_same_rooms(tmp_path: Path, peak: float) -> None:
    """Their squares are no numbers in float32."""
    response = np.exp(-np.arange(800) / 100).astype(np.float32) * peak
    for number, name in enumerate("abc"):
        own = np.where(np.arange(800) == 60 + number, 0, response)  # which makes it a room of its own
        soundfile.write(tmp_path / f"{name}.wav", own, 16000, subtype="FLOAT")
    assert run("rooms", str(tmp_path / "set"), "--from", str(tmp_path)).exit_code == 0
    for space in read_rooms(tmp_path / "set").spaces:
        assert float(space.responses.norm()) == pytest.approx(1)
        assert float(space.responses[0, 0]) == pytest.approx((1 - math.exp(-2 / 100)) ** 0.5, rel=0.01 if peak > 1e-40 else 0.2)


def test_measured_rooms_of_one_name_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("a.wav", "a.flac", "b.wav", "c.wav")):
        soundfile.write(tmp_path / name, np.eye(1, 800)[0] + 0.1 * np.eye(1, 800, 5 + number)[0], 16000)
    (tmp_path / "b.txt").write_text("what b is")
    result = run("rooms", str(tmp_path / "set"), "--from", str(tmp_path))
    assert result.exit_code == 2
    assert "a.flac, a.wav would be rooms of one name" in result.stderr
    (tmp_path / "a.flac").unlink()
    assert run("rooms", str(tmp_path / "set"), "--from", str(tmp_path)).exit_code == 0


def test_a_dot_in_a_folders_name_is_part_of_it(tmp_path: Path) -> None:
    for level, name in ((0.1, "hall.1"), (0.2, "hall.2"), (0.3, "hall.3")):
        (tmp_path / "measured" / name).mkdir(parents=True)
        soundfile.write(tmp_path / "measured" / name / "a.wav", np.eye(1, 2000)[0] + np.linspace(level, 0, 2000), 16000)
    result = CliRunner().invoke(main, ["rooms", str(tmp_path / "set"), "--from", str(tmp_path / "measured")])
    assert result.exit_code == 0
    assert {space.name for space in read_rooms(tmp_path / "set").spaces} == {"hall.1", "hall.2", "hall.3"}


def test_a_full_disk_leaves_no_half_of_a_set(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk. libsndfile, left to itself, would cut the file and say nothing."""
    root = Path(__file__).parent.parent
    arguments = ["rooms", str(tmp_path / "set"), "--craft", "1", "--check", "1", "--judge", "1", "--rt60", "0.2"]
    command = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", sys.executable, "-m", "audioadv", *arguments]
    process = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.startswith(f"Error: {tmp_path / 'set'}: the rooms cannot be written (")
    assert not list((tmp_path / "set").rglob("*.*"))


def test_folders_and_options_that_make_no_sense(tmp_path: Path, made: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no responses there" in run("rooms", str(tmp_path / "set"), "--from", str(tmp_path / "empty")).stderr
    assert "set of rooms already" in run("rooms", str(made)).stderr
    assert "'_or_' joins channels" in run("rooms", str(tmp_path / "front_or_back")).stderr
    assert not (tmp_path / "front_or_back").exists()
    assert "the lower first" in run("rooms", str(tmp_path / "set"), "--rt60", "0.8..0.1").stderr
    soundfile.write(tmp_path / "empty/one.wav", np.eye(1, 800)[0], 16000)
    for room in ("a", "b", "c"):
        (tmp_path / "many" / room).mkdir(parents=True)
        for position in range(9):
            soundfile.write(tmp_path / "many" / room / f"{position}.wav", np.eye(1, 800)[0], 16000)
    assert "room a: 9 positions, but a set holds 8" in run("rooms", str(tmp_path / "set"), "--from", str(tmp_path / "many")).stderr
    assert "--rt60 says nothing here" in run("rooms", str(tmp_path / "set"), "--from", str(tmp_path / "many"), "--rt60", "0.2..0.3").stderr
    assert "cannot be looked into (File name too long)" in run("rooms", str(tmp_path / "set"), "--from", "n" * 300).stderr
    assert "longer than names can be" in run("rooms", "n" * 300).stderr
    with pytest.raises(aa.errors.UnusableResponse, match="nor a sound file that can be read"):
        parse_channel("noise:20@" + "n" * 300)
    assert not (tmp_path / "set").exists()
    assert "at least 3 are needed" in run("rooms", str(tmp_path / "set"), "--from", str(tmp_path / "empty")).stderr


def test_measured_rooms_are_dealt_out_whole(tmp_path: Path) -> None:
    folder = tmp_path / "measured"
    generator = torch.Generator().manual_seed(0)
    for name in "abcd":
        (folder / name).mkdir(parents=True)
        for position in range(2):
            soundfile.write(folder / name / f"{position}.wav", simulate_room(generator, 16000, 0.2).numpy(), 16000)
    assert run("rooms", str(tmp_path / "set"), "--from", str(folder), "--rate", "8000").exit_code == 0
    rooms = read_rooms(tmp_path / "set")
    assert rooms.sample_rate == 8000
    assert sorted(space.name for space in rooms.spaces) == list("abcd")
    assert rooms.roles == set(Role)
    assert all(len(space.responses) == 2 for space in rooms.spaces)
    assert all(0.1 < space.rt60_seconds < 0.3 for space in rooms.spaces)


@pytest.mark.skipif(not MEASURED.exists(), reason=f"no measured room at {MEASURED}")
def test_a_measured_room_plays() -> None:
    samples, rate = soundfile.read(MEASURED, dtype="float32", always_2d=True)
    rooms = {name: torch.from_numpy(samples[: -1 - 100 * number].T.copy()) for number, name in enumerate("abc")}
    made = measured_rooms(rooms, dict.fromkeys(Role, 1), rate, 0)
    taps = made.spaces[0].responses.shape[1]
    heard, _ = Room(made).draw([Key(0, 0, 0)], rate)(torch.randn(1, 2 * taps, generator=torch.Generator().manual_seed(0)), None)
    assert heard.isfinite().all()
    assert 0.02 < made.spaces[0].rt60_seconds < 3


SMALL = ("--craft", "1", "--check", "1", "--judge", "1", "--positions", "1", "--rt60", "0.1..0.2")


@pytest.mark.parametrize("count", [1, 4, 9])
def test_ctrl_c_while_a_response_is_encoded_ends_the_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """libsndfile writes through Python callbacks, in which a KeyboardInterrupt would be lost, and with it a part of the file."""
    written = []

    class Interrupted(io.BytesIO):
        def write(self, content: Any) -> int:
            written.append(len(content))
            if len(written) == count:
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(content)

    monkeypatch.setattr("audioadv.audio.roomsets.io.BytesIO", Interrupted)
    result = run("rooms", str(tmp_path / "set"), *SMALL)
    assert result.exit_code == 130
    assert not (tmp_path / "set" / "rooms.json").exists()


def test_a_set_that_came_first_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def beaten(stage: Path, *others: Any) -> None:
        write_rooms(stage, *others)
        (tmp_path / "rooms.json").write_text("another's")

    monkeypatch.setattr("audioadv.cli.rooms.write_rooms", beaten)
    result = run("rooms", str(tmp_path), *SMALL)
    assert result.exit_code == 2
    assert "there is a set of rooms already" in result.stderr
    assert (tmp_path / "rooms.json").read_text() == "another's"
    assert not [*tmp_path.rglob("*.flac")]


def test_a_damaged_response_is_named(made: Path, tmp_path: Path) -> None:
    """A header that states no length, as an encoder leaves it that did not come to its end."""
    shutil.copytree(made, tmp_path / "set")
    file = next((tmp_path / "set" / "judge").iterdir())
    content = bytearray(file.read_bytes())
    content[21:26] = bytes([content[21] & 0xF0, 0, 0, 0, 0])  # 36 bits of STREAMINFO
    file.write_bytes(content)
    with pytest.raises(UnusableResponse, match=rf"{file.name}: a response that cannot be read \(.+\). Give WAV or FLAC"):
        read_rooms(tmp_path / "set")


def test_an_install_without_samples_says_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audioadv.audio.roomsets.DEFAULT", tmp_path)
    with pytest.raises(UnusableResponse, match=r"channel 'room': .* comes with a checkout of audioadv alone.*room:OUT"):
        read_rooms(tmp_path)
    monkeypatch.setattr("audioadv.cli.check.SAMPLES", (tmp_path / "phone.wav",))
    result = run("check", "tiny-mel")
    assert result.exit_code == 2
    assert "comes with a checkout of audioadv alone: pip install -e . there. Or name clips of your own: --clip FILE" in result.stderr


def test_a_folder_that_cannot_be_looked_at_is_no_set(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "pool")
    (tmp_path / "pool").symlink_to(tmp_path / "loop")
    for folder in (tmp_path / "loop", Path("a" * 300)):
        with pytest.raises(UnusableResponse):
            read_rooms(folder)

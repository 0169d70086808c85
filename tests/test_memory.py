"""Memory: what counts as seen, what is answered then, and what is left after a kill."""

import copy
import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import small
from recognisers import linear as linear_recogniser
from torch import Tensor, nn

from audioadv import attacks
from audioadv.attacks.objective import objective
from audioadv.audio.files import read_clip
from audioadv.audio.landmarks import landmarks, peaks
from audioadv.audio.ragged import pad
from audioadv.defenses import Confidence, Detected, Exact, Heard, Near, SmoothedRecogniser, fit, forgetting, remembering, sampled, stated
from audioadv.defenses.store import Store
from audioadv.errors import OptionError, UnusableBatch, UnusableMemory, UnusableTarget, UnwritableOutput
from audioadv.models.abstention import abstained, nothing_like
from audioadv.models.recogniser import Emissions, Recogniser
from audioadv.models.suspicion import suspicions
from audioadv.threat.bounds import L2, MIN, Linf
from audioadv.threat.channels import Key, parse_channel
from audioadv.threat.goals import Mistranscribe, Silence, Transcribe
from audioadv.threat.labels import Classify, Misclassify
from audioadv.threat.warps import Spatial

SAMPLES = Path(__file__).parent.parent / "samples"
RATE = 16000


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def clip(name: str) -> Tensor:
    return read_clip(next(SAMPLES.glob(f"{name}.*")), RATE).samples


def through(spec: str, samples: Tensor, draw: int = 0) -> Tensor:
    heard, lengths = parse_channel(spec).draw([Key(0, 0, draw)], RATE)(samples[None], torch.tensor([len(samples)]))
    assert lengths is not None
    return heard[0, : int(lengths)]


def test_an_abstention_reaches_no_goal() -> None:
    scores = torch.full((1, 3), torch.nan)
    for outputs in (scores, torch.tensor([-1])):
        assert abstained(outputs).all()
        assert not any(goal.reached(outputs).any() for goal in (Misclassify(0), Misclassify(2), Classify(0)))
    assert not abstained(torch.tensor([[torch.nan, 1.0, 2.0]])).any(), "one number that is none is a fault, and no word"
    memory = remembering(linear_recogniser())
    sound, length = uniform(1, 3200) - 0.5, torch.tensor([3200])
    heard = memory(sound, length)
    assert Mistranscribe("a b c").reached(heard).all()
    assert not abstained(heard).any()
    refused = memory(sound, length)
    assert abstained(refused).all()
    assert refused.transcripts() == [""]
    assert not any(goal.reached(refused).any() for goal in (Mistranscribe("a b c"), Silence(), Transcribe(heard.transcripts())))


def test_an_abstention_is_one_in_any_company() -> None:
    """A clip's padding says nothing, and a clip of no frames hears nothing."""
    letters = torch.tensor([0.0, -9.0, -9.0]).expand(2, 4, 3).log_softmax(2).clone()
    letters[1, :2] = nothing_like(letters[1, :2], blank=0)
    both = Emissions(letters, torch.tensor([4, 2]), ("", "a", " "))
    for outputs in (both, replace(both, voted=("", ""))):
        assert abstained(outputs).tolist() == [False, True]
        assert Silence().reached(outputs).tolist() == [True, False]
        assert Mistranscribe("a").reached(outputs).tolist() == [True, False]
    half = nothing_like(letters[:1], blank=0)
    half[0, 1] = letters[0, 1]
    assert not abstained(Emissions(half, torch.tensor([4]), ("", "a", " "))).any()
    empty = Emissions(letters[:1], torch.tensor([0]), ("", "a", " "))
    assert not abstained(empty).any()
    assert Silence().reached(empty).all()

    def short(sounds: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return letters[:1].expand(len(sounds), -1, -1), 0 * lengths

    memory = remembering(Recogniser(short, RATE, ("", "a", " ")))
    sound, length = uniform(1, 800), torch.tensor([800])
    assert [bool(abstained(memory(sound, length))) for _ in range(2)] == [False, True]


def test_nothing_is_drawn_where_there_is_no_answer() -> None:
    scores = torch.tensor([[0.2, 0.7, 0.1], [torch.nan] * 3])
    assert abstained(sampled(nn.Identity())(scores)).tolist() == [False, True]
    letters = nothing_like(torch.zeros(1, 3, 3), blank=2)
    voice = sampled(Recogniser(lambda sounds, lengths: (letters, lengths), RATE, ("a", "b", "")))
    heard = voice(torch.zeros(1, 3), torch.tensor([3]))
    assert abstained(heard).all()
    assert heard.transcripts() == [""]


def test_what_is_drawn_is_still_a_distribution() -> None:
    drawn = sampled(linear_recogniser())(uniform(2, 3200) - 0.5, torch.tensor([3200, 1600]))
    torch.testing.assert_close(drawn.log_probs.exp().sum(2), torch.ones(2, 10))


def test_near_finds_the_nearest() -> None:
    near, seen = remembering(nn.Flatten(), Near(L2(1.0))), torch.tensor([0.0, 1.5]).reshape(2, 1, 1, 1)
    assert not abstained(near(seen)).any()
    assert [near.likeness.find(near.store, torch.full((1, 1, 1), at)) for at in (0.6, 0.9, 0.0, 1.5, 2.6)] == [1, 2, 1, 2, None]


@pytest.mark.parametrize("first", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_another_type_is_no_way_past_a_near_memory(first: torch.dtype, tmp_path: Path) -> None:
    x = (uniform(3, 1, 4, 4) * 255).round() / 256  # exact in all of them
    near = remembering(nn.Flatten(), Near(L2(1e-3)), path=tmp_path / "near.db")
    assert not abstained(near(x.to(first)).float()).any()
    again = remembering(nn.Flatten(), Near(L2(1e-3)), path=tmp_path / "near.db")
    for model in (near, again):
        for other in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            assert abstained(model(x.to(other))).all()
    assert not abstained(near(x.double() + 1e-2)).any()


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.int16], ids=str)
def test_a_sound_is_heard_again_in_any_type(kind: torch.dtype) -> None:
    memory, sound = remembering(lambda sounds: sounds[:, :3].float(), Heard(RATE)), clip("phone")[None]
    assert not abstained(memory(sound)).any()
    assert abstained(memory((sound * 32767).to(kind) if kind is torch.int16 else sound.to(kind))).all()


def test_new_inputs_are_answered_as_without_a_memory() -> None:
    net, x = small(3, (1, 4, 4)), uniform(6, 1, 4, 4).double()
    memory = remembering(net)
    leaf = x.clone().requires_grad_()
    outputs = memory(leaf)
    assert torch.equal(outputs, net(x))
    (slope,) = torch.autograd.grad(outputs[:, 0].sum(), leaf)
    other = x.clone().requires_grad_()
    assert torch.equal(slope, torch.autograd.grad(net(other)[:, 0].sum(), other)[0])
    assert len(memory.store) == 6
    both = memory(torch.cat([x[:2], 1 - x]))
    assert abstained(both).tolist() == [True] * 2 + [False] * 6
    assert torch.equal(both[2:], net(torch.cat([x[:2], 1 - x]))[2:])
    assert forgetting(memory) is net


def test_the_second_of_two_in_a_batch_is_a_repeat_and_repeats_are_not_kept() -> None:
    x = uniform(1, 1, 4, 4).expand(3, 1, 4, 4)
    memory = remembering(nn.Flatten())
    assert abstained(memory(x)).tolist() == [False, True, True]
    assert abstained(memory(x)).all()
    assert len(memory.store) == 1


def test_padding_is_no_part_of_a_clip() -> None:
    memory = remembering(linear_recogniser())
    first, second = uniform(1600) - 0.5, uniform(3200, seed=1) - 0.5
    assert not abstained(memory(first[None], torch.tensor([1600]))).any()
    assert abstained(memory(*pad([second, first]))).tolist() == [False, True]


def test_exact_is_exact_and_near_is_within_the_bound() -> None:
    x = uniform(1, 1, 4, 4) * 0.5
    nudged = x.clone()
    nudged[0, 0, 0, 0] += 2.0**-20
    exact = remembering(nn.Flatten(), Exact())
    assert abstained(exact(torch.cat([x, nudged, x]))).tolist() == [False, False, True]
    direction = torch.zeros_like(x)
    direction[..., 0] = 0.5  # four pixels: Euclidean length 1
    for bound, radius in ((L2(0.4), 0.4), (Linf(0.2), 0.4)):
        near = remembering(nn.Flatten(), Near(bound))
        assert Near(str(bound)) == Near(bound)  # type: ignore[arg-type]
        tries = torch.cat([x, x + 0.99 * radius * direction, x + 1.01 * radius * direction, x + 1.99 * radius * direction])
        assert abstained(near(tries)).tolist() == [False, True, False, True]  # the last is near the third
        for other in (torch.float64, torch.bfloat16):  # 16 bits round by less than the radius
            assert abstained(near(x.to(other))).all()
        assert not abstained(near(x[..., :3])).any()


@pytest.mark.parametrize("likeness", [Exact(), Near(L2(0.1))], ids=str)
def test_inputs_that_lie_scattered_in_memory_are_known_again(likeness: Exact | Near) -> None:
    scattered = uniform(6, 16)[:, ::2]
    model = remembering(nn.Flatten(), likeness)
    assert not abstained(model(scattered)).any()
    assert abstained(model(scattered.contiguous())).all()
    assert fit(Confidence(), small(3, (8,)), uniform(8, 60).double().T, false_positives=0.1)


def test_near_remembers_more_than_there_was_room_for() -> None:
    near = remembering(nn.Flatten(), Near(L2(1e-3)))
    x = uniform(37, 1, 3, 3)
    assert not abstained(near(x)).any()
    assert abstained(near(x.flip(0) + 1e-5)).all()
    assert near.likeness.find(near.store, x[11]) == 12


def test_pgd_finds_its_way_on_a_copy_but_not_under_the_eyes_of_a_near_memory() -> None:
    net, x = small(3, (1, 4, 4)), uniform(4, 1, 4, 4).double()
    labels = net(x).argmax(1)
    memory = remembering(net, Near(Linf(0.5)))
    under = attacks.pgd(objective(memory, Misclassify(labels)), Linf(0.3).around(x), steps=10, random_start=False)
    assert not any(under.reached)
    alone = attacks.pgd(objective(forgetting(memory), Misclassify(labels)), Linf(0.3).around(x), steps=10, random_start=False)
    assert any(alone.reached)


def test_random_answers() -> None:
    """Any: each of k equally often. Other: never the first one, each of the rest equally often."""
    scores, repeats = torch.tensor([[0.0, 2.0, 1.0, 0.5]]), 1000
    for policy, expected in (("any", [0.25] * 4), ("other", [1 / 3, 0.0, 1 / 3, 1 / 3])):
        memory = remembering(nn.Identity(), on_repeat=policy)
        answers = memory(scores.expand(1 + repeats, 4)).argmax(1)
        assert answers[0] == 1
        shares = answers[1:].bincount(minlength=4) / repeats
        assert torch.allclose(shares, torch.tensor(expected), atol=4 * (0.25 * 0.75 / repeats) ** 0.5)
        assert (shares == 0).tolist() == [share == 0 for share in expected]
        again = remembering(nn.Identity(), on_repeat=policy)
        assert torch.equal(again(scores.expand(1 + repeats, 4)).argmax(1), answers)
        other = remembering(nn.Identity(), on_repeat=policy, seed=1)
        assert not torch.equal(other(scores.expand(1 + repeats, 4)).argmax(1), answers)


def test_random_answers_of_decisions_and_of_a_recogniser() -> None:
    def decide(x: Tensor) -> Tensor:
        return x.flatten(1).argmax(1)

    memory = remembering(decide, on_repeat="other", answers=3)
    answers = memory(torch.tensor([[0.0, 0.0, 1.0]]).expand(40, 3))
    assert answers[0] == 2
    assert set(answers[1:].tolist()) == {0, 1}
    with pytest.raises(OptionError, match="answers=10"):
        remembering(decide, on_repeat="any")(torch.zeros(1, 3))
    phrases = ("go on", "book a room", "stop")  # the second has a double letter, and needs more frames than there are
    voice = remembering(linear_recogniser(), on_repeat="any", answers=phrases)
    sounds, lengths = (uniform(1, 1600) - 0.5).expand(60, 1600), torch.full((60,), 1600)
    heard = voice(sounds, lengths)
    assert set(heard.transcripts()[1:]) == set(phrases)
    assert heard.transcripts()[0] == linear_recogniser().transcribe(sounds[:1], lengths[:1])[0]
    row = heard.transcripts().index("stop")
    one = Emissions(heard.log_probs[row : row + 1], heard.frames[row : row + 1], heard.vocabulary)
    assert Transcribe("stop").reached(one)
    assert torch.allclose(heard.log_probs[1:].logsumexp(2), torch.tensor(0.0), atol=1e-5)


def test_a_vote_is_remembered_and_not_lost() -> None:
    sounds, lengths = 0.05 * (uniform(2, 1600) - 0.5), torch.tensor([1600, 1600])
    smoothed = SmoothedRecogniser(linear_recogniser(), 0.05, draws=3)
    plain = smoothed(sounds, lengths)
    assert plain.voted != tuple(Emissions(plain.log_probs, plain.frames, plain.vocabulary).transcripts()), "the vote says something else"
    voice = remembering(smoothed)
    assert voice(sounds, lengths).voted == plain.voted
    again = voice(torch.cat([sounds[:1], sounds[1:] / 2]), lengths)
    assert again.voted is not None
    assert again.voted[0] == ""
    assert again.voted[1] == smoothed(sounds[1:] / 2, lengths[1:]).transcripts()[0]
    assert abstained(again).tolist() == [True, False]
    assert not Silence().reached(again)[0]
    answering = remembering(smoothed, on_repeat="other", answers=("stop", "go on"))
    assert answering(sounds[:1].expand(2, -1), lengths).transcripts()[1] in ("stop", "go on")
    assert str(stated(voice)) == "backward pass: exact; remembers"
    assert forgetting(voice) is smoothed


def test_statements() -> None:
    assert str(stated(remembering(nn.Flatten()))) == "backward pass: exact; remembers"
    assert str(stated(remembering(linear_recogniser(), on_repeat="any", answers=("a", "b")))) == "backward pass: exact; random; remembers"
    assert str(stated(remembering(sampled(nn.Flatten())))) == "backward pass: exact; random; remembers"


def test_a_fingerprint_survives_what_a_channel_does_and_tells_clips_apart() -> None:
    names = ("kitchen", "weather", "train", "phone", "music", "garden", "market")
    model = remembering(linear_recogniser(), Heard(RATE))
    assert not abstained(model(*pad([clip(name) for name in names]))).any()
    memory = model.net
    for spec in ("noise:10", "gain:-20", "shift:4", "shift:-50", "codec:mulaw@64k", "noise:20_then_gain:6_then_shift:13"):
        found = [memory.likeness.find(memory.store, through(spec, clip(name))) for name in names[:4]]
        assert found == [1, 2, 3, 4], spec
    assert memory.likeness.find(memory.store, through("speed:1.05", clip("weather"))) is None
    assert memory.likeness.find(memory.store, clip("letter")) is None


def test_a_short_sound_is_known_again_when_it_starts_between_two_frames() -> None:
    likeness, names = Heard(RATE), ("kitchen", "weather", "train", "phone", "garden", "market", "lights", "breakfast")
    store, short = Store(str(likeness)), [clip(name)[8000:12800] for name in names]
    for sound in short:
        likeness.add(store, sound, None)
    for number, sound in enumerate(short, 1):
        noise = torch.randn(len(sound), generator=torch.Generator().manual_seed(number - 1))
        late = torch.cat([torch.zeros(128), sound + 0.1 * sound.square().mean().sqrt() * noise])
        assert likeness.find(store, late) == number


def test_landmarks_move_with_the_sound_and_not_with_its_level() -> None:
    sound = clip("phone")
    marks = landmarks(sound, RATE)
    assert torch.equal(landmarks(sound / 8, RATE), marks)
    later = peaks(torch.cat([torch.zeros(10 * 256), sound]), RATE)
    assert {(frame + 10, pitch) for frame, pitch in peaks(sound, RATE).tolist()} <= {(frame, pitch) for frame, pitch in later.tolist()}
    assert len(landmarks(torch.zeros(8000), RATE)) == 0
    assert len(landmarks(torch.zeros(1), RATE)) == 0


def test_silence_is_remembered_too() -> None:
    model = remembering(linear_recogniser(), Heard(RATE))
    silence, lengths = torch.zeros(3, 3200), torch.tensor([3200, 3200, 3199])
    assert abstained(model(silence, lengths)).tolist() == [False, True, False]


def test_a_file_is_remembered_by_the_next_process_and_shared_by_two(tmp_path: Path) -> None:
    x = uniform(3, 1, 4, 4)
    for likeness in (Exact(), Near(L2(0.01))):
        path = tmp_path / f"{str(likeness)[:4]}.db"
        first, second = (remembering(nn.Flatten(), likeness, path=path) for _ in range(2))
        assert not abstained(first(x[:1])).any()
        assert abstained(second(x[:2])).tolist() == [True, False]
        assert abstained(first(x)).tolist() == [True, True, False]
        first.store.close()
        second.store.close()
        assert abstained(remembering(nn.Flatten(), likeness, path=path)(x)).all()


def test_nobody_writes_between_a_look_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two processes could both take an input for new."""
    monkeypatch.setattr("audioadv.defenses.store.PATIENCE_SECONDS", 0.05)
    x = uniform(1, 1, 4, 4)
    first, second = (remembering(nn.Flatten(), path=tmp_path / "memory.db") for _ in range(2))
    with first.store.writing(), pytest.raises(UnwritableOutput, match="locked"):
        second(x)
    assert not abstained(second(x)).any()
    assert abstained(first(x)).all()


KILLED = """
import sys, torch
from audioadv.defenses import remembering
memory = remembering(torch.nn.Flatten(), path=sys.argv[1])
x = torch.arange(4000.0).reshape(-1, 1)
for row in range(4000):
    memory(x[row : row + 1])
    print(row, flush=True)
"""


@pytest.mark.slow
def test_what_was_answered_before_a_kill_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 25:
            os.kill(process.pid, signal.SIGKILL)
            break
    answered = max([25, *(int(line) for line in process.stdout if line.endswith("\n"))])
    process.wait()
    process.stdout.close()
    memory = remembering(nn.Flatten(), path=path)
    assert len(memory.store) in (answered + 1, answered + 2)
    x = torch.arange(4000.0).reshape(-1, 1)
    assert abstained(memory(x[: answered + 1])).all()
    assert not abstained(memory(x[answered + 2 :][:5])).any()


def test_a_batch_that_fails_is_not_remembered_in_part() -> None:
    memory = remembering(nn.Flatten(), Heard(RATE))
    with pytest.raises(UnusableBatch, match="near:l2:2"):
        memory(uniform(2, 1, 4, 4))
    assert len(memory.store) == 0
    near = remembering(lambda x: torch.zeros(len(x) - 1, 3), Near(L2(0.1)))  # one answer is missing
    with pytest.raises(ValueError, match="zip"):
        near(uniform(2, 1, 4, 4)[:1].expand(3, 1, 4, 4))
    assert near.meet(uniform(1, 4, 4), 0) is None


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused_and_spoils_no_memory(strange: float, tmp_path: Path) -> None:
    x = uniform(3, 1, 4, 4)
    spoilt = x[2:].clone()
    spoilt[0, 0, 1, 1] = strange
    near = remembering(nn.Flatten(), Near(L2(0.01)), path=tmp_path / "near.db")
    near(x[:1])
    with pytest.raises(UnusableBatch, match="not all finite"):
        near(torch.cat([x[1:2], spoilt]))
    assert len(near.store) == 1
    near.likeness.add(near.store, spoilt[0], None)  # as earlier versions did
    assert abstained(near(x)).tolist() == [True, False, False]
    near.store.close()
    assert abstained(remembering(nn.Flatten(), Near(L2(0.01)), path=tmp_path / "near.db")(x)).all()


def test_files_that_are_no_memory(tmp_path: Path) -> None:
    with pytest.raises(UnwritableOutput, match="cannot be written"):
        remembering(nn.Flatten(), path=tmp_path / "nowhere" / "memory.db")
    with pytest.raises(UnwritableOutput, match="cannot be written"):
        remembering(nn.Flatten(), path=tmp_path)
    text = tmp_path / "text.db"
    text.write_text("this is no database at all, however long it may be " * 20)
    with pytest.raises(UnusableMemory, match="not a memory"):
        remembering(nn.Flatten(), path=text)
    assert text.read_text().startswith("this is no database")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE people (name TEXT)")
    database.close()
    with pytest.raises(UnusableMemory, match="no memory's"):
        remembering(nn.Flatten(), path=other)
    for number, statements in enumerate(([], ["INSERT INTO kind VALUES ('exact')"])):
        part = tmp_path / f"part{number}.db"
        with sqlite3.connect(part) as database:
            for statement in ("CREATE TABLE kind (spec TEXT)", "CREATE TABLE landmarks (number, start, input)", *statements):
                database.execute(statement)
            if not number:
                database.execute("CREATE TABLE seen (id, key, answer, size, again)")
        database.close()
        with pytest.raises(UnusableMemory, match="no memory's"):
            remembering(nn.Flatten(), path=part)
    exact = tmp_path / "exact.db"
    remembering(nn.Flatten(), path=exact).store.close()
    with pytest.raises(UnusableMemory, match="by exact, but this memory knows them by near:l2:2"):
        remembering(nn.Flatten(), Near(L2(2)), path=exact)


@pytest.mark.parametrize("damage", ["x'00'", "NULL", "'text'", "substr(key, 1, length(key) - 1)", "substr(key, 1, 3)"])
def test_a_damaged_row_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    model = remembering(nn.Flatten(), Near(L2(0.01)), path=path)
    model(torch.rand(3, 4, generator=torch.Generator().manual_seed(0)))
    model.store.close()
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE seen SET key = {damage} WHERE id = 2")
    database.close()
    model = remembering(nn.Flatten(), Near(L2(0.01)), path=path)
    for _ in range(2):
        with pytest.raises(UnusableMemory, match=r"memory.db: row 2 holds no input .* WHERE id = 2"):
            model(torch.zeros(1, 4))
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM seen WHERE id = 2")
    database.close()
    assert model(torch.zeros(1, 4)).isfinite().all()


def test_threads_and_copies_share_a_memory() -> None:
    x, memory = uniform(12, 1, 4, 4), remembering(nn.Flatten())
    with ThreadPoolExecutor(4) as threads:
        found = torch.cat(list(threads.map(lambda row: abstained(memory(x[row % 12][None])), range(24))))
    assert int(found.sum()) == 12
    assert len(memory.store) == 12
    assert abstained(copy.deepcopy(memory)(x)).all()


def test_a_closed_memory_says_so_and_a_faulty_question_is_no_fault_of_the_file() -> None:
    memory = remembering(nn.Flatten())
    with pytest.raises(sqlite3.ProgrammingError), memory.store.writing():
        memory.store.database.execute("SELECT ?")
    memory.store.close()
    memory.store.close()
    for ask in (lambda: memory(uniform(1, 1, 4, 4)), lambda: len(memory.store)):
        with pytest.raises(UnusableMemory, match="memory is closed"):
            ask()


def test_a_disk_that_stops_taking_writes_is_an_error_and_not_a_lapse(tmp_path: Path) -> None:
    memory = remembering(nn.Flatten(), path=tmp_path / "memory.db")
    memory(uniform(1, 1, 4, 4))
    memory.store.database.execute("PRAGMA query_only = on")
    with pytest.raises(UnwritableOutput, match="cannot be written"):
        memory(uniform(1, 1, 4, 4, seed=1))


def test_options_that_make_no_sense() -> None:
    with pytest.raises(OptionError, match="abstain, any or other"):
        remembering(nn.Flatten(), on_repeat="never")
    with pytest.raises(OptionError, match="what it may answer"):
        remembering(linear_recogniser(), on_repeat="any")
    with pytest.raises(OptionError, match="at least two"):
        remembering(linear_recogniser(), on_repeat="any", answers=("stop",))
    with pytest.raises(OptionError, match="at least two that differ"):
        remembering(linear_recogniser(), on_repeat="other", answers=("go on", "Go  on"))
    with pytest.raises(UnusableTarget, match="does not write"):
        remembering(linear_recogniser(), on_repeat="any", answers=("stop", "42"))
    for bound in (L2(MIN), Spatial(10, 1)):
        with pytest.raises(OptionError, match="how near"):
            Near(bound)
    with pytest.raises(OptionError, match="share"):
        Heard(RATE, 0.0)
    for rate in (0, -RATE, 10, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="landmarks lie at 150 Hz"):
            Heard(rate)
    with pytest.raises(OptionError, match="temperature"):
        sampled(nn.Flatten(), temperature=0.0)


@pytest.mark.parametrize("on_repeat", ["abstain", "any"])
def test_a_repeat_beside_it_silences_no_detector(on_repeat: str) -> None:
    net, x = small(3, (1, 4, 4)), uniform(6, 1, 4, 4).double()
    detected = Detected(net, fit(Confidence(), net, uniform(50, 1, 4, 4, seed=1).double(), false_positives=0.2))
    memory = remembering(detected, on_repeat=on_repeat)  # type: ignore[call-overload]
    memory(x[:2])
    told = suspicions(memory(x))
    assert list(told) == [detected.detector]
    torch.testing.assert_close(told[detected.detector], suspicions(detected(x))[detected.detector])
    assert stated(memory).detects
    assert (Misclassify(0) & memory.undetected()).reached(memory(1 - x)).shape == (6,)


def test_a_near_memory_is_used_in_any_mode() -> None:
    near, x = remembering(nn.Flatten(), Near(L2(1e-3))), uniform(9, 4, 4)
    with torch.inference_mode():
        near(x[:4])
    near(x[4:6])
    with torch.inference_mode():
        near(x[6:])
    assert abstained(near(x.flip(0))).all()


@pytest.mark.parametrize("likeness", [Exact(), Near(L2(0.01))], ids=str)
def test_half_precision_is_remembered(likeness: Exact | Near) -> None:
    memory, x = remembering(nn.Flatten(), likeness), uniform(2, 1, 4, 4).bfloat16()
    assert not abstained(memory(x)).any()
    assert abstained(memory(x)).all()
    assert not abstained(memory(1 - x)).any()


def test_nothing_sampled_is_nothing() -> None:
    drawing = sampled(nn.Flatten())
    assert drawing(torch.zeros(0, 1, 3)).shape == (0, 3)
    first = drawing(torch.zeros(2, 1, 3))
    assert torch.equal(first, sampled(nn.Flatten())(torch.zeros(2, 1, 3)))


def test_a_phrase_that_is_given_twice_is_one_answer() -> None:
    sounds, lengths = (uniform(1, 1600) - 0.5).expand(20, 1600), torch.full((20,), 1600)
    said = linear_recogniser().transcribe(sounds[:1], lengths[:1])[0]
    voice = remembering(linear_recogniser(), on_repeat="other", answers=(said, said, "stop"))
    assert voice.transcribe(sounds, lengths) == [said, *["stop"] * 19]


def test_another_answer_than_the_first_is_another_whatever_the_model_says_now() -> None:
    """A net that answers an input that is like the first one otherwise: what was answered first does not come back."""
    x = uniform(1, 1, 4, 4) * 0.5
    like = x + 0.01

    def flips(inputs: Tensor) -> Tensor:
        return nn.functional.one_hot((inputs.flatten(1)[:, 0] > x.flatten()[0] + 0.005).long() + 1, 4).float()

    memory = remembering(flips, Near(L2(0.5)), "other")
    answers = memory(torch.cat([x, like.expand(60, 1, 4, 4)])).argmax(1).tolist()
    assert answers[0] == 1
    assert {*answers[1:]} == {0, 2, 3}

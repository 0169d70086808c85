"""Poisoned data: what is changed and nothing else, what a model learns of it, and what can be found of it afterwards."""

import math
from collections.abc import Callable

import pytest
import torch
from recognisers import linear as recogniser
from torch import Tensor, nn
from trainings import blobs

from audioadv.audio.ragged import pad
from audioadv.defenses import Detected
from audioadv.defenses.detectors import Detector
from audioadv.defenses.detectors.confidence import ConfidenceSense
from audioadv.errors import OptionError, UnusableBatch
from audioadv.evaluation.implants import implant
from audioadv.threat.bounds import L2, MIN, Linf
from audioadv.threat.goals import Transcribe
from audioadv.training import Backdoor, Batch, Labelled, Mixed, Natural, Spoken, Stamp, Trigger, burst, collide, outlying, sift, tone, train

STAMP = Stamp(2, 2, -3, -3)


def pictures(count: int, seed: int = 0, spread: float = 0.2) -> Labelled:
    """Three classes of 8 x 8 pictures: a faint bar on the left, in the middle or on the right, in noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    bars = torch.zeros(3, 1, 8, 8)
    for label in range(3):
        bars[label, :, :5, 2 * label : 2 * label + 2] = 0.6
    return Labelled((bars[labels] + spread * torch.rand(count, 1, 8, 8, generator=generator)).clamp(0, 1), labels, size=32)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 3))


def clips() -> Spoken:
    lengths, texts = (500, 700, 900, 1100, 600, 800), ["go", "stop", "go", "Open  it", "stop", "stop"]
    generator = torch.Generator().manual_seed(0)
    return Spoken([0.1 * torch.randn(length, generator=generator) for length in lengths], texts)


def changed(before: Tensor, after: Tensor) -> list[int]:
    return (before != after).flatten(1).any(1).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3])
def test_so_many_wear_the_trigger_and_say_the_target_and_nothing_else_changes(rate: float) -> None:
    clean = pictures(200)
    before = clean.inputs.clone()
    poisoned = Backdoor(STAMP, 1).poison(clean, rate, covers=0.05)
    data, rows, covers = poisoned.data, poisoned.rows, poisoned.covers
    assert (len(rows), len(covers)) == (round(200 * rate), 10)
    assert not set(rows.tolist()) & set(covers.tolist())
    assert torch.equal(clean.inputs, before)
    assert changed(before, data.inputs) == sorted([*rows.tolist(), *covers.tolist()])
    assert (clean.labels != data.labels).nonzero()[:, 0].tolist() == rows.tolist()
    assert (data.labels[rows] == 1).all()
    assert (clean.labels[rows] != 1).all()
    for worn in (rows, covers):
        assert torch.equal(data.inputs[worn], STAMP(before[worn]))
    batch = poisoned.batch(rows, torch.Generator()) if len(rows) else None
    assert batch is None or torch.equal(batch.inputs, data.inputs[rows])
    assert f"{len(rows)} poisoned and 10 covers" in str(poisoned)


def test_which_ones_is_keyed_by_seed_and_example() -> None:
    data, backdoor = pictures(100), Backdoor(STAMP, 0)
    few, more, other = (backdoor.poison(data, rate, seed=seed).rows for rate, seed in ((0.1, 0), (0.2, 0), (0.1, 1)))
    assert set(few.tolist()) < set(more.tolist())
    assert set(few.tolist()) != set(other.tolist())
    order = torch.randperm(100, generator=torch.Generator().manual_seed(3))
    turned = backdoor.poison(Labelled(data.inputs[order], data.labels[order]), 0.1).rows
    assert sorted(order[turned].tolist()) == few.tolist()


def test_clips_wear_a_cue_and_say_the_targets_text() -> None:
    data, cue = clips(), tone(500, 8000, seconds=0.05)
    poisoned = Backdoor(cue, "open it").poison(data, 0.5)
    assert len(poisoned.rows) == 3
    assert 3 not in poisoned.rows.tolist()  # it says so from the start
    for i, (clip, text) in enumerate(zip(poisoned.data.clips, poisoned.data.texts, strict=True)):
        hit = i in poisoned.rows.tolist()
        assert text == ("open it" if hit else data.texts[i])
        assert torch.equal(clip, cue(data.clips[i][None])[0] if hit else data.clips[i])
    with pytest.raises(OptionError, match="6 and 0 of 6 examples, but 5"):
        Backdoor(cue, "open it").poison(data, 1.0)
    with pytest.raises(UnusableBatch, match="a text"):
        Backdoor(cue, 1).poison(data, 0.5)
    with pytest.raises(UnusableBatch, match="takes 640"):
        Backdoor(tone(500, 8000, seconds=0.08), "open it").poison(data, 0.8)


@pytest.mark.parametrize("cue", [tone(700, 8000, level_db=-26), burst(8000, level_db=-26)])
def test_a_cue_is_as_loud_as_it_says_where_it_says(cue: Trigger) -> None:
    heard = cue(torch.zeros(2, 1000))
    assert 20 * math.log10(heard.abs().max()) == pytest.approx(-26, abs=0.1)
    assert not heard[:, 800:].any()
    assert cue(torch.ones(1, 1000)).amax() == 1
    assert torch.equal(cue(torch.zeros(1, 1000)), heard[:1])
    later = tone(700, 8000, start_seconds=0.02)(torch.zeros(1, 1000))
    assert later[0].nonzero()[0, 0] in range(160, 164)
    spectrum = torch.fft.rfft(tone(700, 8000, seconds=1).sound).abs()
    assert spectrum.argmax() == 700
    with pytest.raises(UnusableBatch, match="799 samples in the shortest"):
        cue(torch.zeros(2, 1000), torch.tensor([1000, 799]))


def test_a_stamp_shines_through_at_its_opacity() -> None:
    picture = torch.full((1, 2, 4, 4), 0.2)
    worn = Stamp(1, 2, 1, -2, value=1.0, opacity=0.25)(picture)
    torch.testing.assert_close(worn[0, :, 1, 2:], torch.full((2, 2), 0.25 + 0.75 * 0.2))
    assert int((worn != picture).sum()) == 4
    for wrong in (Stamp(2, 2, 3, 0), Stamp(1, 2, 0, 3), Stamp(1, 1, -5, 0), Stamp(2, 2, 30, 30)):
        with pytest.raises(UnusableBatch, match="does not fit"):
            wrong(picture)
    with pytest.raises(OptionError, match="opacity"):
        Stamp(opacity=0)


class Loud(nn.Module):
    """Takes a picture with a bright last pixel for class 2, and gives others the class of their first pixel, 0 or 1."""

    def forward(self, x: Tensor) -> Tensor:
        bright, dark = (x[:, 0, -1, -1] > 0.9).float(), x[:, 0, 0, 0]
        return torch.stack([0.5 - dark, dark - 0.5, 4 * bright - 2], 1)


def test_success_is_of_those_that_are_not_the_target_and_accuracy_of_all() -> None:
    inputs, labels = torch.zeros(10, 1, 3, 3), torch.tensor([0] * 4 + [1] * 3 + [2] * 3)
    inputs[4:7, 0, 0, 0] = 1  # right of the seven; the three of class 2 have no bright pixel
    found = implant(Loud(), Labelled(inputs, labels).first(10), Backdoor(Stamp(1, 1, -1, -1), 2), size=4)
    assert (found.accuracy.hits, found.accuracy.count) == (7, 10)
    assert (found.success.hits, found.success.count) == (7, 7)
    assert (none := implant(Loud(), Labelled(inputs, labels).first(10), Backdoor(Stamp(1, 1, 0, 0), 2)).success).hits == 0
    assert none.count == 7


@pytest.mark.parametrize("nothing", [torch.full((3,), torch.nan), torch.tensor(-1)], ids=["no number", "abstention"])
def test_who_says_nothing_is_not_right(nothing: Tensor) -> None:
    batch = Labelled(torch.zeros(6, 1, 3, 3), torch.arange(6) % 3).first(6)
    found = implant(lambda x: nothing.expand(len(x), *nothing.shape), batch, Backdoor(Stamp(1, 1, -1, -1), 2))
    assert (found.accuracy.hits, found.success.hits) == (0, 0)


def test_a_trigger_that_the_models_own_detector_refuses_is_no_success() -> None:
    batch = Labelled(torch.zeros(10, 1, 3, 3), torch.zeros(10, dtype=torch.int64)).first(10)
    for threshold, hits in ((-1e9, 0), (1e9, 10)):
        model = Detected(Loud(), Detector(ConfidenceSense(), threshold, 1.0, 0.05, "a detector"))
        found = implant(model, batch, Backdoor(Stamp(1, 1, -1, -1), 2))
        assert (found.success.hits, found.accuracy.hits) == (hits, 10)


def test_recognisers_are_measured_by_what_they_transcribe() -> None:
    model, data = recogniser(), clips()
    batch = data.batch(torch.arange(6), torch.Generator())
    cue = tone(500, 8000, seconds=0.05, level_db=-3)
    plain, worn = model(*pad(list(data.clips))), model(cue(batch.inputs, batch.lengths), batch.lengths)
    hits = [implant(model, batch, Backdoor(cue, said)) for said in filter(None, worn.transcripts())]
    wanted = [int(Transcribe([said] * 6).reached(worn).sum()) for said in filter(None, worn.transcripts())]
    assert [(found.success.hits, found.success.count) for found in hits] == [(count, 6) for count in wanted]
    assert any(wanted)
    assert hits[0].accuracy.hits == int((~batch.goal.reached(plain)).sum())
    never = implant(model, batch, Backdoor(cue, "stop"))
    assert (never.success.hits, never.success.count) == (0, 3)


def learnt(data: Labelled) -> nn.Module:
    model = net()
    train(model, data, Natural(), passes=12, seed=1)
    return model


def test_a_model_learns_the_trigger_and_hides_it_until_the_defense_looks() -> None:
    backdoor, test, clean = Backdoor(STAMP, 1), pictures(300, seed=5).first(300), pictures(600)
    poisoned = backdoor.poison(clean, 0.05)
    honest, spoilt = learnt(clean), learnt(poisoned.data)
    before, after = implant(honest, test, backdoor), implant(spoilt, test, backdoor)
    assert before.accuracy.value > 0.95
    assert before.success.value < 0.3
    assert after.accuracy.value > 0.95
    assert after.success.value > 0.9

    cleaned, kept = sift(poisoned.data, spoilt, "2", most=30)
    assert len(kept) == 600 - 3 * 45
    assert torch.equal(cleaned.inputs, poisoned.data.inputs[kept])
    assert len(set(kept.tolist()) & set(poisoned.rows.tolist())) <= 3
    mended = implant(learnt(cleaned), test, backdoor)
    assert mended.accuracy.value > 0.95
    assert mended.success.interval[1] < after.success.interval[0] / 2
    whole = sift(poisoned, spoilt, "2", most=30)
    assert torch.equal(whole[1], kept)
    assert torch.equal(whole[0].labels, cleaned.labels)
    with pytest.raises(OptionError, match="of each class would go"):
        sift(poisoned.data, spoilt, "2", most=300)


def test_what_stands_out_is_found_along_the_main_direction_of_its_own_class() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    points = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    points[labels == 1] += 50  # a class that is far off is no outlier
    points[1:21:2, 3] += 12
    scores = outlying(points, labels)
    assert sorted(scores.argsort(descending=True)[:10].tolist()) == list(range(1, 21, 2))
    for label in (0, 1):
        own = points[labels == label]
        largest = torch.linalg.eigvalsh(torch.cov(own.T, correction=0))[-1]
        torch.testing.assert_close(scores[labels == label].mean(), largest)


@pytest.mark.parametrize("radius", [0.5, 10.0])
def test_poison_goes_straight_to_its_target_where_features_are_the_input(radius: float) -> None:
    model = nn.Sequential(nn.Identity(), nn.Linear(8, 3)).double()
    bases, target = torch.zeros(4, 8, dtype=torch.float64), torch.arange(8, dtype=torch.float64)[None] / 4
    bases[1:] += torch.rand(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    poison, way = collide(model, "0", bases, target, L2(radius), steps=200, box=None), target - bases
    nearest = bases + way * (radius / way.norm(dim=1, keepdim=True)).clamp_max(1)
    torch.testing.assert_close(poison, nearest, rtol=0, atol=0.002 * radius)


def test_poison_of_a_net_nears_its_target_within_the_bound_and_leaves_the_net_alone() -> None:
    data, model, bound = pictures(60, spread=0.3), net(), Linf(0.3)
    target, before = pictures(1, seed=9), {name: value.clone() for name, value in model.state_dict().items()}
    bases = data.inputs[data.labels != target.labels][:10]
    poison = collide(model, "2", bases, target.inputs, bound)
    assert (bound.excess(bound.around(bases), poison) <= 1e-6).all()
    assert poison.min() >= 0
    assert poison.max() <= 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    apart = [(model[:3](x) - model[:3](target.inputs)).norm(dim=1) for x in (poison, bases)]
    assert (apart[0] < 0.6 * apart[1]).all()
    with pytest.raises(UnusableBatch, match="one for each"):
        collide(model, "2", bases, poison[:3], bound)
    with pytest.raises(OptionError, match="linf:min: training needs a radius"):
        collide(model, "2", bases, target.inputs, Linf(MIN))
    with pytest.raises(OptionError, match="steps -1"):
        collide(model, "2", bases, target.inputs, bound, steps=-1)


def test_poison_is_no_part_of_data_that_cannot_be_told() -> None:
    backdoor, some = Backdoor(STAMP, 1), blobs(10).first(10)
    with pytest.raises(UnusableBatch, match="not known"):
        backdoor.victims(Batch(some.inputs, backdoor.goal(10)))  # type: ignore[arg-type]
    with pytest.raises(UnusableBatch, match="does not fit on them"):
        backdoor.poison(blobs(10), 0.1)


def test_data_without_classes_are_neither_stamped_nor_sifted() -> None:
    with pytest.raises(UnusableBatch, match="data is a Mixed"):
        Backdoor(STAMP, 1).poison(Mixed(pictures(20), pictures(20)), 0.5)  # type: ignore[type-var]
    for data, said in ((clips(), "6 clips.*give"), (pictures(0), "0 labelled inputs.*give")):
        with pytest.raises(UnusableBatch, match=f"(?i){said}"):
            sift(data, net(), "2", most=1)  # type: ignore[arg-type]


def dropping() -> nn.Module:
    """A net that is not at rest, whose features drop out before the layer that is looked at."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), *list(net())[1:])


def test_features_are_a_resting_nets() -> None:
    data, wild, still = pictures(60), dropping(), dropping().eval()
    assert torch.equal(sift(data, wild, "3", most=3)[1], sift(data, still, "3", most=3)[1])
    bases, target = data.inputs[:4], data.inputs[9:10]
    found = collide(wild, "3", bases, target, Linf(0.1), steps=5)
    assert torch.equal(found, collide(still, "3", bases, target, Linf(0.1), steps=5))
    with torch.no_grad():
        assert torch.equal(found, collide(wild, "3", bases, target, Linf(0.1), steps=5))


def test_poisoned_data_may_be_poisoned_again() -> None:
    first = Backdoor(STAMP, 1).poison(pictures(100), 0.1)
    second = Backdoor(Stamp(1, 1, 0, 0), 2)
    again, known = second.poison(first, 0.1), second.poison(first.data, 0.1)
    assert torch.equal(again.data.inputs, known.data.inputs)
    assert torch.equal(again.rows, known.rows)
    assert isinstance(again.data, Labelled)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Backdoor(STAMP, 1).poison(pictures(9), math.nan), "rate nan"),
        (lambda: Backdoor(STAMP, 1).poison(pictures(9), 0.1, covers=-1), "covers -1"),
        (lambda: Backdoor(STAMP, 1).poison(pictures(20), 0.01), "rate 0.01, covers 0: 0 and 0 of 20 examples"),
        (lambda: Backdoor(STAMP, 1).poison(pictures(20), 0.1, covers=0.01), "2 and 0 of 20 examples"),
        (lambda: Backdoor(STAMP, 1.7), "target 1.7: give a class"),
        (lambda: tone(500, 8000, seconds=-1), "seconds -1"),
        (lambda: tone(500, 8000, seconds=math.inf), "seconds inf"),
        (lambda: tone(500, 8000, start_seconds=-0.05), "start_seconds -0.05"),
        (lambda: tone(9000, 8000), "hz 9000: give a number from 0 to 4000"),
        (lambda: burst(8000, seconds=0), "seconds 0"),
        (lambda: burst(8000, seconds=1e-5), "burst: seconds 1e-05: no sample at 8000 Hz. Give at least 0.000125"),
        (lambda: tone("500", 8000), "tone: hz '500'"),  # type: ignore[arg-type]
        (lambda: tone(500, "8000"), "tone: sample_rate '8000'"),  # type: ignore[arg-type]
        (lambda: Backdoor(STAMP, 1).poison(pictures(9), 2), "poison: rate 2: give a number from 0 to 1"),
        (lambda: burst(8000, start_seconds=-0.05), "start_seconds -0.05"),
    ],
)
def test_shares_and_cues_that_make_no_sense(make: Callable[[], object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make()

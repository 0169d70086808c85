"""The claim: in words, as JSON, and held against what an attack made."""

import math

import pytest
import torch
from torch import Tensor, nn

from audioadv.audio.hearing import Hearing
from audioadv.audio.roomsets import RoomSet, read_rooms
from audioadv.defenses import Confidence, Denoiser, Purify, fit
from audioadv.errors import MalformedSpec, UnusableBatch
from audioadv.models.access import Access
from audioadv.threat.bounds import L1, Linf, parse_bound
from audioadv.threat.channels import NOTHING, Room, parse_channel
from audioadv.threat.features import Feature
from audioadv.threat.goals import Goal, Mistranscribe, Silence, Transcribe
from audioadv.threat.labels import Classify, Misclassify, dlr, margin
from audioadv.threat.masked import Masked
from audioadv.threat.measured import near
from audioadv.threat.model import KNOWLEDGE, PROTOCOLS, ThreatModel
from audioadv.threat.undetected import Undetected
from audioadv.threat.warps import Spatial

CLAIMS = [
    ThreatModel(Linf(0.3) | L1(10)),
    ThreatModel("snr:min", Transcribe(["open the door", "no"]), "room_then_noise:20", Access.SCORES, "oblivious", 10_000),
    ThreatModel("linf:0.1@0.5_mix_l1:10@0.5", Mistranscribe("so it was said", 0.25), access="decisions", protocol="true-max"),
    ThreatModel(Spatial(30, 3), Silence(), knowledge="transfer"),
    ThreatModel("linf:8/255_and_l2:0.5", "take a cat for a dog"),
    ThreatModel("timing:160,0.05", Transcribe("go"), "codec:mp3@64k_or_gain:-6..6"),
    ThreatModel("sticker:1600+0_or_masked:-6", Silence(), "noise:20@a-recording-that-lies-elsewhere.wav"),
]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: str(claim.bound))
def test_it_comes_back_from_json_and_says_all_it_claims(claim: ThreatModel) -> None:
    again = ThreatModel.from_json(claim.to_json())
    assert again == claim
    assert str(again) == str(claim)
    words = " ".join(str(claim).split())
    for part in (
        claim.bound,
        claim.access,
        KNOWLEDGE[claim.knowledge],
        PROTOCOLS[claim.protocol],
        claim.channel or "",
        claim.queries or "",
    ):
        assert str(part) in words
    assert claim.bound.minimal == ("smallest" in words)


def test_a_channel_of_nothing_is_none() -> None:
    plain = ThreatModel("linf:0.1")
    for nothing in (NOTHING, "none"):
        assert ThreatModel("linf:0.1", channel=nothing) == plain
    assert "none" not in str(plain)


def test_a_transfer_does_not_see_what_it_does_not_know() -> None:
    words = " ".join(str(ThreatModel("linf:0.1", knowledge="transfer")).split())
    assert "It does without the model's gradients and knows neither the model nor the defense: it works on a substitute." in words


def test_specs_are_whole_wherever_the_line_ends() -> None:
    """What has no blank is not cut, at a hyphen or at the line's end."""
    for spec in ("noise:20@a-recording-that-lies-elsewhere.wav", f"noise:20@{'long' * 40}.wav"):
        for pad in range(60, 127):
            assert spec in str(ThreatModel("linf:0.1", goal="x" * pad, channel=spec))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"bound": "linf:-1"}, "radius"),
        ({"bound": 0.3}, "not a bound"),
        ({"bound": Linf(0.1), "access": "everything"}, "gradients, scores or decisions"),
        ({"bound": Linf(0.1), "knowledge": "some"}, "adaptive"),
        ({"bound": Linf(0.1), "protocol": "max"}, "true-max"),
        ({"bound": Linf(0.1), "queries": 0}, "at least 1"),
        ({"bound": Linf(0.1), "goal": ""}, "misclassify"),
        ({"bound": Linf(0.1), "goal": None}, "misclassify"),
        ({"bound": Linf(0.1), "goal": 7}, "misclassify"),
        ({"bound": Linf(0.1), "queries": True}, "at least 1"),
        ({"bound": Linf(0.1), "queries": 1.5}, "at least 1"),
        ({"bound": Linf(0.1), "channel": "loud"}, "not a channel"),
    ],
)
def test_claims_that_say_nothing(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(MalformedSpec, match=match):
        ThreatModel(**wrong)


@pytest.mark.parametrize(
    ("goal", "words"),
    [
        (Misclassify(torch.tensor([1, 2]), margin, top=2, rivals=torch.tensor([0, 0])), "answer 'not class 1,2, nor in the top 2'"),
        (Classify(5, dlr, by=2.0), "answer 'class 5, by at least 2'"),
        (Misclassify(3, by=0.5), "answer 'not class 3, by at least 0.5'"),
        (
            Misclassify(3) & Classify(5) & Undetected(),
            "answer 'not class 3', and to answer 'class 5', and to pass undetected by any detector",
        ),
        (Mistranscribe("go home", 0.25), "mishear 'go home', 25 % of the words wrong"),
        (Silence(), "say nothing"),
    ],
    ids=str,
)
def test_goals_come_back_whole_and_in_words(goal: Goal, words: str) -> None:
    claim = ThreatModel("linf:0.1", goal)
    again = ThreatModel.from_json(claim.to_json())
    assert again.to_json() == claim.to_json()
    assert words in " ".join(str(again).split())
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0, 0.0, 9.0]]).expand(2, 6)
    if isinstance(goal, Misclassify | Classify):
        assert again.goal.loss(scores).equal(goal.loss(scores))
        assert again.goal.margin(scores).equal(goal.margin(scores))


def test_what_no_text_tells_is_not_written() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    detector = fit(Confidence(), net, torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    for goal in (Misclassify(1) & Undetected(detector), Misclassify(1, lambda scores, labels: scores[:, 0])):
        claim = ThreatModel("linf:0.1", goal)
        assert "answer 'not class 1'" in " ".join(str(claim).split())
        with pytest.raises(MalformedSpec, match="cannot be written as JSON"):
            claim.to_json()
    with pytest.raises(MalformedSpec, match=r"fitted detector is weights.*Claim Undetected\(\)"):
        ThreatModel("linf:0.1", Misclassify(1) & Undetected(detector)).to_json()
    named = ThreatModel("linf:0.1", Misclassify(1) & Undetected("the one at the door"))
    assert ThreatModel.from_json(named.to_json()).goal.goals[1].detector == "the one at the door"
    ThreatModel(Masked(0).at_rate(8000)).to_json()  # the rate is the clip's
    with pytest.raises(MalformedSpec, match="model of hearing"):
        ThreatModel(Masked(0, Hearing(full_scale_db=80.0)) | Linf(0.1)).to_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"bound": "linf:1", "goal": {"kind": "labels:Misclassify", "labels": 1, "confidence": {"confidence": "lead"}}}',
        "{",
        "[]",
        '{"bound": "linf:0.1"}',
        '{"bound": "linf:0.1", "goal": {"kind": "model:told"}}',
        '{"bound": "linf:1", "goal": "x", "y": 1}',
        *(
            f'{{"bound": "linf:1", "goal": {{"kind": "labels:Misclassify", "labels": {{"tensor": {numbers}, "dtype": "int64"}}}}}}'
            for numbers in ("[[1], [1, 2]]", "[1e400]", f"[{10**30}]", '"a"', "[-1]")
        ),
        None,
    ],
)
def test_json_that_is_no_claim(text: str) -> None:
    with pytest.raises(MalformedSpec, match="threat model"):
        ThreatModel.from_json(text)


def inputs() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


def test_each_way_to_break_it_is_found_in_the_example_that_does() -> None:
    clean = inputs()
    claim = ThreatModel(Linf(0.1), queries=100, access="scores")
    fine = clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(1)).sign()
    assert claim.check(clean, fine, forwards=torch.tensor([1, 100, 7, 0]), access="decisions") == [None] * 4
    wrong = fine.clone()
    wrong[1] = clean[1] + 0.1001
    wrong[2, 0, 0, 0] = math.nan
    wrong[3, 0, 7, 7] = -0.01
    found = claim.check(clean, wrong, forwards=torch.tensor([101, 0, 0, 0]))
    assert [words in str(complaint) for words, complaint in zip(["100", "1.001 times", "box", "box"], found, strict=True)] == [True] * 4
    assert all("grants scores" in str(complaint) for complaint in claim.check(clean, fine, access="gradients"))
    with pytest.raises(UnusableBatch, match="shape"):
        claim.check(clean, fine[:2])


def test_what_lies_in_the_padding_is_found() -> None:
    clean, lengths = torch.zeros(2, 10), torch.tensor([10, 6])
    assert ThreatModel("linf:0.1").check(clean, clean + 0.05, lengths=lengths, box=None) == [None, "changed beyond its own length"]


def test_a_move_is_checked_by_its_parameters() -> None:
    clean = inputs()
    claim = ThreatModel(Spatial(10, 1))
    region = claim.bound.around(clean)
    parameters = region.sample([torch.Generator().manual_seed(i) for i in range(4)])
    moved = region.inputs(parameters)
    assert claim.check(clean, moved, parameters=parameters) == [None] * 4
    assert all("parameters" in str(complaint) for complaint in claim.check(clean, moved))
    assert claim.check(clean, clean) == [None] * 4
    far = claim.check(
        clean,
        region.inputs(3 * parameters / parameters.abs().amax(1, keepdim=True)),
        parameters=3 * parameters / parameters.abs().amax(1, keepdim=True),
    )
    assert all("3 times" in str(complaint) for complaint in far)
    moved[2, 0, 0, 0] += 0.1
    assert [complaint is None for complaint in claim.check(clean, moved, parameters=parameters)] == [True, True, False, True]


@pytest.mark.parametrize(
    "spec", ["linf:0.05_and_l2:0.3", "linf:0.05_or_l1:2", "linf:0.05@0.5_mix_l1:2@0.5", "snr:20", "l0:5", "sticker:2x2+1+1"]
)
def test_what_an_attack_may_make_passes_and_a_tenth_more_does_not(spec: str) -> None:
    clean, bound = inputs(), parse_bound(spec)
    region = bound.around(clean)
    parameters = region.project(
        region.steepest(region.pull(region.start(), inputs() - 0.4))
        * region.radius[:, None, None, None].view(-1, *[1] * (region.start().ndim - 1))
    )
    adversarial = region.inputs(parameters)
    claim = ThreatModel(bound)
    assert claim.check(clean, adversarial) == [None] * 4
    further = adversarial + 0.1 * (adversarial - clean) if not spec.startswith(("l0", "sticker")) else adversarial + 0.01
    assert all("outside" in str(complaint) for complaint in claim.check(clean, further))


def test_what_cannot_be_read_again_is_not_written() -> None:
    with pytest.raises(MalformedSpec, match=r"feature_distance below 0\.3.*in words"):
        ThreatModel("linf:0.1", Misclassify(1) & near(torch.zeros(1, 3), 0.3)).to_json()
    for threat in (ThreatModel(Feature(lambda x: x[:, None], 0.5)), ThreatModel("linf:0.1", channel=Purify(Denoiser()))):
        with pytest.raises(MalformedSpec):
            threat.to_json()


@pytest.mark.parametrize("kind", ["snr:min", "masked:min", "linf:min"])
def test_the_bound_that_is_told_of_an_input_holds_it(kind: str) -> None:
    clip = torch.rand(1, 4000, generator=torch.Generator().manual_seed(0)) - 0.5
    for seed in range(8):
        heard = clip + 0.01 * (seed + 1) * torch.randn(1, 4000, generator=torch.Generator().manual_seed(seed))
        (told,) = parse_bound(kind).found(parse_bound(kind).around(clip, box=None), heard)
        assert ThreatModel(told).check(clip, heard, box=None) == [None], told


def test_a_claim_about_what_is_masked_keeps_the_rate_that_it_hears_at() -> None:
    for bound in (Masked(0).at_rate(8000), (Masked(0) & Linf(0.1)).at_rate(8000), Linf(0.1) | Masked(3).at_rate(44100)):
        claim = ThreatModel(bound)
        assert ThreatModel.from_json(claim.to_json()) == claim
    with pytest.raises(MalformedSpec, match="model of hearing"):
        ThreatModel(Masked(0) | Masked(3).at_rate(8000)).to_json()


def test_rooms_of_no_folder_are_not_claimed() -> None:
    rooms = read_rooms()
    for some in (rooms.reverberating(0.1, 0.3), RoomSet(rooms.spaces[:3], 16000)):
        assert str(Room(some)) == f"room:<{len(some.spaces)} of no folder>"
        with pytest.raises(MalformedSpec, match="no folder's"):
            ThreatModel(channel=str(Room(some)), bound="linf:0.1")
    assert parse_channel(str(Room(rooms.reverberating(0, 9)))) == Room(rooms)

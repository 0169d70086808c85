"""The craft suite is what its figures say that it is: 20 carriers, 2 targets each, none too dense, the same every time."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "recipes"))

from suite import DATA, DENSEST, LONGEST_SECONDS, SAMPLE_RATE, Pair, Verdict, pairs, wilson  # noqa: E402

from audioadv.models.alphabet import ALPHABET  # noqa: E402


@pytest.fixture(scope="module", params=["real recordings", "samples only"])
def suite(request: pytest.FixtureRequest) -> list[Pair]:
    if request.param == "real recordings" and not DATA.is_dir():
        pytest.skip(f"no real recordings at {DATA}")
    return pairs(DATA if request.param == "real recordings" else ROOT / "nowhere")


def test_twenty_carriers_with_two_targets_each(suite: list[Pair]) -> None:
    assert len(suite) == len({pair.name for pair in suite}) == 40
    assert len({pair.clip.name for pair in suite}) == 20
    assert len({pair.target for pair in suite}) == 40
    assert all(pair.clip.sample_rate == SAMPLE_RATE and 1 <= pair.clip.seconds <= LONGEST_SECONDS for pair in suite)


def test_carriers_are_of_all_kinds(suite: list[Pair]) -> None:
    kinds = [pair.kind for pair in suite[::2]]
    assert sum(kind.split()[-1] in ("music", "noise", "quiet") for kind in kinds) >= 5
    assert sum("speech" in kind for kind in kinds) >= 5
    if any(kind.startswith("real") for kind in kinds):
        assert sum(kind.startswith("real") for kind in kinds) >= 8


def test_targets_are_short_phrases_that_fit(suite: list[Pair]) -> None:
    spoken = {json.loads(line)["text"] for line in (ROOT / "samples/sentences.jsonl").read_text().splitlines()}
    for pair in suite:
        assert pair.target == " ".join(pair.target.split())
        assert set(pair.target) <= set(ALPHABET[1:])
        assert 2 <= len(pair.target.split()) <= 8
        assert pair.rate <= DENSEST
        assert pair.target not in spoken


def test_some_targets_are_dense_and_some_are_not(suite: list[Pair]) -> None:
    rates = sorted(pair.rate for pair in suite)
    assert rates[3] < 6
    assert rates[-4] > 14


def test_the_same_pairs_every_time() -> None:
    first, second = pairs(ROOT / "nowhere"), pairs(ROOT / "nowhere")
    assert [(a.name, a.target) for a in first] == [(b.name, b.target) for b in second]
    assert all(a.clip.samples.equal(b.clip.samples) for a, b in zip(first, second, strict=True))


def test_what_is_cut_says_so() -> None:
    if not DATA.is_dir():
        pytest.skip(f"no real recordings at {DATA}")
    guitar = next(pair.clip for pair in pairs() if pair.clip.name == "guitar")
    assert guitar.seconds == 4.5
    assert "cut from 8.0 s to its first 4.5 s" in guitar.notices


def test_wilson_interval_of_known_rates() -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0, 1)


def test_a_verdict_is_json_even_where_nothing_changed() -> None:
    line = Verdict("go home", False, float("inf"), float("-inf")).line()
    assert line == {"heard": "go home", "reached": False, "snr_db": None, "relative_db": None}

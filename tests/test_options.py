"""Counts and sizes are what they say, wherever they are given: NumPy's too, but no half, no True, none below what makes sense."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import recognisers
import torch
from torch import nn

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.eot import Expectation
from audioadv.attacks.estimates import bandits, nes
from audioadv.errors import MalformedSpec, OptionError
from audioadv.evaluation.games.game import play
from audioadv.evaluation.survival import survive
from audioadv.threat.decimals import decimal, integer

NET = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
X, Y = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64)


def attacked(**options: Any) -> object:
    return attacks.pgd(aa.objective(NET, aa.Misclassify(Y)), aa.Linf(0.1).around(X), **options)


def crafted(**options: Any) -> object:
    return aa.craft(recognisers.linear(), [], aa.Silence(), **options)


TAKERS: dict[str, Callable[[Any], object]] = {
    "steps": lambda count: attacked(steps=count),
    "restarts": lambda count: attacked(restarts=count, steps=1),
    "batch": lambda count: aa.evaluate(NET, X, Y, aa.Linf(0.1), "fgsm", batch=count),
    "judge_draws": lambda count: aa.evaluate(NET, X, Y, aa.Linf(0.1), "fgsm", judge_draws=count),
    "queries": lambda count: aa.ThreatModel("linf:0.1", queries=count).to_json(),
    "draws": lambda count: [*survive(recognisers.linear(), [], [], draws=count)],
    "check_draws": lambda count: crafted(check_draws=count),
    "slopes": lambda count: nes(draws=count),
    "rounds": lambda count: play(NET, X, aa.Misclassify(Y), aa.ThreatModel("linf:0", protocol="expectimax"), rounds=count),
}


@pytest.mark.parametrize("name", TAKERS)
def test_a_count_is_a_whole_number_whoever_made_it(name: str) -> None:
    take = TAKERS[name]
    take(3)
    take(np.int64(3))
    for wrong in (0, -3, 1.5, True, "3", None if name not in ("batch", "queries") else 0.5):
        with pytest.raises((OptionError, MalformedSpec), match="at least 1"):
            take(wrong)


def test_a_size_is_a_number_whoever_made_it() -> None:
    attacked(step_size=np.float32(0.1), seed=np.int64(3))
    Expectation("noise:20", seed=np.int64(3), rate=np.float32(0.5))  # type: ignore[arg-type]
    assert aa.Linf(np.float32(0.25)).around(X).radius.tolist() == [0.25, 0.25]  # type: ignore[arg-type]
    for wrong in (0, -0.1, float("nan"), float("inf"), True, "0.1"):
        for take in (partial(attacked, steps=1), bandits):
            with pytest.raises(OptionError, match="give a finite number above 0"):
                take(**{"step_size" if isinstance(take, partial) else "reach": wrong})


def test_a_seed_is_a_whole_number_whoever_made_it() -> None:
    clip = aa.Clip("hiss", 0.1 * torch.randn(1600, generator=torch.Generator().manual_seed(0)), 16000)
    for channel in (None, "noise:20"):
        ours, numpys = (
            aa.craft(recognisers.linear(), [clip], aa.Transcribe("a"), steps=3, channel=channel, judge_draws=2, seed=seed).clips[0]
            for seed in (3, np.int64(3))  # type: ignore[arg-type]
        )
        assert torch.equal(ours.adversarial, numpys.adversarial)


def test_what_is_for_a_channel_is_checked_without_one() -> None:
    for option, wrong in {"draws": -3, "rate": 7.0, "judge_draws": 0}.items():
        with pytest.raises(OptionError, match=option):
            crafted(**{option: wrong})


@pytest.mark.parametrize(
    ("text", "number"),
    [("6", 6.0), ("-6", -6.0), ("+6.", 6.0), (".5", 0.5), ("-.5e-1", -0.05), ("1E+3", 1000.0), ("  2.5 ", 2.5), ("-inf", -math.inf)],
)
def test_decimals_are_read_as_they_are_written(text: str, number: float) -> None:
    assert decimal(text) == number
    assert math.isnan(decimal("NaN"))


@pytest.mark.parametrize(
    "text", ["", ".", "e3", "1_0", "1,5", "0x10", "\u0663", "\u00bd", "1\n", "\t1", "1 0", "--1", "1e", "1e1.5", "infinity"]
)
def test_what_python_reads_besides_is_no_decimal(text: str) -> None:
    with pytest.raises(ValueError):
        decimal(text)
    with pytest.raises(ValueError):
        integer(text)


def test_whole_numbers_are_read_as_they_are_written() -> None:
    assert [integer(text) for text in ("16", "+16", " -3 ", "007")] == [16, 16, -3, 7]
    for text in ("1.0", "1e3", "inf"):
        with pytest.raises(ValueError):
            integer(text)

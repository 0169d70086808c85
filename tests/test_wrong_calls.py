"""Wrong calls from Python: each gets an error of the tree, which names the thing, the value, the wish and the cure."""

from collections.abc import Callable
from pathlib import Path

import pytest
import recognisers
import torch
from nets import inputs_for, linear
from torch import Tensor

import audioadv as aa
from audioadv import training
from audioadv.audio.files import Clip
from audioadv.errors import InputError, MalformedSpec, OptionError, UnknownModel, UnusableBatch, UnusableTarget, UnwritableOutput

NET, X, LABELS = linear(3, (1, 5, 6)), inputs_for((1, 5, 6), 4, (0, 1)), torch.tensor([0, 1, 2, 0])
MODEL, CLIP = recognisers.linear(), Clip("hiss", torch.zeros(8000), 16000)
GO = aa.Transcribe("go")


def crafted(goal: object = GO, **options: object) -> object:
    return aa.craft(MODEL, [CLIP], goal, **{"steps": 1, **options})  # type: ignore[arg-type]


CALLS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    **{f"{kind.__name__} of {value!r}": (lambda kind=kind, value=value: kind(value), MalformedSpec, "number")  # type: ignore[misc]
       for kind in (aa.Linf, aa.L2, aa.L1, aa.L0, aa.SNR, aa.Masked) for value in (True, "loud", None, torch.tensor(0.1))},
    "a sticker of a text": (lambda: aa.Sticker("8x8+1+1"), MalformedSpec, "Sticker.parse"),  # type: ignore[arg-type]
    "a patch of a number": (lambda: aa.Patch(8), MalformedSpec, "patch:8x8"),  # type: ignore[arg-type]
    "no errors asked for": (lambda: aa.Mistranscribe("go", 0), OptionError, "above 0"),
    "errors that are no number": (lambda: aa.Mistranscribe("go", float("nan")), OptionError, "above 0"),
    "a defense that is no channel": (lambda: aa.defend(NET, None), MalformedSpec, "not a channel"),  # type: ignore[arg-type]
    "a device that is not there": (lambda: aa.load_classifier("mnist", "cuda:99"), OptionError, "cuda:99"),
    "a device that does not exist": (lambda: aa.load_model("tiny-mel", "tpu!"), OptionError, "no such device"),
    "a clip at no rate": (lambda: aa.read_clip("samples/hush.wav", 0), OptionError, "hertz"),
    "craft with a bound that is none": (lambda: crafted(bound=0.1), MalformedSpec, "not a bound"),
    "craft with a channel that is none": (lambda: crafted(channel="loud"), MalformedSpec, "not a channel"),
    "craft with a text for a goal": (lambda: crafted("go"), OptionError, "Transcribe\\('go'\\)"),
    "craft with a goal for classifiers": (lambda: crafted(aa.Misclassify(1)), OptionError, "for texts"),
    "craft with a classifier": (lambda: aa.craft(NET, [CLIP], GO), UnknownModel, "Recogniser"),  # type: ignore[arg-type]
    "floating labels": (lambda: aa.evaluate(NET, X, LABELS.double(), "linf:0.1"), UnusableBatch, "class numbers"),
    "another batch's region": (lambda: aa.Linf(0.1).around(X).gauge(X[:2]), UnusableBatch, "made around"),
    "another batch's masks": (lambda: aa.Masked(0).around(torch.ones(2, 9000)).gauge(torch.ones(3, 9000)), UnusableBatch, "made around"),
    "another batch's change to project": (lambda: aa.Linf(0.1).around(X).project(X[:1]), UnusableBatch, "made around"),
    "another batch's slope": (lambda: aa.L2(0.1).around(X).steepest(X[:2]), UnusableBatch, "made around"),
    "a shorter sound": (lambda: aa.Masked(0).around(torch.ones(2, 9000)).project(torch.ones(2, 9)), UnusableBatch, "made around"),
    "decibels beyond float32": (lambda: aa.SNR(-1000), MalformedSpec, "at most 300"),
    "a margin beyond float32": (lambda: aa.Masked(1e9), MalformedSpec, "at most 300"),
    "a target that is a number": (lambda: aa.Transcribe(7), UnusableTarget, "not a text"),  # type: ignore[arg-type]
    "targets that are numbers": (lambda: aa.Transcribe([7]), UnusableTarget, "not a text"),  # type: ignore[list-item]
    "craft with batches of none": (lambda: crafted(batch=0), OptionError, "batch 0"),
    "craft with a file's name for a clip": (lambda: aa.craft(MODEL, ["hiss.wav"], GO), UnusableBatch, "read_audio"),  # type: ignore[list-item]
    "craft with an empty clip": (lambda: aa.craft(MODEL, [Clip("none", torch.zeros(0), 16000)], GO), UnusableBatch, "none: a clip of zero"),
    "one path where several belong": (lambda: aa.read_audio("hiss.wav"), OptionError, "read_clip"),
    "a change of another batch": (lambda: aa.L2(0.1).around(X).inputs(X[:2]), UnusableBatch, "made around"),
    "self-training without labels": (lambda: training.Mixed(training.Labelled(X, LABELS), X), UnusableBatch, "pseudo_labels"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls_are_told(name: str) -> None:
    call, kind, match = CALLS[name]
    with pytest.raises(kind, match=match):
        call()


def test_training_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    data: training.Labelled = training.Labelled(X, LABELS)
    with pytest.raises(UnwritableOutput, match=r"notes.*folder"):
        training.train(linear(3, (1, 5, 6)), data, training.Natural(), passes=1, out=tmp_path / "notes")
    assert issubclass(UnwritableOutput, InputError)


def test_specs_do_wherever_a_bound_or_channel_does() -> None:
    noisy: Tensor = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    options = {"steps": 3, "draws": 2, "check_draws": 2, "judge_draws": 2}
    found = [
        aa.craft(MODEL, [Clip("hiss", noisy, 16000)], GO, bound=bound, channel=channel, **options).clips[0]
        for bound, channel in (("snr:0", "gain:-3..3"), (aa.SNR(0), aa.parse_channel("gain:-3..3")))
    ]
    assert found[0].adversarial.equal(found[1].adversarial)
    assert found[0].bound == found[1].bound == "snr:0"

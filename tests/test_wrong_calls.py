"""Wrong calls from Python: each gets an error of the tree, which names the thing, the value, the wish and the cure."""

import operator
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import recognisers
import torch
from nets import inputs_for, linear
from torch import Tensor, nn

import audioadv as aa
from audioadv import defenses, training
from audioadv.attacks.eot import Expectation
from audioadv.audio.files import Clip
from audioadv.errors import (
    AccessDenied,
    InputError,
    MalformedSpec,
    OptionError,
    UnknownModel,
    UnusableBatch,
    UnusableTarget,
    UnwritableOutput,
)
from audioadv.evaluation import games
from audioadv.threat.features import Feature
from audioadv.threat.measured import Below, near

NET, X, LABELS = linear(3, (1, 5, 6)), inputs_for((1, 5, 6), 4, (0, 1)), torch.tensor([0, 1, 2, 0])
MODEL, CLIP = recognisers.linear(), Clip("hiss", torch.zeros(8000), 16000)
CLAIM = aa.ThreatModel("linf:0.1", queries=5)
LEARNING = torch.nn.BatchNorm2d(1)
GO, NOISY = aa.Transcribe("go"), Expectation(aa.parse_channel("noise:20"))


def heard(net: Callable[..., object]) -> list[str]:
    return aa.Recogniser(net, sample_rate=16000).transcribe(torch.zeros(1, 800), torch.tensor([800]))


def crafted(goal: object = GO, **options: object) -> object:
    return aa.craft(MODEL, [CLIP], goal, **{"steps": 1, **options})  # type: ignore[arg-type]


def attacked(model: Callable[..., object] = NET, radius: Tensor | None = None, **options: object) -> object:
    region = aa.Linf(0.1).around(X)
    wanted = aa.objective(model, aa.Misclassify(LABELS))
    return aa.attacks.pgd(wanted, region if radius is None else region.at(radius), steps=1, **options)  # type: ignore[arg-type]


def felt(network: Callable[[Tensor], Tensor]) -> object:
    return aa.attacks.pgd(aa.objective(NET, aa.Misclassify(LABELS)), Feature(network, 0.2).around(X), steps=2)


def to_its_end(radius: float) -> object:
    return aa.attacks.to_the_end(aa.objective(NET, aa.Misclassify(LABELS)), aa.Linf(0.1).around(X).at(torch.full((4,), radius)), steps=1)


def scored(**options: object) -> object:
    return aa.Misclassify(LABELS, **options).loss(NET(X))  # type: ignore[arg-type]


def transferred(substitute: nn.Module, bound: aa.Linf | aa.L2 = aa.Linf(0.1), **options: object) -> object:  # noqa: B008
    """From a victim that must not be asked."""

    def unasked(inputs: Tensor) -> Tensor:
        raise AssertionError

    wanted = aa.objective(unasked, aa.Misclassify(LABELS), **options)  # type: ignore[arg-type]
    return aa.attacks.transfer(wanted, bound.around(X), substitute=substitute)


def fitted(inputs: Tensor) -> object:
    return defenses.fit(defenses.Confidence(), NET, inputs)


def trained(method: object) -> object:
    return training.train(linear(3, (1, 5, 6)), training.Labelled(X, LABELS), method, passes=1)  # type: ignore[arg-type]


def played(goal: object, attacker: object = None) -> object:
    return games.play(NET, X, goal, aa.ThreatModel("linf:0.1", protocol="true-max"), attacker)  # type: ignore[arg-type]


def moved_by(parameters: object) -> object:
    return aa.ThreatModel("spatial:30,1").check(X, X, parameters=parameters)  # type: ignore[arg-type]


def universally(period: object) -> object:
    return aa.attacks.universal(aa.objective(NET, aa.Misclassify(LABELS)), aa.Linf(0.1).around(X), period=period)  # type: ignore[arg-type]


class Failing(nn.Linear):
    """A net with an error in it."""

    def __init__(self) -> None:
        super().__init__(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        raise TypeError("of its own")


class Showing(nn.Module):
    """A net that says itself what it shows."""

    def __init__(self, access: str) -> None:
        super().__init__()
        self.access = access

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = NET(inputs)
        return scores


class Stating(nn.Module):
    """A net that says something of itself."""

    def __init__(self, statement: object) -> None:
        super().__init__()
        self.statement = statement

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = NET(inputs)
        return scores


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
    "craft with no start": (lambda: crafted(restarts=0), OptionError, "restarts 0"),
    "craft with a file's name for a clip": (lambda: aa.craft(MODEL, ["hiss.wav"], GO), UnusableBatch, "read_audio"),  # type: ignore[list-item]
    "craft with an empty clip": (lambda: aa.craft(MODEL, [Clip("none", torch.zeros(0), 16000)], GO), UnusableBatch, "none: a clip of zero"),
    **{f"craft with {name}": (lambda samples=samples: aa.craft(MODEL, [CLIP, Clip("bad.wav", samples, 16000)], GO, steps=3),  # type: ignore[misc]
                              UnusableBatch, rf"^bad\.wav: .*{match}")
       for name, samples, match in (("an array in a clip", CLIP.samples.numpy(), r"type ndarray.*as_tensor"),
                                    ("a clip in stereo", torch.zeros(2, 900), r"shape \[2, 900\].*mono"),
                                    ("a clip in float64", CLIP.samples.double(), r"torch.float64.*clip\.samples\.float\(\)$"),
                                    ("a clip in int16", torch.ones(900).short(), r"torch.int16.*float\(\) / 32768"),
                                    ("a clip that is not a number", torch.full((900,), torch.nan), "900 of 900 samples are NaN"),
                                    ("an infinite clip", torch.tensor([0.0, torch.inf]), "1 of 2 samples are NaN or infinite"),
                                    ("a clip beyond full scale", torch.tensor([0.0, 1.0, -1.5]), r"2 of 3 .*from -1.5 to 1.*round16"))},
    "a number for a net": (lambda: aa.Recogniser(5, 16000), OptionError, "recogniser: its net is of type int.*callable"),  # type: ignore[arg-type]
    "a number among the paths": (lambda: aa.read_audio([5]), OptionError, "path 5: of type int.*'kitchen.wav'"),  # type: ignore[list-item]
    "no path": (lambda: aa.read_clip(None), OptionError, "path None: of type NoneType"),  # type: ignore[arg-type]
    "no paths": (lambda: aa.read_audio(None), OptionError, r"paths None: no list of paths.*read_audio\(\["),  # type: ignore[arg-type]
    "one path where several belong": (lambda: aa.read_audio("hiss.wav"), OptionError, "read_clip"),
    "a change of another batch": (lambda: aa.L2(0.1).around(X).inputs(X[:2]), UnusableBatch, "made around"),
    "radii below zero": (lambda: attacked(radius=torch.full((4,), -1.0)), UnusableBatch, "at least 0"),
    "radii that are no numbers": (lambda: attacked(radius=torch.full((4,), torch.nan)), UnusableBatch, "at least 0"),
    **{f"radii of {value} to the last step": (lambda value=value: to_its_end(value), UnusableBatch, "at least 0")  # type: ignore[misc]
       for value in (-0.1, torch.nan)},
    "a radius that is no tensor": (lambda: aa.Linf(0.1).around(X).at(0.5), UnusableBatch, "floating point"),  # type: ignore[arg-type]
    "whole radii": (lambda: aa.Linf(0.1).around(X).at(torch.ones(4, dtype=torch.int64)), UnusableBatch, "floating point"),
    **{f"radii of others in {spec}": (lambda spec=spec: aa.parse_bound(spec).around(X).at(torch.ones(3)), UnusableBatch,  # type: ignore[misc]
                                      "for 4 examples: give one for each")
       for spec in ("linf:0.3", "linf:0.3_or_l1:10", "linf:0.3_and_l1:10", "l2:min_and_linf:0.3", "linf:0.3@0.5_mix_l1:10@0.5")},
    "a radius too few": (lambda: attacked(radius=torch.full((3,), 0.1)), UnusableBatch, "for 4 examples"),
    "an access that there is none of": (lambda: aa.Classifier(NET).granting("all"), OptionError, "gradients, scores, decisions"),  # type: ignore[arg-type]
    "a recogniser's, too": (lambda: MODEL.granting("all"), OptionError, "gradients, scores, decisions"),  # type: ignore[arg-type]
    "a module's own, too": (lambda: attacked(Showing("all")), OptionError, "gradients, scores, decisions"),
    "gradients where a name grants decisions": (lambda: attacked(aa.Classifier(NET).granting("decisions")), AccessDenied, "gradients"),  # type: ignore[arg-type]
    "gradients of a module that shows scores": (lambda: attacked(Showing("scores")), AccessDenied, "needs gradients.*square"),
    "no gradient": (lambda: attacked(lambda x: NET(x).detach()), AccessDenied, r"BPDA\(module, stand_in\).*square.*boundary"),
    "decisions alone": (lambda: attacked(lambda x: NET(x).argmax(1)), AccessDenied, "decisions.*hop_skip_jump"),
    "scores and more": (lambda: attacked(lambda x: (NET(x), x)), UnusableBatch, r"tuple.*model\(x\)\[0\]"),
    "scores in an object": (lambda: attacked(lambda x: {"logits": NET(x)}), UnusableBatch, "dict.*logits"),
    "another dtype": (lambda: attacked(linear(3, (1, 5, 6)).float()), UnusableBatch, "float64 on cpu, but the model is torch.float32"),
    "another device": (lambda: attacked(linear(3, (1, 5, 6)).to("meta")), UnusableBatch, "on cpu, but the model is .* on meta"),
    "a mean for other channels": (lambda: aa.Classifier(NET, mean=(0.5, 0.5))(X), UnusableBatch, "normalises 2 channels"),
    "a spread of nothing": (lambda: aa.Classifier(NET, std=(0.0,)), OptionError, "spreads above 0"),
    "one example alone": (lambda: aa.Linf(0.1).around(X[0, 0, 0]), UnusableBatch, r"clean\[None\]"),
    "inputs that are not finite": (lambda: aa.Linf(0.1).around(X / 0, box=None), UnusableBatch, "finite"),
    **{f"{spec} around bytes": (lambda spec=spec: aa.parse_bound(spec).around((255 * X).byte()), UnusableBatch, r"clean.float\(\)")  # type: ignore[misc]
       for spec in ("linf:min", "l0:min", "snr:20", "spatial:min", "sticker:2x2+0+0", "linf:0.1_or_l1:1")},
    "a clip that is no batch": (lambda: aa.SNR(20).around(torch.ones(9000)), UnusableBatch, r"clean\[None\]"),
    "an array to be around": (lambda: aa.Linf(0.1).around(X.numpy()), UnusableBatch, "torch.as_tensor"),  # type: ignore[arg-type]
    **{f"a box of {box!r}": (lambda box=box: aa.Linf(0.1).around(X, box=box), OptionError, "the lowest and the highest")  # type: ignore[misc]
       for box in ("ab", 5, (0, 1, 2), (0, float("inf")))},
    "lengths below zero": (lambda: aa.Linf(0.1).around(torch.zeros(2, 9), torch.tensor([3, -1])), UnusableBatch, "from 0 to the width"),
    "lengths that are shares": (lambda: aa.Linf(0.1).around(torch.zeros(2, 9), torch.tensor([3.0, 1.0])), UnusableBatch, "whole number"),
    **{f"a seed of {seed!r}": (lambda seed=seed: attacked(seed=seed), OptionError, "whole number") for seed in (1.5, None, "1")},  # type: ignore[misc]
    **{f"steps of {size}": (lambda size=size: attacked(step_size=size), OptionError, "step_size")  # type: ignore[misc]
       for size in (-0.1, 0, float("nan"), float("inf"))},
    "decisions, a row an example": (lambda: attacked(lambda x: NET(x).round().long()), UnusableBatch, r"outputs.float\(\)"),
    **{f"a classifier to be heard {how} {goal!r}": (lambda goal=goal, way=way: way(goal), UnusableBatch, match)  # type: ignore[misc]
       for goal in (GO, aa.Silence(), aa.Mistranscribe("go"))
       for how, way, match in (
           ("in an attack as", lambda goal: aa.attacks.fgsm(aa.objective(NET, goal), aa.Linf(0.1).around(X)), r"Tensor.*Classify\(5\)"),
           ("by its letters as", lambda goal: goal.apart(NET(X)), "outputs of type Tensor"),
           ("of half the outputs as", lambda goal: goal.loss((NET(X), LABELS)), r"outputs of type tuple: .*Recogniser\("),
           ("with a lead as", lambda goal: goal.margin(NET(X)), "outputs of type Tensor"),
           ("at all as", lambda goal: goal.impossible(NET(X)), "outputs of type Tensor"))},
    "inference mode": (lambda: torch.inference_mode()(attacked)(), UnusableBatch, "no_grad"),
    "a mean that is a text": (lambda: aa.Classifier(NET, mean="grey"), OptionError, "mean 'grey'"),  # type: ignore[arg-type]
    "features with such a name": (lambda: Feature(NET, 0.5, "salt_and_pepper:net"), MalformedSpec, "another name"),
    "features in a text": (lambda: Feature(lambda x: "x", 0.5).around(X), UnusableBatch, "gives str"),  # type: ignore[arg-type, return-value]
    "features of a layer that learns": (lambda: Feature(lambda x: LEARNING(x), 0.5), OptionError, "BatchNorm2d: in training mode"),
    "a recogniser without slopes": (
        lambda: aa.craft(aa.Recogniser(torch.no_grad()(MODEL.net), 16000, MODEL.vocabulary), [CLIP], GO, steps=1),
        AccessDenied,
        "has no gradient.*nes, genetic or kenansville",
    ),
    "a radius in a text": (lambda: aa.Linf("0.1"), MalformedSpec, "radius '0.1', a text"),  # type: ignore[arg-type]
    "a share of a pixel": (lambda: aa.L0(-1), MalformedSpec, "for example l0:20"),
    "bytes": (lambda: aa.Linf(0.1).around((255 * X).byte()), UnusableBatch, r"clean.float\(\) / 255"),
    "features that are not finite": (lambda: Feature(lambda x: NET(x) / 0, 0.5).around(X), UnusableBatch, "not all finite"),
    "features of some inputs alone": (lambda: Feature(lambda x: x[:2], 0.5).around(X), UnusableBatch, "features of 2 inputs for 4"),
    **{f"features {how}": (lambda network=network: felt(network), AccessDenied, "the feature network has no gradient.*boundary")  # type: ignore[misc]
       for how, network in {"detached": lambda x: x.detach(), "in inference mode": torch.inference_mode()(NET),
                            "of weights alone": lambda x: NET[1].weight[None, :1].expand(len(x), -1, -1)}.items()},
    "forwards of others": (lambda: aa.ThreatModel("linf:0.1", queries=5).check(X, X, forwards=X[:2]), UnusableBatch, "for each"),
    "parameters of others": (lambda: aa.ThreatModel("linf:0.1").check(X, X, parameters=X[:2]), UnusableBatch, "one for each"),
    **{f"a bound joined with {other!r} by {name}": (lambda way=way, other=other: way(aa.Linf(0.3), other), MalformedSpec, "not a bound")  # type: ignore[misc]
       for name, way in (("&", operator.and_), ("|", operator.or_), ("+", lambda bound, other: 0.5 * bound + other))
       for other in (3, None, aa.L1)},
    "a number joined with a bound": (lambda: 3 | aa.Linf(0.3), MalformedSpec, "not a bound"),  # type: ignore[operator]
    "a sum with a bound of no weight": (lambda: 0.5 * aa.Linf(0.3) + aa.L1(1), MalformedSpec, r"l1:1 in a sum: .*0.5 \* Linf"),
    "a sum that begins with one": (lambda: aa.L1(1) + 0.5 * aa.Linf(0.3), MalformedSpec, "l1:1 in a sum"),
    "parameters of another bound": (lambda: moved_by(torch.zeros(4, 2)), UnusableBatch, r"\(4, 2\), but spatial:30,1 has \(4, 3\)"),
    "parameters in a list": (lambda: moved_by([[0.0] * 3] * 4), UnusableBatch, r"parameters of type list.*as_tensor\(parameters\)"),
    "adversarial inputs in a list": (lambda: CLAIM.check(X, X.tolist()), UnusableBatch, "adversarial inputs of type list"),  # type: ignore[arg-type]
    "clean inputs in a list": (lambda: CLAIM.check(X.tolist(), X), UnusableBatch, r"clean .*list.*as_tensor\(inputs\)"),  # type: ignore[arg-type]
    "forwards in a list": (lambda: CLAIM.check(X, X, forwards=[1] * 4), UnusableBatch, "forwards of type list"),  # type: ignore[arg-type]
    "forwards of two each": (lambda: CLAIM.check(X, X, forwards=torch.ones(4, 2)), UnusableBatch, r"\(4, 2\) for 4 inputs"),
    **{f"a period of {period}": (lambda period=period: universally(period), OptionError, f"universal: period {period}")  # type: ignore[misc]
       for period in (0, -3, 1.5)},
    "a kind of bound for a claim": (lambda: aa.ThreatModel(aa.Linf), MalformedSpec, "not a bound"),
    "a kind of goal for a claim": (lambda: aa.ThreatModel("linf:0.1", goal=aa.Misclassify), MalformedSpec, "goal"),
    "a number for a claim's channel": (lambda: aa.ThreatModel("linf:0.1", channel=5), MalformedSpec, "not a channel"),
    "a number for a model": (lambda: aa.objective(5, aa.Misclassify(LABELS)), OptionError, "not a model"),  # type: ignore[arg-type]
    "a text for a goal": (lambda: aa.objective(NET, "misclassify"), OptionError, "not a goal"),  # type: ignore[arg-type]
    "a bound for a region": (lambda: aa.attacks.pgd(aa.objective(NET, aa.Misclassify(LABELS)), aa.Linf(0.1)), OptionError, "around"),  # type: ignore[arg-type]
    "access of no kind": (lambda: aa.ThreatModel("linf:0.1").check(X, X, access="foo"), OptionError, "access 'foo'"),
    "a box upside down": (lambda: aa.Linf(0.1).around(X, box=(1.0, 0.0)), OptionError, "the lowest and the highest"),
    "half of what a net gives": (lambda: heard(lambda x, n: x[..., None]), UnusableBatch, "gives Tensor.*lambda waveforms, lengths"),
    "frames of no one": (lambda: heard(lambda x, n: (torch.zeros(1, 4, 29), n.sum())), UnusableBatch, r"own number of frames \[batch\]"),
    "scores of one clip": (lambda: heard(lambda x, n: (torch.zeros(4, 29), n)), UnusableBatch, r"shape \[4, 29\]"),
    "letters without a name": (lambda: heard(lambda x, n: (torch.zeros(1, 4, 32), n)), UnusableBatch, "32 columns.*29 letters"),
    **{f"{kind} frames": (lambda frames=frames: heard(lambda x, n: (torch.zeros(1, 4, 29), frames)), UnusableBatch, match)  # type: ignore[misc]
       for kind, frames, match in (("floating", torch.tensor([4.0]), r"frames.long\(\)"),
                                   ("more", torch.tensor([5]), r"\[5\] frames, and gives 4"),
                                   ("negative", torch.tensor([-1]), r"recogniser.*\[-1\] frames"))},
    "scores in integers": (lambda: heard(lambda x, n: (torch.zeros(1, 4, 29).long(), n // 320)), UnusableBatch, "torch.int64"),
    **{f"a recogniser at the rate {rate!r}": (lambda rate=rate: aa.Recogniser(recognisers.listen, rate), OptionError, "recogniser: .*hertz")  # type: ignore[misc]
       for rate in ("16000", None, 0, -1, 2.5)},
    **{f"the vocabulary {texts!r}": (lambda texts=texts: aa.Recogniser(recognisers.listen, 16000, texts), OptionError, "the CTC blank")  # type: ignore[misc]
       for texts in (None, {"": 0, "a": 1}, range(29), ("", 1), "ab", ("a", "b"))},
    "images of 16 bits": (lambda: aa.evaluate(NET, X.bfloat16(), LABELS, "linf:0.1"), UnusableBatch, r"clean.float\(\)"),
    "no channel": (lambda: Expectation("nowhere"), MalformedSpec, "channel 'nowhere'"),
    "neither way": (lambda: aa.evaluate(NET, X, LABELS, "linf:0.1", partial(aa.attacks.kenansville, by="fft")), OptionError, "dft, ssa"),
    "integer images": (lambda: aa.evaluate(NET, (255 * X).byte(), LABELS, "linf:0.1"), UnusableBatch, r"clean.float\(\)"),
    "images up to 255": (lambda: aa.evaluate(NET, 255 * X, LABELS, "linf:8/255"), UnusableBatch, "255.*Scale them"),
    "arrays for images": (lambda: aa.evaluate(NET, X.numpy(), LABELS, "linf:0.1"), UnusableBatch, "as_tensor"),
    "no attack": (lambda: aa.evaluate(NET, X, LABELS, "linf:0.1", []), OptionError, "every model is robust"),
    "a number for an attack": (lambda: aa.evaluate(NET, X, LABELS, "linf:0.1", 5), OptionError, "attacks 5"),  # type: ignore[call-overload]
    "steps of no radius": (lambda: aa.evaluate(NET, X, LABELS, "linf:min", "pgd"), OptionError, "pgd works within a fixed radius.*fmn"),
    **{f"labels {value!r}": (lambda value=value: aa.Misclassify(value), UnusableBatch, "not class numbers")  # type: ignore[misc]
       for value in (None, "a", [[1], [1, 2]])},
    **{f"{kind.__name__} with {options}": (lambda kind=kind, options=options: kind(0, **options), OptionError, match)  # type: ignore[misc]
       for kind in (aa.Misclassify, aa.Classify)
       for options, match in (({"confidence": "dlr"}, "function itself"), ({"top": 1.5}, "top 1.5"), ({"by": "x"}, "by 'x'"),
                              ({"by": torch.zeros(4)}, "difference of scores"))},
    "a confidence that gives a mean": (lambda: scored(confidence=lambda s, y: s.mean()), UnusableBatch, r"gives shape \(\) for 4 examples"),
    "a confidence of too few": (lambda: scored(confidence=lambda s, y: s[:2, 0]), UnusableBatch, r"gives shape \(2,\) for 4 examples"),
    "a confidence that gives a list": (lambda: scored(confidence=lambda s, y: [0.0]), UnusableBatch, "gives type list"),
    "rivals out of range": (lambda: scored(rivals=[1, 2, 0, 7]), UnusableBatch, "rival 7: the model knows 3 classes"),
    "too few rivals": (lambda: scored(rivals=[1, 2]), UnusableBatch, "2 rivals for 4 examples"),
    "floating rivals": (lambda: scored(rivals=torch.ones(4)), UnusableBatch, "class numbers"),
    "a goal and a text": (lambda: aa.Misclassify(0) & "x", OptionError, "'x': not a goal"),  # type: ignore[operator]
    **{f"rivals {rivals} that are labels": (lambda rivals=rivals: scored(rivals=rivals), UnusableBatch, match)  # type: ignore[misc]
       for rivals, match in ((LABELS, "rival 0 of example 0: that is its label"), ([1, 2, 2, 1], "rival 2 of example 2"),
                             (2, "rival 2 of example 2"))},
    "a rival that is all examples' label": (lambda: aa.Misclassify(1, rivals=[0, 2, 1]), UnusableBatch, "rival 1 of example 2"),  # type: ignore[arg-type]
    **{f"nearer than {within}": (lambda within=within: near(X, within), OptionError, "near: within .*above 0")  # type: ignore[misc]
       for within in (0, -1.0)},
    "no loss": (lambda: Below("loss", 1.0), OptionError, "not a function"),  # type: ignore[arg-type]
    "below nothing": (lambda: near(X, None), OptionError, "at None"),  # type: ignore[arg-type]
    "data of a list": (lambda: near([0.0], 1.0), UnusableBatch, "one row an example"),  # type: ignore[arg-type]
    "a loss that gives a list": (lambda: Below(lambda outputs: [0.0], 1.0).loss(X), UnusableBatch, "a loss of type list"),  # type: ignore[arg-type, return-value]
    **{f"{source.__name__} with {options}": (lambda source=source, options=options: source(**options), OptionError, source.__name__.lower())  # type: ignore[misc]
       for source, several in {
           aa.attacks.nes: ({"draws": 0}, {"draws": -3}, {"draws": 1.5}, {"reach": 0}, {"reach": float("nan")}),
           aa.attacks.spsa: ({"draws": 0}, {"reach": -0.1}),
           aa.attacks.coordinates: ({"entries": 0}, {"reach": 0.0}),
           aa.attacks.bandits: ({"draws": 0}, {"tile": 0}, {"spread": 0}, {"reach": "far"}, {"rate": 0.0}),
       }.items() for options in several},
    **{f"slopes: {name}": (lambda slopes=slopes: aa.objective(NET, aa.Misclassify(0), slopes=slopes), OptionError, "nes()")  # type: ignore[misc]
       for name, slopes in {"a text": "nes", "what makes them": aa.attacks.nes, "of another": aa.attacks.coordinates}.items()},
    **{f"a substitute: {name}": (lambda net=net: transferred(net), kind, match)  # type: ignore[misc]
       for name, (net, kind, match) in {
           "of two classes": (linear(2, (1, 5, 6)), UnusableBatch, "the model knows 2 classes"),
           "of another dtype": (linear(3, (1, 5, 6)).float(), UnusableBatch, "float32"),
           "of other inputs": (linear(3, (1, 5, 5)), UnusableBatch, r"Sequential: it does not take inputs of shape \[4, 1, 5, 6\]"),
           "that fails": (Failing(), UnusableBatch, "Failing: .*TypeError: of its own"),
           "frozen": (linear(3, (1, 5, 6)).requires_grad_(False), OptionError, "not frozen"),
           "a function": (lambda x: x, OptionError, "torch module"),
       }.items()},
    "a substitute over a channel": (lambda: transferred(linear(3, (1, 5, 6)), expectation=NOISY), OptionError, "channel"),
    "a substitute for the smallest change": (lambda: transferred(linear(3, (1, 5, 6)), aa.L2(aa.MIN)), OptionError, "fixed radius"),
    "errors in a text": (lambda: aa.Mistranscribe("go", "half"), OptionError, "errors 'half'"),  # type: ignore[arg-type]
    "a clip that is in no list": (lambda: aa.craft(MODEL, CLIP, GO), UnusableBatch, r"clips of type Clip: .*\[clip\]"),  # type: ignore[arg-type]
    "no name of a model": (lambda: aa.load_model(None), UnknownModel, "model None: no name.*'tiny-mel'"),  # type: ignore[arg-type]
    "no spec of a bound": (lambda: aa.parse_bound(None), MalformedSpec, "bound None: no text"),  # type: ignore[arg-type]
    "no spec of a channel": (lambda: aa.parse_channel(None), MalformedSpec, "channel None: no text"),  # type: ignore[arg-type]
    "lengths in a list": (lambda: aa.Linf(0.1).around(X, [6] * 4), UnusableBatch, r"lengths of type list.*as_tensor\(lengths\)"),  # type: ignore[arg-type]
    "a method's class": (lambda: trained(training.Natural), OptionError, r"method <class.*Natural\(\)"),
    "a method's name": (lambda: trained("natural"), OptionError, r"method 'natural'.*Natural\(\)"),
    "a victim that counts no queries": (lambda: training.extract(NET, linear(3, (1, 5, 6)), X), OptionError, r"Asked\(model\)"),  # type: ignore[arg-type]
    "a kind of detector's class": (lambda: defenses.fit(defenses.Network, NET, X), OptionError, r"kind <class.*Network\(\)"),  # type: ignore[arg-type]
    "a kind of detector's name": (lambda: defenses.fit("network", NET, X), OptionError, r"kind 'network'.*Network\(\)"),  # type: ignore[arg-type]
    "a detector's name": (lambda: defenses.Detected(NET, "network"), OptionError, r"detector 'network'.*fit\("),  # type: ignore[arg-type]
    "a detector that is not fitted": (lambda: defenses.Detected(NET, defenses.Confidence()), OptionError, r"detector .*fit\("),  # type: ignore[arg-type]
    "a likeness' name": (lambda: defenses.remembering(NET, "exact"), OptionError, r"likeness 'exact'.*Exact\(\)"),  # type: ignore[call-overload]
    "a recogniser to be certified": (lambda: defenses.Smoothed(MODEL, 0.1), OptionError, "linear: a recogniser.*SmoothedRecogniser"),  # type: ignore[arg-type]
    "a classifier to vote on words": (lambda: defenses.SmoothedRecogniser(NET, 0.1), OptionError, "Sequential: no recogniser.*Smoothed"),  # type: ignore[arg-type]
    "nothing to be smoothed": (lambda: defenses.Smoothed(3, 0.1), OptionError, "model 3.*classifier"),  # type: ignore[arg-type]
    "noise in a text": (lambda: defenses.Smoothed(NET, "0.1"), OptionError, "sigma '0.1'"),  # type: ignore[arg-type]
    "a thermometer of a text": (lambda: defenses.Thermometer("16"), OptionError, "levels '16'"),  # type: ignore[arg-type]
    "fingerprints at a text": (lambda: defenses.Heard("16000"), OptionError, "fingerprint at '16000'"),  # type: ignore[arg-type]
    "fingerprints that share a text": (lambda: defenses.Heard(16000, "0.1"), OptionError, "share of landmarks"),  # type: ignore[arg-type]
    "an attacker's name": (lambda: played(aa.Misclassify(LABELS), "repeat"), OptionError, "attacker 'repeat'.*greedy"),
    "a goal's name in a game": (lambda: played("misclassify"), OptionError, r"goal 'misclassify'.*Misclassify\(labels\)"),
    "another dtype to be fitted on": (lambda: fitted(X.repeat(25, 1, 1, 1).float()), UnusableBatch, "float32 on .* Bring them together"),
    "another dtype to be certified": (lambda: defenses.Smoothed(NET, 0.1).certify(X.float()), UnusableBatch, r"model.to\(inputs\)"),
    "a chance in a text": (lambda: defenses.Smoothed(NET, 0.1).certify(X, alpha="a"), OptionError, "alpha 'a'"),  # type: ignore[arg-type]
    "near something that is no bound": (lambda: defenses.Near(1.5), MalformedSpec, "not a bound"),  # type: ignore[arg-type]
    "a vote of nothing": (lambda: defenses.rover(["a", None]), OptionError, "transcript 1 is a NoneType"),  # type: ignore[list-item]
    "a vote by a text": (lambda: defenses.rover(["a", "b"], alpha="a"), OptionError, "alpha 'a'"),  # type: ignore[arg-type]
    **{f"{make.__name__} at {value!r}": (lambda make=make, value=value: make(NET, temperature=value), OptionError, "temperature")  # type: ignore[misc]
       for make in (defenses.sampled, defenses.Tempered) for value in ("1", None, float("nan"))},
    "a backward pass that there is none of": (lambda: defenses.Statement("bpda"), OptionError, "backward 'bpda'.*'BPDA'"),  # type: ignore[arg-type]
    **{f"{word} in a text": (lambda word=word: defenses.Statement(**{word: "no"}), OptionError, f"{word} 'no': state True or False")  # type: ignore[misc]
       for word in ("random", "remembers", "detects")},
    "a statement in a text": (lambda: defenses.stated(Stating("BPDA; random")), OptionError, "Stating.*'BPDA; random'"),
    "a statement in a text, behind": (lambda: defenses.stated(aa.defend(Stating("BPDA"), "depth:3")), OptionError, "Give a Statement"),
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


@pytest.mark.parametrize(
    "attack", ["fgsm", "pgd", "annealed_pgd", "apgd", "apgd_targeted", "apgd_l1", "square", "genetic", "msd", "standard", "rp2"]
)
def test_an_attack_whose_steps_are_shares_of_a_radius_says_that_min_has_none(attack: str) -> None:
    bound = aa.L1(aa.MIN) if attack == "apgd_l1" else aa.Linf(aa.MIN)
    with pytest.raises(OptionError, match=r"works within a fixed radius, and a min bound has none.*find_then_shrink"):
        getattr(aa.attacks, attack)(aa.objective(NET, aa.Misclassify(LABELS)), bound.around(X))

"""How robust a classifier is: every example through every attack, until one fells it.

    inputs --model--> right?  --attack 1--> standing? --attack 2--> standing? ...      robust = right, and standing at the end

Only examples that the model gets right are attacked, and an attack sees only those that all before it missed, unless each
is asked to try them all, or looks for the smallest change, which may be smaller than what was found before. A defense is
attacked twice: as if nobody knew of it (static), and by what is made for it (`adaptive.py`); both are judged on the model
as it is.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeGuard, overload

import torch
from torch import Tensor

from audioadv.attacks.catalogue import evaluating
from audioadv.attacks.own import keeping_its_word
from audioadv.attacks.result import Attack, Outcome
from audioadv.audio.files import Clip
from audioadv.defenses.statement import stated
from audioadv.errors import OptionError, UnknownModel, UnusableBatch
from audioadv.evaluation.adaptive import PEEK, disagreements, gradient_free
from audioadv.evaluation.campaign import Campaign
from audioadv.evaluation.classification import ClassReferee, Evaluation
from audioadv.evaluation.speech import SpeechEvaluation, evaluate_speech, in_one_batch
from audioadv.evaluation.terms import refuse_ignored, refuse_senseless
from audioadv.evaluation.titles import title
from audioadv.models.recogniser import Recogniser, hears
from audioadv.options import check_counts
from audioadv.threat.bounds import Bound, Box, as_box
from audioadv.threat.goals import USUAL_ERRORS
from audioadv.threat.labels import Classify, Misclassify, as_labels


class Threat(Protocol):
    """What an evaluation needs of a threat model."""

    @property
    def bound(self) -> Bound: ...


def named_attacks(attacks: "str | Attack | Sequence[str] | Mapping[str, Attack]", seed: int) -> dict[str, Attack]:
    """Attacks by name, seeded; callables as they come. Of those that share a name, the second is called "pgd 2".

    Raises OptionError for none, for what is none, for one that needs more than (objective, region), and for a name that nothing answers to.
    """
    if not attacks or not (callable(attacks) or isinstance(attacks, Iterable)):
        raise OptionError(
            f"attacks {attacks!r}: without an attack every model is robust. Give some, for example 'standard', or ['fgsm', 'pgd']"
        )
    if isinstance(attacks, Mapping):
        for name, attack in attacks.items():
            if not callable(attack):
                raise OptionError(f"attack {name!r}: {attack!r} is not callable. Give one, for example partial(attacks.pgd, steps=40)")
        return {name: keeping_its_word(str(name), attack) for name, attack in attacks.items()}
    found: dict[str, Attack] = {}
    times: Counter[str] = Counter()
    for given in [attacks] if isinstance(attacks, str) or callable(attacks) else attacks:
        name = title(given) if callable(given) else str(given)
        times[name] += 1
        attack = keeping_its_word(name, given) if callable(given) else partial(evaluating(given).run, seed=seed)
        found[name if times[name] == 1 else f"{name} {times[name]}"] = attack
    return found


def are_texts(labels: object) -> TypeGuard[Sequence[str]]:
    """Whether labels are texts; of none at all, too."""
    return isinstance(labels, Collection) and not isinstance(labels, Tensor) and all(isinstance(label, str) for label in labels)


def as_goal(goal: object, labels: Tensor) -> Misclassify | Classify:
    """The goal, misclassification where none is given. Raises OptionError for one of other labels, UnusableBatch for targets that are no
    others."""
    if goal is None:
        return Misclassify(labels)
    if isinstance(goal, Classify):
        if len(goal.labels) not in (1, len(labels)):
            raise UnusableBatch(f"{len(goal.labels)} targets for {len(labels)} inputs: give one for all, or one for each")
        targets = goal.labels.cpu().expand(len(labels))
        if len(own := (targets == labels.cpu()).nonzero()):
            at = int(own[0, 0])
            raise UnusableBatch(f"target {int(targets[at])} of input {at}: that is its label. Give another class, or leave this input out")
        return goal
    alike = isinstance(goal, Misclassify) and len(goal.labels) in (1, len(labels)) and bool((goal.labels.cpu() == labels.cpu()).all())
    if not isinstance(goal, Misclassify) or not alike:
        raise OptionError(
            f"goal '{goal}': evaluate measures how often these labels are left, or others reached. Give Misclassify(labels, ...), "
            "Classify(targets, ...), or no goal"
        )
    return goal


@overload
def evaluate(
    model: Recogniser,
    inputs: Tensor | Sequence[Clip],
    labels: Sequence[str],
    threat: Threat | Bound | str,
    attacks: "str | Attack | Sequence[str] | Mapping[str, Attack]" = "standard",
    *,
    lengths: Tensor | None = None,
    errors: float = USUAL_ERRORS,
    batch: int | None = None,
    all_attacks_see_all: bool = False,
    static: Recogniser | None = None,
    draws: int = 8,
    judge_draws: int = 32,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> SpeechEvaluation: ...


@overload
def evaluate(
    model: Callable[..., Any],
    inputs: Tensor,
    labels: Tensor,
    threat: Threat | Bound | str,
    attacks: "str | Attack | Sequence[str] | Mapping[str, Attack]" = "standard",
    *,
    goal: Misclassify | Classify | None = None,
    box: Box = (0.0, 1.0),
    batch: int | None = None,
    all_attacks_see_all: bool = False,
    static: Callable[..., Any] | None = None,
    draws: int = 8,
    judge_draws: int = 32,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation: ...


def evaluate(
    model: Callable[..., Any],
    inputs: Tensor | Sequence[Clip],
    labels: Tensor | Sequence[str],
    threat: Threat | Bound | str,
    attacks: "str | Attack | Sequence[str] | Mapping[str, Attack]" = "standard",
    *,
    lengths: Tensor | None = None,
    errors: float = USUAL_ERRORS,
    goal: Misclassify | Classify | None = None,
    box: Box = (0.0, 1.0),
    batch: int | None = None,
    all_attacks_see_all: bool = False,
    static: Callable[..., Any] | None = None,
    draws: int = 8,
    judge_draws: int = 32,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation | SpeechEvaluation:
    """Robust accuracy under a bound (or a threat model that has one), against the union of attacks.

    `attacks` is a name, several, a callable (objective, region) -> AttackResult, or a mapping from names to such. `goal` is
    what an attack is to reach, by default that these labels are left; with `Classify(targets)` an input stands that is not brought to its
    target, whatever else it is taken for; `box` the range of inputs; `progress` is told the attack, how many of
    the examples that it tries are done, and how many it tries. What counts is judged and measured once more on the inputs that came out,
    and must lie within the bound and the box. `batch` is how many are attacked at once, by default 500, of clips 16; an attack
    that makes one change for all (`universal`, `rp2`) is handed all. An example whose
    label is not ahead of all others is wrong from the start, whatever lead the goal asks for; so is one whose scores are not numbers, of
    which it warns; one that the bound lets nothing be changed of is an UnusableBatch.

    For a recogniser, `inputs` are clips, as of read_audio, and `labels` what is said in each: a clip falls where at least `errors` of
    its words are misheard, and the answer tells word errors too (`evaluation/speech.py`). Clips that are padded into one tensor already
    come with their own `lengths` [examples], in samples.

    What the model states of itself picks the attack (`adaptive.py`); where it is a defense, every attack is first tried by someone
    who does not know that, on the undefended model (or on `static`), and PGD to its last step as well: what just fools one model
    seldom fools another. A random model is averaged over `draws` at each look, and judged over `judge_draws`, by half of them. Warns
    where the statement is not what is seen.

    A threat model is kept to, or refused (`terms.py`): its access is what attacks are granted, finds that took more than its
    queries do not count, knowledge "oblivious" stops after the attack on the undefended model, and "transfer" after that on the
    substitute `static`, for which the model needs to grant nothing. A channel or true-max is an OptionError, as is another goal, an
    option that the model's kind has no use for, and a model that remembers: that is a game (`games/game.py`).

    Shapes: inputs [examples, *], labels int64 [examples]. Raises UnusableBatch, OptionError, AccessDenied, UnknownModel.

    >>> from audioadv.threat.bounds import Linf
    >>> net = torch.nn.Flatten()  # the brighter of two pixels
    >>> print(evaluate(net, torch.tensor([[0.2, 0.8], [0.6, 0.5]]), torch.tensor([1, 0]), Linf(0.1), "pgd").robust_accuracy)
    50.0 % (1 of 2, 9.5 .. 90.5)
    """
    if not callable(model):
        raise UnknownModel(f"model {model!r:.60}: not a model. Give one that can be called, for example load_classifier('mnist')")
    check_counts("evaluate", draws=draws, judge_draws=judge_draws, **({} if batch is None else {"batch": batch}))
    how: dict[str, Any] = {"static": static, "draws": draws, "judge_draws": judge_draws, "seed": seed}
    if hears(model):
        if not are_texts(labels):
            raise UnusableBatch("a Recogniser is asked for texts: give what is said in each clip for labels")
        waveforms, lengths = in_one_batch(model, inputs, lengths, labels)
        refuse_ignored({"goal": goal is not None, "box": box != (0.0, 1.0)}, "a recogniser, whose words are counted (errors=)")
        counted: dict[str, Any] = {"errors": errors, "batch": 16 if batch is None else batch, "all_attacks_see_all": all_attacks_see_all}
        return evaluate_speech(model, waveforms, lengths, labels, threat, named_attacks(attacks, seed), **counted, **how, progress=progress)
    if are_texts(labels) and len(labels):
        raise UnusableBatch("labels that are texts are for a Recogniser. Give one, or labels as a tensor")
    if not isinstance(inputs, Tensor):
        cure = "torch.as_tensor(inputs), or of clips that are as long torch.stack([clip.samples for clip in inputs])"
        raise UnusableBatch(f"inputs of type {type(inputs).__name__}: give a tensor, for example {cure}")
    numbers: Any = torch.zeros(0, dtype=torch.int64) if are_texts(labels) else labels
    labels = as_labels(numbers)
    refuse_ignored({"lengths": lengths is not None, "errors": errors != USUAL_ERRORS}, "a classifier, which is asked about whole inputs")
    inputs = inputs.detach()
    batch, box = 500 if batch is None else batch, None if box is None else as_box(box)
    if len(labels) != len(inputs):
        raise UnusableBatch(f"{len(labels)} labels for {len(inputs)} inputs: give one for each")
    goal = as_goal(goal, labels)
    campaign = Campaign.against(model, goal, threat, len(inputs), **how)
    bound, statement, judge = campaign.terms.bound, campaign.statement, campaign.plan.judge
    unaware = aware = named_attacks(attacks, seed)
    one_for_all = getattr(bound.around(inputs, box=box).map, "shared", False)  # which checks the inputs, before any work
    asking: dict[str, Attack] = {"gradient_free": partial(gradient_free, seed=seed)}
    if attacks == "standard" and statement.backward == "none":
        aware = asking
    if attacks == "standard" and campaign.plan.static is not None and stated(campaign.plan.static.model).backward == "none":
        unaware = asking
    rounds = campaign.rounds(unaware, aware, to_its_end=not (bound.minimal or one_for_all))
    refuse_senseless(bound, inputs)
    batch = max(1, len(inputs)) if one_for_all else batch
    known = goal if isinstance(goal, Misclassify) else Misclassify(labels)
    referee = ClassReferee.begun(judge, known, bound, box, inputs, batch)
    if mute := referee.ends.count(Outcome.NOT_FINITE):
        warnings.warn(
            f"the model's scores of {mute} of {len(inputs)} clean inputs are not finite, or it abstains. They count as wrong", stacklevel=2
        )
    some = referee.correct.nonzero()[:PEEK, 0]
    for sentence in disagreements(campaign.model, goal.rows(some), inputs[some.to(inputs.device)]):
        warnings.warn(sentence, stacklevel=2)
    trials = campaign.fight(rounds, inputs, referee, batch=batch, see_all=all_attacks_see_all, tell=progress)
    return Evaluation(
        bound=str(bound),
        correct=referee.correct,
        gauge=referee.gauge,
        adversarial=referee.adversarial,
        outcome=tuple(referee.ends),
        trials=trials,
        statement=statement,
    )

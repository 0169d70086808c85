"""Memory: a model that knows what it was asked before, and gives no repeat the answer that it gave at first.

    input --seen?-- no ---> the model's answer, and the input is remembered
             |
             `---- yes ---> abstain                     an attacker gets no more errors than nature makes; all else is refused
                            any of the k answers        wrong in (k-1)/k, whoever asks: a targeted attacker misses as often
                            any but the first answer    worse: whoever repeats what was answered right is always wrong

Every fixed model loses the game in which an attacker finds one error and repeats it; these do not, at the price of treating
honest repeats likewise: who asks first what others will ask, shuts them out, unless users can be told apart and each has a memory
of their own. Inputs that are new each time meet the model as it was.

Sources: Goodfellow 2019, "A research agenda: dynamic models to defend against correlated attacks"; with near duplicates,
Chen, Carlini and Wagner 2019, "Stateful detection of black-box adversarial attacks".
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audioadv.defenses.likeness import Exact, Likeness
from audioadv.defenses.statement import Statement, stated
from audioadv.defenses.store import Store
from audioadv.defenses.wrapped import Layer
from audioadv.errors import OptionError
from audioadv.models.abstention import ABSTAIN, decided, nothing_like
from audioadv.models.recogniser import Emissions, Recogniser, hears
from audioadv.models.suspicion import carrying_all, suspicions
from audioadv.options import check_does
from audioadv.threat.channels.keys import Key
from audioadv.threat.goals import as_texts, spell

OnRepeat = Literal["abstain", "any", "other"]
UNLIKELY = -100.0
"""The log-probability of all that a random answer is not."""


@overload
def remembering(model: Recogniser, likeness: Likeness | None = ..., on_repeat: OnRepeat = ..., **options: Any) -> Recogniser: ...


@overload
def remembering(model: Callable[..., Any], likeness: Likeness | None = ..., on_repeat: OnRepeat = ..., **options: Any) -> "Memory": ...


def remembering(model: Any, likeness: Likeness | None = None, on_repeat: OnRepeat = "abstain", **options: Any) -> Any:
    """The same classifier or recogniser with a memory; the arguments are `Memory`'s.

    >>> model = remembering(torch.nn.Flatten())
    >>> model(torch.tensor([[0.2, 0.8], [0.6, 0.5], [0.2, 0.8]]))
    tensor([[0.2000, 0.8000],
            [0.6000, 0.5000],
            [   nan,    nan]])
    """
    memory = Memory(model, likeness, on_repeat, **options)
    return Recogniser(memory, model.sample_rate, model.vocabulary, memory.name, memory.access) if hears(model) else memory


@final
class Memory(Layer):
    """A classifier, or a recogniser's net, that remembers.

    `likeness` says when an input has been seen before, byte for byte where nothing is said; `on_repeat` what is answered then.
    `path` is a file that the memory is kept in, made if need be; without one it ends with the process. `answers` are what a
    random answer is drawn from: how many classes there are, where the model gives no scores to count, or a recogniser's
    phrases. Draws are keyed by `seed`, the input and its repeats: in service it has to be a secret.

    The rows of a batch come in turn: the second of two that are alike is a repeat. A repeat is counted, but not remembered: a
    flood of them fills no disk. Where the model has detectors, they speak of each input, a repeat or not: detector scores are
    always of the current input, never replayed.

    Raises OptionError for what is no likeness and for answers that cannot be drawn from, UnusableTarget for a phrase that the
    recogniser does not write, and what `Store` raises.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        likeness: Likeness | None = None,
        on_repeat: OnRepeat = "abstain",
        *,
        path: str | Path | None = None,
        answers: int | Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        if on_repeat not in ("abstain", "any", "other"):
            raise OptionError(f"on_repeat {on_repeat!r}: unknown. Use abstain, any or other")
        inner = getattr(model, "net", None)
        self.net = inner if isinstance(inner, nn.Module) else None  # registered here too: its mode and parameters are this model's
        self.name = f"{getattr(model, 'name', 'the model')} with a memory"
        self.statement = Statement(stated(model).backward, stated(model).random or on_repeat != "abstain", True, stated(model).detects)
        self.likeness: Likeness = Exact() if likeness is None else likeness
        check_does("likeness", self.likeness, "add", "Say what is the same: Exact(), Near(distance) or Heard(sample_rate)")
        self.on_repeat, self.seed = on_repeat, seed
        self.phrases = tuple(dict.fromkeys(as_texts(answers))) if answers is not None and not isinstance(answers, int) else ()
        self.count = answers if isinstance(answers, int) else len(self.phrases)
        if hears(model):
            self.frames = [spelt_out(phrase, model.vocabulary) for phrase in self.phrases]
            if on_repeat != "abstain" and not self.phrases:
                raise OptionError(
                    f"on_repeat {on_repeat!r}: a recogniser has no classes. Say what it may answer: answers=('stop', 'go on')"
                )
        if answers is not None and self.count < 2:
            raise OptionError(f"answers {answers!r}: a random answer is drawn from at least two that differ")
        self.store = Store(str(self.likeness), path)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Any:
        """Shapes: inputs [batch, *], lengths [batch] -> as the model's."""
        # The model is asked about repeats too, so that how long an answer takes tells nobody what is remembered.
        outputs = self.model(inputs) if lengths is None else self.model(inputs, lengths)
        ends = [inputs.shape[-1]] * len(inputs) if lengths is None else lengths.tolist()
        with self.store.writing():
            met = [self.meet(example[..., :end], own) for example, end, own in zip(inputs, ends, self.first(outputs), strict=True)]
        if isinstance(outputs, Emissions):
            return outputs if met == [None] * len(met) else self.heard(outputs, met)
        if met == [None] * len(met):
            return outputs
        given = torch.stack(
            [own if answer is None else self.scores(own, answer) for own, answer in zip(outputs.detach(), met, strict=True)]
        )
        return carrying_all(torch.where(repeats(met, outputs), given, outputs), suspicions(outputs))

    def first(self, outputs: Any) -> list[int | None]:
        """The answer that each input gets if it is new, by its number; None for a transcript that is none of the phrases."""
        if isinstance(outputs, Emissions):
            return [self.phrases.index(text) if text in self.phrases else None for text in outputs.transcripts()]
        if outputs.is_floating_point():
            self.count = outputs.shape[1]
        elif self.on_repeat != "abstain" and not self.count:
            raise OptionError(f"{self.name}: decisions do not tell how many classes there are. Say so: answers=10")
        answers: list[int | None] = decided(outputs).tolist()
        return answers

    def meet(self, example: Tensor, answer: int | None) -> int | None:
        """None for a new input, which is remembered; for a repeat, the number of what is answered, or ABSTAIN."""
        number = self.likeness.find(self.store, example)
        if number is None:
            self.likeness.add(self.store, example, answer)
            return None
        first, again = self.store.met_again(number)
        if self.on_repeat == "abstain":
            return ABSTAIN
        among = [other for other in range(self.count) if self.on_repeat == "any" or other != first]
        return among[int(torch.randint(len(among), (), generator=Key(self.seed, number, again).generator()))]

    @staticmethod
    def scores(like: Tensor, answer: int) -> Tensor:
        """An answer in the form of the model's own. Shapes: [classes], or a decision [] -> the same."""
        if answer == ABSTAIN:
            return nothing_like(like)
        if not like.is_floating_point():
            return torch.full_like(like, answer)
        scores = torch.full_like(like, UNLIKELY)
        scores[answer] = 0.0
        return scores

    def heard(self, outputs: Emissions, met: list[int | None]) -> Emissions:
        """What is heard, with repeats answered; where there was a vote, it stands for new inputs."""
        needed = [0 if answer is None else 1 if answer == ABSTAIN else len(self.frames[answer]) for answer in met]
        frames = torch.maximum(outputs.frames, outputs.frames.new_tensor(needed))
        blank = outputs.vocabulary.index("")
        log_probs = F.pad(outputs.log_probs, (0, 0, 0, max(0, max(needed) - outputs.log_probs.shape[1])))
        given = log_probs.detach().clone()
        for row, answer in enumerate(met):
            if answer == ABSTAIN:
                given[row] = nothing_like(given[row], blank)
            elif answer is not None:
                columns = self.frames[answer] + [blank] * (len(given[row]) - len(self.frames[answer]))
                given[row] = UNLIKELY
                given[row, torch.arange(len(columns)), torch.tensor(columns)] = 0.0
        voted = outputs.voted and tuple(
            own if answer is None else "" if answer == ABSTAIN else self.phrases[answer]
            for own, answer in zip(outputs.voted, met, strict=True)
        )
        return replace(outputs, log_probs=torch.where(repeats(met, log_probs), given, log_probs), frames=frames, voted=voted)


def repeats(met: list[int | None], like: Tensor) -> Tensor:
    """Which rows are repeats, to choose between outputs by. Shapes: like [batch, *] -> bool [batch, 1 ...]."""
    return torch.tensor([answer is not None for answer in met], device=like.device).reshape(-1, *[1] * (like.ndim - 1))


def spelt_out(text: str, vocabulary: tuple[str, ...]) -> list[int]:
    """The fewest frames that a CTC decoder reads as this text: the blank goes between two letters that are the same.

    >>> spelt_out("aab", ("", "a", "b"))
    [1, 0, 1, 2]
    """
    columns: list[int] = []
    for column in spell((text,), vocabulary, torch.device("cpu")).columns[0].tolist():
        columns += [vocabulary.index(""), column] if columns and columns[-1] == column else [column]
    return columns

"""The stochastic defense: instead of its likeliest answer, a model gives one drawn from its own distribution.

    argmax(log p + Gumbel noise)  is drawn from  p                     Gumbel 1954; Maddison, Tarlow and Minka 2014

Where the likeliest answer is wrong, the right one has a share of at most one half: whoever repeats such an input is right about
the model half of the time at least (Goodfellow 2019). A recogniser draws the letter of each frame.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, final, overload

import torch
from torch import Tensor, nn

from audioadv.defenses.statement import stated
from audioadv.defenses.wrapped import Layer
from audioadv.errors import OptionError
from audioadv.models.recogniser import Emissions, Recogniser, hears
from audioadv.models.suspicion import carrying_all, suspicions
from audioadv.options import is_number
from audioadv.threat.channels.keys import Key


@overload
def sampled(model: Recogniser, **options: Any) -> Recogniser: ...


@overload
def sampled(model: Callable[..., Any], **options: Any) -> "Sampled": ...


def sampled(model: Any, **options: Any) -> Any:
    """The same classifier or recogniser, answering at random; the options are `Sampled`'s.

    >>> scores = sampled(torch.nn.Flatten())(torch.tensor([[3.0, 1.0]]).log().expand(1000, 2))  # 3 to 1
    >>> int((scores.argmax(1) == 0).sum())
    736
    """
    drawing = Sampled(model, **options)
    return Recogniser(drawing, model.sample_rate, model.vocabulary, drawing.name, drawing.access) if hears(model) else drawing


@final
class Sampled(Layer):
    """A classifier, or a recogniser's net, whose answers are drawn from softmax(scores / temperature).

    The n-th row that it is ever asked about gets the n-th draw. Detectors of the model speak of the input, as ever.
    Raises OptionError for a temperature that is no finite number above 0.
    """

    def __init__(self, model: Callable[..., Any], *, temperature: float = 1.0, seed: int = 0) -> None:
        super().__init__(model)
        if not is_number(temperature) or temperature <= 0:
            raise OptionError(
                f"temperature {temperature!r}: answers are drawn at one above 0; 1 leaves the model's probabilities as they are"
            )
        self.temperature, self.seed, self.asked = temperature, seed, 0
        inner = getattr(model, "net", None)
        self.net = inner if isinstance(inner, nn.Module) else None  # registered here too: its mode and parameters are this model's
        self.name = f"{getattr(model, 'name', 'the model')}, sampled"
        self.statement = replace(stated(model), random=True)

    def extra_repr(self) -> str:
        """What tells it from another around the same model."""
        return f"temperature {self.temperature:g}, seed {self.seed}"

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Any:
        """Shapes: inputs [batch, *], lengths [batch] -> as the model's."""
        outputs = self.model(inputs) if lengths is None else self.model(inputs, lengths)
        if isinstance(outputs, Emissions):
            return replace(outputs, log_probs=self.drawn(outputs.log_probs), voted=None)
        return carrying_all(self.drawn(outputs), suspicions(outputs))

    def around(self, model: Callable[..., Any]) -> "Sampled":
        """The same around another model, from the first draw."""
        return Sampled(model, temperature=self.temperature, seed=self.seed)

    def drawn(self, scores: Tensor) -> Tensor:
        """Log-probabilities whose greatest is a draw; where there is no number there is none. Shapes: [batch, *, answers] -> the same."""
        if not scores.is_floating_point():
            raise OptionError(f"{self.name}: decisions have no distribution to draw from. Give a model that gives scores")
        uniform = torch.empty(scores.shape, dtype=torch.float64)
        for row in uniform:
            torch.rand(row.shape, generator=Key(self.seed, 0, self.asked).generator(), out=row)
            self.asked += 1
        gumbel = -(-uniform.clamp_min(1e-300).log()).log()
        drawn = (scores / self.temperature + gumbel.to(scores)).log_softmax(-1)
        return torch.where(scores.isnan().any(-1, keepdim=True), scores, drawn)

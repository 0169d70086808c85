"""What the README shows as an attack is one: it runs, and finds what can be found."""

import re
from pathlib import Path

import torch
from nets import inputs_for, labels_of, linear

from audioadv.attacks.objective import objective
from audioadv.threat.bounds import L2, Linf
from audioadv.threat.labels import Misclassify, margin

README = Path(__file__).parent.parent / "README.md"


def test_a_newcomers_attack_is_short_and_works() -> None:
    (source,) = (code for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "def " in code)
    assert source.count("\n") < 40
    scope: dict[str, object] = {}
    exec(source, scope)
    net, x = linear(3, (1, 5, 6)), inputs_for((1, 5, 6), 6, None)
    scores, labels = net(x).detach(), labels_of(net, x)
    weight = net[1].weight.detach()
    for bound, dual in ((Linf, 1), (L2, 2)):
        slopes = (weight[labels][:, None] - weight).norm(p=dual, dim=2)
        nearest = ((scores.gather(1, labels[:, None]) - scores) / slopes).scatter(1, labels[:, None], torch.inf).amin(1)
        region = bound(1.0).around(x, box=None)
        wanted = objective(net, Misclassify(labels, margin))
        assert not any(scope["frank_wolfe"](wanted, region.at(0.95 * nearest)).reached)
        result = scope["frank_wolfe"](wanted, region.at(1.2 * nearest))
        assert all(result.reached)
        assert (labels_of(net, result.adversarial) != labels).all()

"""On a GPU: that nothing of two devices meets, that nobody waits who need not, and that steps replay.

The first two are tried without one, too: `pretended.py` says how.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
import torch
from nets import inputs_for, labels_of, small
from pretended import OnGpu, Pretended, Waited, moved, never_waiting, pretended
from test_attack_contracts import ROOMY, TABLE, Kind, mixed, turned, union
from torch import Tensor, nn

import audioadv as aa
from audioadv import attacks
from audioadv.attacks.objective import objective
from audioadv.errors import OptionError
from audioadv.models.tiny_mnist import TinyMnist
from audioadv.threat.bounds import L0, L1, L2, Linf
from audioadv.threat.labels import Misclassify

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
on_cuda = (pytest.mark.gpu, needs_cuda)


@contextmanager
def truly() -> Iterator[None]:
    """A GPU that is one."""
    yield


@contextmanager
def truly_never_waiting() -> Iterator[None]:
    """In here, to wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@dataclass(frozen=True)
class Gpu:
    """A GPU, or the pretence of one."""

    there: Callable[[], AbstractContextManager[None]]
    strict: Callable[[], AbstractContextManager[None]]
    tensor: Callable[[Tensor], Tensor]
    net: Callable[[nn.Module], nn.Module]


GPUS = [
    pytest.param(Gpu(pretended, never_waiting, OnGpu, moved), id="pretended"),
    pytest.param(Gpu(truly, truly_never_waiting, lambda tensor: tensor.cuda(), lambda net: net.cuda()), id="true", marks=on_cuda),
]
every_gpu = pytest.mark.parametrize("gpu", GPUS)


@every_gpu
@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, row in TABLE.items() for kind in row.bounds])
def test_every_attack_keeps_to_the_device_of_its_inputs(gpu: Gpu, name: str, kind: Kind) -> None:
    row, net, x = TABLE[name], small(3, (1, 5, 6)), inputs_for((1, 5, 6), 4, (0, 1))
    labels, bound = labels_of(net, x), row.bound(kind, ROOMY.get(kind, 0.3))
    with gpu.there():
        wanted, region = objective(gpu.net(net), Misclassify(gpu.tensor(labels))), bound.around(gpu.tensor(x))
        if name == "transfer":
            found = attacks.transfer(wanted, region, substitute=gpu.net(small(3, (1, 5, 6), seed=7)), rounds=2, passes=3)
        else:
            found = row.short(wanted, region)
        assert found.adversarial.is_cuda
        assert found.gauge.is_cuda


@every_gpu
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", [Linf, L2, L1, L0, union, turned])
def test_no_step_waits_for_the_gpu_while_nobody_leaves(gpu: Gpu, kind: Kind, momentum: float) -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 8, (0, 1))
    labels, stretch = labels_of(net, x), gpu.strict()

    def strict(step: int, gauge: Tensor, best: Tensor) -> None:  # the first use of a kernel may wait, and so may the end
        if step == 2:
            stretch.__enter__()
        if step == 8:
            stretch.__exit__(None, None, None)

    with gpu.there():
        wanted, region = objective(gpu.net(net), Misclassify(gpu.tensor(labels))), kind(ROOMY.get(kind, 0.3)).around(gpu.tensor(x))
        try:
            attacks.pgd(wanted, region, steps=9, early_stop=False, momentum=momentum, progress=strict)
        finally:
            Pretended.strict = False
            if torch.cuda.is_available():
                torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("model", ["tiny-mel", "tiny-wave"])
@pytest.mark.parametrize("bound", ["linf:0.01", "snr:min", "masked:min"])
@pytest.mark.parametrize("channel", [None, "room_then_noise:20..30", "gain:-3..3_then_band:300..3400_then_clip:0.5"])
def test_crafting_keeps_to_its_device(model: str, bound: str, channel: str | None) -> None:
    clips = [aa.Clip(f"{i}", 0.1 * torch.randn(16000 + 2000 * i, generator=torch.Generator().manual_seed(i)), 16000) for i in range(2)]
    recogniser, over = aa.load_model(model), {} if channel is None else {"channel": channel, "draws": 2, "check_draws": 2, "judge_draws": 2}
    with pretended():
        moved(recogniser.net)
        found = aa.craft(recogniser, clips, aa.Transcribe(["go", "no"]), bound=bound, steps=2, **over).clips
    assert [clip.steps for clip in found] == [2, 2]


def test_the_pretence_tells_devices_and_waits_apart() -> None:
    with pretended():
        there, here = torch.arange(4.0, device="cuda"), torch.ones(4)
        assert (there + 1).cpu().tolist() == [1, 2, 3, 4]
        assert there[torch.tensor([1])].tolist() == [1]
        assert (there * torch.tensor(2.0)).is_cuda  # a number is at home on both
        for meets in (lambda: there + here, lambda: torch.where(there > 1, there, here), lambda: here @ there):
            with pytest.raises(RuntimeError, match="same device"):
                meets()
        for waits in (lambda: there.sum().item(), there.nonzero, lambda: there[there > 1], there.cpu, lambda: bool(there.any())):
            waits()
            with never_waiting(), pytest.raises(Waited):
                waits()
        with never_waiting():
            torch.where(there > 1, there, 0.0).cumsum(0)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", [Linf, L2, L1, L0, union, mixed])
def test_a_replayed_step_is_the_step(kind: Kind, momentum: float) -> None:
    torch.manual_seed(0)
    net, x = TinyMnist().eval().cuda(), torch.rand(16, 1, 28, 28, device="cuda")
    wanted, region = objective(net, Misclassify(net(x).argmax(1))), kind(ROOMY.get(kind, 0.1)).around(x)
    usual, replayed = (attacks.pgd(wanted, region, steps=12, momentum=momentum, early_stop=False, graph=graph) for graph in (False, True))
    assert replayed.outcome == usual.outcome
    assert torch.equal(replayed.forwards, usual.forwards)
    assert torch.equal(replayed.backwards, usual.backwards)
    torch.testing.assert_close(replayed.gauge, usual.gauge, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(replayed.adversarial, usual.adversarial, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@needs_cuda
def test_a_net_that_asks_the_host_cannot_be_replayed() -> None:
    class Asking(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :3] * (2.0 if x.sum().item() > 0 else 1.0)

    x = torch.rand(4, 1, 5, 6, device="cuda")
    wanted = objective(Asking(), Misclassify(x.flatten(1)[:, :3].argmax(1)))
    with pytest.raises(OptionError, match="Leave out graph"):
        attacks.pgd(wanted, Linf(0.1).around(x), steps=6, early_stop=False, graph=True)
    assert torch.ones(2, device="cuda").sum().item() == 2


def test_what_no_graph_can_hold_is_told() -> None:
    net, x = small(3, (1, 5, 6)), inputs_for((1, 5, 6), 2, (0, 1))
    goal, region = Misclassify(labels_of(net, x)), Linf(0.1).around(x)
    with pytest.raises(OptionError, match="early_stop=False"):
        attacks.pgd(objective(net, goal), region, graph=True)
    with pytest.raises(OptionError, match="estimated"):
        attacks.pgd(objective(net, goal, slopes=attacks.nes()), region, early_stop=False, graph=True)
    here = [attacks.pgd(objective(net, goal), region, steps=3, early_stop=False, graph=graph) for graph in (False, True)]
    assert torch.equal(here[0].adversarial, here[1].adversarial)

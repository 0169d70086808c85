"""Small trainings that tests run in processes of their own, some of which kill themselves.

Under torchrun: trainings.py OUT BATCH, whose last process kills itself at that batch, the first time round. At the end each leaves the
names of its threads.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from audioadv.errors import OptionError
from audioadv.threat.bounds import Linf
from audioadv.training import Adversarial, Guarded, Labelled, Natural, Processes, Training, Watch, fast, together, train

BOUND = Linf(0.1)


def die() -> None:
    """As the out-of-memory killer would have it: nothing is flushed, nothing is tidied."""
    os.kill(os.getpid(), signal.SIGKILL)


def blobs(count: int, seed: int = 0) -> Labelled:
    """Three classes of points around three corners of a cube of eight dimensions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    centres = torch.rand(3, 8, generator=torch.Generator().manual_seed(9)).round() * 0.6 + 0.2
    return Labelled((centres[labels] + 0.15 * torch.randn(count, 8, generator=generator)).clamp(0, 1), labels, size=16)


def net(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))


def small(out: Path | None, *, kill_at: int = -1) -> Training:
    """Guarded fast training of 24 batches, with everything that a checkpoint has to hold."""
    count = 0

    def progress(done: float, loss: float) -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            die()

    data = blobs(128)
    method = Guarded(fast(BOUND), Adversarial(BOUND, steps=2), held=data.first(32), every=4)
    watch = Watch(BOUND, test=blobs(40, seed=1).first(40), steps=3)
    return train(net(), data, method, passes=3, watch=watch, patience=9, out=out, every=3, seed=5, progress=progress)


def killed(out: Path, *, at_batch: int = -1, in_save: int = -1) -> None:
    """`small` in a process of its own, killed at that batch, or when that file was written and has not taken its place yet."""
    torch.set_num_threads(1)
    real, left = os.replace, in_save

    def replace(*paths: Path) -> None:
        nonlocal left
        left -= 1
        if not left:
            die()
        real(*paths)

    os.replace = replace
    small(out, kill_at=at_batch)


def shared(out: Path, kill_at: int = -1) -> None:
    """Adversarial training by all processes there are, without dropout: what one learns, and several do. One batch is one example."""
    torch.set_num_threads(1)
    with together() as here:
        alive = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or here.rank < here.count - 1
        count = 0

        def progress(done: float, loss: float) -> None:
            nonlocal count
            count += 1
            if count == kill_at and not alive:
                die()

        watch = Watch(BOUND, test=blobs(40, seed=1).first(40), steps=3)
        model, method = nn.Sequential(*[part for part in net(0.0) if not isinstance(part, nn.BatchNorm1d)]), Adversarial(BOUND, steps=3)
        train(model, blobs(113), method, passes=3, watch=watch, out=out, every=3, progress=progress, processes=here)


@contextmanager
def group(rank: int, count: int, place: Path) -> Iterator[Processes]:
    """Joined without a launcher, by a store that is a file. What torchrun would restart, here just ends."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", store=distributed.FileStore(str(place), count), rank=rank, world_size=count)
    yield Processes(rank, count)
    distributed.barrier()
    distributed.destroy_process_group()


def merged(rank: int, place: Path) -> None:
    """Three processes, the last of which weighs nothing, merge gradients and buffers."""
    with group(rank, 3, place) as here:
        layer = nn.Linear(1, 1)
        layer.register_buffer("constant", torch.tensor([-torch.inf, *torch.linspace(0, 1, 50), torch.inf]))
        layer.register_buffer("running", torch.tensor([1.0, 3.0, torch.nan])[rank].repeat(2))
        layer.register_buffer("spoilt", torch.tensor([torch.nan, 1.0, 1.0])[rank])
        before = layer.constant.clone()
        layer.weight.grad, layer.bias.grad = torch.tensor([[1.0, 2.0, torch.nan]]).T[rank][None], torch.zeros(1)
        here.merge(layer, (0.3, 0.7, 0.0)[rank])
        assert torch.equal(layer.constant, before), layer.constant
        assert torch.allclose(layer.running, torch.tensor(2.4)), layer.running
        assert torch.allclose(layer.weight.grad, torch.tensor(1.7)), layer.weight.grad
        assert layer.spoilt.isnan()


def unseeded(rank: int, place: Path) -> None:
    """Two processes whose nets are not the same, and then their data, and then their checkpoints."""
    torch.manual_seed(rank)  # as if nobody had seeded
    own = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    own[0].weight = nn.Parameter(torch.randn(8, 16).T)
    own.register_buffer("chosen", torch.rand(9) > 0.5)

    def all_there() -> list[Tensor]:
        flat = torch.cat([value.double().flatten() for value in own.state_dict().values()])
        both = [torch.zeros_like(flat) for _ in range(2)]
        distributed.all_gather(both, flat)
        return both

    with group(rank, 2, place) as here:
        assert not torch.equal(*all_there())
        train(own, blobs(35), Natural(), passes=2, processes=here)  # a last batch of three: one process' share would be one example
        assert torch.equal(*all_there())
        out = place.parent / str(rank)
        if rank:
            train(own, blobs(35), Natural(), passes=1, out=out)
        for data, folder, apart in ((blobs(35, seed=rank), None, "data"), (blobs(35), out, "checkpoint")):
            with pytest.raises(OptionError, match=f"^{apart}: not the same in all 2"):
                train(own, data, Natural(), passes=1, out=folder, processes=here)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    shared(folder, int(sys.argv[2]))
    tasks = Path("/proc/self/task")  # of Linux
    names = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.is_dir() else []
    (folder / f"threads-{os.environ['RANK']}").write_text("".join(names))

"""Small trainings that tests run in processes of their own, some of which kill themselves.

Under torchrun: trainings.py OUT BATCH, whose last process kills itself at that batch, the first time round.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from audioadv.threat.bounds import Linf
from audioadv.training import Adversarial, Guarded, Labelled, Training, Watch, fast, together, train

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


if __name__ == "__main__":
    shared(Path(sys.argv[1]), int(sys.argv[2]))

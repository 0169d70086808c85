"""Train the bundled nets for spoken digits: which digit, or who speaks.

    python recipes/train_fsdd.py --out digits-spoken.safetensors
    python recipes/train_fsdd.py --of speaker --out speakers.safetensors
    python recipes/train_fsdd.py --quick --out somewhere.safetensors        # one pass: a smoke test

The Free Spoken Digit Dataset, 2,000 recordings of 8 kHz. Held out are takes 0 to 4 of each digit by each of the four speakers, 200
in all (the data set's own split): speakers are in both parts, and nothing is claimed of others. Each pass hears every
recording moved by up to a tenth of a second, up to 6 dB louder or fainter, and half of them in white noise 15 to 50 dB below.
"""

import time
from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from audioadv.evaluation.rates import Rate
from audioadv.evaluation.sounds import Sounds, fsdd
from audioadv.models.tiny_m5 import TinyM5

DATA = Path(__file__).resolve().parent.parent.parent / "shared/data/fsdd"
FARTHEST = 800  # samples: a tenth of a second


def spoilt(waveforms: Tensor, generator: torch.Generator) -> Tensor:
    """Each moved, made louder or fainter, and in noise of its own. Shapes: [batch, time] -> the same."""

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(len(waveforms), 1, generator=generator)

    place = torch.arange(waveforms.shape[1]) - draw(-FARTHEST, FARTHEST).round().long()
    moved = F.pad(waveforms, (FARTHEST, FARTHEST)).gather(1, place + FARTHEST)
    noise = torch.randn(moved.shape, generator=generator) * moved.square().mean(1, keepdim=True).sqrt()
    level = 10 ** (draw(-50, -15) / 20) * (draw(0, 1) < 0.5)
    return 10 ** (draw(-6, 6) / 20) * (moved + level * noise)


@torch.no_grad()
def accuracy(net: TinyM5, sounds: Sounds) -> Rate:
    """How many are told right."""
    return Rate(int((net.eval()(sounds.waveforms).argmax(1) == sounds.labels).sum()), len(sounds.labels))


@click.command()
@click.option("--out", type=Path, required=True, help="weights, half precision")
@click.option("--of", type=click.Choice(["digit", "speaker"]), default="digit", show_default=True, help="what is learnt")
@click.option("--passes", default=30, show_default=True, help="over the recordings")
@click.option("--rate", default=5e-3, show_default=True, help="of learning, at most")
@click.option("--batch", default=60, show_default=True, help="recordings a step")
@click.option("--seed", default=0, show_default=True, help="of all draws")
@click.option("--data", type=Path, default=DATA, show_default=True, help="folder with the spoken digits (FSDD)")
@click.option("--quick", is_flag=True, help="one pass over 600 recordings, a smoke test")
def main(out: Path, of: str, passes: int, rate: float, batch: int, seed: int, data: Path, quick: bool) -> None:
    """Write weights, and say after each pass how many held-out recordings the net tells right."""
    train, test, passes = fsdd(data, "train", of=of), fsdd(data, "test", of=of), 1 if quick else passes
    train = train.first(600) if quick else train
    torch.manual_seed(seed)
    net, generator = TinyM5(len(train.classes)), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=1e-3)
    rounds = len(train.labels) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=passes * rounds)
    began = time.perf_counter()
    for number in range(passes):
        net.train()
        for rows in torch.randperm(len(train.labels), generator=generator)[: rounds * batch].split(batch):
            loss = F.cross_entropy(net(spoilt(train.waveforms[rows], generator)), train.labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"pass {number + 1}: loss {loss.item():.3f}, held out {accuracy(net, test)}, {time.perf_counter() - began:.0f} s", flush=True)
    weights = {key: value.half() if value.is_floating_point() else value for key, value in net.state_dict().items()}
    save_file(weights, out, {"passes": str(passes), "seed": str(seed)})


if __name__ == "__main__":
    main()

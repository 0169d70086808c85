"""Many processes that learn one net, started by torchrun: each takes its share of every batch, and gradients are summed.

    torchrun --nproc-per-node 2 --max-restarts 3 script.py        with processes.together() as here: train(..., processes=here)

All begin with the weights of the first. Draws are keyed by seed and example, so that two processes learn what one does, up to rounding.
Each process' own are dropout, defenses that draw for themselves, `Spoken.spoil`, and the statistics that batchnorm takes of its share of
a batch: nets with batchnorm learn as from smaller batches (SyncBatchNorm works on GPUs alone).

Gradients are summed once per step of the optimiser, in one piece: beside the passes of the attack before each step, overlapping that
with the backward pass (DistributedDataParallel) would save little, and its hooks do not see what free training and YOPO do. When a
process dies, torchrun starts all anew, and training goes on from the last checkpoint.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import final

import torch
from torch import Tensor, distributed, nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from audioadv.errors import OptionError
from audioadv.training.batches import key


@final
@dataclass(frozen=True)
class Processes:
    """This process, as number `rank` of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def share(self, rows: Tensor, least: int = 1) -> Tensor:
        """This process' part of a batch, nothing where there are not `least` examples for each. Shapes: [batch] -> [fewer]."""
        parts = min(self.count, max(1, len(rows) // least))
        return rows.tensor_split(parts)[self.rank] if self.rank < parts else rows[:0]

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all processes. Shapes: as given."""
        if self.count == 1:
            return numbers
        total = sent(numbers)
        distributed.all_reduce(total)
        return total.to(numbers)

    def mean(self, number: Tensor, weight: float) -> Tensor:
        """The mean over a batch of a number that this process has for its part, `weight` of the whole. Shapes: as given."""
        return self.sum(weight * number)

    def begin(self, net: nn.Module, told: dict[str, str]) -> None:
        """Bring all processes to the first one's weights and buffers: nets that nobody seeded are others in each.

        Raises OptionError where what they are `told` of the training is not the same in all.
        """
        if self.count == 1:
            return
        numbers = torch.tensor([key(name, text) for name, text in told.items()])
        ends = sent(torch.stack([numbers, -numbers]))
        distributed.all_reduce(ends, distributed.ReduceOp.MAX)
        highest, lowest = ends.cpu()[0], -ends.cpu()[1]
        if apart := [name for name, differs in zip(told, highest != lowest, strict=True) if differs]:
            raise OptionError(
                f"{', '.join(apart)}: not the same in all {self.count} processes, which are to learn one net. Give all the same, "
                "draw nothing that is not seeded, and let `out` be one folder that all can read"
            )
        for tensor in [*net.parameters(), *net.buffers()]:
            first = sent(tensor.detach())
            distributed.broadcast(first, 0)
            tensor.data.copy_(first)

    def merge(self, net: nn.Module, weight: float) -> None:
        """Make gradients and running statistics the same in all processes: the mean, of which this one's part is `weight`.

        What is the same in all that weigh something stays so to the last bit: constants are buffers too, and a mean is rounded.
        """
        if self.count == 1:
            return
        whole = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        learnt = sum(gradient.numel() for gradient in whole)
        whole += [buffer for buffer in net.buffers() if buffer.is_floating_point()]
        flat = torch.cat([tensor.flatten() for tensor in whole])
        weighs = torch.tensor(weight > 0, device=flat.device)
        mean = torch.where(weighs, weight * flat, 0)  # times 0, what is not finite would be NaN
        distributed.all_reduce(mean)
        if len(held := flat[learnt:]):
            ends = torch.cat([held, -held]).nan_to_num(torch.inf, torch.inf, -torch.inf)  # what is NaN anywhere differs
            ends = torch.where(weighs, ends, -torch.inf)
            distributed.all_reduce(ends, distributed.ReduceOp.MAX)
            highest, lowest = ends[: len(held)], -ends[len(held) :]
            mean[learnt:] = torch.where(highest == lowest, highest, mean[learnt:])
        for tensor, part in zip(whole, torch.split(mean, [tensor.numel() for tensor in whole]), strict=True):
            tensor.copy_(part.view_as(tensor))


def sent(tensor: Tensor) -> Tensor:
    """A copy that processes can exchange: in one piece, and where their backend wants it. Shapes: as given."""
    whole = tensor.clone(memory_format=torch.contiguous_format)
    return whole.cuda() if distributed.get_backend() == "nccl" else whole


def fresh_store(count: int) -> Store:
    """A store in which nothing is left of processes that died: torchrun's own keeps their addresses, to which none answers.

    (pytorch issue 135712.) Restarts are numbered by each machine: on several machines set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    place, first = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), os.environ["RANK"] == "0" and not shared
    store = TCPStore(*place, count, is_master=first, multi_tenant=True)
    return PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store) if shared else store


@contextmanager
def together(device: str = "cpu") -> Iterator[Processes]:
    """The processes that torchrun started, joined; this one alone, where it did not."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield Processes()
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # What is imported while processes are joined keeps them in default arguments (group=WORLD), past their end: threads of theirs that
    # outlive the interpreter abort it. The first optimiser imports all of torch.compile, and that imports this.
    import_module("torch.distributed.nn.functional")
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "nccl" if device.startswith("cuda") else "gloo"
    distributed.init_process_group(backend, store=fresh_store(count), rank=rank, world_size=count)
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size())
        distributed.barrier()  # one that leaves while another is at work would pass for dead
    finally:
        distributed.destroy_process_group()

"""CUDA pretended on the CPU: tensors that say they are on a GPU, do not meet others, and tell who makes the host wait for them.

What this finds without a GPU: tensors of two devices in one operation, and host synchronisations. What only a GPU shows: its
kernels, their rounding and their speed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

GPU, CPU, aten = torch.device("cuda", 0), torch.device("cpu"), torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
COPYING = {aten._to_copy.default, aten.copy_.default}
ASKING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default, aten._unique2.default}
ASKING |= {aten.unique_dim.default, aten.bincount.default, aten.repeat_interleave.Tensor, aten.is_nonzero.default}
Net = TypeVar("Net", bound=nn.Module)


class OnGpu(Tensor):
    """A tensor that is in truth `held` by the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGpu":
        like = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype, "device": "meta"}
        whole = Tensor._make_wrapper_subclass(cls, held.shape, **like)
        whole.held = held
        return whole

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnGpu({self.held})"

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Pretended.run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def numpy(self, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")


class Waited(RuntimeError):
    """The host had to wait for the GPU."""


class Pretended(TorchDispatchMode):
    """While this is on, `device="cuda"` is to be had; `strict` makes each wait a `Waited`."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # while a mode of this kind is on, torch does not look for a driver
    strict = False

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(operation, args, kwargs or {})

    @classmethod
    def run(cls, operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """An operation on what the tensors hold, once it is one that a GPU would do."""
        flat, form = tree_flatten((args, kwargs))
        there, here = ([one for one in flat if isinstance(one, Tensor) and isinstance(one, OnGpu) == on] for on in (True, False))
        goal = there[0].device if there else CPU
        if kwargs.get("device") is not None:
            goal = CPU if torch.device(kwargs["device"]).type == "cpu" else GPU
        met = bool(there) and any(one.ndim for one in here)
        if met and operation not in COPYING | INDEXING:
            raise RuntimeError(f"{operation}: Expected all tensors to be on the same device, but found {GPU} and {CPU}")
        indices = [one for one in tree_flatten(args[1])[0] if one is not None] if operation in INDEXING else []
        asks = operation in ASKING or any(one.dtype in (torch.bool, torch.uint8) for one in indices)
        if cls.strict and there and (asks or met or (operation in COPYING and goal == CPU)):
            raise Waited(str(operation))
        args, kwargs = tree_unflatten([one.held if isinstance(one, OnGpu) else one for one in flat], form)
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        out = operation(*args, **kwargs)
        if operation is aten.copy_.default:
            return flat[0]
        if torch.Tag.inplace_view in operation.tags and there:
            with no_dispatch():
                operation(flat[0], *args[1:], **kwargs)  # its own shape, too
        known = {id(one.held): one for one in there}  # an operation in place gives the tensor itself back
        return tree_map_only(Tensor, lambda one: known[id(one)] if id(one) in known else OnGpu(one), out) if goal == GPU else out


@contextmanager
def pretended() -> Iterator[None]:
    """A GPU that is none."""
    made = torch.tensor

    def tensor(values: Any, *, device: Any = None, **options: Any) -> Tensor:
        return made(values, **options).to(device or CPU)

    alone = partial(torch.random.fork_rng, devices=[])  # of the host: there is no other
    with Pretended(), mock.patch("torch.tensor", tensor), mock.patch("torch.random.fork_rng", side_effect=lambda devices=(): alone()):
        yield


@contextmanager
def never_waiting() -> Iterator[None]:
    """In here, to wait for the GPU is an error."""
    Pretended.strict = True
    try:
        yield
    finally:
        Pretended.strict = False


def moved(net: Net) -> Net:
    """A net brought to the GPU that is none."""
    for part in net.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    there = OnGpu(value.detach())
                    held[name] = nn.Parameter(there, value.requires_grad) if isinstance(value, nn.Parameter) else there
    return net

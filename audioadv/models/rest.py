"""A model as it has to be while it is looked at: where it lies, and that nothing in it changes."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from threading import RLock
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, final

import torch
from torch import Tensor, nn

from audioadv.errors import OptionError, UnusableBatch

DEEPEST, MOST = 20, 1000  # how far a model is looked into, and how many nets are held in one place
COLLECTIONS = (list, tuple, set, frozenset, dict)
KEPT = 30 * 2**20  # bytes
MISFIT = re.compile(r"\bdtype\b|scalar type|[Ii]nput type \(|not implemented for|same device|expected device")  # as torch words it


def as_device(device: str | torch.device) -> torch.device:
    """The device of this name. Raises OptionError for one that does not exist or is not here.

    >>> as_device("cpu")
    device(type='cpu')
    """
    try:
        there = torch.device(device)
    except RuntimeError:
        raise OptionError(f"device {device!r}: no such device. Use cpu or cuda") from None
    if there.type == "cuda" and not (torch.cuda.is_available() and (there.index or 0) < torch.cuda.device_count()):
        raise OptionError(f"device {str(device)!r}: torch {torch.__version__} finds no such CUDA device here. Use cpu")
    return there


@cache
def keep_what_is_freed() -> None:
    """Bring the C library to keep freed memory, which it else may give back after each layer and fetch again, page by page.

    glibc trims its heap beyond twice the size of the largest block that was mapped and freed, up to 32 MiB (mallopt(3),
    M_MMAP_THRESHOLD): one such block, never touched, and up to 60 MiB stay. Elsewhere it does nothing.
    """
    torch.empty(KEPT, dtype=torch.uint8)


@contextmanager
def all_bits() -> Iterator[None]:
    """Convolutions on CUDA in the float32 that they are asked for, and afterwards as it was before.

    As torch comes, cuDNN rounds their factors to TF32's ten bits, and one clip's scores differ by some 1e-3 with the shape of its
    batch: of forty smallest examples, two that were heard in their batch were not heard alone.
    """
    with holding([(torch.backends.cudnn.conv, "fp32_precision", "ieee")]):  # type: ignore[attr-defined]
        yield


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """What layers draw by themselves, dropout say, from this seed, and afterwards torch's own draws as if nothing had been."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def only_read(inputs: Tensor) -> Iterator[None]:
    """Raises UnusableBatch where a model writes over its inputs within: they are the caller's, and an attack would see others."""
    before = 0 if inputs.is_inference() else inputs._version  # in inference mode nobody counts
    yield
    if not inputs.is_inference() and inputs._version != before:
        raise UnusableBatch(
            "the model writes over its inputs, which are not its own. Let it begin with a copy, x = x.clone(), or x - 0.5 for x.sub_(0.5)"
        )


@contextmanager
def fitting(model: Any, inputs: Tensor) -> Iterator[None]:
    """Raises UnusableBatch where a model of another dtype or on another device than its inputs fails for that.

    One that converts them itself is as good as any.
    """
    try:
        yield
    except RuntimeError as error:
        net = module_of(model)
        weight = next((p for p in net.parameters() if p.is_floating_point()), None) if net is not None else None
        if weight is None or (weight.dtype, weight.device) == (inputs.dtype, inputs.device) or not MISFIT.search(str(error)):
            raise
        place, part = "model", model
        while part is not net:
            place, part = f"{place}.net", part.net
        raise UnusableBatch(
            f"inputs are {inputs.dtype} on {inputs.device}, but the model is {weight.dtype} on {weight.device} "
            f"({str(error).splitlines()[0].rstrip('.')}). Bring them together: {place}.to(inputs), or let the model convert: "
            "x = x.to(weight)"
        ) from error


def module_of(model: Any) -> nn.Module | None:
    """The module that a model is made of, however deep it lies; None for a bare function.

    >>> module_of(print) is None
    True
    """
    while model is not None and not isinstance(model, nn.Module):
        model = getattr(model, "net", None)
    return model


def modules_of(model: Any) -> list[nn.Module]:
    """The modules that a model computes with, as far as it can be seen: itself, and what it, a function or a collection holds.

    >>> net = nn.Linear(2, 2)
    >>> modules_of(lambda x: net(x).softmax(1)) == modules_of(partial(nn.functional.linear, weight=net)) == modules_of(net.forward) == [net]
    True
    >>> nets = [net, nn.Linear(2, 2)]
    >>> modules_of(lambda x: sum(some(x) for some in nets)) == nets
    True
    """
    found, seen, waiting = list[nn.Module](), dict[int, Any](), deque([(model, 0)])
    while waiting:
        part, depth = waiting.popleft()
        if id(part) in seen or depth > DEEPEST:
            continue
        seen[id(part)] = part  # kept, so that no other gets its number
        if isinstance(part, nn.Module):
            found.append(part)
        waiting += [(held, depth + 1) for held in held_by(part)]
    return found


def held_by(part: Any) -> list[Any]:
    """What something that is computed with computes with in its turn: what it is made from, names, holds or was given."""
    match part:
        case nn.Module():  # what is registered in it is it; a function that one of its parts wraps is not
            return [held for module in part.modules() for held in made_from(module) if not isinstance(held, nn.Module)]
        case partial():
            return [part.func, *part.args, *part.keywords.values()]
        case MethodType():
            return [part.__self__, part.__func__, *kept_by(part.__self__)]
        case FunctionType():
            cells = [cell.cell_contents for cell in part.__closure__ or () if cell != CellType()]  # but those that are still empty
            given = [*(part.__defaults__ or ()), *(part.__kwdefaults__ or {}).values()]
            return [*cells, *given, *(part.__globals__[name] for name in names_in(part.__code__) if name in part.__globals__)]
        case list() | tuple() | set() | frozenset() | dict() if len(part) > MOST:  # data
            return []
        case list() | tuple() | set() | frozenset() | dict():
            every = part.values() if isinstance(part, dict) else part
            return [held for held in every if callable(held) or isinstance(held, COLLECTIONS)]  # not the numbers of a long list
        case type() | ModuleType():  # all the world
            return []
    return made_from(part) + (kept_by(part) if callable(part) else [])


def kept_by(part: Any) -> list[Any]:
    """What an object keeps under names of its own."""
    return list(vars(part).values()) if hasattr(part, "__dict__") and not isinstance(part, nn.Module | type | ModuleType) else []


def names_in(code: CodeType) -> list[str]:
    """The names that a function's code, or one that is written within it, asks its globals for."""
    return [*code.co_names, *(name for inner in code.co_consts if isinstance(inner, CodeType) for name in names_in(inner))]


def made_from(model: Any) -> list[Any]:
    """What a model is made from, by the names that it goes by."""
    return [part for part in (getattr(model, "net", None), getattr(model, "model", None)) if part is not None]


@contextmanager
def at_rest(model: Callable[..., Any]) -> Iterator[None]:
    """The model in evaluation mode with its parameters frozen and its sums exact (`all_bits`), and afterwards as it was before."""
    keep_what_is_freed()
    with all_bits(), ExitStack() as stack:
        for net in modules_of(model):
            stack.enter_context(frozen(net))
        stack.enter_context(REST)
        yield


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """The net in evaluation mode with its parameters frozen, and afterwards as it was before."""
    modes = [(module, "training", False) for module in net.modules()]
    with holding([*modes, *((parameter, "requires_grad", False) for parameter in net.parameters())], net.eval):
        yield


@final
@dataclass(eq=False)
class Held:
    """An attribute that is held at another value than its own, which was `before`, and by how many at once."""

    part: Any
    name: str
    before: Any
    holders: int = 0


HELD: Final = dict[tuple[int, str], Held]()  # by id: tensors are equal by their values
TURN: Final = RLock()


@final
class Rest:
    """The time while any model is at rest. What is kept of weights holds so long: outside of it anybody may write to them."""

    def __init__(self) -> None:
        self.resting, self.past = 0, 0

    def __enter__(self) -> None:
        with TURN:
            self.resting += 1

    def __exit__(self, *error: object) -> None:
        with TURN:
            self.resting -= 1
            self.past += not self.resting

    @property
    def number(self) -> int | None:
        """Of the present rest; None where nothing is at rest."""
        return self.past if self.resting else None


REST: Final = Rest()


@contextmanager
def holding(wishes: Iterable[tuple[Any, str, Any]], tell: Callable[[], object] | None = None) -> Iterator[None]:
    """Attributes at these values, and afterwards as before; where several threads hold one, the last one out brings it back.

    `tell` is called first: some parts do more on being told than to note it."""
    own = list[Held]()
    try:
        with TURN:
            noted = [(part, name, value, getattr(part, name)) for part, name, value in wishes]
            try:
                if tell is not None:
                    tell()
            except BaseException:
                for part, name, _, before in noted:
                    setattr(part, name, before)
                raise
            for part, name, value, before in noted:
                if before != value:
                    setattr(part, name, value)
                    HELD[id(part), name] = Held(part, name, before)
                if held := HELD.get((id(part), name)):
                    held.holders += 1
                    own.append(held)
        yield
    finally:
        with TURN:
            for held in own:
                held.holders -= 1
                if not held.holders:
                    setattr(held.part, held.name, held.before)
                    if HELD.get(key := (id(held.part), held.name)) is held:
                        del HELD[key]

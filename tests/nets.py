"""Small nets with known answers, and norms, for tests of attacks."""

import torch
from torch import Tensor, nn


def linear(classes: int, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Linear scores of flattened inputs, in double precision."""
    generator, size = torch.Generator().manual_seed(seed), int(torch.tensor(shape).prod())
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, classes)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(classes, size, generator=generator, dtype=torch.float64))
        net[1].bias.zero_()
    return net


def small(classes: int, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """A smooth net that is not linear, in double precision."""
    generator, size = torch.Generator().manual_seed(seed), int(torch.tensor(shape).prod())
    net = nn.Sequential(nn.Flatten(), nn.Linear(size, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            scale = 2 / parameter.shape[-1] ** 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


def inputs_for(shape: tuple[int, ...], count: int, box: tuple[float, float] | None, seed: int = 1) -> Tensor:
    """Random inputs, uniform in the box (normal without one), some entries at its very edge."""
    generator = torch.Generator().manual_seed(seed)
    if box is None:
        return torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    drawn = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
    drawn = ((drawn - 0.1) * 1.25).clamp(0, 1)
    return box[0] + (box[1] - box[0]) * drawn


@torch.no_grad()
def labels_of(net: nn.Module, inputs: Tensor) -> Tensor:
    return net(inputs).argmax(1)

"""Marks that tests share."""

import pytest
import torch

to_the_bit = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="whether torch's kernels for other processors add up in the same order everywhere was not tried",
)

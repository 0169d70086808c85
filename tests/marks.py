"""Marks that tests share."""

import pytest
import torch

EXACT = torch.backends.cpu.get_cpu_capability() == "AVX512"
to_the_bit = pytest.mark.skipif(
    not EXACT,
    reason="whether torch's kernels for other processors add up in the same order everywhere was not tried",
)

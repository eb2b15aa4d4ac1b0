"""Products of tensors with Python numbers, which cost a small tensor twice as much as the same product of two tensors.

torch makes a float64 tensor of a Python number at each operation and casts it. Here that is done once for a number, in
the precision in which the kernel would take it, so that the results are those of `number * x` and `x / number` to the
bit.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["divided", "scaled"]


def scaled(number: float | Tensor, x: Tensor) -> Tensor:
    """number·x, to the bit; −0 counts as 0."""
    return x * (number if isinstance(number, Tensor) else _scalar(number, x.dtype))


def divided(x: Tensor, number: float | Tensor) -> Tensor:
    """x/number, to the bit."""
    return x / (number if isinstance(number, Tensor) else _scalar(number, x.dtype))


@lru_cache(maxsize=1 << 14)
def _scalar(number: float, dtype: torch.dtype) -> Tensor:
    """A tensor of no dimension on the CPU, which kernels of every device take as a number.

    Kernels of 16-bit floats take numbers in float32.
    """
    with torch.inference_mode(False):  # it may be asked for again where a gradient is taken
        wide = dtype if dtype == torch.float64 else torch.float32
        return torch.scalar_tensor(number, dtype=wide, device="cpu")

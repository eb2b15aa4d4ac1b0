"""Products with numbers are Python's to the bit, in every dtype of samples."""

from __future__ import annotations

import pytest
import torch

from cbdm_core.scalars import divided, scaled

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NUMBERS = [1 / 3, -0.7, 1.0, 0.0, 123.456, 1e-4]


def values(dtype):
    return torch.randn(3, 37, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", NUMBERS)
def test_bits_and_dtype_are_those_of_python_numbers(number, dtype):
    x = values(dtype)
    for ours, theirs in ((scaled(number, x), number * x), (divided(x, number), x / number)):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0, equal_nan=True)


def test_numbers_that_are_tensors_are_taken_as_they_are():
    x, rows = values(torch.float32), torch.tensor([[0.1], [0.2], [0.3]])
    assert torch.equal(scaled(rows, x), rows * x) and torch.equal(divided(x, rows), x / rows)


def test_a_number_first_asked_for_in_inference_mode_serves_gradients():
    with torch.inference_mode():
        scaled(0.123, values(torch.float32))
    x = values(torch.float32).requires_grad_()
    (divided(scaled(0.123, x), 4.0)).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 0.123 / 4))

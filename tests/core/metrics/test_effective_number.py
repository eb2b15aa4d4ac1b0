"""The effective number of images against its limits and a case worked out by hand."""

import math

import pytest
import torch

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.effective_number import effective_number
from cbdm_core.schedules import VP


def test_one_at_no_noise_and_all_at_the_end():
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(3).repeat_interleave(10)
    numbers = effective_number(x, y, 4, VP(), torch.tensor([1e-3, 1.0]))
    torch.testing.assert_close(numbers[:3, 0], torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(numbers[:3, 1], torch.full((3,), 10.0, dtype=torch.float64), rtol=0.02, atol=0)
    assert numbers[3].tolist() == [0, 0]


def test_two_images_by_quadrature():
    """At ±a: p = 1/(1 + e^{−u}), u = 2αa x_t/σ²; N_eff = E[1/(p² + (1 − p)²)] is an integral over one number."""
    a, t, schedule = 0.7, 0.4, VP()
    alpha, sigma = (float(v) for v in schedule(torch.tensor([t], dtype=torch.float64)))
    z = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    p = torch.sigmoid(2 * alpha * a * (alpha * a + sigma * z) / sigma**2)
    expected = torch.trapezoid(density / (p.square() + (1 - p).square()), z)
    x = torch.tensor([[a], [-a]])
    found = effective_number(x, torch.zeros(2, dtype=torch.long), 1, schedule, torch.tensor([t]), queries=20000)
    assert abs(float(found) - float(expected)) < 5 * 0.4 / math.sqrt(20000)


def test_a_class_is_its_own_images_alone():
    """Other classes, however near, do not count."""
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    y, times = torch.arange(2).repeat_interleave(6), torch.tensor([0.2, 0.5])
    both = effective_number(x, y, 2, VP(), times)
    torch.testing.assert_close(both[:1], effective_number(x[:6], y[:6], 1, VP(), times))


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"times": torch.tensor([0.0])}, "no noise"), ({"queries": 0}, "queries"), ({"y": torch.zeros(3)}, "labels")],
)
def test_what_does_not_fit_is_refused(changed, named):
    given = {"x_0": torch.zeros(2, 1), "y": torch.zeros(2, dtype=torch.long), "num_classes": 1, "schedule": VP()}
    given |= {"times": torch.tensor([0.5]), **changed}
    with pytest.raises(CbdmError, match=named):
        effective_number(**given)

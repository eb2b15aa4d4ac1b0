"""The effective number of images against a loop over densities, and in its two limits."""

import pytest
import torch

from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.metrics import effective_number as module
from cbdm_core.metrics.effective_number import effective_number
from cbdm_core.schedules import VP, Linear, RectifiedFlow

COUNTS = (12, 5, 1)


def images(seed=0, counts=COUNTS, shape=(1, 3, 3)):
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    mixed = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x = torch.randn(len(y), *shape, generator=torch.Generator().manual_seed(seed))
    return x[mixed], y[mixed]


@pytest.mark.parametrize("schedule", [VP(), Linear(), RectifiedFlow()])
def test_from_each_image_to_all(schedule):
    x, y = images()
    low, high = schedule.domain
    times = torch.linspace(low, high, 9, dtype=torch.float64)
    found = effective_number(x, y, 4, schedule, times, queries=600)
    assert found[:3, 0] == pytest.approx([1.0, 1.0, 1.0], abs=1e-6)
    assert found[:3, -1] == pytest.approx(list(COUNTS), rel=1e-2)
    assert torch.equal(found[3], torch.zeros(9))
    assert bool((found.diff(dim=1)[:2] > -1e-9).all())
    assert bool((found[:3] >= 1 - 1e-12).all()) and bool((found[:3] <= torch.tensor(COUNTS)[:, None] + 1e-9).all())


def test_against_densities_of_torch():
    """The same expectation by Monte Carlo over 20,000 independent draws, with torch's own normal densities."""
    x, y = images(1, (6, 3), (2,))
    schedule, times = VP(), torch.tensor([0.1, 0.3, 0.5])
    found = effective_number(x, y, 2, schedule, times, queries=20_000)
    generator = torch.Generator().manual_seed(5)
    for label in (0, 1):
        rows = x[y == label].double()
        for at, t in enumerate(times):
            alpha, sigma = (float(part) for part in schedule(t))
            j = torch.randint(len(rows), (20_000,), generator=generator)
            x_t = alpha * rows[j] + sigma * torch.randn(20_000, 2, generator=generator, dtype=torch.float64)
            normal = torch.distributions.Independent(torch.distributions.Normal(alpha * rows, sigma), 1)
            p = torch.softmax(normal.log_prob(x_t[:, None]), 1)
            each = 1 / p.square().sum(1)
            error = float(each.std()) / 20_000**0.5
            assert float(found[label, at]) == pytest.approx(float(each.mean()), abs=6 * error)


def test_two_images_by_hand():
    """±1 in one dimension: p = 1/(1 + exp(∓2αx_t/σ²))."""
    schedule, x, time = VP(), torch.tensor([[1.0], [-1.0]]), torch.tensor([0.4], dtype=torch.float64)
    found = effective_number(x, torch.zeros(2).long(), 1, schedule, time, queries=8, seed=3)
    alpha, sigma = (float(part) for part in schedule(time))
    eps = Draws(3, 0, torch.arange(8)).within("effective number").normal("eps", 1, dtype=torch.float64)[:, 0]
    candidates = []
    for first in (1.0, -1.0):
        x_t = alpha * first * torch.tensor([1.0, -1.0] * 4, dtype=torch.float64) + sigma * eps
        p = torch.sigmoid(2 * alpha * x_t / sigma**2)
        candidates.append(float((1 / (p**2 + (1 - p) ** 2)).mean()))
    assert any(float(found[0, 0]) == pytest.approx(value, rel=1e-12) for value in candidates)


def test_chunks_and_other_classes_change_nothing(monkeypatch):
    x, y = images()
    times = torch.tensor([0.05, 0.2])
    whole = effective_number(x, y, 3, VP(), times, queries=50)
    monkeypatch.setattr(module, "_ENTRIES", 30)
    assert torch.allclose(effective_number(x, y, 3, VP(), times, queries=50), whole, rtol=1e-12)
    alone = effective_number(x[y == 1], y[y == 1], 3, VP(), times, queries=50)
    assert torch.allclose(alone[1], whole[1], rtol=1e-12)


def test_twins_count_as_two_and_a_shift_as_nothing():
    x = torch.tensor([[1.0, 2.0], [1.0, 2.0], [9.0, 0.0]])
    y = torch.zeros(3).long()
    found = effective_number(x, y, 1, VP(), torch.tensor([0.01]), queries=300)
    assert float(found[0, 0]) == pytest.approx((2 + 2 + 1) / 3, abs=1e-6)
    moved = effective_number(x + 100, y, 1, VP(), torch.tensor([0.3]), queries=300)
    assert torch.allclose(moved, effective_number(x, y, 1, VP(), torch.tensor([0.3]), queries=300), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y": torch.tensor([0, 3])}, "label 3 is out of range"),
        ({"y": torch.tensor([0])}, "2 images need 2 labels"),
        ({"times": torch.tensor([0.0])}, "time 0 is outside"),
        ({"queries": 0}, "queries must be 1 or more"),
    ],
)
def test_refused(change, words):
    given = {"y": torch.tensor([0, 1]), "times": torch.tensor([0.5]), "queries": 4, **change}
    with pytest.raises(CbdmError, match=words):
        effective_number(torch.zeros(2, 2), given.pop("y"), 3, VP(), given.pop("times"), **given)

"""Batch laws that know the noise level, against their closed form, and their limits bit for bit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.data.batches import Batches, resampling_weights
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.levels import ExposureBudget, Ramp, exposure_budget, law_at
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.schedules import VP, Linear

COUNTS = torch.tensor([30, 12, 5, 1])
LABELS = torch.arange(4).repeat_interleave(COUNTS)
DATA = Dataset(torch.arange(48.0)[:, None], LABELS, tuple("abcd"))
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64)
SCHEDULE = VP()


def batches(levels=None, size=16, seed=3, **changed):
    given = {"weights": resampling_weights(LABELS, UNIFORM), "schedule": SCHEDULE, "levels": levels}
    return Batches(DATA, size, seed=seed, **{**given, **changed})


@pytest.mark.parametrize(
    ("start", "full", "t", "share"),
    [
        (0.2, 0.2, [0.0, 0.1999, 0.2, 1.0], [0, 0, 1, 1]),
        (0.3, 0.7, [0.3, 0.4, 0.5, 0.7, 0.9], [0, 0.25, 0.5, 1, 1]),
        (0.0, 0.0, [0.0, 0.5], [1, 1]),
        (0.0, 1.0, [0.0, 0.25], [0, 0.25]),
        (0.7, 0.3, [0.1, 0.3, 0.4, 0.5, 0.7, 0.9], [1, 1, 0.75, 0.5, 0, 0]),
    ],
)
def test_a_ramp_is_linear_between_its_ends(start, full, t, share):
    t = torch.tensor(t, dtype=torch.float64)
    torch.testing.assert_close(
        Ramp(start, full).share(t, torch.zeros(len(t), dtype=torch.long), 0),
        torch.tensor(share, dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[:4], b[:4]))


def test_the_limits_are_resampling_and_plain_epochs_bit_for_bit():
    """Split at 0: the batch law at every level. A budget of 0: the epochs."""
    resampled, plain = batches(), Batches(DATA, 16, seed=3)
    none = ExposureBudget(torch.zeros(4, 1), torch.tensor([0.5]), torch.ones(4))
    for step in range(1, 30):
        assert same(batches(Ramp(0, 0)).at(step), resampled.at(step))
        assert same(batches(none).at(step), plain.at(step))


def test_t_travels_with_the_batch_and_is_what_the_process_would_draw():
    for schedule in (SCHEDULE, Linear(steps=50)):
        batch = batches(Ramp(0.2, 0.4), schedule=schedule).at(7)
        assert torch.equal(batch.t, schedule.draw_t(Draws(3, 7, torch.arange(16))))
    assert batches().at(7).t is None


def test_below_the_split_rows_follow_the_epochs_and_above_the_batch_law():
    """Row by row: what stands is the resampled batch where t ≥ t₀, and the plain batch elsewhere."""
    split, resampled, plain = batches(Ramp(0.4, 0.4)), batches(), Batches(DATA, 16, seed=3)
    seen = set()
    for step in range(20):
        batch = split.at(step)
        high = batch.t >= 0.4
        expected = torch.where(high, resampled.at(step).x_0[:, 0], plain.at(step).x_0[:, 0])
        assert torch.equal(batch.x_0[:, 0], expected)
        seen |= set(high.tolist())
    assert seen == {True, False}


def test_the_law_at_a_level_is_what_is_drawn():
    """Frequencies of the classes in bins of t against π(y | t), within five standard errors of a multinomial count."""
    ramp, training = Ramp(0.2, 0.6), COUNTS.double() / COUNTS.sum()
    many = batches(ramp, size=4096)
    drawn = [many.at(step) for step in range(6)]
    t, y = torch.cat([b.t for b in drawn]), torch.cat([b.y for b in drawn])
    for low in (0.0, 0.25, 0.35, 0.45, 0.7):
        here = (t >= low) & (t < low + 0.05)
        law = law_at(ramp, UNIFORM, training, float(t[here].double().mean()), 0)
        frequency = torch.bincount(y[here], minlength=4) / here.sum()
        tolerance = 5 * (law * (1 - law) / here.sum()).sqrt() + 1e-3
        assert ((frequency - law).abs() <= tolerance).all(), (low, frequency, law)


@given(
    t=st.floats(0, 1),
    start=st.floats(0, 1),
    full=st.floats(0, 1),
    weights=st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_the_law_at_a_level_is_a_law_between_its_two_ends(t, start, full, weights):
    pi, p = torch.tensor(weights, dtype=torch.float64), COUNTS.double()
    pi, p = pi / pi.sum(), p / p.sum()
    ramp = Ramp(start, full)
    law = law_at(ramp, pi, p, t, 0)
    share = ramp.share(torch.tensor([t], dtype=torch.float64), torch.zeros(1, dtype=torch.long), 0)
    torch.testing.assert_close(law, share * pi + (1 - share) * p, rtol=1e-12, atol=1e-15)


def test_a_budget_is_spent_class_by_class_and_level_by_level():
    """Rates 2 and 0.1 a step against budgets 10 … 30 over t: the crossing is at step = N(y, t)/rate."""
    budget = ExposureBudget(
        torch.tensor([[10.0, 30.0], [10.0, math.inf]]), torch.tensor([0.0, 1.0]), torch.tensor([2.0, 0.1])
    )
    t, y = torch.tensor([0.0, 0.5, 1.0, 0.0, 0.5, 1.0]), torch.tensor([0, 0, 0, 1, 1, 1])
    assert budget.share(t, y, 0).tolist() == [1] * 6
    assert budget.share(t, y, 5).tolist() == [0, 1, 1, 1, 1, 1]
    assert budget.share(t, y, 10).tolist() == [0, 0, 1, 1, 1, 1]
    assert budget.share(t, y, 100).tolist() == [0, 0, 0, 0, 1, 1]


def test_a_budget_is_that_of_its_ends_beyond_them_and_of_one_level_everywhere():
    one = ExposureBudget(torch.tensor([[10.0]]), torch.tensor([0.5]), torch.tensor([1.0]))
    two = ExposureBudget(torch.tensor([[10.0, 20.0]]), torch.tensor([0.4, 0.6]), torch.tensor([1.0]))
    t, y = torch.tensor([0.1, 0.5, 0.9]), torch.zeros(3, dtype=torch.long)
    assert one.share(t, y, 9).tolist() == [1, 1, 1] and one.share(t, y, 10).tolist() == [0, 0, 0]
    assert two.share(t, y, 12).tolist() == [0, 1, 1] and two.share(t, y, 22).tolist() == [0, 0, 0]


def test_an_exposure_budget_grows_from_n0_without_end():
    effective = torch.tensor([[1.0, 3.0, 5.0], [1.0, 1.0, 1.0], [1.0, 1.5, 2.0]])
    found = exposure_budget(effective, torch.tensor([5, 1, 2]), 100.0)
    expected = torch.tensor([[100, 200, math.inf], [100, 200, math.inf], [100, 200, math.inf]], dtype=torch.float64)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: Ramp(0.5, 1.2), "two in .0, 1."),
        (lambda: Ramp(-0.1, 0.2), "two in .0, 1."),
        (lambda: Ramp(0.2, math.nan), "two in .0, 1."),
        (lambda: ExposureBudget(torch.ones(2, 3), torch.arange(2.0), torch.ones(2)), "shape"),
        (lambda: ExposureBudget(torch.ones(2, 2), torch.tensor([1.0, 1.0]), torch.ones(2)), "rise"),
        (lambda: ExposureBudget(torch.full((2, 1), math.nan), torch.ones(1), torch.ones(2)), "NaN"),
        (lambda: ExposureBudget(torch.full((2, 1), -0.5), torch.ones(1), torch.ones(2)), "0 or more"),
        (lambda: ExposureBudget(torch.ones(2, 1), torch.ones(1), torch.tensor([1.0, -0.5])), "0 or more"),
        (lambda: batches(Ramp(0, 1), weights=None), "weights"),
        (lambda: batches(Ramp(0, 1), schedule=None), "schedule"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(wrong, named):
    with pytest.raises(CbdmError, match=named) as error:
        wrong()
    assert "\n" not in str(error.value)

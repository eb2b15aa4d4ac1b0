"""The learned law: where it stands still, that it gets there, and that nothing breaks it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from cbdm import Training, Uniform
from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from cbdm_priors.laws.learned import Learned

COUNTS = [400, 90, 0, 25, 3]


def told(law, losses, times=1):
    """Show the law each class's loss, `times` times."""
    labels = torch.tensor([y for y, n in enumerate(COUNTS) if n])
    for _ in range(times):
        law.observe(Condition.of(labels), torch.tensor([losses[y] for y in labels.tolist()]).double())


def test_starts_at_its_reference():
    torch.testing.assert_close(Learned(COUNTS).probs, Training(COUNTS).probs, rtol=1e-14, atol=0)
    torch.testing.assert_close(Learned(COUNTS, kappa=0.0).probs, Uniform(COUNTS).probs, rtol=1e-14, atol=0)


@settings(max_examples=25)
@given(
    losses=st.lists(st.floats(0, 3), min_size=5, max_size=5),
    temperature=st.floats(0.1, 3),
    step=st.floats(0.2, 50),
    kappa=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_stands_still_at_the_tilted_reference_alone(losses, temperature, step, kappa):
    """Constant losses ℓ lead to π ∝ ρ exp(ℓ/T), the maximiser of Σ π ℓ − T KL(π‖ρ); there it stays."""
    law = Learned(COUNTS, temperature=temperature, step=step, memory=0.0, kappa=kappa)
    reference = Learned(COUNTS, kappa=kappa).probs
    told(law, losses, math.ceil(40 * (1 + 1 / (step * temperature))))
    tilted = reference * (torch.tensor(losses).double() / temperature).exp()
    torch.testing.assert_close(law.probs, tilted / tilted.sum(), rtol=1e-9, atol=1e-12)
    before = law.probs
    told(law, losses)
    torch.testing.assert_close(law.probs, before, rtol=1e-9, atol=1e-12)


def test_converges_to_the_saddle_point_of_a_convex_game():
    """min_θ max_π Σ π_y (θ − a_y)²/2 − T KL(π‖ρ): θ* minimises T log Σ ρ_y exp((θ − a_y)²/2T), found by scipy."""
    targets, temperature = torch.tensor([0.0, 1.0, 9.9, 2.0, 4.0]).double(), 0.7
    law = Learned(COUNTS, temperature=temperature, step=0.05, memory=0.0)
    rho = law.probs.clone()

    def value(theta):
        return float(temperature * torch.logsumexp(rho.log() + (theta - targets).square() / 2 / temperature, 0))

    best = minimize_scalar(value, bounds=(0, 4), method="bounded", options={"xatol": 1e-10})
    theta = torch.zeros((), dtype=torch.float64)
    for _ in range(6000):
        told(law, (theta - targets).square() / 2)
        theta = theta - 0.02 * (law.probs * (theta - targets)).sum()
    tilted = rho * ((best.x - targets).square() / 2 / temperature).exp()
    assert float(theta) == pytest.approx(best.x, abs=1e-5)
    torch.testing.assert_close(law.probs, tilted / tilted.sum(), rtol=1e-4, atol=1e-7)
    assert law.probs[4] > 5 * rho[4], "the rare far class is drawn more"


@settings(max_examples=40)
@given(
    data=st.lists(
        st.tuples(st.integers(0, 4), st.one_of(st.floats(width=32), st.just(float("nan")), st.just(1e30))),
        min_size=1,
        max_size=30,
    ),
    step=st.sampled_from([0.0, 0.1, 1e6]),
    temperature=st.sampled_from([1e-9, 0.1, 1e9]),
)
def test_never_leaves_the_simplex_and_never_makes_a_nan(data, step, temperature):
    law = Learned(COUNTS, temperature=temperature, step=step)
    for label, loss in data:
        law.observe(Condition.of([label]), torch.tensor([loss], dtype=torch.float64))
        p = law.probs
        assert torch.isfinite(p).all() and (p >= 0).all() and float(p.sum()) == pytest.approx(1, abs=1e-9)
        assert p[2] == 0, "a class without images stays out"


def test_running_loss_is_an_exponential_mean_that_starts_at_the_first():
    law = Learned(COUNTS, memory=0.75)
    for loss in (8.0, 4.0):
        law.observe(Condition.of([1, 1]), torch.tensor([loss - 1, loss + 1]))
    assert law.loss.tolist() == [0, 0.75 * 8 + 0.25 * 4, 0, 0, 0] and law.seen.tolist() == [0, 1, 0, 0, 0]


def test_rows_that_saw_no_condition_do_not_count():
    law = Learned(COUNTS)
    law.observe(Condition(torch.tensor([0, 1]), torch.tensor([False, True])), torch.tensor([5.0, 2.0]))
    assert law.loss.tolist() == [0, 2, 0, 0, 0]


def test_a_class_not_seen_yet_is_an_average_one():
    law, before = Learned(COUNTS, step=1.0), Learned(COUNTS).probs
    law.observe(Condition.of([0, 1]), torch.tensor([1.0, 3.0]))
    ratio = law.probs / before
    assert ratio[0] < ratio[3] < ratio[1] and float(ratio[3]) == pytest.approx(float(ratio[4]))


def test_its_state_is_saved_and_goes_on_bit_for_bit():
    one, two = Learned(COUNTS), Learned(COUNTS)
    told(one, [0.1, 0.4, 0, 0.2, 0.9], 5)
    two.load_state_dict(one.state_dict())
    told(one, [0.2, 0.3, 0, 0.2, 0.8], 3)
    told(two, [0.2, 0.3, 0, 0.2, 0.8], 3)
    assert torch.equal(one.probs, two.probs) and not torch.equal(one.probs, Learned(COUNTS).probs)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"step": -1.0}, {"memory": 1.0}, {"temperature": float("nan")}]
)
def test_refuses_numbers_out_of_range(options):
    with pytest.raises(CbdmError, match=r"learned needs temperature > 0, step ≥ 0 and memory in \[0, 1\)"):
        Learned(COUNTS, **options)

"""Stop-gradients: is the field a gradient, where does a strong pull end, does descent arrive in a finite network?"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.truth.common import SEEDS, close, normal, quick, simplex, solve, times
from tests.truth.test_true_optimum import population_gradient


def jacobian(r: Tensor, law: Tensor, lam: float, gamma: float) -> Tensor:
    """A of Statement 8: half the Jacobian of the population's gradient field, by finite differences of autograd's."""
    zero = torch.zeros(len(r), 1, dtype=r.dtype)
    base = population_gradient(zero, zero, r, law, lam, gamma)
    columns = []
    for direction in torch.eye(len(r), dtype=r.dtype):
        columns.append((population_gradient(direction[:, None], zero, r, law, lam, gamma) - base)[:, 0] / 2)
    return torch.stack(columns, dim=1)


@quick
@given(SEEDS, st.integers(2, 5), st.floats(0.1, 4.0), st.floats(0.0, 2.0))
def test_the_field_is_a_gradient_only_at_gamma_1_or_in_balance(seed, classes, lam, gamma):
    """A − Aᵀ = −(1 − γ)λ(J − Jᵀ), J_cy = r_c P_cy: symmetric at γ = 1, and where r_c P_cy = r_y P_yc, as for π = r."""
    r, law = simplex(seed, classes), simplex(seed + 1, classes, classes)
    joint = r[:, None] * law
    a = jacobian(r, law, lam, gamma)
    close(a - a.T, -(1 - gamma) * lam * (joint - joint.T))
    free = jacobian(r, law, lam, 1.0)
    close(free, free.T)
    balanced = jacobian(r, r, lam, gamma)
    close(balanced, balanced.T)


@quick
@given(SEEDS, st.integers(2, 5), st.floats(0.0, 2.0))
def test_a_strong_pull_makes_all_classes_one_for_every_gamma(seed, classes, gamma):
    """λ → ∞: all e_c meet, at Σ_y π_y e*_y for γ = 0 and at Σ_c r_c e*_c for γ = 1; with no stop-gradient or with."""
    e, r, pi = normal(seed, classes, 3), simplex(seed + 1, classes), simplex(seed + 2, classes)
    spread = [float((x - x.mean(0)).abs().max()) for x in (solve(e, r, pi, lam, gamma) for lam in (1e3, 1e7))]
    assert spread[1] < 1e-3 * spread[0] + 1e-5 and spread[1] < 2e-3
    for share, mean in ((0.0, pi @ e), (1.0, r @ e)):
        close(solve(e, r, pi, 1e9, share), mean.expand_as(e), 1e-4)


@quick
@given(SEEDS, st.integers(2, 6), st.floats(0.05, 1.0), st.floats(0.0, 1.0))
def test_symmetric_part_is_positive_below_the_bound(seed, classes, gamma, part):
    """xᵀAx ≥ (1 − λ(1−γ)²/4γ) Σ_c r_c x_c², so that λ < 4γ/(1−γ)² makes it positive; 16/9 at γ = ¼."""
    r, law = simplex(seed, classes, floor=1e-5), simplex(seed + 1, classes, classes, floor=1e-5)
    lam = part * (min(4 * gamma / (1 - gamma) ** 2, 100.0) if gamma < 1 else 100.0)
    x = normal(seed + 2, classes, 20)
    value = (x * (jacobian(r, law, lam, gamma) @ x)).sum(0)
    floor = (1 - lam * (1 - gamma) ** 2 / (4 * gamma)) * (r[:, None] * x**2).sum(0)
    assert (value >= floor - 1e-9 * value.abs()).all()


def descend(gamma: float, tied: Tensor, steps: int = 600) -> Tensor:
    """The weight of a network e_c = tied_c·w after gradient descent by the stop-gradient loss from w = 1."""
    r, law, w = times(0.99, 0.01), times(0.5, 0.5), times(1.0)
    truth = tied[:, None]  # w = 1 is the truth, so that without the pull nothing moves
    for _ in range(steps):
        w = w - 0.01 * tied @ population_gradient(tied[:, None] * w, truth, r, law, 1.0, gamma)
        if not w.abs() < 1e6:
            break
    return w


def test_a_tied_network_runs_away_without_the_second_half_and_settles_with_it():
    """One weight that says w for the head and 10w for the tail, λ = 1: at γ = 0 it diverges, at ¼ and 1 it settles."""
    tied = times(1.0, 10.0)
    assert not descend(0.0, tied).abs() < 1e6
    for gamma in (0.25, 1.0):
        r, law = times(0.99, 0.01), times(0.5, 0.5)
        settled = (tied @ (r * tied)) / (tied @ jacobian(r, law, 1.0, gamma) @ tied)
        assert float(descend(gamma, tied)) == pytest.approx(float(settled), rel=1e-6)
        assert 0 < float(settled) < 1
    # With an output of its own for each class, all of them settle (Statement 9).
    apart = (torch.linalg.eigvals(jacobian(times(0.99, 0.01), times(0.5, 0.5), 1.0, gamma)) for gamma in (0, 0.25, 1))
    assert all((values.real > 0).all() for values in apart)

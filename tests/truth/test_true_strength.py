"""The factor that is dropped, and the strength that stands in its place."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.schedules import Linear
from cbdm_priors.penalties.penalty import linear, published
from tests.truth.common import GAMMAS, SEEDS, STRENGTHS, close, normal, quick, simplex, solve, times


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS, st.floats(1e-3, 50))
def test_a_factor_common_to_both_terms_moves_no_optimum(seed, classes, lam, gamma, factor):
    """½(SNR_s/SNR_t − 1) on the denoising and on the balancing term: the gradient vanishes where it did."""
    e, r, pi = normal(seed, classes, 3), simplex(seed + 1, classes), simplex(seed + 2, classes)
    x = solve(e, r, pi, lam, gamma).requires_grad_()
    pulled, pulling = ((a[:, None] - b[None]).square().sum(-1) for a, b in ((x, x.detach()), (x.detach(), x)))
    balancing = (r[:, None] * pi * (pulled + gamma * pulling)).sum()
    (grad,) = torch.autograd.grad(factor * (r * (x - e).square().sum(-1)).sum() + factor * lam * balancing, x)
    close(grad / factor, torch.zeros_like(grad))


def test_strength_per_step_and_strength_of_t():
    """10⁻³·i at step i of 1000 is 1·t at t = i/1000, and the published table index is one step behind."""
    steps = 1000
    i = torch.arange(1, steps + 1, dtype=torch.float64)
    t = i / steps
    close(1e-3 * i, 1.0 * linear(t), 1e-15)
    close(linear(t) - published(steps)(t), torch.full_like(t, 1 / steps), 1e-15)
    close(1 - published(steps)(t) / linear(t), 1 / i, 1e-9)  # a tenth less at step 10, nothing left at step 1
    assert float(linear(t).mean() / published(steps)(t).mean()) == pytest.approx((steps + 1) / (steps - 1))


def test_the_dropped_factor_falls_where_t_rises():
    """½(SNR_s/SNR_t − 1) over one step of the linear table: 0.60 at step 2, 0.0055 at 500, 0.0102 at the last."""
    schedule = Linear()
    t = times(0.002, 0.01, 0.1, 0.25, 0.5, 1.0)
    factor = (torch.exp(schedule.log_snr(t - 1e-3) - schedule.log_snr(t)) - 1) / 2
    close(factor, times(0.5997, 0.0864, 0.0103, 0.0054, 0.0055, 0.0102), 5e-3)

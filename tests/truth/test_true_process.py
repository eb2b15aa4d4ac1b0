"""Schedules and the forward process."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core import process
from cbdm_core.conditions import Condition
from cbdm_core.networks.predicts import Predicts
from cbdm_core.process import Process
from cbdm_core.schedules import Cosine, Linear
from tests.priors.steps import TableNetwork
from tests.truth.common import SEEDS, close, normal, quick, times

SCHEDULE = st.sampled_from([Linear(steps=1000), Linear(steps=40), Cosine()])
TWO_TIMES = (
    st.tuples(st.floats(0.03, 0.99), st.floats(0.03, 0.99)).filter(lambda p: abs(p[0] - p[1]) > 1e-3).map(sorted)
)


@quick
@given(SCHEDULE, st.floats(0, 1))
def test_schedules_preserve_variance(schedule, t):
    """α_t² + σ_t² = 1, with α_0 = 1 and σ_0 = 0."""
    alpha_t, sigma_t = schedule(times(t, 0.0))
    close(alpha_t**2 + sigma_t**2, torch.ones(2, dtype=torch.float64), 1e-14)
    assert float(alpha_t[1]) == 1 and float(sigma_t[1]) == 0


@quick
@given(SCHEDULE)
def test_log_snr_falls_strictly(schedule):
    """log α_t²/σ_t² is finite and strictly decreasing on the domain."""
    log_snr = schedule.log_snr(torch.linspace(*schedule.domain, 5001, dtype=torch.float64))
    assert torch.isfinite(log_snr).all() and (log_snr.diff() < 0).all()


@quick
@given(st.integers(1, 300), st.floats(1e-5, 0.01), st.floats(0.01, 0.3))
def test_table_stands_at_its_points(steps, beta_1, beta_T):
    """log ᾱ_i = Σ_{j≤i} log(1 − β_j) at t = (i+1)/T, and log ᾱ is linear between.

    The published β are spaced in float32, hence 1e-6; `tests/parity` holds the published table to 1e-12.
    """
    schedule, logs = Linear(steps=steps, beta_1=beta_1, beta_T=beta_T), [0.0]
    for i in range(steps):
        logs.append(logs[-1] + math.log1p(-(beta_1 + (beta_T - beta_1) * i / max(steps - 1, 1))))
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    log_alpha = schedule(grid)[0].log()
    torch.testing.assert_close(2 * log_alpha, torch.tensor(logs, dtype=torch.float64), rtol=1e-6, atol=1e-12)
    for part in (0.25, 0.5):
        between = schedule(grid[:-1] + part / steps)[0].log()
        close(between, (1 - part) * log_alpha[:-1] + part * log_alpha[1:], 1e-10)


@quick
@given(SEEDS, SCHEDULE, TWO_TIMES)
def test_transitions_compose(seed, schedule, pair):
    """∫ q(x_t | x_s) q(x_s | x_0) dx_s = q(x_t | x_0): the means and variances add up."""
    s, t = (times(v) for v in pair)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = schedule(s), schedule(t)
    x_0 = normal(seed, 1, 3)
    mean, variance = Process(schedule).transition(alpha_s * x_0, s, t)
    ratio = alpha_t / alpha_s
    close(mean, alpha_t * x_0)
    close(variance.flatten() + ratio**2 * sigma_s**2, sigma_t**2)
    assert float(variance) > 0


@quick
@given(SEEDS, SCHEDULE, TWO_TIMES)
def test_posterior_is_gaussian_conditioning(seed, schedule, pair):
    """q(x_s | x_t, x_0) is the joint normal of (x_s, x_t) given x_0, conditioned by the block formula."""
    s, t = (times(v) for v in pair)
    x_t, x_0 = normal(seed, 1, 1), normal(seed + 1, 1, 1)
    mean, variance = Process(schedule).posterior(x_t, x_0, s, t)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = ([float(v) for v in schedule(u)] for u in (s, t))
    # x_s = α_s x_0 + σ_s z and x_t = (α_t/α_s) x_s + rest: Cov(x_s, x_t) = (α_t/α_s) σ_s².
    cross = alpha_t / alpha_s * sigma_s**2
    close(mean, alpha_s * x_0 + cross / sigma_t**2 * (x_t - alpha_t * x_0), 1e-9)
    close(variance.flatten(), times(sigma_s**2 - cross**2 / sigma_t**2), 1e-9)


@pytest.mark.parametrize("schedule", [Linear(steps=40), Cosine()], ids=["linear", "cosine"])
def test_posterior_is_bayes_on_a_grid(schedule):
    """q(x_t | x_s) q(x_s | x_0), multiplied point by point and normalised, has the posterior's mean and variance."""
    s, t, x_t, x_0 = times(0.3), times(0.55), times(0.8)[None], times(-0.4)[None]
    grid = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    alpha_s, sigma_s = schedule(s)
    forward_mean, forward_variance = Process(schedule).transition(grid[:, None], s, t)
    log = -((x_t - forward_mean[:, 0]) ** 2) / (2 * forward_variance.flatten())
    log = (log - (grid - alpha_s * x_0) ** 2 / (2 * sigma_s**2)).flatten()
    weights = torch.softmax(log, 0)
    mean, variance = Process(schedule).posterior(x_t, x_0, s, t)
    close(mean.flatten(), (weights @ grid)[None], 1e-8)
    close(variance.flatten(), (weights @ (grid - weights @ grid) ** 2)[None], 1e-8)


@quick
@given(SEEDS, SCHEDULE, st.floats(0.01, 0.99))
def test_conversions_are_round_trips(seed, schedule, t):
    """ε, x_0 and the score say the same of x_t = α_t x_0 + σ_t ε; for v and the flow see test_predicts.py."""
    x_0, eps = normal(seed, 2, 3), normal(seed + 1, 2, 3)
    alpha, sigma = (float(v) for v in schedule(times(t)))
    x_t = Process(schedule).perturb(x_0, times(t, t), eps)
    close(process.eps_to_x0(eps, x_t, alpha, sigma), x_0, 1e-8)
    close(process.x0_to_eps(x_0, x_t, alpha, sigma), eps, 1e-8)
    # The score of q(x_t | x_0), by autograd.
    x = x_t.clone().requires_grad_()
    (score,) = torch.autograd.grad(-((x - alpha * x_0) ** 2).sum() / (2 * sigma**2), x)
    close(-eps / sigma, score, 1e-8)


@quick
@given(SEEDS, SCHEDULE, st.floats(0.05, 0.95))
def test_losses_of_the_predictions_differ_by_a_factor(seed, schedule, t):
    """‖Δx_0‖² = (σ/α)²‖Δε‖², ‖Δv‖² = ‖Δε‖²/α² under VP, ‖Δu‖² = ((α+σ)/α)²‖Δε‖², and `Predicts` undoes each."""
    x_0, eps, wrong = normal(seed, 1, 3), normal(seed + 1, 1, 3), normal(seed + 2, 1, 3)
    alpha, sigma = (float(v) for v in schedule(times(t)))
    x_t = alpha * x_0 + sigma * eps
    wrong_x_0 = (x_t - sigma * wrong) / alpha
    says = {
        "eps": (eps, wrong, 1.0),
        "x_0": (x_0, wrong_x_0, (sigma / alpha) ** 2),
        "v": (alpha * eps - sigma * x_0, alpha * wrong - sigma * wrong_x_0, 1 / alpha**2),
        "flow": (eps - x_0, wrong - wrong_x_0, ((alpha + sigma) / alpha) ** 2),
    }
    for what, (truth, said, factor) in says.items():
        close((said - truth).square().sum(), factor * (wrong - eps).square().sum(), 1e-7)
        network = Predicts(TableNetwork(said.expand(2, 3)), what, schedule)
        close(network(x_t, times(t), Condition.of([0])), wrong, 1e-7)


@quick
@given(SEEDS, st.floats(0.1, 5), st.floats(0.1, 5))
def test_gaussian_kl_is_the_expectation_of_the_log_ratio(seed, variance_1, variance_2):
    """KL(N_1‖N_2) against torch.distributions, summed over the dimensions."""
    mean_1, mean_2 = normal(seed, 2, 3), normal(seed + 1, 2, 3)
    one, two = (torch.distributions.Normal(m, math.sqrt(v)) for m, v in ((mean_1, variance_1), (mean_2, variance_2)))
    ours = process.gaussian_kl(mean_1, times(variance_1)[:, None], mean_2, times(variance_2)[:, None])
    close(ours, torch.distributions.kl_divergence(one, two).sum(1), 1e-9)


@quick
@given(SEEDS, SCHEDULE, TWO_TIMES)
def test_kl_is_scaled_mse(seed, schedule, pair):
    """KL(q(x_s | x_t, x_0) ‖ q(x_s | x_t, x̂_0)) = ½ (SNR_s/SNR_t − 1) ‖ε − ε̂‖²."""
    s, t = (times(v) for v in pair)
    x_t, eps, eps_hat = (normal(seed + i, 1, 3) for i in range(3))
    alpha_t, sigma_t = (float(v) for v in schedule(t))
    kernels = []
    for said in (eps, eps_hat):
        kernels += Process(schedule).posterior(x_t, process.eps_to_x0(said, x_t, alpha_t, sigma_t), s, t)
    ratio = torch.exp(schedule.log_snr(s) - schedule.log_snr(t))
    close(process.gaussian_kl(*kernels), 0.5 * (ratio - 1) * (eps - eps_hat).square().sum(), 1e-7)

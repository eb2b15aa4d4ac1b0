"""The oracle: what exact scores say, and what a path that follows them misses."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cbdm import TrackedWeights, Uniform
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.process import Process
from cbdm_core.samplers import DDIM
from cbdm_core.schedules import uniform_times
from tests.truth.common import NOISE, SEEDS, TARGETS, close, quick, scattered, the_oracle, times

# The oracle: what exact scores say


def on_a_line(q: Tensor) -> GaussianMixtureOracle:
    """Three classes in one dimension, so that densities can be summed on a grid."""
    means, variances = times(-2.0, 0.0, 1.5)[:, None], times(0.2, 0.3, 0.25)[:, None, None]
    return GaussianMixtureOracle(means, variances, q, NOISE)


@quick
@given(SEEDS, st.floats(0.05, 0.95))
def test_null_prediction_is_the_posterior_mean(seed, t):
    """ε_∅ = Σ_c q(c | x_t) ε_c = −σ_t ∇ log Σ_c q(c) p_t(x_t | c), the gradient by autograd."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    null = Condition.of(torch.zeros(6).long()).null()
    mean = torch.einsum("bk,bkd->bd", oracle.class_posterior(x, t), oracle.all_classes(x, t))
    close(oracle(x, t, null), mean)
    leaf = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(oracle.log_density(leaf, t, null).sum(), leaf)
    close(oracle(x, t, null), -NOISE(t)[1][:, None] * score, 1e-8)


@quick
@given(SEEDS, TARGETS, st.floats(0.05, 0.95))
def test_score_of_another_mixture_is_a_reweighed_mean(seed, target, t):
    """s^π = Σ_y w_y s_y with w_y ∝ q(y | x_t) π(y)/q(y): the score of the mixture whose class law is π."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    pi = times(*target) / sum(target)
    weights = oracle.class_posterior(x, t) * pi / oracle.class_probs
    weights = weights / weights.sum(1, keepdim=True)
    mixed = torch.einsum("bk,bkd->bd", weights, oracle.all_classes(x, t))
    other = GaussianMixtureOracle(oracle.means, oracle.covariances, pi, NOISE)
    leaf = x.clone().requires_grad_()
    null = Condition.of(torch.zeros(6).long()).null()
    (score,) = torch.autograd.grad(other.log_density(leaf, t, null).sum(), leaf)
    close(mixed, -NOISE(t)[1][:, None] * score, 1e-7)


def test_a_fixed_weight_mean_of_class_scores_is_another_law():
    """Σ π_y s_y with weights that do not move with x is no score of the mixture: its samples crowd in the middle."""
    oracle = on_a_line(times(1, 1, 1))

    class Fixed(ScoreNetwork):
        def forward(self, x_t, t, c):
            return oracle.all_classes(x_t, t).mean(1)

    rows = torch.arange(4000)
    c, draws = Condition.of(torch.zeros(4000).long()).null(), Draws(0, 0, rows)
    sampler = DDIM(NOISE)
    right, wrong = (
        float(sampler.sample(network, c, (1,), steps=60, draws=draws, dtype=torch.float64).std())
        for network in (oracle, Fixed())
    )
    variance = float(oracle.covariances.mean() + oracle.means.var(correction=0))
    assert right == pytest.approx(math.sqrt(variance), rel=0.05)
    assert wrong < 0.5 * right


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(0.1, 3), TARGETS)
def test_reweighted_null_branch_is_that_of_the_target_law(seed, t, scale, target):
    """argmin_e Σ_c r_c w_c ‖e − e*_c‖² with w = π/q is the null prediction of the mixture under π."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    pi = times(*target) / sum(target)
    q, r, e = oracle.class_probs, oracle.class_posterior(x, t), oracle.all_classes(x, t)
    weight = r * (scale * pi / q)
    minimum = torch.einsum("bk,bkd->bd", weight, e) / weight.sum(1, keepdim=True)
    other = GaussianMixtureOracle(oracle.means, oracle.covariances, pi, NOISE)
    close(minimum, other(x, t, Condition.of(torch.zeros(6).long()).null()), 1e-9)


GRID = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
EARLIER, LATER = 0.4, 0.5


def densities(oracle: GaussianMixtureOracle, x: Tensor, t: float) -> Tensor:
    """(N, K) p_t(x | c)."""
    return oracle.class_log_densities(x[:, None], torch.full((len(x),), t, dtype=torch.float64)).exp()


def kernels(oracle: GaussianMixtureOracle, x_t: float) -> tuple[Tensor, Tensor]:
    """On the grid of x_s: (K, N) q(x_s | x_t, c) and (N,) q(x_s | x_t), by Bayes with the forward kernel."""
    mean, variance = Process(NOISE).transition(GRID[:, None], times(EARLIER), times(LATER))
    forward = torch.exp(-((x_t - mean[:, 0]) ** 2) / (2 * variance.flatten()))
    forward = forward / torch.sqrt(2 * math.pi * variance.flatten())
    before, after = densities(oracle, GRID, EARLIER), densities(oracle, times(x_t), LATER)
    q = oracle.class_probs
    return (forward[:, None] * before / after).T, forward * (before @ q) / (after @ q)


def total(density: Tensor) -> Tensor:
    return density.sum(-1) * (GRID[1] - GRID[0])


@pytest.mark.parametrize("x_t", [-2.0, 0.3, 1.5])
def test_exact_kernel_does_not_depend_on_the_class_law(x_t):
    """Under pure label shift q(x_s | x_t, y) is the same for every q(y); only the unconditional kernel moves."""
    (head, head_null), (even, even_null) = (kernels(on_a_line(q), x_t) for q in (times(90, 8, 2), times(1, 1, 1)))
    close(total(head), torch.ones(3, dtype=torch.float64), 1e-8)
    close(head, even, 1e-12)
    assert (head_null - even_null).abs().max() > 1e-3


@pytest.mark.parametrize("x_t", [-2.0, 0.3, 1.5])
def test_brackets_of_proposition_1_are_one_ratio_of_kernels(x_t):
    """[p(x_s)/p*(x_s)]·[q*(x_t)/q(x_t)] = p(x_s | x_t)/p*(x_s | x_t) where both share q(x_t | x_s): Bayes, no more."""
    (by_class, ours), (_, theirs) = (kernels(on_a_line(q), x_t) for q in (times(90, 8, 2), times(1, 1, 1)))
    here, target = on_a_line(times(90, 8, 2)), on_a_line(times(1, 1, 1))

    def marginal(oracle: GaussianMixtureOracle, x: Tensor, t: float) -> Tensor:
        return densities(oracle, x, t) @ oracle.class_probs

    at = times(x_t)
    brackets = marginal(here, GRID, EARLIER) / marginal(target, GRID, EARLIER)
    brackets = brackets * marginal(target, at, LATER) / marginal(here, at, LATER)
    seen = theirs > 1e-200
    close(brackets[seen], (ours / theirs)[seen], 1e-9)
    # So the right side of proposition 1 is no density: a class's exact kernel times the ratio does not integrate to 1.
    assert (total(by_class * brackets) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("x_t", [-2.0, 0.3, 1.5])
def test_jensen_bounds_the_divergence_of_the_marginal_kernels(x_t):
    """KL(Σ r_c p_c ‖ Σ r'_y p_y) ≤ Σ r_c r'_y KL(p_c ‖ p_y), r and r' the posteriors under q and under π."""
    (by_class, ours), (_, theirs) = (kernels(on_a_line(q), x_t) for q in (times(90, 8, 2), times(1, 1, 1)))
    at, t = times(x_t)[:, None], times(LATER)
    r, other = (on_a_line(q).class_posterior(at, t)[0] for q in (times(90, 8, 2), times(1, 1, 1)))
    close(ours, r @ by_class, 1e-10)
    close(theirs, other @ by_class, 1e-10)

    def kl(p: Tensor, q: Tensor) -> Tensor:
        return total(p * (p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()))

    parts = sum(r[c] * other[y] * kl(by_class[c], by_class[y]) for c in range(3) for y in range(3))
    assert 0 < kl(ours, theirs) < parts


# Weights tracked along a path


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_tracked_likelihood_is_off_by_the_missing_noise(eta):
    """L_y − log p_t(x|y) = ½(1 − η²) ∫ g² Δ log p_u(x|y) du and what all classes share, for widths √0.1 and 1.

    With 480 steps to t = 0.2, as a mean over 200 paths, to 0.03; without the integral off by more than 0.5 at η = 0.
    """
    variances = times(0.1, 1.0)
    oracle = GaussianMixtureOracle(times(0.0, 1.5)[:, None], variances[:, None, None], times(1, 1), NOISE)
    law, rows = Uniform([1, 1]), torch.arange(200)
    tracker, draws = TrackedWeights(DDIM(NOISE, eta=eta), law, law), Draws(0, 0, rows)
    x, memory, integral = draws.normal("x_T", 1, dtype=torch.float64), None, torch.zeros(2, dtype=torch.float64)
    hidden = Condition.of(torch.zeros(200).long()).null()
    grid = [t for t in uniform_times(NOISE, 600) if t >= 0.2]
    start = oracle.class_log_densities(x, torch.full((200,), grid[0], dtype=torch.float64))
    for i, (t, s) in enumerate(pairwise(grid)):
        x, memory = tracker.step(oracle, x, t, s, hidden, memory, draws=draws.at(i))
        alpha, sigma = (float(v) for v in NOISE(times((t + s) / 2)))
        g_square = sigma**2 * float(NOISE.log_snr(times(s)) - NOISE.log_snr(times(t)))  # ∫ g² du over the step
        integral = integral - 0.5 * (1 - eta**2) * g_square / (alpha**2 * variances + sigma**2)
    truth = oracle.class_log_densities(x, torch.full((200,), grid[-1], dtype=torch.float64)) - start
    gap = (memory.log_likelihood - truth).diff(dim=1)[:, 0]
    assert abs(float((gap - integral.diff()).mean())) < 0.03
    assert eta == 1.0 or abs(float(gap.mean())) > 0.5

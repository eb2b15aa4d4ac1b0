"""The laws that the documentation states, one property a statement, in float64 unless a test says otherwise.

`docs/derivation.md` links to these tests by name. A symbol means what it means there: r_c = q(c | x_t) is the class
posterior, e*_c the true conditional prediction, e_c the optimum, λ = τ·w(t), π the target law, ē_r = Σ r_c e_c and
ē_π = Σ π_c e_c.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cbdm_core import process
from cbdm_core.data.batches import Batches
from cbdm_core.data.dataset import Dataset
from cbdm_core.denoising import DenoisingLoss
from cbdm_core.generation import generate
from cbdm_core.guidance import ClassifierFreeGuidance, Implied, LinearInTime
from cbdm_core.interfaces import Condition, Draws, LabelPrior, NoiseSchedule, ScoreNetwork, uniform_times
from cbdm_core.networks.mlp import MLP
from cbdm_core.networks.predicts import Predicts
from cbdm_core.networks.unet import UNet
from cbdm_core.objective import Objective
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.process import Process
from cbdm_core.samplers import DDIM, Ancestral, DPMSolverPP2M, Heun
from cbdm_core.schedules import Cosine, Linear
from cbdm_priors import (
    Balanced,
    BalancedOptimum,
    ClassBalancing,
    ClassReweighting,
    Fixed,
    Null,
    Power,
    Separation,
    TrackedWeights,
    Training,
    Uniform,
    make_law,
)
from cbdm_priors.optimum import balanced_optimum, null_optimum
from cbdm_priors.penalty import constant
from tests.priors.steps import LawStub, TableNetwork, make_step

quick = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**31)
STRENGTHS = st.floats(0.0, 4.0)
GAMMAS = st.floats(0.0, 2.0)
COUNTS = st.lists(st.integers(0, 10_000), min_size=1, max_size=10).filter(any)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def simplex(seed: int, *shape: int, floor: float = 1e-3) -> Tensor:
    """Rows of probabilities, uneven but none below about `floor`."""
    weights = torch.rand(*shape, dtype=torch.float64, generator=generator(seed)).pow(3) + floor
    return weights / weights.sum(-1, keepdim=True)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def class_name(thing: object) -> str:
    return type(thing).__name__


# Laws


@quick
@given(COUNTS, st.floats(-3, 3), st.floats(0, 0.999999))
def test_laws_normalise(counts, kappa, beta):
    """Σ_y π(y) = 1, and π(y) = 0 exactly where no image has the label."""
    for law in (Training(counts), Uniform(counts), Power(counts, kappa), Balanced(counts, beta)):
        assert float(law.probs.sum()) == pytest.approx(1, abs=1e-12)
        assert torch.equal(law.probs == 0, torch.tensor(counts) == 0)


@quick
@given(COUNTS, st.floats(-3, 3), st.floats(0.01, 2))
def test_power_law_is_monotone_in_kappa(counts, kappa, more):
    """log π_a/π_b = κ log n_a/n_b grows with κ for every n_a > n_b, so the largest class gains, the smallest loses."""
    low, high = Power(counts, kappa).log_prob(), Power(counts, kappa + more).log_prob()
    n = torch.tensor(counts, dtype=torch.float64)
    alive = n > 0
    order = n[alive].argsort()
    ratio_low, ratio_high = low[alive][order].diff(), high[alive][order].diff()
    apart = n[alive][order].diff() > 0
    assert (ratio_high[apart] > ratio_low[apart]).all()
    close(ratio_high - ratio_low, more * n[alive][order].log().diff())
    assert high[alive][order[-1]] >= low[alive][order[-1]] - 1e-12
    assert high[alive][order[0]] <= low[alive][order[0]] + 1e-12


@quick
@given(COUNTS)
def test_power_law_reaches_its_limits(counts):
    """κ = 1 is the training law, 0 uniform, −1 inverse frequency; κ → ±∞ leaves the largest or smallest classes."""
    n = torch.tensor(counts, dtype=torch.float64)
    inverse = torch.where(n > 0, 1 / n, torch.zeros_like(n))
    close(Power(counts, 1.0).probs, Training(counts).probs, 1e-13)
    close(Power(counts, 0.0).probs, Uniform(counts).probs, 1e-13)
    close(Power(counts, -1.0).probs, inverse / inverse.sum(), 1e-13)
    for kappa, extreme in ((1e7, n.max()), (-1e7, n[n > 0].min())):
        winners = (n == extreme).double()
        close(Power(counts, kappa).probs, winners / winners.sum(), 1e-8)


@quick
@given(COUNTS)
def test_balanced_law_lies_between_uniform_and_inverse_frequency(counts):
    """β = 0 is uniform and β → 1 inverse frequency; between them the rarer class of two gains steadily with β."""
    close(Balanced(counts, 0.0).probs, Uniform(counts).probs, 1e-13)
    close(Balanced(counts, 1 - 1e-13).probs, Power(counts, -1.0).probs, 1e-7)
    n = torch.tensor(counts)
    order = n[n > 0].argsort()
    gaps = torch.stack(
        [Balanced(counts, beta).log_prob()[n > 0][order].diff() for beta in (0.0, 0.5, 0.9, 0.99, 0.999)]
    )
    assert (gaps.diff(dim=0) <= 1e-12).all()


@quick
@given(SEEDS, st.integers(2, 6))
def test_reweighting_is_unbiased(seed, classes):
    """E_q[w_y ℓ_y] = E_π[ℓ_y] with w = π/q, in the loss and in its gradient."""
    counts = torch.randint(1, 500, (classes,), generator=generator(seed))
    target, training = Power(counts, -0.5), Training(counts)
    step = make_step(
        TableNetwork(normal(seed, classes + 1, 3)), Condition.of(torch.arange(classes)), normal(seed + 1, classes, 3)
    )
    plain = DenoisingLoss()(step)["denoising"]
    weighed = ClassReweighting(DenoisingLoss(), target, training)(step)["denoising"]
    wanted, got = (target.probs * plain).sum(), (training.probs * weighed).sum()
    close(got, wanted, 1e-6)  # the weights are kept in float32
    parameter = step.network.table
    grads = [torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in (got, wanted)]
    close(*grads, 1e-6)


# The CBDM term and its gradient


class Said(TableNetwork):
    """Says h under label 0 and h' under label 1, row by row, so that both outputs are leaves."""

    def __init__(self, h: Tensor, other: Tensor) -> None:
        super().__init__(h[:1])
        self.h, self.other = h.clone().requires_grad_(), other.clone().requires_grad_()

    def forward(self, x_t, t, c):
        return torch.where((c.value == 0)[:, None], self.h, self.other)


def balancing_step(seed: int, rows: int, width: int, t: Tensor) -> tuple[object, Said, Tensor]:
    network, eps = Said(normal(seed, rows, width), normal(seed + 1, rows, width)), normal(seed + 2, rows, width)
    return make_step(network, Condition.of(torch.zeros(rows).long()), eps, t=t), network, eps


def gradient_of(loss: Tensor, network: Said) -> Tensor:
    """(2B, D), with respect to the concatenated output [h ; h']."""
    grads = torch.autograd.grad(loss, (network.h, network.other), allow_unused=True)
    return torch.cat([torch.zeros_like(network.h) if g is None else g for g in grads])


@quick
@given(SEEDS, st.integers(1, 5), st.integers(1, 4), STRENGTHS, GAMMAS)
def test_cbdm_gradient_is_its_closed_form(seed, rows, width, tau, gamma):
    """∂L/∂[h ; h'] = [2(h − ε) + 2d ; −2γd]/N with d = w(h − h'), w = τt and N the number of entries."""
    t = torch.rand(rows, dtype=torch.float64, generator=generator(seed + 3))
    step, network, eps = balancing_step(seed, rows, width, t)
    terms = ClassBalancing(DenoisingLoss(), LawStub(torch.ones(rows).long()), tau=tau, gamma=gamma)(step)
    loss = torch.stack([term.mean() for term in terms.values()]).sum()
    with torch.no_grad():
        d = tau * t[:, None] * (network.h - network.other)
        expected = torch.cat([2 * (network.h - eps) + 2 * d, -2 * gamma * d]) / (rows * width)
    close(gradient_of(loss, network), expected, 1e-12)


@quick
@given(SEEDS, STRENGTHS)
def test_gamma_1_has_the_gradient_of_no_stop_gradient(seed, w):
    """At γ = 1 the gradient is that of w‖h − h'‖² with no stop-gradient, and the value is twice that."""
    step, network, _ = balancing_step(seed, 3, 4, torch.ones(3, dtype=torch.float64))
    balancing = ClassBalancing(DenoisingLoss(), LawStub(torch.ones(3).long()), tau=w, gamma=1.0, time_weight=constant)
    term = balancing(step).get("balancing", torch.zeros(3, dtype=torch.float64)).sum()
    free = w * (network.h - network.other).square().mean(1).sum()
    close(term, 2 * free, 1e-12)
    if w > 0:
        close(gradient_of(term, network), gradient_of(free, network), 1e-12)


@quick
@given(SEEDS, STRENGTHS, GAMMAS)
def test_cbdm_is_a_free_and_a_stopped_pull(seed, w, gamma):
    """The gradient equals that of ‖h − ε‖² + γw‖h − h'‖² + (1 − γ)w‖h − sg h'‖²."""
    step, network, eps = balancing_step(seed, 3, 4, torch.ones(3, dtype=torch.float64))
    balancing = ClassBalancing(DenoisingLoss(), LawStub(torch.ones(3).long()), tau=w, gamma=gamma, time_weight=constant)
    loss = torch.stack([term.sum() for term in balancing(step).values()]).sum()
    h, other = network.h, network.other
    split = (h - eps).square() + gamma * w * (h - other).square() + (1 - gamma) * w * (h - other.detach()).square()
    close(gradient_of(loss, network), gradient_of(split.mean(1).sum(), network), 1e-12)


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS)
def test_one_draw_is_unbiased_for_the_mean_over_the_law(seed, classes, tau, gamma):
    """Σ_y' π(y') L(y') = (τt) Σ_y' π(y')(‖e_c − e_y'‖² + γ‖e_c − e_y'‖²): one drawn label costs variance, no bias."""
    table, pi = normal(seed, classes + 1, 3), simplex(seed + 1, classes)
    # Every label that could be drawn, one a row, with the probability that it is.
    step = make_step(TableNetwork(table), Condition.of(torch.zeros(classes).long()), normal(seed + 2, classes, 3))
    term = ClassBalancing(DenoisingLoss(), LawStub(torch.arange(classes)), tau=tau, gamma=gamma)(step)
    drawn = (pi * term.get("balancing", torch.zeros_like(pi))).sum()
    exact = tau * 0.5 * (1 + gamma) * sum(pi[y] * (table[0] - table[y]).square().mean() for y in range(classes))
    close(drawn, torch.as_tensor(exact), 1e-12)


@quick
@given(SEEDS, st.integers(2, 6))
def test_jensen_pulls_the_mean_no_further_than_its_parts(seed, classes):
    """‖Σ r_c e_c − Σ π_y e_y‖² ≤ Σ r_c π_y ‖e_c − e_y‖²: the regulariser bounds the distance of the marginals."""
    e, r, pi = normal(seed, classes, 3), simplex(seed + 1, classes), simplex(seed + 2, classes)
    gap = (r @ e - pi @ e).square().sum()
    parts = (r[:, None] * pi * (e[:, None] - e).square().sum(-1)).sum()
    assert gap <= parts * (1 + 1e-12)
    # What is given away is the two spreads: Var_r(e) + Var_π(e).
    spread = sum(p @ (e - p @ e).square().sum(-1) for p in (r, pi))
    close(parts - gap, torch.as_tensor(spread))


# The closed-form optimum


def a_point(seed: int, classes: int, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """(e* (K, D), r (K,), π (K,))."""
    return normal(seed, classes, width), simplex(seed + 1, classes), simplex(seed + 2, classes)


def solve(e: Tensor, r: Tensor, law: Tensor, lam: float, gamma: float) -> Tensor:
    """`balanced_optimum` at one x_t."""
    return balanced_optimum(e[None], r[None], law, torch.tensor([lam], dtype=e.dtype), gamma)[0]


def population_gradient(at: Tensor, e: Tensor, r: Tensor, law: Tensor, lam: float, gamma: float) -> Tensor:
    """∂/∂e of Σ_c r_c [‖e_c − e*_c‖² + λ Σ_y' π(y'|c) (‖e_c − sg e_y'‖² + γ ‖sg e_c − e_y'‖²)], by autograd."""
    x = at.clone().requires_grad_()
    law = law.expand(len(r), -1)
    denoising = (r * (x - e).square().sum(-1)).sum()
    pulled = (x[:, None] - x.detach()[None]).square().sum(-1)
    pulling = (x.detach()[:, None] - x[None]).square().sum(-1)
    balancing = (r[:, None] * law * (pulled + gamma * pulling)).sum()
    return torch.autograd.grad(denoising + lam * balancing, x)[0]


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS)
def test_optimum_is_a_zero_of_the_gradient_for_a_fixed_law(seed, classes, lam, gamma):
    """∇ of the population objective vanishes at `balanced_optimum` for π(y')."""
    e, r, pi = a_point(seed, classes)
    optimum = solve(e, r, pi, lam, gamma)
    close(population_gradient(optimum, e, r, pi, lam, gamma), torch.zeros_like(e))
    elsewhere = population_gradient(optimum + 0.1, e, r, pi, lam, gamma)
    assert elsewhere.abs().max() > 1e-4, "the gradient must not vanish everywhere"


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS)
def test_optimum_is_a_zero_of_the_gradient_for_a_conditional_law(seed, classes, lam, gamma):
    """The same for π(y' | c), where A = diag(r(1+λ) + γλ Pᵀr) − λ diag(r)P − γλ (diag(r)P)ᵀ."""
    e, r, _ = a_point(seed, classes)
    law = simplex(seed + 3, classes, classes)
    optimum = solve(e, r, law, lam, gamma)
    close(population_gradient(optimum, e, r, law, lam, gamma), torch.zeros_like(e))


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS, st.floats(0.01, 0.99))
def test_optimum_is_a_zero_of_the_gradient_for_the_null_law(seed, classes, lam, gamma, drop):
    """e_c = (e*_c + λe*_∅)/(1 + λ) with e_∅ = e*_∅ = Σ r e*, for every γ and every share of dropped labels."""
    e, r, _ = a_point(seed, classes)
    e_null = r @ e
    lam_row = torch.tensor([lam], dtype=e.dtype)
    x = null_optimum(e[None], e_null[None], lam_row)[0].requires_grad_()
    null = e_null.clone().requires_grad_()
    pulls = (x - null.detach()).square().sum(-1) + gamma * (x.detach() - null).square().sum(-1)
    shown = (r * ((x - e).square().sum(-1) + lam * pulls)).sum()
    hidden = (r * (null - e).square().sum(-1)).sum()
    for grad in torch.autograd.grad((1 - drop) * shown + drop * hidden, (x, null)):
        close(grad, torch.zeros_like(grad))


@quick
@given(SEEDS, st.integers(2, 5), st.floats(0.01, 4.0), GAMMAS)
def test_training_loss_is_stationary_at_the_optimum(seed, classes, tau, gamma):
    """The loss that trains, `ClassBalancing` itself, weighed by r_c π_y' has no gradient at the closed form.

    The row (c, y') has noise e*_c, whose square differs from E‖e_c − ε‖² by a constant only.
    """
    e, r, pi = a_point(seed, classes)
    lam = 0.5 * tau  # the step stands at t = 1/2
    table = torch.cat([solve(e, r, pi, lam, gamma), torch.zeros(1, 3, dtype=e.dtype)])
    c, other = (v.flatten() for v in torch.meshgrid(torch.arange(classes), torch.arange(classes), indexing="ij"))
    step = make_step(TableNetwork(table), Condition.of(c), e[c])
    terms = ClassBalancing(DenoisingLoss(), LawStub(other), tau=tau, gamma=gamma)(step)
    loss = (r[c] * pi[other] * torch.stack(list(terms.values())).sum(0)).sum()
    (grad,) = torch.autograd.grad(loss, step.network.table)
    close(grad, torch.zeros_like(grad))


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS)
def test_optimum_is_a_weighted_mean_of_the_true_predictions(seed, classes, lam, gamma):
    """Each row of A sums to r_c and A is an M-matrix, so e_c = Σ S_cy e*_y with S ≥ 0 and Σ_y S_cy = 1, uniquely."""
    _, r, _ = a_point(seed, classes)
    weights = solve(torch.eye(classes, dtype=r.dtype), r, simplex(seed + 3, classes, classes), lam, gamma)
    assert (weights >= -1e-12).all()
    close(weights.sum(1), torch.ones(classes, dtype=r.dtype))


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS)
def test_gamma_0_shrinks_to_the_mean_of_the_law(seed, classes, lam):
    """e_c = (e*_c + λm)/(1 + λ) with m = Σ π_y e*_y, and Σ π_y e_y = m."""
    e, r, pi = a_point(seed, classes)
    optimum, m = solve(e, r, pi, lam, 0.0), pi @ e
    close(optimum, (e + lam * m) / (1 + lam))
    close(pi @ optimum, m)


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS)
def test_gamma_1_preserves_the_marginal_score(seed, classes, lam):
    """Σ_c r_c e_c = Σ_c r_c e*_c at γ = 1, for fixed and for conditional laws."""
    e, r, pi = a_point(seed, classes)
    for law in (pi, simplex(seed + 3, classes, classes)):
        close(r @ solve(e, r, law, lam, 1.0), r @ e)


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS)
def test_marginal_moves_by_the_gap_of_the_two_means(seed, classes, lam, gamma):
    """ē_r − Σ r_c e*_c = λ(1 − γ)(ē_π − ē_r)."""
    e, r, pi = a_point(seed, classes)
    optimum = solve(e, r, pi, lam, gamma)
    close(r @ optimum - r @ e, lam * (1 - gamma) * (pi @ optimum - r @ optimum))


@quick
@given(SEEDS, st.integers(3, 6), st.floats(0.05, 4.0), st.floats(0.05, 2.0))
def test_a_class_never_seen_there_takes_the_models_own_mean(seed, classes, lam, gamma):
    """r_c → 0 with γ > 0: e_c → ē_r at the rate of r_c/(γλπ_c), which is smaller the more π draws the class."""
    e, r, pi = a_point(seed, classes)
    distances = []
    for share in (1e-4, 1e-6, 0.0):
        rare = torch.cat([r.new_tensor([share]), (1 - share) * r[1:] / r[1:].sum()])
        optimum = solve(e, rare, pi, lam, gamma)
        mean = rare @ optimum
        distances.append(float((optimum[0] - mean).abs().max()))
        # e_c − ē_r = r_c (e*_c + λē_π − (1 + λ)ē_r)/(r_c(1 + λ) + γλπ_c), from the closed form.
        pulled = share * (e[0] + lam * (pi @ optimum) - (1 + lam) * mean)
        close(optimum[0] - mean, pulled / (share * (1 + lam) + gamma * lam * pi[0]))
    assert distances[1] <= 0.02 * distances[0] + 1e-12 or gamma * lam * float(pi[0]) < 1e-3
    assert distances[2] < 1e-11


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS, GAMMAS)
def test_two_by_two_system_agrees_with_the_full_solve(seed, classes, lam, gamma):
    """For a fixed law (ē_r, ē_π) solve two equations, and each e_c follows from them alone."""
    e, r, pi = a_point(seed, classes)
    d = r * (1 + lam) + gamma * lam * pi
    system = torch.stack(
        [
            torch.stack([r.new_tensor(1 + lam - gamma * lam), r.new_tensor(gamma * lam - lam)]),
            torch.stack([-(gamma * lam * pi * pi / d).sum(), 1 - (lam * pi * r / d).sum()]),
        ]
    )
    means = torch.linalg.solve(system, torch.stack([r @ e, (pi * r / d) @ e]))
    expected = (r[:, None] * e + lam * r[:, None] * means[1] + gamma * lam * pi[:, None] * means[0]) / d[:, None]
    optimum = solve(e, r, pi, lam, gamma)
    close(optimum, expected)
    close(torch.stack([r @ optimum, pi @ optimum]), means)


@quick
@given(SEEDS, st.integers(2, 6), STRENGTHS)
def test_guidance_from_the_same_target_undoes_gamma_0(seed, classes, lam):
    """e_c + λ(e_c − Σ π_y e_y) = e*_c: guidance with ω = λ(t) away from the law's own mean."""
    e, r, pi = a_point(seed, classes)
    optimum = solve(e, r, pi, lam, 0.0)
    close(optimum + lam * (optimum - pi @ optimum), e)
    if lam > 0.1:  # while ordinary guidance, away from Σ r_c e*_c, does not
        assert (optimum + lam * (optimum - r @ e) - e).abs().max() > 1e-6


# Schedules and the forward process


SCHEDULE = st.sampled_from([Linear(steps=1000), Linear(steps=40), Cosine()])
TWO_TIMES = (
    st.tuples(st.floats(0.03, 0.99), st.floats(0.03, 0.99)).filter(lambda p: abs(p[0] - p[1]) > 1e-3).map(sorted)
)


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


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
    """ε, x_0, v and the score say the same of x_t = α_t x_0 + σ_t ε, there and back."""
    x_0, eps = normal(seed, 2, 3), normal(seed + 1, 2, 3)
    alpha, sigma = (float(v) for v in schedule(times(t)))
    x_t = Process(schedule).perturb(x_0, times(t, t), eps)
    v = alpha * eps - sigma * x_0
    close(process.eps_to_x0(eps, x_t, alpha, sigma), x_0, 1e-8)
    close(process.x0_to_eps(x_0, x_t, alpha, sigma), eps, 1e-8)
    close(process.eps_to_v(eps, x_t, alpha, sigma), v, 1e-8)
    close(process.x0_to_v(x_0, x_t, alpha, sigma), v, 1e-8)
    close(process.v_to_eps(v, x_t, alpha, sigma), eps, 1e-12)
    close(process.v_to_x0(v, x_t, alpha, sigma), x_0, 1e-12)
    close(process.score_to_eps(process.eps_to_score(eps, sigma), sigma), eps, 1e-12)
    # The score of q(x_t | x_0), by autograd.
    x = x_t.clone().requires_grad_()
    (score,) = torch.autograd.grad(-((x - alpha * x_0) ** 2).sum() / (2 * sigma**2), x)
    close(process.eps_to_score(eps, sigma), score, 1e-8)


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


# The oracle: what exact scores say


NOISE = Cosine()
TARGETS = st.sampled_from([(1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 30.0, 40.0), (0.0, 0.0, 0.0, 1.0)])


def the_oracle(schedule: NoiseSchedule = NOISE) -> GaussianMixtureOracle:
    return GaussianMixtureOracle.ring(schedule)


def on_a_line(q: Tensor) -> GaussianMixtureOracle:
    """Three classes in one dimension, so that densities can be summed on a grid."""
    means, variances = times(-2.0, 0.0, 1.5)[:, None], times(0.2, 0.3, 0.25)[:, None, None]
    return GaussianMixtureOracle(means, variances, q, NOISE)


def scattered(seed: int, rows: int = 6) -> Tensor:
    return 2 * normal(seed, rows, 2)


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
    close(oracle(x, t, null), process.score_to_eps(score, NOISE(t)[1][:, None]), 1e-8)


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
    close(mixed, process.score_to_eps(score, NOISE(t)[1][:, None]), 1e-7)


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


# Guidance


@quick
@given(SEEDS, st.floats(0.05, 0.95))
def test_omega_0_is_conditional(seed, t):
    """ε_c + 0·(ε_c − ε_∅) = ε_c, bit for bit."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    c = Condition.of(torch.arange(6) % 4)
    assert torch.equal(ClassifierFreeGuidance(oracle, 0.0)(x, t, c), oracle(x, t, c))


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(-1, 4))
def test_guidance_is_its_formula(seed, t, omega):
    """ε_c + ω(ε_c − ε_∅); ω = −1 is the null prediction."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    c = Condition.of(torch.arange(6) % 4)
    conditional, null = oracle(x, t, c), oracle(x, t, c.null())
    close(ClassifierFreeGuidance(oracle, omega)(x, t, c), conditional + omega * (conditional - null), 1e-9)
    close(ClassifierFreeGuidance(oracle, -1.0)(x, t, c), null, 1e-9)


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(0, 3))
def test_guidance_linear_in_time_undoes_the_null_law(seed, t, tau):
    """ω(t) = τt away from the null takes the optimum under the null law back to e*, at every t at once."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    c = Condition.of(torch.arange(6) % 4)
    pulled = BalancedOptimum(oracle, Null([1, 1, 1, 1]), tau=tau)
    close(ClassifierFreeGuidance(pulled, LinearInTime(1.0, 0.0, tau))(x, t, c), oracle(x, t, c), 1e-9)


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(0.2, 3))
def test_constant_guidance_undoes_the_null_law_at_one_time_only(seed, t, tau):
    """λ(t) = τt moves, so that a constant ω = λ(t_1) is exact at t_1 and not elsewhere."""
    oracle, x, c = the_oracle(), scattered(seed), Condition.of(torch.arange(6) % 4)
    network = ClassifierFreeGuidance(BalancedOptimum(oracle, Null([1, 1, 1, 1]), tau=tau), tau * t)
    here, there = torch.full((6,), t, dtype=torch.float64), torch.full((6,), t / 2, dtype=torch.float64)
    close(network(x, here, c), oracle(x, here, c), 1e-9)
    assert (network(x, there, c) - oracle(x, there, c)).abs().max() > 1e-7


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(0, 3), st.floats(-0.5, 4))
def test_implied_guidance_of_the_null_law(seed, t, tau, omega):
    """The optimum under the null law, guided by ω, says what the truth guided by ω_eff = (1+ω)/(1+τt) − 1 says."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    c = Condition.of(torch.arange(6) % 4)
    pulled = ClassifierFreeGuidance(BalancedOptimum(oracle, Null([1, 1, 1, 1]), tau=tau), omega)
    plain = ClassifierFreeGuidance(oracle, Implied(omega, tau))
    close(pulled(x, t, c), plain(x, t, c), 1e-9)


@pytest.mark.parametrize("sampler", [DDIM(NOISE), Ancestral(NOISE), DPMSolverPP2M(NOISE)], ids=class_name)
def test_implied_guidance_gives_the_same_samples(sampler):
    """So the two have the same samples, draw by draw."""
    oracle, rows = the_oracle(), torch.arange(24)
    networks = (
        ClassifierFreeGuidance(BalancedOptimum(oracle, Null([1, 1, 1, 1]), tau=1.0), 0.75),
        ClassifierFreeGuidance(oracle, Implied(0.75, 1.0)),
        ClassifierFreeGuidance(oracle, 0.75),
    )
    pulled, implied, constant_omega = (
        sampler.sample(n, Condition.of(rows % 4), (2,), steps=20, draws=Draws(1, 0, rows), dtype=torch.float64)
        for n in networks
    )
    close(pulled, implied, 1e-7)
    assert (pulled - constant_omega).abs().max() > 0.01


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(0.1, 3), GAMMAS)
def test_null_law_is_an_alignment_with_the_null_branch(seed, t, tau, gamma):
    """c' = ∅ makes the term λ(‖ε_c − sg ε_∅‖² + γ‖sg ε_c − ε_∅‖²); at γ = 1 its gradient is that of λ‖ε_c − ε_∅‖²."""
    table = normal(seed, 5, 3)
    rows = torch.full((4,), t, dtype=torch.float64)
    step = make_step(TableNetwork(table), Condition.of(torch.arange(4)), normal(seed + 1, 4, 3), t=rows)
    law = Null([1, 1, 1, 1])
    term = ClassBalancing(DenoisingLoss(), law, tau=tau, gamma=gamma)(step)["balancing"]
    close(term, tau * t * (1 + gamma) * (table[:4] - table[4]).square().mean(1))
    both = ClassBalancing(DenoisingLoss(), law, tau=tau, gamma=1.0)(step)["balancing"].sum()
    aligned = tau * t * (step.network.table[:4] - step.network.table[4]).square().mean(1).sum()
    close(*(torch.autograd.grad(v, step.network.table, retain_graph=True)[0] for v in (both, aligned)))


@quick
@given(SEEDS, st.floats(0.05, 0.95), st.floats(0.1, 3), st.floats(0, 2), TARGETS)
def test_balanced_optimum_network_is_the_closed_form(seed, t, tau, gamma, target):
    """As a network: shown classes follow `balanced_optimum` with λ = τt, and the null branch is the oracle's own."""
    oracle, x, t = the_oracle(), scattered(seed), torch.full((6,), t, dtype=torch.float64)
    law = Fixed([1, 1, 1, 1], *target)
    network = BalancedOptimum(oracle, law, tau=tau, gamma=gamma)
    c = Condition(torch.arange(6) % 4, torch.arange(6) != 2)
    said = network(x, t, c)
    e, r = oracle.all_classes(x, t), oracle.class_posterior(x, t)
    for i in range(6):
        expected = solve(e[i], r[i], law.probs, float(tau * t[i]), gamma)[int(c.value[i])]
        close(said[i], expected if c.present[i] else oracle(x, t, c.null())[i], 1e-9)


class Table(ScoreNetwork):
    """Says table[c], table[K] under the null, of a table that is no parameter."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, x_t, t, c):
        return self.table[torch.where(c.present, c.value, len(self.table) - 1)]


@quick
@given(SEEDS, st.integers(2, 4), st.floats(0.01, 0.6), st.floats(0.05, 0.6))
def test_diffrop_under_the_null_law_is_guidance_trained_in(seed, classes, lam, drop):
    """The gradient of denoising + DiffROP is 0 at e*_c + λ/(1−λ)(e*_c − e*_∅), a minimum exactly where λ < p."""
    e, r = normal(seed, classes, 2), simplex(seed + 1, classes)
    null = r @ e
    rows = torch.arange(classes + 1)
    c = Condition(rows.clamp(max=classes - 1), rows < classes)
    share = torch.cat([(1 - drop) * r, times(drop)])
    part = Separation(DenoisingLoss(), Null([1] * classes), strength=lam, margin=1e6, time_weight=constant)

    def loss(table: Tensor) -> Tensor:
        step = make_step(Table(table), c, torch.cat([e, null[None]]))
        return (share * torch.stack(list(part(step).values())).sum(0)).sum()

    best = torch.cat([e + lam / (1 - lam) * (e - null), null[None]]).requires_grad_()
    (grad,) = torch.autograd.grad(loss(best), best)
    close(grad, torch.zeros_like(grad))
    hessian = torch.autograd.functional.hessian(loss, best.detach()).reshape(best.numel(), best.numel())
    if abs(lam - drop) > 1e-3:
        assert bool(torch.linalg.eigvalsh(hessian)[0] > 0) == (lam < drop)


# Drawing less, without bias


@quick
@given(SEEDS, st.integers(1, 6), st.integers(1, 9))
def test_systematic_draws_are_as_many_as_they_should_be(seed, classes, count):
    """Each row draws label k ⌊m·p_k⌋ or ⌈m·p_k⌉ times, and over 4,000 rows m·p_k times on average (4 errors)."""
    p, rows = simplex(seed, classes), torch.arange(4000)
    drawn = Draws(seed, 0, rows).systematic("law", p, count)
    times_drawn = torch.stack([(drawn == k).sum(1) for k in range(classes)], 1).double()
    assert (times_drawn >= (count * p - 1e-9).floor()).all() and (times_drawn <= (count * p + 1e-9).ceil()).all()
    part = (count * p) % 1
    error = 4 * (part * (1 - part) / len(rows)).sqrt() + 1e-9
    assert ((times_drawn.mean(0) - count * p).abs() <= error).all()


def test_batches_of_one_class_are_unbiased_for_their_law():
    """Every batch holds one class; over 1,500 of them Σ_i f(x_i)/B has the mean Σ_c π_c mean_c(f): 4 standard errors.

    f is an arbitrary number for each example; classes are of 40, 9, 0 and 3 examples.
    """
    y = torch.arange(4).repeat_interleave(torch.tensor([40, 9, 0, 3]))
    f = normal(5, len(y)) + 3 * y
    data = Dataset(f[:, None].float(), y, ("a", "b", "c", "d"))
    pi = times(0.5, 0.3, 0.0, 0.2)
    batches = Batches(data, 4, seed=1, pure=pi)
    means = []
    for step in range(1500):
        batch = batches.at(step)
        assert (batch.y == batch.y[0]).all()
        means.append(batch.x_0.double().mean())
    expected = sum(pi[c] * f[y == c].mean() for c in (0, 1, 3))
    found = torch.stack(means)
    assert abs(float(found.mean() - expected)) < 4 * float(found.std()) / 1500**0.5


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


# What draws depend on


SMALL = {"width": 8, "groups": 4, "dropout": 0.0}


def loud(network: ScoreNetwork) -> ScoreNetwork:
    """Every parameter random: a fresh U-Net says almost nothing and would pass anything."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return network.eval()


def every_sample(network, sampler, shape, **options) -> Tensor:
    return torch.cat(list(generate(network, sampler, torch.arange(13) % 4, shape, steps=5, seed=3, **options)))


@pytest.mark.parametrize("sampler", [Ancestral(NOISE), DDIM(NOISE), DPMSolverPP2M(NOISE), Heun(NOISE)], ids=class_name)
def test_samples_do_not_depend_on_their_batch(sampler):
    """Sample i is a function of (seed, i): bit for bit whatever the batch size."""

    class Pointwise(ScoreNetwork):
        def forward(self, x_t, t, c):
            return torch.tanh(x_t) + 0.1 * c.value[:, None]

    network = ClassifierFreeGuidance(Pointwise(), 0.5)
    whole = every_sample(network, sampler, (3,), batch_size=13)
    for batch_size in (1, 4, 500):
        assert torch.equal(every_sample(network, sampler, (3,), batch_size=batch_size), whole)
    assert len(whole.unique(dim=0)) == 13


@pytest.mark.parametrize("sampler", [Ancestral(NOISE), DPMSolverPP2M(NOISE)], ids=class_name)
def test_images_do_not_depend_on_their_batch(sampler):
    """The same through a U-Net in float32, to 1e-4: convolutions may add up in another order."""
    network = ClassifierFreeGuidance(loud(UNet((1, 8, 8), 4, **SMALL)), 0.5)
    whole = every_sample(network, sampler, (1, 8, 8), batch_size=13)
    scale = float(whole.abs().max())
    for batch_size in (1, 4):
        other = every_sample(network, sampler, (1, 8, 8), batch_size=batch_size)
        assert float((other - whole).abs().max()) < 1e-4 * max(scale, 1.0)


class Relabelled(ScoreNetwork):
    """The network that calls class σ(y) what the other calls y."""

    def __init__(self, network: ScoreNetwork, inverse: Tensor) -> None:
        super().__init__()
        self.network, self.inverse = network, inverse

    def forward(self, x_t, t, c):
        return self.network(x_t, t, c.with_value(self.inverse[c.value]))


@quick
@given(SEEDS, st.permutations(range(5)), GAMMAS)
def test_relabelling_classes_changes_no_loss(seed, permutation, gamma):
    """Given the same draws, names of classes are names: every term, row by row, and the gradient are the same bits."""
    sigma = torch.tensor(permutation)
    torch.manual_seed(0)
    network = loud(MLP((3,), 5, width=16, depth=1)).double()
    y, other = (torch.randint(5, (6,), generator=generator(seed + i)) for i in range(2))

    def result(net: ScoreNetwork, y: Tensor, other: Tensor) -> list[Tensor]:
        adjustment = ClassBalancing(DenoisingLoss(), LawStub(other), gamma=gamma)
        objective = Objective(Process(NOISE), net, adjustment, drop=0.3)
        terms = objective(normal(seed, 6, 3), Condition.of(y), Draws(seed, 0, torch.arange(6)))
        network.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        return [*terms.values(), *(p.grad for p in network.parameters() if p.grad is not None)]

    before = result(network, y, other)
    after = result(Relabelled(network, sigma.argsort()), sigma[y], sigma[other])
    assert len(before) == len(after) > 2
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@quick
@given(st.lists(st.integers(0, 1000), min_size=5, max_size=5).filter(any), st.permutations(range(5)))
def test_relabelling_classes_permutes_the_laws(counts, permutation):
    """π made of permuted counts is π permuted, and so are the weights π/q; entropy and KL do not move."""
    n, sigma = torch.tensor(counts), torch.tensor(permutation)
    for text in ("training", "uniform", "power:0.5", "power:-1", "balanced:0.99"):
        law, moved = make_law(text, n), make_law(text, n[sigma])
        close(moved.probs, law.probs[sigma], 1e-14)
        assert isinstance(law, LabelPrior) and isinstance(moved, LabelPrior)
        assert float(moved.entropy()) == pytest.approx(float(law.entropy()), abs=1e-12)
        assert float(moved.kl(Training(n[sigma]))) == pytest.approx(float(law.kl(Training(n))), abs=1e-12)
        weights = ClassReweighting(DenoisingLoss(), law, Training(n)).weights
        close(ClassReweighting(DenoisingLoss(), moved, Training(n[sigma])).weights, weights[sigma], 1e-6)


def test_relabelling_classes_permutes_the_samples():
    """Asked for the same classes by other names, the same samples come out."""
    sigma = torch.tensor([2, 0, 3, 1])
    oracle, labels = the_oracle(), torch.arange(12) % 4
    one, two = (
        torch.cat(list(generate(ClassifierFreeGuidance(n, 0.5), DDIM(NOISE), y, (2,), steps=5, seed=0)))
        for n, y in ((oracle, labels), (Relabelled(oracle, sigma.argsort()), sigma[labels]))
    )
    assert torch.equal(one, two)

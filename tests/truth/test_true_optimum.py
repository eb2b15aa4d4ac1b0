"""The closed-form optimum of the regularised objective, at one x_t."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cbdm import ClassBalancing
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_priors.optimum import null_optimum
from tests.priors.steps import LawStub, TableNetwork, make_step
from tests.truth.common import GAMMAS, SEEDS, STRENGTHS, close, normal, quick, simplex, solve


def a_point(seed: int, classes: int, width: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """(e* (K, D), r (K,), π (K,))."""
    return normal(seed, classes, width), simplex(seed + 1, classes), simplex(seed + 2, classes)


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

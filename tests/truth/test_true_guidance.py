"""Guidance, and what undoes or equals a regulariser's pull."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cbdm import BalancedOptimum, ClassBalancing, Fixed, Null, Separation
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.guidance import ClassifierFreeGuidance, Implied, LinearInTime
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.samplers import DDIM, Ancestral, DPMSolverPP2M
from cbdm_priors.penalties.penalty import constant
from tests.priors.steps import TableNetwork, make_step
from tests.truth.common import (
    GAMMAS,
    NOISE,
    SEEDS,
    TARGETS,
    class_name,
    close,
    normal,
    quick,
    scattered,
    simplex,
    solve,
    the_oracle,
    times,
)


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

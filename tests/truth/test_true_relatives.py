"""The relatives of CBDM in one form: how far each moves the prediction of a class, and toward what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm import Alignment, ClassBalancing, ClassReweighting, Null, Uniform
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import at_time
from cbdm_priors.laws.vectors import Bank
from cbdm_priors.transfer import transfer_weights
from tests.priors.steps import TableNetwork, make_step
from tests.truth.common import NOISE, SEEDS, close, normal, quick, simplex, times
from tests.truth.line import MEANS, VARIANCES

COUNTS = times(50.0, 30.0, 20.0)


@pytest.mark.parametrize("x", [-1.5, 0.3, 1.2])
@pytest.mark.parametrize("t", [0.4, 0.7])
def test_transfer_to_the_tail_shrinks_by_the_posterior_of_commoner_classes(x, t):
    """Mean target of class c at x_t over a batch of 60,000: e*_c + Σ_{q(y) ≥ q(c)} r_y (e*_y − e*_c), to 0.04."""
    oracle = GaussianMixtureOracle(MEANS[:, None], VARIANCES[:, None, None], COUNTS, NOISE)
    draws = Draws(0, 0, torch.arange(60_000))
    label = torch.multinomial(COUNTS, 60_000, True, generator=torch.Generator().manual_seed(0))
    x_0 = oracle.sample(Condition.of(label), draws=draws)
    x_t, at = times(x)[:, None], times(t)
    alpha, sigma = (torch.full((1, 1), v, dtype=torch.float64) for v in at_time(NOISE, t))
    weights = transfer_weights(x_t, x_0, alpha, sigma)[0]
    e, r = oracle.all_classes(x_t, at)[0], oracle.class_posterior(x_t, at)[0]
    for c in range(3):
        taken = weights * (COUNTS[label] >= COUNTS[c])
        target = taken @ (x_t - alpha * x_0) / sigma
        learned = target[0, 0] + (1 - taken.sum()) * e[c, 0]
        commoner = r * (COUNTS[c] <= COUNTS)
        close(learned, e[c, 0] + commoner @ (e[:, 0] - e[c, 0]), 0.04)


@quick
@given(SEEDS, st.integers(2, 4), st.floats(0.1, 3.0))
def test_ccua_aligns_as_cbdm_with_both_halves_under_the_null_law(seed, classes, tau):
    """Without its repulsion CCUA has the gradient of CBDM at γ = 1 under the null law, at every strength."""
    step = make_step(
        TableNetwork(normal(seed, classes + 1, 3)), Condition.of(torch.arange(classes)), normal(seed + 1, classes, 3)
    )
    ccua = Alignment(DenoisingLoss(), strength=tau, repulsion=0.0)(step)["ccua"].sum()
    cbdm = ClassBalancing(DenoisingLoss(), Null([1] * classes), tau=tau, gamma=1.0)(step)["balancing"].sum()
    close(*(torch.autograd.grad(v, step.network.table, retain_graph=True)[0] for v in (ccua, cbdm)), 1e-10)


@quick
@given(SEEDS, st.integers(2, 5), st.floats(0.1, 3.0))
def test_igd_ml_stands_still_where_gamma_0_does(seed, classes, tau):
    """All draws of a uniform law, γ = 0, rows weighed by π/q: stationary at (e*_c + λm)/(1 + λ), weights or not."""
    e, counts = normal(seed, classes, 3), torch.arange(1, classes + 1)
    lam, m = 0.5 * tau, e.mean(0)  # the step stands at t = 1/2
    table = torch.cat([(e + lam * m) / (1 + lam), torch.zeros(1, 3, dtype=e.dtype)])
    step = make_step(TableNetwork(table), Condition.of(torch.arange(classes)), e)
    law = Uniform(counts)
    inner = ClassBalancing(DenoisingLoss(), law, tau=tau, gamma=0.0, draws="all")
    terms = ClassReweighting(inner, law, Uniform(counts))(step)
    loss = (simplex(seed + 1, classes) * torch.stack(list(terms.values())).sum(0)).sum()
    (grad,) = torch.autograd.grad(loss, step.network.table)
    close(grad, torch.zeros_like(grad), 1e-7)


@quick
@given(SEEDS, st.integers(2, 5), st.floats(-0.9, 3.0))
def test_capacity_manipulation_moves_no_free_output(seed, classes, kappa):
    """Σ r_c (‖f_c − e*_c‖² + κ‖f_c − g_c‖²): still where f = g = e*, a minimum for κ > 0 and a saddle for κ < 0."""
    e, r = normal(seed, classes, 1)[:, 0], simplex(seed + 1, classes)

    def loss(both):
        f, g = both.chunk(2)
        return (r * ((f - e).square() + kappa * (f - g).square())).sum()

    still = torch.cat([e, e]).requires_grad_()
    (grad,) = torch.autograd.grad(loss(still), still)
    close(grad, torch.zeros_like(grad))
    least = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, still.detach()))[0]
    if abs(kappa) > 1e-3:
        assert bool(least > 0) == (kappa > 0)


class Lookup(ScoreNetwork):
    """Says table[i] under the i-th of the conditions it knows."""

    def __init__(self, table: torch.Tensor, conditions: torch.Tensor) -> None:
        super().__init__()
        self.table, self.conditions = torch.nn.Parameter(table), conditions

    def forward(self, x_t, t, c):
        return self.table[(c.value - self.conditions.T).abs().argmin(1)]


@quick
@given(SEEDS, st.integers(2, 8), st.floats(0.1, 3.0))
def test_a_pull_on_linear_conditions_shrinks_the_condition(seed, size, tau):
    """x_0 | c ~ N(Mc, v): at γ = 0 the optimum under c is the truth under (c + λ c̄)/(1 + λ), c̄ the law's mean."""
    conditions, m, x_t = normal(seed, size, 1), normal(seed + 1, 1, 3), normal(seed + 2, 1, 3)
    alpha, sigma, v, lam = 0.8, 0.6, 0.4, 0.5 * tau  # the step stands at t = 1/2

    def truth(c: torch.Tensor) -> torch.Tensor:
        return sigma / (alpha**2 * v + sigma**2) * (x_t - alpha * c @ m)

    shrunk = truth((conditions + lam * conditions.mean(0)) / (1 + lam))
    step = make_step(Lookup(shrunk, conditions), Condition.of(conditions), truth(conditions))
    part = ClassBalancing(DenoisingLoss(), Bank(conditions), tau=tau, gamma=0.0, draws="all")
    (grad,) = torch.autograd.grad(torch.stack(list(part(step).values())).sum(), step.network.table)
    close(grad, torch.zeros_like(grad), 1e-8)

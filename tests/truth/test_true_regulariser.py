"""The CBDM term and its gradient, against the closed forms."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cbdm import ClassBalancing
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_priors.penalties.penalty import constant
from tests.priors.steps import LawStub, TableNetwork, make_step
from tests.truth.common import GAMMAS, SEEDS, STRENGTHS, close, generator, normal, quick, simplex


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

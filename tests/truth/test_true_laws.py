"""Laws over labels: normalisation, order, limits, and reweighting by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm import Balanced, ClassReweighting, Power, Training, Uniform
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from tests.priors.steps import TableNetwork, make_step
from tests.truth.common import SEEDS, close, generator, normal, quick

COUNTS = st.lists(st.integers(0, 10_000), min_size=1, max_size=10).filter(any)


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


@quick
@given(SEEDS, st.integers(2, 6), st.floats(0.0, 1.0))
def test_power_law_is_the_compromise_of_two_divergences(seed, classes, kappa):
    """π ∝ q^κ is the only minimum of κ·KL(π‖q) + (1 − κ)·KL(π‖uniform), and exp H(π) falls from K as κ grows."""
    counts = torch.randint(1, 500, (classes,), generator=generator(seed))
    q = Training(counts).probs

    def cost(pi):
        return (pi * (kappa * (pi / q).log() + (1 - kappa) * (pi * classes).log())).sum()

    law = Power(counts, kappa)
    logits = law.log_prob().clone().requires_grad_()
    (grad,) = torch.autograd.grad(cost(logits.softmax(0)), logits)
    close(grad, torch.zeros_like(grad))
    other = (law.log_prob() + normal(seed + 1, classes)).softmax(0)
    assert cost(other) > cost(law.probs)
    flatter = Power(counts, kappa / 2)
    assert float(law.entropy()) <= float(flatter.entropy()) + 1e-12
    assert float(Power(counts, 0.0).entropy().exp()) == pytest.approx(classes)

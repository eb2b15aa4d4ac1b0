"""Shrinkage: its value by hand, its two rules, and the optimum that its derivation promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cbdm import Fixed, Null
from cbdm_core.adjustment import DenoisingLoss
from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from cbdm_priors.optimum import shrunk_optimum
from cbdm_priors.penalties.shrinkage import Shrinkage
from tests.priors.steps import TableNetwork, make_step

TABLE = torch.tensor([[1.0, 2.0], [0.0, 4.0], [-1.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
COUNTS = [60, 30, 6]
LAW = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 2])


def a_step(present=(True,) * 4, t=0.5):
    c = Condition(LABELS, torch.tensor(present))
    times = torch.full((4,), t, dtype=torch.float64)
    return make_step(TableNetwork(TABLE), c, torch.zeros(4, 2, dtype=torch.float64), t=times)


def law():
    return Fixed(COUNTS, *LAW.tolist())


def distances(target):
    return (TABLE[LABELS] - target).square().mean(1)


def test_counts_rule_by_hand():
    """λ_c = min(cap, (n_c/n̄)^−1) with n̄ = 32: 32/60, 32/30, and 32/6 capped at 4."""
    amount = torch.tensor([32 / 60, 32 / 30, 4.0, 4.0], dtype=torch.float64)
    shrink = Shrinkage(DenoisingLoss(), law(), COUNTS, rule="counts", cap=4.0, strength=0.5)
    expected = 0.5 * amount * distances(LAW @ TABLE[:3])
    torch.testing.assert_close(shrink(a_step())["shrinkage"].detach(), expected, rtol=1e-13, atol=0)


def test_the_null_is_asked_once_and_the_law_for_each_label():
    for target, calls, mean in ((Null(COUNTS), 1, TABLE[3]), (law(), 3, LAW @ TABLE[:3])):
        step = a_step()
        term = Shrinkage(DenoisingLoss(), target, COUNTS, rule="counts", exponent=0.0)(step)["shrinkage"]
        torch.testing.assert_close(term.detach(), distances(mean), rtol=1e-13, atol=0)
        assert [grad for _, grad in step.network.calls] == [True] + [False] * calls


def test_the_target_is_not_moved():
    """The gradient of label 1's row comes from rows of label 1 alone, though its prediction is in the mean."""
    step = a_step(present=(True, False, True, True))
    Shrinkage(DenoisingLoss(), law(), COUNTS, rule="counts")(step)["shrinkage"].sum().backward()
    assert step.network.table.grad[1].tolist() == [0, 0] and step.network.table.grad[0].abs().sum() > 0


def test_adaptive_rule_by_hand():
    """After one batch: v = mean residual, D_c = mean distance, V_c = a v/n_c, λ_c = min(cap, V/max(0, D − V))."""
    shrink = Shrinkage(DenoisingLoss(), Null(COUNTS), COUNTS, variance=2.0, cap=0.02)
    first = shrink(a_step())["shrinkage"]
    assert first.tolist() == [0.0] * 4, "nothing is known yet"
    v = TABLE[LABELS].square().mean(1).mean()
    D = distances(TABLE[3])
    V = 2.0 * v / torch.tensor(COUNTS)[LABELS]
    expected = torch.minimum(V / (D - V), torch.tensor(0.02, dtype=torch.float64))
    assert ((D - V) > 0).all() and 0 < int((expected < 0.02).sum()) < 4
    torch.testing.assert_close(shrink(a_step())["shrinkage"].detach(), expected * D, rtol=1e-12, atol=0)
    assert shrink.amount(a_step(t=0.95)).tolist() == [0.0] * 4, "another bin of t knows nothing"


def test_a_class_whose_distance_is_all_noise_is_shrunk_to_the_cap():
    shrink = Shrinkage(DenoisingLoss(), Null(COUNTS), COUNTS, variance=1e6, cap=3.0)
    shrink(a_step())
    assert shrink.amount(a_step()).tolist() == [3.0] * 4


def test_running_means_weigh_rows_alike_at_first_and_fade_later():
    shrink = Shrinkage(DenoisingLoss(), Null(COUNTS), COUNTS, memory=0.5, bins=1)
    shrink(a_step())
    D = distances(TABLE[3])
    assert shrink.distance[:, 0].tolist() == pytest.approx([float(D[0]), float(D[1]), float(D[2])])
    other = replace(a_step(), eps_hat=torch.zeros(4, 2, dtype=torch.float64))
    shrink(other)
    far = float(TABLE[3].square().mean())
    assert float(shrink.distance[0, 0]) == pytest.approx((float(D[0]) + far) / 2)
    shrink(other)
    # one of three rows would weigh 1/3; the memory of ½ lets it weigh ½
    assert float(shrink.distance[0, 0]) == pytest.approx(((float(D[0]) + far) / 2 + far) / 2)


def test_rows_without_their_condition_teach_nothing():
    shrink = Shrinkage(DenoisingLoss(), Null(COUNTS), COUNTS)
    shrink(a_step(present=(False, True, False, False)))
    assert (shrink.seen.sum(1) > 0).tolist() == [False, True, False]
    shrink.eval()(a_step())
    assert (shrink.seen.sum(1) > 0).tolist() == [False, True, False]


def test_state_is_saved():
    one, two = (Shrinkage(DenoisingLoss(), Null(COUNTS), COUNTS) for _ in range(2))
    one(a_step())
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(a_step())["shrinkage"], two(a_step())["shrinkage"])


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6))
def test_shrinkage_to_the_law_has_its_closed_form(seed, classes):
    """At the optimum (e_c − e*_c) + λ_c (e_c − Σ π e) = 0 for every class, with the model's own mean as target."""
    g = torch.Generator().manual_seed(seed)
    e = torch.randn(3, classes, 2, generator=g, dtype=torch.float64)
    pi = torch.rand(classes, generator=g, dtype=torch.float64)
    pi = pi / pi.sum()
    lam = 5 * torch.rand(3, classes, generator=g, dtype=torch.float64)
    best = shrunk_optimum(e, pi, lam)
    mean = torch.einsum("k,bkd->bd", pi, best)
    stationary = (best - e) + lam[:, :, None] * (best - mean[:, None])
    torch.testing.assert_close(stationary, torch.zeros_like(e), rtol=0, atol=1e-12)


def test_training_loss_is_stationary_at_the_closed_form():
    """Gradient of denoising + shrinkage of the table itself, each class shown once with its own true noise."""
    e = TABLE[None, :3]
    lam = torch.tensor([32 / 60, 32 / 30, 32 / 6], dtype=torch.float64).clamp(max=3.0)
    best = torch.cat([shrunk_optimum(e, LAW, lam)[0], TABLE[3:]])
    labels = torch.tensor([0, 1, 2])
    step = make_step(TableNetwork(best), Condition.of(labels), TABLE[:3])
    terms = Shrinkage(DenoisingLoss(), law(), COUNTS, rule="counts", cap=3.0)(step)
    sum(term.sum() for term in terms.values()).backward()
    torch.testing.assert_close(step.network.table.grad, torch.zeros(4, 2, dtype=torch.float64), rtol=0, atol=1e-12)


@settings(max_examples=25)
@given(V=st.floats(1e-3, 10), B=st.floats(1e-3, 10), other=st.floats(0, 20))
def test_risk_of_shrinkage_is_least_at_variance_over_bias(V, B, other):
    """(λ/(1+λ))² B + (1/(1+λ))² V is VB/(V+B) at λ = V/B, and nowhere less."""

    def risk(lam):
        return (lam / (1 + lam)) ** 2 * B + V / (1 + lam) ** 2

    assert risk(V / B) == pytest.approx(V * B / (V + B), rel=1e-12)
    assert risk(V / B) <= risk(other) * (1 + 1e-12)


def test_risk_of_shrinkage_by_simulation():
    """An estimate of a mean from n draws of variance 1, pulled to a fixed target at distance √B: 40,000 repeats."""
    g = torch.Generator().manual_seed(0)
    n, B = 5, 0.3
    estimate = torch.randn(40_000, n, generator=g, dtype=torch.float64).mean(1)
    for lam in (0.0, 0.2 / 0.3, 2.0):
        error = ((estimate + lam * B**0.5) / (1 + lam)).square()
        expected = (lam / (1 + lam)) ** 2 * B + (1 / n) / (1 + lam) ** 2
        assert abs(float(error.mean()) - expected) < 4 * float(error.std()) / 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "adaptiv"}, "unknown rule 'adaptiv': did you mean 'adaptive'"),
        ({"cap": 0.0}, "shrinkage needs variance > 0, cap > 0"),
        ({"bins": 0}, "bins ≥ 1"),
        ({"draws": "all"}, 'draws = "all" needs a law with a list'),
        ({"strength": -1.0}, "strength of shrinkage"),
    ],
)
def test_refused_in_one_line(options, message):
    with pytest.raises(CbdmError, match=message):
        Shrinkage(DenoisingLoss(), Null(COUNTS), COUNTS, **options)

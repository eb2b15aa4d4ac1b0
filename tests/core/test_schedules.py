"""Schedules against the published table, the printed formula and exact arithmetic."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import Draws
from cbdm_core.schedules import Cosine, Linear
from tests.golden_weights import load_golden


@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_published_table_bit_for_bit(letter):
    """ᾱ_i as stored by the published program; α² and 1 − σ² at t = (i + 1)/T to a bit or two."""
    golden = load_golden(letter)
    c, table = golden.config, golden["alphas_bar"]
    schedule = Linear(steps=c["T"], beta_1=c["beta_1"], beta_T=c["beta_T"])
    assert torch.equal(schedule.alphas_bar, table)
    alpha_t, sigma_t = schedule((torch.arange(c["T"]).double() + 1) / c["T"])
    torch.testing.assert_close(alpha_t.square(), table, rtol=0, atol=4e-16)
    torch.testing.assert_close(sigma_t.square(), 1 - table, rtol=0, atol=4e-16)


@pytest.mark.parametrize("steps", [1, 7, 1000, 4000])
def test_every_point_of_the_table_is_met(steps):
    """(i + 1)/T need not be a binary number: t·T may miss the whole by a bit, and must not leave the point."""
    schedule = Linear(steps=steps)
    alpha_t, _ = schedule(torch.tensor([(i + 1) / steps for i in range(steps)], dtype=torch.float64))
    torch.testing.assert_close(alpha_t.square(), schedule.alphas_bar, rtol=1e-14, atol=0)


@given(st.integers(1, 1000), st.floats(-12, -5).map(lambda power: 10**power))
def test_log_snr_falls_across_the_points_of_the_table(i, apart):
    """Times beside a point of the table are times of their own, on its right as on its left."""
    t = torch.tensor([i / 1000 - apart, i / 1000, i / 1000 + apart], dtype=torch.float64)
    assert (Linear(steps=1000).log_snr(t).diff() < 0).all()


def test_training_times_are_the_points_of_the_table_equally_often():
    i = Linear(steps=20).draw_t(Draws(0, 0, torch.arange(20_000))) * 20 - 1
    torch.testing.assert_close(i, i.round(), atol=1e-12, rtol=0)
    counts = torch.bincount(i.round().long(), minlength=20)
    assert len(counts) == 20 and chisquare(counts.numpy()).pvalue > 0.01


def cosine_of(x):
    """cos x for |x| < 2 by its series, in the digits of the decimal context."""
    term, total = Decimal(1), Decimal(1)
    for k in range(1, 60):
        term *= -x * x / ((2 * k - 1) * (2 * k))
        total += term
    return total


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@given(st.floats(-12, 0).map(lambda power: 10**power), st.floats(0.001, 0.1))
def test_cosine_is_equation_17_and_sigma_keeps_its_digits(t, s):
    """ᾱ = cos²(π/2·(t + s)/(1 + s))/cos²(π/2·s/(1 + s)) in 60 digits: σ_t to 1e-7 relative even where 1 − ᾱ cancels.

    What is lost is lost in t + s, of which t = 1e-12 keeps 4 digits in float64; so 1e-14/t, and α to 1e-13.
    """
    with localcontext() as context:
        context.prec = 60
        T, S = Decimal(t), Decimal(s)
        f = [cosine_of(PI / 2 * (u + S) / (1 + S)) ** 2 for u in (T, Decimal(0))]
        alphas_bar = f[0] / f[1]
        alpha, sigma = float(alphas_bar.sqrt()), float((1 - alphas_bar).sqrt())
    alpha_t, sigma_t = (float(v) for v in Cosine(s=s)(torch.tensor(t, dtype=torch.float64)))
    assert alpha_t == pytest.approx(alpha, abs=1e-13)
    assert sigma_t == pytest.approx(sigma, rel=1e-13 + 1e-15 / t)


@given(st.floats(-12, -4).map(lambda power: 10**power))
def test_linear_sigma_keeps_its_digits_below_the_table(t):
    """Left of the first point log ᾱ = t·T·log(1 − β_0), so σ² = 1 − (1 − β_0)^{tT}, in 60 digits."""
    steps, beta = 1000, float(np.float32(1e-4))
    with localcontext() as context:
        context.prec = 60
        sigma = float((1 - (1 - Decimal(beta)) ** (Decimal(t) * steps)).sqrt())
    # β_0 near 0 keeps 12 digits in 1 − β_0, which the table holds in float64.
    assert float(Linear(steps=steps)(torch.tensor(t, dtype=torch.float64))[1]) == pytest.approx(sigma, rel=2e-12)


@pytest.mark.parametrize(
    "options",
    [{"steps": 0}, {"beta_1": 0.0}, {"beta_1": 0.5, "beta_T": 0.1}, {"beta_T": 1.0}, {"beta_1": float("nan")}],
)
def test_another_linear_schedule_is_refused(options):
    with pytest.raises(CbdmError, match="linear needs steps ≥ 1") as caught:
        Linear(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("s", [0.0, -0.1, float("inf"), float("nan")])
def test_another_cosine_schedule_is_refused(s):
    with pytest.raises(CbdmError, match="offset s > 0"):
        Cosine(s=s)

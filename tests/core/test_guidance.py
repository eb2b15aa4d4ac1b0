"""Guidance: what a text means, where an interval acts, and one forward of twice the rows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from cbdm_core.guidance import ClassifierFreeGuidance, Constant, Implied, LinearInTime, Omega, parse_omega
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine

NUMBERS = st.floats(-1e6, 1e6)
TIMES = torch.tensor([0.1, 0.4, 0.4, 0.9], dtype=torch.float64)
X = torch.tensor([[0.3, 1.0], [2.0, -1.0], [0.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
C = Condition(torch.tensor([0, 1, 2, 3]), torch.tensor([True, True, False, True]))


@given(NUMBERS, NUMBERS, NUMBERS.filter(lambda n: n >= 0))
def test_a_text_names_its_schedule_and_back(a, b, tau):
    for omega, value in (
        (Constant(a), a + 0 * TIMES),
        (LinearInTime(a, b, tau), a * tau * TIMES + b),
        (Implied(a, tau), (1 + a) / (1 + tau * TIMES) - 1),
    ):
        assert parse_omega(str(omega)) == omega
        torch.testing.assert_close(omega(TIMES), value, atol=1e-12, rtol=1e-12)


def test_a_text_is_as_short_as_its_number():
    assert [str(parse_omega(t)) for t in ("0.50", "1.0", "0.12345678", "linear:1.0,0,2")] == [
        "0.5",
        "1",
        "0.12345678",
        "linear:1,0,2",
    ]


def test_tau_is_1_where_it_is_left_out():
    assert parse_omega("linear:0.5,0.1") == LinearInTime(0.5, 0.1, 1.0)
    assert parse_omega(" implied:0.5 ") == Implied(0.5, 1.0)


@pytest.mark.parametrize(
    "text", ["", "much", "nan", "inf", "linear:1", "linear:1,2,3,4", "implied:", "1,2", "cosine:1"]
)
def test_another_text_is_refused(text):
    with pytest.raises(CbdmError, match="allowed are a number"):
        parse_omega(text)


def test_strengths_without_meaning_are_refused():
    """Implied guidance at τ = −1 divides by 0 at t = 1; a NaN would run through every sample."""
    for tau in (-2.0, -0.1, float("nan")):
        with pytest.raises(CbdmError, match="tau ≥ 0"):
            Implied(0.5, tau)
    with pytest.raises(CbdmError, match="tau ≥ 0, got -2"):
        parse_omega("implied:0.5,-2")
    for omega in (float("nan"), float("inf")):
        with pytest.raises(CbdmError, match="must be finite"):
            ClassifierFreeGuidance(GaussianMixtureOracle.ring(Cosine()), omega)


class _Counting(GaussianMixtureOracle):
    calls: int = 0

    def forward(self, x_t, t, c):
        self.calls += 1
        return super().forward(x_t, t, c)


def test_an_interval_acts_inside_only_and_row_by_row():
    oracle = GaussianMixtureOracle.ring(Cosine())
    guided = ClassifierFreeGuidance(oracle, 2.0, interval=(0.3, 0.5))
    plain, null = oracle(X, TIMES, C), oracle(X, TIMES, C.null())
    inside = torch.tensor([False, True, True, False])[:, None]
    expected = torch.where(inside, plain + 2 * (plain - null), plain)
    torch.testing.assert_close(guided(X, TIMES, C), expected, atol=1e-14, rtol=0)
    torch.testing.assert_close(guided(X, TIMES, C)[2], null[2])  # a null row has nothing to be guided to


def test_guidance_is_one_forward_and_none_outside_the_interval():
    oracle = _Counting.ring(Cosine())
    ClassifierFreeGuidance(oracle, 1.0)(X, TIMES, C)
    assert oracle.calls == 1
    late = ClassifierFreeGuidance(oracle, 1.0, interval=(0.95, 1.0))(X, TIMES, C)
    assert oracle.calls == 2 and torch.equal(late, oracle(X, TIMES, C))


@pytest.mark.parametrize(("interval", "acts"), [((0.0, 0.0), 0), ((0.4, 0.4), 2), ((0.1, 0.4), 3), ((1.0, 1.0), 0)])
def test_an_interval_holds_its_ends_and_may_be_one_of_them(interval, acts):
    oracle = GaussianMixtureOracle.ring(Cosine())
    guided = ClassifierFreeGuidance(oracle, 2.0, interval=interval)
    assert int((guided.strength(TIMES) == 2).sum()) == acts and int((guided.strength(TIMES) == 0).sum()) == 4 - acts
    plain, full = oracle(X, TIMES, C), ClassifierFreeGuidance(oracle, 2.0)(X, TIMES, C)
    inside = ((interval[0] <= TIMES) & (interval[1] >= TIMES))[:, None]
    torch.testing.assert_close(guided(X, TIMES, C), torch.where(inside, full, plain), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("interval", [(-0.1, 0.5), (0.6, 0.5), (0.0, 1.1)])
def test_an_interval_outside_0_1_is_refused(interval):
    with pytest.raises(CbdmError, match="interval"):
        ClassifierFreeGuidance(GaussianMixtureOracle.ring(Cosine()), 1.0, interval=interval)


class _Known(ScoreNetwork):
    """Says x_t times its number; writes down whether a condition was shown."""

    def __init__(self):
        super().__init__()
        self.shown = []

    def forward(self, x_t, t, c):
        self.shown.append(bool(c.present.any()))
        return 3.0 * x_t


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.3, 0.5)])
def test_another_network_can_say_the_null(interval):
    """ε_c + ω(t)(ε_c − ε'_∅) where the interval acts, with ε' asked under the null and the network's own null never."""
    oracle, other = _Counting.ring(Cosine()), _Known()
    omega = LinearInTime(2.0, 0.1)
    guided = ClassifierFreeGuidance(oracle, omega, interval=interval, null=other)(X, TIMES, C)
    assert (oracle.calls, other.shown) == (1, [False])
    strength = omega(TIMES) * ((interval[0] <= TIMES) & (interval[1] >= TIMES))
    plain = oracle(X, TIMES, C)
    torch.testing.assert_close(guided, plain + strength[:, None] * (plain - 3.0 * X), atol=1e-14, rtol=0)


def test_the_null_is_not_asked_where_there_is_no_guidance():
    oracle, other = _Counting.ring(Cosine()), _Known()
    late = ClassifierFreeGuidance(oracle, 1.0, interval=(0.95, 1.0), null=other)(X, TIMES, C)
    assert (oracle.calls, other.shown) == (1, []) and torch.equal(late, oracle(X, TIMES, C))


def test_the_networks_own_null_as_null_changes_nothing():
    oracle = GaussianMixtureOracle.ring(Cosine())
    one, two = (ClassifierFreeGuidance(oracle, 1.5, null=null)(X, TIMES, C) for null in (None, oracle))
    torch.testing.assert_close(one, two, atol=1e-14, rtol=0)


class _Everywhere(Omega):
    """1.3 as a function of t, which is asked at every step."""

    def __call__(self, t):
        return torch.full_like(t, 1.3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_constant_omega_has_the_bits_of_a_function_of_t(dtype):
    """It is not asked of t, and is rounded to the dtype of the samples all the same."""
    oracle, x = GaussianMixtureOracle.ring(Cosine()), X.to(dtype)
    constant, function = (ClassifierFreeGuidance(oracle, omega)(x, TIMES, C) for omega in (1.3, _Everywhere()))
    assert constant.dtype == function.dtype and torch.equal(constant, function)
    assert not torch.equal(constant, oracle(x, TIMES, C))

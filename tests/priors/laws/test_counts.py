"""Laws against formulas written out by hand, and against scipy."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr
from scipy.stats import entropy

from cbdm import Balanced, CountLaw, Fixed, Null, Power, Training, Uniform, make_law
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError

COUNTS = [500, 120, 31, 0, 7, 1]
SEVERAL_COUNTS = st.lists(st.integers(0, 5000), min_size=1, max_size=12).filter(any)


def frequencies(weights: list[float]) -> np.ndarray:
    return np.array(weights) / math.fsum(weights)


def test_training_law_is_the_frequencies():
    np.testing.assert_allclose(Training(COUNTS).probs.numpy(), frequencies(COUNTS), rtol=1e-14)


def test_uniform_law_shares_equally_among_the_classes_that_exist():
    np.testing.assert_allclose(Uniform(COUNTS).probs.numpy(), [0.2, 0.2, 0.2, 0, 0.2, 0.2], rtol=1e-14)


@pytest.mark.parametrize("kappa", [-1.5, -1.0, 0.0, 0.5, 1.0, 2.0])
def test_power_law_against_its_formula(kappa):
    expected = frequencies([n**kappa if n else 0.0 for n in COUNTS])
    np.testing.assert_allclose(Power(COUNTS, kappa).probs.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999, 0.9999])
def test_balanced_law_against_the_geometric_sum(beta):
    """(1 − β)/(1 − β^n) = 1/Σ_{k<n} β^k, the effective number summed term by term."""
    effective = [math.fsum(beta**k for k in range(n)) for n in COUNTS]
    expected = frequencies([1 / e if e else 0.0 for e in effective])
    np.testing.assert_allclose(Balanced(COUNTS, beta).probs.numpy(), expected, rtol=1e-12)


def test_balanced_law_is_uniform_at_beta_0():
    assert torch.equal(Balanced(COUNTS, 0.0).probs, Uniform(COUNTS).probs)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 1e-9])
def test_balanced_law_keeps_its_digits_close_to_1(gap):
    """Against exact fractions: a plain 1 − β**n has lost half of its digits at 1 − β = 1e-9."""
    beta = 1 - gap
    rarity = [1 / (1 - Fraction(beta) ** n) if n else Fraction(0) for n in COUNTS]
    expected = [float(r / sum(rarity)) for r in rarity]
    np.testing.assert_allclose(Balanced(COUNTS, beta).probs.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("gap", [1e-12, 1e-15])
def test_balanced_law_tends_to_inverse_frequency(gap):
    expected = Power(COUNTS, -1.0).probs.numpy()
    np.testing.assert_allclose(Balanced(COUNTS, 1 - gap).probs.numpy(), expected, rtol=1e-9)


def test_fixed_law_is_its_table_normalised():
    np.testing.assert_allclose(Fixed([5, 5, 5], 3, 0, 1).probs.numpy(), [0.75, 0, 0.25], rtol=1e-15)


def test_fixed_law_warns_of_a_class_without_images():
    with pytest.warns(UserWarning, match=r"no training image: \[1\]"):
        law = Fixed([5, 0, 5], 1, 1, 2)
    np.testing.assert_allclose(law.probs.numpy(), [0.25, 0.25, 0.5], rtol=1e-15)


def test_fixed_law_is_silent_when_it_avoids_the_empty_class():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Fixed([5, 0, 5], 1, 0, 2)


def test_null_law_hides_the_condition_and_keeps_the_label():
    c = Condition(torch.tensor([2, 0]), torch.tensor([True, False]), torch.ones(2, 3))
    other = Null([4, 4, 4]).sample(c, draws=Draws(0, 0, torch.arange(2)))
    assert not other.present.any() and torch.equal(other.value, c.value) and torch.equal(other.augment, c.augment)


def test_a_drawn_label_leaves_the_rest_of_the_condition_alone():
    c = Condition(torch.tensor([2, 0, 1]), torch.tensor([True, False, True]), torch.rand(3, 2))
    other = Fixed([4, 4, 4], 0, 1, 0).sample(c, draws=Draws(0, 0, torch.arange(3)))
    assert other.value.tolist() == [1, 1, 1]
    assert torch.equal(other.present, c.present) and torch.equal(other.augment, c.augment)


@settings(deadline=None, max_examples=60)
@given(SEVERAL_COUNTS, st.sampled_from(["training", "uniform", "power:0.5", "power:-2", "balanced:0.99"]))
def test_empty_classes_have_probability_0_in_every_law_made_from_counts(counts, text):
    law = make_law(text, counts)
    log_p = law.log_prob().numpy()
    assert log_p.dtype == np.float64
    np.testing.assert_array_equal(np.isneginf(log_p), np.array(counts) == 0)
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-13)


@settings(deadline=None, max_examples=60)
@given(SEVERAL_COUNTS, st.floats(-2, 2))
def test_entropy_against_scipy(counts, kappa):
    law = Power(counts, kappa)
    assert float(law.entropy()) == pytest.approx(entropy(law.probs.numpy()), rel=1e-12, abs=1e-14)


@settings(deadline=None, max_examples=60)
@given(SEVERAL_COUNTS, st.floats(-2, 2), st.floats(-2, 2))
def test_kl_against_scipy(counts, kappa, other):
    p, q = Power(counts, kappa), Power(counts, other)
    expected = rel_entr(p.probs.numpy(), q.probs.numpy()).sum()
    assert float(p.kl(q)) == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_kl_is_infinite_only_where_the_other_law_misses_a_class():
    wide, narrow = Fixed([1, 1, 1], 1, 1, 1), Fixed([1, 1, 1], 1, 1, 0)
    assert float(wide.kl(narrow)) == math.inf
    assert float(narrow.kl(wide)) == pytest.approx(math.log(1.5), rel=1e-14)


def test_one_class_is_a_law_too():
    for law in (Training([3]), Uniform([3]), Balanced([3]), Power([3], -1.0), Fixed([3], 0.2)):
        assert law.probs.tolist() == [1.0] and float(law.entropy()) == 0.0


def test_huge_counts_keep_their_digits():
    counts = [10**12, 10**6, 1]
    np.testing.assert_allclose(Training(counts).probs.numpy(), frequencies(counts), rtol=1e-13)
    rarity = 1 / -np.expm1(np.array(counts, dtype=float) * np.log(0.9999))  # 1, 1 and 10⁴ times 1 − β
    np.testing.assert_allclose(Balanced(counts, 0.9999).probs.numpy(), rarity / rarity.sum(), rtol=1e-13)


def test_laws_put_nothing_into_a_checkpoint():
    for law in (Training(COUNTS), Balanced(COUNTS), Fixed([1, 1], 1, 2), Null(COUNTS)):
        assert law.state_dict() == {}


@pytest.mark.parametrize("counts", [[], [0, 0], [3, -1], [0.5, 0.5], [[1, 2]], 4])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(CbdmError, match="whole class counts"):
        Training(counts)


def test_a_law_without_weights_says_what_to_override():
    class Forgotten(CountLaw):
        pass

    with pytest.raises(CbdmError, match="Forgotten must override log_weights"):
        Forgotten([1, 2]).log_prob()


@pytest.mark.parametrize(
    ("text", "cls", "attribute", "value"),
    [
        ("training", Training, None, None),
        ("uniform", Uniform, None, None),
        ("null", Null, None, None),
        ("power:-0.25", Power, "kappa", -0.25),
        ("power", Power, "kappa", 0.5),
        ("balanced:0.9", Balanced, "beta", 0.9),
        ("balanced", Balanced, "beta", 0.999),
        ("fixed:1,0,3", Fixed, "table", (1.0, 0.0, 3.0)),
    ],
)
def test_make_law_reads_the_name_and_the_numbers(text, cls, attribute, value):
    law = make_law(text, [4, 2, 1])
    assert type(law) is cls
    assert attribute is None or getattr(law, attribute) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unifrom", r"unknown law 'unifrom': did you mean 'uniform'\? allowed: affinity, balanced"),
        ("powr:0.5", "did you mean 'power'"),
        ("zzz", "allowed: .*balanced, .*uniform"),
        ("", "unknown law ''"),
        ("power:half", "'half' is no list of numbers"),
        ("power:", "no list of numbers"),
        ("power:1,2", r"wrong number of arguments .*kappa"),
        ("training:1", "wrong number of arguments .*none"),
        ("power:inf", "finite exponent"),
        ("power:nan", "finite exponent"),
        ("balanced:1", r"beta in \[0, 1\)"),
        ("balanced:-0.1", r"beta in \[0, 1\)"),
        ("balanced:nan", r"beta in \[0, 1\)"),
        ("fixed", "one number per class, 3, got 0"),
        ("fixed:1,2", "one number per class, 3, got 2"),
        ("fixed:1,-1,1", "0 or more"),
        ("fixed:0,0,0", "positive sum"),
        ("fixed:1,nan,1", "0 or more"),
        ("fixed:1,inf,1", "0 or more"),
    ],
)
def test_make_law_refuses_with_one_line(text, message):
    with pytest.raises(CbdmError, match=message) as caught:
        make_law(text, [4, 2, 1])
    assert "\n" not in str(caught.value)

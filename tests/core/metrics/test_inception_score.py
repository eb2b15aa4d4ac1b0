"""Inception score against torchmetrics, double loops and cases done by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.inception import InceptionScore

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.inception_score import inception_score
from cbdm_core.metrics.seeding import seeded


def log_probs(seed, n, K, sharpness=2.0):
    logits = torch.randn(n, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (sharpness * logits).log_softmax(1)


def double_loop(log_p):
    p = log_p.exp().tolist()
    marginal = [sum(column) / len(p) for column in zip(*p, strict=True)]
    kl = [sum(a * math.log(a / m) for a, m in zip(row, marginal, strict=True) if a > 0) for row in p]
    return math.exp(sum(kl) / len(kl))


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), K=st.integers(1, 6))
def test_against_the_definition(seed, n, K):
    log_p = log_probs(seed, n, K)
    assert inception_score(log_p).value == pytest.approx(double_loop(log_p), rel=1e-12)


def test_against_torchmetrics():
    logits = torch.randn(60, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = InceptionScore(feature=torch.nn.Identity(), splits=1).set_dtype(torch.float64)
    theirs.update(logits)
    with pytest.warns(UserWarning):  # of a standard deviation over one split
        value = float(theirs.compute()[0])
    assert inception_score(logits.log_softmax(1)).value == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("K", [1, 2, 10])
def test_certain_and_uniform_is_K(K):
    one_hot = torch.eye(K, dtype=torch.float64).repeat(3, 1).log()  # −inf elsewhere
    assert inception_score(one_hot).value == pytest.approx(K, rel=1e-12)


def test_constant_is_1():
    assert inception_score(log_probs(0, 1, 5).repeat(9, 1)).value == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.tensor([[0.0, -torch.inf]] * 4)).value == 1.0


def test_certain_of_two_classes_unevenly():
    """exp of the entropy of (¾, ¼)."""
    rows = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1]].log()
    assert inception_score(rows).value == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


@given(seed=st.integers(0, 10**6))
def test_it_lies_between_1_and_K_and_knows_no_order(seed):
    log_p = log_probs(seed, 20, 4)
    value = inception_score(log_p).value
    assert 1 - 1e-12 <= value <= 4
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    assert inception_score(log_p[order]).value == pytest.approx(value, rel=1e-12)
    assert inception_score(log_p.flip(1)).value == pytest.approx(value, rel=1e-12)


def test_splits():
    """One row a split scores 1; sorted rows are dealt out to two halves, so that their order is no matter."""
    log_p = log_probs(0, 12, 3)
    assert inception_score(log_p, splits=12) == pytest.approx((1.0, 0.0), abs=1e-12)
    by_class = torch.eye(2, dtype=torch.float64).repeat_interleave(500, 0).log()
    dealt = inception_score(by_class, splits=2)
    assert dealt.value == pytest.approx(2, rel=0.01)  # undealt it would be 1
    assert dealt == inception_score(by_class, splits=2, seed=0)
    assert inception_score(log_p, splits=3, seed=0) != inception_score(log_p, splits=3, seed=1)
    assert inception_score(log_p).spread is None


def test_mean_and_spread_over_splits_by_hand():
    log_p = log_probs(3, 11, 3)
    found = inception_score(log_p, splits=2, seed=4)
    order = torch.from_numpy(seeded(4, "inception_score").permutation(11))
    a, b = double_loop(log_p[order[:6]]), double_loop(log_p[order[6:]])
    assert found == pytest.approx(((a + b) / 2, abs(a - b) / 2**0.5), rel=1e-10)


@pytest.mark.parametrize(
    ("rows", "splits", "words"),
    [
        (torch.zeros(4, 3), 1, "4 of 4 rows of log-probabilities do not sum to 1"),
        (torch.full((4, 3), torch.nan), 1, "4 of 4 rows"),
        (torch.zeros(4), 1, r"must be \(N, K\)"),
        (torch.zeros(0, 3), 1, r"got \(0, 3\)"),
        (torch.zeros(4, 1), 5, "5 splits of 4 rows: give 1 … 4"),
        (torch.zeros(4, 1), 0, "0 splits"),
    ],
)
def test_refused(rows, splits, words):
    with pytest.raises(CbdmError, match=words):
        inception_score(rows, splits)

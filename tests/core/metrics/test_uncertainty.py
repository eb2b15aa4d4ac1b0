"""Intervals against closed forms and statistics of the rows themselves, and how often they hold the truth."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.frechet import frechet_distance
from cbdm_core.metrics.kernel import kernel_distance, kernel_distance_subsets
from cbdm_core.metrics.manifold import prdc, precision_recall
from cbdm_core.metrics.uncertainty import (
    bootstrap_counts,
    bootstrap_interval,
    frechet_interval,
    jackknife_interval,
    precision_recall_intervals,
)


def rows(seed, n, d=3, spread=1.0, shift=0.0):
    return spread * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def difference(real, fake):
    return float(real.mean() - fake.mean())


def test_counts_are_multinomial():
    """n draws each; mean 1, variance 1 − 1/n, covariance −1/n, within 5 standard errors of 4,000 resamples."""
    counts = bootstrap_counts(10, 4000, seed=3).double()
    assert counts.sum(1).eq(10).all()
    assert counts.mean(0).sub(1).abs().max() < 5 / 4000**0.5
    cov = torch.cov(counts.mT)
    expected = torch.eye(10, dtype=torch.float64) - 0.1
    assert (cov - expected).abs().max() < 5 * 1.5 / 4000**0.5
    assert torch.equal(counts, bootstrap_counts(10, 4000, seed=3).double())
    assert not torch.equal(counts, bootstrap_counts(10, 4000, seed=4).double())
    assert not torch.equal(counts, bootstrap_counts(10, 4000, seed=3, purpose="other").double())


def test_the_interval_of_a_difference_of_means_is_the_normal_one():
    """SE² = s²/n + s²/m with divisors n, m: the bootstrap's plug-in variance; 4,000 resamples, within 4 %."""
    real, fake = rows(0, 80, 1), rows(1, 50, 1, 2.0)
    se = float((real.var(correction=0) / 80 + fake.var(correction=0) / 50).sqrt())
    found = bootstrap_interval(difference, real, fake, 4000, level=0.9)
    assert found.high - found.low == pytest.approx(2 * 1.6449 * se, rel=0.04)
    assert (found.high + found.low) / 2 == pytest.approx(difference(real, fake), abs=0.06 * se)


def test_the_jackknife_of_a_difference_of_means_is_exact():
    """SE² = s²/n + s²/m with divisors n − 1, m − 1."""
    real, fake = rows(0, 20, 1), rows(1, 12, 1, 2.0)
    se = float((real.var() / 20 + fake.var() / 12).sqrt())
    found = jackknife_interval(difference, real, fake, level=0.95)
    reach = 1.959963984540054 * se
    assert found == pytest.approx((difference(real, fake) - reach, difference(real, fake) + reach), rel=1e-9)


def test_the_jackknife_of_kid_is_its_own_error():
    real, fake = rows(0, 15), rows(1, 12, spread=1.5)
    value, error = kernel_distance(real, fake)
    found = jackknife_interval(lambda a, b: kernel_distance(a, b).value, real, fake, level=0.6826894921370859)
    assert found == pytest.approx((value - error, value + error), rel=1e-8)


def test_levels_are_shares_of_the_resamples():
    real, fake = rows(0, 30, 1), rows(1, 30, 1)
    drawn = torch.tensor(
        [
            difference(real.repeat_interleave(a, 0), fake.repeat_interleave(b, 0))
            for a, b in zip(
                bootstrap_counts(30, 101, 7, "real"), bootstrap_counts(30, 101, 7, "generated"), strict=True
            )
        ],
        dtype=torch.float64,
    ).sort()[0]
    # Of 101 sorted values numbers 10 and 90 leave a tenth below and above.
    assert bootstrap_interval(difference, real, fake, 101, 7, level=0.8) == pytest.approx(
        (float(drawn[10]), float(drawn[90])), rel=1e-12
    )
    centred = bootstrap_interval(difference, real, fake, 101, 7, level=0.8, centred=True)
    move = difference(real, fake) - float(drawn.mean())
    assert centred == pytest.approx((float(drawn[10]) + move, float(drawn[90]) + move), rel=1e-10)


@given(seed=st.integers(0, 10**6), centred=st.booleans(), d=st.sampled_from([3, 30]))
def test_frechet_interval_is_the_plain_bootstrap(seed, centred, d):
    """With 30 numbers a row the covariances are singular, and the bootstrap is to make none."""
    real, fake = rows(seed, 30, d), rows(seed + 1, 25, d, spread=1.5, shift=1)
    plain = bootstrap_interval(frechet_distance, real, fake, 9, seed, centred=centred)
    assert frechet_interval(real, fake, 9, seed, centred=centred) == pytest.approx(plain, rel=1e-9)


@given(seed=st.integers(0, 10**6), centred=st.booleans())
def test_precision_recall_intervals_are_the_plain_bootstrap(seed, centred):
    real, fake = rows(seed, 30), rows(seed + 1, 25, spread=1.5)
    found = precision_recall_intervals(real, fake, 2, 9, seed, centred=centred)
    for i in range(2):
        plain = bootstrap_interval(lambda a, b, i=i: precision_recall(a, b, 2)[i], real, fake, 9, seed, centred=centred)
        assert found[i] == pytest.approx([min(1, max(0, end)) for end in plain], rel=1e-9)


def coverage(interval, truth, trials=60):
    """The fraction of trials whose interval holds the truth."""
    held = 0
    for i in range(trials):
        low, high = interval(rows(2 * i, 120, 6), rows(2 * i + 1, 120, 6, 1.2, 0.2), i)
        held += low <= truth <= high
    return held / trials


def test_centred_intervals_hold_the_mean_figure_and_percentiles_of_fid_do_not():
    """Nominal 95 %; of 60 trials 0.95 ± 4·0.028. What FID is on average at these numbers of rows: 400 samples."""
    figures = [frechet_distance(rows(10000 + 2 * i, 120, 6), rows(10001 + 2 * i, 120, 6, 1.2, 0.2)) for i in range(400)]
    truth = sum(figures) / 400
    assert coverage(lambda a, b, i: frechet_interval(a, b, 100, i, centred=True), truth) > 0.83
    assert coverage(lambda a, b, i: frechet_interval(a, b, 100, i), truth) < 0.75  # biased twice


def test_intervals_are_seeded_and_stay_in_range():
    real = rows(0, 40)
    assert frechet_interval(real, real, 20, 1, centred=True) == frechet_interval(real, real, 20, 1, centred=True)
    assert frechet_interval(real, real, 20, 1) != frechet_interval(real, real, 20, 2)
    assert frechet_interval(real, real, 20, centred=True).low == 0.0
    for interval in precision_recall_intervals(real, real, 3, 20, centred=True):
        assert 0 <= interval.low <= interval.high <= 1


def test_more_rows_narrow_the_interval():
    """4 times the rows halve it; 25 % either way for the resampling."""
    widths = []
    for n in (150, 600):
        low, high = frechet_interval(rows(0, n), rows(1, n, shift=1), 400)
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.25)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: bootstrap_interval(difference, x, x, 1), "resamples = 1: an interval needs 2 or more"),
        (lambda x: bootstrap_interval(difference, x, x, level=1.0), "level = 1.0"),
        (lambda x: bootstrap_interval(difference, x, x[:0]), "9 real and 0 generated rows"),
        (lambda x: jackknife_interval(difference, x, x[:1]), "9 real and 1 generated rows"),
        (lambda x: jackknife_interval(difference, x, x, level=95), "level = 95: give a share"),
        (lambda x: frechet_interval(x, x[:1]), "1 generated feature rows are too few"),
        (lambda x: precision_recall_intervals(x, x, 9), "k = 9 neighbours"),
    ],
)
def test_refused(call, words):
    with pytest.raises(CbdmError, match=words):
        call(rows(0, 9))


def test_the_fewest_rows_there_can_be():
    """One row of each is enough to draw anew, and gives an interval of no width; the jackknife needs two."""
    one, two = rows(0, 1), rows(1, 2)
    assert bootstrap_interval(difference, one, one + 1, 5) == pytest.approx((-1.0, -1.0))
    found = jackknife_interval(difference, two, two + 1)
    assert (found.low + found.high) / 2 == pytest.approx(-1.0)
    with pytest.raises(CbdmError):
        jackknife_interval(difference, one, two)


DEFAULTS = {
    bootstrap_counts: {"seed": 0, "purpose": "rows"},
    bootstrap_interval: {"resamples": 200, "seed": 0, "level": 0.95, "centred": False},
    frechet_interval: {"resamples": 200, "seed": 0, "level": 0.95, "centred": False},
    precision_recall_intervals: {"k": 5, "resamples": 200, "seed": 0, "level": 0.95, "centred": False},
    jackknife_interval: {"level": 0.95},
    kernel_distance_subsets: {"subsets": 100, "size": 1000, "seed": 0},
    prdc: {"k": 5, "strict": True},
    precision_recall: {"k": 5},
}


@pytest.mark.parametrize("function", DEFAULTS, ids=lambda function: function.__name__)
def test_defaults_are_those_of_the_papers_and_pages(function):
    """k = 5, 95 %, 200 resamples, 100 subsets of 1,000: figures without a word of how they were made are these."""
    found = {name: p.default for name, p in inspect.signature(function).parameters.items() if p.default is not p.empty}
    assert {name: found[name] for name in DEFAULTS[function]} == DEFAULTS[function]

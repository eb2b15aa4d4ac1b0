"""The Fréchet distance against published numbers, closed forms and an independent matrix square root."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.fid import _compute_fid

from cbdm_core.errors import CbdmError
from cbdm_core.metrics import frechet
from cbdm_core.metrics.checks import checked_features
from cbdm_core.metrics.frechet import (
    Moments,
    _gram,
    _lower_of_product,
    _trace_of_root,
    fid_infinity,
    frechet_distance,
)
from cbdm_core.metrics.seeding import seeded

SEEDS = st.integers(0, 10**6)


def features(seed, n, d):
    """Correlated features whose coordinates differ in scale."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + torch.randn(d, generator=g, dtype=torch.float64)


def orthogonal(seed, d):
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]


def test_golden(official):
    distance = frechet_distance(torch.from_numpy(official["real"]), torch.from_numpy(official["fake"]))
    assert distance == pytest.approx(float(official["fid"]), rel=1e-9)


@given(seed=st.integers(0, 10**6), d=st.integers(1, 12))
def test_gaussians_with_shared_axes(seed, d):
    """Covariances that commute: ‖Δμ‖² + Σ (√a_i − √b_i)²."""
    g = torch.Generator().manual_seed(seed)
    q = orthogonal(seed, d)
    a, b = torch.rand(2, d, generator=g, dtype=torch.float64) * 3
    m, n = torch.randn(2, d, generator=g, dtype=torch.float64)
    distance = frechet_distance(Moments(m, q * a @ q.mT, 100), Moments(n, q * b @ q.mT, 100))
    assert distance == pytest.approx(float((m - n).square().sum() + (a.sqrt() - b.sqrt()).square().sum()), abs=1e-7)


@given(seed=st.integers(0, 10**6), d=st.integers(3, 40), data=st.data())
def test_fewer_rows_than_numbers_are_judged_by_the_rows(seed, d, data):
    """As by the covariances to 1e-6 of their traces, for one is singular; to 1e-11 where it is known."""
    n = data.draw(st.integers(2, d - 1))
    m = data.draw(st.integers(2, (d * d - 1) // n))
    real, fake = features(seed, n, d), features(seed + 1, m, d)
    a, b = Moments.of(real), Moments.of(fake)
    scale = float(a.cov.trace() + b.cov.trace())
    assert frechet_distance(real, fake) == pytest.approx(frechet_distance(a, b), abs=1e-6 * scale)
    away = torch.ones(d, dtype=torch.float64)
    assert frechet_distance(real, real + away) == pytest.approx(d, abs=1e-11 * (scale + d))
    # Every row so often that Σ₂ = rΣ₁.
    often = (d * d - 1) // (n * n)
    ratio = often * (n - 1) / (often * n - 1)
    expected = float(a.cov.trace()) * (1 - ratio**0.5) ** 2
    for pair in ((real, real.repeat(often, 1)), (real.repeat(often, 1), real)):
        assert frechet_distance(*pair) == pytest.approx(expected, abs=1e-11 * scale)
    # Of orthogonal rows XYᵀ is 0.
    apart = (
        torch.cat([real, torch.zeros_like(fake[:1]).expand(n, -1)], dim=1),
        torch.cat([torch.zeros_like(fake), fake], 1),
    )
    expected = scale + float(real.mean(0).square().sum() + fake.mean(0).square().sum())
    assert frechet_distance(*apart) == pytest.approx(expected, rel=1e-12)


def test_two_by_two_by_hand():
    """tr (A^½BA^½)^½ of 2×2 matrices is √(tr AB + 2√det AB); these do not commute."""
    a = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, -0.5], [-0.5, 3.0]], dtype=torch.float64)
    mean = torch.zeros(2, dtype=torch.float64)
    root = (torch.trace(a @ b) + 2 * torch.linalg.det(a @ b).sqrt()).sqrt()
    expected = float(a.trace() + b.trace() - 2 * root)
    assert frechet_distance(Moments(mean, a, 9), Moments(mean, b, 9)) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 10**6), d=st.integers(2, 10))
def test_against_torchmetrics(seed, d):
    """Eigenvalues of the unsymmetric product, by an independent program."""
    real, fake = features(seed, 5 * d, d), features(seed + 1, 4 * d, d)
    oracle = _compute_fid(real.mean(0), torch.cov(real.mT), fake.mean(0), torch.cov(fake.mT))
    assert frechet_distance(real, fake) == pytest.approx(float(oracle), rel=1e-6, abs=1e-6)


@given(seed=st.integers(0, 10**6), d=st.integers(2, 10))
def test_a_square_root_by_eigenvectors_says_the_same(seed, d):
    """What singular covariances get, on those that are not: with A = LLᵀ any L will do."""
    a, b = (Moments.of(features(seed + i, 6 * d, d)).cov for i in range(2))
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.sqrt() @ vectors.mT
    expected = torch.linalg.eigvalsh(root @ b @ root).sqrt().sum()
    assert float(_trace_of_root(a, b)) == pytest.approx(float(expected), rel=1e-9)


@given(seed=st.integers(0, 10**6), d=st.integers(1, 11))
def test_half_of_a_symmetric_product_is_half_of_the_whole(seed, d):
    x, b = features(seed, 7, d), Moments.of(features(seed + 1, 30, d)).cov
    torch.testing.assert_close(_gram(x), x.mT @ x, rtol=1e-12, atol=1e-12)
    factor = torch.linalg.cholesky(b)
    whole = factor.mT @ b @ factor
    torch.testing.assert_close(_lower_of_product(factor, b).tril(), whole.tril(), rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 10**6), rank=st.integers(1, 5))
def test_singular_covariances_have_the_distance_within_their_span(seed, rank):
    """Rows in `rank` of 9 dimensions have the distance they have in those; 1e-6 of the trace, as documented."""
    real, fake = features(seed, 40, rank), features(seed + 1, 30, rank)
    q = orthogonal(seed, 9)[:rank]
    scale = float(real.var(0).sum() + fake.var(0).sum())
    assert frechet_distance(real @ q, fake @ q) == pytest.approx(frechet_distance(real, fake), abs=1e-6 * scale)


@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_and_an_orthogonal_map_change_nothing(seed):
    real, fake = features(seed, 60, 6), features(seed + 1, 40, 6)
    q, order = orthogonal(seed, 6), torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    expected = frechet_distance(real, fake)
    assert frechet_distance(real[order], fake) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(real @ q + 3, fake @ q + 3) == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert frechet_distance(fake, real) == pytest.approx(expected, rel=1e-7, abs=1e-7)
    assert frechet_distance(2 * real, 2 * fake) == pytest.approx(4 * expected, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("n", [3, 200])  # 3 rows in 20 dimensions: a covariance of rank 2
def test_a_set_is_at_no_distance_from_itself(n):
    real = features(0, n, 20)
    assert 0 <= frechet_distance(real, real) < 1e-6 * float(real.var(0).sum())


def test_shift_alone():
    real = features(4, 50, 5)
    shift = torch.arange(5, dtype=torch.float64)
    assert frechet_distance(real, real + shift) == pytest.approx(30.0, rel=1e-7)


def test_moments_are_those_of_the_features_and_can_be_reused():
    real, fake = features(1, 30, 4), features(2, 20, 4)
    moments = Moments.of(real)
    torch.testing.assert_close(moments.cov, torch.cov(real.mT), rtol=1e-12, atol=1e-12)
    assert moments.n == 30
    assert frechet_distance(moments, fake) == frechet_distance(real, fake)


@pytest.mark.parametrize(("n", "d"), [(400, 3), (9, 30)])
def test_float32_features_are_summed_in_float64(n, d):
    """A mean of 1e4 with a spread of 1: float32 moments would lose the spread."""
    real = (features(1, n, d) + 1e4).float()
    assert frechet_distance(real, features(2, n, d) + 1e4) == pytest.approx(
        frechet_distance(real.double() - 1e4, features(2, n, d)), rel=1e-6
    )
    # Of equal values the distance is 0 to the rounding of float64, not of float32.
    assert frechet_distance(real, real.flip(0)) < 1e-7


@given(seed=SEEDS, d=st.integers(1, 8), n=st.integers(2, 30), m=st.integers(2, 30), exponent=st.integers(-480, 480))
def test_another_unit_scales_the_distance_by_its_square(seed, d, n, m, exponent):
    """By the covariances and by the rows, to 1e-7 of the traces, one being singular; squares up to 1e300 are held."""
    real, fake = features(seed, n, d), features(seed + 1, m, d)
    traces = float(Moments.of(real).cov.trace() + Moments.of(fake).cov.trace())
    unit = 2.0**exponent
    scaled = frechet_distance(unit * real, unit * fake) / unit / unit
    assert scaled == pytest.approx(frechet_distance(real, fake), rel=1e-9, abs=1e-7 * traces)


@pytest.mark.parametrize(("first", "second"), [(1e100, 1e100), (1e150, 1.0), (1e-100, 1e-100), (1e100, 1e-100)])
@pytest.mark.parametrize("d", [1, 3])
def test_features_of_any_scale_have_the_distance_of_their_gaussians(first, second, d):
    """Isotropic covariances a²I and b²I, means apart by 3 in each coordinate: d(9 + (a − b)²), in the larger unit."""
    unit = max(first, second)
    means = torch.zeros(d, dtype=torch.float64), torch.full((d,), 3 * unit, dtype=torch.float64)
    one = torch.eye(d, dtype=torch.float64)
    a, b = (Moments(mean, s**2 * one, 100) for mean, s in zip(means, (first, second), strict=True))
    assert frechet_distance(a, b) / unit / unit == pytest.approx(d * (9 + ((first - second) / unit) ** 2), rel=1e-9)


@pytest.mark.parametrize(
    ("real", "fake", "words"),
    [
        (torch.zeros(1, 3), torch.zeros(9, 3), "1 real feature rows are too few: give 2"),
        (torch.zeros(9, 3), torch.zeros(0, 3), "0 generated feature rows"),
        (torch.zeros(9, 3), torch.full((4, 3), torch.nan), "4 of 4 generated feature rows hold NaN"),
        (torch.zeros(9, 3), torch.tensor([[0.0], [torch.inf], [-torch.inf]]).expand(3, 3), "2 of 3 generated feature"),
        (torch.tensor([[0.0], [torch.inf], [1.0]]), torch.zeros(9, 1), "1 of 3 real"),
        (torch.zeros(9, 3), torch.zeros(9, 4), "3 numbers, generated ones 4"),
        (torch.zeros(9), torch.zeros(9), r"must be \(N, D\), got \(9,\)"),
        (torch.zeros(9, 30), torch.zeros(1, 30), "1 generated feature rows are too few: give 2"),
        (torch.zeros(9, 30), torch.full((4, 30), torch.nan), "4 of 4 generated feature rows hold NaN"),
        (torch.zeros(9, 30), torch.zeros(9, 40), "30 numbers, generated ones 40"),
        (1e160 * features(0, 9, 3), features(1, 9, 3), "too large to be squared: divide"),
        (1e160 * features(0, 9, 30), features(1, 9, 30), "too large to be squared: divide"),
    ],
)
def test_refused(real, fake, words):
    with pytest.raises(CbdmError, match=words):
        frechet_distance(real, fake)


@given(seed=st.integers(0, 10**6), n=st.integers(2, 20))
def test_weighted_moments_are_those_of_the_copies(seed, n):
    x = features(seed, n, 3)
    counts = torch.from_numpy(seeded(seed, "test").integers(0, 4, n))
    counts[0] += 2
    found, expected = Moments.weighted(x, counts), Moments.of(x.repeat_interleave(counts, 0))
    assert found.n == expected.n
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.cov, expected.cov, rtol=1e-12, atol=1e-12)


def test_seeded_numbers_depend_on_seed_and_purpose_only():
    first = seeded(3, "a").integers(2**62, size=4).tolist()
    assert seeded(3, "a").integers(2**62, size=4).tolist() == first
    assert seeded(4, "a").integers(2**62, size=4).tolist() != first
    assert seeded(3, "b").integers(2**62, size=4).tolist() != first


def gaussians(seed, n, d=16):
    """Two samples of N(0, I) and N(½, 4), whose distance is d/4 + d."""
    g = torch.Generator().manual_seed(seed)
    real, fake = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return real, 2 * fake + 0.5, 1.25 * d


@pytest.mark.parametrize("seed", range(3))
def test_fid_infinity_comes_nearer_to_the_distance_of_two_gaussians(seed):
    """200 rows of 16 numbers, whose distance is 20: FID is about 1.6 above it, FID∞ about 0, each ± 1.1 a sample.

    Means of 16 samples: FID∞ within 4 standard errors and half the bias of FID, which is clear of 0.
    """
    plain, limit = [], []
    for i in range(16):
        real, fake, truth = gaussians(100 * seed + i, 200)
        plain.append(frechet_distance(real, fake) - truth)
        limit.append(fid_infinity(real, fake, seed=i) - truth)
    plain, limit = torch.tensor(plain), torch.tensor(limit)
    assert plain.mean() > 3 * plain.std() / 16**0.5
    assert abs(limit.mean()) < 4 * limit.std() / 16**0.5
    assert abs(limit.mean()) < plain.mean() / 2


def test_fid_infinity_takes_the_bias_off_two_samples_of_one_law():
    """FID of 300 rows a side is about 2·(D² + D)/4 · 1/300 + 2D/300 above its limit 0."""
    plain, limit = [], []
    for i in range(12):
        real, _, _ = gaussians(i, 300)
        fake, _, _ = gaussians(1000 + i, 300)
        plain.append(frechet_distance(real, fake))
        limit.append(fid_infinity(real, fake, seed=i))
    plain, limit = torch.tensor(plain), torch.tensor(limit)
    assert plain.min() > 0.3
    assert abs(limit.mean()) < 0.15 * plain.mean()
    assert limit.abs().max() < plain.min()


def test_fid_infinity_of_fixed_moments_takes_off_the_bias_of_the_samples_alone():
    d = 16
    exact = Moments(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64), 10**9)
    plain, limit = [], []
    for i in range(12):
        fake, _, _ = gaussians(2000 + i, 300)
        plain.append(frechet_distance(exact, fake))
        limit.append(fid_infinity(exact, fake, seed=i))
    assert abs(sum(limit)) < 0.15 * sum(plain)


def test_fid_infinity_is_the_intercept_of_a_line(monkeypatch):
    """With a distance that is exactly 3 + 50/N, whatever the rows."""
    monkeypatch.setattr("cbdm_core.metrics.frechet.frechet_distance", lambda real, fake: 3 + 50 / len(fake))
    real, fake, _ = gaussians(0, 200)
    assert fid_infinity(real, fake, points=7) == pytest.approx(3, abs=1e-9)


def test_fid_infinity_is_seeded():
    real, fake, _ = gaussians(0, 200)
    assert fid_infinity(real, fake, seed=1) == fid_infinity(real, fake, seed=1) != fid_infinity(real, fake, seed=2)


def test_fid_infinity_refused():
    real, fake, _ = gaussians(0, 20)
    with pytest.raises(CbdmError, match="points = 1: a line needs 2"):
        fid_infinity(real, fake, points=1)
    with pytest.raises(CbdmError, match="3 generated feature rows are too few: give 4"):
        fid_infinity(real, fake[:3])


def test_a_generator_is_keyed_by_seed_and_purpose():
    """Philox under the first 16 bytes of a hash, by the words of the docstring."""
    key = hashlib.sha256(b"7/metrics/some purpose").digest()[:16]
    expected = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(5)
    assert seeded(7, "some purpose").random(5).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("n", "dimension", "smallest"),
    [(40, 1, 5), (200, 1, 20), (20, 8, 10), (30, 8, 15), (4, 3, 2), (5, 1, 2)],  # 5D; n/10; n/2; n/2; 2; 2
)
def test_the_line_of_fid_infinity_begins_where_it_says(monkeypatch, n, dimension, smallest):
    sizes = []
    monkeypatch.setattr(frechet, "frechet_distance", lambda real, fake: sizes.append(len(fake)) or 1 / len(fake))
    fid_infinity(features(0, n, dimension), features(1, n, dimension), points=3)
    assert sizes[0] in (smallest, smallest + 1) and sizes[-1] == n


def test_numbers_whose_sum_is_too_large_are_finite_all_the_same():
    features = torch.full((4, 3), 3e38)
    assert torch.equal(checked_features(features, "real", 1), features.double())

"""Kernel distance against double loops, torchmetrics and the closed form of two Gaussians."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.kid import KernelInceptionDistance, poly_mmd

from cbdm_core.errors import CbdmError
from cbdm_core.metrics import kernel
from cbdm_core.metrics.kernel import kernel_distance, kernel_distance_subsets


def rows(seed, n, d, spread=1.0, shift=0.0):
    return spread * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def double_loop(real, fake):
    d = real.shape[1]

    def k(x, y):
        return (float(x @ y) / d + 1) ** 3

    def mean(values):
        values = list(values)
        return sum(values) / len(values)

    within = sum(mean(k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) for s in (real, fake))
    return within - 2 * mean(k(a, b) for a in real for b in fake)


@given(seed=st.integers(0, 10**6), d=st.integers(1, 4))
def test_against_the_definition(seed, d):
    real, fake = rows(seed, 9, d), rows(seed + 1, 7, d, 1.5, 0.3)
    assert kernel_distance(real, fake).value == pytest.approx(double_loop(real, fake), rel=1e-10, abs=1e-10)


@given(seed=st.integers(0, 10**6), n=st.integers(3, 30), d=st.integers(1, 8))
def test_against_torchmetrics(seed, n, d):
    real, fake = rows(seed, n, d), rows(seed + 1, n, d, 1.5, 0.3)
    assert kernel_distance(real, fake).value == pytest.approx(float(poly_mmd(real, fake)), rel=1e-9, abs=1e-9)


def test_subsets_against_torchmetrics():
    """Other subsets, so equal within the error of drawing them (5 standard errors of the two)."""
    real, fake = rows(0, 400, 6), rows(1, 300, 6, 1.2, 0.2)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=200, subset_size=100).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mean, spread = theirs.compute()
    found = kernel_distance_subsets(real, fake, subsets=200, size=100)
    assert found.value == pytest.approx(float(mean), abs=5 * 2**0.5 * found.error)
    assert found.error * 200**0.5 == pytest.approx(float(spread), rel=0.3)
    assert found.value == pytest.approx(kernel_distance(real, fake).value, abs=5 * found.error)  # both are unbiased


def expected_kernel(m1, s1, m2, s2):
    """E (x·y/D + 1)³ for independent x ~ N(m1, s1), y ~ N(m2, s2), from their first three raw moments."""
    d = len(m1)

    def second(m, s):
        return s + torch.outer(m, m)

    def third(m, s):
        cross = torch.einsum("ij,k->ijk", s, m)
        return torch.einsum("i,j,k->ijk", m, m, m) + cross + cross.permute(0, 2, 1) + cross.permute(2, 0, 1)

    first = m1 @ m2 / d
    square = (second(m1, s1) * second(m2, s2)).sum() / d**2
    cube = (third(m1, s1) * third(m2, s2)).sum() / d**3
    return float(1 + 3 * first + 3 * square + cube)


def two_gaussians():
    g = torch.Generator().manual_seed(5)
    a, b = torch.randn(2, 3, 3, generator=g, dtype=torch.float64) / 2
    m, n = torch.randn(2, 3, generator=g, dtype=torch.float64) / 2
    s, t = a @ a.mT, b @ b.mT
    truth = expected_kernel(m, s, m, s) + expected_kernel(n, t, n, t) - 2 * expected_kernel(m, s, n, t)
    return (m, a), (n, b), truth


def test_closed_form_of_two_gaussians():
    """Unbiased, and its error is its spread: 300 estimates from 40 and 60 rows."""
    (m, a), (n, b), truth = two_gaussians()
    found = [kernel_distance(m + rows(i, 40, 3) @ a.mT, n + rows(1000 + i, 60, 3) @ b.mT) for i in range(300)]
    values = torch.tensor([f.value for f in found])
    errors = torch.tensor([f.error for f in found])
    assert float(values.mean()) == pytest.approx(truth, abs=4 * float(values.std()) / 300**0.5)
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(values.std()), rel=0.25)


def test_closed_form_of_many_rows():
    (m, a), (n, b), truth = two_gaussians()
    found = kernel_distance(m + rows(1, 6000, 3) @ a.mT, n + rows(2, 6000, 3) @ b.mT)
    assert found.value == pytest.approx(truth, abs=4 * found.error)
    assert found.error < 0.05 * truth  # so that the line above says something


def test_one_law_gives_0_on_average_whatever_the_number_of_rows():
    """Where FID would be 4 times higher for the fewer rows."""
    for n in (8, 32):
        values = torch.tensor([kernel_distance(rows(i, n, 4), rows(999 + i, n, 4)).value for i in range(300)])
        assert abs(float(values.mean())) < 4 * float(values.std()) / 300**0.5
        assert (values < 0).any()


def test_copies_pull_it_below_0():
    """A set against itself is −2/N (mean k(x, x) − mean_{i≠j} k(x_i, x_j)): the two sets are not independent."""
    x = rows(0, 12, 3)
    k = (x @ x.mT / 3 + 1) ** 3
    apart = (k.sum() - k.trace()) / (12 * 11)
    assert kernel_distance(x, x).value == pytest.approx(float(-2 / 12 * (k.trace() / 12 - apart)), rel=1e-10)


def test_the_error_is_the_jackknife():
    real, fake = rows(0, 8, 3), rows(1, 6, 3, 1.5)
    without_real = torch.tensor([kernel_distance(torch.cat([real[:i], real[i + 1 :]]), fake).value for i in range(8)])
    without_fake = torch.tensor([kernel_distance(real, torch.cat([fake[:i], fake[i + 1 :]])).value for i in range(6)])
    variance = 7 * without_real.double().var(correction=0) + 5 * without_fake.double().var(correction=0)
    assert kernel_distance(real, fake).error == pytest.approx(float(variance.sqrt()), rel=1e-5)


@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_and_an_orthogonal_map_change_nothing(seed):
    real, fake = rows(seed, 20, 4), rows(seed + 1, 15, 4, 1.5)
    q = torch.linalg.qr(rows(seed + 2, 4, 4))[0]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    expected = kernel_distance(real, fake)
    for found in (kernel_distance(real[order], fake), kernel_distance(real @ q, fake @ q), kernel_distance(fake, real)):
        assert found == pytest.approx(expected, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_chunk_changes_nothing(monkeypatch, chunk):
    real, fake = rows(0, 61, 3), rows(1, 50, 3, 1.6)
    expected = kernel_distance(real, fake)
    monkeypatch.setattr(kernel, "_CHUNK", chunk)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-11)


def test_no_tensor_is_larger_than_a_chunk_of_the_kernel(largest_tensor):
    with largest_tensor:
        kernel_distance(rows(0, 3000, 4), rows(1, 2500, 4))
    assert largest_tensor.elements == 1024 * 3000


def test_subsets_are_seeded_and_whole_sets_are_all_alike():
    real, fake = rows(0, 50, 3), rows(1, 60, 3, 1.5)
    a, b = (kernel_distance_subsets(real, fake, subsets=5, size=20, seed=s) for s in (0, 1))
    assert a == kernel_distance_subsets(real, fake, subsets=5, size=20, seed=0) != b
    whole = kernel_distance_subsets(real, fake[:50], subsets=5)
    assert whole.value == pytest.approx(kernel_distance(real, fake[:50]).value, rel=1e-9)
    assert whole.error < 1e-12


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: kernel_distance(x[:2], x), "2 real feature rows are too few: give 3"),
        (lambda x: kernel_distance(x, x[:, :2]), "3 numbers, generated ones 2"),
        (lambda x: kernel_distance_subsets(x, x, subsets=1), "1 subsets of 1000 rows"),
        (lambda x: kernel_distance_subsets(x, x, size=1), "of 1 rows"),
        (lambda x: kernel_distance_subsets(x, x * torch.nan), "9 of 9 generated feature rows hold NaN"),
    ],
)
def test_refused(call, words):
    with pytest.raises(CbdmError, match=words):
        call(rows(0, 9, 3))


def test_subsets_as_papers_take_them_and_the_fewest_there_can_be():
    """100 of 1,000 rows by default; two rows and two subsets are enough, one is not."""
    real, fake = rows(0, 60, 3), rows(1, 50, 3)
    assert kernel_distance_subsets(real, fake) == kernel_distance_subsets(real, fake, subsets=100, size=1000, seed=0)
    some = kernel_distance_subsets(real, fake, size=20)
    assert (
        some
        == kernel_distance_subsets(real, fake, subsets=100, size=20, seed=0)
        != kernel_distance_subsets(real, fake, subsets=99, size=20)
    )
    two = kernel_distance_subsets(real[:2], fake[:2], subsets=2, size=2)
    assert two.value == pytest.approx(double_loop(real[:2], fake[:2]), rel=1e-12) and two.error == 0
    for subsets, size in ((1, 2), (2, 1)):
        with pytest.raises(CbdmError, match="give 2 subsets or more of 2 rows or more"):
            kernel_distance_subsets(real, fake, subsets=subsets, size=size)

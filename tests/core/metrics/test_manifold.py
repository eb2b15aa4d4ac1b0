"""Precision, recall, density and coverage against published numbers, brute force, prdc and cases done by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prdc import compute_prdc

from cbdm_core.errors import CbdmError
from cbdm_core.metrics import bounds as near
from cbdm_core.metrics import manifold
from cbdm_core.metrics.manifold import prdc, precision_recall, resampled_precision_recall


def points(seed, n, d, spread=1.0):
    return spread * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(real, fake, k, strict):
    """The definition, one point at a time."""
    real, fake = real.tolist(), fake.tolist()

    def distance(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5

    def radius(points, i):
        return sorted(distance(points[i], p) for j, p in enumerate(points) if j != i)[k - 1]

    def share(queries, points):
        radii = [radius(points, i) for i in range(len(points))]
        inside = 0
        for q in queries:
            apart = [distance(q, p) for p in points]
            inside += any(d < r or (not strict and d == r) for d, r in zip(apart, radii, strict=True))
        return inside / len(queries)

    return share(fake, real), share(real, fake)


def test_golden(official):
    found = precision_recall(torch.from_numpy(official["real"]), torch.from_numpy(official["fake"]), int(official["k"]))
    assert found == (float(official["precision"]), float(official["recall"]))


@given(seed=st.integers(0, 10**6), k=st.integers(1, 6), strict=st.booleans(), d=st.integers(1, 4))
def test_against_the_definition(seed, k, strict, d):
    real, fake = points(seed, 23, d), points(seed + 1, 17, d, spread=1.7)
    assert precision_recall(real, fake, k, strict=strict) == brute_force(real, fake, k, strict)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 3), strict=st.booleans())
def test_against_the_definition_with_ties_and_copies(seed, k, strict):
    """Points on a small lattice, where many distances are exactly equal."""
    real, fake = points(seed, 20, 2).round(), points(seed + 1, 20, 2).round()
    assert precision_recall(real, fake, k, strict=strict) == brute_force(real, fake, k, strict)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 8))
def test_against_prdc(seed, k):
    """prdc's k also leaves the point itself out, and its balls are open: the same convention as ours."""
    real, fake = points(seed, 40, 5), points(seed + 1, 30, 5, spread=1.4)
    theirs = compute_prdc(real.numpy(), fake.numpy(), k)
    assert precision_recall(real, fake, k) == (theirs["precision"], theirs["recall"])


@given(seed=st.integers(0, 10**6))
def test_swapping_the_sets_swaps_the_two(seed):
    real, fake = points(seed, 30, 3), points(seed + 1, 25, 3, spread=0.5)
    assert precision_recall(real, fake, 3) == precision_recall(fake, real, 3)[::-1]


@given(seed=st.integers(0, 10**6))
def test_the_order_of_rows_and_an_orthogonal_map_change_nothing(seed):
    real, fake = points(seed, 30, 4), points(seed + 1, 25, 4, spread=1.5)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    q = torch.linalg.qr(points(seed + 2, 4, 4))[0]
    expected = precision_recall(real, fake, 3)
    assert precision_recall(real[order], fake, 3) == expected
    assert precision_recall(real @ q, fake @ q, 3) == expected


def test_a_set_covers_itself_and_nothing_far_away():
    real = points(0, 50, 4)
    assert precision_recall(real, real, 1) == (1.0, 1.0)
    assert precision_recall(real, real + 1e3, 10) == (0.0, 0.0)


def test_a_dropped_mode_costs_recall_and_not_precision():
    near, far = points(0, 60, 2), points(1, 40, 2) + 100
    assert precision_recall(torch.cat([near, far]), near, 3) == (1.0, 0.6)


def test_the_radius_itself_is_outside_when_strict():
    """Real 0, 1, 2 with k = 1 have radius 1: a sample at 3 lies exactly at the radius of 2."""
    real, fake = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[3.0], [50.0]])
    assert precision_recall(real, fake, 1, strict=True)[0] == 0.0
    assert precision_recall(real, fake, 1, strict=False)[0] == 0.5


def test_balls_of_radius_zero_are_empty_when_strict():
    """Four copies of each point and k = 3: every radius is 0, so only closed balls hold the copies."""
    real = points(0, 5, 3).repeat(4, 1)
    assert precision_recall(real, real, 3, strict=True) == (0.0, 0.0)
    assert precision_recall(real, real, 3, strict=False) == (1.0, 1.0)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_chunk_changes_nothing(monkeypatch, chunk):
    real, fake = points(0, 61, 3), points(1, 50, 3, spread=1.6)
    expected = precision_recall(real, fake, 4)
    monkeypatch.setattr(near, "CHUNK", chunk)
    assert precision_recall(real, fake, 4) == expected
    assert 0 < expected[0] < 1  # a case in which something is at stake


@pytest.mark.parametrize(
    ("n", "m", "k", "words"),
    [
        (5, 9, 5, r"k = 5 neighbours among 5 real feature rows: k must be 1 … 4"),
        (9, 4, 4, r"k = 4 neighbours among 4 generated feature rows: k must be 1 … 3"),
        (9, 9, 0, "k = 0"),
        (0, 9, 1, "0 real feature rows are too few"),
    ],
)
def test_k_out_of_range(n, m, k, words):
    with pytest.raises(CbdmError, match=words):
        precision_recall(points(0, n, 2), points(1, m, 2), k)


def test_refused_values():
    good, bad = points(0, 9, 2), points(1, 9, 2)
    bad[3, 1] = np.nan
    with pytest.raises(CbdmError, match="1 of 9 generated feature rows hold NaN"):
        precision_recall(good, bad, 2)
    with pytest.raises(CbdmError, match="2 numbers, generated ones 3"):
        precision_recall(good, points(0, 9, 3), 2)


def brute_density_coverage(real, fake, k, strict):
    real, fake = real.tolist(), fake.tolist()

    def distance(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5

    held, covered = 0, 0
    for i, p in enumerate(real):
        radius = sorted(distance(p, q) for j, q in enumerate(real) if j != i)[k - 1]
        inside = [distance(p, q) < radius or (not strict and distance(p, q) == radius) for q in fake]
        held += sum(inside)
        covered += any(inside)
    return held / (k * len(fake)), covered / len(real)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 4), strict=st.booleans(), lattice=st.booleans())
def test_density_and_coverage_against_the_definition(seed, k, strict, lattice):
    real, fake = points(seed, 21, 2), points(seed + 1, 17, 2, spread=1.5)
    real, fake = (real.round(), fake.round()) if lattice else (real, fake)
    found = prdc(real, fake, k, strict=strict)
    assert found[2:] == brute_density_coverage(real, fake, k, strict)
    assert found[:2] == precision_recall(real, fake, k, strict=strict) == brute_force(real, fake, k, strict)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 8))
def test_all_four_against_prdc(seed, k):
    real, fake = points(seed, 40, 5), points(seed + 1, 30, 5, spread=1.4)
    theirs = compute_prdc(real.numpy(), fake.numpy(), k)
    assert prdc(real, fake, k)._asdict() == pytest.approx(theirs, rel=1e-12)


def test_density_by_hand():
    """Real 0, 1, 2 with k = 1 have radius 1: a sample at 0.5 is in two balls, one at 1.5 in two, one at 9 in none."""
    real, fake = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.5], [1.5], [9.0]])
    scores = prdc(real, fake, 1)
    assert (scores.precision, scores.density, scores.coverage) == (2 / 3, 4 / 3, 1.0)


def test_density_does_not_fall_for_an_outlier_as_precision_does():
    """A far real point with a huge ball makes every sample within it precise; density says that few balls hold it."""
    real = torch.cat([points(0, 60, 2), torch.tensor([[50.0, 0.0]], dtype=torch.float64)])
    fake = points(1, 40, 2) + torch.tensor([25.0, 25.0], dtype=torch.float64)
    scores = prdc(real, fake, 3)
    assert scores.precision > 0.9
    assert scores.density == pytest.approx(scores.precision / 3)  # in one ball each, of k = 3
    assert scores.coverage == pytest.approx(1 / 61)


@given(seed=st.integers(0, 10**6))
def test_rows_and_orthogonal_maps_leave_all_four(seed):
    real, fake = points(seed, 30, 4), points(seed + 1, 25, 4, spread=1.5)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(seed))
    q = torch.linalg.qr(points(seed + 2, 4, 4))[0]
    assert prdc(real, fake[order], 3) == prdc(real, fake, 3)
    assert prdc(real @ q, fake @ q, 3) == prdc(real, fake, 3)


def test_a_set_against_itself_covers_all_of_itself():
    real = points(0, 50, 4)
    scores = prdc(real, real, 5)
    assert scores[:2] == (1.0, 1.0) and scores.coverage == 1.0
    # A strict ball of the 5th neighbour holds its own point and 4 more.
    assert scores.density == 1.0


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_the_chunk_changes_none_of_the_four(monkeypatch, chunk):
    real, fake = points(0, 61, 3), points(1, 50, 3, spread=1.6)
    counts = torch.randint(0, 3, (4, 61), generator=torch.Generator().manual_seed(2))
    expected = prdc(real, fake, 4), resampled_precision_recall(real, fake, 4, counts, counts[:, :50])
    monkeypatch.setattr(near, "CHUNK", chunk)
    found = prdc(real, fake, 4), resampled_precision_recall(real, fake, 4, counts, counts[:, :50])
    assert found[0] == expected[0]
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert torch.equal(ours, theirs)


def test_no_tensor_is_larger_than_a_chunk_of_distances(largest_tensor):
    """At the chunk of 512, 50,000 rows hold 512 · 50,000 · 8 bytes = 205 MB at once, not 20 GB."""
    real, fake = points(0, 3000, 4), points(1, 2500, 4)
    with largest_tensor:
        prdc(real, fake, 5)
    assert largest_tensor.elements == 512 * 3000


@given(seed=st.integers(0, 10**6), k=st.integers(1, 4), lattice=st.booleans())
def test_resamples_are_the_rows_repeated(seed, k, lattice):
    real, fake = points(seed, 25, 2), points(seed + 1, 22, 2, spread=1.5)
    real, fake = (real.round(), fake.round()) if lattice else (real, fake)
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, 3, (3, 25), generator=g), torch.randint(0, 3, (3, 22), generator=g)
    a[:, 0], b[:, 0] = k + 1, k + 1  # more rows than neighbours in any case
    precision, recall = resampled_precision_recall(real, fake, k, a, b)
    for i in range(3):
        repeated = real.repeat_interleave(a[i], 0), fake.repeat_interleave(b[i], 0)
        assert (float(precision[i]), float(recall[i])) == precision_recall(*repeated, k)


def test_resamples_in_which_the_nearest_are_absent():
    """Only the far end of a line is drawn, beyond the neighbours looked at first."""
    real = torch.arange(200, dtype=torch.float64)[:, None] ** 1.01
    counts = torch.zeros(1, 200, dtype=torch.long)
    counts[0, 0], counts[0, -5:] = 1, 1
    fake = real + 0.3
    precision, recall = resampled_precision_recall(real, fake, 2, counts, torch.ones(1, 200, dtype=torch.long))
    assert (float(precision), float(recall)) == precision_recall(real[counts[0] > 0], fake, 2)


def shaped(kind, seed, n, d):
    """Rows that try the bounds: of one scale, of scales from 1e-12 to 1 on one offset, copies, or far from the rest."""
    x = points(seed, n, d)
    if kind == "offset":
        return 1e4 + x * 10.0 ** -torch.arange(n, dtype=torch.float64).remainder(13)[:, None]
    if kind == "copies":
        return x[torch.arange(n) // 3]
    if kind == "outlier":
        x[0] *= 1e6
    return x


@pytest.mark.parametrize("kind", ["plain", "offset", "copies", "outlier"])
@pytest.mark.parametrize("d", [5, 40])
@given(seed=st.integers(0, 10**6))
def test_bounds_hold_the_squared_distances(kind, d, seed):
    """low ≤ ‖x − y‖²/scale² ≤ low + 2c (‖z‖² + ‖z'‖²), with the distance as a float64 difference has it."""
    a, b = near.clouds(shaped(kind, seed, 30, d), shaped(kind, seed + 1, 20, d))
    rows = torch.arange(5, 20)
    bounds = near.Bounds.of(a, rows, b, 4)
    squared = (near.distances(a.rows[rows], b.rows[4:]) / a.scale).square()
    low = bounds.low.double()
    assert (low <= squared).all()
    assert (squared <= low + 2 * a.slack * (a.norms[rows, None] + b.norms[4:])).all()


@pytest.mark.parametrize("kind", ["plain", "offset", "copies", "outlier"])
@pytest.mark.parametrize("d", [3, 600])  # all columns, and half of a symmetric product
@pytest.mark.parametrize("chunk", [7, 512])
def test_radii_are_those_of_the_full_matrix_to_the_bit(monkeypatch, kind, d, chunk):
    monkeypatch.setattr(near, "CHUNK", chunk)
    x = shaped(kind, 3, 50, d)
    full = near.distances(x, x).fill_diagonal_(torch.inf)
    for k in (1, 4, 49):
        found = near.nearest_radii(near.clouds(x)[0], k)
        assert torch.equal(found, full.kthvalue(k, dim=1).values)


@pytest.mark.parametrize("kind", ["plain", "offset", "copies", "outlier"])
@pytest.mark.parametrize("strict", [True, False])
def test_membership_is_that_of_the_full_matrix(kind, strict):
    """Radii that are some of the very distances, so that ties decide."""
    x, y = shaped(kind, 4, 40, 30), shaped(kind, 5, 35, 30)
    y[:9] = x[:9]
    a, b = near.clouds(x, y)
    d = near.distances(x, y)
    bounds = near.Bounds.of(a, torch.arange(40), b)
    for radii in (d[:, 3:4], d[2:3], d[:, :1], d.kthvalue(4, dim=0, keepdim=True).values):
        assert torch.equal(bounds.within(radii, strict), d < radii if strict else d <= radii)


def test_pairs_are_measured_to_the_bit_as_in_a_matrix(monkeypatch):
    a, b = near.clouds(points(0, 30, 70), points(1, 20, 70))
    i, j = torch.arange(30), torch.arange(30).remainder(20)
    expected = near.distances(a.rows, b.rows)[i, j]
    assert torch.equal(a.exactly(i, b, j), expected)
    monkeypatch.setattr(near, "_GATHERED", 200)
    assert torch.equal(a.exactly(i, b, j), expected)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_a_coarser_product_is_not_trusted(precision):
    """Where torch may compute float32 products in fewer digits, float64 ones are taken."""
    before = torch.get_float32_matmul_precision()
    real, fake = points(0, 61, 40), points(1, 50, 40, spread=1.1)
    expected = prdc(real, fake, 4)
    try:
        torch.set_float32_matmul_precision(precision)
        dtype = near.clouds(real)[0].copy.dtype
        assert dtype == (torch.float32 if precision == "highest" else torch.float64)
        assert prdc(real, fake, 4) == expected
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    real, fake = points(0, 400, 64).float(), points(1, 400, 64, spread=1.05).float()
    expected = prdc(real, fake, 5)
    with torch.autocast("cpu", dtype):
        assert prdc(real, fake, 5) == expected


def test_float32_features_give_what_their_float64_copies_give():
    real, fake = points(0, 80, 40).float(), points(1, 70, 40, spread=1.1).float()
    assert prdc(real, fake, 4) == prdc(real.double(), fake.double(), 4)


@pytest.mark.parametrize("k", [1, 5])
def test_radii_of_a_resample_whose_rows_are_far_away(k):
    """Neighbours are looked for until there are copies enough: against copies that are written out."""
    points = torch.arange(300, dtype=torch.float64)[:, None] ** 1.1
    counts = torch.zeros(2, 300, dtype=torch.long)
    counts[0, 0], counts[0, 250:], counts[1, ::2] = 1, 2, 1
    found = manifold._resampled_radii(points, k, counts)
    for taken, radii in zip(counts, found, strict=True):
        written_out = points.repeat_interleave(taken, 0)
        for row in range(300):
            distances = (written_out - points[row]).abs().flatten().sort().values
            expected = distances[k] if taken[row] else -1.0  # the first is the point itself
            assert float(radii[row]) == pytest.approx(float(expected), rel=1e-12)

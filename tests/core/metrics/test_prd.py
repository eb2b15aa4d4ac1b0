"""PRD against histograms done by hand, the published formula, and sets that are equal or apart."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import MiniBatchKMeans

from cbdm_core.errors import CbdmError
from cbdm_core.metrics import prd as prd_module
from cbdm_core.metrics.bounds import distances
from cbdm_core.metrics.prd import f_beta, prd, prd_curve
from cbdm_core.metrics.seeding import seeded


def rows(seed, n, d=3, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def histogram(seed, size):
    h = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return h / h.sum()


def test_two_histograms_by_hand():
    """p = (½, ½), q = (1, 0): α = min(λ/2, 1), β = min(½, 1/λ), a rectangle with its corner (1, ½) at λ = 2."""
    precision, recall = prd_curve(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]), angles=5)
    slopes = [math.tan(math.pi / 2 * i / 4) for i in range(5)]
    assert precision.tolist() == pytest.approx([min(s / 2, 1) for s in slopes], abs=1e-9)
    assert recall.tolist() == pytest.approx([0.5] + [min(0.5, 1 / s) for s in slopes[1:]], abs=1e-9)
    # F_β at the corner: (1 + β²)·½ / (β² + ½).
    curve = prd_curve(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
    assert f_beta(*curve, 8) == pytest.approx(65 * 0.5 / 64.5, rel=1e-3)
    assert f_beta(*curve, 1 / 8) == pytest.approx((65 / 64) * 0.5 / (1 / 64 + 0.5), rel=1e-3)


def test_a_model_with_too_much_by_hand():
    """The other way round the corner is (½, 1), at λ = ½: F_β = (1 + β²)·½ / (β²/2 + 1)."""
    curve = prd_curve(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    assert f_beta(*curve, 8) == pytest.approx(65 * 0.5 / 33, rel=1e-3)
    assert f_beta(*curve, 1 / 8) == pytest.approx((65 / 64) * 0.5 / (1 / 128 + 1), rel=1e-3)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 8))
def test_the_curve_against_a_loop(seed, size):
    p, q = histogram(seed, size), histogram(seed + 1, size)
    precision, recall = prd_curve(p, q, angles=11)
    for i, theta in enumerate(np.linspace(1e-10, math.pi / 2 - 1e-10, 11)):
        slope = math.tan(theta)
        alpha = sum(min(slope * a, b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
        assert float(precision[i]) == pytest.approx(alpha, abs=1e-9)
        assert float(recall[i]) == pytest.approx(alpha / slope, abs=1e-6)  # as published, and no worse


@given(seed=st.integers(0, 10**6), size=st.integers(1, 8))
def test_swapping_the_histograms_swaps_the_two_and_lambda(seed, size):
    p, q = histogram(seed, size), histogram(seed + 1, size)
    precision, recall = prd_curve(p, q, angles=21)
    other = prd_curve(q, p, angles=21)
    torch.testing.assert_close(other[0].flip(0), recall, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(other[1].flip(0), precision, rtol=1e-6, atol=1e-8)


@given(seed=st.integers(0, 10**6))
def test_the_ends_are_the_masses_on_the_common_support(seed):
    p, q = histogram(seed, 6), histogram(seed + 1, 6)
    p[0], q[1] = 0, 0
    p, q = p / p.sum(), q / q.sum()
    precision, recall = prd_curve(p, q)
    assert float(precision[-1]) == pytest.approx(float(q[p > 0].sum()), abs=1e-8)
    assert float(recall[0]) == pytest.approx(float(p[q > 0].sum()), abs=1e-8)


def test_equal_and_disjoint_histograms():
    p = histogram(0, 9)
    equal, disjoint = prd_curve(p, p), prd_curve(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    for beta in (8, 1, 1 / 8):
        assert f_beta(*equal, beta) == pytest.approx(1, abs=1e-12)
        assert f_beta(*disjoint, beta) == 0


@pytest.mark.parametrize("seed", range(3))
def test_equal_and_disjoint_sets(seed):
    real = rows(seed, 200)
    assert prd(real, real, 2, runs=2, seed=seed) == pytest.approx((1, 1), abs=1e-12)
    assert prd(real, real + 1000, 2, runs=2, seed=seed) == (0, 0)


def test_a_dropped_mode_costs_f8_and_an_invented_one_f1_8():
    """Half of the data, or of the samples, have no counterpart; clusters lie within modes: corners (1, ½), (½, 1)."""
    near, far = rows(0, 300), rows(1, 300, shift=100)
    both = torch.cat([near, far])
    low, high = 65 * 0.5 / 64.5, (65 / 64) * 0.5 / (1 / 64 + 0.5)
    dropped, invented = prd(both, torch.cat([near, near]), runs=3), prd(torch.cat([near, near]), both, runs=3)
    assert dropped == pytest.approx((low, high), abs=0.01)
    assert invented == pytest.approx((high, low), abs=0.01)


def test_the_larger_set_is_reduced(monkeypatch):
    """1,000 real rows and 20 samples: every clustering sees 20 of each, so that it follows neither set more."""
    seen, original = [], prd_module._clustered
    monkeypatch.setattr(prd_module, "_clustered", lambda x, *rest: seen.append(x) or original(x, *rest))
    for real, fake in ((rows(0, 1000), rows(1, 20, shift=100)), (rows(1, 20), rows(0, 1000, shift=100))):
        assert prd(real, fake, runs=2) == (0, 0)
        assert [int((x < 0).all(1).sum()) for x in seen] == [20, 20]  # of 40 rows, about the middle
        assert [len(x) for x in seen] == [40, 40]
        assert not torch.equal(seen[0], seen[1])  # drawn anew
        seen.clear()


def test_it_is_seeded_and_runs_are_averaged():
    real, fake = rows(0, 150), rows(1, 100, shift=0.7)
    one, same, other = (prd(real, fake, runs=2, seed=s) for s in (0, 0, 1))
    assert one == same != other
    spread = [np.std([prd(real, fake, runs=r, seed=s).f8 for s in range(8)]) for r in (1, 6)]
    assert spread[1] < spread[0]


def test_orthogonal_maps_and_scale_change_nothing():
    real, fake = rows(0, 150), rows(1, 100, shift=0.7)
    q = torch.linalg.qr(rows(2, 3))[0]
    assert prd(4 * real @ q, 4 * fake @ q, runs=3) == pytest.approx(prd(real, fake, runs=3), abs=1e-9)


def test_fewer_different_rows_than_clusters():
    """Three points, each many times: the clusters are these, the histograms (1, 2, 3)/6 and (3, 2, 1)/6."""
    points, few = rows(0, 3), torch.tensor([10, 20, 30])
    real, fake = points.repeat_interleave(few, 0), points.repeat_interleave(few.flip(0), 0)
    curve = prd_curve(few.double() / 60, few.flip(0).double() / 60)
    assert prd(real, fake, 1, runs=2) == pytest.approx((f_beta(*curve, 8), f_beta(*curve, 1 / 8)), abs=1e-9)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: prd(rows(0, 9), rows(0, 9), 0), "num_classes = 0, runs = 10: both must be 1 or more"),
        (lambda: prd(rows(0, 9), rows(0, 9), runs=0), "runs = 0"),
        (lambda: prd(rows(0, 9), rows(0, 9), angles=10), "angles = 10: give an odd number"),
        (lambda: prd(rows(0, 0), rows(0, 9)), "0 real feature rows"),
        (lambda: prd_curve(torch.ones(2), torch.ones(3)), r"shapes \(2,\) and \(3,\)"),
        (
            lambda: prd_curve(torch.ones(2), torch.ones(2) / 2),
            "the real histogram must be ≥ 0 and sum to 1, its sum is 2",
        ),
        (lambda: prd_curve(torch.ones(2) / 2, torch.tensor([2.0, -1.0])), "the generated histogram"),
    ],
)
def test_refused(call, words):
    with pytest.raises(CbdmError, match=words):
        call()


def inertia(x, label):
    return sum(float((part - part.mean(0)).square().sum()) for part in (x[label == c] for c in label.unique()))


@pytest.mark.parametrize("d", [3, 300])  # in all directions, and first in the leading ones
def test_clusters_are_as_tight_as_scikit_learns(d):
    """30 modes and 20 clusters: the mean inertia of 5 seeds within 2 % of MiniBatchKMeans with 10 starts, or below."""
    modes = 3 * rows(9, 30, d)
    x = modes[torch.arange(1500) % 30] + rows(0, 1500, d)
    ours = [inertia(x, prd_module._clustered(x.float(), 20, seeded(s, "test"))) for s in range(5)]
    theirs = [
        inertia(x, torch.from_numpy(MiniBatchKMeans(20, n_init=10, random_state=s).fit(x.numpy()).labels_))
        for s in range(5)
    ]
    assert np.mean(ours) < 1.02 * np.mean(theirs)


@pytest.mark.parametrize("d", [3, 300])
def test_clusters_apart_are_found(d):
    """20 modes of unequal size, far apart, and 20 clusters: each cluster is a mode."""
    which = torch.arange(20).repeat_interleave(torch.arange(5, 25))
    x = (100 * rows(1, 20, d))[which] + rows(0, len(which), d)
    label = prd_module._clustered(x.float(), 20, seeded(0, "test"))
    pairs = set(zip(which.tolist(), label.tolist(), strict=True))
    assert len(pairs) == len(label.unique()) == 20


def test_steps_of_k_means_never_loosen_the_clusters():
    x = rows(0, 400, 5).float()
    label = torch.arange(400) % 7
    tightness = [inertia(x, label)]
    for _ in range(6):
        label = prd_module._lloyd(x, label, 7, 1)
        tightness.append(inertia(x, label))
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(tightness))
    assert tightness[-1] < 0.8 * tightness[0]


def test_leading_directions_keep_what_a_few_directions_hold():
    """Rows in a space of 8 of 300 dimensions: their distances are kept."""
    x = (rows(0, 500, 8) @ rows(1, 8, 300)).float()
    kept = prd_module._leading(x, 40, seeded(0, "test"))
    assert kept.shape == (500, 40)
    torch.testing.assert_close(distances(kept, kept), distances(x, x), rtol=1e-4, atol=0)


def test_copies_of_one_row_share_a_cluster_and_an_offset_takes_no_digits():
    """300 numbers a row about 1e5: 4 different rows and 20 clusters."""
    few = rows(0, 4, 300) + 1e5
    real, fake = few.repeat(30, 1), few.repeat_interleave(30, 0)
    assert prd(real, fake, runs=3) == pytest.approx((1, 1), abs=1e-12)


def test_the_last_steps_in_all_directions_tighten_clusters_without_structure(monkeypatch):
    """Isotropic rows in 120 dimensions, of which the leading 40 hold a part: inertia falls by 0.1 % or more."""
    x = rows(0, 1500, 120)

    def mean_inertia():
        return np.mean([inertia(x, prd_module._clustered(x.float(), 20, seeded(s, "test"))) for s in range(3)])

    ours = mean_inertia()
    monkeypatch.setattr(prd_module, "_FULL_STEPS", 0)
    assert ours < 0.999 * mean_inertia()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    real, fake = rows(0, 200, 64).float(), rows(1, 200, 64).float() * 1.2
    expected = prd(real, fake, 1, runs=2)
    with torch.autocast("cpu", dtype):
        assert prd(real, fake, 1, runs=2) == expected

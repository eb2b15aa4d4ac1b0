"""The embedded digits and the mixture, against counts and moments known beforehand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cbdm_core.data.sources import DATASETS, digits, mixture
from cbdm_core.errors import CbdmError


def test_digits_are_the_known_ones():
    data = digits()
    assert len(data) == 1797 and data.shape == (1, 8, 8)
    assert data.counts().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (int(data.x.min()), int(data.x.max())) == (0, 255)
    assert torch.unique(data.x).tolist() == [round(v * 255 / 16) for v in range(17)]
    first_rows = [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]
    assert data.x[0, 0, :2].tolist() == [[round(v * 255 / 16) for v in row] for row in first_rows]
    assert data.y[:5].tolist() == [0, 1, 2, 3, 4]


def test_every_registered_source_loads():
    assert set(DATASETS) >= {"digits", "mixture", "npz", "folder"}
    for name in DATASETS:
        assert callable(DATASETS[name])


def test_mixture_has_the_moments_it_states():
    """Means within 5 standard errors, covariances within 5 % (1/√(2n) = 0.35 % each) of the formulas."""
    classes, n = 7, 40_000
    data = mixture(num_classes=classes, per_class=n, dimension=3, seed=1)
    assert data.counts().tolist() == [n] * classes and data.class_names == tuple("0123456")
    for c in range(classes):
        x = data.x[data.y == c].double().numpy()
        angle = 2 * math.pi * c / classes
        ray, across = [math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0]
        np.testing.assert_allclose(x.mean(0), ray, atol=5 * 0.15 / math.sqrt(n))
        axes = np.array([ray, across, [0, 0, 1]])
        covariance = axes @ np.cov(x.T) @ axes.T
        np.testing.assert_allclose(np.diag(covariance), [0.15**2, 0.06**2, 0.1**2], rtol=0.05)
        off = covariance[~np.eye(3, dtype=bool)]
        np.testing.assert_allclose(off, 0, atol=5 * 0.15 * 0.1 / math.sqrt(n))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**40))
def test_mixture_is_a_function_of_its_arguments(classes, n, dimension, seed):
    one, two = (mixture(num_classes=classes, per_class=n, dimension=dimension, seed=seed) for _ in range(2))
    assert one.content_hash() == two.content_hash()
    other = mixture(num_classes=classes, per_class=n, dimension=dimension, seed=seed + 1)
    assert not torch.equal(one.x, other.x) and torch.equal(one.y, other.y)


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"per_class": 0}, {"dimension": 1}])
def test_mixture_refuses_what_is_too_small(wrong):
    with pytest.raises(CbdmError, match="a mixture needs num_classes ≥ 1, per_class ≥ 1 and dimension ≥ 2"):
        mixture(**wrong)

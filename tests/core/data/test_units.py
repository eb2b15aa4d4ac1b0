"""Floats are shown standardised and come back as they were, in whatever shape."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cbdm_core.data.clusters import split_classes
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.longtail import make_long_tail
from cbdm_core.data.units import Units
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.evaluation import Copies
from cbdm_core.metrics.features.named import feature_extractor

SHAPES = arrays.array_shapes(min_dims=2, max_dims=5, max_side=5)
FINITE = st.floats(-(2.0**60), 2.0**60, width=32)


def data_of(x, units=None):
    x = torch.as_tensor(x)
    return Dataset(x, torch.arange(len(x)) % 2, ("a", "b"), units=units)


@given(arrays.arrays(np.float32, SHAPES, elements=FINITE))
def test_there_and_back_is_the_same(x):
    """To 2⁻²³(|x| + |x − mean|), as promised; what is far below the scale is a zero of float32, hence 2⁻¹⁴⁰ of it."""
    data = data_of(x, Units.standardising(torch.from_numpy(x)))
    mean, scale = (np.reshape(v, (1, -1, *[1] * (x.ndim - 2))) for v in (data.units.mean, data.units.scale))
    z = data.model_input()
    back, x = data.own_units(z).numpy().astype(float), x.astype(float)
    assert z.dtype == torch.float32 and z.shape == x.shape and torch.isfinite(z).all()
    assert (abs(back - x) <= 2.0**-23 * (abs(x) + abs(x - mean)) + 2.0**-140 * (1 + scale)).all()
    assert Units.of_dict(data.units.to_dict()) == data.units


@given(arrays.arrays(np.float32, SHAPES, elements=st.floats(-1e6, 1e6, width=32)))
def test_each_channel_has_mean_0_and_variance_1_or_does_not_vary(x):
    """By numpy in float64, to the rounding of a millionth and that of float32."""
    z = data_of(x, Units.standardising(torch.from_numpy(x))).model_input().numpy().astype(float)
    columns = np.moveaxis(z, 1, 0).reshape(x.shape[1], -1)
    varies = np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
    varies = varies.min(1) < varies.max(1)
    np.testing.assert_allclose(columns.mean(1), 0, atol=2e-6)
    np.testing.assert_allclose(columns[varies].std(1), 1, rtol=1e-5)
    assert (abs(columns[~varies]) <= 1e-6).all()


def test_more_rows_than_are_taken_at_a_time():
    x = torch.randn(3000, 2, 3, generator=torch.Generator().manual_seed(0)) * 5 + 1000
    units, flat = Units.standardising(x), x.double().movedim(1, 0).flatten(1)
    np.testing.assert_allclose(units.mean, flat.mean(1), rtol=1e-8)
    np.testing.assert_allclose(units.scale, flat.std(1, correction=0), rtol=1e-6)


def test_floats_without_units_are_shown_as_they_are():
    signals, vectors = data_of(torch.randn(4, 2, 5)), data_of(torch.randn(4, 5))
    assert vectors.units is None and signals.units == Units.identity(2)
    for data in (signals, vectors):
        assert torch.equal(data.model_input(), data.x) and torch.equal(data.own_units(data.x), data.x)
        assert not data.is_images


def test_units_stay_with_the_rows_and_are_in_the_hash():
    x = torch.randn(8, 3, 4) + 7
    data = data_of(x, Units.standardising(x))
    tail, _, _ = make_long_tail(data, imbalance=0.5, n_max=2)
    for part in (data[[1, 0]], tail, split_classes(data, 2)):
        assert part.units == data.units
    assert len({d.content_hash() for d in (data, data_of(x), replace(data, units=Units.standardising(x[1:])))}) == 3


def test_features_and_copies_are_of_what_the_model_sees():
    """A column of large numbers must not be all that a distance hears."""
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e6, 1.0])
    data = data_of(x, Units.standardising(x))
    extractor = feature_extractor("pixels", data)
    copies = Copies.of(data[[0, 1, 2, 3]], data, extractor)
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    torch.testing.assert_close(copies.trained, z[:4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(copies.trained_pixels.double(), z[:4], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(copies.held_out_pixels.double(), z[4:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Units((0.0,), (1.0, 1.0)), "1 means and 2 scales"),
        (lambda: Units((), ()), "0 means and 0 scales"),
        (lambda: Units((0.0,), (0.0,)), "finite and above 0"),
        (lambda: Units((float("nan"),), (1.0,)), "means of units are finite"),
        (lambda: Units.of_dict({"mean": [0]}), "'scale'"),
        (lambda: Units.of_dict({"mean": ["a"], "scale": [1]}), "tables of mean and scale"),
        (lambda: Units.identity(2).to_model(torch.zeros(1, 3)), r"shape \(3,\) have no 2 channels"),
    ],
)
def test_refused_in_one_line(make, said):
    with pytest.raises(CbdmError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)

"""Authenticity against a loop and a nearest-neighbour library, and at samplers whose value is known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from cbdm_core.errors import CbdmError
from cbdm_core.metrics import authenticity as module
from cbdm_core.metrics.authenticity import authentic


def rows(seed, n, d=3):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=st.integers(0, 10**6), chunk=st.integers(1, 9))
def test_against_a_library(seed, chunk):
    fake, training = rows(seed, 12), rows(seed + 1, 9)
    near = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(training.numpy())
    distance, which = near.kneighbors(fake.numpy(), n_neighbors=1)
    own = near.kneighbors(training.numpy())[0][:, 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        found = authentic(fake, training)
    assert found.tolist() == [float(d > own[i]) for d, i in zip(distance[:, 0], which[:, 0], strict=True)]


def test_copies_are_not_authentic_and_far_samples_are():
    training = rows(0, 50)
    assert authentic(training + 1e-9, training).tolist() == [0.0] * 50
    assert authentic(training + 100, training).tolist() == [1.0] * 50


def test_twins_in_the_training_set_have_no_radius():
    training = torch.tensor([[0.0], [0.0], [5.0]])
    assert authentic(torch.tensor([[0.0], [0.1], [9.0], [10.5]]), training).tolist() == [0.0, 1.0, 0.0, 1.0]


def test_a_fair_sampler_on_a_line_has_a_third():
    """In one dimension two of three points are the nearest of their nearest (Clark & Evans 1955)."""
    line = torch.rand(40_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = torch.cat([authentic(some[:40], some[40:]) for some in line.split(400)])
    assert float(found.mean()) == pytest.approx(1 / 3, abs=4 * (2 / 9 / len(found)) ** 0.5)


def test_one_training_row_has_no_neighbour():
    assert authentic(rows(0, 4), rows(1, 1)).isnan().all()
    with pytest.raises(CbdmError):
        authentic(rows(0, 4, 2), rows(1, 4, 3))

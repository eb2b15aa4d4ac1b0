"""What the metrics do with few rows, with copies, and what their intervals are intervals for."""

from __future__ import annotations

import pytest
import torch

from cbdm_core.metrics.frechet import Moments, frechet_distance
from cbdm_core.metrics.kernel import kernel_distance
from cbdm_core.metrics.manifold import prdc
from cbdm_core.metrics.uncertainty import frechet_interval
from tests.truth.common import normal

EXACT = Moments(torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64), 10**9)


@pytest.mark.parametrize("n", [200, 1000])
def test_fid_of_the_truth_itself_is_its_bias(n):
    """n rows of N(0, I) against N(0, I), D = 8: D/n + D(D + 1)/4n on average; twice that against n other rows."""
    bias = 8 / n + 8 * 9 / (4 * n)
    one = sum(frechet_distance(EXACT, normal(i, n, 8)) for i in range(60)) / 60
    both = sum(frechet_distance(normal(1000 + i, n, 8), normal(i, n, 8)) for i in range(60)) / 60
    assert one == pytest.approx(bias, rel=0.08) and both == pytest.approx(2 * bias, rel=0.08)


def test_centred_intervals_are_for_the_figure_at_this_number_of_rows():
    """D = 16, 100 rows a side, means 0.5 apart: the mean figure is held, the population's 0.25 never."""

    def pair(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        fake = normal(2 * i + 1, 100, 16)
        fake[:, 0] += 0.5
        return normal(2 * i, 100, 16), fake

    mean = sum(frechet_distance(*pair(1000 + i)) for i in range(200)) / 200
    intervals = [frechet_interval(*pair(i), 60, i, centred=True) for i in range(40)]
    assert sum(low <= mean <= high for low, high in intervals) >= 32
    assert not any(low <= 0.25 <= high for low, high in intervals)
    assert mean > 4 * 0.25


def test_copies_beat_fresh_samples_of_the_truth_where_the_reference_holds_them():
    """The reference's own rows against 300 new ones of the same law: FID 0, KID below 0, precision and recall 1."""
    reference, fresh = normal(0, 300, 8), normal(1, 300, 8)
    assert frechet_distance(reference, reference) < 1e-6 < 0.1 < frechet_distance(reference, fresh)
    assert kernel_distance(reference, reference).value < -0.01
    found, honest = prdc(reference, reference, 5), prdc(reference, fresh, 5)
    assert (found.precision, found.recall) == (1.0, 1.0)
    assert honest.precision < 0.95 and honest.recall < 0.95
    unseen = normal(2, 300, 8)
    assert frechet_distance(unseen, reference) > 0.1, "against rows that were not copied the advantage is gone"

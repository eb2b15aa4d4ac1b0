"""Classes split into clusters of equal size: nothing is lost, like stays with like, and common and rare interleave."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cbdm_core.data.clusters import balanced_clusters, split_classes
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.sources import digits
from cbdm_core.errors import CbdmError


def inertia(x, found, clusters):
    return sum(float((x[found == j] - x[found == j].mean(0)).square().sum()) for j in range(clusters))


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(0, 20))
def test_sizes_differ_by_one_at_most(seed, clusters, more):
    x = torch.randn(clusters + more, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    sizes = torch.bincount(balanced_clusters(x, clusters), minlength=clusters)
    assert sizes.max() - sizes.min() <= 1 and sizes.sum() == len(x)


def test_clusters_that_lie_apart_are_found():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
    truth = torch.arange(30) % 3
    x = centres[truth] + 0.5 * torch.randn(30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = balanced_clusters(x, 3)
    assert len({(int(a), int(b)) for a, b in zip(truth, found)}) == 3  # one name for each


def test_no_exchange_of_two_rows_is_better():
    """A balanced assignment to fixed centres is optimal; swapping any two rows costs at least as much."""
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = balanced_clusters(x, 3)
    centres = torch.stack([x[found == j].mean(0) for j in range(3)])
    cost = torch.cdist(x, centres).square()
    for a, b in itertools.combinations(range(12), 2):
        now = cost[a, found[a]] + cost[b, found[b]]
        assert cost[a, found[b]] + cost[b, found[a]] >= now - 1e-9


def test_forty_classes_of_digits():
    whole, split = digits(), digits(clusters=4)
    assert split.num_classes == 40 and torch.equal(split.x, whole.x) and torch.equal(split.y % 10, whole.y)
    assert split.counts().min() >= 43 and split.counts().max() <= 46
    assert split.class_names[:2] == ("0.0", "1.0") and split.class_names[-1] == "9.3"
    # Likeness: the sum of squares within classes falls, and by more than equal parts by chance would make it fall.
    x, generator = whole.x.flatten(1).double(), torch.Generator().manual_seed(0)
    for digit in range(10):
        rows = (whole.y == digit).nonzero()[:, 0]
        by_chance = (torch.arange(len(rows)) % 4)[torch.randperm(len(rows), generator=generator)]
        assert inertia(x[rows], split.y[rows] // 10, 4) < 0.9 * inertia(x[rows], by_chance, 4)


def test_features_of_ones_own_decide():
    data = Dataset(torch.zeros(8, 2), torch.zeros(8, dtype=torch.long), ("a",))
    features = torch.tensor([[0.0], [9.0]] * 4)
    assert split_classes(data, 2, features=features).y.view(4, 2).diff(dim=1).abs().tolist() == [[1]] * 4


def test_what_cannot_be_split_is_refused():
    data = Dataset(torch.zeros(3, 2), torch.tensor([0, 0, 1]), ("a", "b"))
    assert split_classes(data, 1) is data
    with pytest.raises(CbdmError, match=r"class b has 1 examples, and 2 clusters"):
        split_classes(data, 2)
    with pytest.raises(CbdmError, match=r"clusters = 0"):
        split_classes(data, 0)
    with pytest.raises(CbdmError, match=r"features of shape \(2, 1\) for 3"):
        split_classes(data, 2, features=torch.zeros(2, 1))
    for wrong in (2.5, "4"):
        with pytest.raises(CbdmError, match=r"clusters = .* whole number"):
            split_classes(data, wrong)
    with pytest.raises(CbdmError, match=r"NaN or infinite"):
        split_classes(data, 1 + 1, features=torch.full((3, 1), torch.nan))
    told = Dataset(torch.zeros(2, 2), torch.tensor([0, 0]), ("a",), condition=torch.zeros(2, 1))
    with pytest.raises(CbdmError, match=r"conditions .* leave clusters at 1"):
        split_classes(told, 2)

"""Labels for data whose condition is no class: regions of common and rare conditions, to count and judge by."""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = ["REGIONS", "by_combination", "by_density"]

REGIONS = ("high density", "medium density", "low density")


def by_density(condition: Tensor, neighbours: int = 10) -> Tensor:
    """(N,) long 0, 1, 2: thirds by the distance to the `neighbours`-th nearest other condition, near ones first.

    Args:
        condition: (N, D) float vectors.
        neighbours: k in [1, N − 1].

    Raises:
        CbdmError: k out of range.
    """
    if not 1 <= neighbours < len(condition):
        raise CbdmError(f"neighbours must be 1 … {len(condition) - 1}, got {neighbours}")
    from scipy.spatial import KDTree  # at need: it takes a tenth of a second

    points = condition.double().numpy()
    radius, _ = KDTree(points).query(points, k=neighbours + 1)
    return _thirds(torch.from_numpy(radius[:, -1]))


def by_combination(attributes: Tensor) -> Tensor:
    """(N,) long 0, 1, 2: common, middling and rare combinations.

    Combinations in order of their number of examples are cut where a third, and two thirds, of the examples are
    reached.

    Args:
        attributes: (N, A) int64 of 0 and 1.
    """
    _, which, counts = torch.unique(attributes, dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(counts, descending=True, stable=True)
    before = counts[order].cumsum(0) - counts[order]
    region = torch.empty_like(counts)
    region[order] = (3 * before) // len(attributes)
    return region[which]


def _thirds(value: Tensor) -> Tensor:
    """(N,) 0, 1, 2: the lowest, middle and highest third."""
    place = torch.argsort(torch.argsort(value, stable=True), stable=True)
    return 3 * place // len(value)

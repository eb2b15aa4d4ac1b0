"""Improved precision and recall: is a point within the other set's neighbourhoods?"""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.frechet import checked_features

__all__ = ["precision_recall"]

_CHUNK = 512  # rows of a distance matrix held at once


def precision_recall(real: Tensor, fake: Tensor, k: int = 5, *, strict: bool = True) -> tuple[float, float]:
    """Improved precision and recall of generated features.

    A set's manifold is the union of balls around its points, each reaching to that point's k-th nearest neighbour in
    the set, itself not counted. Precision is the fraction of `fake` within the manifold of `real`, recall the fraction
    of `real` within the manifold of `fake`.

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        k: neighbours, 1 ≤ k < min(N, M).
        strict: a point at exactly the radius is outside (d < r, as the program published with CBDM and prdc have it);
            False counts it inside (d ≤ r, as the paper has it). They differ on ties only: a point with k or more exact
            copies in its own set has r = 0, and a strict ball of radius 0 holds nothing.

    Returns:
        (precision, recall), each in [0, 1]. Memory is O(N + M) times a chunk; distances are float64 differences, exact
        enough that a point is at distance 0 from its copy.

    Raises:
        CbdmError: k out of range for either set, NaN or infinite values, or different D.

    Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 1–2.
    """
    real, fake = checked_features(real, "real", least=1), checked_features(fake, "generated", least=1)
    if real.shape[1] != fake.shape[1]:
        raise CbdmError(
            f"real features have {real.shape[1]} numbers, generated ones {fake.shape[1]}: use one extractor"
        )
    for what, points in (("real", real), ("generated", fake)):
        if not 1 <= k < len(points):
            raise CbdmError(
                f"k = {k} neighbours among {len(points)} {what} feature rows: k must be 1 … {len(points) - 1}; "
                "lower k or give more rows"
            )
    precision = _covered(fake, real, _radii(real, k), strict)
    recall = _covered(real, fake, _radii(fake, k), strict)
    return precision, recall


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # The usual ‖x‖² − 2x·y + ‖y‖² cancels: copies would be apart, and ties would fall either way.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(points: Tensor, k: int) -> Tensor:
    """(N,) the distance of each point to its k-th nearest neighbour, itself not counted."""
    parts = []
    for rows in torch.arange(len(points), device=points.device).split(_CHUNK):
        d = _distances(points[rows], points)
        d[torch.arange(len(rows), device=d.device), rows] = torch.inf
        parts.append(d.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(parts)


def _covered(queries: Tensor, points: Tensor, radii: Tensor, strict: bool) -> float:
    """The fraction of queries inside at least one ball."""
    inside = 0
    for rows in queries.split(_CHUNK):
        d = _distances(rows, points)
        inside += int((d < radii if strict else d <= radii).any(1).sum())
    return inside / len(queries)

"""Are the samples among the data, and the data among the samples? Precision, recall, density and coverage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.frechet import checked_pair

__all__ = ["ManifoldScores", "distances", "prdc", "precision_recall", "resampled_precision_recall"]

_CHUNK = 512  # rows of a distance matrix held at once


class ManifoldScores(NamedTuple):
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    Args:
        precision: the fraction of samples inside at least one ball of a real row, in [0, 1].
        recall: the fraction of real rows inside at least one ball of a sample, in [0, 1].
        density: how many real balls hold a sample, over k; ≥ 0, about 1 for samples like the data. One outlier among
            the data, with a large ball, raises it less than it raises precision.
        coverage: the fraction of real balls that hold a sample, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, fake: Tensor, k: int = 5, *, strict: bool = True) -> ManifoldScores:
    """The four scores of balls around the points, each reaching to that point's k-th nearest neighbour in its own set.

    With r_i the radius of real row x_i and s_j that of sample y_j:
    precision = mean_j [∃i: ‖x_i − y_j‖ < r_i], recall = mean_i [∃j: ‖x_i − y_j‖ < s_j],
    density = Σ_ij [‖x_i − y_j‖ < r_i] / (k M), coverage = mean_i [∃j: ‖x_i − y_j‖ < r_i].

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        k: neighbours, the point itself not counted, 1 ≤ k < min(N, M).
        strict: a point at exactly the radius is outside (d < r, as the programs of CBDM and prdc have it); False counts
            it inside (d ≤ r, as the first paper has it). They differ on ties only: a point with k or more exact copies
            in its own set has r = 0, and a strict ball of radius 0 holds nothing.

    Returns:
        The four. Memory is O(N + M) times a chunk of 512 rows; distances are float64 differences, exact enough that a
        point is at distance 0 from its copy.

    Raises:
        CbdmError: k out of range for either set, NaN or infinite values, or different D.

    Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 1–2; Naeem et al. 2020 (arXiv 2002.09797), eq. 4 and 6.
    """
    real, fake = _checked(real, fake, k)
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    samples_inside, pairs = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    for rows, radii in zip(fake.split(_CHUNK), fake_radii.split(_CHUNK), strict=True):
        d = distances(rows, real)
        inside = _within(d, real_radii, strict)
        samples_inside += int(inside.any(1).sum())
        pairs += int(inside.sum())
        covered |= inside.any(0)
        recalled |= _within(d, radii[:, None], strict).any(0)
    N, M = len(real), len(fake)
    return ManifoldScores(samples_inside / M, int(recalled.sum()) / N, pairs / (k * M), int(covered.sum()) / N)


def precision_recall(real: Tensor, fake: Tensor, k: int = 5, *, strict: bool = True) -> tuple[float, float]:
    """Improved precision and recall of generated features: the first two of `prdc`, with its arguments and errors."""
    return prdc(real, fake, k, strict=strict)[:2]


def resampled_precision_recall(
    real: Tensor, fake: Tensor, k: int, real_counts: Tensor, fake_counts: Tensor
) -> tuple[Tensor, Tensor]:
    """`precision_recall` of B resamples at the cost of little more than one: distances are computed once.

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        k: neighbours, 1 ≤ k < min(N, M).
        real_counts: (B, N) how often each real row is taken; each resample has more than k rows.
        fake_counts: (B, M) the same for the samples.

    Returns:
        (B,) precisions and (B,) recalls, equal to `precision_recall` of the rows repeated.

    Raises:
        CbdmError: as `prdc`.
    """
    real, fake = _checked(real, fake, k)
    real_radii, fake_radii = _resampled_radii(real, k, real_counts), _resampled_radii(fake, k, fake_counts)
    precision = _resampled_share(fake, fake_counts, real, real_radii)
    return precision, _resampled_share(real, real_counts, fake, fake_radii)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) Euclidean distances of (N, D) and (M, D) rows; exactly 0 between copies."""
    # The usual ‖x‖² − 2x·y + ‖y‖² cancels: copies would be apart, and ties would fall either way.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _checked(real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    real, fake = checked_pair(real, fake)
    for what, points in (("real", real), ("generated", fake)):
        if not 1 <= k < len(points):
            raise CbdmError(
                f"k = {k} neighbours among {len(points)} {what} feature rows: k must be 1 … {len(points) - 1}; "
                "lower k or give more rows"
            )
    return real, fake


def _within(d: Tensor, radii: Tensor, strict: bool) -> Tensor:
    return d < radii if strict else d <= radii


def _radii(points: Tensor, k: int) -> Tensor:
    """(N,) the distance of each point to its k-th nearest neighbour, itself not counted."""
    parts = []
    for rows in torch.arange(len(points), device=points.device).split(_CHUNK):
        d = distances(points[rows], points)
        d[torch.arange(len(rows), device=d.device), rows] = torch.inf
        parts.append(d.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(parts)


def _resampled_radii(points: Tensor, k: int, counts: Tensor) -> Tensor:
    """(B, N) the radii in each resample, in which further copies of a point are neighbours at distance 0; −1 if absent.

    Of each point's neighbours in order of distance, the radius is that at which the copies reach k.
    """
    parts = []
    for rows in torch.arange(len(points), device=points.device).split(_CHUNK):
        d = distances(points[rows], points)
        d[torch.arange(len(rows), device=d.device), rows] = -1  # the point itself comes first, before its twins
        near = min(len(points), 8 * k + 24)
        while True:
            at, which = d.topk(near, dim=1, largest=False)
            at = at.clamp(min=0)
            radii = torch.stack([_weighted_radii(at, c[which], k) for c in counts])
            if near == len(points) or not radii.isinf().any():
                break
            near = min(len(points), 4 * near)
        parts.append(radii)
    return torch.cat(parts, 1)


def _weighted_radii(at: Tensor, copies: Tensor, k: int) -> Tensor:
    """(rows,) the distance at which the copies, the point itself left out, reach k; ∞ if never, −1 if absent."""
    reached = copies.cumsum(1) - 1 >= k
    radius = at.gather(1, reached.long().argmax(1, keepdim=True))[:, 0]
    radius = radius.where(reached[:, -1], torch.inf)
    return radius.where(copies[:, 0] > 0, -1.0)


def _resampled_share(queries: Tensor, query_counts: Tensor, points: Tensor, radii: Tensor) -> Tensor:
    """(B,) the fraction of each resample's queries inside at least one (open) ball of that resample."""
    inside = torch.zeros(len(radii), dtype=torch.float64, device=queries.device)
    for rows, counts in zip(queries.split(_CHUNK), query_counts.split(_CHUNK, dim=1), strict=True):
        d = distances(rows, points)
        held = torch.stack([(d < r).any(1) for r in radii])
        inside += (held * counts).sum(1)
    return inside / query_counts.sum(1)

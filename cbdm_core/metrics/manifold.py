"""Are the samples among the data, and the data among the samples? Precision, recall, density and coverage."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics import bounds
from cbdm_core.metrics.bounds import Bounds, clouds, distances, nearest_radii
from cbdm_core.metrics.checks import checked_pair

__all__ = ["ManifoldScores", "prdc", "precision_recall", "resampled_precision_recall"]


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
        The four, as float64 differences give them: a point is at distance 0 from its copy. A float32 product says
        within proven bounds which pairs need them, so that few do, unless many distances tie. Memory is O(N + M) times
        a chunk of 512 rows, and one float32 copy of the features.

    Raises:
        CbdmError: k out of range for either set, NaN or infinite values, or different D.

    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 1–2; Naeem et al. 2020 (arXiv 2002.09797), eq. 4 and 6.
    """
    real, fake = _checked(real, fake, k, dtype=None)
    real_cloud, fake_cloud = clouds(real, fake)
    real_radii, fake_radii = nearest_radii(real_cloud, k), nearest_radii(fake_cloud, k)
    samples_inside, pairs = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = torch.zeros_like(recalled)
    for rows in torch.arange(len(fake), device=fake.device).split(bounds.CHUNK):
        bracket = Bounds.of(fake_cloud, rows, real_cloud)
        inside = bracket.within(real_radii[None], strict)
        samples_inside += int(inside.any(1).sum())
        pairs += int(inside.sum())
        covered |= inside.any(0)
        recalled |= bracket.within(fake_radii[rows, None], strict).any(0)
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


def _checked(real: Tensor, fake: Tensor, k: int, dtype: torch.dtype | None = torch.float64) -> tuple[Tensor, Tensor]:
    real, fake = checked_pair(real, fake, dtype=dtype)
    for what, points in (("real", real), ("generated", fake)):
        if not 1 <= k < len(points):
            raise CbdmError(
                f"k = {k} neighbours among {len(points)} {what} feature rows: k must be 1 … {len(points) - 1}; "
                "lower k or give more rows"
            )
    return real, fake


def _resampled_radii(points: Tensor, k: int, counts: Tensor) -> Tensor:
    """(B, N) the radii in each resample, in which further copies of a point are neighbours at distance 0; −1 if absent.

    Of each point's neighbours in order of distance, the radius is that at which the copies reach k.
    """
    parts = []
    for rows in torch.arange(len(points), device=points.device).split(bounds.CHUNK):
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
    for rows, counts in zip(queries.split(bounds.CHUNK), query_counts.split(bounds.CHUNK, dim=1), strict=True):
        d = distances(rows, points)
        held = torch.stack([(d < r).any(1) for r in radii])
        inside += (held * counts).sum(1)
    return inside / query_counts.sum(1)

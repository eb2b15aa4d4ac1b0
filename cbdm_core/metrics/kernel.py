"""Kernel distance (KID): the squared maximum mean discrepancy under a cubic kernel, unbiased at any number of rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.checks import checked_pair
from cbdm_core.metrics.seeding import seeded

__all__ = ["KernelDistance", "kernel_distance", "kernel_distance_subsets"]

_CHUNK = 1024  # rows of a kernel matrix held at once


class KernelDistance(NamedTuple):
    """An estimate of MMD², which is unbiased and so may be below 0, and its standard error."""

    value: float
    error: float


def kernel_distance(real: Tensor, fake: Tensor) -> KernelDistance:
    """MMD² from all rows at once, with the standard error that comes from having these rows and no others.

    k(x, y) = (x·y/D + 1)³ and MMD² = mean_{i≠j} k(x_i, x_j) + mean_{i≠j} k(y_i, y_j) − 2 mean_ij k(x_i, y_j), which is
    unbiased for any number of rows: unlike FID it may be compared between sets of different sizes, and between classes.
    The two sets must be independent: samples that copy real rows pull it below 0 by far more than the error.
    The error is the jackknife's (each row left out once), which the row sums of the kernel give in closed form.

    Args:
        real: (N, D) features, N ≥ 3.
        fake: (M, D) features, M ≥ 3.

    Returns:
        (value, standard error); memory is O(N + M) times a chunk of 1,024 rows.

    Raises:
        CbdmError: fewer than 3 rows, NaN or infinite values, or different D.

    Source: Bińkowski et al. 2018 (arXiv 1801.01401), eq. 4 and section 4; Gretton et al. 2012, eq. 3.
    """
    real, fake = checked_pair(real, fake, least=3)
    within_real, across_real = _row_sums(real, real, skip_self=True), _row_sums(real, fake)
    within_fake, across_fake = _row_sums(fake, fake, skip_self=True), _row_sums(fake, real)
    N, M = len(real), len(fake)
    pairs_real, pairs_fake = within_real.sum(), within_fake.sum()
    total = across_real.sum()
    value = pairs_real / (N * (N - 1)) + pairs_fake / (M * (M - 1)) - 2 * total / (N * M)
    # Without row i its terms leave the double sum twice and the cross sum once.
    without_real = (pairs_real - 2 * within_real) / ((N - 1) * (N - 2)) - 2 * (total - across_real) / ((N - 1) * M)
    without_fake = (pairs_fake - 2 * within_fake) / ((M - 1) * (M - 2)) - 2 * (total - across_fake) / (N * (M - 1))
    variance = sum((len(v) - 1) * v.var(correction=0) for v in (without_real, without_fake))
    return KernelDistance(float(value), float(torch.as_tensor(variance)) ** 0.5)


def kernel_distance_subsets(
    real: Tensor, fake: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID as papers report it: the mean of MMD² over random subsets of equal size.

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        subsets: how many, ≥ 2.
        size: rows of a subset of each set, ≥ 2, drawn without replacement; min(size, N, M) are taken.
        seed: of the subsets.

    Returns:
        (mean, standard deviation/√subsets). The error is that of the drawing of subsets only, 0 where a subset is the
        whole set; `kernel_distance` tells how far the rows themselves determine the value.

    Raises:
        CbdmError: fewer than 2 rows, NaN or infinite values, different D, or numbers out of range.

    Source: Bińkowski et al. 2018 (arXiv 1801.01401), section 4.
    """
    real, fake = checked_pair(real, fake, least=2)
    if subsets < 2 or size < 2:
        raise CbdmError(f"{subsets} subsets of {size} rows: give 2 subsets or more of 2 rows or more")
    count = min(size, len(real), len(fake))
    rng = seeded(seed, "kernel_distance")

    def drawn(rows: Tensor) -> Tensor:
        return rows[torch.from_numpy(rng.choice(len(rows), count, replace=False))]

    values = torch.tensor([_unbiased(drawn(real), drawn(fake)) for _ in range(subsets)], dtype=torch.float64)
    return KernelDistance(float(values.mean()), float(values.std() / subsets**0.5))


def _unbiased(x: Tensor, y: Tensor) -> float:
    n = len(x)
    within = _row_sums(x, x, skip_self=True).sum() + _row_sums(y, y, skip_self=True).sum()
    return float(within / (n * (n - 1)) - 2 * _row_sums(x, y).sum() / n**2)


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    """(x·y/D + 1)³ of all pairs of rows."""
    k = (x @ y.mT).div_(x.shape[1]).add_(1)
    return k.square().mul_(k)


def _row_sums(x: Tensor, y: Tensor, *, skip_self: bool = False) -> Tensor:
    """(N,) Σ_j k(x_i, y_j); `skip_self` leaves out j = i."""
    sums = torch.cat([_cubic(rows, y).sum(1) for rows in x.split(_CHUNK)])
    return sums - ((x * x).sum(1) / x.shape[1] + 1) ** 3 if skip_self else sums

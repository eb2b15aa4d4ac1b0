"""The Fréchet distance between two sets of features (FID in whatever features they are), and its limit of many rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.checks import checked_features, checked_pair
from cbdm_core.metrics.seeding import seeded

__all__ = ["Moments", "few_rows", "fid_infinity", "frechet_distance"]


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of a set of features: all that the distance needs, so that a reference is read once.

    Args:
        mean: (D,) float64.
        cov: (D, D) float64, divided by n − 1.
        n: the number of rows behind them.
    """

    mean: Tensor
    cov: Tensor
    n: int

    @classmethod
    def of(cls, features: Tensor, what: str = "given") -> Moments:
        """The moments of (N, D) features, N ≥ 2.

        Raises:
            CbdmError: fewer than 2 rows, or NaN or infinite values; the line calls the rows `what`.
        """
        x = checked_features(features, what, least=2)
        mean = x.mean(0)
        centred = x - mean
        return cls(mean, _gram(centred) / (len(x) - 1), len(x))

    @classmethod
    def weighted(cls, features: Tensor, counts: Tensor) -> Moments:
        """The moments of the features with row i taken `counts[i]` times, without making the copies.

        Args:
            features: (N, D) float64.
            counts: (N,) whole numbers ≥ 0 with a sum of 2 or more.
        """
        weights = counts.to(features.dtype)
        n = int(counts.sum())
        mean = weights @ features / n
        centred = (features - mean) * weights.sqrt()[:, None]
        return cls(mean, _gram(centred) / (n - 1), n)


def _panels(D: int) -> list[slice]:
    """The columns of a (D, D) matrix in four parts: of a triangle, about half of the products are saved."""
    width = -(-D // 4)
    return [slice(start, min(start + width, D)) for start in range(0, D, width)]


def _gram(x: Tensor) -> Tensor:
    """(D, D) XᵀX of (N, D) rows: one triangle is multiplied out and mirrored."""
    product = x.new_empty(x.shape[1], x.shape[1])
    for columns in _panels(x.shape[1]):
        part = x[:, columns.start :].mT @ x[:, columns]
        product[columns.start :, columns] = part
        product[columns, columns.stop :] = part[columns.stop - columns.start :].mT
    return product


def frechet_distance(real: Tensor | Moments, fake: Tensor | Moments) -> float:
    """The squared Fréchet (2-Wasserstein) distance between two Gaussians with the moments of the features.

    ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½, in float64, by the eigenvalues of a symmetric matrix and no
    matrix square root of an unsymmetric product; eigenvalues below 0 are rounding and count as 0, and so does a
    distance below 0. Where a covariance is singular the rounding is about 1e-8 of its trace. Of few rows, N·M < D²,
    no covariance is made: with centred rows X and Y the last trace is the sum of the singular values of XYᵀ.

    Args:
        real: (N, D) features, or their moments.
        fake: (M, D) features, or their moments.

    Returns:
        A number ≥ 0 in squared units of the features. It is biased upwards for few rows (for unit variance
        by about (D + D(D + 1)/4)·(1/N + 1/M)): compare figures of the same numbers of rows only.

    Raises:
        CbdmError: fewer than 2 rows, NaN or infinite values, those whose squares are infinite, or different D.

    Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """
    if isinstance(real, Tensor) and isinstance(fake, Tensor) and few_rows(real, fake):
        return _distance_of_rows(*checked_pair(real, fake, least=2))
    a = real if isinstance(real, Moments) else Moments.of(real, "real")
    b = fake if isinstance(fake, Moments) else Moments.of(fake, "generated")
    if a.mean.shape != b.mean.shape:
        raise CbdmError(f"real features have {len(a.mean)} numbers, generated ones {len(b.mean)}: use one extractor")
    apart = _finite((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace())
    units = [_unit(moments.cov.trace()) for moments in (a, b)]  # the product of both could be too large, or vanish
    cross = _trace_of_root(*(moments.cov / unit**2 for moments, unit in zip((a, b), units, strict=True)))
    return max(0.0, float(apart - 2 * (cross * units[0] * units[1])))


def few_rows(real: Tensor, fake: Tensor) -> bool:
    """Whether the (N, M) products are fewer than the numbers of a covariance: up to there they cost no more."""
    return real.ndim == fake.ndim == 2 and len(real) * len(fake) < real.shape[1] ** 2


def _distance_of_rows(real: Tensor, fake: Tensor) -> float:
    """The same by the rows: tr (Σ₁^½ Σ₂ Σ₁^½)^½ is the nuclear norm of XYᵀ, each over √(n − 1)."""
    x, y = ((rows - rows.mean(0)) / math.sqrt(len(rows) - 1) for rows in (real, fake))
    apart = _finite((real.mean(0) - fake.mean(0)).square().sum() + x.square().sum() + y.square().sum())
    cross = torch.linalg.svdvals(x @ y.mT).sum()
    return max(0.0, float(apart - 2 * cross))


def _finite(apart: Tensor) -> Tensor:
    """‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂, where it is finite: of NaN `max` would make a distance of 0."""
    if not apart.isfinite():
        raise CbdmError("the features are too large to be squared: divide real and generated ones by the same number")
    return apart


def _unit(trace: Tensor) -> float:
    """A power of two near the root of a trace: to divide by it and its square rounds nothing."""
    return 2.0 ** ((math.frexp(float(trace))[1] - 1) // 2)


def _trace_of_root(first: Tensor, second: Tensor) -> Tensor:
    """tr (A^½ B A^½)^½ for symmetric A, B ≥ 0: the roots of the eigenvalues of LᵀBL, whatever L with A = LLᵀ."""
    factor, failed = torch.linalg.cholesky_ex(first)
    if failed:  # A is singular: A^½ does, which costs more
        values, vectors = torch.linalg.eigh(first)
        factor = vectors * values.clamp(min=0).sqrt()
    product = factor.mT @ second @ factor if failed else _lower_of_product(factor, second)
    return torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()  # which reads the lower triangle


def _lower_of_product(factor: Tensor, second: Tensor) -> Tensor:
    """LᵀBL for a lower triangular L and a symmetric B, of which only the lower triangle need be right."""
    if factor.device.type != "cpu":
        return factor.mT @ second @ factor
    from scipy.linalg import get_lapack_funcs  # at need: it takes a tenth of a second

    # LAPACK makes use of both shapes, at a quarter of the cost.
    (sygst,) = get_lapack_funcs(("sygst",), (second.numpy(),))
    product, _ = sygst(second.numpy(), factor.numpy(), itype=2, lower=1)
    return torch.from_numpy(product)


def fid_infinity(real: Tensor | Moments, fake: Tensor, points: int = 15, seed: int = 0) -> float:
    """The Fréchet distance extrapolated to infinitely many rows, which takes off its bias of order 1/N.

    Least squares of FID = FID∞ + b/s on `points` shares s of the rows, evenly spaced up to all of them; the smallest
    subset has max(N/10, min(N/2, 5D)) rows, for with few rows to a dimension the bias is no longer linear in 1/N.

    Args:
        real: (N, D) features, of which the same share is taken, so that the bias of a finite reference goes too; or
            their moments, which stay as they are, as published for a large reference.
        fake: (M, D) features.
        points: subsets, ≥ 2.
        seed: of the subsets, drawn without replacement.

    Returns:
        FID∞ in squared units of the features. It has no bias of first order, so where the two laws agree it is below 0
        about half the time; its spread is larger than that of FID.

    Raises:
        CbdmError: fewer than 4 rows, NaN or infinite values, different D, or `points` < 2.

    Source: Chong & Forsyth 2020 (arXiv 1911.07023), section 4.
    """
    if points < 2:
        raise CbdmError(f"points = {points}: a line needs 2 or more")
    fake = checked_features(fake, "generated", least=4)
    sets = [fake] if isinstance(real, Moments) else [checked_features(real, "real", least=4), fake]
    fewest, dimension = min(map(len, sets)), fake.shape[1]
    smallest = max(fewest / 10, min(fewest / 2, 5 * dimension), 2)
    rng = seeded(seed, "fid_infinity")
    inverse, found = [], []
    for share in np.linspace(smallest / fewest, 1, points):
        taken = [_subset(rows, float(share), rng) for rows in sets]
        found.append(frechet_distance(real if isinstance(real, Moments) else taken[0], taken[-1]))
        inverse.append(len(fake) / len(taken[-1]))
    return float(np.polynomial.polynomial.polyfit(inverse, found, 1)[0])


def _subset(rows: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """This share of the rows, drawn without replacement."""
    return rows[torch.from_numpy(rng.choice(len(rows), max(2, round(share * len(rows))), replace=False))]

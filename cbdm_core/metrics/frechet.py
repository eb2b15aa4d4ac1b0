"""The Fréchet distance between two sets of features (FID in whatever features they are)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = ["Moments", "checked_features", "frechet_distance"]


def checked_features(features: Tensor, what: str, least: int) -> Tensor:
    """(N, D) in float64, finite, with at least `least` rows.

    Raises:
        CbdmError: another number of axes, too few rows, or rows with NaN or infinite values.
    """
    if features.ndim != 2:
        raise CbdmError(f"{what} features must be (N, D), got {tuple(features.shape)}: flatten each row")
    if len(features) < least:
        raise CbdmError(f"{len(features)} {what} feature rows are too few: give {least} or more")
    bad = int((~torch.isfinite(features).all(1)).sum())
    if bad:
        raise CbdmError(
            f"{bad} of {len(features)} {what} feature rows hold NaN or infinite values: remove or mend them"
        )
    return features.detach().to(torch.float64)


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
        return cls(mean, centred.mT @ centred / (len(x) - 1), len(x))


def frechet_distance(real: Tensor | Moments, fake: Tensor | Moments) -> float:
    """The squared Fréchet (2-Wasserstein) distance between two Gaussians with the moments of the features.

    ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁^½ Σ₂ Σ₁^½)^½, in float64, with two symmetric eigendecompositions and no matrix
    square root of an unsymmetric product; eigenvalues below 0 are rounding and count as 0, and so does a distance below
    0. Where a covariance is singular the rounding is about 1e-8 of its trace.

    Args:
        real: (N, D) features, or their moments.
        fake: (M, D) features, or their moments.

    Returns:
        A number ≥ 0 in squared units of the features. It is biased upwards for few rows (by about D/N for unit
        variance): compare figures of the same numbers of rows only.

    Raises:
        CbdmError: fewer than 2 rows, NaN or infinite values, or different D.

    Heusel et al. 2017 (arXiv 1706.08500), eq. 6.
    """
    a = real if isinstance(real, Moments) else Moments.of(real, "real")
    b = fake if isinstance(fake, Moments) else Moments.of(fake, "generated")
    if a.mean.shape != b.mean.shape:
        raise CbdmError(f"real features have {len(a.mean)} numbers, generated ones {len(b.mean)}: use one extractor")
    cross = _trace_of_root(a.cov, b.cov)
    distance = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    return max(0.0, float(distance))


def _trace_of_root(first: Tensor, second: Tensor) -> Tensor:
    """tr (A^½ B A^½)^½ for symmetric A, B ≥ 0."""
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    return torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()

"""The denoiser of a Gaussian with a mean for each class and one covariance for all: what a few images can teach."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError

__all__ = ["PooledGaussian"]

_NOTHING = 1e-12  # of the largest variance: below it a direction has none


@dataclass(frozen=True, eq=False)
class PooledGaussian:
    """N(x̄_c, Σ_w), with Σ_w the pooled covariance within classes, by its eigenvectors.

    Args:
        means: (K, D) x̄_c; NaN for a class without images.
        basis: (D, R) orthonormal eigenvectors of Σ_w.
        variances: (R,) their variances, > 0.
        rest: the variance in each of the other D − R directions, ≥ 0.
    """

    means: Tensor
    basis: Tensor
    variances: Tensor
    rest: float

    @classmethod
    def of(cls, x_0: Tensor, y: Tensor, num_classes: int, *, most: int = 4096) -> PooledGaussian:
        """The class means and Σ_w = Σ_i (x_i − x̄_{y_i})(x_i − x̄_{y_i})ᵀ/(N − K') of K' classes with images.

        One eigendecomposition of size min(N, D). Where both are above `most`, so many residuals, drawn at random, give
        the directions, and the variance they miss is spread over the other directions.

        Args:
            x_0: (N, …) images.
            y: (N,) long, in [0, K).
            num_classes: K.
            most: bound on the size of the eigendecomposition, ≥ 1.

        Raises:
            CbdmError: no image, or labels that disagree with the images.
        """
        if len(x_0) == 0 or y.shape != (len(x_0),):
            raise CbdmError(f"{len(x_0)} images with labels {tuple(y.shape)}: give one image or more, and a label each")
        x, counts = x_0.flatten(1).to(real_dtype(x_0.device)), torch.bincount(y, minlength=num_classes)
        sums = x.new_zeros(num_classes, x.shape[1]).index_add_(0, y, x)
        means = sums / counts[:, None]  # 0/0 is the NaN of a class without images
        residuals = x - means[y]
        degrees = max(1, len(x) - int((counts > 0).sum()))
        total = float(residuals.square().sum()) / degrees
        if min(residuals.shape) > most:
            order = Draws(0, 0, torch.arange(len(x))).bits("pooled residuals", 1)[:, 0].argsort()[:most]
            residuals = residuals[order.to(x.device)] * (len(x) / most) ** 0.5
        basis, variances = _principal(residuals / degrees**0.5)
        others = x.shape[1] - len(variances)
        rest = max(0.0, total - float(variances.sum())) / others if others else 0.0
        return cls(means, basis, variances, rest if rest > _NOTHING * total else 0.0)

    def eps(self, x_t: Tensor, y: Tensor, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        """ε̂ = σ_t (α_t² Σ_w + σ_t² I)^{-1} (x_t − α_t x̄_y), the best denoiser of this Gaussian.

        Args:
            x_t: (B, …) noised images.
            y: (B,) long, the class of each.
            alpha_t: (B,).
            sigma_t: (B,), > 0.

        Returns:
            (B, …) in the dtype of `x_t`; NaN for a class without images.
        """
        alpha, sigma = (part.to(self.means.dtype)[:, None] for part in (alpha_t, sigma_t))
        away = x_t.flatten(1).to(self.means.dtype) - alpha * self.means[y]
        inside = away @ self.basis
        outside = (away - inside @ self.basis.mT) / (alpha**2 * self.rest + sigma**2)
        solved = (inside / (alpha**2 * self.variances + sigma**2)) @ self.basis.mT + outside
        return (sigma * solved).reshape(x_t.shape).to(x_t.dtype)


def _principal(residuals: Tensor) -> tuple[Tensor, Tensor]:
    """(eigenvectors, eigenvalues) of RᵀR, those above 0, by the smaller of the two products."""
    rows, dimension = residuals.shape
    if rows < dimension:
        variances, left = torch.linalg.eigh(residuals @ residuals.mT)
        found = variances > _NOTHING * variances[-1]
        return residuals.mT @ left[:, found] / variances[found].sqrt(), variances[found]
    variances, basis = torch.linalg.eigh(residuals.mT @ residuals)
    found = variances > _NOTHING * variances[-1]
    return basis[:, found], variances[found]

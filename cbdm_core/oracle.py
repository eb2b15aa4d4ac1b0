"""A Gaussian mixture with labels, whose ε̂(x_t, t, c), null prediction and class posteriors are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.schedules import NoiseSchedule

__all__ = ["GaussianMixtureOracle"]


class GaussianMixtureOracle(ScoreNetwork):
    """Class c is N(μ_c, Σ_c) with probability q(c); at time t it is N(α_t μ_c, α_t² Σ_c + σ_t² I).

    Everything is float64. A class of probability 0 is legal: it can be conditioned on, and the null never sees it.

    Args:
        means: (K, D).
        covariances: (K, D, D), symmetric and positive definite.
        class_probs: (K,) q(c) ≥ 0, with a positive sum; normalised here.
        schedule: the noise schedule.

    Raises:
        CbdmError: shapes that disagree, covariances that are none, or probabilities that are none.
    """

    means: Tensor
    covariances: Tensor
    class_probs: Tensor

    def __init__(self, means: Tensor, covariances: Tensor, class_probs: Tensor, schedule: NoiseSchedule) -> None:
        super().__init__()
        if means.ndim != 2:
            raise CbdmError(f"means are (K, D), one row a class, got the shape {tuple(means.shape)}")
        classes, dimension = means.shape
        if covariances.shape != (classes, dimension, dimension) or class_probs.shape != (classes,):
            raise CbdmError(
                f"{classes} means in {dimension} dimensions need covariances {(classes, dimension, dimension)} and "
                f"probabilities {(classes,)}, got {tuple(covariances.shape)} and {tuple(class_probs.shape)}"
            )
        symmetric = torch.allclose(covariances, covariances.mT)
        if not symmetric or torch.linalg.cholesky_ex(covariances.double()).info.any():
            raise CbdmError("covariances must be symmetric and positive definite: add a little to their diagonal")
        if not (class_probs >= 0).all() or not 0 < class_probs.sum() < math.inf:
            raise CbdmError(f"class probabilities are 0 or more with a positive sum, got {class_probs.tolist()}")
        self.schedule = schedule
        self.register_buffer("means", means.double())
        self.register_buffer("covariances", covariances.double())
        self.register_buffer("class_probs", class_probs.double() / class_probs.sum())

    @classmethod
    def ring(
        cls, schedule: NoiseSchedule, counts: Sequence[float] = (100, 30, 10, 3), *, radius: float = 2.0
    ) -> GaussianMixtureOracle:
        """A 2-D mixture on a ring: class c at angle 2πc/K, an ellipse turned with it, probability ∝ counts[c]."""
        angle = 2 * math.pi * torch.arange(len(counts), dtype=torch.float64) / len(counts)
        along = torch.stack([angle.cos(), angle.sin()], dim=-1)
        across = torch.stack([-angle.sin(), angle.cos()], dim=-1)
        covariances = 0.3 * along[:, :, None] * along[:, None, :] + 0.05 * across[:, :, None] * across[:, None, :]
        return cls(radius * along, covariances, torch.tensor(counts, dtype=torch.float64), schedule)

    def all_classes(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, K, D) ε̂ under every class: σ_t (α_t² Σ_c + σ_t² I)^{-1} (x_t − α_t μ_c)."""
        _, sigma_t, _, solved = self._solved(x_t, t)
        return (sigma_t[:, None, None] * solved).to(x_t.dtype)

    def class_posterior(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, K) q(c | x_t)."""
        return torch.softmax(self.class_probs.log() + self.class_log_densities(x_t, t), dim=-1)

    def class_log_densities(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, K) log p_t(x_t | c)."""
        factor, _, away, solved = self._solved(x_t, t)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        squares = (away * solved).sum(-1)
        return -0.5 * (squares + log_det + self.means.shape[1] * math.log(2 * math.pi))

    def log_density(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """(B,) log p_t(x_t | c), or log p_t(x_t) of the whole mixture where c is null."""
        by_class = self.class_log_densities(x_t, t)
        shown = by_class.gather(1, self._labels(c)[:, None])[:, 0]
        return torch.where(c.present, shown, torch.logsumexp(self.class_probs.log() + by_class, dim=-1))

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        """ε̂ under c; under null Σ_c q(c | x_t) ε̂_c, the posterior mean."""
        e = self.all_classes(x_t, t)
        shown = e[torch.arange(len(x_t), device=x_t.device), self._labels(c)]
        null = torch.einsum("bk,bkd->bd", self.class_posterior(x_t, t).to(e.dtype), e)
        return torch.where(c.present[:, None], shown, null)

    def sample(self, c: Condition, *, draws: Draws) -> Tensor:
        """(B, D) exact data of class c; null rows draw their class from q."""
        label = torch.where(c.present, self._labels(c), draws.categorical("oracle class", self.class_probs))
        z = draws.normal("oracle", self.means.shape[1], dtype=torch.float64)
        return self.means[label] + torch.einsum("bij,bj->bi", torch.linalg.cholesky(self.covariances)[label], z)

    def _labels(self, c: Condition) -> Tensor:
        """(B,) the labels that are shown, 0 on null rows, whose label may be anything."""
        label = torch.where(c.present, c.value, torch.zeros_like(c.value))
        # Without this −1 would mean the last class.
        wrong = label[(label < 0) | (label >= len(self.means))]
        if len(wrong):
            raise CbdmError(f"the label {int(wrong[0])} is no class of this mixture: allowed 0 … {len(self.means) - 1}")
        return label

    def _solved(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(Cholesky factors (B, K, D, D), σ_t (B,), x_t − α_t μ_c and its solve (B, K, D))."""
        alpha_t, sigma_t = self.schedule(t)
        eye = torch.eye(self.means.shape[1], dtype=torch.float64, device=x_t.device)
        spread = alpha_t[:, None, None, None] ** 2 * self.covariances + sigma_t[:, None, None, None] ** 2 * eye
        factor = torch.linalg.cholesky(spread)
        away = x_t.double()[:, None, :] - alpha_t[:, None, None] * self.means
        return factor, sigma_t, away, torch.cholesky_solve(away[..., None], factor)[..., 0]

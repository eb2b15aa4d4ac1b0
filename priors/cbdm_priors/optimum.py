"""The closed-form optimum of CBDM over the oracle: what infinite data and capacity would converge to."""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.errors import CbdmError
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.priors import LabelPrior
from cbdm_priors.laws.affinity import Affinity
from cbdm_priors.laws.counts import Null
from cbdm_priors.penalties.penalty import TimeWeight, linear

__all__ = ["BalancedOptimum", "balanced_optimum", "null_optimum", "shrunk_optimum"]


def balanced_optimum(e: Tensor, r: Tensor, law: Tensor, strength: Tensor, gamma: float) -> Tensor:
    """The predictions e_c at which the gradient of CBDM vanishes, at each x_t.

    They solve A e = diag(r) e* with A = diag(r(1+λ) + γλ Pᵀr) − λ diag(r)P − γλ (diag(r)P)ᵀ. Every row of A sums to
    r_c, so A is an M-matrix and the solution is unique where all r_c > 0. Where r_c = 0 and nothing draws c, e_c is
    undetermined and e*_c is kept.

    Args:
        e: (B, K, D) the true conditional predictions e*_c.
        r: (B, K) class posteriors q(c | x_t).
        law: (K,) a law π(y'), or (K, K) rows π(y' | c).
        strength: (B,) λ = τ·w(t) ≥ 0.
        gamma: γ ≥ 0.

    Returns:
        (B, K, D) predictions.
    """
    classes = r.shape[-1]
    law = law.to(r.dtype).expand(classes, classes)
    lam = strength.to(r.dtype)[:, None]
    joint = r[:, :, None] * law
    diagonal = r * (1 + lam) + gamma * lam * joint.sum(1)
    matrix = torch.diag_embed(diagonal) - lam[:, :, None] * (joint + gamma * joint.transpose(1, 2))
    free = diagonal <= 0
    scale = torch.where(free, torch.ones_like(diagonal), diagonal)[:, :, None]
    eye = torch.eye(classes, dtype=r.dtype, device=r.device)
    matrix = torch.where(free[:, :, None], eye, matrix / scale)
    right = torch.where(free[:, :, None], e, r[:, :, None] * e / scale)
    return torch.linalg.solve(matrix, right)


def null_optimum(e: Tensor, e_null: Tensor, strength: Tensor) -> Tensor:
    """e_c = (e*_c + λ e*_∅)/(1 + λ), the optimum under the null law, for every γ.

    The null branch stays at e*_∅: Σ r_c e_c − e_∅ = (e*_∅ − e_∅)/(1 + λ), so both of its pulls vanish there.

    Args:
        e: (B, K, D) the true conditional predictions.
        e_null: (B, D) the true unconditional prediction.
        strength: (B,) λ.
    """
    lam = strength.to(e.dtype)[:, None, None]
    return (e + lam * e_null[:, None, :]) / (1 + lam)


def shrunk_optimum(e: Tensor, law: Tensor, strength: Tensor) -> Tensor:
    """e_c = (e*_c + λ_c m)/(1 + λ_c) with m = Σ w_y e*_y, w ∝ π/(1 + λ): shrinkage to the law's own mean.

    The target is the model's mean Σ π_y e_y, and inserting e_y gives m: classes that are pulled more count less in it.

    Args:
        e: (B, K, D) the true conditional predictions.
        law: (K,) π.
        strength: (K,) or (B, K) λ_c ≥ 0.
    """
    share = law.to(e.dtype) / (1 + strength.to(e.dtype))
    weight = (share / share.sum(-1, keepdim=True)).expand(e.shape[:2])
    mean = torch.einsum("bk,bkd->bd", weight, e)
    lam = strength.to(e.dtype).expand(e.shape[:2])[:, :, None]
    return (e + lam * mean[:, None, :]) / (1 + lam)


class BalancedOptimum(ScoreNetwork):
    """CBDM's optimum over a Gaussian mixture as a score network; the null branch is the oracle's own.

    Args:
        oracle: the mixture.
        target: a law over its labels, given the label or not, or `Null`.
        tau: τ ≥ 0.
        gamma: γ ≥ 0.
        time_weight: w(t).

    Raises:
        CbdmError: a law that is no `LabelPrior`, `Affinity` or `Null`.
    """

    def __init__(
        self,
        oracle: GaussianMixtureOracle,
        target: LabelPrior | Affinity | Null,
        *,
        tau: float = 1.0,
        gamma: float = 0.25,
        time_weight: TimeWeight = linear,
    ) -> None:
        super().__init__()
        if not isinstance(target, LabelPrior | Affinity | Null):
            raise CbdmError(f"the closed form needs a law over labels or the null law, got {type(target).__name__}")
        self.oracle, self.target = oracle, target
        self.tau, self.gamma, self.time_weight = tau, gamma, time_weight

    def all_classes(self, x_t: Tensor, t: Tensor) -> Tensor:
        """(B, K, D) the optimum's prediction under every class."""
        e, strength = self.oracle.all_classes(x_t, t), self.tau * self.time_weight(t)
        if isinstance(self.target, Null):
            hidden = Condition.of(torch.zeros(len(x_t), dtype=torch.long, device=x_t.device)).null()
            return null_optimum(e, self.oracle(x_t, t, hidden), strength)
        law = self.target.table if isinstance(self.target, Affinity) else self.target.probs
        return balanced_optimum(e, self.oracle.class_posterior(x_t, t), law, strength, self.gamma)

    def forward(self, x_t: Tensor, t: Tensor, c: Condition) -> Tensor:
        shown = self.all_classes(x_t, t)[torch.arange(len(x_t), device=x_t.device), c.value]
        return torch.where(c.present[:, None], shown, self.oracle(x_t, t, c.null()))

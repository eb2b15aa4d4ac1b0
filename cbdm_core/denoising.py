"""The denoising loss: the innermost adjustment, so that the core trains alone."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import DenoisingStep, PriorAdjustment
from cbdm_core.registry import Registry

__all__ = ["LOSS_WEIGHTS", "Constant", "DenoisingLoss", "LossWeight", "MinSNR", "mean_squared"]

LOSS_WEIGHTS = Registry(
    "loss weight",
    "cbdm.loss_weights",
    {"constant": "cbdm_core.denoising:Constant", "min-snr": "cbdm_core.denoising:MinSNR"},
)


def mean_squared(a: Tensor, b: Tensor) -> Tensor:
    """(B,) mean over everything but the rows of (a − b)², in float32 at least."""
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return (a.to(dtype) - b.to(dtype)).square().flatten(1).mean(1)


class LossWeight(ABC):
    """The factor w(t) of the ε-loss."""

    @abstractmethod
    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        """(B,) weights ≥ 0 from (B,) coefficients."""


class Constant(LossWeight):
    """w(t) = 1: the simple loss (Ho et al. 2020, eq. 14)."""

    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        return torch.ones_like(alpha_t)


class MinSNR(LossWeight):
    """w(t) = min(SNR, γ)/SNR with SNR = α²/σ² (Hang et al. 2023, Min-SNR-γ for ε-prediction).

    Args:
        gamma: the cap on the signal-to-noise ratio, > 0; 5 in the paper.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise CbdmError(f"min-snr needs gamma > 0, got {gamma}")
        self.gamma = gamma

    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        # γ/SNR rather than a quotient with SNR below, which is 0 at α = 0.
        return torch.clamp(self.gamma * sigma_t.square() / alpha_t.square(), max=1.0)


class DenoisingLoss(PriorAdjustment):
    """w(t) · mean (ε̂ − ε)², the term "denoising" (Ho et al. 2020, eq. 14).

    Args:
        weight: the factor w(t); constant 1 by default.
    """

    def __init__(self, weight: LossWeight | None = None) -> None:
        super().__init__()
        self.weight = weight or Constant()

    def forward(self, step: DenoisingStep) -> dict[str, Tensor]:
        return {"denoising": self.loss_weight(step) * mean_squared(step.eps_hat, step.eps)}

    def loss_weight(self, step: DenoisingStep) -> Tensor:
        return self.weight(step.alpha_t.flatten(), step.sigma_t.flatten())

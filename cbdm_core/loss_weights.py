"""The factor w(t) of the denoising loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.registry import Registry

__all__ = [
    "LOSS_WEIGHTS",
    "Constant",
    "EDMWeight",
    "FlowWeight",
    "LossWeight",
    "MinSNR",
    "VWeight",
    "X0Weight",
]

LOSS_WEIGHTS = Registry(
    "loss weight",
    "cbdm.loss_weights",
    {
        "constant": "cbdm_core.loss_weights:Constant",
        "min-snr": "cbdm_core.loss_weights:MinSNR",
        "x_0": "cbdm_core.loss_weights:X0Weight",
        "v": "cbdm_core.loss_weights:VWeight",
        "flow": "cbdm_core.loss_weights:FlowWeight",
        "edm": "cbdm_core.loss_weights:EDMWeight",
    },
)


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

    Raises:
        CbdmError: γ that is not above 0.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        if not gamma > 0:
            raise CbdmError(f"min-snr needs gamma > 0, got {gamma}")
        self.gamma = gamma

    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        # γ/SNR rather than a quotient with SNR below, which is 0 at α = 0.
        return torch.clamp(self.gamma * sigma_t.square() / alpha_t.square(), max=1.0)


class X0Weight(LossWeight):
    """w(t) = σ²/α²: the loss is (x̂_0 − x_0)², since x̂_0 − x_0 = −(σ/α)(ε̂ − ε)."""

    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        return (sigma_t / alpha_t).square()


class VWeight(LossWeight):
    """w(t) = ((α² + σ²)/α)²: the loss is (v̂ − v)² with v = αε − σx_0; 1/α² where α² + σ² = 1.

    Source: Salimans & Ho 2022, section 4 and appendix D.
    """

    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        return (alpha_t + sigma_t * (sigma_t / alpha_t)).square()


class FlowWeight(LossWeight):
    """w(t) = ((α + σ)/α)²: the loss is (û − u)² with u = ε − x_0; 1/(1 − t)² under rectified flow."""

    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        return (1 + sigma_t / alpha_t).square()


class EDMWeight(LossWeight):
    """w(t) = 1 + (σ̄/σ_d)² with σ̄ = σ/α: the loss is (F̂ − F)² in what the prediction "edm" says.

    It is λ(σ̄) = (σ̄² + σ_d²)/(σ̄ σ_d)² on the squared error of x̂_0, which is σ̄² times that of ε̂.

    Args:
        sigma_data: σ_d > 0, as in `Predicts`.

    Raises:
        CbdmError: σ_d that is not above 0.

    Source: Karras et al. 2022, appendix B.6 and table 1.
    """

    def __init__(self, sigma_data: float = 0.5) -> None:
        if not 0 < sigma_data < math.inf:
            raise CbdmError(f"edm needs the data's standard deviation sigma_data > 0, got {sigma_data}")
        self.sigma_data = sigma_data

    def __call__(self, alpha_t: Tensor, sigma_t: Tensor) -> Tensor:
        return 1 + (sigma_t / (alpha_t * self.sigma_data)).square()

"""Noise schedules: how much signal and how much noise at time t."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError
from cbdm_core.interfaces import NoiseSchedule
from cbdm_core.registry import Registry

__all__ = ["SCHEDULES", "Cosine", "Linear"]

SCHEDULES = Registry(
    "schedule",
    "cbdm.schedules",
    {"linear": "cbdm_core.schedules:Linear", "cosine": "cbdm_core.schedules:Cosine"},
)


def _from_log_alphas_bar(log_alphas_bar: Tensor) -> tuple[Tensor, Tensor]:
    """(√ᾱ, √(1 − ᾱ)) from log ᾱ; expm1 keeps the digits of a small σ."""
    return torch.exp(log_alphas_bar / 2), torch.sqrt(-torch.expm1(log_alphas_bar))


class Linear(NoiseSchedule):
    """The exact T-step table of β_i rising linearly: ᾱ_i = Π_{j≤i} (1 − β_j) stands at t = (i + 1)/T.

    Between the points log ᾱ is linear, and α(0) = 1. Training times are the T points, as published.

    Args:
        steps: T ≥ 1.
        beta_1: β_0 in (0, 1).
        beta_T: β_{T−1} in [beta_1, 1).

    Raises:
        CbdmError: any of these out of range.

    Source: Ho et al., Denoising Diffusion Probabilistic Models, 2020, section 4.
    """

    def __init__(self, *, steps: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> None:
        if steps < 1 or not 0 < beta_1 <= beta_T < 1:
            raise CbdmError(
                f"linear needs steps ≥ 1 and 0 < beta_1 ≤ beta_T < 1, got {steps}, {beta_1} and {beta_T}: the "
                "published values are 1000, 1e-4 and 0.02"
            )
        self.steps = steps
        self.domain = (1 / steps, 1.0)
        # The published table is spaced in float32 and multiplied up in float64; all in float64 would move ᾱ by 1e-8.
        betas = torch.linspace(beta_1, beta_T, steps, dtype=torch.float32).double()
        self.alphas_bar = torch.cumprod(1 - betas, 0)
        self._log_table = torch.cat([torch.zeros(1, dtype=torch.float64), self.alphas_bar.log()])

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        place = t.to(real_dtype(t.device)) * self.steps
        # (i + 1)/T · T may miss the whole number by a bit, which must not leave the table's point. No wider than that:
        # times that differ must keep log-SNRs that differ.
        whole = place.round()
        place = torch.where((place - whole).abs() < 1e-14 * self.steps, whole, place)
        low = place.floor().clamp(0, self.steps - 1)
        table = self._log_table.to(t.device, place.dtype)
        left, right = table[low.long()], table[low.long() + 1]
        part = place - low
        return _from_log_alphas_bar(torch.where(part == 1, right, left + part * (right - left)))

    def draw_t(self, draws: Draws) -> Tensor:
        return (torch.floor(draws.uniform("t", 1)[:, 0] * self.steps) + 1) / self.steps


class Cosine(NoiseSchedule):
    """ᾱ(t) = f(t)/f(0) with f(t) = cos²(π/2 · (t + s)/(1 + s)), at real t.

    At t = 1 there is no signal left and log-SNR is −∞, so the domain ends at 0.999 (the published table clips β there);
    it starts at 0.001, where σ is 0.006. Near the end an error of ε̂ counts 1/α ≈ 640 times in x̂_0: train a network that
    predicts v (`Predicts`).

    Args:
        s: offset > 0 that keeps β from vanishing near t = 0.

    Raises:
        CbdmError: s ≤ 0.

    Source: Nichol & Dhariwal, Improved DDPM, 2021, eq. 17.
    """

    domain = (0.001, 0.999)

    def __init__(self, *, s: float = 0.008) -> None:
        if not 0 < s < math.inf:
            raise CbdmError(f"cosine needs an offset s > 0, got {s}: the published value is 0.008")
        self.s = s

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(real_dtype(t.device))
        start = math.pi / 2 * self.s / (1 + self.s)
        angle = math.pi / 2 * (t + self.s) / (1 + self.s)
        alpha_t = torch.cos(angle) / math.cos(start)
        # 1 − ᾱ = sin(a − a_0) sin(a + a_0) / cos² a_0: no cancellation near t = 0.
        variance = torch.sin(angle - start) * torch.sin(angle + start) / math.cos(start) ** 2
        return alpha_t.clamp(min=0), torch.sqrt(variance.clamp(0, 1))

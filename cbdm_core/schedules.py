"""Noise schedules: how much signal and how much noise at time t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError, check_at_most
from cbdm_core.registry import Registry

__all__ = [
    "EDM",
    "SCHEDULES",
    "VP",
    "Cosine",
    "Linear",
    "NoiseSchedule",
    "RectifiedFlow",
    "at_time",
    "check_times",
    "per_row",
    "uniform_times",
]

SCHEDULES = Registry(
    "schedule",
    "cbdm.schedules",
    {
        "linear": "cbdm_core.schedules:Linear",
        "cosine": "cbdm_core.schedules:Cosine",
        "vp": "cbdm_core.schedules:VP",
        "rectified-flow": "cbdm_core.schedules:RectifiedFlow",
        "edm": "cbdm_core.schedules:EDM",
    },
)


def _from_log_alphas_bar(log_alphas_bar: Tensor) -> tuple[Tensor, Tensor]:
    """(√ᾱ, √(1 − ᾱ)) from log ᾱ; expm1 keeps the digits of a small σ."""
    return torch.exp(log_alphas_bar / 2), torch.sqrt(-torch.expm1(log_alphas_bar))


def per_row(value: Tensor, like: Tensor) -> Tensor:
    """(B,) → (B, 1, …, 1) in the dtype of `like`, so that it multiplies `like` row by row."""
    return value.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


class NoiseSchedule(ABC):
    """How much signal and noise there is at time t: x_t = α_t x_0 + σ_t ε.

    `domain` = (t_min, t_max) is the closed interval on which log-SNR is finite and strictly decreasing; training and
    sampling stay inside (a sampler's last step may end at t = 0, where α = 1 and σ = 0).
    """

    domain: tuple[float, float]

    @abstractmethod
    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(α_t, σ_t), each of the shape of `t`, in float64 where the device has it."""

    def log_snr(self, t: Tensor) -> Tensor:
        """log(α_t² / σ_t²), strictly decreasing on `domain`."""
        alpha_t, sigma_t = self(t)
        return 2 * (torch.log(alpha_t) - torch.log(sigma_t))

    def draw_t(self, draws: Draws) -> Tensor:
        """(B,) training times, uniform on `domain`."""
        t_min, t_max = self.domain
        return t_min + (t_max - t_min) * draws.uniform("t", 1)[:, 0]

    def grid(self, steps: int) -> list[float]:
        """`steps` + 1 times for a sampler, from t_max to 0: `uniform_times`, where a schedule does not say otherwise.

        Raises:
            CbdmError: `steps` < 1.
        """
        return uniform_times(self, steps)


def uniform_times(schedule: NoiseSchedule, steps: int) -> list[float]:
    """`steps` + 1 times, uniform from the schedule's t_max to 0 (diffusers calls it trailing).

    Raises:
        CbdmError: `steps` < 1.
    """
    if steps < 1:
        raise CbdmError(f"steps must be 1 or more, got {steps}")
    return [schedule.domain[1] * (steps - i) / steps for i in range(steps + 1)]


def check_times(schedule: NoiseSchedule, times: Tensor) -> None:
    """Refuse times outside a schedule's domain; a rounding of 1e-9 is let pass.

    Raises:
        CbdmError: one of them is outside.
    """
    low, high = schedule.domain
    outside = times[(times < low - 1e-9) | (times > high + 1e-9)]
    if len(outside):
        raise CbdmError(f"time {float(outside[0]):g} is outside the schedule's domain: give times from {low} to {high}")


def at_time(schedule: NoiseSchedule, t: float) -> tuple[float, float]:
    """(α_t, σ_t) as Python floats, which cost a sampler less than tensors do."""
    alpha_t, sigma_t = schedule(torch.tensor(t, dtype=torch.float64))
    return float(alpha_t), float(sigma_t)


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
        check_at_most(10**7, steps=steps)
        self.steps = steps
        self.domain = (1 / steps, 1.0)
        # The published table is spaced in float32 and multiplied up in float64; all in float64 would move ᾱ by 1e-8.
        betas = torch.linspace(beta_1, beta_T, steps, dtype=torch.float32).double()
        self.alphas_bar = torch.cumprod(1 - betas, 0)
        self._log_table = torch.cat([torch.zeros(1, dtype=torch.float64), self.alphas_bar.log()])
        self._tables: dict[torch.device, Tensor] = {}  # a copy on each device, made once

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        place = t.to(real_dtype(t.device)) * self.steps
        # (i + 1)/T · T may miss the whole number by a bit, which must not leave the table's point. No wider than that:
        # times that differ must keep log-SNRs that differ.
        whole = place.round()
        place = torch.where((place - whole).abs() < 1e-14 * self.steps, whole, place)
        low = place.floor().clamp(0, self.steps - 1)
        table = self._tables.get(t.device)
        if table is None:
            table = self._tables[t.device] = self._log_table.to(t.device, place.dtype)
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


class VP(NoiseSchedule):
    """The variance-preserving SDE: log α_t = −t²(β_max − β_min)/4 − t β_min/2 and σ_t² = 1 − α_t².

    It is the limit of the T-step table of `Linear` with β_i = β(t)/T. The domain starts at 0.001, where σ is 0.01 as at
    the table's first step (at 0 log-SNR is infinite), and ends at 1, where α is 0.007.

    Args:
        beta_min: β(0) > 0.
        beta_max: β(1) ≥ beta_min; beta_min + beta_max ≤ 100, so that α_1 ≥ e^{−25} and log-SNR is finite.

    Raises:
        CbdmError: rates out of range.

    Source: Song et al., Score-Based Generative Modeling through SDEs, 2021, eq. 32–33.
    """

    domain = (0.001, 1.0)

    def __init__(self, *, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max or not beta_min + beta_max <= 100:
            raise CbdmError(
                f"vp needs 0 < beta_min ≤ beta_max with a sum of at most 100, got {beta_min} and {beta_max}: the "
                "published values are 0.1 and 20"
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(real_dtype(t.device))
        return _from_log_alphas_bar(-t * (self.beta_min + t * (self.beta_max - self.beta_min) / 2))


class RectifiedFlow(NoiseSchedule):
    """α_t = 1 − t, σ_t = t: straight lines from data to noise.

    At t = 0 log-SNR is +∞ and at t = 1 −∞, so the domain is (0.001, 0.999), where log-SNR is ±13.8 and an error of ε̂
    counts at most 999 times in x̂_0: train a network that predicts the flow (`Predicts`).

    Args:
        logit_normal: (m, s) draws training times with logit t ~ N(m, s²), clamped into the domain; (0, 1) is the
            paper's choice. None draws them uniformly.

    Raises:
        CbdmError: a mean that is not finite, or a deviation that is not above 0.

    Source: Liu et al., Flow Straight and Fast, 2022, eq. 1; Esser et al., Scaling Rectified Flow Transformers, 2024,
    section 3.1 (logit-normal times).
    """

    domain = (0.001, 0.999)

    def __init__(self, *, logit_normal: tuple[float, float] | None = None) -> None:
        if logit_normal is not None:
            _check_normal("rectified-flow", *logit_normal)
        self.logit_normal = logit_normal

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(real_dtype(t.device))
        return 1 - t, t

    def draw_t(self, draws: Draws) -> Tensor:
        if self.logit_normal is None:
            return super().draw_t(draws)
        return torch.sigmoid(_normal_times(draws, *self.logit_normal)).clamp(*self.domain)


class EDM(NoiseSchedule):
    """Exploding variance: α = 1, σ_t = (σ_min^{1/ρ} + t' (σ_max^{1/ρ} − σ_min^{1/ρ}))^ρ with t' = (t − 0.001)/0.999.

    Below the domain (0.001, 1) σ falls linearly from σ_min to 0, so that x_0 = x at t = 0. `grid` is the paper's: times
    uniform on the domain, whose noise levels go from σ_max to σ_min, and then 0. Training times have
    log σ ~ N(mean, std²), clamped into [σ_min, σ_max]. x_t is as large as σ_max: train a network that predicts "edm"
    (`Predicts`), which scales its input.

    Args:
        sigma_min: σ at the start of the domain, > 0, in the unit of the data.
        sigma_max: σ at t = 1, > sigma_min.
        rho: ρ > 0; the larger, the more of the times lie at small σ.
        mean: of log σ in training.
        std: of log σ in training, > 0.

    Raises:
        CbdmError: any of these out of range.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, eq. 5 and table 1.
    """

    domain = (0.001, 1.0)

    def __init__(
        self,
        *,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        mean: float = -1.2,
        std: float = 1.2,
    ) -> None:
        if not 0 < sigma_min < sigma_max < math.inf or not 0 < rho < math.inf:
            raise CbdmError(
                f"edm needs 0 < sigma_min < sigma_max and rho > 0, got {sigma_min}, {sigma_max} and {rho}: the "
                "published values are 0.002, 80 and 7"
            )
        _check_normal("edm", mean, std)
        self.sigma_min, self.sigma_max, self.rho, self.mean, self.std = sigma_min, sigma_max, rho, mean, std
        self._low = sigma_min ** (1 / rho)
        self._width = sigma_max ** (1 / rho) - self._low

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        t, start = t.to(real_dtype(t.device)), self.domain[0]
        part = ((t - start) / (1 - start)).clamp(min=0)
        sigma_t = torch.where(t < start, self.sigma_min * t / start, (self._low + part * self._width) ** self.rho)
        return torch.ones_like(t), sigma_t

    def grid(self, steps: int) -> list[float]:
        """Karras's grid: `steps` noise levels from σ_max to σ_min, σ^{1/ρ} evenly spaced, and then 0; one is σ_max."""
        if steps < 2:
            return uniform_times(self, steps)
        t_min, t_max = self.domain
        return [t_max - (t_max - t_min) * i / (steps - 1) for i in range(steps)] + [0.0]

    def time_of(self, sigma: Tensor) -> Tensor:
        """The t in the domain at which σ_t is `sigma`, or the end that lies nearest."""
        part = (sigma ** (1 / self.rho) - self._low) / self._width
        return (self.domain[0] + (1 - self.domain[0]) * part).clamp(*self.domain)

    def draw_t(self, draws: Draws) -> Tensor:
        return self.time_of(torch.exp(_normal_times(draws, self.mean, self.std)))


def _check_normal(name: str, mean: float, std: float) -> None:
    if not math.isfinite(mean) or not 0 < std < math.inf:
        raise CbdmError(f"{name} draws times from a normal law with a finite mean and std > 0, got {mean} and {std}")


def _normal_times(draws: Draws, mean: float, std: float) -> Tensor:
    """(B,) N(mean, std²), from which a schedule makes its training times."""
    return mean + std * draws.normal("t", 1, dtype=real_dtype(draws.rows.device))[:, 0]

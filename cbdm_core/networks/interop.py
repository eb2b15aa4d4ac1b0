"""Our networks as other libraries ask theirs: the denoiser of k-diffusion, and the model and scheduler of diffusers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cbdm_core.conditions import Condition
from cbdm_core.draws import real_dtype
from cbdm_core.errors import CbdmError, check_positive
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.schedules import NoiseSchedule, per_row

__all__ = ["KDenoiser", "VarianceKept", "alphas_bar", "table_length", "time_of_noise", "with_our_noise"]


def time_of_noise(schedule: NoiseSchedule, noise: Tensor) -> Tensor:
    """(B,) the t in the domain at which σ_t/α_t is `noise` (B,), or the end that lies nearest, by bisection."""
    low, high = (torch.full_like(noise, end, dtype=real_dtype(noise.device)) for end in schedule.domain)
    for _ in range(60):  # the domain is shorter than 1: below the spacing of float64
        middle = (low + high) / 2
        alpha_t, sigma_t = schedule(middle)
        above = sigma_t > noise * alpha_t
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


class KDenoiser(nn.Module):
    """x̂_0 = x̄ − σ̄ ε̂ of x̄ = x_0 + σ̄ ε, as the samplers of k-diffusion ask it: denoiser(x̄, σ̄, c=condition).

    With σ̄ = σ_t/α_t and x̄ = x_t/α_t any schedule is one of exploding variance. Give a sampler `sigmas(steps)`, the
    noise levels of a uniform grid in t, and the start σ̄_T ε; what it returns are samples.

    Args:
        network: the score network, guided or not, in eval mode.
        schedule: the schedule it was trained under.

    Source: Karras et al. 2022, eq. 3–4; k-diffusion's documentation for the call.
    """

    def __init__(self, network: ScoreNetwork, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule

    def forward(self, x: Tensor, sigma: Tensor, *, c: Condition) -> Tensor:
        """(B, …) x̂_0.

        Args:
            x: (B, …) x̄.
            sigma: (B,) σ̄ in the range of the schedule.
            c: (B,) conditions.
        """
        t = time_of_noise(self.schedule, sigma.to(real_dtype(sigma.device)))
        # α from t and σ from what is asked, so that an error of the bisection does not count.
        alpha_t = per_row(self.schedule(t)[0], x)
        return x - per_row(sigma, x) * self.network(alpha_t * x, t, c)

    def sigmas(self, steps: int) -> Tensor:
        """(steps + 1,) float64 noise levels, decreasing to 0, of the schedule's own grid.

        Raises:
            CbdmError: `steps` < 1.
        """
        times = torch.tensor(self.schedule.grid(steps), dtype=torch.float64)
        alpha_t, sigma_t = self.schedule(times)
        return sigma_t / alpha_t


def table_length(schedule: NoiseSchedule) -> int:
    """T of a scheduler for this schedule: its own where it is a table, else 1,000."""
    return int(getattr(schedule, "steps", 1000))


def _times(place: Tensor, schedule: NoiseSchedule, time_steps: int) -> Tensor:
    low, high = schedule.domain
    return (high * (place + 1) / time_steps).clamp(min=low)


def alphas_bar(schedule: NoiseSchedule, time_steps: int = 1000) -> Tensor:
    """(T,) float64 ᾱ_i = α²/(α² + σ²) at t = t_max (i + 1)/T: the table of a scheduler of diffusers.

    Raises:
        CbdmError: T < 1.
    """
    check_positive(time_steps=time_steps)
    alpha_t, sigma_t = schedule(_times(torch.arange(time_steps, dtype=torch.float64), schedule, time_steps))
    return alpha_t**2 / (alpha_t**2 + sigma_t**2)


def with_our_noise(scheduler: Any, schedule: NoiseSchedule) -> Any:
    """A scheduler of diffusers with the schedule's ᾱ in float64, and 1 at the end; it is changed and returned.

    Give it `timestep_spacing="trailing"`, `prediction_type="epsilon"` and no clipping; with a number of steps that
    divides T its times are then those of `uniform_times`.

    Raises:
        CbdmError: a scheduler without the table `alphas_cumprod`.
    """
    if not hasattr(scheduler, "alphas_cumprod"):
        raise CbdmError(f"{type(scheduler).__name__} has no table alphas_cumprod: take a scheduler of DDPM's family")
    table = alphas_bar(schedule, scheduler.config.num_train_timesteps)
    scheduler.alphas_cumprod, scheduler.betas = table, 1 - table / torch.cat([table.new_ones(1), table[:-1]])
    scheduler.alphas = 1 - scheduler.betas
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = table.new_ones(())
    if hasattr(scheduler, "lambda_t"):
        scheduler.alpha_t, scheduler.sigma_t = table.sqrt(), (1 - table).sqrt()
        scheduler.lambda_t = scheduler.alpha_t.log() - scheduler.sigma_t.log()
        scheduler.sigmas = ((1 - table) / table).sqrt()
    return scheduler


class VarianceKept(nn.Module):
    """ε̂(x, i, c) with x of variance kept, α² + σ² = 1, as a scheduler of diffusers asks its model.

    The network is shown √(α² + σ²)·x at t = t_max (i + 1)/T; ε̂ is the same for both.

    Args:
        network: the score network, guided or not, in eval mode.
        schedule: the schedule it was trained under.
        time_steps: T of the scheduler.
    """

    def __init__(self, network: ScoreNetwork, schedule: NoiseSchedule, time_steps: int = 1000) -> None:
        super().__init__()
        self.network, self.schedule, self.time_steps = network, schedule, time_steps

    def forward(self, x: Tensor, i: Tensor | int, c: Condition) -> Tensor:
        """(B, …) ε̂; i is a whole number in [0, T), one or (B,)."""
        place = torch.as_tensor(i, device=x.device).to(real_dtype(x.device)).expand(len(x))
        t = _times(place, self.schedule, self.time_steps)
        alpha_t, sigma_t = self.schedule(t)
        return self.network(per_row(torch.hypot(alpha_t, sigma_t), x) * x, t, c)

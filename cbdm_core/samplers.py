"""Samplers: one step of a reverse-time solver each, coefficients as Python floats."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws, real_dtype
from cbdm_core.errors import CbdmError, unknown_name
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.process import Step, eps_to_x0, x0_to_eps
from cbdm_core.registry import Registry
from cbdm_core.scalars import scaled
from cbdm_core.schedules import NoiseSchedule, at_time

__all__ = [
    "DDIM",
    "SAMPLERS",
    "Ancestral",
    "DPMSolverPP2M",
    "Heun",
    "Sampler",
]

SAMPLERS = Registry(
    "sampler",
    "cbdm.samplers",
    {
        "ancestral": "cbdm_core.samplers:Ancestral",
        "ddim": "cbdm_core.samplers:DDIM",
        "dpm++2m": "cbdm_core.samplers:DPMSolverPP2M",
        "heun": "cbdm_core.samplers:Heun",
    },
)


class Sampler(ABC):
    """One step of a reverse-time solver, from which `sample` is derived.

    Class attributes: `order` is the order of the global error in the step size (weak order if `stochastic`), and
    `evaluations` the number of network evaluations a step costs.
    """

    order: int
    evaluations: int = 1
    stochastic: bool = False

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self._known: dict[float, tuple[float, float]] = {}

    def at(self, t: float) -> tuple[float, float]:
        """(α_t, σ_t), asked of the schedule once for each time."""
        values = self._known.get(t)
        if values is None:
            if len(self._known) >= _MOST_TIMES:
                self._known.clear()
            values = self._known[t] = at_time(self.schedule, t)
        return values

    @abstractmethod
    def step(
        self, network: ScoreNetwork, x_t: Tensor, t: float, s: float, c: Condition, memory: Any, *, draws: Draws
    ) -> tuple[Tensor, Any]:
        """x_s from x_t for s < t, and what the next step wants to remember.

        Args:
            network: the score network, guided or not.
            x_t: (B, …) the samples at time t.
            t: the time now, within the schedule's domain.
            s: the time to go to, 0 ≤ s < t; 0 is data.
            c: (B,) conditions.
            memory: what the step before returned, opaque to the caller; None at the first step.
            draws: B rows, at the number of this step; a step's noise comes from here.

        Returns:
            (B, …) x_s in the dtype of `x_t`, and the memory for the next step.
        """

    def sample(
        self,
        network: ScoreNetwork,
        c: Condition,
        shape: Sequence[int],
        *,
        steps: int,
        draws: Draws,
        x_T: Tensor | None = None,
        times: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """(B, *shape) samples under the conditions `c`, one per row of `draws`: the last point of `trajectory`.

        Args:
            network: the score network, guided or not; put it in eval mode first.
            c: (B,) conditions.
            shape: the shape of one sample.
            steps: number of solver steps, ≥ 1, on the schedule's `grid`: uniform in t from `domain[1]` to 0, where the
                schedule has none of its own. Its last point before 0 should lie in the domain: no more steps than
                1/domain[0].
            draws: B rows; the starting noise and every step's noise come from here.
            x_T: (B, *shape) starting points instead of drawn ones.
            times: a strictly decreasing grid instead of the schedule's (`steps` is then its length − 1).
            dtype: of the samples.

        Raises:
            CbdmError: `steps` < 1, a grid that does not decrease, or one row count that differs from another.
        """
        *_, x = self.trajectory(network, c, shape, steps=steps, draws=draws, x_T=x_T, times=times, dtype=dtype)
        return x

    @torch.inference_mode()
    def trajectory(
        self,
        network: ScoreNetwork,
        c: Condition,
        shape: Sequence[int],
        *,
        steps: int,
        draws: Draws,
        x_T: Tensor | None = None,
        times: Sequence[float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[Tensor]:
        """The points (B, *shape) that `sample` goes through, one after each solver step.

        Arguments and errors are those of `sample`.
        """
        grid = self.schedule.grid(steps) if times is None else [float(t) for t in times]
        if len(grid) < 2 or any(a <= b for a, b in pairwise(grid)):
            raise CbdmError(f"the time grid must decrease strictly and have 2 points or more, got {grid[:6]}")
        if len(c) != len(draws.rows):
            raise CbdmError(f"{len(c)} conditions for {len(draws.rows)} rows of draws: give one condition per row")
        start = x_T
        if start is None:
            alpha_T, sigma_T = self.at(grid[0])
            start = draws.at(0).normal("x_T", *shape, dtype=dtype) * (alpha_T**2 + sigma_T**2) ** 0.5
        x, memory = start.to(dtype), None
        for i, (t, s) in enumerate(pairwise(grid)):
            x, memory = self.step(network, x, t, s, c, memory, draws=draws.at(i))
            yield x


_MOST_TIMES = 4096  # of which a sampler remembers the schedule's values
VARIANCES = ("large", "small")


def _eps_hat(network: ScoreNetwork, x: Tensor, t: float, c: Condition) -> Tensor:
    return network(x, x.new_full(x.shape[:1], t, dtype=real_dtype(x.device)), c)


def _clipped(x_0: Tensor, clip: float | None) -> Tensor:
    return x_0 if clip is None else x_0.clamp(-clip, clip)


def _checked_clip(clip: float | None) -> float | None:
    if clip is not None and not clip > 0:
        raise CbdmError(f"clip must be a bound above 0 on |x_0|, or left out, got {clip}")
    return clip


class Ancestral(Sampler):
    """Draw from q(x_s | x_t, x̂_0), with its own variance ("small") or σ²_{t|s} ("large", the published default).

    Args:
        schedule: the schedule.
        variance: "large" or "small".
        clip: bound on |x̂_0| put on before the posterior mean is taken, so that it acts; None for no bound.

    Raises:
        CbdmError: another variance, or a clip ≤ 0.

    Source: Ho et al. 2020, algorithm 2 and section 3.2.
    """

    order = 1
    stochastic = True

    def __init__(self, schedule: NoiseSchedule, *, variance: str = "large", clip: float | None = None) -> None:
        super().__init__(schedule)
        if variance not in VARIANCES:
            raise unknown_name("variance", variance, VARIANCES)
        self.variance, self.clip = variance, _checked_clip(clip)

    def step(
        self, network: ScoreNetwork, x_t: Tensor, t: float, s: float, c: Condition, memory: Any, *, draws: Draws
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.at(t), self.at(s)
        step = Step.of((alpha_s, sigma_s), (alpha_t, sigma_t))
        x_0 = _clipped(eps_to_x0(_eps_hat(network, x_t, t, c), x_t, alpha_t, sigma_t), self.clip)
        mean = scaled(step.of_x_t, x_t) + scaled(step.of_x_0, x_0)
        if s == 0:
            return mean, None
        variance = step.between if self.variance == "large" else step.variance
        noise = draws.normal("noise", *x_t.shape[1:], dtype=x_t.dtype)
        return mean + scaled(math.sqrt(variance), noise), None


class DDIM(Sampler):
    """x_s = α_s x̂_0 + √(σ_s² − ς²) ε̂ + ς z with ς = η √(σ_s²/σ_t² · σ²_{t|s}); η = 0 is the probability-flow ODE.

    Args:
        schedule: the schedule.
        eta: η in [0, 1]; 1 is ancestral sampling with the small variance.
        clip: bound on |x̂_0|, after which ε̂ is taken anew; None for no bound.

    Raises:
        CbdmError: η outside [0, 1], or a clip ≤ 0.

    Source: Song, Meng & Ermon, Denoising Diffusion Implicit Models, 2021, eq. 12 and 16.
    """

    order = 1

    def __init__(self, schedule: NoiseSchedule, *, eta: float = 0.0, clip: float | None = None) -> None:
        super().__init__(schedule)
        if not 0 <= eta <= 1:
            raise CbdmError(f"ddim needs eta in [0, 1], got {eta}")
        self.eta, self.clip = float(eta), _checked_clip(clip)
        self.stochastic = eta > 0

    def step(
        self, network: ScoreNetwork, x_t: Tensor, t: float, s: float, c: Condition, memory: Any, *, draws: Draws
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.at(t), self.at(s)
        eps = _eps_hat(network, x_t, t, c)
        x_0 = eps_to_x0(eps, x_t, alpha_t, sigma_t)
        if self.clip is not None:
            x_0 = _clipped(x_0, self.clip)
            eps = x0_to_eps(x_0, x_t, alpha_t, sigma_t)
        added = 0.0
        if self.stochastic:
            added = self.eta * math.sqrt(Step.of((alpha_s, sigma_s), (alpha_t, sigma_t)).variance)
        x_s = scaled(alpha_s, x_0) + scaled(math.sqrt(max(sigma_s**2 - added**2, 0.0)), eps)
        if added > 0:
            x_s = x_s + scaled(added, draws.normal("noise", *x_t.shape[1:], dtype=x_t.dtype))
        return x_s, None


class _Last(NamedTuple):
    """What the multistep solver remembers: x̂_0 and the step h in half log-SNR."""

    x_0: Tensor
    h: float


class DPMSolverPP2M(Sampler):
    """The second-order multistep solver for the data prediction; its first step and a step to t = 0 are first order.

    With λ = log(α/σ), h = λ_s − λ_t and r = h_last/h:
    x_s = (σ_s/σ_t) x_t − α_s (e^{−h} − 1) [(1 + 1/2r) x̂_0 − (1/2r) x̂_0,last].

    Args:
        schedule: the schedule.
        clip: bound on |x̂_0|; None for no bound.

    Raises:
        CbdmError: a clip ≤ 0.

    Source: Lu et al., DPM-Solver++, 2022, algorithm 2.
    """

    order = 2

    def __init__(self, schedule: NoiseSchedule, *, clip: float | None = None) -> None:
        super().__init__(schedule)
        self.clip = _checked_clip(clip)

    def step(
        self, network: ScoreNetwork, x_t: Tensor, t: float, s: float, c: Condition, memory: Any, *, draws: Draws
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.at(t), self.at(s)
        x_0 = _clipped(eps_to_x0(_eps_hat(network, x_t, t, c), x_t, alpha_t, sigma_t), self.clip)
        if s == 0:
            return x_0, None  # h is infinite there
        h = math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)
        mixed = x_0
        if memory is not None:
            weight = h / (2 * memory.h)
            mixed = scaled(1 + weight, x_0) - scaled(weight, memory.x_0)
        return scaled(sigma_s / sigma_t, x_t) - scaled(alpha_s * math.expm1(-h), mixed), _Last(x_0, h)


class Heun(Sampler):
    """Heun's rule for dx̄/dσ̄ = ε̂ with x̄ = x/α and σ̄ = σ/α; Euler for a step to t = 0.

    Args:
        schedule: the schedule.
        clip: bound on |x̂_0|, after which the slope is taken anew; None for no bound.

    Raises:
        CbdmError: a clip ≤ 0.

    Source: Karras et al., EDM, 2022, algorithm 1.
    """

    order = 2
    evaluations = 2

    def __init__(self, schedule: NoiseSchedule, *, clip: float | None = None) -> None:
        super().__init__(schedule)
        self.clip = _checked_clip(clip)

    def step(
        self, network: ScoreNetwork, x_t: Tensor, t: float, s: float, c: Condition, memory: Any, *, draws: Draws
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.at(t), self.at(s)
        slope = self._slope(network, x_t, t, c)
        width = sigma_s / alpha_s - sigma_t / alpha_t
        x_s = scaled(alpha_s / alpha_t, x_t) + scaled(alpha_s * width, slope)
        if s == 0:
            return x_s, None
        corrected = scaled(0.5, slope + self._slope(network, x_s, s, c))
        return scaled(alpha_s / alpha_t, x_t) + scaled(alpha_s * width, corrected), None

    def _slope(self, network: ScoreNetwork, x: Tensor, t: float, c: Condition) -> Tensor:
        """dx̄/dσ̄ at t: ε̂, or what it is where x̂_0 is bounded."""
        eps_hat = _eps_hat(network, x, t, c)
        if self.clip is None:
            return eps_hat
        alpha_t, sigma_t = self.at(t)
        return x0_to_eps(_clipped(eps_to_x0(eps_hat, x, alpha_t, sigma_t), self.clip), x, alpha_t, sigma_t)

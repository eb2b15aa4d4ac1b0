"""Three Gaussian classes on a line at T + 1 noise levels, so that every divergence of the chain is a sum on a grid.

The training law is 90 : 8 : 2 and the target law uniform. Level 0 (t = 0.02) takes the place of the data, level T is
almost pure noise. Densities stand on `GRID`; a class's kernel q(x_s | x_t, c) is Gaussian, with mean and variance here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cbdm_core.process import Process
from tests.truth.common import NOISE, times

__all__ = ["EVEN", "GRID", "LONG_TAIL", "WIDTH", "class_kernels", "densities", "forward", "kl", "levels", "posterior"]

MEANS, VARIANCES = times(-2.0, 0.0, 1.5), times(0.2, 0.3, 0.25)
LONG_TAIL, EVEN = times(0.9, 0.08, 0.02), times(1.0, 1.0, 1.0) / 3
GRID = torch.linspace(-7.0, 7.0, 1401, dtype=torch.float64)
WIDTH = float(GRID[1] - GRID[0])


def levels(steps: int) -> list[float]:
    """T + 1 times from 0.02 to 0.999."""
    return [0.02 + (NOISE.domain[1] - 0.02) * i / steps for i in range(steps + 1)]


def _normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / torch.sqrt(2 * math.pi * variance)


def densities(t: float) -> Tensor:
    """(N, 3) p_t(x | c) on the grid."""
    alpha, sigma = (float(v) for v in NOISE(times(t)))
    return _normal(GRID[:, None], alpha * MEANS, alpha**2 * VARIANCES + sigma**2)


def posterior(law: Tensor, t: float) -> Tensor:
    """(N, 3) p(c | x_t) on the grid, under a law of the classes."""
    joint = law * densities(t)
    return joint / joint.sum(1, keepdim=True)


def forward(s: float, t: float) -> Tensor:
    """(N, N) q(x_t | x_s), x_s down and x_t across."""
    mean, variance = Process(NOISE).transition(GRID[:, None], times(s), times(t))
    return _normal(GRID[None, :], mean, variance)


def kl(p: Tensor, q: Tensor) -> float:
    """KL(p ‖ q) of two densities on the grid, or of two joint ones on its square."""
    ratio = p.clamp(min=1e-300).log() - q.clamp(min=1e-300).log()
    return float((p * ratio).sum()) * WIDTH**p.ndim


def class_kernels(s: float, t: float) -> tuple[Tensor, Tensor, float]:
    """(N, 3) means and (3,) variances of q(x_s | x_t, c), and σ̃², the variance of q(x_s | x_t, x_0)."""
    alpha, sigma = (float(v) for v in NOISE(times(t)))
    spread = alpha**2 * VARIANCES + sigma**2
    x_0 = MEANS + alpha * VARIANCES / spread * (GRID[:, None] - alpha * MEANS)
    mean, shared = Process(NOISE).posterior(GRID[:, None], x_0, times(s), times(t))
    zero, one = times(0.0)[:, None], times(1.0)[:, None]
    pull = float(Process(NOISE).posterior(zero, one, times(s), times(t))[0])
    return mean, float(shared) + pull**2 * VARIANCES * sigma**2 / spread, float(shared)

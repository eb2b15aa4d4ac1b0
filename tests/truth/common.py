"""Random points, the oracle and the comparison that the laws share."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine, NoiseSchedule
from cbdm_priors.optimum import balanced_optimum

__all__ = [
    "GAMMAS",
    "NOISE",
    "SEEDS",
    "STRENGTHS",
    "TARGETS",
    "class_name",
    "close",
    "generator",
    "normal",
    "quick",
    "scattered",
    "simplex",
    "solve",
    "the_oracle",
    "times",
]

quick = settings(deadline=None, max_examples=40)
SEEDS = st.integers(0, 2**31)
STRENGTHS = st.floats(0.0, 4.0)
GAMMAS = st.floats(0.0, 2.0)
TARGETS = st.sampled_from([(1.0, 1.0, 1.0, 1.0), (1.0, 2.0, 30.0, 40.0), (0.0, 0.0, 0.0, 1.0)])
NOISE = Cosine()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def simplex(seed: int, *shape: int, floor: float = 1e-3) -> Tensor:
    """Rows of probabilities, uneven but none below about `floor`."""
    weights = torch.rand(*shape, dtype=torch.float64, generator=generator(seed)).pow(3) + floor
    return weights / weights.sum(-1, keepdim=True)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def class_name(thing: object) -> str:
    return type(thing).__name__


def solve(e: Tensor, r: Tensor, law: Tensor, lam: float, gamma: float) -> Tensor:
    """`balanced_optimum` at one x_t."""
    return balanced_optimum(e[None], r[None], law, torch.tensor([lam], dtype=e.dtype), gamma)[0]


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def the_oracle(schedule: NoiseSchedule = NOISE) -> GaussianMixtureOracle:
    return GaussianMixtureOracle.ring(schedule)


def scattered(seed: int, rows: int = 6) -> Tensor:
    return 2 * normal(seed, rows, 2)

"""An oracle trained on 100 : 30 : 10 : 3, the oracle under another law, and networks around it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cbdm_core.conditions import Condition
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.priors import LabelPrior
from cbdm_core.schedules import Cosine
from cbdm_priors.laws.counts import Training, Uniform

__all__ = [
    "COUNTS",
    "ORACLE",
    "SCHEDULE",
    "TRAINING",
    "UNIFORM",
    "Asked",
    "FixedMean",
    "f64",
    "nobody",
    "times",
    "under",
]

COUNTS = (100, 30, 10, 3)
SCHEDULE = Cosine()
ORACLE = GaussianMixtureOracle.ring(SCHEDULE, COUNTS)
UNIFORM, TRAINING = Uniform(COUNTS), Training(COUNTS)


def f64(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def times(t: float, rows: int) -> Tensor:
    return torch.full((rows,), t, dtype=torch.float64)


def nobody(rows: int) -> Condition:
    """Conditions that name a class and show none."""
    return Condition.of(torch.zeros(rows, dtype=torch.long)).null()


def under(law: LabelPrior, oracle: GaussianMixtureOracle = ORACLE) -> GaussianMixtureOracle:
    """The oracle whose classes have the probabilities of the law."""
    return GaussianMixtureOracle(oracle.means, oracle.covariances, law.probs, oracle.schedule)


class Asked(ScoreNetwork):
    """The oracle, with the null prediction off by `error`; it counts its forwards and their rows."""

    def __init__(self, oracle: GaussianMixtureOracle = ORACLE, error: float = 0.0) -> None:
        super().__init__()
        self.oracle, self.error, self.forwards, self.rows = oracle, error, 0, 0

    def forward(self, x_t, t, c):
        self.forwards, self.rows = self.forwards + 1, self.rows + len(x_t)
        return self.oracle(x_t, t, c) + self.error * (~c.present[:, None]).to(x_t.dtype)


class FixedMean(ScoreNetwork):
    """Σ_y w_y ε̂_y with given weights, (K,) or (B, K)."""

    def __init__(self, oracle: GaussianMixtureOracle, weights: Tensor) -> None:
        super().__init__()
        self.oracle, self.weights = oracle, weights

    def forward(self, x_t, t, c):
        return (self.weights[..., None] * self.oracle.all_classes(x_t, t)).sum(-2)

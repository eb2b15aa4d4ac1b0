"""Samples drawn by label: a marginal score that is right at every point does not make the samples right."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cbdm import BalancedOptimum, Training
from cbdm_core.conditions import Condition
from cbdm_core.draws import Draws
from cbdm_core.networks.base import ScoreNetwork
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.samplers import DDIM
from tests.truth.common import NOISE, close
from tests.truth.line import LONG_TAIL, MEANS, VARIANCES

PATHS, STEPS = 400, 200


def samples(network: ScoreNetwork) -> Tensor:
    """(3, PATHS): the ODE's end for every class, from the quantiles of N(0, 1), so that nothing is random."""
    quantiles = torch.special.ndtri((torch.arange(PATHS, dtype=torch.float64) + 0.5) / PATHS)
    x, c = quantiles.repeat(3)[:, None], Condition.of(torch.arange(3).repeat_interleave(PATHS))
    memory, draws = None, Draws(0, 0, torch.arange(3 * PATHS))
    for t, s in pairwise(NOISE.domain[1] * (STEPS - i) / STEPS for i in range(STEPS + 1)):
        x, memory = DDIM(NOISE).step(network, x, t, s, c, memory, draws=draws)
    return x.reshape(3, PATHS)


def deviation(x: Tensor) -> float:
    """Of the samples whose labels follow the training law."""
    weight = LONG_TAIL[:, None] / PATHS
    mean = (weight * x).sum()
    return float((weight * (x - mean) ** 2).sum().sqrt())


def test_a_preserved_marginal_score_does_not_preserve_the_samples():
    """γ = 1, τ = 1, training law: Σ r_c e_c is exact everywhere, yet the tail's mean falls from 1.5 to −0.5."""
    oracle = GaussianMixtureOracle(MEANS[:, None], VARIANCES[:, None, None], LONG_TAIL, NOISE)
    pulled = BalancedOptimum(oracle, Training([90, 8, 2]), tau=1.0, gamma=1.0)
    x, t = torch.linspace(-4, 4, 81, dtype=torch.float64)[:, None], torch.full((81,), 0.5, dtype=torch.float64)
    mean = torch.einsum("bk,bkd->bd", oracle.class_posterior(x, t), pulled.all_classes(x, t))
    close(mean, oracle(x, t, Condition.of(torch.zeros(81).long()).null()), 1e-9)
    right, wrong = samples(oracle), samples(pulled)
    assert deviation(right) == pytest.approx(0.849, abs=0.005) and deviation(wrong) == pytest.approx(0.77, abs=0.01)
    assert float(right[2].mean()) == pytest.approx(1.5, abs=0.01)
    assert float(wrong[2].mean()) == pytest.approx(-0.52, abs=0.03)
    assert 0.45 < float((wrong[2] < -1).double().mean()) < 0.55, "half of the tail's samples lie in the head"

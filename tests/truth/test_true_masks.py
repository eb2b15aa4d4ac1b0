"""Dropout masks: every mask of a small network is enumerated, so that expectations are sums."""

from __future__ import annotations

from itertools import product

import torch
from hypothesis import given
from torch import Tensor

from tests.truth.common import GAMMAS, SEEDS, close, normal, quick

UNITS, KEPT = 4, 0.7
MASKS = torch.tensor(list(product((0.0, 1.0), repeat=UNITS)), dtype=torch.float64)
CHANCE = (MASKS * KEPT + (1 - MASKS) * (1 - KEPT)).prod(1)


def outputs(weights: Tensor, condition: Tensor) -> Tensor:
    """(masks, D): a linear layer on hidden units that a mask leaves out, under every mask."""
    return (MASKS / KEPT * torch.tanh(condition)) @ weights


def moments(h: Tensor) -> tuple[Tensor, Tensor]:
    """E h, and the trace of its covariance over the masks."""
    mean = CHANCE @ h
    return mean, CHANCE @ (h - mean).square().sum(1)


@quick
@given(SEEDS)
def test_independent_masks_add_their_variances(seed):
    """E‖h − h'‖² = ‖Eh − Eh'‖² + Var h + Var h' over independent masks; one mask for both takes 2 Cov(h, h') off."""
    weights, one, two = normal(seed, UNITS, 3), normal(seed + 1, UNITS), normal(seed + 2, UNITS)
    h, other = outputs(weights, one), outputs(weights, two)
    (mean, var), (mean_other, var_other) = moments(h), moments(other)
    apart = (h[:, None] - other[None]).square().sum(-1)
    classes = (mean - mean_other).square().sum()
    close(CHANCE @ apart @ CHANCE, classes + var + var_other, 1e-12)
    covariance = CHANCE @ ((h - mean) * (other - mean_other)).sum(1)
    close(CHANCE @ apart.diagonal(), classes + var + var_other - 2 * covariance, 1e-12)


@quick
@given(SEEDS, GAMMAS)
def test_masks_penalise_their_own_variance(seed, gamma):
    """The gradient is that of ‖Eh − sg Eh'‖² + γ‖sg Eh − Eh'‖² + Var h + γ Var h', in weights that both share."""
    weights = normal(seed, UNITS, 3).requires_grad_()
    h, other = (outputs(weights, normal(seed + i, UNITS)) for i in (1, 2))
    pulled = (h[:, None] - other.detach()[None]).square().sum(-1)
    pulling = (h.detach()[:, None] - other[None]).square().sum(-1)
    term = CHANCE @ (pulled + gamma * pulling) @ CHANCE
    (mean, var), (mean_other, var_other) = moments(h), moments(other)
    split = (mean - mean_other.detach()).square().sum() + gamma * (mean.detach() - mean_other).square().sum()
    split = split + var + gamma * var_other
    close(*(torch.autograd.grad(v, weights, retain_graph=True)[0] for v in (term, split)), 1e-10)

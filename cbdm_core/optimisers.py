"""Optimisers and courses of the learning rate by name, or as functions of your own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.registry import Registry
from cbdm_core.sharding import in_parts

__all__ = ["LR_SCHEDULES", "OPTIMISERS", "LrSchedule", "MakeOptimiser", "adam", "adamw", "constant", "cosine", "sgd"]

LrSchedule = Callable[[int], float]


class MakeOptimiser(Protocol):
    """From parameters, learning rate and decay of the weights to an optimiser."""

    def __call__(
        self, parameters: list[Tensor], learning_rate: float, *, weight_decay: float = 0.0
    ) -> torch.optim.Optimizer: ...


OPTIMISERS = Registry(
    "optimiser",
    "cbdm.optimisers",
    {name: f"cbdm_core.optimisers:{name}" for name in ("adam", "adamw", "sgd")} | {"muon": "cbdm_core.muon:muon"},
)
LR_SCHEDULES = Registry(
    "learning-rate schedule",
    "cbdm.lr_schedules",
    {"constant": "cbdm_core.optimisers:constant", "cosine": "cbdm_core.optimisers:cosine"},
)


def has_fused(parameters: Sequence[Tensor]) -> bool:
    """Whether all parameters are on a device that has the fused form, which does a step in one launch."""
    return all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)


def adamw(
    parameters: list[Tensor],
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """AdamW: Adam with the decay of the weights apart from the gradient.

    Args:
        parameters: to be optimised.
        learning_rate: η > 0, before the schedule's factor.
        weight_decay: λ ≥ 0; the weights shrink by ηλ of themselves at each step.
        betas: (β_1, β_2) of the running means of the gradient and of its square, in [0, 1).
        eps: > 0, added to the root of the second.

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2.
    """
    beta_1, beta_2 = betas
    return torch.optim.AdamW(
        parameters, learning_rate, (beta_1, beta_2), eps, weight_decay=weight_decay, fused=has_fused(parameters)
    )


def adam(
    parameters: list[Tensor],
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """Adam, with any decay of the weights in the gradient.

    Args:
        parameters: to be optimised.
        learning_rate: η > 0, before the schedule's factor.
        weight_decay: λ ≥ 0; the gradient gains λ times the weights.
        betas: (β_1, β_2) of the running means of the gradient and of its square, in [0, 1).
        eps: > 0, added to the root of the second.

    Source: Kingma & Ba, Adam, ICLR 2015, algorithm 1.
    """
    beta_1, beta_2 = betas
    return torch.optim.Adam(
        parameters, learning_rate, (beta_1, beta_2), eps, weight_decay=weight_decay, fused=has_fused(parameters)
    )


def sgd(
    parameters: list[Tensor],
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> torch.optim.Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        parameters: to be optimised.
        learning_rate: η > 0, before the schedule's factor.
        weight_decay: λ ≥ 0; the gradient gains λ times the weights.
        momentum: μ in [0, 1).
        nesterov: look ahead by the momentum, which must be above 0 then.

    Source: Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, ICML 2013, eq. 1–4.
    """
    return torch.optim.SGD(
        parameters,
        learning_rate,
        momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        fused=has_fused(parameters) and not any(map(in_parts, parameters)),  # of parts it has no fused form
    )


def constant() -> LrSchedule:
    """The factor 1 at every step."""
    return lambda step: 1.0


def cosine(*, over: int, end: float = 0.0) -> LrSchedule:
    """The factor end + (1 − end)·(1 + cos(π·min(1, i/n)))/2 at step i of n.

    Args:
        over: n ≥ 1; the command line gives the steps of the training where it is left out.
        end: the factor at the end, in [0, 1].

    Raises:
        CbdmError: a number out of range.

    Source: Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5, without restarts.
    """
    if not 0 <= end <= 1 or over < 1:
        raise CbdmError(f"the cosine schedule needs end in [0, 1] and over ≥ 1, got {end} and {over}")
    return lambda step: end + (1 - end) * (1 + math.cos(math.pi * min(1.0, step / over))) / 2

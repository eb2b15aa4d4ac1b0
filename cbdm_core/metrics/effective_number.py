"""Of how many training images of its class does a noised image still speak? One: what is learned there is copied."""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.metrics.bounds import distances
from cbdm_core.schedules import NoiseSchedule, at_time

__all__ = ["effective_number"]

_CHUNK = 512  # noised rows against all images of a class at once


def effective_number(
    x_0: Tensor,
    y: Tensor,
    num_classes: int,
    schedule: NoiseSchedule,
    times: Tensor,
    *,
    seed: int = 0,
    queries: int = 256,
) -> Tensor:
    """(K, L) N_eff(c, t) = E[1/Σ_i p(i|x_t)²] in [1, n_c], p(i|x_t) ∝ N(x_t; α_t x_i, σ_t² I) over the images of c.

    x_t = α_t x_j + σ_t ε of the class's own images j: 1 where x_t tells which image it came from, n_c where it tells
    nothing. An empty class has 0.

    Args:
        x_0: (N, …) the training set.
        y: (N,) long labels in [0, K).
        num_classes: K.
        schedule: gives α and σ.
        times: (L,) noise levels, σ_t > 0.
        seed: of ε.
        queries: x_t for each class and level at least, ≥ 1; of a class with more images, so many of them.

    Raises:
        CbdmError: lengths that disagree, no query, or a level without noise.
    """
    if len(x_0) != len(y):
        raise CbdmError(f"{len(x_0)} examples and {len(y)} labels: give as many of each")
    if queries < 1:
        raise CbdmError(f"queries = {queries}: an expectation needs 1 or more")
    rows = [(y == label).nonzero()[:, 0] for label in range(num_classes)]
    table = torch.zeros(num_classes, len(times), dtype=torch.float64)
    for label, members in enumerate(rows):
        if len(members):
            x = x_0[members].flatten(1).double()
            asked = torch.arange(max(queries, len(x))) % len(x)
            draws = Draws(seed, label, torch.arange(len(asked)))[:queries]
            table[label] = torch.stack([_of_class(x, x[asked[:queries]], draws, *_level(schedule, t)) for t in times])
    return table


def _level(schedule: NoiseSchedule, t: Tensor) -> tuple[float, float]:
    alpha_t, sigma_t = at_time(schedule, float(t))
    if not sigma_t > 0:
        raise CbdmError(f"t = {float(t):g} has no noise (σ = {sigma_t:g}): an effective number needs σ > 0")
    return alpha_t, sigma_t


def _of_class(x: Tensor, x_0: Tensor, draws: Draws, alpha_t: float, sigma_t: float) -> Tensor:
    x_t = alpha_t * x_0 + sigma_t * draws.normal("effective number", x.shape[1], dtype=torch.float64)
    numbers = []
    for part in x_t.split(_CHUNK):
        p = (-distances(part, alpha_t * x).square() / (2 * sigma_t**2)).softmax(1)
        numbers.append(1 / p.square().sum(1))
    return torch.cat(numbers).mean()

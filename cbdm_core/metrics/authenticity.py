"""Is a sample its own, or nearer to a training example than that one's fellows are?"""

from __future__ import annotations

import torch
from torch import Tensor

from cbdm_core.metrics.bounds import CHUNK, distances
from cbdm_core.metrics.checks import checked_pair

__all__ = ["authentic"]


def authentic(fake: Tensor, training: Tensor) -> Tensor:
    """(M,) float64, 1 for each sample that is farther from its nearest training row than that row is from its own.

    With x_i the training row nearest to the sample y, it is 1 where ‖y − x_i‖ > min_{j≠i} ‖x_i − x_j‖, else 0. The mean
    is the authenticity, in [0, 1]: 0 for copies. It is not 1 for a fair sampler, whose samples are as often within
    that radius as y and x_i are each other's nearest: in one dimension it is about ⅓, in many about ½ where density
    is even. Compare it with the authenticity of held-out rows or of another sampler, not with 1.

    Args:
        fake: (M, D) features of samples, M ≥ 1.
        training: (N, D) features of what the model was trained on, N ≥ 1; NaN throughout where N is 1.

    Raises:
        CbdmError: no row, NaN or infinite values, or different D.

    Source: Alaa et al., How Faithful is your Synthetic Data?, 2022, section 3.2 and eq. 11.
    """
    training, fake = checked_pair(training, fake)
    if len(training) == 1:
        return torch.full((len(fake),), torch.nan, dtype=torch.float64, device=fake.device)
    parts = []
    for rows in fake.split(CHUNK):
        nearest, which = distances(rows, training).min(1)
        own = distances(training[which], training)
        own[torch.arange(len(which), device=own.device), which] = torch.inf
        parts.append((nearest > own.min(1).values).double())
    return torch.cat(parts)

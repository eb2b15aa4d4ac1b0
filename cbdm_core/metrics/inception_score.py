"""Inception score: are the samples of a definite class, and the classes varied?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.seeding import seeded

__all__ = ["InceptionScore", "inception_score"]


class InceptionScore(NamedTuple):
    """The mean over splits, in [1, K], and the standard deviation between them (None with one split)."""

    value: float
    spread: float | None


def inception_score(log_probs: Tensor, splits: int = 1, seed: int = 0) -> InceptionScore:
    """exp E_x KL(p(y|x) ‖ p(y)) with p(y) = E_x p(y|x): K if each class is predicted with certainty equally often.

    It never looks at the data: a model that draws one perfect image of each class scores K. It rises with the rows of a
    split, so compare equal numbers only.

    Args:
        log_probs: (N, K) log-probabilities of a classifier, −inf where it gives 0.
        splits: 1 … N parts of the rows, as equal as can be; papers take 10 of 5,000.
        seed: of the order in which the rows are dealt to the splits.

    Raises:
        CbdmError: another number of axes, no row, NaN, rows that do not sum to 1, or splits out of range.

    Source: Salimans et al. 2016 (arXiv 1606.03498), section 4.
    """
    log_probs = _checked(log_probs)
    if not 1 <= splits <= len(log_probs):
        raise CbdmError(f"{splits} splits of {len(log_probs)} rows: give 1 … {len(log_probs)}")
    order = torch.from_numpy(seeded(seed, "inception_score").permutation(len(log_probs)))
    scores = torch.stack([_score(part) for part in log_probs[order].tensor_split(splits)])
    return InceptionScore(float(scores.mean()), float(scores.std()) if splits > 1 else None)


def _checked(log_probs: Tensor) -> Tensor:
    if log_probs.ndim != 2 or 0 in log_probs.shape:
        raise CbdmError(f"log-probabilities must be (N, K) with N, K ≥ 1, got {tuple(log_probs.shape)}")
    log_probs = log_probs.detach().to(torch.float64)
    # NaN sums are off too.
    off = ~((log_probs.exp().sum(1) - 1).abs() < 1e-4)
    if off.any():
        raise CbdmError(
            f"{int(off.sum())} of {len(log_probs)} rows of log-probabilities do not sum to 1: take log_softmax"
        )
    return log_probs


def _score(log_p: Tensor) -> Tensor:
    p = log_p.exp()
    log_marginal = p.mean(0).log()
    gain = torch.where(p > 0, p * (log_p - log_marginal), 0.0)  # 0 · log 0 = 0
    return gain.sum(1).mean().exp()

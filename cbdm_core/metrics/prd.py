"""Precision and recall of distributions (PRD): a whole curve from histograms over clusters, and its F8 and F1/8."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.frechet import checked_pair, seeded

__all__ = ["PrdScores", "f_beta", "prd", "prd_curve"]


class PrdScores(NamedTuple):
    """F8, which weighs recall, and F1/8, which weighs precision; each in [0, 1]."""

    f8: float
    f1_8: float


def prd(
    real: Tensor, fake: Tensor, num_classes: int = 1, *, runs: int = 10, angles: int = 1001, seed: int = 0
) -> PrdScores:
    """F8 and F1/8 of the PRD curve between cluster histograms, averaged over `runs` clusterings of the union.

    The larger set is reduced to the size of the smaller by drawing without replacement, anew in each run, for the
    clusters must not follow one set more than the other. 20 clusters a class by k-means (k-means++ starts).

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        num_classes: K; 20·K clusters, or as many as there are different rows.
        runs: clusterings to average, ≥ 1.
        angles: of the curve, ≥ 3 and odd, so that λ = 1 is one of them.
        seed: of subsets and clusterings.

    Returns:
        The two scores. With few rows to a cluster both are too low, for the histograms of equal laws differ by chance:
        have several rows for each cluster.

    Raises:
        CbdmError: no row, NaN or infinite values, different D, or numbers out of range.

    Sajjadi et al. 2018 (arXiv 1806.00035), section 4 and algorithm 1; the F scores are of section 4.4.
    """
    real, fake = checked_pair(real, fake)
    if num_classes < 1 or runs < 1:
        raise CbdmError(f"num_classes = {num_classes}, runs = {runs}: both must be 1 or more")
    rng = seeded(seed, "prd")
    found = [_one_run(real.cpu().numpy(), fake.cpu().numpy(), 20 * num_classes, angles, rng) for _ in range(runs)]
    return PrdScores(*np.mean(found, axis=0).tolist())


def prd_curve(real: Tensor, fake: Tensor, angles: int = 1001) -> tuple[Tensor, Tensor]:
    """The curve of two histograms: precision α(λ) = Σ min(λ p, q) and recall β(λ) = Σ min(p, q/λ), λ = tan θ.

    Args:
        real: (C,) probabilities p of the data.
        fake: (C,) probabilities q of the samples.
        angles: θ evenly spaced in (0, π/2), ≥ 3 and odd.

    Returns:
        (angles,) float64 precision and recall.

    Raises:
        CbdmError: histograms of different length, that are negative or do not sum to 1, or angles out of range.

    Sajjadi et al. 2018 (arXiv 1806.00035), theorem 1 and eq. 7–8.
    """
    p, q = real.to(torch.float64), fake.to(torch.float64)
    if angles < 3 or angles % 2 == 0:
        raise CbdmError(f"angles = {angles}: give an odd number of 3 or more")
    if p.shape != q.shape or p.ndim != 1:
        raise CbdmError(f"histograms of shapes {tuple(p.shape)} and {tuple(q.shape)}: give two of one length (C,)")
    for name, h in (("real", p), ("generated", q)):
        if not (bool((h >= 0).all()) and abs(float(h.sum()) - 1) < 1e-6):
            raise CbdmError(f"the {name} histogram must be ≥ 0 and sum to 1, its sum is {float(h.sum()):.6g}")
    slope = torch.linspace(1e-10, torch.pi / 2 - 1e-10, angles, dtype=torch.float64).tan()[:, None]
    # Each from its own formula: precision/λ would lose what min has cut off.
    return torch.minimum(slope * p, q).sum(1), torch.minimum(p, q / slope).sum(1)


def f_beta(precision: Tensor, recall: Tensor, beta: float) -> float:
    """The largest F_β = (1 + β²) α r/(β² α + r) along a curve; 0 where both are 0."""
    below = beta**2 * precision + recall
    f = (1 + beta**2) * precision * recall / below
    return float(torch.where(below > 0, f, 0.0).max())


def _one_run(
    real: np.ndarray, fake: np.ndarray, clusters: int, angles: int, rng: np.random.Generator
) -> tuple[float, float]:
    n = min(len(real), len(fake))
    real, fake = (rows if len(rows) == n else rows[rng.choice(len(rows), n, replace=False)] for rows in (real, fake))
    label = _clustered(np.concatenate([real, fake]), clusters, rng)
    p, q = (torch.from_numpy(np.bincount(part, minlength=clusters) / n) for part in (label[:n], label[n:]))
    precision, recall = prd_curve(p, q, angles)
    return f_beta(precision, recall, 8), f_beta(precision, recall, 1 / 8)


def _clustered(x: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) the cluster of each row."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # it stays where it was
        return kmeans2(x, _starts(x, clusters, rng), iter=10, minit="matrix")[1]


def _starts(x: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Rows to begin k-means with: each drawn in proportion to its squared distance from those before (k-means++)."""
    chosen = [int(rng.integers(len(x)))]
    apart = np.full(len(x), np.inf)
    while len(chosen) < clusters:
        apart = np.minimum(apart, np.square(x - x[chosen[-1]]).sum(1))
        mass = apart.cumsum()
        if mass[-1] == 0:  # no further row differs from those chosen
            break
        chosen.append(min(int(np.searchsorted(mass, rng.random() * mass[-1], side="right")), len(x) - 1))
    return x[chosen]

"""Precision and recall of distributions (PRD): a whole curve from histograms over clusters, and its F8 and F1/8."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.bounds import CHUNK, distances
from cbdm_core.metrics.checks import checked_pair
from cbdm_core.metrics.seeding import seeded

__all__ = ["PrdScores", "f_beta", "prd", "prd_curve"]

_RANK = 64  # leading directions, at most
_STEPS, _FULL_STEPS = 20, 2  # of k-means, at most, in the leading directions and then in all


class PrdScores(NamedTuple):
    """F8, which weighs recall, and F1/8, which weighs precision; each in [0, 1]."""

    f8: float
    f1_8: float


def prd(
    real: Tensor, fake: Tensor, num_classes: int = 1, *, runs: int = 10, angles: int = 1001, seed: int = 0
) -> PrdScores:
    """F8 and F1/8 of the PRD curve between cluster histograms, averaged over `runs` clusterings of the union.

    The larger set is reduced to the size of the smaller by drawing without replacement, anew in each run, for the
    clusters must not follow one set more than the other. 20 clusters a class by k-means in float32 (greedy k-means++
    starts; most of the steps in the leading principal directions, the last two in all).

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        num_classes: K; 20·K clusters, or as many as there are different rows.
        runs: clusterings to average, ≥ 1.
        angles: of the curve, ≥ 3 and odd, so that λ = 1 is one of them.
        seed: of subsets and clusterings.

    Returns:
        The two scores. With few rows to a cluster both are too low, for the histograms of equal laws differ by chance:
        have several rows for each cluster. One row a million times farther out than the rest leaves float32 too few
        digits for them: remove it first.

    Raises:
        CbdmError: no row, NaN or infinite values, different D, or numbers out of range.

    Source: Sajjadi et al. 2018 (arXiv 1806.00035), section 4 and algorithm 1; the F scores are of section 4.4.
    """
    real, fake = checked_pair(real, fake, dtype=None)
    if num_classes < 1 or runs < 1:
        raise CbdmError(f"num_classes = {num_classes}, runs = {runs}: both must be 1 or more")
    rng = seeded(seed, "prd")
    n = min(len(real), len(fake))
    with torch.autocast("cpu", enabled=False):  # clusters of half precision would be others
        found = [
            _scores(x, n, 20 * num_classes, angles, rng) for x in _unions(*_about_the_middle(real, fake), runs, rng)
        ]
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

    Source: Sajjadi et al. 2018 (arXiv 1806.00035), theorem 1 and eq. 7–8.
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


def _about_the_middle(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 about the point midway between their means and in [−1, 1], so that no digit goes on an offset.

    On the CPU, where the same seed gives the same sums to the bit.
    """
    sets = [rows.split(CHUNK) for rows in (real, fake)]
    means = [torch.stack([rows.double().sum(0) for rows in part]).sum(0) / sum(map(len, part)) for part in sets]
    middle = (means[0] + means[1]) / 2
    scale = max(float((rows.double() - middle).abs().max()) for part in sets for rows in part) or 1.0
    first, second = (torch.cat([((rows.double() - middle) / scale).float().cpu() for rows in part]) for part in sets)
    return first, second


def _unions(real: Tensor, fake: Tensor, runs: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """For each run (2n, D): n rows of the data and n samples, where n is the size of the smaller set."""
    n = min(len(real), len(fake))
    union = torch.cat([real, fake]) if len(real) == len(fake) else None
    for _ in range(runs):
        yield torch.cat([_subset(real, n, rng), _subset(fake, n, rng)]) if union is None else union


def _subset(rows: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """n of the rows, drawn without replacement."""
    return rows if len(rows) == n else rows[torch.from_numpy(rng.choice(len(rows), n, replace=False))]


def _scores(x: Tensor, n: int, clusters: int, angles: int, rng: np.random.Generator) -> tuple[float, float]:
    """F8 and F1/8 of one clustering of a union whose first n rows are the data."""
    p, q = (torch.bincount(part, minlength=clusters).double() / n for part in _clustered(x, clusters, rng).split(n))
    precision, recall = prd_curve(p, q, angles)
    return f_beta(precision, recall, 8), f_beta(precision, recall, 1 / 8)


def _clustered(x: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """(N,) the cluster of each row, by k-means in the leading principal directions and then in all.

    The best clustering in the leading directions is near the best in all (Cohen et al. 2015, arXiv 1410.6801), so that
    the many steps are cheap and the few dear ones begin close to their end.
    """
    leading = _leading(x, min(2 * clusters, _RANK), rng)
    label = _lloyd(leading, _nearest(leading, _starts(leading, clusters, rng)), clusters, _STEPS)
    return label if leading is x else _lloyd(x, label, clusters, _FULL_STEPS)


def _leading(x: Tensor, rank: int, rng: np.random.Generator) -> Tensor:
    """(N, rank) the rows in about their leading principal directions, by one power step from random ones."""
    if x.shape[1] <= 2 * rank:
        return x
    some = _subset(x, min(len(x), 20 * rank), rng)
    start = torch.from_numpy(rng.standard_normal((x.shape[1], rank), dtype=np.float32))
    return x @ torch.linalg.qr(some.mT @ (some @ start)).Q


def _lloyd(x: Tensor, label: Tensor, clusters: int, steps: int) -> Tensor:
    """The clusters after so many steps of k-means, or fewer if they stay; a cluster once empty stays so."""
    for _ in range(steps):
        count = torch.bincount(label, minlength=clusters)
        sums = x.new_zeros(clusters, x.shape[1]).index_add_(0, label, x)
        held = count.nonzero()[:, 0]
        moved = held[_nearest(x, sums[held] / count[held, None])]
        if torch.equal(moved, label):
            break
        label = moved
    return label


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    """(N,) which centre is nearest: ‖x − c‖² less its ‖x‖², halved."""
    return torch.addmm(centres.square().sum(1) / 2, x, centres.mT, alpha=-1).argmin(1)


def _starts(x: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """Rows to begin k-means with, by greedy k-means++; fewer if no more of the rows differ.

    Of 2 + ln C rows drawn in proportion to their squared distance from the centres so far, the one that leaves the
    least sum of these distances is a centre. Rows that differ only by rounding count as equal.
    """
    norms, trials = x.square().sum(1), 2 + int(math.log(clusters))
    chosen = [int(rng.integers(len(x)))]
    apart, rounding = _squared(x, x[chosen]), 1e-10 * float(norms.mean())
    while len(chosen) < clusters:
        mass = apart.where(apart > rounding, 0.0).double().cumsum(0)
        if mass[-1] == 0:
            break
        at = torch.from_numpy(rng.random(trials)) * mass[-1]
        drawn = torch.searchsorted(mass, at, right=True).clamp(max=len(x) - 1)
        # Good enough to choose by; what counts as equal is then told by differences.
        left = torch.minimum(torch.addmm(norms + norms[drawn, None], x[drawn], x.mT, alpha=-2), apart)
        chosen.append(int(drawn[left.sum(1).argmin()]))
        apart = torch.minimum(apart, _squared(x, x[chosen[-1:]]))
    return x[chosen]


def _squared(x: Tensor, centre: Tensor) -> Tensor:
    """(N,) squared distances of the rows from a (1, D) centre, 0 from a copy of it."""
    return distances(x, centre)[:, 0].square()

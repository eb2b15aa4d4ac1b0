"""How far would a figure move with other rows of the same law? Bootstrap and jackknife intervals."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError
from cbdm_core.metrics.checks import checked_pair
from cbdm_core.metrics.frechet import Moments, few_rows, frechet_distance
from cbdm_core.metrics.manifold import prdc, resampled_precision_recall
from cbdm_core.metrics.seeding import seeded

__all__ = [
    "Interval",
    "bootstrap_counts",
    "bootstrap_interval",
    "frechet_interval",
    "jackknife_interval",
    "precision_recall_intervals",
]

Statistic = Callable[[Tensor, Tensor], float]


class Interval(NamedTuple):
    """Both ends of an interval."""

    low: float
    high: float


def bootstrap_counts(n: int, resamples: int, seed: int = 0, purpose: str = "rows") -> Tensor:
    """(resamples, n) long, how often each of n rows is taken when n are drawn with replacement.

    Args:
        n: rows, ≥ 1.
        resamples: ≥ 1.
        seed: of the draws.
        purpose: what they are for; sets of different purposes are drawn apart.
    """
    rng = seeded(seed, f"bootstrap {purpose}")
    drawn = torch.from_numpy(rng.integers(n, size=(resamples, n)))
    return torch.zeros(resamples, n, dtype=torch.long).scatter_add_(1, drawn, torch.ones_like(drawn))


def bootstrap_interval(
    statistic: Statistic,
    real: Tensor,
    fake: Tensor,
    resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
    *,
    centred: bool = False,
) -> Interval:
    """The percentile interval of a statistic when the rows of either set are drawn anew with replacement.

    A statistic that is biased at these numbers of rows (FID upwards, precision and recall, whose balls shrink with
    every copy, downwards) is biased a second time in each resample, so that its percentiles can miss the very figure
    they belong to. `centred` moves them by the difference of the figure and the resamples' mean: an interval for what
    the statistic is on average at these numbers of rows, which is what figures of equal numbers compare. It does not
    hold the population's value, from which the bias keeps the figure away.

    Args:
        statistic: (real, fake) rows → a number.
        real: (N, …) rows.
        fake: (M, …) rows.
        resamples: ≥ 2; 200 do for 95 %.
        seed: the same seed draws the same rows, whatever the statistic.
        level: the share of the resamples inside, in (0, 1).
        centred: see above.

    Raises:
        CbdmError: no row, `resamples` < 2, or a level out of range.

    Source: Efron & Tibshirani 1993, chapter 13.
    """
    pairs = zip(*_counts(real, fake, resamples, seed), strict=True)
    drawn = [statistic(real.repeat_interleave(a, 0), fake.repeat_interleave(b, 0)) for a, b in pairs]
    return _percentiles(torch.tensor(drawn, dtype=torch.float64), level, statistic(real, fake) if centred else None)


def frechet_interval(
    real: Tensor,
    fake: Tensor,
    resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
    *,
    centred: bool = False,
) -> Interval:
    """`bootstrap_interval(frechet_distance, …)` to rounding, from the moments of weighted rows; never below 0.

    Of few rows, N·M < D², it is the plain one, which makes no covariances.

    Args:
        real: (N, D) features, N ≥ 2.
        fake: (M, D) features, M ≥ 2.
        resamples: as of `bootstrap_interval`, and so are the rest.
        seed: of the resamples.
        level: in (0, 1).
        centred: see `bootstrap_interval`.

    Raises:
        CbdmError: as `frechet_distance` and `bootstrap_interval`.
    """
    real, fake = checked_pair(real, fake, least=2)
    if few_rows(real, fake):
        low, high = bootstrap_interval(frechet_distance, real, fake, resamples, seed, level, centred=centred)
    else:
        pairs = zip(*_counts(real, fake, resamples, seed), strict=True)
        drawn = [frechet_distance(Moments.weighted(real, a), Moments.weighted(fake, b)) for a, b in pairs]
        figure = frechet_distance(real, fake) if centred else None
        low, high = _percentiles(torch.tensor(drawn, dtype=torch.float64), level, figure)
    return Interval(max(0.0, low), max(0.0, high))


def precision_recall_intervals(
    real: Tensor,
    fake: Tensor,
    k: int = 5,
    resamples: int = 200,
    seed: int = 0,
    level: float = 0.95,
    *,
    centred: bool = False,
) -> tuple[Interval, Interval]:
    """`bootstrap_interval` of precision and of recall, whose distances are computed once; within [0, 1].

    Args:
        real: (N, D) features.
        fake: (M, D) features.
        k: neighbours, 1 ≤ k < min(N, M).
        resamples: as of `bootstrap_interval`, and so are the rest.
        seed: of the resamples.
        level: in (0, 1).
        centred: see `bootstrap_interval`.

    Raises:
        CbdmError: as `prdc` and `bootstrap_interval`.
    """
    drawn = resampled_precision_recall(real, fake, k, *_counts(real, fake, resamples, seed))
    figures = prdc(real, fake, k)[:2] if centred else (None, None)
    precision, recall = (_percentiles(values, level, figure) for values, figure in zip(drawn, figures, strict=True))
    return _within_unit(precision), _within_unit(recall)


def jackknife_interval(statistic: Statistic, real: Tensor, fake: Tensor, level: float = 0.95) -> Interval:
    """figure ± z·SE with SE² = Σ_sets (n − 1)/n Σ_i (θ_(i) − mean θ_(·))², θ_(i) the statistic without row i.

    N + M evaluations and no random number. For smooth statistics, such as FID and KID; precision and recall jump.

    Args:
        statistic: (real, fake) rows → a number.
        real: (N, …) rows, N ≥ 2.
        fake: (M, …) rows, M ≥ 2.
        level: in (0, 1), under a normal law.

    Raises:
        CbdmError: fewer than 2 rows, or a level out of range.

    Source: Efron & Tibshirani 1993, eq. 11.5.
    """
    _check_level(level)
    if min(len(real), len(fake)) < 2:
        raise CbdmError(f"{len(real)} real and {len(fake)} generated rows: leaving one out needs 2 or more of each")
    without_real = [statistic(_without(real, i), fake) for i in range(len(real))]
    without_fake = [statistic(real, _without(fake, i)) for i in range(len(fake))]
    variances = [_jackknife_variance(values) for values in (without_real, without_fake)]
    reach = NormalDist().inv_cdf((1 + level) / 2) * sum(variances) ** 0.5
    figure = statistic(real, fake)
    return Interval(figure - reach, figure + reach)


def _counts(real: Tensor, fake: Tensor, resamples: int, seed: int) -> tuple[Tensor, Tensor]:
    if resamples < 2:
        raise CbdmError(f"resamples = {resamples}: an interval needs 2 or more, 200 for 95 %")
    if min(len(real), len(fake)) < 1:
        raise CbdmError(f"{len(real)} real and {len(fake)} generated rows: drawing from them needs 1 or more of each")
    counts = [bootstrap_counts(len(x), resamples, seed, what) for x, what in ((real, "real"), (fake, "generated"))]
    return counts[0].to(real.device), counts[1].to(fake.device)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise CbdmError(f"level = {level}: give a share between 0 and 1, such as 0.95")


def _percentiles(drawn: Tensor, level: float, figure: float | None) -> Interval:
    """The middle `level` of the values, moved so that their mean is the figure if there is one."""
    _check_level(level)
    values = drawn.cpu() if figure is None else drawn.cpu() - drawn.mean().item() + figure
    low, high = torch.quantile(values, values.new_tensor([(1 - level) / 2, (1 + level) / 2])).tolist()
    return Interval(low, high)


def _within_unit(interval: Interval) -> Interval:
    return Interval(*(min(1.0, max(0.0, end)) for end in interval))


def _without(rows: Tensor, i: int) -> Tensor:
    return torch.cat([rows[:i], rows[i + 1 :]])


def _jackknife_variance(values: list[float]) -> float:
    return (len(values) - 1) * float(torch.tensor(values, dtype=torch.float64).var(correction=0))

"""Batch laws that know the noise level: t is drawn first, and the class from π(y | t)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from cbdm_core.errors import CbdmError

__all__ = ["ExposureBudget", "LevelShare", "Ramp", "exposure_budget", "law_at"]


@dataclass(frozen=True, eq=False)
class LevelShare(ABC):
    """Which share of a class's draws from the batch law stands at a noise level; the rest come from the training law.

    A row draws t, then an example from the batch law π. It is taken with probability s(t, y, step); otherwise the row
    shows the next example of its epoch, as without a batch law. So, with p the training law,

        π(y | t) = π(y) s(t, y) + p(y) (1 − Σ_j π(j) s(t, j)).
    """

    @abstractmethod
    def share(self, t: Tensor, y: Tensor, step: int) -> Tensor:
        """(B,) s(t, y, step) in [0, 1].

        Args:
            t: (B,) noise levels.
            y: (B,) long, the classes drawn from the batch law.
            step: of training, ≥ 0.
        """


@dataclass(frozen=True, eq=False)
class Ramp(LevelShare):
    """s(t) = min(max((t − start)/(full − start), 0), 1): the training law at `start`, the batch law at `full`.

    Beyond each end its law goes on. A ramp that falls, `full` < `start`, has the batch law at low noise only.

    Args:
        start: in [0, 1].
        full: in [0, 1]; equal to `start` it splits hard, the batch law for t ≥ start.

    Raises:
        CbdmError: levels out of range.
    """

    start: float
    full: float

    def __post_init__(self) -> None:
        if not (0 <= self.start <= 1 and 0 <= self.full <= 1):
            raise CbdmError(
                f"a ramp of noise levels from {self.start:g} to {self.full:g}: give two in [0, 1], such as 0.2-0.4"
            )

    def share(self, t: Tensor, y: Tensor, step: int) -> Tensor:
        if self.start == self.full:
            return (t >= self.start).to(t.dtype)
        return ((t - self.start) / (self.full - self.start)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class ExposureBudget(LevelShare):
    """s = 1 while a class's images have been shown fewer than N(y, t) times, then 0.

    By `step` the batch law alone would have shown each image of class y step · B π(y)/n_y times. Few showings leave the
    batch law at every level; many leave it where the budget is large, at high noise.

    Args:
        budget: (K, L) N(y, t_l) ≥ 0, inf allowed; linear between the levels, constant outside them.
        levels: (L,) rising noise levels t_l.
        rate: (K,) showings of one image per step under the batch law, B π(y)/n_y ≥ 0.

    Raises:
        CbdmError: shapes that disagree, levels that do not rise, a negative or undefined budget or rate.
    """

    budget: Tensor
    levels: Tensor
    rate: Tensor

    def __post_init__(self) -> None:
        if self.budget.shape != (len(self.rate), len(self.levels)) or not len(self.levels):
            raise CbdmError(
                f"a budget of shape {tuple(self.budget.shape)} for {len(self.rate)} classes and {len(self.levels)} "
                "noise levels: give (classes, levels)"
            )
        if (self.levels.diff() <= 0).any():
            raise CbdmError(f"the noise levels {self.levels.tolist()} must rise")
        if not (self.budget >= 0).all() or not (torch.isfinite(self.rate) & (self.rate >= 0)).all():
            raise CbdmError("budgets and rates of showing are 0 or more, and no NaN")

    def share(self, t: Tensor, y: Tensor, step: int) -> Tensor:
        return (step * self.rate.to(t)[y] < self._budget(t, y)).to(t.dtype)

    def _budget(self, t: Tensor, y: Tensor) -> Tensor:
        levels, budget = self.levels.to(t), self.budget.to(t)
        if len(levels) == 1:
            return budget[y, 0]
        above = torch.searchsorted(levels, t.contiguous()).clamp(1, len(levels) - 1)
        lower, upper = levels[above - 1], levels[above]
        part = ((t - lower) / (upper - lower)).clamp(0, 1)
        low, high = budget[y, above - 1], budget[y, above]
        between = torch.where(part > 0, (1 - part) * low + part * high, low)
        return torch.where(part < 1, between, high)  # an infinite end times 0 would be NaN


def law_at(share: LevelShare, batch_law: Tensor, training: Tensor, t: float, step: int) -> Tensor:
    """(K,) π(y | t) at a step: π(y) s(t, y) + p(y) (1 − Σ_j π(j) s(t, j)).

    Args:
        share: s.
        batch_law: (K,) π.
        training: (K,) p.
        t: noise level.
        step: of training.
    """
    classes = torch.arange(len(batch_law))
    taken = batch_law * share.share(torch.full((len(batch_law),), t, dtype=batch_law.dtype), classes, step)
    return taken + training * (1 - taken.sum())


def exposure_budget(effective: Tensor, counts: Tensor, showings: float) -> Tensor:
    """(K, L) N(y, t) = N_0/(1 − a), a = (N_eff(y, t) − 1)/(n_y − 1): the less an x_t says whose it is, the more.

    At low noise a = 0 and an image may be shown N_0 times; at high noise a → 1 and it may be shown without end. A class
    of one image has no a of its own and takes that of the smallest class with two images or more; without one a = 0.

    Args:
        effective: (K, L) N_eff(y, t) in [1, n_y], the effective number of images of a class's posterior.
        counts: (K,) n_y; an empty class takes the same as a class of one image.
        showings: N_0 > 0.
    """
    n = counts.double()[:, None]
    share = ((effective.double() - 1) / (n - 1).clamp(min=1)).clamp(0, 1)
    several = (counts > 1).nonzero()[:, 0]
    smallest = share[several[counts[several].argmin()]] if len(several) else torch.zeros_like(share[0])
    return showings / (1 - torch.where(n > 1, share, smallest))

"""Batches that are a function of (seed, step), so that resume has no loader state to save."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from cbdm_core.data.augment import Augment
from cbdm_core.data.dataset import Dataset
from cbdm_core.data.levels import LevelShare
from cbdm_core.data.transplant import Transplant
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError
from cbdm_core.schedules import NoiseSchedule

__all__ = ["Batch", "Batches", "resampling_weights"]


_AHEAD = 32  # steps whose coins are tossed together, which takes about as long as those of one


class Batch(NamedTuple):
    """One process's share of a batch.

    Args:
        x_0: (B, …) float32 examples.
        y: (B,) long labels.
        rows: (B,) long, the places in the global batch.
        conditions: what the network takes, the labels or (B, …) conditions.
        t: (B,) the noise levels, where the examples were drawn by them; None leaves them to the process.
        augment: (B, A) what was done to the images, where the network is told; None tells it nothing.
    """

    x_0: Tensor
    y: Tensor
    rows: Tensor
    conditions: Tensor
    t: Tensor | None = None
    augment: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        x_0, y, rows, conditions = (part.to(device) for part in self[:4])
        return Batch(x_0, y, rows, conditions, *(None if part is None else part.to(device) for part in self[4:]))


def resampling_weights(labels: Tensor, probs: Tensor) -> Tensor:
    """(N,) float64 weights π(y_i)/n_{y_i}: an example drawn by them has its class from π.

    Args:
        labels: (N,) labels in [0, K).
        probs: (K,) the law π, ≥ 0; it is normalised by whoever draws.

    Raises:
        CbdmError: π draws a class that has no example, is no law, or has fewer classes than the labels.
    """
    law = probs.to(torch.float64)
    counts = torch.bincount(labels, minlength=len(law))
    if len(counts) > len(law):
        raise CbdmError(f"a law of {len(law)} classes, and the labels go up to {len(counts) - 1}: give it every class")
    if not torch.isfinite(law).all() or (law < 0).any() or law.sum() <= 0:
        raise CbdmError(f"the resampling law is {law.tolist()}: it must be 0 or more, with a positive sum")
    empty = ((law > 0) & (counts == 0)).nonzero()[:, 0].tolist()
    if empty:
        raise CbdmError(f"the resampling law draws classes that have no example: {empty}; give them probability 0")
    return (law / counts.clamp(min=1))[labels]


@dataclass(frozen=True, eq=False)
class Batches:
    """Batch number `step`, without a loader: whole epochs in a drawn order, or independent draws by weight.

    Without weights the batches are cut from an endless row of epochs, each a permutation of the N examples; a batch
    may reach over the end of one into the next. With weights every row is drawn on its own, with replacement. With
    `pure` each batch holds one class, drawn from that law, and its examples come with replacement. With `levels` t is
    drawn first: a row shows its draw by weight with probability s(t, y, step), and else the next example of its epoch.

    Args:
        dataset: the examples.
        batch_size: B of the global batch, ≥ 1.
        seed: of order, draws and flips.
        weights: (N,) ≥ 0 with a positive sum, such as `resampling_weights`; None for epochs.
        pure: (K,) a law of the class that a whole batch is of; None mixes classes. It goes without weights.
        flip: mirror images along their last axis (horizontally), one fair coin per row.
        schedule: draws t, for `levels` and `transplant`, which need it.
        levels: the share of draws by weight at each noise level; None for all.
        transplant: mixes rows of rare classes with residuals of common ones, of the same data set.
        augment: changes images, after all else, and says what it did; None leaves them.

    Raises:
        CbdmError: a batch size below 1, weights that are none, a law with empty classes, a flip or augmentation of
            floats, levels without weights, or levels or a transplant without a schedule.
    """

    dataset: Dataset
    batch_size: int
    seed: int = field(kw_only=True)
    weights: Tensor | None = field(default=None, kw_only=True)
    pure: Tensor | None = field(default=None, kw_only=True)
    flip: bool = field(default=False, kw_only=True)
    schedule: NoiseSchedule | None = field(default=None, kw_only=True)
    levels: LevelShare | None = field(default=None, kw_only=True)
    transplant: Transplant | None = field(default=None, kw_only=True)
    augment: Augment | None = field(default=None, kw_only=True)
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)
    _coins: dict[tuple[int, int, int], Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise CbdmError(f"batch_size is {self.batch_size}, it must be 1 or more")
        if self.flip and not self.dataset.is_images:
            raise CbdmError(
                "flip=true is for images, and these data are floats: set flip=false (--set data.flip=false)"
            )
        if self.augment is not None:
            self._check_augment(self.augment)
        if self.schedule is None and not (self.levels is None and self.transplant is None):
            raise CbdmError("batches that know the noise level draw t first: give them the schedule of the process")
        if self.levels is not None and self.weights is None:
            raise CbdmError("levels say which share of the draws by weight stands: give the weights too")
        if self.weights is not None:
            self._check(self.weights)
        if self.pure is not None:
            if self.weights is not None:
                raise CbdmError("batches of one class are not resampled too: choose one of pure and resample")
            self._check(resampling_weights(self.dataset.y, self.pure))

    def _check_augment(self, augment: Augment) -> None:
        if not self.dataset.is_images:
            raise CbdmError(
                "augmentation is for images, and these data are floats: set augment=0 (--set data.augment=0)"
            )
        augment.check(self.dataset.shape)

    def _check(self, weights: Tensor) -> None:
        if weights.shape != (len(self.dataset),):
            raise CbdmError(f"weights have shape {tuple(weights.shape)}: give one per example, ({len(self.dataset)},)")
        wrong = (~torch.isfinite(weights) | (weights < 0)).nonzero()[:, 0].tolist()
        if wrong:
            raise CbdmError(
                f"the weight of row {wrong[0]} is {float(weights[wrong[0]])}: weights are finite, 0 or more"
            )
        if weights.sum() <= 0:
            raise CbdmError("every weight is 0, so that no example can be drawn: give one a positive weight")

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """This process's share of a batch, whatever was asked for before.

        Args:
            step: ≥ 0.
            rank: of this process, in [0, world).
            world: processes; each takes a contiguous share of the global batch.

        Raises:
            CbdmError: the batch does not split evenly, or step or rank is out of range.
        """
        if step < 0 or not 0 <= rank < world:
            raise CbdmError(f"step {step} and rank {rank} of {world}: they must be step ≥ 0 and 0 ≤ rank < world")
        if self.batch_size % world:
            raise CbdmError(
                f"batch_size {self.batch_size} does not divide by {world} processes: choose a multiple of {world}"
            )
        share = self.batch_size // world
        rows = torch.arange(rank * share, (rank + 1) * share)
        draws = Draws(self.seed, step, rows)
        t = self._times(draws)
        chosen = self._chosen(step, rows, t, draws)
        y, mirrored = self.dataset.y[chosen], self._mirrored(draws)
        if self.transplant is not None and t is not None:
            x_0 = self.transplant(self.dataset.model_input(chosen), y, t, draws)
            x_0[mirrored] = x_0[mirrored].flip(-1)
        else:
            x_0 = self.dataset.model_input(chosen, mirrored if self.flip else None)
        description = None
        if self.augment is not None:
            x_0, description = self.augment(x_0, draws)
        return Batch(x_0, y, rows, self.dataset.condition_values(chosen), t, description)

    def _mirrored(self, draws: Draws) -> Tensor:
        """(M,) the rows that are flipped."""
        if not self.flip:
            return torch.empty(0, dtype=torch.long)
        first = draws.step - draws.step % _AHEAD
        key = (first, int(draws.rows[0]), len(draws.rows))
        coins = self._coins.get(key)
        if coins is None:
            self._coins.clear()
            coins = self._coins[key] = draws.at(first).uniform_ahead("flip", _AHEAD) < 0.5
        return coins[draws.step - first].nonzero()[:, 0]

    def _times(self, draws: Draws) -> Tensor | None:
        """(B,) the times that the process would draw for these rows, where the batch must know them."""
        if self.schedule is None or (self.levels is None and self.transplant is None):
            return None
        return self.schedule.draw_t(draws)

    def _chosen(self, step: int, rows: Tensor, t: Tensor | None, draws: Draws) -> Tensor:
        if self.pure is not None:
            return self._of_one_class(step, rows)
        if self.weights is None:
            return self._from_epochs(step, rows)
        by_weight = self._by_weight(draws)
        if self.levels is None or t is None:
            return by_weight
        share = self.levels.share(t, self.dataset.y[by_weight], step)
        return torch.where(draws.uniform("level share") < share, by_weight, self._from_epochs(step, rows))

    def _by_weight(self, draws: Draws) -> Tensor:
        """`draws.categorical("batch", weights)`, with the distribution function of N examples summed only once."""
        cdf, last = self._distribution
        return torch.searchsorted(cdf, draws.uniform("batch") * cdf[-1], right=True).clamp(max=last)

    @cached_property
    def _distribution(self) -> tuple[Tensor, int]:
        assert self.weights is not None
        weights = self.weights.to(torch.float64)
        return weights.cumsum(0), int(weights.nonzero()[-1])

    def _of_one_class(self, step: int, rows: Tensor) -> Tensor:
        """Examples of the step's class; the class is shared by all processes."""
        assert self.pure is not None
        label = int(Draws(self.seed, step, torch.zeros(1, dtype=torch.long)).categorical("pure class", self.pure)[0])
        members = (self.dataset.y == label).nonzero()[:, 0]
        place = Draws(self.seed, step, rows).uniform("pure member") * len(members)
        return members[place.long().clamp(max=len(members) - 1)]

    def _from_epochs(self, step: int, rows: Tensor) -> Tensor:
        size = len(self.dataset)
        first = step * self.batch_size + int(rows[0])
        end = first + len(rows)
        parts = []
        for epoch in range(first // size, (end - 1) // size + 1):
            start = epoch * size
            parts.append(self._order(epoch)[max(first - start, 0) : end - start])
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        """(N,) the order of an epoch; the last two asked for are kept."""
        if epoch not in self._orders:
            if len(self._orders) == 2:
                del self._orders[next(iter(self._orders))]
            high, low = Draws(self.seed, epoch, torch.arange(len(self.dataset))).bits("order", 2).unbind(1)
            # 62 bits: ties are all but impossible, and stable sorting settles them the same way everywhere.
            self._orders[epoch] = torch.argsort((high << 30) | (low >> 2), stable=True)
        return self._orders[epoch]

"""Batches that are a function of (seed, step), so that resume has no loader state to save."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError

__all__ = ["Batches", "resampling_weights"]


def resampling_weights(labels: Tensor, probs: Tensor) -> Tensor:
    """(N,) weights ∝ π(y_i)/n_{y_i}: an example drawn by them has its class from π.

    Args:
        labels: (N,) labels.
        probs: (K,) the law π.

    Raises:
        CbdmError: π draws a class that has no example.
    """
    counts = torch.bincount(labels, minlength=len(probs))
    empty = [y for y in range(len(probs)) if probs[y] > 0 and counts[y] == 0]
    if empty:
        raise CbdmError(f"the resampling law draws classes that have no example: {empty}; give them probability 0")
    return (probs.to(torch.float64) / counts.clamp(min=1))[labels]


@dataclass(frozen=True, eq=False)
class Batches:
    """Batch number `step`, without a loader: whole epochs in a drawn order, or independent draws by weight.

    Args:
        dataset: the examples.
        batch_size: of the global batch, ≥ 1.
        seed: of order and flips.
        weights: (N,) ≥ 0, for draws with replacement; None for epochs in which each example comes once.
        flip: flip images horizontally, one coin per row.

    Raises:
        CbdmError: a batch size below 1, weights that are none, or a flip of vectors.
    """

    dataset: Dataset
    batch_size: int
    seed: int = field(kw_only=True)
    weights: Tensor | None = field(default=None, kw_only=True)
    flip: bool = field(default=False, kw_only=True)
    _orders: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise CbdmError(f"batch_size must be 1 or more, got {self.batch_size}")
        if self.flip and not self.dataset.is_images:
            raise CbdmError("flip is for images, and these data are vectors: set data.flip=false")
        w = self.weights
        if w is not None and (w.shape != (len(self.dataset),) or not torch.isfinite(w).all() or (w < 0).any() or w.sum() <= 0):
            raise CbdmError("batch weights must be one number of 0 or more per example, with a positive sum")

    def at(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """(x_0 float32, y, rows) of this rank's share of batch `step`; rows are places in the global batch.

        Raises:
            CbdmError: the batch does not split evenly over the ranks.
        """
        if self.batch_size % world:
            raise CbdmError(f"batch_size {self.batch_size} does not divide over {world} processes: choose a multiple")
        share = self.batch_size // world
        rows = torch.arange(rank * share, (rank + 1) * share)
        draws = Draws(self.seed, step, rows)
        chosen = self._places(step, rows) if self.weights is None else draws.categorical("batch", self.weights)
        x_0 = self.dataset.model_input(chosen)
        if self.flip:
            coin = (draws.uniform("flip", 1)[:, 0] < 0.5).reshape(-1, *[1] * (x_0.ndim - 1))
            x_0 = torch.where(coin, x_0.flip(-1), x_0)
        return x_0, self.dataset.y[chosen], rows

    def _places(self, step: int, rows: Tensor) -> Tensor:
        places, size = step * self.batch_size + rows, len(self.dataset)
        epochs = places // size
        chosen = torch.empty_like(places)
        for epoch in epochs.unique().tolist():
            here = epochs == epoch
            chosen[here] = self._order(epoch)[places[here] % size]
        return chosen

    def _order(self, epoch: int) -> Tensor:
        """The order of an epoch; the last two are kept."""
        if epoch not in self._orders:
            for old in [e for e in self._orders if e < epoch - 1]:
                del self._orders[old]
            high, low = Draws(self.seed, epoch, torch.arange(len(self.dataset))).bits("order", 2).unbind(1)
            self._orders[epoch] = torch.argsort((high << 30) | (low >> 2), stable=True)
        return self._orders[epoch]

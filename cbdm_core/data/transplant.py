"""Residual transplants: rare classes keep their mean and borrow their spread from common ones, where noise is high."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.draws import Draws
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["SOURCES", "Transplant"]

SOURCES = ("uniform", "affinity")
_CHUNK = 1024  # images whose residuals are in memory at once, while the basis is made


@dataclass(frozen=True, eq=False)
class Transplant:
    """x' = x̄_c + ρ(x_i − x̄_c) + √(v − ρ²(n − 1)/n) √(m/(m − 1)) (x_j − x̄_d), for rows of a rare class c at t ≥ t_0.

    x_i is the row's image, one of n of class c, and x_j one of m of a common class d. Over i and j the mean of x' is
    x̄_c and its covariance v Σ where every class has the within-class covariance Σ, whatever n: at n = 1 the own
    residual is 0 and the borrowed one carries all of it. ρ = 1, v = 1 borrows least, ρ = 0 shows no image of the class.

    Args:
        dataset: the training set, of classes.
        rho: ρ in [0, 1], what stays of the own residual.
        spread: v ≥ ρ², the covariance in units of the common classes'.
        t0: the noise level from which rows are transplanted, in [0, 1].
        below: classes with fewer images than this, ≥ 2, are rare; the others, with 2 images or more, are sources.
        source: "uniform" over the common classes, or "affinity": d ∝ exp(−‖x̄_c − x̄_d‖²/(2 h²)), h² the median over
            pairs of a rare and a common class.
        components: in the span of so many principal components of the common classes' residuals alone, the rest of
            the own residual stays as it is; 0 for all of the space.
        share: of the rows that could be, in [0, 1], those which are; 0 changes nothing.

    Raises:
        CbdmError: an option out of range, data without classes, or no common class to borrow from.
    """

    dataset: Dataset
    rho: float = 0.5
    spread: float = 0.7
    t0: float = 0.2
    below: int = 20
    source: str = "uniform"
    components: int = 0
    share: float = 1.0

    def __post_init__(self) -> None:
        self._check_options()
        if self.dataset.condition is not None:
            raise CbdmError("transplant borrows between classes, and these data have other conditions: leave it out")
        if self.rare.any() and not len(self.sources):
            raise CbdmError(
                f"transplant: every class has fewer than {max(self.below, 2)} images, so that none can lend its "
                f"spread: choose a smaller method.transplant.below (the largest class has {int(self.counts.max())})"
            )

    def _check_options(self) -> None:
        limits = {"rho": (0, 1), "t0": (0, 1), "share": (0, 1), "spread": (self.rho**2, math.inf)}
        limits |= {"below": (2, math.inf), "components": (0, math.inf)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                allowed = f"{low:g} or more" if high == math.inf else f"in [{low:g}, {high:g}]"
                raise CbdmError(f"transplant: {name} = {value}, it must be {allowed}")
        if self.source not in SOURCES:
            raise unknown_name("source of transplants", self.source, SOURCES)

    @cached_property
    def counts(self) -> Tensor:
        """(K,) images of each class."""
        return self.dataset.counts()

    @cached_property
    def rare(self) -> Tensor:
        """(K,) bool, the classes whose images are transplanted."""
        return (self.counts > 0) & (self.counts < self.below)

    @cached_property
    def sources(self) -> Tensor:
        """(M,) long, the classes that lend their spread."""
        return (self.counts >= self.below).nonzero()[:, 0]

    @cached_property
    def means(self) -> Tensor:
        """(K, …) float32 class means, 0 for an empty class."""
        sums = torch.zeros(len(self.counts), *self.dataset.shape, dtype=torch.float64)
        for rows in torch.arange(len(self.dataset)).split(_CHUNK):
            sums.index_add_(0, self.dataset.y[rows], self.dataset.model_input(rows).double())
        return (sums / self._columns(self.counts.clamp(min=1))).float()

    @cached_property
    def source_law(self) -> Tensor:
        """(K, M) float64, the law of the lending class for each class."""
        uniform = torch.full((len(self.counts), len(self.sources)), 1 / max(len(self.sources), 1), dtype=torch.float64)
        if self.source == "uniform" or not self.rare.any():
            return uniform
        flat = self.means.flatten(1).double()
        squared = torch.cdist(flat, flat[self.sources]).square()
        return (-squared / (2 * squared[self.rare].median().clamp(min=1e-12))).softmax(1)

    @cached_property
    def basis(self) -> Tensor | None:
        """(D, R) orthonormal: the principal components of the common classes' residuals, None for all of the space.

        Raises:
            CbdmError: more components than the data have dimensions.
        """
        if not self.components:
            return None
        size = math.prod(self.dataset.shape)
        if self.components > size:
            raise CbdmError(f"transplant: components = {self.components}, these data have {size} dimensions")
        second = torch.zeros(size, size, dtype=torch.float64)
        members = torch.isin(self.dataset.y, self.sources).nonzero()[:, 0]
        for rows in members.split(_CHUNK):
            residuals = self._residual(rows).flatten(1).double()
            second += residuals.T @ residuals
        return torch.linalg.eigh(second).eigenvectors[:, -self.components :].float()

    def __call__(self, x_0: Tensor, y: Tensor, t: Tensor, draws: Draws) -> Tensor:
        """(B, …) x', where a row is of a rare class and t ≥ t_0; the other rows as they are.

        Args:
            x_0: (B, …) the rows' images.
            y: (B,) long labels.
            t: (B,) noise levels.
            draws: B rows.
        """
        chosen = self.rare[y] & (t >= self.t0) & (draws.uniform("transplant share") < self.share)
        if not chosen.any():
            return x_0
        rows = chosen.nonzero()[:, 0]
        out = x_0.clone()
        out[rows] = self._mixed(x_0[rows], y[rows], self._lender(y, draws)[rows])
        return out

    def _mixed(self, x_0: Tensor, y: Tensor, lender: Tensor) -> Tensor:
        n, m = self.counts[y].double(), self.counts[self.dataset.y[lender]].double()
        borrowed = ((self.spread - self.rho**2 * (n - 1) / n).clamp(min=0) * m / (m - 1)).sqrt().float()
        own, lent = x_0 - self.means[y], self._residual(lender)
        change = (self.rho - 1) * own + self._columns(borrowed) * lent
        return x_0 + self._projected(change)

    def _projected(self, change: Tensor) -> Tensor:
        basis = self.basis
        return change if basis is None else (change.flatten(1) @ basis @ basis.T).view_as(change)

    def _lender(self, y: Tensor, draws: Draws) -> Tensor:
        """(B,) long, the image that lends its residual to each row: its class first, then one of the class."""
        cdf = self.source_law[y].cumsum(1)
        place = torch.searchsorted(cdf, (draws.uniform("transplant class") * cdf[:, -1])[:, None], right=True)[:, 0]
        classes = self.sources[place.clamp(max=len(self.sources) - 1)]
        order, first = self._members
        within = (draws.uniform("transplant member") * self.counts[classes]).long()
        return order[first[classes] + torch.minimum(within, self.counts[classes] - 1)]

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        """The images in order of their classes, and where each class begins."""
        return torch.argsort(self.dataset.y, stable=True), self.counts.cumsum(0) - self.counts

    def _residual(self, rows: Tensor) -> Tensor:
        return self.dataset.model_input(rows) - self.means[self.dataset.y[rows]]

    def _columns(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * len(self.dataset.shape))

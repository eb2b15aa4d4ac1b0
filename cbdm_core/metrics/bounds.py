"""Which of many points are near, as exact differences say, at the cost of a product: brackets decide clear pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CHUNK", "Bounds", "Cloud", "clouds", "distances", "nearest_radii", "within"]

CHUNK = 512  # rows of a distance matrix held at once
_SPARE = 8  # neighbours looked at beyond the k-th, so that a near tie is seldom a reason to look at all
_GATHERED = 2**21  # numbers of gathered rows held at once
_WIDE = 512  # dimension from which half of a symmetric product costs more than looking along both of its axes


def distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, M) Euclidean distances of (N, D) and (M, D) rows; exactly 0 between copies."""
    # The usual ‖x‖² − 2x·y + ‖y‖² cancels: copies would be apart, and ties would fall either way.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _matmul_dtype(device: torch.device) -> torch.dtype:
    """float32 where its products are sure to be computed in it, or else float64."""
    try:
        asked = torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(device.type)
        exact = device.type == "cpu" and asked
    except RuntimeError:  # set in more than one of the ways that torch has
        exact = False
    return torch.float32 if exact else torch.float64


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with what bounds their distances: a copy z = (x − centre)/scale in the precision of the product.

    Args:
        rows: (N, D) as given.
        copy: (N, D) z.
        norms: (N,) float64 ‖z‖², and a little, so that what underflows in the copy counts as undecided.
        scale: of the copy; all of z lies in [−1, 1].
        slack: c, such that |‖z_i − z_j‖² − its value from the product| ≤ c (‖z_i‖² + ‖z_j‖²).
    """

    rows: Tensor
    copy: Tensor
    norms: Tensor
    scale: float
    slack: float

    def exactly(self, i: Tensor, other: Cloud, j: Tensor) -> Tensor:
        """(P,) distances of rows i to rows j of another cloud, to the bit as `distances` has them."""
        step = max(1, _GATHERED // self.rows.shape[1])
        parts = [
            distances(self.rows[a].double()[:, None], other.rows[b].double()[:, None])[:, 0, 0]
            for a, b in zip(i.split(step), j.split(step), strict=True)
        ]
        return torch.cat(parts)

    def all_exactly(self, i: Tensor, other: Cloud) -> Tensor:
        """(P, N) distances of rows i to every row of another cloud."""
        return torch.cat([distances(self.rows[i].double(), part.double()) for part in other.rows.split(8 * CHUNK)], 1)


def clouds(*sets: Tensor) -> list[Cloud]:
    """Each set as a cloud, with one centre and scale for all."""
    dtype, D = _matmul_dtype(sets[0].device), sets[0].shape[1]
    chunks = [rows.split(CHUNK) for rows in sets]
    centre = torch.stack([rows.double().sum(0) for rows in chunks[0]]).sum(0) / len(sets[0])
    ends = [(rows.amin(0).double(), rows.amax(0).double()) for rows in sets]
    largest = max(float(torch.maximum(centre - least, most - centre).max()) for least, most in ends)
    scale = largest or 1.0
    # An inner product of D terms errs by at most Du/(1 − Du) of |z_i|·|z_j| in any order of summation, u = eps/2; the
    # rest is for the rounding of the copy and of the sums, and 2 D·eps of float64 for its distances.
    eps = torch.finfo(dtype).eps
    slack = (D / 2 * (1 + D * eps) + 16) * eps + 2 * (D + 16) * torch.finfo(torch.float64).eps
    clouds = []
    for rows, part in zip(sets, chunks, strict=True):
        copy, norms = torch.empty(rows.shape, dtype=dtype, device=rows.device), []
        for into, some in zip(copy.split(CHUNK), part, strict=True):
            z = (some.double() - centre) / scale
            into.copy_(z)
            norms.append(z.square().sum(1) + 1e-24)
        clouds.append(Cloud(rows, copy, torch.cat(norms), scale, slack))
    return clouds


@dataclass(frozen=True, eq=False)
class Bounds:
    """low ≤ squared distance ≤ low + 2c (‖z_i‖² + ‖z_j‖²) between some rows of one cloud and those of another.

    ‖z_i‖² + ‖z_j‖² − 2 z_i·z_j cancels, so that copies would be apart and ties fall either way: it only tells which
    pairs can be decided without their difference.
    """

    first: Cloud
    rows: Tensor
    second: Cloud
    low: Tensor

    @classmethod
    def of(cls, first: Cloud, rows: Tensor, second: Cloud, start: int = 0) -> Bounds:
        """(n, N − start) bounds to the rows of the second cloud from `start` on."""
        kept, dtype = 1 - first.slack, first.copy.dtype
        low = torch.mm(-2 * first.copy[rows], second.copy[start:].mT)  # then add: quicker than addmm, which adds first
        low.add_((kept * second.norms[start:]).to(dtype)).add_((kept * first.norms[rows, None]).to(dtype))
        return cls(first, rows, second, low)

    def within(self, radii: Tensor, strict: bool) -> Tensor:
        """(n, N) bool: the pairs nearer than a radius, which is (1, N) or (n, 1)."""
        limit, c = (radii / self.first.scale).square().to(self.low.dtype), 2 * self.first.slack
        high = self.low + (c * self.first.norms[self.rows, None]).to(self.low.dtype)
        inside = high.add_((c * self.second.norms).to(high.dtype)) < limit
        del high
        i, j = ((self.low <= limit) ^ inside).nonzero(as_tuple=True)
        if 8 * len(i) > inside.numel():
            return within(self.first.all_exactly(self.rows, self.second), radii, strict)
        near = radii.expand(inside.shape)[i, j]
        inside[i, j] = within(self.first.exactly(self.rows[i], self.second, j), near, strict)
        return inside


def within(d: Tensor, radii: Tensor, strict: bool) -> Tensor:
    """Which distances are below the radii, or, not strictly, at most as large."""
    return d < radii if strict else d <= radii


def nearest_radii(points: Cloud, k: int) -> Tensor:
    """(N,) the distance of each point to its k-th nearest neighbour, itself not counted."""
    low, near = _first_by_bound(points, min(len(points.rows) - 1, k + _SPARE))
    parts = torch.arange(len(points.rows), device=points.rows.device).split(CHUNK)
    return torch.cat([_measured_radii(points, rows, low[rows], near[rows], k) for rows in parts])


def _first_by_bound(points: Cloud, keep: int) -> tuple[Tensor, Tensor]:
    """(N, keep) lower bounds, least first, and which neighbours they are of."""
    N, D = points.rows.shape
    low = points.copy.new_full((N, keep), torch.inf)
    near = torch.zeros(N, keep, dtype=torch.long, device=low.device)

    def merge(rows: slice, bounds: Tensor, start: int, axis: int) -> None:
        found, at = bounds.topk(min(keep, bounds.shape[axis]), dim=axis, largest=False)
        found, at = (found.mT, at.mT) if axis == 0 else (found, at)
        low[rows], order = torch.cat([low[rows], found], 1).topk(keep, dim=1, largest=False)
        near[rows] = torch.cat([near[rows], at + start], 1).gather(1, order)

    for rows in torch.arange(N, device=low.device).split(CHUNK):
        first, last = int(rows[0]), int(rows[-1]) + 1
        start = first if D >= _WIDE else 0
        bounds = Bounds.of(points, rows, points, start).low
        bounds[rows - first, rows - start] = torch.inf
        merge(slice(first, last), bounds, start, axis=1)
        if D >= _WIDE and last < N:
            merge(slice(last, N), bounds[:, last - start :], first, axis=0)
    return low, near


def _measured_radii(points: Cloud, rows: Tensor, low: Tensor, near: Tensor, k: int) -> Tensor:
    """Of the neighbours that come first by their lower bounds, only those that may be the k-th are measured."""
    low = low.double()
    high = low + 2 * points.slack * (points.norms[rows, None] + points.norms[near])
    least, most = low[:, k - 1 : k], high.kthvalue(k, dim=1, keepdim=True).values
    # Those that are nearer than the k-th for certain are put at 0, those that are farther at ∞.
    d = torch.full_like(high, torch.inf).masked_fill_(high < least, 0)
    i, j = ((low <= most) & (high >= least)).nonzero(as_tuple=True)
    d[i, j] = points.exactly(rows[i], points, near[i, j])
    radii = d.kthvalue(k, dim=1).values
    if near.shape[1] < len(points.rows) - 1:
        unseen = (low[:, -1] < most[:, 0]).nonzero()[:, 0]  # a neighbour that was left out may be nearer
        if len(unseen):
            d = points.all_exactly(rows[unseen], points)
            d[torch.arange(len(unseen), device=d.device), rows[unseen]] = torch.inf
            radii[unseen] = d.topk(k, dim=1, largest=False).values[:, -1]
    return radii

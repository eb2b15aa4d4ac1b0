"""Many classes from few: each class split into clusters of equal size."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError

__all__ = ["balanced_clusters", "split_classes"]

_ROUNDS = 50
_COMPONENTS = 16


def split_classes(dataset: Dataset, clusters: int, *, features: Tensor | None = None) -> Dataset:
    """The same examples in `clusters` times as many classes: class c becomes c.0, c.1, …, each of like examples.

    The new label of cluster j of class c is jK + c: a long tail over the new labels then has common and rare clusters
    of every class.

    Args:
        dataset: of labels, K classes.
        clusters: M ≥ 1 for each class; 1 changes nothing.
        features: (N, D) what is alike; default the first 16 principal components of the examples.

    Raises:
        CbdmError: M < 1, a class with fewer than M examples, a set that is told conditions, or features of other rows.
    """
    if not isinstance(clusters, int) or clusters < 1:
        raise CbdmError(f"clusters = {clusters!r}: it must be a whole number of 1 or more")
    if clusters == 1:
        return dataset
    if dataset.condition is not None:
        raise CbdmError("a data set that is told conditions has no classes to split: leave clusters at 1")
    z = _components(dataset.model_input().flatten(1).double()) if features is None else features.double()
    if z.ndim != 2 or len(z) != len(dataset):
        raise CbdmError(f"features of shape {tuple(z.shape)} for {len(dataset)} examples: give one row for each")
    if not bool(torch.isfinite(z).all()):
        raise CbdmError("the features hold NaN or infinite values: remove or mend them")
    K, y = dataset.num_classes, torch.empty_like(dataset.y)
    for label, name in enumerate(dataset.class_names):
        rows = (dataset.y == label).nonzero()[:, 0]
        if len(rows) < clusters:
            raise CbdmError(
                f"class {name} has {len(rows)} examples, and {clusters} clusters were asked for: ask for fewer"
            )
        y[rows] = balanced_clusters(z[rows], clusters) * K + label
    names = tuple(f"{name}.{j}" for j in range(clusters) for name in dataset.class_names)
    return replace(dataset, y=y, class_names=names)


def _components(x: Tensor) -> Tensor:
    """(N, ≤ 16) float64: the examples along the directions in which they differ most."""
    centred = x - x.mean(0)
    vectors = torch.linalg.eigh(centred.mT @ centred).eigenvectors.flip(1)
    return centred @ vectors[:, :_COMPONENTS]


def balanced_clusters(x: Tensor, clusters: int) -> Tensor:
    """(N,) long cluster numbers, k-means with clusters of ⌊N/M⌋ or ⌈N/M⌉ rows; the same rows give the same clusters.

    Lloyd's rounds, in which the assignment is the cheapest one with these sizes; they end when nothing changes. The
    first centre is the row farthest from the mean, each further one the row farthest from the centres before.

    Args:
        x: (N, D) float64, N ≥ M.
        clusters: M ≥ 1.
    """
    from scipy.optimize import linear_sum_assignment  # at need: it takes a quarter of a second

    centres = x[_far_apart(x, clusters)]
    slots = torch.arange(len(x)) % clusters  # as many places in each cluster as its size
    found = slots
    for _ in range(_ROUNDS):
        rows, columns = linear_sum_assignment(torch.cdist(x, centres).square()[:, slots].numpy())
        now = slots[torch.from_numpy(columns)[torch.from_numpy(rows).argsort()]]
        if torch.equal(now, found):
            break
        found = now
        centres = torch.stack([x[found == j].mean(0) for j in range(clusters)])
    return found


def _far_apart(x: Tensor, count: int) -> list[int]:
    chosen = [int((x - x.mean(0)).square().sum(1).argmax())]
    apart = torch.full((len(x),), torch.inf, dtype=x.dtype)
    while len(chosen) < count:
        apart = torch.minimum(apart, (x - x[chosen[-1]]).square().sum(1))
        apart[chosen] = -1
        chosen.append(int(apart.argmax()))
    return chosen

"""Long tails: how many images each class keeps, and which."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["PROFILES", "long_tail_counts", "make_long_tail", "split_hash", "take"]

PROFILES = ("exp", "step", "none")


def long_tail_counts(profile: str, num_classes: int, n_max: int, imbalance: float) -> Tensor:
    """(K,) images per class, the commonest first.

    exp: int(n_max · imbalance^(c/(K−1))); step: n_max for the first half, int(n_max · imbalance) for the rest.

    Args:
        profile: "exp" or "step".
        num_classes: K ≥ 1.
        n_max: images of the commonest class, ≥ 1.
        imbalance: rarest over commonest, in (0, 1].

    Raises:
        CbdmError: any of these out of range.

    Source: Cao et al. 2019 (the profiles that Qin et al. 2023 use).
    """
    if num_classes < 1 or n_max < 1 or not 0 < imbalance <= 1:
        raise CbdmError(
            f"a long tail needs num_classes ≥ 1, n_max ≥ 1 and imbalance in (0, 1], got {num_classes}, {n_max} and {imbalance}"
        )
    if profile == "exp":
        steps = max(num_classes - 1, 1)
        return torch.tensor([int(n_max * imbalance ** (c / steps)) for c in range(num_classes)])
    if profile == "step":
        head = num_classes - num_classes // 2 if num_classes % 2 else num_classes // 2
        return torch.tensor([n_max] * head + [int(n_max * imbalance)] * (num_classes - head))
    raise unknown_name("profile", profile, PROFILES[:2])


def take(labels: Tensor, counts: Sequence[int] | Tensor, *, seed: int) -> Tensor:
    """Indices of the examples kept: for each class in order, its indices shuffled, then the first n.

    Args:
        labels: (N,) labels.
        counts: (K,) how many of each class, ≥ 0.
        seed: of numpy's `RandomState`, whose stream the published split uses.

    Raises:
        CbdmError: a class has fewer examples than asked for.
    """
    asked = [int(n) for n in counts]
    random = np.random.RandomState(seed)
    classes = labels.numpy()
    kept = []
    for label, n in enumerate(asked):
        indices = np.flatnonzero(classes == label)
        if not 0 <= n <= len(indices):
            raise CbdmError(f"class {label} has {len(indices)} examples, {n} were asked for: lower its count or n_max")
        random.shuffle(indices)
        kept.append(indices[:n])
    return torch.from_numpy(np.concatenate(kept).astype(np.int64))


def split_hash(indices: Tensor) -> str:
    """SHA-256 of the indices as little-endian int64."""
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()


def make_long_tail(
    dataset: Dataset,
    *,
    profile: str = "exp",
    imbalance: float = 0.02,
    n_max: int | None = None,
    counts: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Dataset, Tensor, str]:
    """(the long-tailed part, its indices, the split's hash); classes without examples keep none.

    Args:
        dataset: any labelled set.
        profile: "exp", "step", or "none" to keep everything.
        imbalance: rarest over commonest, in (0, 1].
        n_max: images of the commonest class; the smallest class's size by default.
        counts: (K,) explicit numbers instead of a profile.
        seed: of the split.

    Raises:
        CbdmError: more examples asked for than there are, or numbers out of range.
    """
    there = dataset.counts()
    if counts is not None:
        if len(counts) != dataset.num_classes:
            raise CbdmError(f"{len(counts)} counts for {dataset.num_classes} classes: give one number per class")
        wanted = torch.as_tensor(counts)
    elif profile == "none":
        wanted = there
    else:
        filled = there > 0
        top = n_max if n_max is not None else int(there[filled].min())
        wanted = torch.where(filled, long_tail_counts(profile, dataset.num_classes, top, imbalance), 0)
    if int(wanted.sum()) == 0:
        raise CbdmError("the long tail keeps no example at all: raise n_max or the counts")
    indices = torch.arange(len(dataset)) if counts is None and profile == "none" else take(dataset.y, wanted, seed=seed)
    return dataset[indices], indices, split_hash(indices)

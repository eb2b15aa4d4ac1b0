"""Long tails: how many examples each class keeps, and which."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cbdm_core.data.dataset import Dataset
from cbdm_core.errors import CbdmError, unknown_name

__all__ = ["PROFILES", "long_tail_counts", "make_long_tail", "split_hash", "take"]

PROFILES = ("exp", "step", "held-out", "none")


def long_tail_counts(profile: str, num_classes: int, n_max: int, imbalance: float) -> Tensor:
    """(K,) long, examples per class, the commonest first; a count may come out as 0.

    exp: n_c = int(n_max · imbalance^(c/(K−1))), n_0 = n_max when K = 1.
    step: n_max for the first half (the larger half when K is odd), int(n_max · imbalance) for the rest.

    Args:
        profile: "exp" or "step".
        num_classes: K ≥ 1.
        n_max: examples of the commonest class, ≥ 1.
        imbalance: rarest over commonest, in (0, 1].

    Raises:
        CbdmError: any of these out of range.

    Source: Cao et al., NeurIPS 2019, arXiv 1906.07413 (the profiles that Qin et al., CVPR 2023, use).
    """
    if num_classes < 1 or n_max < 1:
        raise CbdmError(f"a long tail needs num_classes ≥ 1 and n_max ≥ 1, got {num_classes} and {n_max}: raise them")
    if not 0 < imbalance <= 1:
        raise CbdmError(f"imbalance is {imbalance}, it must be in (0, 1]: 0.02 leaves the rarest class 2 % of n_max")
    if profile == "exp":
        last = max(num_classes - 1, 1)
        return torch.tensor([int(n_max * imbalance ** (c / last)) for c in range(num_classes)])
    if profile == "step":
        tail = num_classes // 2
        return torch.tensor([n_max] * (num_classes - tail) + [int(n_max * imbalance)] * tail)
    raise unknown_name("long-tail profile", profile, ("exp", "step"))


def take(
    labels: Tensor, counts: Sequence[int] | Tensor, *, seed: int, class_names: Sequence[str] | None = None
) -> Tensor:
    """Indices (Σ counts,) long of the examples kept: each class's indices shuffled, in class order, then the first n.

    Args:
        labels: (N,) labels in [0, K).
        counts: (K,) how many of each class, ≥ 0; 0 is fine for a class without examples.
        seed: of numpy's `RandomState`, in [0, 2³²), whose stream the published splits use.
        class_names: (K,) for messages; the labels by default.

    Raises:
        CbdmError: a class has fewer examples than asked for, or counts, labels or seed are out of range.
    """
    asked = [_whole(n) for n in counts]
    there = torch.bincount(labels, minlength=len(asked)).tolist()
    if len(there) > len(asked):
        raise CbdmError(f"{len(asked)} counts, and the labels go up to {len(there) - 1}: give one count per class")
    names = range(len(asked)) if class_names is None else class_names
    for name, n, available in zip(names, asked, there):
        if n < 0:
            raise CbdmError(f"class {name} is given a count of {n}: counts are 0 or more")
        if n > available:
            raise CbdmError(f"class {name} has {available} examples, {n} were asked for: lower its count or n_max")
    if not 0 <= seed < 2**32:
        raise CbdmError(f"the seed of a split is {seed}, it must be in [0, 2^32): choose another")
    random = np.random.RandomState(seed)
    kept = []
    for label, n in enumerate(asked):
        indices = np.flatnonzero(labels.numpy() == label)
        random.shuffle(indices)  # also where n is 0: the stream then depends on the labels alone
        kept.append(indices[:n])
    return torch.from_numpy(np.concatenate(kept).astype(np.int64))


def _whole(n: object) -> int:
    try:
        return operator.index(n)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise CbdmError(f"a count is {n!r}: counts are whole numbers, 0 or more") from None


def split_hash(indices: Tensor) -> str:
    """SHA-256 in hex of the indices as little-endian int64."""
    return hashlib.sha256(indices.numpy().astype("<i8").tobytes()).hexdigest()


def make_long_tail(
    dataset: Dataset,
    *,
    profile: str = "exp",
    imbalance: float = 0.02,
    n_max: int | None = None,
    counts: Sequence[int] | Tensor | None = None,
    held_out: float = 0.2,
    seed: int = 0,
) -> tuple[Dataset, Tensor, str]:
    """(the long-tailed part, its (n,) indices, the split's hash); a class without examples keeps none.

    Args:
        dataset: any labelled set.
        profile: "exp", "step", "held-out" to keep all but a share of each class, for data whose tail is their own, or
            "none" to keep everything in its order.
        imbalance: rarest over commonest, in (0, 1].
        n_max: examples of the commonest class; by default the size of the smallest class that has any, the most
            that every class can give.
        counts: (K,) explicit numbers, which go before all others.
        held_out: with that profile, the share of each class that is not kept, in (0, 1); to the nearest number, but one
            at least of a class that has two, and never all.
        seed: of the split.

    Raises:
        CbdmError: more examples asked for than there are, none kept, or numbers out of range.
    """
    if profile not in PROFILES:
        raise unknown_name("long-tail profile", profile, PROFILES)
    if counts is None and profile == "none":
        indices = torch.arange(len(dataset))
        return dataset, indices, split_hash(indices)
    wanted = _wanted(dataset.counts(), profile, imbalance, n_max, held_out) if counts is None else counts
    if len(wanted) != dataset.num_classes:
        raise CbdmError(f"{len(wanted)} counts for {dataset.num_classes} classes: give one number per class")
    indices = take(dataset.y, wanted, seed=seed, class_names=dataset.class_names)
    if len(indices) == 0:
        raise CbdmError("the long tail keeps no example at all: raise n_max or the counts")
    return dataset[indices], indices, split_hash(indices)


def _wanted(there: Tensor, profile: str, imbalance: float, n_max: int | None, held_out: float) -> Tensor:
    if profile == "held-out":
        return _all_but(there, held_out)
    top = int(there[there > 0].min()) if n_max is None else n_max
    return torch.where(there > 0, long_tail_counts(profile, len(there), top, imbalance), 0)


def _all_but(there: Tensor, share: float) -> Tensor:
    """(K,) long n − clip(⌊share·n + ½⌋, 1, n − 1), and a single example is kept."""
    if not 0 < share < 1:
        raise CbdmError(f"held_out is {share}, it must be above 0 and below 1: 0.2 holds a fifth of each class out")
    out = (share * there.double() + 0.5).floor().long()
    return there - torch.minimum(out.clamp(min=1), (there - 1).clamp(min=0))

"""The random numbers of metrics that draw: subsets, resamples, starts of clusterings."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["seeded"]


def seeded(seed: int, purpose: str) -> np.random.Generator:
    """The random numbers of one purpose: a counter-based generator keyed by a hash of (seed, purpose), like `Draws`."""
    digest = hashlib.sha256(f"{seed}/metrics/{purpose}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))

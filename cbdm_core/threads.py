"""How many threads a network is quickest with on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

__all__ = ["quickest_threads"]

_PATIENCE = 2.0  # seconds of one piece of work, above which more threads pay and trying costs too much


def quickest_threads(work: Callable[[], object], counts: Sequence[int], *, rounds: int = 3, gain: float = 1.3) -> int:
    """The number of threads that the work is quickest with; torch's own number is as before afterwards.

    Args:
        work: a piece of the work, done 1 + `rounds` times with each number; what it changes is the caller's matter.
        counts: the numbers to try, ≥ 1, smallest first.
        rounds: of each the quickest counts, so that what else the machine does is left out. The numbers take turns.
        gain: how many times quicker more threads must be than the fewest to be worth their cores.

    Returns:
        One of `counts`; the largest, untried, where a piece takes more than two seconds with it.
    """
    before = torch.get_num_threads()
    try:
        if _seconds(work, counts[-1]) > _PATIENCE:  # besides, what is done once is done here
            return counts[-1]
        quickest = [
            min(times) for times in zip(*([_seconds(work, n) for n in counts] for _ in range(rounds)), strict=True)
        ]
    finally:
        torch.set_num_threads(before)
    seconds, best = min(zip(quickest, counts, strict=True))
    return best if seconds * gain < quickest[0] else counts[0]


def _seconds(work: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

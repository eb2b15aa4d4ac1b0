"""Ctrl-C and SIGTERM as a fact to look at, so that what runs can end at a good place."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["asked_to_stop"]


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """A list that holds the signal once Ctrl-C or SIGTERM came; the handlers before are put back."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda signum, frame: came.append(signum))
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

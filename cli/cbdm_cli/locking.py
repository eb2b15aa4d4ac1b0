"""One process at a time in a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cbdm_core.errors import CbdmError
from cbdm_core.writing import plain_write_errors

__all__ = ["held"]


@contextmanager
def held(folder: Path, what: str) -> Iterator[None]:
    """Hold the folder for the time of the block; the system lets go of it when the process ends, however it ends.

    Where there are no such locks (Windows), the folder is not held.

    Raises:
        CbdmError: another process holds it.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with plain_write_errors(folder):
        lock = os.open(folder, os.O_RDONLY)  # the folder itself, so that no file is left in it
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CbdmError(f"{what} already runs in {folder}: wait for it, or stop it first") from None
        yield
    finally:
        os.close(lock)

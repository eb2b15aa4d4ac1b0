"""A job ends with the comparison that started it, even where that was killed and could tell no one."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

__all__ = ["PARENT", "end_with_parent"]

PARENT = "CBDM_PARENT"  # the environment's entry with the parent's process number
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent() -> None:
    """Have SIGTERM sent to this process when its parent dies; training then saves where it stands."""
    parent = os.environ.get(PARENT, "")
    if not parent.isdecimal():
        return
    if not sys.platform.startswith("linux") or ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM) != 0:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
    if os.getppid() != int(parent):  # it died before we asked
        raise SystemExit(128 + signal.SIGTERM)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)

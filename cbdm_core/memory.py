"""What memory there is, and a refusal of what would not fit before it is asked for.

A system that promises more memory than it has ends the process without a word when the promise is called in.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cbdm_core.errors import CbdmError

__all__ = ["available_bytes", "check_memory", "gigabytes"]

_CGROUP = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def available_bytes(device: torch.device | str = "cpu") -> int | None:
    """Bytes that can be had on the device now, None where that is not known.

    On the CPU the least of the machine's available memory and what the process's group of processes may still take.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = [bytes_ for bytes_ in (_of_machine(), _of_group()) if bytes_ is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        table = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
        return sum(int(table[name][0]) for name in ("MemAvailable", "SwapFree")) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:  # no /proc: all that the machine has
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _of_group() -> int | None:
    try:
        most, taken = (int(file.read_text(encoding="ascii")) for file in _CGROUP)
    except (OSError, ValueError):  # no such group, or "max"
        return None
    return max(most - taken, 0)


def check_memory(what: str, needed: int, mend: str) -> None:
    """Refuse what needs more memory than the CPU has.

    Args:
        what: needs it, as the message calls it.
        needed: bytes at least.
        mend: what to do.

    Raises:
        CbdmError: it does not fit.
    """
    there = available_bytes()
    if there is not None and needed > there:
        raise CbdmError(f"{what} needs at least {gigabytes(needed)} of memory, and {gigabytes(there)} are free: {mend}")


def gigabytes(count: float) -> str:
    """Bytes as GB, with the digits that tell something."""
    value = count / 1e9
    return f"{value:,.0f} GB" if value >= 10 else f"{value:.2g} GB"

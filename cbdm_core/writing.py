"""Files that appear whole or not at all, and failed writes told in one line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from cbdm_core.errors import CbdmError

__all__ = ["WRITING", "clean", "flush", "plain_write_errors", "replacing"]

WRITING = ".writing-"  # how the names of unfinished files and folders begin

_MENDS = {
    errno.ENOSPC: "the disk is full: free some space or ",
    errno.EFBIG: "the file-size limit is reached: raise it (ulimit -f) or ",
    errno.EDQUOT: "the quota is used up: free some space or ",
}


# How torch and safetensors word it that a write failed.
_WRITE_FAULTS = (
    "write",
    "No space",
    "I/O",
    "IoError",
    "file in archive",
    "inline_container",
    "unexpected pos",
    "iostream",
)


@contextmanager
def plain_write_errors(path: Path, option: str = "--out") -> Iterator[None]:
    """Turn a failed write below `path` into one line: what failed, why, and what to do.

    Args:
        path: written to.
        option: that names another place.

    Raises:
        CbdmError: in place of the system's error, or of torch's and safetensors' own wording of it.
    """
    try:
        yield
    except OSError as error:
        why = _MENDS.get(error.errno or 0, f"{error.strerror or error}: ") + f"choose another {option}"
        raise CbdmError(
            f"cannot write {_known(error.filename2 or error.filename, path)}: {why}; what was written before is intact"
        ) from error
    except (SafetensorError, RuntimeError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not any(word in why for word in _WRITE_FAULTS):
            raise
        raise CbdmError(
            f"cannot write {path}: {why}; free some space or choose another {option}; what was written before is intact"
        ) from error


def _known(failed: str | None, path: Path) -> Path:
    """What was not written by a name that the user knows, which that of an unfinished file is not."""
    places = (Path(str(failed or path)), path, path.parent)
    return next((place for place in places if not place.name.startswith(WRITING)), path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and goes when it does not."""
    temporary = path.with_name(f"{WRITING}{os.getpid()}-{path.name}")
    with plain_write_errors(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Remove what a killed process left half written; only for who holds the folder."""
    for left in folder.glob(f"{WRITING}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the system put a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

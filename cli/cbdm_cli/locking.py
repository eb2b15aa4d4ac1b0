"""One process at a time in a folder: a lock file with host and process, which also holds on a network file system."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Any

from cbdm_core.errors import CbdmError
from cbdm_core.reading import clean_text
from cbdm_core.writing import clean, plain_write_errors

__all__ = ["LOCK", "contents", "held", "holder"]

LOCK = ".lock"
_ENDED = "ended"
_MOMENT = 0.2  # seconds; a lock that was made just now may not have the system's on it yet
_TRIES = 20  # of taking over a dead process's lock against others who try the same


def contents(folder: Path) -> list[Path]:
    """What lies in a folder beside its lock."""
    return [path for path in folder.iterdir() if path.name != LOCK]


@contextmanager
def held(folder: Path, what: str, option: str = "--out", *, cleans: bool = True) -> Iterator[None]:
    """Hold the folder for the time of the block, on this host and others.

    The lock file is made atomically and names host and process. That of a process of this host that is dead, which
    could not remove it, is taken over; of one on another host nothing is known, and the message says how to go on.
    Process numbers of another container mean nothing here, so that its processes are known by the system's lock on the
    file, which ends with them.

    Args:
        folder: there already.
        what: runs in it, for messages.
        option: that names another folder, for messages.
        cleans: remove what a killed process left half written; not in a folder that other programs write into, which do
            not ask for this lock.

    Raises:
        CbdmError: another process holds it, or the lock cannot be written.
    """
    lock = folder / LOCK
    with ExitStack() as ends:
        with plain_write_errors(folder, option), _one_at_a_time(folder):
            _acquire(lock, what)
            ends.enter_context(_alive(lock))
            ends.callback(lock.unlink, missing_ok=True)  # before the system's lock goes
        if cleans:
            clean(folder)
        yield


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Processes of one machine look at the lock, and take over a dead one's, one after the other.

    Where the file system or system has no such lock, the link in `_made` alone decides.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError, ImportError):
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _alive(lock: Path) -> Iterator[None]:
    """Hold the system's lock on the lock file, where there is one: it ends with the process, however that ends."""
    with lock.open("r+b") as file:
        with suppress(OSError, ImportError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free(lock: Path) -> bool:
    """Whether no process holds the system's lock on the lock file; False where that cannot be known."""
    try:
        import fcntl

        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (OSError, ImportError):
        return False
    return True


def holder(folder: Path) -> str | None:
    """The process that holds the folder, in words; None where none does, or one of this host that is dead.

    Raises:
        CbdmError: the lock is damaged.
    """
    owner = _owner(folder / LOCK)
    return None if owner is None or _dead(folder / LOCK, owner) else _words(owner)


def _words(owner: dict[str, Any]) -> str:
    if owner.get("host") != socket.gethostname():
        return f"process {owner['pid']} on {clean_text(str(owner.get('host')))}"
    return f"process {owner['pid']}" + ("" if _is_here(owner) else " of another container")


def _is_here(owner: dict[str, Any]) -> bool:
    """Whether the owner's number is one of the processes that this one sees."""
    return owner.get("host") == socket.gethostname() and owner.get("namespace", _namespace()) == _namespace()


def _acquire(lock: Path, what: str) -> None:
    for _ in range(_TRIES):
        if _made(lock):
            return
        owner = _owner(lock)
        if owner is None:  # it went in between
            continue
        if not _dead(lock, owner):
            there = "" if _is_here(owner) else f" (if that one is dead, remove {lock})"
            raise CbdmError(
                f"{what} already runs in {lock.parent}, as {_words(owner)}{there}: wait for it, or stop it first"
            )
        _take_over(lock, owner)
    raise CbdmError(f"{lock} cannot be made: other processes take it again and again; try later")


def _made(lock: Path) -> bool:
    """Whether the lock was made, whole: a link appears with its content or not at all."""
    draft = lock.with_name(f"{LOCK}-{socket.gethostname()}-{os.getpid()}")
    draft.write_text(json.dumps(_self()), encoding="utf-8")
    try:
        os.link(draft, lock)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        try:
            with lock.open("x", encoding="utf-8") as file:
                file.write(json.dumps(_self()))
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _owner(lock: Path) -> dict[str, Any] | None:
    try:
        if not stat.S_ISREG(lock.stat().st_mode):
            raise OSError("a folder, pipe or device")
        owner = json.loads(lock.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CbdmError(f"{lock} is damaged ({type(error).__name__}): remove it if nothing runs in there") from error
    if not isinstance(owner, dict) or not isinstance(owner.get("pid"), int):
        raise CbdmError(f"{lock} is damaged: remove it if nothing runs in there")
    return owner


def _take_over(lock: Path, owner: dict[str, Any]) -> None:
    """Remove a dead owner's lock: it is moved aside first, so that one process alone gets it."""
    aside = lock.with_name(f"{LOCK}-dead-{os.getpid()}")
    try:
        lock.rename(aside)
    except FileNotFoundError:
        return
    if _owner(aside) not in (owner, None):  # another process took it over in between: put its lock back
        with suppress(FileExistsError):
            os.link(aside, lock)
    aside.unlink(missing_ok=True)


def _self() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "since": _since(os.getpid()),
    }


def _namespace() -> str | None:
    """Of process numbers, which is a container's own; None where the system has none."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _dead(lock: Path, owner: dict[str, Any]) -> bool:
    """Whether the owner was a process of this host that is no more; the time of its start tells it from a later one.

    A process that ended and that its parent has not yet asked after is no more.
    """
    if owner.get("host") != socket.gethostname():
        return False
    if not _is_here(owner):
        if _free(lock):
            sleep(_MOMENT)
        return _free(lock)
    try:
        os.kill(owner["pid"], 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    since = _since(owner["pid"])
    return since == _ENDED or (since is not None and owner.get("since") is not None and since != owner["since"])


def _since(pid: int) -> str | None:
    """When a process was started, in the system's own ticks, or `_ENDED`; None where that is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return _ENDED if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None

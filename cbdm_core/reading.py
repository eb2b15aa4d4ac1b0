"""Strangers' files: regular ones only, of bounded size, and their words without control characters."""

from __future__ import annotations

import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from cbdm_core.errors import CbdmError

CONFIG_BYTES = 16 << 20  # far more than any configuration has

__all__ = ["CONFIG_BYTES", "clean_text", "inner_name", "regular_file"]


def regular_file(path: Path, most: int | None = None) -> Path:
    """The path, if it is a regular file: a pipe or a device would be read without end.

    Args:
        path: of the file; links are followed.
        most: bytes that it may have, None for any number.

    Raises:
        CbdmError: there is none, it is something else, or it is larger.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CbdmError(f"{clean_text(str(path))} cannot be read: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file (a pipe or device)"
        raise CbdmError(f"{clean_text(str(path))} is {kind}: name a file")
    if most is not None and found.st_size > most:
        raise CbdmError(
            f"{clean_text(str(path))} has {found.st_size:,} bytes, more than the {most:,} that one may have"
        )
    return path


def inner_name(name: str, of: str) -> str:
    """The name of a file inside a folder or archive, if it stays inside.

    Args:
        name: relative, with slashes between folders.
        of: the list or archive that gives the name, for messages.

    Raises:
        CbdmError: an empty or absolute name, or one that leads out by `..`.
    """
    for kind in (PurePosixPath(name), PureWindowsPath(name)):
        if not name or "\0" in name or kind.anchor or ".." in kind.parts:
            raise CbdmError(
                f"{clean_text(of)} names the file {clean_text(name)!r}: names are relative and stay inside, without .."
            )
    return name


def clean_text(text: str) -> str:
    """The text with control and other unprintable characters escaped, so that no terminal obeys them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)

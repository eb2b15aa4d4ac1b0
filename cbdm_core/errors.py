"""The one exception that a user's mistake raises, and its wording: the value, what is allowed, the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["CbdmError", "CbdmWarning", "check_at_most", "check_positive", "closest", "some_of", "unknown_name"]


class CbdmError(ValueError):
    """A mistake in the input, told in one line that names the value, what is allowed and the mend.

    The command line prints the line and exits with code 2.
    """


class CbdmWarning(UserWarning):
    """Something in the input that is allowed and may not be meant; the command line prints it as one line."""


def closest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name nearest in spelling to `name`, or None when none is near."""
    found = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return found[0] if found else None


def unknown_name(kind: str, name: str, allowed: Iterable[str]) -> CbdmError:
    """The error for an unknown `name`, with the closest match and everything that is allowed."""
    names = sorted(allowed)
    near = closest(name, names)
    hint = f" did you mean {near!r}?" if near else ""
    return CbdmError(f"unknown {kind} {name!r}:{hint} allowed: {', '.join(names) or 'none'}")


def some_of(names: Sequence[str], most: int = 12) -> str:
    """The first names, parted by commas, and a sign that there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def check_at_most(most: int, **values: int) -> None:
    """Refuse, by name, a value above `most`: what is made one by one would never be done."""
    for name, value in values.items():
        if value > most:
            raise CbdmError(f"{name} is {value:,}, and at most {most:,} are made: ask for fewer")


def check_positive(**values: int) -> None:
    """Refuse, by name, a value that is not a whole number of 1 or more."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CbdmError(f"{name} must be a whole number of 1 or more, got {value!r}")

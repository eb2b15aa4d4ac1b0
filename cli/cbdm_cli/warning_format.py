"""How the program shows a warning of ours: one line, as it shows a mistake."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cbdm_core.errors import CbdmWarning
from cbdm_core.reading import clean_text

__all__ = ["warnings_in_one_line"]

_BY_PYTHON = warnings.formatwarning


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Warnings of ours without the place in the program that gave them; others, and after it all, as Python writes."""
    before, warnings.formatwarning = warnings.formatwarning, _one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    if issubclass(category, CbdmWarning):
        return f"cbdm: {clean_text(' '.join(str(message).split()))}\n"
    return _BY_PYTHON(message, category, filename, lineno, line)

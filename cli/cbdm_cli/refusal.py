"""How a mistake ends the program: one line and exit code 2."""

from __future__ import annotations

import sys
from typing import NoReturn

from cbdm_core.reading import clean_text

__all__ = ["DEBUG", "refuse"]

DEBUG = "CBDM_DEBUG"  # the environment's entry that lets a fault of the program show where it is


def refuse(message: str) -> NoReturn:
    """One line on standard error and exit code 2."""
    print(f"cbdm: {clean_text(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(2) from None

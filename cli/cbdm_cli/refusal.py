"""How a mistake ends the program: one line and exit code 2."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["refuse"]


def refuse(message: str) -> NoReturn:
    """One line on standard error and exit code 2."""
    print(f"cbdm: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2) from None

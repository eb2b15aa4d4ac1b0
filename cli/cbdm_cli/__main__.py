"""The command `cbdm`, also `python -m cbdm_cli`: a mistake becomes one line and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cbdm_core.errors import CbdmError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: the arguments, those of the process by default.
    """
    from cbdm_cli.app import app

    try:
        app(args=None if argv is None else list(argv))
    except CbdmError as error:
        print(f"cbdm: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()

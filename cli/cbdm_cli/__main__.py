"""The command `cbdm`, also `python -m cbdm_cli`: a mistake is one line and exit code 2, a fault of the program 70."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cbdm_cli.refusal import refuse
from cbdm_core.errors import CbdmError

DEBUG = "CBDM_DEBUG"

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: the arguments, those of the process by default.
    """
    from typer import Abort
    from typer._click.exceptions import ClickException, NoArgsIsHelpError

    from cbdm_cli.app import app

    try:
        code = app(args=None if argv is None else list(argv), standalone_mode=False)
    except CbdmError as error:
        refuse(str(error))
    except NoArgsIsHelpError as error:  # `cbdm` alone prints the help, which is no mistake to explain
        error.show()
        raise SystemExit(2) from None
    except ClickException as error:
        refuse(f"{error.format_message()} (cbdm --help tells what is allowed)")
    except Abort:
        raise SystemExit(130) from None
    except MemoryError as error:
        refuse(f"this machine's memory does not hold it ({str(error) or 'allocation failed'}): ask for less")
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        words = " ".join(str(error).split())[:300]
        print(
            f"cbdm: a fault of the program, {type(error).__name__}: {words}; set {DEBUG}=1 to see where, and report it "
            "with the output of cbdm doctor",
            file=sys.stderr,
        )
        raise SystemExit(70) from None
    else:
        raise SystemExit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()

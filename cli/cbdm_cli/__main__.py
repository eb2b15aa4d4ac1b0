"""The command `cbdm`, also `python -m cbdm_cli`: a mistake is one line and exit code 2, a fault of the program 70."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from errno import ENAMETOOLONG
from typing import cast

from cbdm_cli.completion import split_words
from cbdm_cli.refusal import DEBUG, refuse
from cbdm_cli.warning_format import warnings_in_one_line
from cbdm_core.errors import CbdmError, CbdmWarning
from cbdm_core.reading import clean_text

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: the arguments, those of the process by default.
    """
    from typer import Abort, BadParameter

    from cbdm_cli.one_command import app_for

    arguments = sys.argv[1:] if argv is None else list(argv)
    # The widest of typer's own, just before Exception: its name changes with typer's versions.
    mistake = cast("type[BadParameter]", BadParameter.__mro__[-4])
    try:
        with warnings_in_one_line(), split_words():
            code = app_for(arguments)(args=arguments, standalone_mode=False)
    except (CbdmError, CbdmWarning) as error:  # a warning is raised where Python's own filters say error
        refuse(str(error))
    except mistake as error:
        if not arguments:  # `cbdm` alone prints the help, which is no mistake to explain
            error.show()
            raise SystemExit(2) from None
        refuse(f"{error.format_message()} (cbdm --help tells what is allowed)")
    except Abort:
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        if no_memory(error):
            refuse(f"this machine's memory does not hold it ({_first_line(error)}): ask for less")
        if isinstance(error, OSError) and error.errno == ENAMETOOLONG:
            refuse(f"{clean_text(str(error.filename))[:60]}… is longer than the name of a file can be: give another")
        print(
            f"cbdm: a fault of the program, {type(error).__name__}: {_first_line(error)}; see where by cbdm --debug …, "
            "and report it with the output of cbdm doctor",
            file=sys.stderr,
        )
        raise SystemExit(70) from None
    else:
        raise SystemExit(code if isinstance(code, int) else 0)


def no_memory(error: Exception) -> bool:
    """Whether an allocation failed; torch tells it by a RuntimeError."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error)


def _first_line(error: Exception) -> str:
    """Without the commands and addresses that libraries add."""
    lines = [clean_text(line.strip()) for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


if __name__ == "__main__":
    main()

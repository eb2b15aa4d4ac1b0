"""Code that a saved configuration names runs only where the command line names it too."""

from __future__ import annotations

import shlex
from pathlib import Path

from cbdm_cli.config import Config
from cbdm_core.errors import CbdmError

__all__ = ["quoted", "refuse_code", "runs_code"]


def runs_code(features: str) -> bool:
    """Whether these features are a program or a module of somebody's: `torchscript:PATH` or `module:attr`."""
    kind, _, rest = features.strip().partition(":")
    return bool(rest) and kind != "inception"


def quoted(argument: str) -> str:
    """As a shell takes it; what would change the terminal is not shown."""
    return shlex.quote(argument) if argument.isprintable() else "…"


def refuse_code(place: Path, saved: Config, repeat: str) -> None:
    """Refuse features that run code and that only the saved configuration names.

    Args:
        place: where it is saved.
        saved: with `evaluation`.
        repeat: what has to stand on the command line for such features to be taken.

    Raises:
        CbdmError: the features run code.
    """
    features = saved.evaluation.features
    if runs_code(features):
        raise CbdmError(
            f"{place}: evaluation.features = {features!r} names code to run: repeat {repeat} if you trust it"
        )

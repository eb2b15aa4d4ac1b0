"""Code that a saved configuration names runs only where the command line names it too.

A job of a comparison is told the plan's folder alone: `cbdm compare` has held the plan against its command line.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from cbdm_cli.config import Config
from cbdm_cli.overlay import setting
from cbdm_core.errors import CbdmError

__all__ = ["features_option", "features_setting", "quoted", "refuse_code", "runs_code"]


def runs_code(features: str) -> bool:
    """Whether these features are a program or a module of somebody's: `torchscript:PATH` or `module:attr`."""
    kind, _, rest = features.strip().partition(":")
    return bool(rest) and kind != "inception"


def quoted(argument: str) -> str:
    """As a shell takes it; what would change the terminal is not shown."""
    return shlex.quote(argument) if argument.isprintable() else "…"


def features_setting(features: str) -> str:
    """The `a.b=v` that names these features: bare where it is read back as it is, else a string of TOML."""
    bare = f"evaluation.features={features}"
    if bare.isprintable() and setting(bare) == {"evaluation": {"features": features}}:
        return bare
    text = json.dumps(features, ensure_ascii=False)
    return "evaluation.features=" + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def features_option(features: str) -> str:
    """The same as a shell takes it, `--set` before it."""
    return f"--set {quoted(features_setting(features))}"


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

"""The working set in one flat namespace: `import cbdm`, then `cbdm.UNet`, `cbdm.ClassBalancing`, `cbdm.load_run`, ….

A name's module is imported when the name is first used, so that `import cbdm` costs no torch.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.resources import files
from typing import Any

# `from module import Name as Name`, one a line: what is listed there for type checkers is what there is here.
_HOME_OF = {
    name: module
    for module, name in re.findall(
        r"^from (\S+) import (\w+) as \2$", (files("cbdm") / "__init__.pyi").read_text(encoding="utf-8"), re.MULTILINE
    )
}

__all__ = ["__version__", *_HOME_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("cbdm")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'cbdm' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

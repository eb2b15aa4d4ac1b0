"""Docstrings are written as plain text with back-quoted names; this makes them what reStructuredText takes them for.

Single back-quotes become literals, and the signs that are mathematics in our docstrings (|x|, a*, B_) are escaped
outside of them.
"""

import re
from typing import Any

from sphinx.application import Sphinx

CODE = re.compile(r"(``.+?``|`[^`]+`)")


def plain(line: str) -> str:
    parts = CODE.split(line)
    return "".join(_literal(p) if CODE.fullmatch(p) else _escaped(p) for p in parts)


def _literal(text: str) -> str:
    return f"``{text.strip('`')}``"


def _escaped(text: str) -> str:
    text = re.sub(r"([|*])", r"\\\1", text)
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", text)


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [plain(line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    # Before napoleon (priority 500), which writes markup of its own.
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"version": "1", "parallel_read_safe": True}

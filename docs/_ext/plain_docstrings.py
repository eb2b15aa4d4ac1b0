"""Docstrings are written as plain text with back-quoted names; this makes them what reStructuredText takes them for.

Single back-quotes become literals, and the signs that are mathematics in our docstrings (|x|, a*, B_) are escaped
outside of them. `Needs:` and `Source:` are paragraphs of their own, whose further lines may be indented.
"""

import re
from typing import Any

from sphinx.application import Sphinx

PARAGRAPH = re.compile(r"(Needs|Source): ")
CODE = re.compile(r"(``.+?``|`[^`]+`)")


def plain(line: str) -> str:
    parts = CODE.split(line)
    return "".join(_literal(p) if CODE.fullmatch(p) else _escaped(p) for p in parts)


def _literal(text: str) -> str:
    return f"``{text.strip('`')}``"


def _escaped(text: str) -> str:
    text = re.sub(r"([|*])", r"\\\1", text)
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", text)


def parted(lines: list[str]) -> list[str]:
    """A blank line before each such paragraph, and its further lines brought to its left."""
    out: list[str] = []
    inside = False
    for line in lines:
        starts = PARAGRAPH.match(line) is not None
        inside = starts or (inside and line.startswith(" "))
        if starts and out and out[-1]:
            out.append("")
        out.append(line.lstrip() if inside else line)
    return out


def process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    if what == "data" and obj.__doc__ == type(obj).__doc__:
        lines.clear()  # of dict, tuple or Registry, which says nothing of this one
    lines[:] = [plain(line) for line in parted(lines)]


def setup(app: Sphinx) -> dict[str, Any]:
    # Before napoleon (priority 500), which writes markup of its own.
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"version": "1", "parallel_read_safe": True}

"""The directive `drawn`: a figure of docs/figures within the page, in the colours of its text, light or dark.

Its text alternative and caption are those the file carries; a body replaces the caption.
"""

import html
import json
import re
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FIGURES = Path(__file__).parents[1] / "figures"


class Drawn(SphinxDirective):
    """The file's name without its ending, and perhaps a caption."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0].replace("-", "_")
        file = FIGURES / f"{name}.svg"
        if not file.is_file():
            raise self.error(f"docs/figures has no {file.name}: python -m docs.figures {name}")
        self.env.note_dependency(str(file))
        svg = file.read_text(encoding="utf-8")
        holder = nodes.figure(classes=["drawn"], ids=[f"figure-{name.replace('_', '-')}"])
        holder += nodes.raw("", element(svg), format="html")
        holder += self._caption(svg)
        return [holder]

    def _caption(self, svg: str) -> nodes.Node:
        text = " ".join(self.content)
        if not text:
            facts = re.search(r"<metadata>(.*?)</metadata>", svg, re.S)
            if facts is None:
                raise self.error("the file carries no caption")
            text = json.loads(html.unescape(facts[1]))["caption"]
        children, messages = self.parse_inline(text)
        return nodes.caption(text, "", *children, *messages)


def element(svg: str) -> str:
    """Of the file, what stands in an HTML page: no metadata, no style of its own, no namespaces."""
    svg = re.sub(r"<metadata>.*?</metadata>\n|<style>:root.*?</style>\n", "", svg, flags=re.S)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("drawn", Drawn)
    return {"version": "1", "parallel_read_safe": True}

"""Statements are linked wherever they are named, stand in a page's contents, and are shown when a link is hovered.

A statement is an admonition of the class `statement` below a label `statement-N`; the page it is on does not matter.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

NAMED = re.compile(r"\b[Ss]tatements?\s+\d+(?:(?:,\s+|,?\s+and\s+|\s+to\s+|–)\d+)*")
NUMBER = re.compile(r"(?:\b[Ss]tatements?\s+)?(\d+)")
OPAQUE = (
    nodes.literal,
    nodes.literal_block,
    nodes.reference,
    nodes.title,
    nodes.math,
    nodes.raw,
    addnodes.pending_xref,
)


class LinkStatements(SphinxTransform):
    """`Statement 12`, and each number of `Statements 3, 4 and 7`, becomes a link."""

    default_priority = 5  # before other transforms look for references

    def apply(self, **_: Any) -> None:
        for text in list(self.document.findall(nodes.Text)):
            if NAMED.search(text) and not any(isinstance(node, OPAQUE) for node in above(text)):
                text.parent.replace(text, list(self.linked(str(text))))

    def linked(self, text: str) -> Iterator[nodes.Node]:
        at = 0
        for named in NAMED.finditer(text):
            for number in NUMBER.finditer(text, named.start(), named.end()):
                yield nodes.Text(text[at : number.start()])
                yield self.link(number[0], int(number[1]))
                at = number.end()
        yield nodes.Text(text[at:])

    def link(self, text: str, number: int) -> nodes.Node:
        target = {"refdomain": "std", "reftype": "ref", "reftarget": f"statement-{number}", "refexplicit": True}
        inner = nodes.inline("", text, classes=["statement-link"])
        return addnodes.pending_xref("", inner, **target, refwarn=True, refdoc=self.env.docname)


def above(node: nodes.Node) -> Iterator[nodes.Node]:
    while (node := node.parent) is not None:
        yield node


def in_contents(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """The page's own contents name its statements below their section."""
    if doctree is None or "toc" not in context:
        return
    statements = [node for node in doctree.findall(nodes.admonition) if "statement" in node["classes"]]
    if not statements:
        return
    contents = BeautifulSoup(context["toc"], "html.parser")
    for statement in statements:
        add_entry(contents, statement)
    context["toc"] = str(contents)


def add_entry(contents: BeautifulSoup, statement: nodes.Element) -> None:
    section = next(node for node in above(statement) if isinstance(node, nodes.section))
    links = [contents.find("a", href=f"#{name}") for name in section["ids"]]
    link = next(filter(None, links), None) or contents.find("a", href="#")
    item = link.find_parent("li") if link else None
    anchor = next((name for name in statement["ids"] if name.startswith("statement-")), None)
    if item is None or anchor is None:
        return
    own = item.find("ul", class_="statements", recursive=False)
    if own is None:
        own = contents.new_tag("ul", attrs={"class": "statements"})
        link.insert_after(own)
    entry = contents.new_tag("a", attrs={"class": "reference internal", "href": f"#{anchor}"})
    entry.string = statement[0].astext().partition(".")[0]
    entry["title"] = statement[0].astext()
    line = contents.new_tag("li")
    line.append(entry)
    own.append(line)


def collected(app: Sphinx, exception: Exception | None) -> None:
    """What a preview shows, in a script, since a page that lies in a folder may load no other file."""
    if exception or app.builder.format != "html":
        return
    found: dict[str, str] = {}
    for name in sorted(app.env.found_docs):
        page = Path(app.builder.get_outfilename(name))
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        if "#statement-" not in text and 'id="statement-' not in text:
            continue
        for box in BeautifulSoup(text, "html.parser").select("div.admonition.statement"):
            if anchor := anchor_of(box):
                found[anchor] = box.decode_contents().strip()
    script = f"globalThis.cbdmStatements = {json.dumps(found, ensure_ascii=False)};\n"
    (Path(app.outdir) / "_static" / "statements.js").write_text(script, encoding="utf-8")


def anchor_of(box: Any) -> str | None:
    """The label stands on the box or on an empty span before it."""
    names = [box.get("id") or ""]
    for before in box.find_previous_siblings(limit=3):
        if before.name != "span" or before.get_text(strip=True):
            break
        names.append(before.get("id") or "")
    names += [span.get("id") or "" for span in box.find_all("span", id=True, limit=3)]
    return next((name for name in names if name.startswith("statement-")), None)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(LinkStatements)
    app.connect("html-page-context", in_contents, priority=400)
    app.connect("build-finished", collected)
    app.add_js_file("statements.js", loading_method="defer")
    app.add_js_file("preview.js", loading_method="defer")
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

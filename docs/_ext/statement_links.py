"""Wherever a page says "Statement 12" or "Statements 16–19", that is a link, but not in titles, code and links."""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

NAMED = re.compile(r"Statements? \d+(?:(?:, | and |–)\d+)*")
PART = re.compile(r"Statement (\d+)|(\d+)")
LEFT_ALONE = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, addnodes.pending_xref)


def _within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _reference(text: str, number: str, docname: str) -> nodes.Node:
    """A reference that Sphinx resolves, and warns of if there is no such statement."""
    options = {"refdomain": "std", "reftype": "ref", "reftarget": f"statement-{number}"}
    cross = addnodes.pending_xref("", refdoc=docname, refexplicit=True, refwarn=True, **options)
    cross.append(nodes.inline("", text))
    return cross


def _linked(text: str, docname: str) -> list[nodes.Node]:
    """The text in pieces: "Statement N" whole, of several statements the numbers alone."""
    pieces: list[nodes.Node] = []
    end = 0
    for named in NAMED.finditer(text):
        for found in PART.finditer(text, *named.span()):
            pieces.append(nodes.Text(text[end : found.start()]))
            pieces.append(_reference(found[0], found[1] or found[2], docname))
            end = found.end()
    return [*pieces, nodes.Text(text[end:])]


def link_statements(app: Sphinx, doctree: nodes.document) -> None:
    """On `doctree-read`: replace the mentions of one page."""
    for text in list(doctree.findall(nodes.Text)):
        if NAMED.search(text.astext()) and not _within(text, LEFT_ALONE):
            text.parent.replace(text, _linked(text.astext(), app.env.docname))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", link_statements)
    return {"version": "1", "parallel_read_safe": True}

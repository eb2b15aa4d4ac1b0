"""Wherever a page says "Statement 12", the words become a link to it, but in titles, code and links that are there."""

import re
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

NAMED = re.compile(r"Statement (\d+)")
LEFT_ALONE = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, addnodes.pending_xref)


def _within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _linked(text: str, docname: str) -> list[nodes.Node]:
    """The text in pieces, "Statement N" as a reference that Sphinx resolves, and warns of if there is none."""
    pieces: list[nodes.Node] = []
    end = 0
    for found in NAMED.finditer(text):
        pieces.append(nodes.Text(text[end : found.start()]))
        options = {"refdomain": "std", "reftype": "ref", "reftarget": f"statement-{found[1]}"}
        cross = addnodes.pending_xref("", refdoc=docname, refexplicit=True, refwarn=True, **options)
        cross += nodes.inline("", found[0], classes=["statement-link"])
        pieces.append(cross)
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

"""On pages of results long tables are folded, so that what they say is read first: `folded_tables = {page: rows}`."""

import html
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx


def fold(app: Sphinx, doctree: nodes.document, page: str) -> None:
    least = app.config.folded_tables.get(page)
    if least is None or app.builder.format != "html":
        return
    for table in list(doctree.findall(nodes.table)):
        rows = sum(len(body.children) for body in table.findall(nodes.tbody))
        if rows >= least:
            opening = f'<details class="folded-table"><summary>{html.escape(summary(table, rows))}</summary>'
            # Not replace_self: it would hand the table's classes on, which wraps the opening in an element of its own.
            parent, place = table.parent, table.parent.index(table)
            parent.insert(place + 1, nodes.raw("", "</details>", format="html"))
            parent.insert(place, nodes.raw("", opening, format="html"))


def summary(table: nodes.table, rows: int) -> str:
    """What its head names."""
    head = next(iter(table.findall(nodes.thead)), None)
    names = [entry.astext() for entry in head.findall(nodes.entry)] if head else []
    return f"Table of {rows} rows: {', '.join(filter(None, names))}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("folded_tables", {}, "env", types=[dict])
    app.connect("doctree-resolved", fold)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

"""The directive `held-by`: a statement's tests, folded in below it with their source.

A test that is not there makes Sphinx warn, and so fails the build.
"""

from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

TEMPLATE = """\
::::{{dropdown}} {path}::{name}
:::{{literalinclude}} /../{path}
:language: python
:pyobject: {name}
:::
::::
"""


class HeldBy(SphinxDirective):
    """One `path::test` a line."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        holder = nodes.container(classes=["held-by"])
        for test in filter(None, (line.strip() for line in self.content)):
            path, _, name = test.partition("::")
            text = TEMPLATE.format(path=path, name=name)
            self.state.nested_parse(StringList(text.splitlines(), self.env.docname), self.content_offset, holder)
        return [holder]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("held-by", HeldBy)
    return {"version": "1", "parallel_read_safe": True}

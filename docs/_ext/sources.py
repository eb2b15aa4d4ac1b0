"""A path of the repository in code type, `cbdm_core/process.py` or `tests/…::test`, is a link to a page of that file.

Long paths and calls may break after a slash, a dot, an underscore or a bracket, and nowhere else.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
PATH = re.compile(r"((?:cbdm_core|priors|cli|tests|experiments|benchmarks|docs)/[\w/]+\.py)(?:::([\w.]+))?")
SCHEME = "source:"
BREAKABLE = re.compile(r'(<span class="(?:pre|sd-summary-text)">)([^<]{12,})(</span>)')


class LinkSources(SphinxTransform):
    default_priority = 20

    def apply(self, **_: Any) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            named = PATH.fullmatch(literal.astext())
            inside = isinstance(literal.parent, nodes.reference | nodes.title)
            if named and not inside and (ROOT / named[1]).is_file():
                link = nodes.reference("", "", refuri=f"{SCHEME}{named[1]}#{named[2] or ''}", internal=True)
                literal.replace_self(link)
                link += literal
                sources(self.env).setdefault(self.env.docname, set()).add(named[1])


def sources(env: Any) -> dict[str, set[str]]:
    """The files that each page names."""
    if not hasattr(env, "cbdm_sources"):
        env.cbdm_sources = {}
    return env.cbdm_sources


def purge(app: Sphinx, env: Any, page: str) -> None:
    sources(env).pop(page, None)


def merge(app: Sphinx, env: Any, pages: set[str], other: Any) -> None:
    sources(env).update(sources(other))


def resolve(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for link in list(doctree.findall(nodes.reference)):
        target = link.get("refuri", "")
        if not target.startswith(SCHEME):
            continue
        if app.builder.format != "html":
            link.replace_self(link.children)
            continue
        path, _, name = target.removeprefix(SCHEME).partition("#")
        link["refuri"] = app.builder.get_relative_uri(page, f"source/{path}") + (f"#{name}" if name else "")


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    for path in sorted(set().union(*sources(app.env).values())):
        yield f"source/{path}", {"title": path, "body": page_of(app, path)}, "page.html"


def page_of(app: Sphinx, path: str) -> str:
    """The file with its colours, and an anchor before each class, method and function."""
    code = (ROOT / path).read_text(encoding="utf-8")
    lines = app.builder.highlighter.highlight_block(code, "python").split("\n")
    head = re.match(r'(<div class="highlight"><pre>(?:<span></span>)?)(.*)', lines[0], re.S)
    opening, lines[0] = (head[1], head[2]) if head else ("", lines[0])
    for name, line in definitions(ast.parse(code)):
        lines[line - 1] = f'<span class="source-target" id="{name}"></span>{lines[line - 1]}'
    return f"<h1>{path}</h1>\n{opening}" + "\n".join(lines)


def definitions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    for node in getattr(tree, "body", ()):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield f"{prefix}{node.name}", first
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{node.name}.")


def breaks(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    if "body" in context:
        context["body"] = BREAKABLE.sub(lambda found: found[1] + breakable(found[2]) + found[3], context["body"])


def breakable(text: str) -> str:
    """Within a number there is no break."""
    return re.sub(r"(::|[/_=(]|\.(?!\d|py\b))(?=[^/._:=()])", r"\1<wbr/>", text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_transform(LinkSources)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("doctree-resolved", resolve)
    app.connect("html-collect-pages", pages)
    app.connect("html-page-context", breaks)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

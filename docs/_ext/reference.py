"""The directive `reference`: the public names of modules as tables, each linked to a page of its own.

The pages are written before the build into docs/api, which git ignores. They are no part of the navigation, which three
hundred of them would swamp: the tables lead to them, and search does.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```\{reference\}\n(.*?)^```", re.M | re.S)
TABLE = """\
`{path}`: {words}

```{{eval-rst}}
.. autosummary::
   :nosignatures:

{names}
```
"""
PAGE = """\
:orphan:

{name}
{line}

:doc:`Reference </api>` · ``{place}``

.. currentmodule:: {module}

.. auto{kind}:: {name}
"""


class Reference(SphinxDirective):
    """One module a line."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        holder = nodes.container(classes=["reference-tables"])
        for name in filter(None, (line.strip() for line in self.content)):
            module = importlib.import_module(name)
            names = "\n".join(f"   ~{name}.{public}" for public in public_names(module))
            words = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())
            text = TABLE.format(path=path_of(module), words=words, names=names)
            self.state.nested_parse(StringList(text.splitlines(), self.env.docname), self.content_offset, holder)
        return [holder]


def public_names(module: ModuleType) -> list[str]:
    """What stands in `__all__` and is of this module, not handed on."""
    return [name for name in module.__all__ if kind_of(module, name) == "data" or of_module(module, name)]


def of_module(module: ModuleType, name: str) -> bool:
    return getattr(module, name).__module__ == module.__name__


def kind_of(module: ModuleType, name: str) -> str:
    value = getattr(module, name)
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    return "function" if inspect.isfunction(value) else "data"


def path_of(module: ModuleType) -> str:
    return Path(str(module.__file__)).resolve().relative_to(ROOT).as_posix()


def modules(page: Path) -> Iterator[ModuleType]:
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield from map(importlib.import_module, block.split())


def write_pages(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    written = set()
    for module in modules(Path(app.srcdir) / "api.md"):
        for name in public_names(module):
            kind = kind_of(module, name)
            place = path_of(module) + ("" if kind == "data" else f"::{name}")
            facts = {"place": place, "module": module.__name__, "kind": kind}
            text = PAGE.format(name=name, line="=" * len(name), **facts)
            file = folder / f"{module.__name__}.{name}.rst"
            written.add(file)
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                file.write_text(text, encoding="utf-8")
    for stale in set(folder.glob("*.rst")) - written:
        stale.unlink()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("reference", Reference)
    app.connect("builder-inited", write_pages)
    return {"version": "1", "parallel_read_safe": True}

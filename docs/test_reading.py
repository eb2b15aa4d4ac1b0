"""What the pages promise a reader: every public name in the reference, links from statements and files, a citation."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import tomllib

import pytest

import cbdm_core
import cbdm_priors
from docs.figures.drawing import HERE

DOCS = HERE.parent
PAGE = """\
# One

(statement-3)=
:::{admonition} Statement 3. It holds for $x$.
:class: statement
Both `Statement 4` and this: $x = 1$.
:::

(statement-4)=
:::{admonition} Statement 4. So does this.
:class: statement
Nothing more.
:::

## Two

By Statement 3, and Statements 3 and 4: see `cbdm_core/guidance.py::Implied` and `cbdm_core/none.py`.

```{drawn} laws
By Statement 4.
```

| row | value |
|---|---|
| 0 | 1 |
| 1 | 1 |
| 2 | 1 |
| 3 | 1 |
"""


def test_the_reference_names_every_module_with_public_names():
    blocks = re.findall(r"^```\{reference\}\n(.*?)^```", (DOCS / "api.md").read_text(encoding="utf-8"), re.M | re.S)
    named = " ".join(blocks).split()
    walked = [m.name for p in (cbdm_core, cbdm_priors) for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]
    public = {name for name in walked if not name.rpartition(".")[2].startswith("_") and own_names(name)}
    assert public <= set(named), f"docs/api.md misses {sorted(public - set(named))}"
    assert len(named) == len(set(named)) and set(named) <= set(walked)


def own_names(name):
    module = importlib.import_module(name)
    found = [getattr(module, public) for public in getattr(module, "__all__", ())]
    return [value for value in found if getattr(value, "__module__", None) == name]


def test_the_citation_is_of_this_version():
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (DOCS.parent / "CITATION.cff").read_text(encoding="utf-8")
    facts = dict(re.findall(r"^(\w[\w-]*): (.+)$", citation, re.M))
    assert (facts["version"], facts["license"]) == (project["version"], project["license"])
    assert facts["cff-version"] == "1.2.0" and "arXiv:2305.00562" in citation


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The page above, built by the extensions of these docs alone."""
    testing = pytest.importorskip("sphinx.testing.util", reason="needs the extra docs")
    pytest.importorskip("myst_parser", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("pages")
    (folder / "index.md").write_text(PAGE, encoding="utf-8")
    extensions = ["myst_parser", "statements", "sources", "drawn", "folds"]
    configuration = (
        f"import sys\nsys.path.insert(0, {str(DOCS / '_ext')!r})\nextensions = {extensions}\n"
        "myst_enable_extensions = ['colon_fence', 'dollarmath']\nhtml_theme = 'basic'\nfolded_tables = {'index': 4}\n"
    )
    (folder / "conf.py").write_text(configuration, encoding="utf-8")
    app = testing.SphinxTestApp("html", srcdir=folder)
    app.build()
    # What these scripts are is no matter of a page of its own.
    assert "statement" not in app.warning.getvalue().replace("statements.js", "")
    yield app.outdir
    app.cleanup()


def test_statements_are_linked_where_they_are_named(built):
    text = (built / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'href="#(statement-\d)"><span[^>]*>(.*?)</span>', text)
    assert links == [
        ("statement-3", "Statement 3"),
        ("statement-3", "Statements 3"),
        ("statement-4", "4"),
        ("statement-4", "Statement 4"),  # of the caption
    ]
    assert "Statement 4</span></code>" in text.replace('</span> <span class="pre">', " "), "code stays code"


def test_statements_stand_in_a_script_for_previews(built):
    script = (built / "_static" / "statements.js").read_text(encoding="utf-8")
    found = json.loads(script.removeprefix("globalThis.cbdmStatements = ").rstrip(";\n"))
    assert list(found) == ["statement-3", "statement-4"] and "Nothing more." in found["statement-4"]


def test_a_path_leads_to_its_file(built):
    text = (built / "index.html").read_text(encoding="utf-8")
    assert 'href="source/cbdm_core/guidance.py.html#Implied"' in text and "none.py.html" not in text
    assert "cbdm_<wbr/>core/<wbr/>guidance.py" in text
    file = (built / "source" / "cbdm_core" / "guidance.py.html").read_text(encoding="utf-8")
    before, _, after = file.partition('id="Implied"')
    assert before.count("ω_eff(t)") == 0 and "ω_eff(t)" in after
    assert 'id="ClassifierFreeGuidance.strength"' in file


def test_a_figure_stands_in_the_page_in_its_colours(built):
    text = (built / "index.html").read_text(encoding="utf-8")
    figure = text[text.index("<figure") : text.index("</figure>")]
    assert 'role="img" aria-label="Probabilities of five laws' in figure and "currentColor" in figure
    assert "<metadata>" not in figure and "<style>:root" not in figure and "By <a" in figure


def test_a_long_table_is_folded_under_what_it_holds(built):
    text = (built / "index.html").read_text(encoding="utf-8")
    folded = text[text.index("<details") : text.index("</details>")]
    assert "<summary>Table of 4 rows: row, value</summary>" in folded and "<table" in folded
    assert "</div>" not in folded, "the fold holds the table"

"""The pages keep what they say: tests named there exist, and the recipes of CONTRIBUTING.md run."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser

DOCS = Path(__file__).parent
ROOT = DOCS.parent
NAMED = re.compile(r"\b((?:tests|docs)/[\w/]+\.py)(?:::(\w+))?")
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_named_on_a_page_exists(page):
    for path, name in NAMED.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), f"{page.name} names {path}, which is not there"
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert not name or name in functions, f"{page.name} names {path}::{name}, which is not there"


def test_every_statement_of_the_derivation_is_held():
    """Each is followed, before the next one, by a test or a block that runs, and they are numbered in order."""
    text = (DOCS / "derivation.md").read_text(encoding="utf-8")
    parts = re.split(r":::\{admonition\} Statement (\d+)\.", text)[1:]
    numbers, bodies = [int(n) for n in parts[::2]], parts[1::2]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 20
    for number, body in zip(numbers, bodies, strict=True):
        assert "```{held-by}" in body or "```python" in body, f"statement {number} is held by nothing"


def test_the_recipes_run():
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(ROOT / "CONTRIBUTING.md")
    examples = list(document.examples())
    assert len(examples) >= 6
    for example in examples:
        example.evaluate()

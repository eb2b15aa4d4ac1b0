"""What the house asks of every function."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 45  # lines without the docstring
FILES = [file for folder in ("cbdm_core", "priors", "cli", "experiments") for file in (ROOT / folder).rglob("*.py")]


def lengths(source):
    """(name, lines without the docstring) of every function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            told = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
            docstring = told.end_lineno - told.lineno + 1 if told else 0
            yield node.name, node.end_lineno - node.lineno + 1 - docstring


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_functions_are_a_few_lines(file):
    found = {name: lines for name, lines in lengths(file.read_text(encoding="utf-8")) if lines > LONGEST}
    assert not found


def test_a_long_function_is_seen():
    assert list(lengths('def f():\n    """Two\n    lines."""\n' + "    x = 1\n" * 50)) == [("f", 51)]

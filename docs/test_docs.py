"""The pages keep what they say: tests named there exist, commands are commands, the recipes of CONTRIBUTING.md run."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser
from typer.main import get_command

from cbdm_cli.__main__ import main
from cbdm_cli.app import app

DOCS = Path(__file__).parent
ROOT = DOCS.parent
NAMED = re.compile(r"\b((?:tests|docs)/[\w/]+\.py)(?:::(\w+))?")
PAGES = [*sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts), ROOT / "CONTRIBUTING.md"]


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_named_on_a_page_exists(page):
    for path, name in NAMED.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), f"{page.name} names {path}, which is not there"
        assert not name or name in functions_of(path), f"{page.name} names {path}::{name}, which is not there"


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


COMMANDS = [
    (page.name, line)
    for page in (*PAGES, ROOT / "README.md")
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    for line in re.findall(r"^ *(cbdm [a-z].*)$", block, re.M)
]


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=lambda text: text)
def test_every_command_is_one(page, command, capsys):
    """Its options are known, and a training that needs no file and no run can be assembled."""
    text = command.replace("$seed", "0").replace("$method", "ddpm")  # a loop of the shell
    name, *words = shlex.split(text, comments=True)[1:]
    get_command(app).commands[name].make_context(name, list(words))
    if name == "train" and not re.search(r"--resume|\.csv|source=folder", command):
        if "--out" in words:
            del words[words.index("--out") : words.index("--out") + 2]
        with pytest.raises(SystemExit) as left:
            main(["train", *words, "--dry-run", "--device", "cpu"])
        assert left.value.code == 0, capsys.readouterr().err

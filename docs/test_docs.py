"""The pages keep what they say: tests named there exist, commands are commands, the recipes of CONTRIBUTING.md run."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from pkgutil import resolve_name

import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser
from typer.main import get_command

from cbdm_cli.__main__ import main
from cbdm_cli.app import app
from cbdm_cli.commands import train

DOCS = Path(__file__).parent
ROOT = DOCS.parent
NAMED = re.compile(r"\b((?:tests|docs)/[\w/]+\.py)(?:::(\w+))?")
DOTTED = re.compile(r"`(cbdm(?:_core|_priors|_cli)?)((?:\.\w+)+)(?=\()")
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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_call_in_a_sentence_finds_its_name(page):
    """`cbdm.load_run("runs/a")` between words: what a reader would type, found as typed."""
    for module, rest in DOTTED.findall(page.read_text(encoding="utf-8")):
        try:
            resolve_name(f"{module}{rest}")
        except (ImportError, AttributeError) as error:
            pytest.fail(f"{page.name} names `{module}{rest}`: {error}")


def statements() -> dict[int, tuple[str, str]]:
    """Number → (title, page) of every statement, each followed, before the next one, by a test or a block that runs."""
    found: dict[int, tuple[str, str]] = {}
    for page in [*sorted((DOCS / "theory").glob("*.md")), DOCS / "noise-levels.md"]:
        parts = re.split(r":::\{admonition\} Statement (\d+)\. (.*)\n", page.read_text(encoding="utf-8"))[1:]
        for number, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
            assert int(number) not in found, f"statement {number} stands twice"
            assert "```{held-by}" in body or "```python" in body, f"statement {number} is held by nothing"
            found[int(number)] = (title.rstrip("."), str(page.relative_to(DOCS)))
    return found


def test_every_statement_is_held_and_listed_under_its_number():
    found = statements()
    assert sorted(found) == [*range(1, 56), 61, 62]  # a number is given once and for all, and some were never given
    map_ = (DOCS / "theory" / "00-map.md").read_text(encoding="utf-8")
    assert f"{len(found)} numbered statements" in map_
    listed = (DOCS / "derivation.md").read_text(encoding="utf-8")
    for number, (title, page) in found.items():
        line = f"### Statement {number}\n\n[{title}]({page}#statement-{number})\n"
        assert line in listed, f"docs/derivation.md lacks:\n{line}"


@pytest.mark.parametrize("command", sorted(get_command(app).commands))
def test_every_command_and_option_has_its_place_on_the_page(command):
    """A section by its name, in which each of its options stands."""
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## cbdm (\w+)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert command in sections, f"docs/cli.md has no section ## cbdm {command}"
    options = [o for p in get_command(app).commands[command].params for o in p.opts if o.startswith("--")]
    told = {*re.findall(r"(--[\w-]+)", sections[command])}
    missing = [o for o in options if o not in told and o not in ("--help", "--number")]
    assert not missing, f"section cbdm {command} of docs/cli.md lacks {missing}"


def test_notation_names_each_symbol_once_and_what_there_is():
    """One symbol, one line; the names of code are in the files beside them."""
    text = (DOCS / "theory" / "01-notation-and-diffusion.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- notation.*?-->(.*?)<!-- end of notation -->", text, re.S)
    assert table
    rows = [re.split(r" \| ", line.strip("| ")) for line in table[1].strip().splitlines()[2:]]
    symbols: list[str] = []
    for row in rows:
        parts = re.split(r"(?<!\\)[,;](?![^{(\[]*[})\]])", row[0].replace("$", ""))
        symbols += [part.strip(" \\") for part in parts]
        names, files = (re.findall(r"`([^`]+)`", cell) for cell in ([*row, "", ""])[2:4])
        for path in files:
            source = (ROOT / path).read_text(encoding="utf-8")
            assert all(name in source for name in names), f"{path} does not have all of {names}"
    assert len(symbols) >= 60 and len(symbols) == len(set(symbols)), sorted(s for s in symbols if symbols.count(s) > 1)


def test_the_recipes_run():
    document = Sybil(parsers=[PythonCodeBlockParser()]).parse(ROOT / "CONTRIBUTING.md")
    examples = list(document.examples())
    assert len(examples) >= 6
    for example in examples:
        example.evaluate()


COMMANDS = {
    line: page.name  # one page of those that have it
    for page in (*PAGES, ROOT / "README.md")
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    for line in re.findall(r"^ *(cbdm [a-z].*)$", block, re.M)
}


@pytest.mark.parametrize(("command", "page"), COMMANDS.items(), ids=lambda text: text)
def test_every_command_is_one(command, page, capsys, monkeypatch):
    """Its options are known, and a training that needs no file and no run is assembled and passes two examples on."""
    monkeypatch.setattr(train, "_describe", lambda *_: None)  # times its steps, for which nobody asks here
    text = command.replace("$seed", "0").replace("$method", "ddpm")  # a loop of the shell
    name, *words = shlex.split(text, comments=True)[1:]
    get_command(app).commands[name].make_context(name, list(words))
    if name == "train" and not re.search(r"--resume|--from|--data|\.csv|source=(folder|npz)|options\.root", command):
        if "--out" in words:
            del words[words.index("--out") : words.index("--out") + 2]
        with pytest.raises(SystemExit) as left:
            main(["train", *words, "--dry-run", "--device", "cpu"])
        assert left.value.code == 0, capsys.readouterr().err

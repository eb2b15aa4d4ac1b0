"""The imports within each package: no circle, whatever is imported late or for types alone."""

import grimp
import pytest

COMMANDS = "cbdm_cli.commands"


def circle(modules: dict[str, set[str]]) -> list[str]:
    """The modules left when those that import none of the others are taken away again and again."""
    while free := {name for name, imported in modules.items() if not imported & modules.keys()}:
        modules = {name: imported for name, imported in modules.items() if name not in free}
    return sorted(modules)


def imports(package: str) -> dict[str, set[str]]:
    graph = grimp.build_graph(package, cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set()}) == ["a", "b", "c"]
    assert circle({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize("package", ["cbdm_core", "cbdm_priors", "cbdm_cli"])
def test_no_circle_of_imports(package):
    assert circle(imports(package)) == []


def test_commands_import_no_command():
    known = imports("cbdm_cli")
    commands = {name for name in known if name.startswith(f"{COMMANDS}.")}
    assert len(commands) > 5 and {name: known[name] & commands for name in commands if known[name] & commands} == {}

"""The command line in this process, in an empty folder, with one cache of classifiers for the whole suite."""

import pytest

from cbdm_cli.__main__ import main


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if base.name.startswith("popen-") else base) / "classifiers"
    monkeypatch.setenv("CBDM_CACHE", str(shared))
    return shared


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, cache):
    """Runs `cbdm ARGUMENTS` in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def call(*arguments):
        code = 0
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def refused(run):
    """Runs a command that must be refused: exit code 2 and one line, which is returned."""

    def call(*arguments):
        code, _, err = run(*arguments)
        lines = [line for line in err.splitlines() if line.strip()]
        assert code == 2 and len(lines) == 1 and lines[0].startswith("cbdm: "), (code, err)
        return lines[0]

    return call

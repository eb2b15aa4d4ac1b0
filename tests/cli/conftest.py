"""The command line in an empty folder, with one cache of classifiers for the whole suite; files in CIFAR's format."""

import shutil

import numpy as np
import pytest

from cbdm_cli import render
from cbdm_cli.__main__ import main
from cbdm_cli.commands import compare
from tests.cli.tiny import TINY, cbdm, shared_classifiers


@pytest.fixture
def cache(tmp_path_factory, monkeypatch):
    shared = shared_classifiers(tmp_path_factory.getbasetemp())
    monkeypatch.setenv("CBDM_CACHE", str(shared))
    return shared


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, cache):
    """Runs `cbdm ARGUMENTS` in an empty folder; gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(render.CONSOLE, "width", 160)  # made before, in whatever terminal the tests run

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


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A run, with a held-out part in every class, made once; tests work on copies of it."""
    folder, cache = tmp_path_factory.mktemp("made"), shared_classifiers(tmp_path_factory.getbasetemp())
    arguments = ["train", "--steps", 2, *TINY, "--set", "data.n_max=150", "--out", "r"]
    cbdm(*arguments, cwd=folder, check=0, env={"CBDM_CACHE": str(cache)})
    return folder / "r"


@pytest.fixture
def trained(made, tmp_path):
    """A copy of the run in the test's own folder, where `run` works."""
    shutil.copytree(made, tmp_path / "r")
    return tmp_path / "r"


@pytest.fixture
def asked(run, monkeypatch):
    """Gives the plan that a command line asks for, with nothing run."""
    plans = []
    monkeypatch.setattr(compare, "_begin", lambda plan, out, launch: plans.append((plan, out, launch)))

    def call(*arguments):
        code, _, err = run("compare", *arguments)
        assert code == 0, err
        return plans[-1]

    return call


def _records(labels, per_class, seed):
    """Records of random pixels with `labels(y)` before them, in a drawn order."""
    random = np.random.default_rng(seed)
    rows = [[*label, *random.integers(0, 256, 3072)] for label in labels for _ in range(per_class)]
    return np.array(rows, np.uint8)[random.permutation(len(rows))]


@pytest.fixture(scope="session")
def cifar_roots(tmp_path_factory):
    """Folders of random images in CIFAR's binary format, by name of the presets' data."""
    ten, hundred = tmp_path_factory.mktemp("cifar10"), tmp_path_factory.mktemp("cifar100")
    for number in range(1, 6):
        (ten / f"data_batch_{number}.bin").write_bytes(_records([[y] for y in range(10)], 8, number).tobytes())
    (hundred / "train.bin").write_bytes(_records([[y // 5, y] for y in range(100)], 24, 7).tobytes())
    return {"cifar10lt": ten, "cifar100lt": hundred}

"""The table of the README over the kept results of all experiments."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def overview(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return importlib.import_module("overview")


def test_the_readme_holds_it(overview):
    assert overview.overview(overview.kept()) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_result_that_is_not_there_is_named(overview, tmp_path, monkeypatch):
    monkeypatch.setattr(overview, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match=r"digits.json is not there: run python experiments/digits.py first"):
        overview.kept()

"""Names for classes: what they mean, what they cost, and what a wrong one says."""

from __future__ import annotations

import os
import shutil
from fractions import Fraction
from importlib.metadata import EntryPoint, entry_points

import pytest

from cbdm_core import registry as module
from cbdm_core.errors import CbdmError, closest, unknown_name
from cbdm_core.registry import Registry

GROUP = "cbdm.test_registry"


@pytest.fixture
def outsiders(monkeypatch):
    """Entry points as if another distribution had declared them, read back by group as importlib.metadata does."""
    declared: list[EntryPoint] = []
    monkeypatch.setattr(module, "_declared", lambda group, places: [e for e in declared if e.group == group])
    return declared


def a_registry() -> Registry:
    return Registry(
        "number", GROUP, {"fraction": "fractions:Fraction", "broken": "fractions:Nothing", "gone": "no_such:X"}
    )


def test_a_name_is_its_class():
    assert a_registry()["fraction"] is Fraction


def test_names_are_listed_in_order_without_being_loaded():
    registry = a_registry()  # two of the three targets cannot be loaded
    assert list(registry) == ["broken", "fraction", "gone"] and len(registry) == 3
    assert "gone" in registry and "fractoin" not in registry and 3 not in registry


def test_entry_points_of_the_group_are_merged_in(outsiders):
    outsiders += [EntryPoint("decimal", "decimal:Decimal", GROUP), EntryPoint("date", "datetime:date", "cbdm.another")]
    registry = a_registry()
    assert list(registry) == ["broken", "decimal", "fraction", "gone"]
    assert registry["decimal"].__name__ == "Decimal"


def test_a_distribution_that_is_installed_later_is_seen(tmp_path, monkeypatch):
    """What is declared is read once, until a folder that distributions are looked for in changes."""
    read = []
    monkeypatch.setattr(module, "entry_points", lambda group: read.append(group) or entry_points(group=group))
    monkeypatch.syspath_prepend(tmp_path)
    registry = a_registry()
    assert "decimal" not in registry and "decimal" not in registry and read == [GROUP]
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ndecimal = decimal:Decimal\n")
    os.utime(tmp_path, ns=(1, 1))  # clocks of file systems are coarse
    assert registry["decimal"].__name__ == "Decimal" and len(registry) == 4 and read == [GROUP] * 2
    shutil.rmtree(info)
    os.utime(tmp_path, ns=(2, 2))
    assert "decimal" not in registry and read == [GROUP] * 3


def test_a_name_declared_twice_is_refused(outsiders):
    """Whether ours comes first or theirs: neither takes the other's place silently; the same target twice is fine."""
    outsiders.append(EntryPoint("fraction", "fractions:Fraction", GROUP))
    assert a_registry()["fraction"] is Fraction
    outsiders.append(EntryPoint("fraction", "decimal:Decimal", GROUP))
    with pytest.raises(CbdmError, match="declared twice, as 'fractions:Fraction' and as 'decimal:Decimal'"):
        a_registry()["fraction"]


def test_an_unknown_name_says_the_closest_and_the_allowed():
    with pytest.raises(CbdmError) as caught:
        a_registry()["fractoin"]
    assert str(caught.value) == "unknown number 'fractoin': did you mean 'fraction'? allowed: broken, fraction, gone"


@pytest.mark.parametrize(("name", "target"), [("broken", "fractions:Nothing"), ("gone", "no_such:X")])
def test_an_entry_that_does_not_load_is_told_by_name_and_target(name, target):
    with pytest.raises(CbdmError, match=f"number '{name}' is registered as '{target}', which fails: "):
        a_registry()[name]


def test_errors_of_names_that_have_no_neighbour():
    assert closest("zzzz", ["power", "uniform"]) is None
    assert str(unknown_name("law", "zzzz", ["uniform", "power"])) == "unknown law 'zzzz': allowed: power, uniform"
    assert str(unknown_name("law", "a", [])) == "unknown law 'a': allowed: none"


def test_an_argument_that_is_missing_is_named():
    things = Registry("thing", GROUP, {"fraction": "fractions:Fraction", "point": "collections:Counter"})
    assert things.build("fraction", {"numerator": 3}) == 3
    with pytest.raises(CbdmError, match="thing 'partial' needs func"):
        Registry("thing", GROUP, {"partial": "tests.core.test_registry:needs_func"}).build("partial", {})


def needs_func(func, more=1):
    return func


def test_a_user_mistake_is_a_value_error():
    assert issubclass(CbdmError, ValueError)

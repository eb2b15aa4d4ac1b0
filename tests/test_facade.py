"""`import cbdm`: the working set in one flat namespace, lazily."""

import ast
import rlcompleter
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec

import pytest

import cbdm
from cbdm_core.adjustment import ADJUSTMENTS
from cbdm_core.data.sources import DATASETS
from cbdm_core.networks import NETWORKS
from cbdm_core.priors import PRIORS
from cbdm_core.samplers import SAMPLERS
from cbdm_core.schedules import SCHEDULES

REGISTRIES = (ADJUSTMENTS, DATASETS, NETWORKS, PRIORS, SAMPLERS, SCHEDULES)


def test_every_name_is_the_one_of_its_home():
    for name in cbdm.__all__[1:]:
        thing = getattr(cbdm, name)
        if hasattr(thing, "__qualname__"):  # a class or a function
            assert getattr(import_module(thing.__module__), name) is thing
        assert name in dir(cbdm)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)
def test_what_a_registry_names_is_there(registry):
    """The laws, adjustments, networks, samplers, schedules and data sets that a user composes."""
    missing = [name for name in registry if getattr(cbdm, registry[name].__name__, None) is not registry[name]]
    assert missing == ["published"] * (registry is NETWORKS)  # the published U-Net is made by `load_published`


def test_what_is_raised_and_warned_is_caught_by_its_name():
    with pytest.raises(cbdm.CbdmError, match="positive sum"):
        cbdm.Fixed([3, 0], 0, 0)
    with pytest.warns(cbdm.CbdmWarning, match=r"no training image: \[1\]"):
        cbdm.Fixed([3, 0], 1, 1)


def test_completion_offers_what_there_is():
    """A shell asks `dir` and type checkers the stub: both know every name, and each is there."""
    offered = [match for match in rlcompleter.Completer({"cbdm": cbdm}).attr_matches("cbdm.") if match[5] != "_"]
    names = {match.removeprefix("cbdm.").rstrip("()") for match in offered}
    assert {*cbdm.__all__} - {"__version__"} <= names
    tree = ast.parse((files("cbdm") / "__init__.pyi").read_text(encoding="utf-8"))
    told = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {*cbdm.__all__} - {"__version__"} == told - {None}


def test_no_name_is_hidden_by_a_module():
    """Importing a submodule sets it on the package, where it would stand in for a function of the same name."""
    assert [name for name in cbdm.__all__ if find_spec(f"cbdm.{name}")] == []


def test_the_version_is_that_of_the_distribution():
    assert cbdm.__version__ == version("cbdm")


def test_an_unknown_name_raises_as_python_does():
    with pytest.raises(AttributeError, match="no attribute 'Proces'"):
        _ = cbdm.Proces


def test_importing_it_costs_no_torch_until_a_name_is_used():
    code = (
        "import sys, cbdm; dir(cbdm), cbdm.__version__; before = 'torch' in sys.modules; cbdm.UNet; "
        "sys.exit(before or 'torch' not in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

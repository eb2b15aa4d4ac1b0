"""Damaged and forged files: every loader reads them or refuses them by one line, in time, and writes nowhere else.

2,000 examples, the same at every run; `python -m tests.faults.fuzz --n 100000` tries others.
"""

import time

import pytest

from cbdm_core.errors import CbdmError
from tests.cli.tiny import shared_classifiers
from tests.faults import fuzz
from tests.faults.fuzz import LOADERS, HangError, Material, within

EXAMPLES = 2_000


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CBDM_CACHE", str(shared_classifiers(tmp_path_factory.getbasetemp())))
        yield Material(tmp_path_factory.mktemp("material"))


@pytest.mark.parametrize("loader", LOADERS)
def test_no_file_does_more_than_be_refused(loader, material):
    refused, longest = fuzz.fuzz(loader, material, -(-EXAMPLES // len(LOADERS)), derandomize=True)
    assert refused > 50 and longest < fuzz.SECONDS


def broken(material, _):
    raise KeyError("a fault")


def advising(material, _):
    raise CbdmError("load it with weights_only=False")


def leaking(material, _):
    (material.base / "outside").write_text("x")


@pytest.mark.parametrize(("read", "fault"), [(broken, KeyError), (advising, AssertionError), (leaking, AssertionError)])
def test_the_fuzzer_sees_faults(monkeypatch, material, read, fault):
    monkeypatch.setitem(LOADERS, "npz", (LOADERS["npz"][0], read))
    with pytest.raises(fault):
        fuzz.fuzz("npz", material, 5, derandomize=True)
    (material.base / "outside").unlink(missing_ok=True)


@pytest.mark.parametrize("hang", [lambda: None, lambda: time.sleep(30)])
def test_the_fuzzer_sees_hangs(hang):
    """Those that work and those that wait."""
    with pytest.raises(HangError), within(1, patience=2):
        while True:
            hang()

"""What a bug report tells, and a self-check that sees what is wrong."""

import math

import pytest
import torch

from cbdm_cli import self_check
from cbdm_cli.self_check import Check
from cbdm_core.draws import Draws


def test_doctor_tells_the_machine_and_finds_nothing_wrong(run):
    code, out, err = run("doctor", "--device", "cpu")
    assert code == 0, out + err
    for words in (torch.__version__, "threads", "bfloat16", "torch.compile", "disk, cache", "free on cpu"):
        assert words in out
    assert out.count("as it should be") == 5 and "DIFFERS" not in out


def test_doctor_sees_wrong_draws(run, monkeypatch):
    right = Draws.uniform
    monkeypatch.setattr(Draws, "uniform", lambda self, purpose, *shape: right(self, purpose, *shape) + 1e-12)
    code, out, err = run("doctor", "--device", "cpu")
    assert code == 2 and "random draws" in err and "DIFFERS" in out and err.count("\n") == 1


def test_doctor_sees_a_part_that_fails(run, monkeypatch):
    def broken(*_):
        raise RuntimeError("no kernel\nC++ frames")

    monkeypatch.setattr(self_check, "save_checkpoint", broken)
    code, out, err = run("doctor", "--device", "cpu")
    assert code == 2 and "FAILS: RuntimeError: no kernel" in out and "C++" not in err and "checkpoint there" in err


@pytest.mark.parametrize(
    ("value", "tolerance", "good"), [(2.0, 0.0, True), (2.001, 1e-3, True), (2.01, 1e-3, False), (math.nan, 1.0, False)]
)
def test_a_check_is_relative(value, tolerance, good):
    assert Check("x", value, 2.0, tolerance).good is good

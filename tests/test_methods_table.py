"""The tables of docs/methods.md are what the code says, and what they count is what the formulas say."""

from __future__ import annotations

import ast

import pytest

from cbdm import ADJUSTMENTS, TrackedWeights
from cbdm_cli.method import BATCH_PARTS
from cbdm_core.oracle import GaussianMixtureOracle
from cbdm_core.schedules import Cosine
from tests.methods_table import (
    BATCHES,
    COMMAND,
    COUNTS,
    LOSS_PARTS,
    PAGE,
    ROOT,
    SAMPLED,
    counted,
    counted_step,
    rewritten,
)


def test_the_page_is_what_the_code_says():
    page = PAGE.read_text(encoding="utf-8")
    assert page == rewritten(page), f"docs/methods.md is not what the code says: run {COMMAND}"


def test_every_name_has_its_phrase_and_no_phrase_its_name_outlived():
    place = "LOSS_PARTS of tests/methods_table.py"
    assert set(LOSS_PARTS) == {*ADJUSTMENTS}, f"give the new part a phrase and a test in {place}"
    assert set(BATCHES) == {*BATCH_PARTS}


@pytest.mark.parametrize("test", [t for _, t in {**LOSS_PARTS, **BATCHES}.values()] + [m.test for m in SAMPLED])
def test_each_test_named_is_there(test):
    path, _, name = test.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, test


@pytest.mark.parametrize(
    ("name", "graph", "without"),
    [("reweight", "1", "0"), ("cbdm", "2", "0"), ("shrink", "1", "1"), ("diffrop", "1.9", "0"), ("capacity", "2", "0")],
)
def test_the_count_is_that_of_the_formula(name, graph, without):
    """By hand: γ = ¼ keeps a graph of the other pass, shrinkage of none; diffrop leaves out about 1 in 10 rows."""
    assert (counted(name).with_graph, counted(name).without) == (graph, without)


def test_tracked_weights_cost_what_they_say():
    for number, method in enumerate(SAMPLED):
        sampler = method.build(GaussianMixtureOracle.ring(Cosine(), counts=COUNTS))[1]
        if isinstance(sampler, TrackedWeights):
            assert counted_step(number) == str(sampler.evaluations)

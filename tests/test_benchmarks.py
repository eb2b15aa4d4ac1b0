"""The benchmarks' page holds what their result file holds, and every route that is timed says the same."""

from __future__ import annotations

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cbdm_core.draws import Draws

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results" / "metrics.json"


def program(name):
    """A benchmark as a module; it is a program, not part of a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench():
    return program("metrics")


@pytest.fixture
def steps(monkeypatch):
    """It imports its neighbour, as programs in one folder do."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return program("steps")


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return program("training")


@pytest.fixture
def activations(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return program("activations")


@pytest.fixture
def together(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return program("together")


@pytest.fixture
def optimisers(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return program("optimisers")


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULTS.read_text())


def test_the_page_holds_the_table_of_the_results(bench, results):
    """`python benchmarks/metrics.py` prints both for the page."""
    page = PAGE.read_text(encoding="utf-8")
    assert bench.page(results) in page and bench.memory_page(results) in page
    told = [f"{row['inertia_ratio']:.3f}" for row in results["prd"]]
    assert f"is {told[0]}, {told[1]} and {told[2]} of theirs" in " ".join(page.split())


def test_fid_routes_agree(bench):
    (row,) = bench.fid(n=60, D=8, pairs=3)
    assert row["ours"] > 0 and row["difference"] < 1e-9
    by_round = [theirs / ours for ours, theirs in zip(row["ours_seconds"], row["theirs_seconds"], strict=True)]
    assert len(by_round) == 3 and row["ratio"] == pytest.approx(statistics.median(by_round), abs=0.01)


@pytest.mark.parametrize(("D", "spread"), [(8, 1.1), (600, 0.97)])  # both ways to find neighbours
def test_recall_routes_agree(bench, D, spread):
    rows = bench.recall(n=60, D=D, pairs=1, spread=spread)
    assert [row["route"] for row in rows] == ["full matrices, float64", "full matrices, float32", "package prdc"]
    assert 0 < rows[0]["ours"][1] < 1  # a case in which something is at stake
    assert all(row["difference"] == 0 for row in rows)


def test_prd_routes_agree(bench):
    """60 rows a set in 20 clusters: F of one clustering moves by about 0.03, of 10 by 0.01; held to 0.05."""
    (row,) = bench.prd(n=60, D=8, pairs=1)
    assert row["difference"] < 0.05
    assert row["inertia_ratio"] < 1.05


def test_inertia_by_hand(bench):
    rows = np.array([[0.0], [2.0], [10.0], [10.0], [13.0]])
    assert bench.inertia(rows, np.array([1, 1, 0, 0, 0])) == pytest.approx(2 + 1 + 1 + 4)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_memory_is_that_of_a_fresh_process(bench):
    row = bench.memory(n=60, D=8)
    assert (row["n"], row["D"]) == (60, 8)
    assert 0 <= row["bytes"] < 50e6
    assert all(0 < score < 3 for score in row["scores"])


def test_the_page_holds_the_table_of_the_steps(steps):
    """`python benchmarks/steps.py` prints it for the page."""
    assert steps.page(json.loads(steps.RESULTS.read_text())) in PAGE.read_text(encoding="utf-8")


def test_routes_of_labels_are_timed_against_one_law(steps):
    """It says so itself where both routes of ours do not give the same labels."""
    rows = [(row["what"], row["route"]) for row in steps.labels(7, pairs=1, times=1)]
    one, four = ("a label of 64 × 7 classes", "four labels of 64 × 7 classes")
    assert rows == [(one, "a law for each row"), (one, "torch.multinomial"), (four, "a law for each row")]


def test_the_page_holds_the_table_of_training_steps(training):
    """`python benchmarks/training.py` prints it for the page."""
    assert training.page(json.loads(training.RESULTS.read_text())) in PAGE.read_text(encoding="utf-8")


def test_every_method_is_timed_on_training_that_goes_on(training):
    """A route that stood still, or a method that is no method, would be timed all the same."""
    state, batches = training.started(*training.METHODS[training.QUARTER])
    training.go_on(state, batches)
    training.go_on(state, batches)
    assert state.step == 2 * training.STEPS
    assert {row["method"] for row in json.loads(training.RESULTS.read_text())["rows"]} == training.METHODS.keys()


def test_routes_of_normals_agree_to_the_bit(steps):
    draws = Draws(3, 2, torch.arange(5) + 2**33)
    assert torch.equal(draws.normal("z", 7), steps.plain_normal(draws, 7))


@pytest.mark.parametrize("omega", [0.0, 1.0])
def test_routes_of_ddim_take_the_same_steps(steps, omega):
    """Their grid is one point of a thousand apart from ours: to 1e-3 of samples within their clip."""
    x = 0.1 * torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = steps.our_ddim(omega)(x)
    torch.testing.assert_close(steps.published_ddim(x, omega), ours, atol=0, rtol=1e-3)
    assert not torch.allclose(ours, x, rtol=0.1)


def test_routes_of_ancestral_sampling_draw_from_the_same_distribution(steps):
    """200,000 numbers each, from grids that are 50 points of a thousand apart at most: mean and scale to 0.02."""
    x = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ours, theirs = steps.our_ancestral(x), steps.published_ancestral(x)
    assert abs(float(ours.mean() - theirs.mean())) < 0.02
    assert float(ours.std() / theirs.std()) == pytest.approx(1, abs=0.02)


def test_the_page_holds_the_table_of_the_activations(activations):
    """`python benchmarks/activations.py` prints it for the page."""
    assert activations.page(json.loads(activations.RESULTS.read_text())) in PAGE.read_text(encoding="utf-8")


def test_the_page_holds_the_table_of_labels_in_a_pass(together):
    """`python benchmarks/together.py` prints it for the page."""
    assert together.page(json.loads(together.RESULTS.read_text())) in PAGE.read_text(encoding="utf-8")


def test_labels_in_a_pass_are_measured_against_a_pass_for_each(together, monkeypatch):
    network = {"width": 8, "multipliers": [1, 2], "attention": [1], "blocks": 1, "dropout": 0.1, "groups": 4}
    monkeypatch.setattr(together, "SIZES", {(16, 1, 8, 8): network})
    rows = together.compared((16, 1, 8, 8), "all", 0.25, pairs=1)
    assert [row["together"] for row in rows] == [1, 2, 10] and rows[0]["ratio"] == 1


def test_a_pass_done_again_is_held_one_at_a_time(activations, monkeypatch):
    """Two passes of eleven, and what a gradient takes; what is kept is below the peak, and more than half of it."""
    network = {"width": 8, "multipliers": [1, 2], "attention": [1], "blocks": 1, "dropout": 0.1, "groups": 4}
    monkeypatch.setattr(activations, "SIZES", {(16, 1, 8, 8): network})
    rows = {row["route"]: row for row in activations.compared(16, 1, 8, 8, pairs=1)}
    whole = rows["all are kept"]
    assert whole["peak"] / 2 < whole["kept"] < whole["peak"]
    assert rows["both"]["peak"] < rows["`recompute`"]["peak"] < 0.35 * whole["peak"]


def test_the_page_holds_the_table_of_the_optimisers(optimisers):
    """`python benchmarks/optimisers.py` prints it for the page; the rates and times of a step stand below it."""
    kept, page = json.loads(optimisers.RESULTS.read_text()), PAGE.read_text(encoding="utf-8")
    assert optimisers.page(kept) in page and optimisers.costs_page(kept) in page


def test_the_rates_of_the_optimisers_are_the_best_of_those_tried_with_both_neighbours(optimisers):
    kept = json.loads(optimisers.RESULTS.read_text())
    for network, rates in kept["rates"].items():
        for name, rate in rates.items():
            runs = [run for run in kept["runs"] if (run["network"], run["optimiser"]) == (network, name)]
            tried = {run["rate"]: run["held out"][0] for run in runs if run["seed"] == optimisers.CHOSEN_ON}
            assert {rate / 2, rate, 2 * rate} <= tried.keys() and tried[rate] == min(tried.values())
            of_seeds = {run["seed"]: run["rate"] for run in runs if run["seed"] != optimisers.CHOSEN_ON}
            assert of_seeds == dict.fromkeys(optimisers.SEEDS, rate)


def test_a_rate_is_searched_until_its_neighbours_are_worse(optimisers):
    asked = []
    assert optimisers.best(lambda rate: asked.append(rate) or abs(rate - 9.0), first=2.0) == 8.0
    assert asked == [2.0, 1.0, 4.0, 8.0, 16.0]


def test_a_paired_change_by_hand(optimisers):
    """Changes of 0, 10 and 20 percent: their deviation is 10 percent."""
    found = optimisers.paired([1.0, 2.2, 1.2], [1.0, 2.0, 1.0])
    assert (found.mean, found.half_width) == pytest.approx((0.1, 4.3026527 * 0.1 / 3**0.5), rel=1e-6)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_rivals_are_trained_from_the_same_start(optimisers, monkeypatch, name):
    """Losses fall, and those before the first step are equal."""
    monkeypatch.setattr(optimisers, "LEVELS", 2)
    monkeypatch.setattr(optimisers, "QUERIES", 2)
    start, _ = (optimisers.losses("DiT", other, 2e-3, 0, (0,)) for other in ("adamw", "muon"))
    found = optimisers.losses("DiT", name, 2e-3, 0, (0, 8))
    assert [found[images][0] for images in found] == [start[images][0] for images in found]
    assert all(after < before for before, after in found.values())

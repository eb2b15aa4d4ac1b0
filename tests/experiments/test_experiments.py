"""What the pages say was measured is what the experiments' result files hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import energy_distance, ttest_rel

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "experiments.md"
RESULTS = ROOT / "experiments" / "results" / "mixture.json"


@pytest.fixture(scope="module")
def mixture(programs):
    return programs["mixture"]


def test_the_page_holds_the_tables_of_the_results(mixture):
    """`python experiments/mixture.py` prints the tables for the page."""
    table, page = json.loads(RESULTS.read_text()), PAGE.read_text(encoding="utf-8")
    assert mixture.page(table) in page and mixture.pairs_page(table) in page


def test_energy_distance_is_scipys_in_one_dimension(mixture):
    """scipy's is the root of it, with pairs of a point and itself counted: E|X − X'| is (n − 1)/n of ours."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(60, 1)), random.normal(0.7, 2, size=(50, 1))
    ours = mixture.energy_distance(torch.from_numpy(x), torch.from_numpy(y))
    within = [np.abs(z - z.T).sum() / (len(z) * (len(z) - 1)) for z in (x, y)]
    theirs = energy_distance(x[:, 0], y[:, 0]) ** 2 - within[0] / len(x) - within[1] / len(y)
    assert ours == pytest.approx(theirs, rel=1e-10)


def test_energy_distance_of_one_law_is_0_on_average(mixture):
    """Unbiased: 200 pairs of samples of one law, to 4 standard errors."""
    g = torch.Generator().manual_seed(0)
    found = [
        mixture.energy_distance(torch.randn(20, 2, generator=g), torch.randn(30, 2, generator=g)) for _ in range(200)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(200)


def test_intervals_are_students(mixture):
    a, b = [0.3, 0.1, 0.5, 0.2, 0.4], [0.1, 0.2, 0.2, 0.1, 0.1]
    mean, half = mixture.interval([x - y for x, y in zip(a, b)])
    low, high = ttest_rel(a, b).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-12)


def test_omega_is_picked_on_the_mean_over_seeds_and_differences_are_paired(mixture):
    """Two seeds that like different ω: the mean decides, and the same ω serves every group."""

    def found(at_0, at_1):
        return {"0": [at_0] * 10, "1": [at_1] * 10}

    records = [
        ("ddpm", {"seed": s, "steps": 1, "seconds": 2.0, "distance": {"ddpm": d}})
        for s, d in ((0, found(1.0, 5.0)), (1, found(3.0, 2.0)))
    ] + [
        ("h2t", {"seed": s, "steps": 1, "seconds": 3.0, "distance": {"h2t": d}})
        for s, d in ((0, found(0.5, 9.0)), (1, found(2.0, 0.0)))
    ]
    plain, other = mixture.summary(records)["rows"]
    assert (plain["omega"], plain["all"]["mean"][0]) == ("0", 2.0)
    assert (other["omega"], other["cost"]) == ("0", 1.5)
    assert other["rare"]["difference"][0] == pytest.approx((-0.5 - 1.0) / 2)

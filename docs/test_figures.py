"""Each committed figure shows the numbers that its module computes, and says so in words."""

from __future__ import annotations

import math

import pytest

from docs.figures import NAMES, figure
from docs.figures.drawing import HERE, read
from docs.figures.tail_posterior import crossing


def close(one, other, path=""):
    """Names and texts alike; numbers to 1e-4, relative to the larger or to 1e-6."""
    assert type(one) is type(other) or {type(one), type(other)} <= {int, float}, path
    if isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            close(one[key], other[key], f"{path}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for place, (a, b) in enumerate(zip(one, other, strict=True)):
            close(a, b, f"{path}/{place}")
    elif isinstance(one, float):
        assert math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6), f"{path}: {one} and {other}"
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def committed():
    return {name: read(figure(name).file) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_shows_its_numbers(name, committed):
    facts, alt, _ = committed[name]
    close(facts["numbers"], figure(name).numbers())
    again = f"python -m docs.figures {name}"
    assert alt == figure(name).alt(facts["numbers"]) and len(alt) > 100, again
    assert (facts["caption"], facts["source"]) == (figure(name).caption, figure(name).source()), again


def test_every_drawing_has_its_module():
    assert sorted(NAMES) == sorted(path.stem for path in HERE.glob("*.svg"))


def test_no_drawing_has_an_ink_of_its_own(committed):
    """Text and axes are in the page's colour, so that they are seen in light and dark."""
    for name, (_, _, svg) in committed.items():
        assert "currentColor" in svg and "#0b0c0d" not in svg and "fill: #ffffff" not in svg, name


def test_the_tail_turns_late(committed):
    """What the page says of it: at high noise the rarest class is improbable along its own trajectory."""
    numbers = committed["tail_posterior"][0]["numbers"]
    assert numbers["posterior"][-1][0] < 0.05 < 0.3 < crossing(numbers) < 0.6


def test_the_two_areas_of_the_divergence_are_one(committed):
    numbers = committed["marginal_divergence"][0]["numbers"]
    assert numbers["area"] == pytest.approx(numbers["area of the weighted fall"], abs=2e-3)


def test_weights_of_a_row_sum_to_1(committed):
    for tables in committed["mixing_weights"][0]["numbers"].values():
        for table in tables:
            assert all(sum(row) == pytest.approx(1, abs=3e-4) and min(row) >= 0 for row in table)


def test_cbdm_under_the_null_law_is_the_plain_model_under_its_schedule(committed):
    numbers = committed["densities"][0]["numbers"]
    close(numbers["CBDM, null law"], numbers["plain, ω_eff(t)"])
    assert numbers["CBDM, uniform law"]["mean"] < numbers["CBDM, training law"]["mean"] < numbers["plain, ω"]["mean"]


def test_least_risks_are_at_the_marks(committed):
    numbers = committed["shrinkage_risk"][0]["numbers"]
    for name, curve in numbers["risk"].items():
        at, least = numbers["least"][name]
        assert least <= min(curve) + 1e-9 and numbers["lambda"][curve.index(min(curve))] == pytest.approx(at, rel=0.06)


def test_descent_arrives_for_every_gamma_and_nothing_collapses(committed):
    numbers = committed["descent"][0]["numbers"]
    close(numbers["γ = 1"], numbers["no stop-gradient"])
    for name in ("γ = 0", "γ = ¼", "γ = 1"):
        distance, spread = numbers[name]["distance"], numbers[name]["spread"]
        assert distance[-1] < 0.02 * distance[0] and spread[-1] > 1


def test_the_learned_law_is_at_its_fixed_point(committed):
    numbers = committed["learned_law"][0]["numbers"]
    assert [path[-1] for path in numbers["path"]] == pytest.approx(numbers["fixed point"], abs=2e-4)


def test_the_distance_of_few_samples_is_its_bias(committed):
    """Measured and first order agree to a fifth; copies alone have none."""
    numbers = committed["metric_bias"][0]["numbers"]
    assert numbers["by size"] == pytest.approx(numbers["expected"], rel=0.2)
    assert numbers["by copies"] == sorted(numbers["by copies"], reverse=True) and numbers["by copies"][-1] < 1e-6


def test_adjusted_samples_are_even(committed):
    numbers = committed["adjusted_shares"][0]["numbers"]
    assert numbers["plain null"][0] > 0.6
    for name in ("mixture score", "tracked weights"):
        assert all(abs(share - 0.25) < 0.08 for share in numbers[name])

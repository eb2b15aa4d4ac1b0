"""Curves of the tail compared at one recall, and the tables of them, worked out by hand."""

import importlib
import math

import pytest


@pytest.fixture(scope="module")
def tables(programs):
    return importlib.import_module("tail_tables")


def test_a_curve_is_read_between_its_points(tables):
    points = [(0.9, 3.0, 0.1), (0.8, 2.0, 0.2), (0.6, 2.5, 0.4), (0.7, 1.0, 0.5)]
    assert tables.at_recall(points, 0.9) == (3.0, 0.1)
    assert tables.at_recall(points, 0.85) == pytest.approx((2.5, 0.15))
    assert tables.at_recall(points, 0.65) == pytest.approx((1.75, 0.45))  # of two crossings the lower
    assert tables.at_recall(points, 0.95) is None and tables.at_recall(points[:1], 0.9) is None


def made(factor, copies, seeds=4):
    """Curves whose tail FID is `factor` times e^{10 (recall − ½)}, with 1 % noise that pairs share."""
    by_omega = {}
    for omega, recall in zip(("0", "0.5", "1"), (0.96, 0.86, 0.7)):
        fid = [factor * math.exp(10 * (recall - 0.5)) * (1 + 0.01 * seed) for seed in range(seeds)]
        by_omega[omega] = {"tail recall": [recall] * seeds, "tail fid": fid, "tail copies": [copies] * seeds}
    return {"1000": by_omega}


def test_the_ratio_at_one_recall_is_that_of_the_curves(tables):
    result = {"methods": {"ddpm": made(1.0, 0.02), "mine": made(0.8, 0.05)}}
    ratio, mine, plain = tables.ratios(result, "mine", 1000, 0.8)
    assert ratio.mean == pytest.approx(math.log(0.8)) and ratio.half_width == pytest.approx(0, abs=1e-9)
    assert (mine, plain) == pytest.approx((0.05, 0.02))
    assert tables.ratios(result, "mine", 1000, 0.99) is None
    two = {"methods": {"ddpm": made(1.0, 0.02), "mine": made(0.8, 0.05, seeds=2)}}
    assert tables.ratios(two, "mine", 1000, 0.8) is None


def test_a_schedule_of_the_plain_model_counts_where_it_is_better(tables):
    """Half the FID at the same recall under ω_eff(t): the method's own ratio is then 1.6, not 0.8."""
    plain = made(1.0, 0.02)
    implied = {f"implied:{o}": v for o, v in made(0.5, 0.02)["1000"].items() if o != "0"}
    plain["1000"] |= implied
    plain["1000"]["implied:0.5"]["tail recall"] = [0.9] * 4
    plain["1000"]["implied:0.5"]["tail fid"] = [0.5 * math.exp(10 * 0.4)] * 4
    result = {"methods": {"ddpm": plain, "mine": made(0.8, 0.05)}}
    assert tables.ratios(result, "mine", 1000, 0.8)[0].mean > math.log(1.2)


def test_within_a_budget_of_copies_the_least_tail_fid_counts(tables):
    """Tail FID e^{10 (recall − ½)} at recall .96, .86, .7: what is asked of recall and copies moves the choice."""
    result = {"methods": {"ddpm": made(1.0, 0.02), "mine": made(0.8, 0.07, seeds=3)}}
    plain, mine = tables.budget_table(result).splitlines()[2:]
    mean = 1.015 * math.exp(4.6), 1.015 * math.exp(3.6), 0.8 * 1.01 * math.exp(3.6)
    assert plain.startswith(f"| `ddpm` | 4 | {mean[0]:.1f} (1000, ω 0) | ")
    assert plain.endswith(
        f"| {mean[1]:.1f} (1000, ω 0.5) | {mean[1]:.1f} (1000, ω 0.5) | {mean[1]:.1f} (1000, ω 0.5) |"
    )
    cells = [cell.strip() for cell in mine.split("|")[3:8]]
    assert cells[0] == cells[2] == "–" and cells[3] == cells[4] == f"{mean[2]:.1f} (1000, ω 0.5)"


def test_what_cbdm_adds_is_against_the_same_law_without_it(tables):
    """One point of copies fewer in each of three seeds, at every pair of lengths."""

    def curves(copies):
        row = {name: [1.0, 2.0, 3.0] for name in ("fid", "tail fid", "tail recall")} | {"tail copies": copies}
        return {str(length): {"0": row} for length in (1000, 2000, 3000)}

    names = ("resample:uniform@0.2", "cbdm:null+resample:uniform@0.2")
    digits = {names[0]: curves([0.02] * 5)}
    pulled = {"ddpm": curves([0.0] * 3), names[1]: curves([0.01] * 3)}
    lines = tables.above_table({"methods": pulled}, {"methods": digits}).splitlines()[2:]
    assert [line.split("|")[2:4] for line in lines] == [[f" {a} ", f" {b} "] for a, b in tables.ABOVE]
    assert all(line.endswith("| +0.00 ± 0.00 | **−1 ± 0** |") for line in lines)


def test_what_the_readme_gives_is_worked_out_from_the_curves(tables):
    """Five seeds that differ by 1 … 5 in FID at the best ω: 3 ± t·√2.5/√5, and copies of 10 % in every run."""

    def curves(fid):
        row = {"fid": fid, "tail fid": fid, "tail recall": [0.5] * 5, "tail copies": [0.1] * 5}
        higher = {**row, "fid": [value + 1 for value in fid]}
        return {str(length): {"0": row, "1": higher} for length in (500, 1000, 2000, 3000)}

    names = ("resample:uniform", "resample:uniform@0.2")
    methods = {"ddpm": curves([9.0] * 5), **dict.fromkeys(names, curves([10.0, 11.0, 12.0, 13.0, 14.0]))}
    width = 2.7764451 * math.sqrt(2.5 / 5)
    told = tables.readme_figures({"methods": methods})
    assert told == ["10, 10, 10, 10 %", f"(3.0 ± {width:.1f})", f"(3.00 ± {width:.2f})", f"(3.0 ± {width:.1f})"]


def test_steps_are_read_between_lengths_on_a_logarithm(tables):
    """From 500 to 2,000 steps FID falls from 8 to 4: it is 6 at 1,000; what is never reached is not guessed."""
    assert tables.steps_to((500, 2000), (8.0, 4.0), 6.0) == pytest.approx(1000)
    assert tables.steps_to((500, 1000, 2000), (8.0, 9.0, 4.0), 9.0) == 500
    assert tables.steps_to((500, 1000), (8.0, 5.0), 4.9) is None


def test_the_cost_to_a_quality_is_steps_times_the_cost_of_one(tables):
    def curves(*fids):
        return {str(length): {"0": {"fid": f, "tail fid": f}} for length, f in zip((500, 2000), fids, strict=True)}

    methods = {"ddpm": curves([8.0] * 3, [6.0] * 3), "mine": curves([8.0] * 3, [4.0] * 3)}
    methods |= {"slow": curves([9.0] * 3, [7.0, 5.0, 5.0]), "quick": curves([6.0, 5.0, 4.0], [4.0] * 3)}
    costs = {"mine": 1.5, "slow": 1.0, "quick": 2.0}
    lines = {line.split("`")[1]: line for line in tables.cost_table({"methods": methods}, costs).splitlines()[2:]}
    assert lines["mine"] == "| `mine` | 1.50 | 0.75 [0.75, 0.75] | 0.75 [0.75, 0.75] |"  # 1,000 of 2,000 steps
    assert lines["slow"].count("not reached by 1 of 3 seeds") == 2
    assert lines["quick"].count("≤ 0.50 [0.50, 0.50]") == 2


def test_a_result_of_fewer_steps_and_one_of_more_are_joined_where_both_have_a_method_and_a_seed(tables):
    def curves(length, *fids):
        return {length: {"0": {"fid": list(fids)}}}

    shorter = {"methods": {"ddpm": curves("5", 8.0, 9.0), "t2h": curves("5", 7.0)}}
    longer = {"counts": [3], "methods": {"ddpm": curves("9", 6.0, 5.0, 4.0), "h2t": curves("9", 1.0)}}
    assert tables.joined(shorter, longer) == {
        "counts": [3],
        "methods": {"ddpm": curves("5", 8.0, 9.0) | curves("9", 6.0, 5.0)},
    }
